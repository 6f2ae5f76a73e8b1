"""SavedModels and frozen graphs as encoders, without TensorFlow: conversion, words, archives, and what is refused.

The archives and TensorFlow's vectors in ``saved_models`` are written by ``extras/tensorflow/tensorflow_models.py``.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_factory import write_video

from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.schemas.errors import CliploomError, MissingExtraError
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.encoders import registry, tensorflow_reference
from cliploom.transforms.encoders.prepare import prepare_model
from cliploom.transforms.encoders.word_tokens import WordTokens
from cliploom.transforms.search.searching import open_store

MODELS = Path(__file__).with_name("saved_models")
CLIP = {"layout": "nthwc", "width": 16, "height": 16, "frames": 4, "fit": "square", "filter": "bilinear"}
PICTURE = {"layout": "nhwc", "width": 32, "height": 24, "fit": "squash"}


@pytest.fixture(autouse=True)
def without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without it."""
    monkeypatch.setattr(tensorflow_reference, "has_tensorflow", lambda: False)
    # In this process, where TensorFlow is hidden; a run prepares such models in another one.
    monkeypatch.setattr("cliploom.transforms.encoders.pixel_family.PixelFamily.foreign_bytes", lambda *_: None)


def s3d(model: str | Path = MODELS / "s3d.tar.gz", **changes: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "signature": "video",
        "input": CLIP,
        "outputs": {"clip": {"node": "video_embedding"}, "mixed": {"node": "mixed_5c"}},
        "text": {"output": "clip"},
    } | changes


def prepared(values: dict[str, Any], tmp_path: Path, kind: str = "saved_model") -> tuple[Path, Any]:
    options = registry.family(kind).Options.model_validate(values)
    return prepare_model(kind, options, tmp_path / "models")


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(MODELS / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(MODELS / f"{name}.npz") as file:
        return dict(file)


def test_a_hub_module_with_both_towers_gives_tensorflows_vectors(tmp_path: Path) -> None:
    folder, card = prepared(s3d(golden=str(MODELS / "s3d.npz")), tmp_path)
    assert (card.modality, card.clip_frames) == ("clip", 4)
    assert {name: output.dim for name, output in card.outputs.items()} == {"clip": 16, "mixed": 36}
    assert min(card.agreement[name] for name in ("clip", "mixed", "text tower")) > 0.999999
    wanted = golden("s3d")
    rows = registry.load(folder).encode(list(wanted["items"]))
    np.testing.assert_allclose([row["clip"] for row in rows], wanted["clip"], rtol=1e-4, atol=1e-5)  # type: ignore[index]
    found = registry.load_text_tower(folder)([str(sentence) for sentence in wanted["sentences"]])
    np.testing.assert_allclose(found, wanted["text"], rtol=1e-4, atol=1e-5)
    assert card.outputs["clip"].text
    assert not card.outputs["mixed"].text


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_clips_vector_does_not_depend_on_its_neighbours(tmp_path: Path, batch: int) -> None:
    folder, _ = prepared(s3d(batch=batch, golden=str(MODELS / "s3d.npz")), tmp_path)
    items, encoder = list(golden("s3d")["items"]), registry.load(folder)
    together = encoder.encode([*items, *items])
    for item, row in zip([*items, *items], together, strict=True):
        np.testing.assert_array_equal(row["clip"], encoder.encode([item])[0]["clip"])  # type: ignore[index]


def test_preparing_and_encoding_load_no_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from cliploom.transforms.encoders import registry, tensorflow_reference, prepare\n"
        "tensorflow_reference.has_tensorflow = lambda: False\n"
        f"options = registry.family('saved_model').Options.model_validate({s3d()!r})\n"
        f"folder, _ = prepare.prepare_model('saved_model', options, Path({str(tmp_path)!r}))\n"
        "registry.load_text_tower(folder)(['a dog'])\n"
        "registry.load(folder).encode([np.zeros((4, 16, 16, 3), np.uint8)])\n"
        "print([m for m in ('tensorflow', 'keras', 'torch', 'nncf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_tensorflow_2_model_whose_signatures_share_a_name_of_outputs(tmp_path: Path) -> None:
    values = {
        "model": str(MODELS / "two_towers.tar.gz"),
        "signature": "image",
        "input": PICTURE,
        "outputs": {"picture": {"node": "embedding"}, "colours": {"node": "map", "pool": "mean", "channel_axis": -1}},
        "text": {"output": "picture"},
        "golden": str(MODELS / "two_towers.npz"),
    }
    folder, card = prepared(values, tmp_path)
    assert min(card.agreement["picture"], card.agreement["text tower"]) > 0.999999
    row = registry.load(folder).encode(list(golden("two_towers")["items"][:1]))[0]
    np.testing.assert_allclose(row["colours"], row["picture"], rtol=1e-5)  # type: ignore[index]


def test_a_model_of_any_size_runs_at_the_size_that_the_spec_says(tmp_path: Path) -> None:
    values = {
        "model": str(MODELS / "bit.tar.gz"),
        "input": PICTURE,
        "outputs": {"picture": {"node": "output_1"}},
        "golden": str(MODELS / "bit.npz"),
    }
    folder, card = prepared(values, tmp_path)
    assert card.agreement["picture"] > 0.999999
    np.testing.assert_allclose(
        registry.load(folder).encode(list(golden("bit")["items"]))[1]["picture"],  # type: ignore[index]
        golden("bit")["picture"][1],
        rtol=1e-4,
        atol=1e-5,
    )
    values["input"] = PICTURE | {"width": 96, "height": 96}
    del values["golden"]
    folder, _ = prepared(values, tmp_path)
    assert registry.load(folder).encode([np.zeros((96, 96, 3), np.uint8)])[0]["picture"].shape == (16,)  # type: ignore[index]


def test_a_folder_and_its_archive_are_one_model(tmp_path: Path) -> None:
    folder = unpacked("s3d", tmp_path / "s3d")
    (folder / "README.md").write_text("not a part of it")
    digests = {prepared(s3d(model), tmp_path)[1].digest for model in (MODELS / "s3d.tar.gz", folder)}
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.data-00000-of-00001", "assets/s3d-words.txt"])
def test_the_digest_covers_graph_variables_and_assets(tmp_path: Path, name: str) -> None:
    folder = unpacked("s3d", tmp_path / "s3d")
    family = registry.family("saved_model")
    options = family.Options.model_validate(s3d(folder))
    before = family.fingerprint(options)
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    changed = family.fingerprint(options)
    assert {key for key in before if before[key] != changed[key]} == {name}


def test_tags_choose_the_graph(tmp_path: Path) -> None:
    encode = {}
    for tags in (None, [], ["train"]):
        folder, _ = prepared(s3d(tags=tags), tmp_path)
        encode[str(tags)] = registry.load(folder).encode(list(golden("s3d")["items"][:1]))[0]["clip"]  # type: ignore[index]
    np.testing.assert_array_equal(encode["None"], encode["[]"])
    np.testing.assert_allclose(encode["['train']"], 2 * encode["[]"], rtol=1e-5)
    with pytest.raises(CliploomError, match=r"no graph with tags \[serve\]; .*: tags: \[\] or tags: \[train\]"):
        prepared(s3d(tags=["serve"]), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"signature": "vidoe"},
            r"no signature 'vidoe' \(signature\); did you mean 'video'\? It has 'text' \(words str",
        ),
        ({"signature": None}, r"several signatures; name one by signature: 'text' \(words string \[\?\] -> text_emb"),
        (
            {"outputs": {"clip": {"node": "x"}}},
            r"no output 'x' in its signature 'video'; .*mixed_5c float32 \[\?, 36\]",
        ),
        ({"signature": "text", "outputs": {"clip": {"node": "text_embedding"}}}, "must take pixels alone"),
        ({"input": CLIP | {"node": "pixels"}}, "correct input.node"),
        ({"input": PICTURE}, "which is not 'nhwc' with h 24, w 32, c 3; correct input"),
        (
            {"text": {"output": "clip", "signature": "txt"}},
            r"no signature 'txt' \(text.signature\); did you mean 'text'",
        ),
        ({"text": {"output": "clip", "node": "x"}}, "no output 'x' in its signature 'text'; it has text_embedding"),
        ({"text": {"output": "mixed"}}, "vectors of 16 numbers and the output 'mixed' of 36; they share no space"),
        ({"text": {"output": "clip", "signature": "video", "node": "mixed_5c"}}, "must take strings alone"),
        ({"text": {"output": "clip", "vocabulary": "none.txt"}}, "can't be read"),
        ({"text": {"output": "clip", "first": 5}}, r"have the numbers 0 to 32 and its table of vectors has 29 rows"),
        ({"text": {"output": "clip", "replace": [["(", ""]]}}, r"regular expression '\(' is not one of RE2"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    if "outputs" in change:
        change = change | {"text": None}
    with pytest.raises(CliploomError, match=message):
        prepared(s3d(**change), tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input": PICTURE | {"layout": "hwc"}}, "a signature takes a batch, such as nhwc"),
        ({"text": {}}, "text.output is missing"),
        ({"text": {"output": "clip", "unknown": -1}}, "greater than or equal to 0"),
    ],
)
def test_options_that_contradict_themselves(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.family("saved_model").Options.model_validate(s3d(**values))


def test_rules_are_read_off_the_graph_and_may_be_declared(tmp_path: Path) -> None:
    folder, _ = prepared(s3d(), tmp_path)
    found = WordTokens.read(folder)
    assert [step.kind for step in found.rules.steps] == ["ascii", "replace"]
    assert (found.rules.tokens, found.rules.split, found.rules.unknown) == (16, " ", 0)
    assert found.ids("The man's guitar, SNOWMAN!") == ([2, 0, 7, 0], False)
    declared = {
        "output": "clip",
        "lower": "ascii",
        "replace": [[r"[^\w\s']+", ""]],
        "split": " ",
        "tokens": 16,
        "first": 1,
        "unknown": 0,
        "pad_id": 0,
        "vocabulary": "s3d-words.txt",
    }
    other, _ = prepared(s3d(text=declared), tmp_path)
    assert other != folder
    sentences = ["Playing  guitar", "a dog's life", ""]
    np.testing.assert_array_equal(
        registry.load_text_tower(folder)(sentences), registry.load_text_tower(other)(sentences)
    )
    dropping, _ = prepared(s3d(text={"output": "clip", "unknown": "drop"}), tmp_path)
    assert WordTokens.read(dropping).ids("The man's guitar, SNOWMAN!") == ([2, 7], False)


def test_a_vocabulary_beside_the_model_counts_for_the_digest(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    digests = []
    for content in ("dog\ncat\n", "cat\ndog\n"):
        words.write_text(content)
        folder, card = prepared(s3d(text={"output": "clip", "vocabulary": str(words)}), tmp_path)
        digests.append(card.digest)
    assert len(set(digests)) == 2
    assert WordTokens.read(folder).ids("a dog") == ([0, 2], False)


def test_without_tensorflow_and_golden_vectors_the_agreement_is_said_to_be_unmeasured(tmp_path: Path) -> None:
    _, card = prepared(s3d(), tmp_path)
    assert card.agreement == {}
    assert card.note.startswith("agreement with the original was not measured; install TensorFlow")


def test_golden_vectors_that_disagree_stop_the_run(tmp_path: Path) -> None:
    values = golden("s3d")
    np.savez(tmp_path / "wrong.npz", items=values["items"], clip=values["clip"][::-1])
    with pytest.raises(CliploomError, match="gives 'clip' with cosine"):
        prepared(s3d(golden=str(tmp_path / "wrong.npz")), tmp_path)
    np.savez(tmp_path / "short.npz", items=values["items"], clip=values["clip"][:2])
    with pytest.raises(
        CliploomError, match=r"must hold items \(uint8\), float vectors .* it holds clip float32 \[2, 16\]"
    ):
        prepared(s3d(golden=str(tmp_path / "short.npz")), tmp_path)
    (tmp_path / "no.npz").write_text("x")
    with pytest.raises(CliploomError, match=r"can't be read as \.npz"):
        prepared(s3d(golden=str(tmp_path / "no.npz")), tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def odd(signature: str) -> dict[str, Any]:
    return {
        "model": str(MODELS / "odd.tar.gz"),
        "signature": signature,
        "input": PICTURE | {"width": 8, "height": 8},
        "outputs": {"v": {"node": "y"}},
    }


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        ("solve", r"\(MatrixDiagV3, MatrixSolve\)"),
        ("counting", r"\(it changes its variables as it runs: AssignAddVariableOp\)"),
    ],
)
def test_what_does_not_convert_is_named_with_the_way_out(tmp_path: Path, signature: str, reason: str) -> None:
    with pytest.raises(CliploomError, match=f"{reason}; export it as ONNX .* kind: onnx, or save the Keras model"):
        prepared(odd(signature), tmp_path)


def test_a_loop_converts(tmp_path: Path) -> None:
    folder, _ = prepared(odd("looping"), tmp_path)
    grey = np.full((8, 8, 3), 51, np.uint8)
    np.testing.assert_allclose(registry.load(folder).encode([grey])[0]["v"], 32 * 51 / 255, rtol=1e-5)  # type: ignore[index]


def test_a_model_for_one_item_is_not_given_several(tmp_path: Path) -> None:
    prepared(odd("one"), tmp_path)
    with pytest.raises(CliploomError, match=r"has the shape \[1, 3\] for a batch of 4, .* leave batch out"):
        prepared(odd("one") | {"batch": 4}, tmp_path / "again")


def archive_of(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def file(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([(file("../saved_model.pb"), b"x")], "leads out of its folder"),
        ([(file("/saved_model.pb"), b"x")], "leads out of its folder"),
        ([(file("assets/words.txt", tarfile.SYMTYPE, "/etc/passwd"), b"")], "is a link or leads out"),
        ([(file("variables/variables.index", tarfile.LNKTYPE, "/etc/passwd"), b"")], "is a link or leads out"),
        ([(file("variables/x", tarfile.FIFOTYPE), b"")], "is a link or leads out"),
        ([(file("a/saved_model.pb"), b"x"), (file("b/saved_model.pb"), b"x")], r"several SavedModels \('a', 'b'\)"),
        ([(file("README.md"), b"x")], "holds no saved_model.pb"),
        ([(file("saved_model.pb"), b"\xff\xff\xff")], "is not a TensorFlow SavedModel"),
        ([(file("saved_model.pb"), b"")], "no graph with the usual tags .* none, it is empty"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, members: list[Any], message: str) -> None:
    path = archive_of(tmp_path / "m.tar.gz", members)
    with pytest.raises(CliploomError, match=message):
        prepared(s3d(path), tmp_path)
    assert not (tmp_path.parent / "saved_model.pb").exists()


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    whole = gzip.decompress((MODELS / "s3d.tar.gz").read_bytes())
    for content in (gzip.compress(whole[:3000]), gzip.compress(whole)[:3000], b"no archive"):
        (tmp_path / "m.tar.gz").write_bytes(content)
        with pytest.raises(CliploomError, match=r"m\.tar\.gz' (can't be read|holds no saved_model.pb)"):
            prepared(s3d(tmp_path / "m.tar.gz"), tmp_path)


def test_a_folder_that_holds_none_names_the_one_below_that_does(tmp_path: Path) -> None:
    unpacked("s3d", tmp_path / "1")
    with pytest.raises(CliploomError, match=rf"no SavedModel in '{tmp_path}'; did you mean '{tmp_path / '1'}'"):
        prepared(s3d(tmp_path), tmp_path)
    with pytest.raises(CliploomError, match="There is no archive"):
        prepared(s3d("nowhere.tar.gz"), tmp_path)
    (tmp_path / "1" / "variables" / "variables.index").unlink()
    with pytest.raises(CliploomError, match=r"variables/variables\.index is missing"):
        prepared(s3d(tmp_path / "1"), tmp_path)


def frozen(**changes: Any) -> dict[str, Any]:
    return {
        "model": str(MODELS / "inception.pb"),
        "input": {"layout": "hwc", "node": "DecodeJpeg:0", "width": 32, "height": 24, "offset": 0, "scale": 1},
        "outputs": {"pool": {"node": "pool_3/_reshape:0"}},
        "golden": str(MODELS / "inception.npz"),
    } | changes


def test_a_frozen_graph_from_the_decoders_output(tmp_path: Path) -> None:
    folder, card = prepared(frozen(), tmp_path, "frozen_graph")
    assert card.agreement["pool"] > 0.999999
    rows = registry.load(folder).encode(list(golden("inception")["items"]))
    found = [row["pool"] for row in rows]  # type: ignore[index]
    np.testing.assert_allclose(found, golden("inception")["pool"], rtol=1e-4, atol=1e-5)


def test_a_frozen_graph_from_an_inner_float_input(tmp_path: Path) -> None:
    given = {"layout": "nhwc", "node": "Mul", "width": 35, "height": 35, "offset": 128, "scale": 128}
    outputs = {"pool": {"node": "pool_3"}, "join": {"node": "mixed_10/join:0", "pool": "mean", "channel_axis": -1}}
    folder, card = prepared(frozen(input=given, outputs=outputs, golden=None), tmp_path, "frozen_graph")
    assert card.note
    picture = np.random.default_rng(1).integers(0, 256, (35, 35, 3), np.uint8)
    row = registry.load(folder).encode([picture])[0]
    np.testing.assert_allclose(row["pool"], row["join"], rtol=1e-4, atol=1e-6)  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "no.pb"}, "There is no frozen graph 'no.pb'"),
        ({"outputs": {"pool": {"node": "pool_4"}}}, "no tensor 'pool_4'; did you mean 'pool_3'"),
        (
            {"input": {"layout": "hwc", "node": "DecodeJpeg", "width": 8, "height": 8}},
            "set input.offset: 0 and",
        ),
        (
            {"input": {"layout": "nhwc", "node": "Mull", "width": 8, "height": 8}},
            "no tensor 'Mull'; did you mean",
        ),
        ({"model": __file__}, "is not a TensorFlow GraphDef"),
    ],
)
def test_frozen_graphs_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CliploomError, match=message):
        prepared(frozen(**change), tmp_path, "frozen_graph")


def test_keras_files_need_the_extra_and_the_right_ending(tmp_path: Path) -> None:
    values = {"model": str(tmp_path / "m.keras"), "input": PICTURE, "outputs": {"v": {"node": "avg_pool"}}}
    with pytest.raises(CliploomError, match="There is no Keras file"):
        prepared(values, tmp_path, "keras")
    (tmp_path / "m.keras").write_bytes(b"x")
    with pytest.raises(MissingExtraError, match=r"pip install 'cliploom\[tensorflow\]'"):
        prepared(values, tmp_path, "keras")
    with pytest.raises(CliploomError, match="a folder is a SavedModel, use kind: saved_model"):
        prepared(values | {"model": str(tmp_path)}, tmp_path, "keras")
    (tmp_path / "m.bin").write_bytes(b"x")
    with pytest.raises(CliploomError, match=r"does not end in \.keras or \.h5"):
        prepared(values | {"model": str(tmp_path / "m.bin")}, tmp_path, "keras")


SPEC = """\
version: 1
name: words
store: ./store
sources: {clips: {kind: media, glob: "media/*.mp4"}}
encoders:
  s3d:
    kind: saved_model
    model: s3d.tar.gz
    signature: video
    input: {layout: nthwc, frames: 4, width: 16, height: 16, fit: square, filter: bilinear}
    outputs: {clip: {node: video_embedding}}
    text: {signature: text}
features: {clips: {source: clips, sample: {first: {frames: 4}}, encoder: s3d}}
indexes: {clips: {feature: clips, output: clip, metric: dot, kind: flat}}
"""


def test_words_ask_an_index_of_clips_by_raw_dot_product(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "s3d.tar.gz").write_bytes((MODELS / "s3d.tar.gz").read_bytes())
    for number in range(3):
        noise = np.random.default_rng(number)
        write_video(
            tmp_path / "media" / f"{number}.mp4",
            6,
            size=(64, 48),
            draw=lambda index, width, height, noise=noise: noise.integers(0, 256, (height, width, 3), np.uint8),
        )
    (tmp_path / "cliploom.yaml").write_text(SPEC)
    document = load_document(tmp_path / "cliploom.yaml", ())
    said: list[str] = []
    run_spec(parse_document(document), document, tmp_path, RunOptions(), said.append)
    assert any("encoder s3d: agreement with the original was not measured" in line for line in said)
    # The model is prepared; its file is not needed to search.
    (tmp_path / "s3d.tar.gz").unlink()
    store = open_store(str(tmp_path / "store"))
    rows = store.table("clips").select("uid", "clip").collect()
    vectors = dict(zip(rows["uid"], np.array(rows["clip"].to_list(), np.float32), strict=True))
    words = dict(zip(map(str, golden("s3d")["sentences"]), golden("s3d")["text"], strict=True))
    for sentence in ("playing guitar", "a waterfall", "Car drifting!"):
        hits = store.search(sentence, top=3)
        wanted = {uid: float(vector @ words[sentence]) for uid, vector in vectors.items()}
        assert [hit.uid for hit in hits] == sorted(wanted, key=wanted.__getitem__, reverse=True)
        assert [hit.score for hit in hits] == pytest.approx([wanted[hit.uid] for hit in hits], rel=1e-4)


def test_text_settings_say_how_the_words_are_laid_out(tmp_path: Path) -> None:
    folder, _ = prepared(s3d(), tmp_path)
    settings = json.loads((folder / "text.json").read_text())
    assert (settings["max_tokens"], settings["step"], settings["masked"]) == (16, 16, False)
