"""``cliploom models``: presets, identification of model files, specs that use them, and rejected files."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
import yaml
from commands import Command, assert_one_sentence, command
from media_factory import write_gif
from onnx import TensorProto, helper

from cliploom.pipelines.models.published import check_preset, check_text
from cliploom.pipelines.planning.check import check_encoders
from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.encoders import tensorflow_reference
from cliploom.transforms.encoders.lite0 import class_names
from cliploom.transforms.encoders.prepare import model_digest
from cliploom.transforms.encoders.presets import presets, with_preset
from cliploom.transforms.encoders.registry import family
from cliploom.transforms.encoders.word_vectors import words_of
from cliploom.transforms.model_files.apart import look_apart
from cliploom.transforms.model_files.found import Found, spec_text
from cliploom.transforms.model_files.look import look
from cliploom.transforms.search.searching import open_store

MODELS = Path(__file__).with_name("saved_models")
VOCABULARY = sorted(
    {word.lower() for names in class_names() for word in words_of(" ".join(names))} | {"a", "dog", "of", "or", "photo"}
)
WORDS = "".join(f"{word} {number % 7} {number % 5} 1 .5\n" for number, word in enumerate(VOCABULARY))


@pytest.fixture(autouse=True)
def without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without it; models are prepared in this process, where it is hidden."""
    monkeypatch.setattr(tensorflow_reference, "has_tensorflow", lambda: False)
    monkeypatch.setattr("cliploom.transforms.encoders.pixel_family.PixelFamily.foreign_bytes", lambda *_: None)
    monkeypatch.setattr("cliploom.transforms.encoders.word_vectors.WordVectors.foreign_bytes", lambda *_: None)


@pytest.fixture
def cliploom(capsys: pytest.CaptureFixture[str]) -> Command:
    return command(capsys)


def written(folder: Path, name: str) -> Path:
    """A model of a kind, under the name that it is published or usually has."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".onnx"):
        shape = ["n", 3, 32, 24]
        node = helper.make_node("ReduceMean", ["pixels"], ["pooled"], axes=[2, 3], keepdims=0)
        taken = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)
        given = helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["n", 3])
        graph = helper.make_graph([node], "g", [taken], [given])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    elif name.endswith(".vec"):
        path.write_text(f"{len(VOCABULARY)} 4\n{WORDS}")
    elif name.endswith(".gz") and "tar" not in name:
        path.write_bytes(gzip.compress(WORDS.encode()))
    elif name == "folder/saved_model.pb":
        with tarfile.open(MODELS / "two_towers.tar.gz") as archive:
            archive.extractall(path.parent, filter="data")
        return path.parent
    else:
        path.write_bytes((MODELS / name).read_bytes())
    return path


# what the file is -> (kind, preset, part of what is said)
KINDS = {
    "s3d.tar.gz": ("saved_model", "s3d_milnce", "a SavedModel of TensorFlow, packed"),
    "bit.tar.gz": ("saved_model", "", "a SavedModel of TensorFlow, packed"),
    "folder/saved_model.pb": ("saved_model", "", "a SavedModel of TensorFlow"),
    "inception.pb": ("frozen_graph", "inception_yt8m", "a frozen graph of TensorFlow 1"),
    "model.onnx": ("onnx", "", "an ONNX file"),
    "words.vec": ("word_vectors", "", "word vectors as text, 4 numbers a word"),
    "glove.gz": ("word_vectors", "", "4 numbers a word, gzipped"),
}


def test_what_a_model_is_and_a_spec_that_runs_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cliploom: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    whole: dict[str, Any] = {}
    for number, (name, (kind, preset, what)) in enumerate(KINDS.items()):
        model = written(tmp_path, name).relative_to(tmp_path)
        ended = cliploom("models", "check", model)
        assert ended.code == 0, ended
        assert what in ended.out
        assert max(map(len, ended.out.splitlines())) <= 80
        # All that is printed is a spec: its other lines are comments.
        (tmp_path / "cliploom.yaml").write_text(ended.out)
        assert cliploom("validate").code == 0
        spec = yaml.safe_load(ended.out)
        encoder = spec["encoders"]["model"]
        assert (encoder["kind"], encoder.get("preset", "")) == (kind, preset)
        found = look(model, str(model))
        assert (found.kind, found.preset, spec_text(found) in ended.out) == (kind, preset, True)
        # One run for all: each spec with names of its own.
        for section in ("encoders", "features", "indexes"):
            for key, node in spec[section].items():
                renamed = {
                    at: f"{value}{number}" for at, value in node.items() if at in ("encoder", "feature", "text_encoder")
                }
                whole.setdefault(section, {})[f"{key}{number}"] = node | renamed
    whole = spec | whole
    (tmp_path / "media").mkdir()
    for number in range(2):
        write_gif(tmp_path / "media" / f"{number}.gif", [400] * (3 + number), size=(64, 48 + 16 * number))
    said: list[str] = []
    run_spec(parse_document(whole), whole, tmp_path, RunOptions(), said.append)
    store = open_store("store")
    assert len(whole["indexes"]) == len(KINDS)
    for name, index in whole["indexes"].items():
        assert len(store.table(index["feature"]).collect()) >= 2
        encoder = whole["encoders"][whole["features"][index["feature"]]["encoder"]]
        asked_by_words = "text" in encoder or encoder.get("preset") == "s3d_milnce" or "text_encoder" in encoder
        hits = store.search("a dog", index=[name]) if asked_by_words else store.search(like="0.gif", index=[name])
        assert {hit.uid for hit in hits} >= {"1.gif"}


def test_a_preset_and_its_settings_written_out_are_one_model() -> None:
    chosen = family("saved_model")
    short = with_preset("saved_model", "s3d_milnce", {"model": str(MODELS / "s3d.tar.gz")})
    whole = dict(presets()["s3d_milnce"].options) | {"model": str(MODELS / "s3d.tar.gz")}
    digests = {model_digest(chosen, chosen.Options.model_validate(values)) for values in (short, whole)}
    assert len(digests) == 1
    other = with_preset("saved_model", "s3d_milnce", {"model": str(MODELS / "s3d.tar.gz"), "input": {"width": 200}})
    assert model_digest(chosen, chosen.Options.model_validate(other)) not in digests


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_a_valid_encoder(name: str) -> None:
    preset = presets()[name]
    chosen = family(preset.kind)
    options = chosen.Options.model_validate(with_preset(preset.kind, name, {preset.takes: "file"}))
    assert set(chosen.output_names(options, False)) == set(preset.dims)
    found = Found("file", "", kind=preset.kind, preset=name, options={preset.takes: "file"}, sample=preset.sample)
    document = yaml.safe_load(spec_text(found))
    check_encoders(parse_document(document))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"kind": "saved_model", "preset": "s3d", "model": "x"}, r"encoders\.m\.preset: there is no preset 's3d'"),
        ({"kind": "onnx", "preset": "s3d_milnce", "model": "x"}, r"is of kind saved_model; write kind: saved_model"),
        ({"kind": "saved_model", "preset": "s3d_milnce"}, r"encoders\.m\.model is missing"),
        ({"kind": "saved_model", "preset": "s3d_milnce", "model": "x", "inptu": {}}, "did you mean 'input'"),
        ({"kind": "saved_model", "preset": "s3d_milnce", "model": "x", "input": {"frames": "x"}}, r"input\.frames"),
    ],
)
def test_presets_that_do_not_fit_are_said(encoder: dict[str, Any], message: str) -> None:
    document = {
        "version": 1,
        "name": "x",
        "store": "./store",
        "sources": {"s": {"kind": "media", "glob": "*"}},
        "encoders": {"m": encoder},
    }
    with pytest.raises(SpecError, match=message):
        check_encoders(parse_document(document))


def test_presets_are_listed_and_shown_in_80_columns(cliploom: Command) -> None:
    listed = cliploom("models", "list").out
    for name in presets():
        shown = cliploom("models", "show", name)
        assert name in listed
        assert shown.code == 0
        lines = [*listed.splitlines(), *shown.out.splitlines()]
        assert all(len(line) <= 80 or " " not in line.strip() for line in lines)
        assert presets()[name].published in shown.out
    assert cliploom("models").out == listed
    assert [each["name"] for each in json.loads(cliploom("models", "list", "--json").out)] == list(presets())
    assert json.loads(cliploom("models", "show", "bit_m_r50x1", "--json").out)["dims"] == {"picture": 2048}
    assert_one_sentence(cliploom("models", "show", "bit"), 2, ("no preset 'bit'",))
    assert_one_sentence(cliploom("models", "lst"), 2, ("no command 'lst'; did you mean 'list'?",))


def scored_gifs(folder: Path) -> None:
    scores = presets()["s3d_milnce"].scores
    assert scores is not None
    for number, name in enumerate(scores.files):
        write_gif(folder / name, [50] * (20 + 20 * number), size=(64 + 32 * number, 64))


def test_published_scores_are_computed_where_the_files_are(
    tmp_path: Path, cliploom: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = cliploom("models", "check", "s3d_milnce", "--files", tmp_path)
    assert ended.code == 1
    for said in ("these files are missing", "s3d_1.tar.gz", "YosriAirTerjun.gif", "upload.wikimedia.org"):
        assert said in ended.out
    # A stand-in has the signature of the published model, and other scores.
    (tmp_path / "gifs").mkdir()
    (tmp_path / "my-model.tar.gz").write_bytes((MODELS / "s3d.tar.gz").read_bytes())
    scored_gifs(tmp_path / "gifs")
    found = check_preset("s3d_milnce", tmp_path, print)
    assert not found.right
    said = check_text(found)
    assert "clip: 16 numbers, published: 512" in said
    assert "of 9 scores are as published" in said
    here = {(score.file, score.sentence): score.here for score in found.scores}
    assert len(here) == 9
    # The same as an index answers.
    monkeypatch.chdir(tmp_path)
    spec = spec_text(look(tmp_path / "my-model.tar.gz", "my-model.tar.gz")).replace("media/**/*", "gifs/*")
    (tmp_path / "cliploom.yaml").write_text(spec)
    document = load_document(tmp_path / "cliploom.yaml", ())
    run_spec(parse_document(document), document, tmp_path, RunOptions(), print)
    for hit in open_store("store").search("playing guitar", top=3):
        assert hit.score == pytest.approx(here[hit.uid, "playing guitar"], abs=2e-3)
    # Scores and lengths that are as published are right.
    scores = tuple(replace(score, published=score.here + 0.04) for score in found.scores)
    right = replace(found, scores=scores, dims={"clip": (16, 16)})
    assert right.right
    assert "9 of 9 scores are as published (within 0.05)." in check_text(right)
    assert json.loads(json.dumps(right.to_dict()))["right"]


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def keras_config(layer: str = "Dense") -> bytes:
    layers = [
        {"class_name": "InputLayer", "config": {"name": "pixels", "batch_shape": [None, 40, 50, 3]}},
        {"class_name": layer, "config": {"name": "avg_pool"}},
    ]
    return json.dumps({"class_name": "Functional", "config": {"layers": layers}}).encode()


def test_keras_files_by_their_configuration(tmp_path: Path) -> None:
    found = look(zipped(tmp_path / "m.keras", {"config.json": keras_config()}), "m.keras")
    assert (found.kind, found.options["input"]) == ("keras", {"layout": "nhwc", "width": 50, "height": 40})
    assert found.options["outputs"] == {"avg_pool": {"node": "avg_pool"}}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = keras_config().decode()
    assert look(tmp_path / "m.h5", "m.h5").options["input"] == found.options["input"]
    code = look(zipped(tmp_path / "l.keras", {"config.json": keras_config("Lambda")}), "l.keras")
    assert (code.kind, "never run" in code.advice) == ("", True)


def safetensors(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_folders_of_transformers(tmp_path: Path) -> None:
    clip = {"model_type": "clip", "projection_dim": 512, "vision_config": {"patch_size": 32}}
    found = look(safetensors(tmp_path / "clip", clip), "clip")
    assert (found.kind, found.preset) == ("clip", "clip_vit_b32")
    found = look(safetensors(tmp_path / "other", clip | {"projection_dim": 64}), "other")
    assert (found.kind, found.preset, found.options) == ("clip", "", {"model": "other"})
    mpnet = safetensors(tmp_path / "mpnet", {"model_type": "mpnet", "hidden_size": 768})
    assert "save it by sentence-transformers" in look(mpnet, "mpnet").advice
    (mpnet / "modules.json").write_text('[{"path": "", "type": "sentence_transformers.models.Transformer"}]')
    assert look(mpnet, "mpnet").preset == "all_mpnet_base_v2"
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "open_clip_config.json").write_text("{}")
    (tmp_path / "open" / "open_clip_model.safetensors").write_bytes(b"x")
    assert look(tmp_path / "open", "open").options == {"model": "local-dir:open"}
    # A folder that holds one model is that model.
    (tmp_path / "outer").mkdir()
    mpnet.rename(tmp_path / "outer" / "mpnet")
    assert look(tmp_path / "outer", "outer").options == {"model": "outer/mpnet"}


def test_weights_alone_say_what_they_need(tmp_path: Path) -> None:
    folder = safetensors(tmp_path / "w", {})
    found = look(folder / "model.safetensors", "w/model.safetensors")
    assert (found.kind, "torchvision:NAME" in found.advice) == ("", True)
    weights = zipped(tmp_path / "net.pth", {"net/data.pkl": b"\x80\x02}.", "net/data/0": b"1234"})
    assert "torchvision:NAME" in look(weights, "net.pth").advice
    with pytest.raises(CliploomError, match=r"SHA-256 does not begin with 6c64b313; download it again from https"):
        look(weights.rename(tmp_path / "vgg16_bn-6c64b313.pth"), "vgg16_bn-6c64b313.pth")


def archive(path: Path, content: bytes, name: str = "saved_model.pb", **member: Any) -> Path:
    with tarfile.open(path, "w:gz") as out:
        info = tarfile.TarInfo(name)
        for key, value in member.items():
            setattr(info, key, value)
        info.size = len(content)
        out.addfile(info, io.BytesIO(content))
    return path


def hostile(folder: Path, case: str) -> Path:
    path = folder / case
    if case == "loop":
        path.mkdir()
        (path / "again").symlink_to(path)
    elif case == "nowhere.pb":
        path.symlink_to(folder / "gone")
    elif case == "pipe.onnx":
        os.mkfifo(path)
    elif case == "pipes":
        path.mkdir()
        os.mkfifo(path / "saved_model.pb")
    elif case == "damaged.pb":
        path.write_bytes(b"\x0a\xff\xff\xff\xff\x0f" + b"x" * 100)
    elif case == "many-nodes.pb":
        path.write_bytes(b"\x0a\x00" * 10_000_000)
    elif case == "deep.onnx":
        path.write_bytes(b"\x3a\x7f" * 1000)
    elif case == "link.tar.gz":
        archive(path, b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    elif case == "outside.tar.gz":
        archive(path, b"x", "../saved_model.pb")
    elif case == "bomb.keras":
        zipped(path, {"config.json": b" " * (100 << 20)})
    elif case == "pickle.pt2":
        zipped(path, {"m/models/model.json": b"{}", "m/data/constants/opaque_1": b"\x80\x04c"})
    elif case == "cut.safetensors":
        path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    elif case == "nested.keras":
        zipped(path, {"config.json": b"[" * 1_000_000})
    elif case == "long.vec":
        path.write_bytes(b"1 " * 20_000_000)
    elif case == "zeros.gz":
        path.write_bytes(gzip.compress(b"\0" * 50_000_000))
    elif case == "word2vec.bin":
        path.write_bytes(b"3 4\ndog " + np.zeros(4, "<f4").tobytes())
    elif case == "weights.h5":
        with h5py.File(path, "w") as file:
            file.create_group("model_weights")
    elif case == "notes.txt":
        path.write_text("Only words.\n")
    elif case == "nothing.onnx":
        path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("loop", "is not a model"),
        ("nowhere.pb", "is a link that leads nowhere"),
        ("pipe.onnx", "is neither a file nor a folder"),
        ("pipes", "is not a model"),
        ("damaged.pb", "is not a TensorFlow GraphDef"),
        (
            "many-nodes.pb",
            "is not a frozen graph|needs more than 1 GiB|is not a TensorFlow GraphDef|crashed the process",
        ),
        ("deep.onnx", "is not an ONNX file"),
        ("link.tar.gz", "is a link or leads out of its folder"),
        ("outside.tar.gz", "is a link or leads out of its folder"),
        ("bomb.keras", "is damaged"),
        ("pickle.pt2", "holds pickled objects"),
        ("cut.safetensors", "is not a safetensors file"),
        ("nested.keras", "is damaged|cannot be inspected"),
        ("long.vec", "is not a model"),
        ("zeros.gz", "is not a model"),
        ("word2vec.bin", "binary format, which is not supported; save them as text"),
        ("weights.h5", "HDF5 with weights alone"),
        ("notes.txt", "is not a model"),
        ("nothing.onnx", "is empty"),
        ("missing", "There is no model"),
    ],
)
def test_hostile_files_end_in_one_sentence(case: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CliploomError, match=message) as refused:
        look_apart(hostile(tmp_path, case), case, memory=1 << 30)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_crowded_folder_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliploom.transforms.model_files.look.MOST_ENTRIES", 3)
    for number in range(4):
        (tmp_path / f"{number}.onnx").touch()
    with pytest.raises(CliploomError, match="has more than 3 files"):
        look(tmp_path, "crowd")


def test_looking_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    with pytest.raises(CliploomError, match="took more than 0 s to inspect"):
        look_apart(tmp_path, "folder", seconds=0)


def test_a_file_of_a_mebibyte_in_nodes_is_inspected_in_a_separate_process(tmp_path: Path) -> None:
    found = look_apart(written(tmp_path, "inception.pb"), "inception.pb")
    assert Found.from_dict(found.to_dict()) == found


def test_what_no_encoder_takes_says_what_to_do(tmp_path: Path, cliploom: Command) -> None:
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 8])
    given = helper.make_tensor_value_info("out", TensorProto.INT64, ["n", 8])
    graph = helper.make_graph([helper.make_node("Identity", ["ids"], ["out"])], "g", [ids], [given])
    onnx.save(helper.make_model(graph), tmp_path / "text.onnx")
    ended = cliploom("models", "check", tmp_path / "text.onnx")
    assert ended.code == 0
    assert "a text tower" in ended.out
    assert "version: 1" not in ended.out
    assert_one_sentence(cliploom("models", "check", "s3d_milnc"), 2, ("did you mean 's3d_milnce'?",))


def test_names_in_a_file_can_neither_end_a_line_nor_move_the_cursor(tmp_path: Path, cliploom: Command) -> None:
    odd = "v\nstore: /elsewhere\x1b[2J\u2028\x85{a: b}"
    taken = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n\x1b[1m", 3, 8, 8])
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in (odd, *map(str, range(40)))]
    nodes = [helper.make_node("ReduceMean", ["pixels"], [each.name], axes=[2, 3], keepdims=0) for each in given]
    graph = helper.make_graph(nodes, "g", [taken], given)
    onnx.save(helper.make_model(graph), tmp_path / "odd.onnx")
    ended = cliploom("models", "check", tmp_path / "odd.onnx")
    assert ended.code == 0
    assert all(line.isprintable() for line in ended.out.split("\n"))
    spec = yaml.safe_load(ended.out)
    assert spec["store"] == "./store"
    outputs = spec["encoders"]["model"]["outputs"]
    assert len(outputs) == 8
    assert odd in {each["node"] for each in outputs.values()}
    check_encoders(parse_document(spec))
