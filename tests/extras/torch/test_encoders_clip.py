"""CLIP, SigLIP and SigLIP2 after conversion, against transformers' own pipeline from the picture's file on."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import command
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)
from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

from cliploom.schemas.errors import CliploomError, EncodeError
from cliploom.schemas.media import MediaLimits, Preprocess
from cliploom.schemas.models import ModelCard
from cliploom.schemas.sampling import Every
from cliploom.transforms.encoders import registry
from cliploom.transforms.encoders.agreement import smallest_cosine
from cliploom.transforms.encoders.clip_folder import picture_settings
from cliploom.transforms.encoders.patches import resized
from cliploom.transforms.encoders.prepare import model_digest, prepare_model
from cliploom.transforms.encoders.text import TextTower
from cliploom.transforms.media.decode import DecodeReport, Request, decode
from cliploom.transforms.media.probe import probe
from cliploom.transforms.media.scale import patch_grid

SENTENCES = ["a cat on a mat", "dog", "Two Dogs, a cat; and the owner of all of them " * 4, "", "naïve café"]
WORDS = sorted({word for text in SENTENCES for word in text.lower().replace(",", "").replace(";", "").split()})
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def clip_tokenizer() -> CLIPTokenizer:
    letters = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(letters)}
    return CLIPTokenizer(vocab=vocabulary, merges=[("c", "a"), ("ca", "t</w>")], model_max_length=16)


def letter_tokenizer() -> Siglip2Tokenizer:
    """Letters, filled up on the left."""
    specials = {token: number for number, token in enumerate(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))}
    letters = {letter: len(specials) + number for number, letter in enumerate(f"\u2581{LETTERS}")}
    return Siglip2Tokenizer(vocab=specials | letters, merges=[], model_max_length=16)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Words, an end of sentence that also fills up, no beginning: as SigLIP's."""
    words = ["<pad>", "</s>", "<unk>", *WORDS]
    built = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    built.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(",", "")])
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token="</s>", eos_token="</s>", unk_token="<unk>", model_max_length=16
    )


def towers(tokenizer: Any, size: int, **vision: Any) -> dict[str, Any]:
    shared = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 32}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return {
        "text_config": shared | text | ends | {"pad_token_id": tokenizer.pad_token_id},
        "vision_config": shared | {"image_size": size, "patch_size": 8} | vision,
    }


def sharpen(model: torch.nn.Module) -> None:
    """Larger random weights, so that what is different in a picture shows in its vector."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embedding" in name and weight.dim() > 1:
                weight.mul_(6)


def tiny(family: str, folder: Path) -> tuple[Any, Any, Any]:
    """Write a random model of a real class; gives model, image processor and tokenizer of transformers."""
    torch.manual_seed(5)
    tokenizer: Any = {"clip": clip_tokenizer, "siglip": word_tokenizer, "siglip2": letter_tokenizer}[family]()
    processor: Any
    if family == "clip":
        model: Any = CLIPModel(CLIPConfig(projection_dim=24, **towers(tokenizer, 48)))
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, do_convert_rgb=True
        )
    elif family == "siglip":
        model = SiglipModel(SiglipConfig(**towers(tokenizer, 48)))
        processor = SiglipImageProcessorPil(size={"height": 48, "width": 48}, do_convert_rgb=True)
    else:
        model = Siglip2Model(Siglip2Config(**towers(tokenizer, 48, num_patches=36)))
        processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=36)
    sharpen(model)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, processor, tokenizer


@dataclass(frozen=True)
class Converted:
    """A tiny model of a family, converted once for the tests that only read it.

    Attributes:
        folder: the model as transformers keeps it; do not change it.
        converted: what cliploom made of it, with its card.
    """

    model: Any
    processor: Any
    tokenizer: Any
    folder: Path
    converted: Path
    card: ModelCard


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Converted]:
    """The converted model of a family: each conversion starts a process that imports torch and transformers."""

    @cache
    def convert(family: str) -> Converted:
        folder = tmp_path_factory.mktemp(family)
        model, processor, tokenizer = tiny(family, folder / "model")
        converted, card = prepare_model("clip", options(model=str(folder / "model"), batch=2), folder / "models")
        return Converted(model, processor, tokenizer, folder / "model", converted, card)

    return convert


def unit(found: Any) -> np.ndarray:
    vectors = getattr(found, "pooler_output", found).detach().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def photographs() -> list[Path]:
    found = []
    for package, name in (
        ("skimage", "data/chelsea.png"),
        ("skimage", "data/coffee.png"),
        ("skimage", "data/rocket.jpg"),
        ("skimage", "data/motorcycle_left.png"),
        ("sklearn", "datasets/images/china.jpg"),
        ("sklearn", "datasets/images/flower.jpg"),
    ):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        found.append(Path(next(iter(spec.submodule_search_locations))) / name)
    return found


def options(**values: Any) -> Any:
    return registry.family("clip").Options.model_validate(values)


def decoded(path: Path, want: Preprocess) -> np.ndarray:
    """A picture as a run decodes it for an encoder."""
    samples = decode(path, probe(path, MediaLimits()), [Request(Every(every="1s"), want)], None, DecodeReport())
    pixels = next(iter(samples)).pixels
    assert isinstance(pixels, np.ndarray)
    return pixels


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
def test_photographs_agree_with_transformers_from_file_to_vector(
    shared: Callable[[str], Converted], family: str
) -> None:
    made = shared(family)
    model, processor, folder, card = made.model, made.processor, made.converted, made.card
    assert min(card.agreement.values()) >= 0.99999
    assert set(card.agreement) == {"image", "text"}
    assert card.preprocess is not None
    pictures = [Image.open(path) for path in photographs()]
    with torch.no_grad():
        wanted = unit(model.get_image_features(**processor(pictures, return_tensors="pt")))
    rows = registry.load(folder).encode([decoded(path, card.preprocess) for path in photographs()])
    found = np.stack([row["image"] for row in rows])  # type: ignore[index]
    assert smallest_cosine(found, wanted) >= 0.999
    # the test would notice: pictures of the same vectors would agree whatever is done to them
    assert np.sort((wanted @ wanted.T).ravel())[0] < 0.99
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
def test_sentences_agree_with_transformers(shared: Callable[[str], Converted], family: str) -> None:
    made = shared(family)
    model, tokenizer, folder = made.model, made.tokenizer, made.converted
    padding: Any = True if family == "clip" else "max_length"
    asked = tokenizer(SENTENCES, padding=padding, truncation=True, max_length=16, return_tensors="pt")
    if family != "clip":
        asked = {"input_ids": asked["input_ids"]}
    with torch.no_grad():
        wanted = unit(model.get_text_features(**asked))
    found = registry.load_text_tower(folder)(SENTENCES)
    assert smallest_cosine(found, wanted) >= 0.99999
    assert np.sort((wanted @ wanted.T).ravel())[0] < 0.99
    tower = TextTower(folder, "f32")
    ids = tower._tokens(SENTENCES, None, "")
    pad = tower.settings.pad_id
    assert [[token for token in mine if token != pad] for mine in ids] == [
        [token for token in row if token != pad] for row in asked["input_ids"].tolist()
    ]


@given(st.integers(8, 3000), st.integers(8, 3000), st.sampled_from([(16, 256), (14, 729), (8, 36), (16, 250)]))
def test_grids_of_patches_are_those_of_transformers(width: int, height: int, shape: tuple[int, int]) -> None:
    patch, most = shape
    found = patch_grid(width, height, patch, most)
    assert (found[1] * patch, found[0] * patch) == get_image_size_for_max_num_patches(height, width, patch, most)


@pytest.mark.parametrize("size", [(3, 12), (16, 16), (1, 36), (7, 5), (18, 14)])
def test_positions_are_resized_as_torch_resizes_them(size: tuple[int, int]) -> None:
    grid = np.random.default_rng(1).standard_normal((16, 16, 4)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(grid).permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=False, antialias=True
    )
    np.testing.assert_allclose(resized(grid, *size), wanted[0].flatten(1).T.numpy(), atol=1e-5)


def test_pictures_that_are_not_whole_patches_fail_alone(shared: Callable[[str], Converted]) -> None:
    folder = shared("siglip2").converted
    sizes = [(48, 48), (50, 48), (48, 56), (8, 288), (0, 8)]
    given_pictures = [np.full((*size, 3), 90, np.uint8) for size in sizes]
    rows: list[Any] = registry.load(folder).encode([*given_pictures, "text"])
    assert [isinstance(row, EncodeError) for row in rows] == [False, True, True, False, True, True]
    alone: Any = registry.load(folder).encode([given_pictures[3]])[0]
    np.testing.assert_array_equal(alone["image"], rows[3]["image"])


def test_the_text_tower_by_itself_is_a_text_encoder_of_the_same_space(
    shared: Callable[[str], Converted], tmp_path: Path
) -> None:
    made = shared("clip")
    both, card = made.converted, made.card
    alone, of_text = prepare_model("clip", options(model=str(made.folder), batch=2, tower="text"), tmp_path / "models")
    assert of_text.modality == "text"
    assert of_text.outputs["embedding"].space == card.outputs["image"].space
    rows = registry.load(alone).encode(SENTENCES)
    np.testing.assert_array_equal(
        np.stack([row["embedding"] for row in rows]),  # type: ignore[index]
        registry.load_text_tower(both)(SENTENCES),
    )
    assert not (alone / "model.xml").exists()


def test_a_folder_of_sentence_transformers_is_the_model_inside(tmp_path: Path) -> None:
    model, _, tokenizer = tiny("clip", tmp_path / "outer" / "0_CLIPModel")
    modules = [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]
    (tmp_path / "outer" / "modules.json").write_text(json.dumps(modules))
    folder, _ = prepare_model("clip", options(model=str(tmp_path / "outer")), tmp_path / "models")
    with torch.no_grad():
        wanted = unit(model.get_text_features(**tokenizer(["a cat"], return_tensors="pt")))
    assert smallest_cosine(registry.load_text_tower(folder)(["a cat"]), wanted) >= 0.99999


def test_weights_that_are_only_there_as_a_checkpoint_are_read_as_tensors(tmp_path: Path) -> None:
    model, _, _ = tiny("clip", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    _, card = prepare_model("clip", options(model=str(tmp_path / "model")), tmp_path / "models")
    assert "pytorch_model.bin" in card.sources

    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"weight": Attack()}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(CliploomError, match="transformers can't load"):
        prepare_model("clip", options(model=str(tmp_path / "model")), tmp_path / "models")
    assert not (tmp_path / "ran").exists()


def test_the_prompt_stands_before_each_sentence(shared: Callable[[str], Converted], tmp_path: Path) -> None:
    plain = shared("clip").converted
    asked, _ = prepare_model(
        "clip", options(model=str(shared("clip").folder), batch=2, prompt="a "), tmp_path / "models"
    )
    np.testing.assert_array_equal(registry.load_text_tower(asked)(["cat"]), registry.load_text_tower(plain)(["a cat"]))


def test_the_digest_follows_weights_tokenizer_and_preprocessing_and_nothing_else(tmp_path: Path) -> None:
    tiny("clip", tmp_path / "model")
    family, chosen = registry.family("clip"), options(model=str(tmp_path / "model"))
    seen = {model_digest(family, chosen)}
    (tmp_path / "model" / "README.md").write_text("changed")
    assert model_digest(family, chosen.model_copy(update={"batch": 4})) in seen
    settings = tmp_path / "model" / "preprocessor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"resample": 2}))
    seen.add(model_digest(family, chosen))
    with (tmp_path / "model" / "model.safetensors").open("r+b") as weights:
        weights.seek(-4, 2)
        weights.write(b"\0\0\0\0")
    seen.add(model_digest(family, chosen))
    assert len(seen) == 3


def test_a_worker_needs_neither_torch_nor_transformers(shared: Callable[[str], Converted], tmp_path: Path) -> None:
    # A copy: of the model's files nothing is left beside it.
    shutil.copytree(shared("siglip").converted.parent, tmp_path / "models")
    folder = tmp_path / "models" / shared("siglip").converted.name
    assert shared("siglip").card.preprocess is not None
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from cliploom.transforms.encoders.registry import load, load_text_tower\n"
        f"folder = Path({str(folder)!r})\n"
        "print(len(load(folder).encode([np.zeros((48, 48, 3), np.uint8)])[0]['image']))\n"
        "print(load_text_tower(folder)(['a cat']).shape)\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["32", "(1, 32)", "[]"]


def test_preparing_loads_no_torch_into_the_launcher(tmp_path: Path) -> None:
    tiny("clip", tmp_path / "model")
    code = (
        "import sys; from pathlib import Path\n"
        "from cliploom.transforms.encoders.prepare import prepare_model\n"
        "from cliploom.transforms.encoders.registry import family\n"
        f"prepare_model('clip', family('clip').Options(model={str(tmp_path / 'model')!r}), Path({str(tmp_path)!r}))\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resample": 1}, "resample: 1; set it to 2"),
        ({"do_center_crop": False}, "no fixed size"),
        ({"size": {"shortest_edge": 40}}, "crops 48x48 of a short side of 40"),
        ({"do_resize": False}, "do_resize: false"),
    ],
)
def test_preprocessing_that_can_not_be_followed_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    tiny("clip", tmp_path / "model")
    change_preprocessing(tmp_path / "model", changes)
    with pytest.raises(CliploomError, match=message):
        picture_settings(tmp_path / "model", "clip")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"resample": 1}, "resample: 1; set it to 2"), ({"crop_size": 32}, "pictures of 32 pixels for a model of 48")],
)
def test_preparing_refuses_preprocessing_that_can_not_be_followed(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    tiny("clip", tmp_path / "model")
    change_preprocessing(tmp_path / "model", changes)
    with pytest.raises(CliploomError, match=message):
        prepare_model("clip", options(model=str(tmp_path / "model")), tmp_path / "models")


def change_preprocessing(folder: Path, changes: dict[str, Any]) -> None:
    settings = folder / "preprocessor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | changes))


def test_a_processor_config_says_the_same_as_a_preprocessor_config(tmp_path: Path) -> None:
    tiny("clip", tmp_path)
    plain = picture_settings(tmp_path, "clip")
    nested = {"image_processor": json.loads((tmp_path / "preprocessor_config.json").read_text())}
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert picture_settings(tmp_path, "clip") == plain


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CliploomError, match=r"no config\.json of transformers"):
        options_digest(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(CliploomError, match=r"holds no model\.safetensors"):
        options_digest(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CliploomError, match="a model of type 'bert'"):
        options_digest(tmp_path)


def options_digest(folder: Path) -> str:
    return model_digest(registry.family("clip"), options(model=str(folder)))


def test_a_spec_of_init_finds_photographs_by_words_as_transformers_ranks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor, tokenizer = tiny("clip", tmp_path / "model")
    (tmp_path / "photos").mkdir()
    for path in photographs():
        shutil.copy(path, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    run = command(capsys)
    assert run("init", "photos", "--model", "clip:model").code == 0
    assert 'clip: {kind: clip, model: "model"}' in (tmp_path / "cliploom.yaml").read_text()
    assert run("run", "cliploom.yaml").code == 0
    shutil.rmtree(tmp_path / "model")  # the store has its own, converted
    found = run("search", "store", "a cat on a mat", "--json")
    assert found.code == 0, found
    with torch.no_grad():
        asked = unit(model.get_text_features(**tokenizer(["a cat on a mat"], return_tensors="pt")))[0]
        pictures = processor([Image.open(path) for path in photographs()], return_tensors="pt")
        scores = unit(model.get_image_features(**pictures)) @ asked
    hits = json.loads(found.out)
    wanted = [photographs()[i].name for i in np.argsort(-scores)]
    assert [hit["uid"].rpartition("/")[2] for hit in hits] == wanted
    np.testing.assert_allclose([hit["score"] for hit in hits], np.sort(scores)[::-1], atol=0.02)


@pytest.mark.parametrize("precision", ["int8", "int8_weights"])
def test_pictures_in_8_bits_are_still_asked_by_words(tmp_path: Path, precision: str) -> None:
    pytest.importorskip("nncf")
    from cliploom.schemas.precision import Calibration
    from cliploom.transforms.encoders.quantised import DrawnSamples, prepare_quantised

    tiny("clip", tmp_path / "model")
    values = {"model": str(tmp_path / "model"), "precision": precision}
    options = registry.family("clip").Options.model_validate(values)
    pictures = list(np.random.default_rng(0).integers(0, 256, (60, 48, 48, 3), np.uint8))
    drawn = DrawnSamples(pictures, tuple(range(0, 60, 3)), 60)
    calibration = Calibration((), overflow_fix=False) if precision == "int8" else None
    folder, card = prepare_quantised("clip", options, tmp_path / "models", None, drawn, calibration)
    figures = card.figures
    assert figures is not None
    assert figures.outputs["image"].mean > 0.9
    assert figures.settings.get("transformer", "true") == "true"
    assert card.outputs["image"].space.endswith(f"@{precision}")
    assert registry.load_text_tower(folder)(["a cat"]).shape == (1, card.outputs["image"].dim)


def test_pictures_of_any_aspect_are_not_quantised_whole(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    from cliploom.schemas.precision import Calibration
    from cliploom.transforms.encoders.quantised import DrawnSamples, prepare_quantised

    tiny("siglip2", tmp_path / "model")
    options = registry.family("clip").Options.model_validate({"model": str(tmp_path / "model"), "precision": "int8"})
    drawn = DrawnSamples([np.zeros((16, 16, 3), np.uint8)] * 20, (0, 1), 20)
    with pytest.raises(CliploomError, match="use precision: int8_weights"):
        prepare_quantised("clip", options, tmp_path / "models", None, drawn, Calibration((), overflow_fix=False))
    assert not list((tmp_path / "models").glob(".preparing*"))
