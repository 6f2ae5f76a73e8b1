"""Encoders over several runs: what changes a model's digest, for every kind, and what is then recomputed."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import test_encoders_onnx
from media_factory import write_image
from test_encoders_onnx import SIZE, linear_model, picture_options

from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.errors import CliploomError, MissingExtraError
from cliploom.schemas.spec_file import parse_document
from cliploom.transforms.encoders import registry, tensorflow_reference
from cliploom.transforms.encoders.known_hashes import known_hashes
from cliploom.transforms.encoders.prepare import model_digest
from cliploom.transforms.search.searching import open_store

PICTURE = {"layout": "nhwc", "width": 8, "height": 8}
GRAPH = {"input": PICTURE, "outputs": {"v": {"node": "y"}}}


@dataclass(frozen=True)
class Kind:
    """One kind of encoder over files that nobody opens: digests are made from their bytes.

    Attributes:
        kind: its name.
        files: name -> content, below the model's folder.
        options: as a spec writes them; ``{folder}`` stands for the model's folder.
        matters: files whose bytes change vectors.
        declared: options whose values change vectors.
        free: options that change none, and files that don't matter.
    """

    kind: str
    files: dict[str, str]
    options: dict[str, Any]
    matters: tuple[str, ...]
    declared: dict[str, Any] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)


CLIP_FILES = {
    "config.json": '{"model_type": "clip"}',
    "preprocessor_config.json": '{"size": 224}',
    "tokenizer.json": "{}",
    "model.safetensors": "weights",
}
SMALLER = {"input": PICTURE | {"width": 4}}
KINDS = [
    Kind("onnx", {"m.onnx": "graph"}, {"model": "{folder}/m.onnx"} | GRAPH, ("m.onnx",), SMALLER, {"batch": 4}),
    Kind(
        "onnx",
        {"m.onnx": "graph", "m.onnx.data": "weights", "text.onnx": "words", "tokenizer.json": "{}"},
        GRAPH
        | {
            "model": "{folder}/m.onnx",
            "text": {"model": "{folder}/text.onnx", "tokenizer": "{folder}/tokenizer.json", "max_tokens": 8},
        },
        ("m.onnx", "m.onnx.data", "text.onnx", "tokenizer.json"),
        {"precision": "bf16"},
    ),
    Kind(
        "saved_model",
        {"saved_model.pb": "graph", "variables/variables.index": "i", "variables/v.data": "w", "assets/words.txt": "a"},
        {"model": "{folder}"} | GRAPH,
        ("saved_model.pb", "variables/v.data", "assets/words.txt"),
        SMALLER | {"signature": "other", "tags": ["train"]},
        {"batch": 4, "golden": "{folder}/golden.npz"},
    ),
    Kind(
        "saved_model",
        {"saved_model.pb": "graph", "variables/variables.index": "i", "other-words.txt": "a"},
        {"model": "{folder}", "text": {"signature": "t", "vocabulary": "{folder}/other-words.txt"}} | GRAPH,
        ("other-words.txt",),
        {"text": {"signature": "t", "vocabulary": "{folder}/other-words.txt", "tokens": 5}},
    ),
    Kind(
        "frozen_graph",
        {"m.pb": "graph"},
        {"model": "{folder}/m.pb", "input": PICTURE | {"node": "Mul:0"}, "outputs": {"v": {"node": "y"}}},
        ("m.pb",),
        {"input": PICTURE | {"node": "DecodeJpeg:0"}},
    ),
    Kind("keras", {"m.keras": "model"}, {"model": "{folder}/m.keras"} | GRAPH, ("m.keras",), SMALLER),
    Kind(
        "torch",
        {"m.pt2": "program"},
        {"model": "{folder}/m.pt2", "input": PICTURE, "outputs": {"v": {}}},
        ("m.pt2",),
        SMALLER | {"outputs": {"v": {"pool": "flatten"}}},
        {"batch": 4, "trusted": True},
    ),
    Kind(
        "torch",
        {"w.pth": "weights"},
        {"model": "torchvision:vgg16_bn", "weights": "{folder}/w.pth", "input": PICTURE, "outputs": {"v": {}}},
        ("w.pth",),
        {"model": "torchvision:vgg16"},
    ),
    Kind(
        "clip",
        CLIP_FILES,
        {"model": "{folder}"},
        ("model.safetensors", "tokenizer.json", "preprocessor_config.json"),
        {"prompt": "a photo of ", "tower": "text"},
        {"batch": 4},
    ),
    Kind(
        "clip",
        {"open_clip_config.json": "{}", "open_clip_model.safetensors": "weights"},
        {"model": "local-dir:{folder}"},
        ("open_clip_config.json", "open_clip_model.safetensors"),
    ),
    Kind(
        "sentence_transformer",
        {"modules.json": "[]", "config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "weights"},
        {"model": "{folder}"},
        ("model.safetensors", "tokenizer.json", "config.json"),
        {"prompt": "query: "},
    ),
    Kind("word_vectors", {"words.vec": "1 2"}, {"model": "{folder}/words.vec"}, ("words.vec",)),
    Kind(
        "pca",
        {"pca.npz": "matrix", "m.onnx": "graph"},
        {"path": "{folder}/pca.npz", "encoder": {"kind": "onnx", "model": "{folder}/m.onnx"} | GRAPH},
        ("pca.npz", "m.onnx"),
        {"components": 4},
    ),
]
NAMES = [f"{each.kind}-{number}" for number, each in enumerate(KINDS)]


def filled(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: filled(each, folder) for key, each in value.items()}
    return value.replace("{folder}", str(folder)) if isinstance(value, str) else value


def write(kind: Kind, folder: Path) -> Path:
    for name, content in kind.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def digest(kind: Kind, folder: Path, **changes: Any) -> str:
    """As a run makes it, with the hashes that are kept from earlier ones."""
    chosen = registry.family(kind.kind)
    options = chosen.Options.model_validate(filled(kind.options | changes, folder))
    with known_hashes(folder.parent / "models"):
        return model_digest(chosen, chosen.located(options, folder.parent))


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_weights_vocabulary_and_declaration_make_another_model_and_nothing_else_does(
    tmp_path: Path, kind: Kind
) -> None:
    folder = write(kind, tmp_path / "model")
    first = digest(kind, folder)
    seen = {first}
    for name in kind.matters:
        before = (folder / name).read_text()
        (folder / name).write_text(before + " changed")
        seen.add(digest(kind, folder))
        (folder / name).write_text(before)
        assert digest(kind, folder) == first
    for option, value in kind.declared.items():
        seen.add(digest(kind, folder, **{option: value}))
    assert len(seen) == 1 + len(kind.matters) + len(kind.declared)
    for option, value in kind.free.items():
        assert digest(kind, folder, **{option: value}) == first
    (folder / "README.md").write_text("read me")
    (folder / kind.matters[0]).touch()
    assert digest(kind, folder) == first
    assert digest(kind, Path(shutil.move(folder, tmp_path / "moved"))) == first


def missing(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    found = importlib.util.find_spec
    hidden: Callable[..., Any] = lambda name, *rest: None if name in packages else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)


@pytest.mark.parametrize(
    ("number", "extra"),
    [
        (KINDS.index(next(kind for kind in KINDS if kind.kind == name)), extra)
        for name, extra in (
            ("torch", "text"),
            ("clip", "text"),
            ("sentence_transformer", "text"),
            ("keras", "tensorflow"),
        )
    ],
)
def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, extra: str) -> None:
    missing(monkeypatch, "torch", "transformers", "sentence_transformers", "tensorflow")
    monkeypatch.setattr(tensorflow_reference, "has_tensorflow", lambda: False)
    kind = KINDS[number]
    folder = write(kind, tmp_path / "model")
    chosen = registry.family(kind.kind)
    options = chosen.Options.model_validate(filled(kind.options, folder))
    with pytest.raises(MissingExtraError, match=rf"pip install 'cliploom\[{extra}\]'"):
        chosen.prepare(options, tmp_path, None)


def test_open_clip_is_named_when_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, "open_clip")
    kind = next(kind for kind in KINDS if "open_clip_config.json" in kind.files)
    folder = write(kind, tmp_path / "model")
    chosen = registry.family("clip")
    with pytest.raises(CliploomError, match="pip install open_clip_torch"):
        chosen.prepare(chosen.Options.model_validate(filled(kind.options, folder)), tmp_path, None)


def document(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two features of the same pictures, each with a model of its own."""
    encoders = {
        name: {"kind": "onnx"} | picture_options(f"{name}.onnx") | changes.get(name, {}) for name in ("one", "other")
    }
    features = {name: {"source": "clips", "sample": {"every": "1s"}, "encoder": name} for name in encoders}
    return {
        "version": 1,
        "name": "nights",
        "store": "./store",
        "sources": {"clips": {"kind": "media", "glob": "media/*"}},
        "encoders": encoders,
        "features": features,
        "indexes": {name: {"feature": name} for name in features},
    }


def run(folder: Path, notes: list[str] | None = None, **changes: Any) -> RunResult:
    written = document(folder, **changes)
    written["store"] = str(folder / "store")
    return run_spec(parse_document(written), written, folder, RunOptions(), (notes if notes is not None else []).append)


def verdicts(result: RunResult) -> dict[str, dict[str, int]]:
    return {name: found for name, found in result.verdicts.items() if name in ("one", "other")}


def test_a_changed_model_computes_its_features_again_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "media").mkdir()
    for number in range(2):
        write_image(tmp_path / "media" / f"{number}.png", size=(12 + number, 10))
    for name in ("one", "other"):
        linear_model(tmp_path / f"{name}.onnx", [2, 3], ["n", 3, SIZE, SIZE])
    run(tmp_path)
    unchanged, again = {"unchanged": 2}, {"config_changed": 2}
    assert verdicts(run(tmp_path)) == {"one": unchanged, "other": unchanged}

    monkeypatch.setattr(test_encoders_onnx, "WEIGHTS", test_encoders_onnx.WEIGHTS * np.float32([1, 2, 1, 1, 1]))
    linear_model(tmp_path / "one.onnx", [2, 3], ["n", 3, SIZE, SIZE])
    assert verdicts(run(tmp_path)) == {"one": again, "other": unchanged}

    declared = picture_options("")["input"] | {"scale": 32}
    assert verdicts(run(tmp_path, other={"input": declared})) == {"one": unchanged, "other": again}
    assert verdicts(run(tmp_path, other={"input": declared, "batch": 2})) == {"one": unchanged, "other": unchanged}

    (tmp_path / "one.onnx").unlink()
    notes: list[str] = []
    write_image(tmp_path / "media" / "new.png", size=(20, 20))
    result = run(tmp_path, notes, other={"input": declared})
    assert verdicts(result) == {"one": unchanged | {"new": 1}, "other": unchanged | {"new": 1}}
    assert any("encoder one:" in note and "its files are gone" in note for note in notes), notes
    store = open_store(str(tmp_path / "store"))
    assert store.search(like="new", index=["one"], top=5)
    rows = pl.concat([store.table(name).lazy().collect().select("uid") for name in ("one", "other")])
    assert rows["uid"].to_list().count("new") == 2
