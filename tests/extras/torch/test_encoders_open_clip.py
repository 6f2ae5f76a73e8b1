"""open_clip's models after conversion, against open_clip itself; skipped where it is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_encoders_clip import decoded, options, photographs

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders import registry
from cliploom.transforms.encoders.agreement import smallest_cosine
from cliploom.transforms.encoders.prepare import prepare_model

open_clip = pytest.importorskip("open_clip")

SENTENCES = ["a cat", "it\u2019s a \u201cdog\u201d & cat's   toy!", "Zürich naïve 123", "x " * 50, ""]
MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}


def tiny(folder: Path, resize: str, name: str) -> None:
    """Write a random model as open_clip publishes its own."""
    folder.mkdir()
    pictures = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": resize}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": pictures}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    torch.save(model.state_dict(), folder / name)


@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_photographs_and_sentences_agree_with_open_clip(tmp_path: Path, resize: str) -> None:
    tiny(tmp_path / "model", resize, "open_clip_pytorch_model.bin")
    name = f"local-dir:{tmp_path / 'model'}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    folder, card = prepare_model("clip", options(model=name), tmp_path / "models")
    assert card.preprocess is not None
    with torch.no_grad():
        pictures = torch.stack([transform(Image.open(path)) for path in photographs()])
        images = model.eval().encode_image(pictures, normalize=True).numpy()
        texts = model.encode_text(open_clip.get_tokenizer(name)(SENTENCES), normalize=True).numpy()
    rows: list[Any] = registry.load(folder).encode([decoded(path, card.preprocess) for path in photographs()])
    assert smallest_cosine(np.stack([row["image"] for row in rows]), images) >= 0.999
    assert smallest_cosine(registry.load_text_tower(folder)(SENTENCES), texts) >= 0.99999


def test_a_checkpoint_is_beside_its_configuration(tmp_path: Path) -> None:
    tiny(tmp_path / "model", "shortest", "epoch_9.pt")
    _, card = prepare_model("clip", options(model=str(tmp_path / "model" / "epoch_9.pt")), tmp_path / "models")
    assert "epoch_9.pt" in card.sources
    (tmp_path / "model" / "open_clip_config.json").unlink()
    with pytest.raises(CliploomError, match=r"no open_clip_config\.json"):
        prepare_model("clip", options(model=str(tmp_path / "model" / "epoch_9.pt")), tmp_path / "models")
