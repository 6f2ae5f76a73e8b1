"""ONNX files as encoders: layouts, pooling, clips, text towers, and rejected files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from cliploom.schemas.errors import CliploomError, EncodeError
from cliploom.schemas.models import ModelCard
from cliploom.transforms.encoders import registry
from cliploom.transforms.encoders.onnx_reference import onnx_runtime, plain_openvino
from cliploom.transforms.encoders.prepare import prepare_model

SIZE = 8
RNG = np.random.default_rng(7)
WEIGHTS = RNG.standard_normal((3, 5)).astype(np.float32)
WORDS = RNG.standard_normal((6, 5)).astype(np.float32)


def write_onnx(path: Path, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray]) -> str:
    graph = helper.make_graph(
        nodes, "test", inputs, outputs, [numpy_helper.from_array(value, name) for name, value in weights.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return str(path)


def floats(name: str, shape: list) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def integers(name: str, shape: list) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)


def linear_model(path: Path, axes: list[int], shape: list) -> str:
    """Mean colour times WEIGHTS (``y``), and the pixels themselves (``map``)."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["y"]),
        helper.make_node("Identity", ["x"], ["map"]),
    ]
    return write_onnx(path, nodes, [floats("x", shape)], [floats("y", None), floats("map", None)], {"w": WEIGHTS})


def options(values: dict[str, Any]) -> Any:
    return registry.family("onnx").Options.model_validate(values)


def picture_options(model: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": model,
        "input": {"layout": "nchw", "width": SIZE, "height": SIZE, "offset": [10, 20, 30], "scale": 64},
        "outputs": {"v": {"node": "y"}},
    }
    return values | changes


@pytest.fixture
def pictures() -> list[np.ndarray]:
    return list(np.random.default_rng(1).integers(0, 256, (7, SIZE, SIZE, 3), np.uint8))


def expected_vector(picture: np.ndarray) -> np.ndarray:
    return ((picture - np.float32([10, 20, 30])) / 64).mean(axis=(0, 1)) @ WEIGHTS


@pytest.mark.parametrize("batch", ["n", 1, 3])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_pictures_in_either_layout(tmp_path: Path, pictures: list[np.ndarray], layout: str, batch: str | int) -> None:
    axes, rest = ([2, 3], [3, SIZE, SIZE]) if layout == "nchw" else ([1, 2], [SIZE, SIZE, 3])
    values = picture_options(linear_model(tmp_path / "m.onnx", axes, [batch, *rest]))
    values["input"] = values["input"] | {"layout": layout}
    folder, card = prepare_model("onnx", options(values), tmp_path / "models")
    assert card.modality == "frame"
    assert card.outputs["v"].dim == 5
    assert card.agreement["v"] > 0.999999
    rows = registry.load(folder).encode(pictures)
    for picture, row in zip(pictures, rows, strict=True):
        np.testing.assert_allclose(row["v"], expected_vector(picture), rtol=1e-4, atol=1e-5)  # type: ignore[index]


@pytest.mark.parametrize(("layout", "axes"), [("nthwc", [1, 2, 3]), ("ntchw", [1, 3, 4]), ("ncthw", [2, 3, 4])])
def test_clips_in_any_layout(tmp_path: Path, layout: str, axes: list[int]) -> None:
    sizes = {"n": "n", "t": 4, "c": 3, "h": SIZE, "w": SIZE}
    values = picture_options(linear_model(tmp_path / "m.onnx", axes, [sizes[axis] for axis in layout]))
    values["input"] = values["input"] | {"layout": layout, "frames": 4}
    folder, card = prepare_model("onnx", options(values), tmp_path / "models")
    assert (card.modality, card.clip_frames) == ("clip", 4)
    clip = np.random.default_rng(2).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    row, refused = registry.load(folder).encode([clip, clip[:3]])
    wanted = np.mean([expected_vector(frame) for frame in clip], axis=0)
    np.testing.assert_allclose(row["v"], wanted, rtol=1e-4, atol=1e-5)  # type: ignore[index]
    assert "takes uint8 [4, 8, 8, 3], not uint8 [3, 8, 8, 3]" in str(refused)


@pytest.mark.parametrize(("layout", "channel_axis"), [("nchw", 1), ("nchw", -3), ("nhwc", -1), ("nhwc", 3)])
def test_a_map_is_averaged_over_space(
    tmp_path: Path, pictures: list[np.ndarray], layout: str, channel_axis: int
) -> None:
    rest = [3, SIZE, SIZE] if layout == "nchw" else [SIZE, SIZE, 3]
    values = picture_options(linear_model(tmp_path / "m.onnx", [1, 2], ["n", *rest]))
    if layout == "nchw":
        values = picture_options(linear_model(tmp_path / "m.onnx", [2, 3], ["n", *rest]))
    values["input"] = values["input"] | {"layout": layout}
    values["outputs"] = {"colour": {"node": "map", "pool": "mean", "channel_axis": channel_axis}}
    folder, card = prepare_model("onnx", options(values), tmp_path / "models")
    assert card.outputs["colour"].dim == 3
    rows = registry.load(folder).encode(pictures[:1])
    wanted = ((pictures[0] - np.float32([10, 20, 30])) / 64).mean(axis=(0, 1))
    np.testing.assert_allclose(rows[0]["colour"], wanted, rtol=1e-4, atol=1e-5)  # type: ignore[index]


def test_a_value_that_is_not_finite_fails_its_item_only(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Log", ["mean"], ["y"]),
    ]
    shape = ["n", 3, SIZE, SIZE]
    model = write_onnx(tmp_path / "m.onnx", nodes, [floats("x", shape)], [floats("y", None)], {})
    values = picture_options(model)
    values["input"] = values["input"] | {"offset": 0, "scale": 1}
    folder, _ = prepare_model("onnx", options(values), tmp_path / "models")
    black, grey = np.zeros((SIZE, SIZE, 3), np.uint8), np.full((SIZE, SIZE, 3), 100, np.uint8)
    rows = registry.load(folder).encode([grey, black, grey])
    assert [isinstance(row, EncodeError) for row in rows] == [False, True, False]
    assert str(rows[1]) == "the encoder's output 'v' is -inf at position 0."


def tokenizer(path: Path) -> str:
    words = {"[PAD]": 0, "cat": 1, "dog": 2, "house": 3, "[UNK]": 4, "tree": 5}
    built = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.save(str(path))
    return str(path)


def text_model(path: Path, tokens: str | int, *, masked: bool = True, typed: bool = False) -> str:
    """Mean of the WORDS of the tokens that are there (with a mask), or of all tokens."""
    nodes = [helper.make_node("Gather", ["words", "input_ids"], ["vectors"])]
    inputs = [integers("input_ids", ["n", tokens])]
    weights = {"words": WORDS, "one": np.array([1], np.int64), "two": np.array([2], np.int64)}
    if masked:
        inputs.append(integers("attention_mask", ["n", tokens]))
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["present"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["present", "two"], ["weights"]),
            helper.make_node("Mul", ["vectors", "weights"], ["weighted"]),
            helper.make_node("ReduceSum", ["weighted", "one"], ["sum"], keepdims=0),
            helper.make_node("ReduceSum", ["weights", "one"], ["count"], keepdims=0),
            helper.make_node("Div", ["sum", "count"], ["z"]),
        ]
    else:
        nodes.append(helper.make_node("ReduceMean", ["vectors"], ["z"], axes=[1], keepdims=0))
    if typed:
        inputs.append(integers("token_type_ids", ["n", tokens]))
        nodes += [
            helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["types", "one"], ["typesum"], keepdims=1),
            helper.make_node("Add", ["z", "typesum"], ["z2"]),
        ]
    return write_onnx(path, nodes, inputs, [floats("z2" if typed else "z", None)], weights)


@pytest.mark.parametrize(
    ("tokens", "masked", "typed"), [("t", True, False), ("t", True, True), (6, True, False), (6, False, False)]
)
def test_a_text_tower_shares_the_space(tmp_path: Path, tokens: str | int, masked: bool, typed: bool) -> None:
    text = {
        "model": text_model(tmp_path / "t.onnx", tokens, masked=masked, typed=typed),
        "tokenizer": tokenizer(tmp_path / "t.json"),
        "max_tokens": 6,
    }
    model = linear_model(tmp_path / "m.onnx", [2, 3], ["n", 3, SIZE, SIZE])
    folder, card = prepare_model("onnx", options(picture_options(model, text=text)), tmp_path / "models")
    assert card.outputs["v"].text
    assert registry.referred_models(card) == ()
    encode = registry.load_text_tower(folder)
    found = encode(["cat", "dog house", "cat cat cat cat cat cat cat dog", "unheard"])
    sentences = [[1], [2, 3], [1] * 6, [4]]
    padded = sentences if masked else [ids + [0] * (6 - len(ids)) for ids in sentences]
    np.testing.assert_allclose(found, [WORDS[ids].mean(axis=0) for ids in padded], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(encode(["dog house"])[0], found[1])


def test_a_prompt_is_put_before_each_query(tmp_path: Path) -> None:
    text = {
        "model": text_model(tmp_path / "t.onnx", "t"),
        "tokenizer": tokenizer(tmp_path / "t.json"),
        "max_tokens": 6,
        "prompt": "tree ",
    }
    model = linear_model(tmp_path / "m.onnx", [2, 3], ["n", 3, SIZE, SIZE])
    folder, _ = prepare_model("onnx", options(picture_options(model, text=text)), tmp_path / "models")
    np.testing.assert_allclose(registry.load_text_tower(folder)(["cat"])[0], WORDS[[5, 1]].mean(axis=0), rtol=1e-4)


def test_only_the_named_output_has_the_text_space(tmp_path: Path) -> None:
    values = picture_options(linear_model(tmp_path / "m.onnx", [2, 3], ["n", 3, SIZE, SIZE]))
    values["outputs"] = {"v": {"node": "y"}, "colour": {"node": "map", "pool": "mean"}}
    values["text"] = {
        "model": text_model(tmp_path / "t.onnx", "t"),
        "tokenizer": tokenizer(tmp_path / "t.json"),
        "max_tokens": 6,
        "output": "v",
    }
    _, card = prepare_model("onnx", options(values), tmp_path / "models")
    assert {name: output.text for name, output in card.outputs.items()} == {"v": True, "colour": False}
    assert card.outputs["v"].space != card.outputs["colour"].space
    values["text"]["output"] = "colour"
    with pytest.raises(CliploomError, match="vectors of 5 numbers and the output 'colour' of 3; they share no space"):
        prepare_model("onnx", options(values), tmp_path / "models")


def test_the_digest_follows_the_content_not_the_path(tmp_path: Path) -> None:
    first = linear_model(tmp_path / "a.onnx", [2, 3], ["n", 3, SIZE, SIZE])
    (tmp_path / "b.onnx").write_bytes(Path(first).read_bytes())
    digests = {
        prepare_model("onnx", options(picture_options(str(tmp_path / name))), tmp_path / "models")[1].digest
        for name in ("a.onnx", "b.onnx")
    }
    assert len(digests) == 1
    (tmp_path / "b.onnx.data").write_bytes(b"weights beside")
    family = registry.family("onnx")
    assert len(family.fingerprint(options(picture_options(str(tmp_path / "b.onnx"))))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "none.onnx"}, "There is no ONNX file 'none.onnx'"),
        ({"outputs": {"v": {"node": "nope"}}}, "has no output 'nope'; it has 'y', 'map'"),
        ({"outputs": {"v": {"node": "map"}}}, "not a vector; add pool: mean to outputs.v"),
        ({"outputs": {"v": {"node": "map", "pool": "mean", "channel_axis": 9}}}, "channel_axis 9 is not an axis"),
        ({"outputs": {"v": {"node": "map", "pool": "mean", "channel_axis": 0}}}, "channel_axis 0 is not an axis"),
        ({"input": {"layout": "nhwc", "width": SIZE, "height": SIZE}}, "which is not 'nhwc' with h 8, w 8, c 3"),
        ({"input": {"layout": "nchw", "width": 9, "height": SIZE}}, "correct input"),
        ({"input": {"layout": "nchw", "width": SIZE, "height": SIZE, "node": "z"}}, "has the inputs 'x'"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    model = linear_model(tmp_path / "m.onnx", [2, 3], ["n", 3, SIZE, SIZE])
    with pytest.raises(CliploomError, match=message):
        prepare_model("onnx", options(picture_options(model) | change), tmp_path / "models")
    models_folder = tmp_path / "models"
    assert not models_folder.exists() or list(models_folder.iterdir()) == []


def test_a_file_that_is_no_onnx_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("hello")
    with pytest.raises(CliploomError, match=r"m\.onnx' can't be read as ONNX"):
        prepare_model("onnx", options(picture_options(str(tmp_path / "m.onnx"))), tmp_path / "models")


def test_a_text_file_that_takes_pictures_is_refused(tmp_path: Path) -> None:
    model = linear_model(tmp_path / "m.onnx", [2, 3], ["n", 3, SIZE, SIZE])
    text = {"model": model, "tokenizer": tokenizer(tmp_path / "t.json"), "max_tokens": 6}
    with pytest.raises(CliploomError, match="it must take token ids"):
        prepare_model("onnx", options(picture_options(model, text=text)), tmp_path / "models")


def test_settings_of_the_tower_lie_beside_the_graph(tmp_path: Path) -> None:
    text = {
        "model": text_model(tmp_path / "t.onnx", "t"),
        "tokenizer": tokenizer(tmp_path / "t.json"),
        "max_tokens": 30,
    }
    model = linear_model(tmp_path / "m.onnx", [2, 3], ["n", 3, SIZE, SIZE])
    folder, _ = prepare_model("onnx", options(picture_options(model, text=text)), tmp_path / "models")
    settings = json.loads((folder / "text.json").read_text())
    assert (settings["max_tokens"], settings["step"], settings["masked"]) == (30, 2, True)


def test_both_references_agree(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    values = options(picture_options(linear_model(path, [2, 3], ["n", 3, SIZE, SIZE])))
    given = RNG.standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    found = [run(path, values)(given)[0] for run in (onnx_runtime, plain_openvino)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


@pytest.mark.parametrize("half", [True, False])
def test_files_in_half_precision_take_half_precision(tmp_path: Path, half: bool) -> None:
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    ports = [helper.make_tensor_value_info(name, kind, shape) for name, shape in (("x", [1, 3, 8, 8]), ("y", [1, 3]))]
    model = write_onnx(tmp_path / "m.onnx", nodes, ports[:1], ports[1:], {})
    folder, _ = prepare_model("onnx", options(picture_options(model)), tmp_path / "models")
    grey = np.full((SIZE, SIZE, 3), 74, np.uint8)
    row = registry.load(folder).encode([grey])[0]
    np.testing.assert_allclose(row["v"], [1, 54 / 64, 44 / 64], rtol=2e-3)  # type: ignore[index]


def test_a_rounding_is_part_of_the_digest_only_where_it_is_not_the_usual_one(tmp_path: Path) -> None:
    model = linear_model(tmp_path / "model.onnx", [2, 3], [None, 3, SIZE, SIZE])
    values = picture_options(model)
    assert "rounding" not in options(values).values()["input"]
    values["input"] |= {"rounding": "huggingface"}
    chosen = options(values)
    assert chosen.values()["input"]["rounding"] == "huggingface"
    assert chosen.input.preprocess.rounding == "huggingface"
    _, card = prepare_model("onnx", chosen, tmp_path / "models")
    assert ModelCard.from_dict(card.to_dict()) == card
    usual = replace(card, preprocess=options(picture_options(model)).input.preprocess)
    assert "rounding" not in usual.to_dict()["preprocess"]
    assert ModelCard.from_dict(usual.to_dict()) == usual
