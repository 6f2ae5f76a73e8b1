"""ONNX graphs of prepared models: each operation against OpenVINO, models of several kinds, and what is refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op
from small_vit import SIZE, write_vit

from cliploom.schemas.errors import CliploomError, DeviceError
from cliploom.schemas.models import CARD_FILE
from cliploom.transforms.encoders import onnx_operations
from cliploom.transforms.encoders.accelerators import PROVIDER_VARIABLE, Accelerator, find_accelerator
from cliploom.transforms.encoders.agreement import GOLDEN_SENTENCES, golden_pictures, smallest_cosine
from cliploom.transforms.encoders.device_graphs import (
    DeviceEncoder,
    graphs_digest,
    open_on_device,
    prepare_graphs,
    read_graphs_card,
)
from cliploom.transforms.encoders.drift import check_inputs
from cliploom.transforms.encoders.ir_to_onnx import write_onnx
from cliploom.transforms.encoders.onnx_session import OnnxSession
from cliploom.transforms.encoders.prepare import prepare_model
from cliploom.transforms.encoders.registry import family, load
from cliploom.transforms.encoders.runtime import CompiledGraph, named_result

LOCAL = Accelerator("CPUExecutionProvider", 0, "the processor", lambda: None)


def ints(*values: int) -> Any:
    return op.constant(np.array(values, np.int64))


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def attended(x: Any, **settings: Any) -> Any:
    heads = op.transpose(op.reshape(x, ints(-1, 6, 2, 4), False), ints(0, 2, 1, 3))
    return op.scaled_dot_product_attention(heads, op.negative(heads), op.relu(heads), **settings)


OPERATIONS: dict[str, tuple[list[int], Callable[[Any], Any]]] = {
    "strided slice": ([2, 6, 8], lambda x: op.strided_slice(x, [0, 1, 7], [0, 5, 0], [1, 2, -2], [1, 0, 0], [1, 0, 0])),
    "slice that drops an axis": (
        [2, 6, 8],
        lambda x: op.strided_slice(x, [0, -1], [0, 0], [1, 1], [1, 0], [1, 0], [], [0, 1]),
    ),
    "slice with a new axis": (
        [2, 6, 8],
        lambda x: op.strided_slice(x, [0, 0, 2], [0, 0, 5], [1, 1, 1], [1, 0, 0], [1, 0, 0], [0, 1, 0]),
    ),
    "slice": ([2, 6, 8], lambda x: op.slice(x, [1, 6], [5, 0], [2, -3], [1, 2])),
    "attention": ([2, 6, 8], attended),
    "causal attention": ([2, 6, 8], lambda x: attended(x, causal=True)),
    "attention with a mask": (
        [2, 6, 8],
        lambda x: attended(x, attention_mask=op.constant(np.tri(6, dtype=bool)), causal=False),
    ),
    "attention with added scores": ([2, 6, 8], lambda x: attended(x, attention_mask=op.constant(weights(6, 6)))),
    "largest": ([2, 6, 8], lambda x: op.convert(op.topk(x, np.int32(3), 1, "min", "value", "i32").output(1), "f32")),
    "normalised": ([2, 6, 8], lambda x: op.mvn(x, [1, 2], True, 1e-2, "outside_sqrt")),
    "of length 1": ([2, 6, 8], lambda x: op.normalize_l2(x, ints(2), 1e-2, "add")),
    "groups": ([2, 6, 4, 4], lambda x: ov.opset12.group_normalization(x, weights(6), weights(6), 3, 1e-3)),
    "batch norm": (
        [2, 6, 4, 4],
        lambda x: op.batch_norm_inference(x, weights(6), weights(6), weights(6), np.abs(weights(6)), 1e-3),
    ),
    "grouped convolution": (
        [2, 6, 7, 7],
        lambda x: op.group_convolution(x, weights(3, 4, 2, 3, 3), [2, 2], [0, 0], [0, 0], [1, 1], "same_upper"),
    ),
    "dilated convolution": (
        [2, 6, 9, 9],
        lambda x: op.convolution(x, weights(5, 6, 3, 3), [1, 2], [1, 0], [2, 1], [2, 1]),
    ),
    "largest of windows after zeros": (
        [2, 3, 5, 5],
        lambda x: op.max_pool(
            op.pad(op.negative(op.relu(x)), [0, 0, 1, 1], [0, 0, 1, 1], "constant", np.float32(0)),
            [2, 2],
            [1, 1],
            [0, 0],
            [0, 0],
            [3, 3],
            "ceil",
        ).output(0),
    ),
    "mean of windows": ([2, 3, 5, 5], lambda x: op.avg_pool(x, [2, 2], [1, 1], [1, 1], [3, 3], True)),
    "mean of windows with edges": ([2, 3, 5, 5], lambda x: op.avg_pool(x, [2, 2], [1, 1], [1, 1], [3, 3], False)),
    "adaptive mean": ([2, 3, 6, 4], lambda x: op.adaptive_avg_pool(x, ints(2, 2))),
    "reflected edges": ([2, 6, 8], lambda x: op.pad(x, [0, 1, 2], [0, 2, 1], "reflect")),
    "cut in three": ([2, 6, 8], lambda x: op.variadic_split(x, np.int64(2), ints(1, -1, 3)).output(1)),
    "gathered": ([2, 6, 8], lambda x: op.gather(x, ints(3, -1), np.int64(1))),
    "slopes": ([2, 6, 8], lambda x: op.prelu(x, weights(6))),
    "gelu": ([2, 6, 8], lambda x: op.add(op.gelu(x, "tanh"), op.gelu(x, "erf"))),
    "swish": ([2, 6, 8], lambda x: op.add(op.swish(x, np.float32(0.5)), op.swish(x))),
    "hard": ([2, 6, 8], lambda x: op.add(op.hsigmoid(x), op.add(op.hswish(x), op.elu(x, 0.7)))),
    "where": ([2, 6, 8], lambda x: op.select(op.not_equal(op.relu(x), np.float32(0)), x, np.float32(-3))),
    "resized": (
        [2, 3, 5, 5],
        lambda x: ov.opset11.interpolate(x, ints(8, 3), "linear_onnx", "sizes", axes=ints(2, 3)),
    ),
    "rolled": ([2, 6, 8], lambda x: op.roll(x, ints(2, -3), ints(1, 2))),
    "summed up": ([2, 6, 8], lambda x: op.cum_sum(x, np.int64(2), True, True)),
    "product": ([2, 6, 8], lambda x: op.matmul(x, weights(5, 8), False, True)),
    "reduced": ([2, 6, 8], lambda x: op.add(op.reduce_l2(x, [1], True), op.reduce_max(x, [1, 2], True))),
    "differences": ([2, 6, 8], lambda x: op.log_softmax(op.squared_difference(x, np.float32(2)), 1)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_what_openvino_gives_at_any_batch(tmp_path: Path, name: str) -> None:
    shape, build = OPERATIONS[name]
    x = op.parameter(shape, np.float32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    model = ov.Model([named_result(build(x), "y")], [x], name)
    given = np.random.default_rng(5).normal(size=(6, *shape[1:])).astype(np.float32)
    compiled = CompiledGraph(model, ["y"], "f32")
    wanted = np.concatenate([compiled.run([given[begin : begin + 2]])["y"] for begin in (0, 2, 4)])
    for any_batch in (False, True):
        write_onnx(model, tmp_path / "m.onnx", any_batch=any_batch)
        session = OnnxSession(tmp_path / "m.onnx", ["y"], LOCAL)
        assert session.input_shapes == ((-1 if any_batch else 2, *shape[1:]),)
        pieces = [given] if any_batch else [given[begin : begin + 2] for begin in (0, 2, 4)]
        found = np.concatenate([session.run([piece])["y"] for piece in pieces])
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_class_token_is_repeated_for_each_item(tmp_path: Path) -> None:
    x = op.parameter([1, 4, 8], np.float32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    joined = op.concat([op.constant(weights(1, 1, 8)), x], 1)
    model = ov.Model([named_result(op.reshape(joined, ints(1, 40), False), "y")], [x], "token")
    write_onnx(model, tmp_path / "m.onnx", any_batch=True)
    given = weights(3, 4, 8)
    found = OnnxSession(tmp_path / "m.onnx", ["y"], LOCAL).run([given])["y"]
    token = np.broadcast_to(weights(1, 1, 8), (3, 1, 8))
    np.testing.assert_array_equal(found, np.concatenate([token, given], axis=1).reshape(3, 40))


def test_weights_of_a_large_model_stand_beside_the_graph(tmp_path: Path) -> None:
    x = op.parameter([1, 64], np.float32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    model = ov.Model([named_result(op.matmul(x, weights(64, 32), False, False), "y")], [x], "m")
    write_onnx(model, tmp_path / "m.onnx", any_batch=True, large=1000)
    assert (tmp_path / "m.onnx.data").stat().st_size >= 64 * 32 * 4
    session = OnnxSession(tmp_path / "m.onnx", ["y"], LOCAL)
    given = weights(3, 64)
    np.testing.assert_allclose(session.run([given])["y"], given @ weights(64, 32), rtol=1e-4, atol=1e-4)


SAVED = Path(__file__).with_name("saved_models")
FILES: dict[str, tuple[str, dict[str, Any], int]] = {
    "saved_model of pictures": (
        "saved_model",
        {
            "model": str(SAVED / "bit.tar.gz"),
            "input": {"layout": "nhwc", "width": 32, "height": 32},
            "outputs": {"picture": {"node": "output_1"}},
        },
        0,
    ),
    "saved_model of clips": (
        "saved_model",
        {
            "model": str(SAVED / "s3d.tar.gz"),
            "signature": "video",
            "input": {"layout": "nthwc", "frames": 4, "width": 16, "height": 16},
            "outputs": {"clip": {"node": "video_embedding"}, "mixed": {"node": "mixed_5c"}},
        },
        0,
    ),
    "frozen_graph": (
        "frozen_graph",
        {
            "model": str(SAVED / "inception.pb"),
            "input": {"layout": "hwc", "node": "DecodeJpeg:0", "width": 32, "height": 24, "offset": 0, "scale": 1},
            "outputs": {"pool": {"node": "pool_3/_reshape:0"}},
        },
        1,
    ),
}
"""Kind, options, and how many items its graph computes together (0: any number)."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def vit(folder: Path) -> dict[str, Any]:
    path = write_vit(folder / "vit.onnx", outlier=1.0)
    size = {"layout": "nchw", "width": SIZE, "height": SIZE, "offset": 128, "scale": 64}
    return {"model": path, "input": size, "outputs": {"v": {"node": "y"}}}


@pytest.fixture(scope="module")
def vit_model(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = family("onnx").Options.model_validate(vit(tmp_path_factory.mktemp("vit")))
    return prepare_model("onnx", options, models)[0]


def on_local(folder: Path) -> DeviceEncoder:
    return open_on_device(folder, folder.parent / graphs_digest(folder.name), LOCAL, "fail")


@pytest.mark.parametrize("kind", ["minilm", "efficientnet_lite0"])
def test_a_built_in_encoder_gives_the_same_vectors(models: Path, kind: str) -> None:
    folder, card = prepare_model(kind, family(kind).Options(), models)
    made = prepare_graphs(str(models), card.digest)
    assert set(made["graphs"].values()) == {0}
    assert min(made["agreement"].values()) >= 0.99999
    assert set(made["agreement"]) == set(card.outputs)
    items: list[Any] = [*GOLDEN_SENTENCES, "one more"] if kind == "minilm" else list(golden_pictures(224, 224))
    device, plain = on_local(folder), load(folder)
    for name in card.outputs:
        found, wanted = (np.stack([row[name] for row in each.encode(items)]) for each in (device, plain))
        assert smallest_cosine(found, wanted) >= 0.99999
    assert device.processor.features == "the processor"
    assert device.processor.agreement == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", FILES)
def test_files_of_tensorflow_give_the_same_vectors(models: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # agreement with it is measured elsewhere
    kind, values, together = FILES[name]
    folder, card = prepare_model(kind, family(kind).Options.model_validate(values), models)
    made = prepare_graphs(str(models), card.digest)
    assert made["graphs"] == {"model.onnx": together}
    assert min(made["agreement"].values()) >= 0.99999
    shape = check_inputs(card)[0].shape
    items = list(np.random.default_rng(1).integers(0, 256, (5, *shape), np.uint8))
    device, plain = on_local(folder).encode(items), load(folder).encode(items)
    for output in card.outputs:
        found, wanted = (np.stack([row[output] for row in rows]) for rows in (device, plain))
        assert smallest_cosine(found, wanted) >= 0.99999


def test_a_vision_transformer_takes_any_number_and_wrong_items_are_their_own_errors(vit_model: Path) -> None:
    made = prepare_graphs(str(vit_model.parent), vit_model.name)
    assert made["graphs"] == {"model.onnx": 0}
    pictures: list[Any] = list(golden_pictures(SIZE, SIZE)) * 5
    rows = on_local(vit_model).encode([*pictures, np.zeros((3, 3, 3), np.uint8), None])
    wanted = np.stack([row["v"] for row in load(vit_model).encode(pictures)])
    assert smallest_cosine(np.stack([row["v"] for row in rows[:-2]]), wanted) >= 0.99999
    assert [str(row)[:17] for row in rows[-2:]] == ["the encoder takes"] * 2


def test_the_graphs_are_written_once_and_are_no_part_of_the_model(vit_model: Path) -> None:
    prepare_graphs(str(vit_model.parent), vit_model.name)
    before = sorted(path.name for path in vit_model.iterdir())
    graphs = vit_model.parent / graphs_digest(vit_model.name)
    stamp = (graphs / CARD_FILE).stat().st_mtime_ns
    assert prepare_graphs(str(vit_model.parent), vit_model.name) == read_graphs_card(graphs).to_dict()
    assert (graphs / CARD_FILE).stat().st_mtime_ns == stamp
    assert sorted(path.name for path in vit_model.iterdir()) == before
    assert read_graphs_card(graphs).runtime.startswith("onnxruntime ")


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to / folder.name)
    return to / folder.name


def test_a_graph_with_other_vectors_is_refused(
    vit_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = copied(vit_model, tmp_path)
    wrong = lambda node, to: to.add("Softmax", [to.add("Abs", [to.name(node.input(0))])], axis=1)  # noqa: E731
    monkeypatch.setitem(onnx_operations.TRANSLATIONS, "Softmax", wrong)
    with pytest.raises(
        CliploomError, match=r"'onnx' has no ONNX graph that gives the same vectors: .* have a cosine of"
    ):
        prepare_graphs(str(tmp_path), here.name)
    assert [path.name for path in tmp_path.iterdir()] == [here.name]


def test_an_operation_without_a_translation_is_named(
    vit_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = copied(vit_model, tmp_path)
    monkeypatch.delitem(onnx_operations.TRANSLATIONS, "Softmax")
    with pytest.raises(CliploomError, match="there is no translation to ONNX of Softmax; leave device out"):
        prepare_graphs(str(tmp_path), here.name)


def test_a_device_that_gives_other_vectors_computes_nothing(vit_model: Path, tmp_path: Path) -> None:
    here = copied(vit_model, tmp_path)
    prepare_graphs(str(tmp_path), here.name)
    check = tmp_path / graphs_digest(here.name) / "check.npz"
    with np.load(check) as kept:
        changed = {name: kept[name] + np.float32(0.5) * np.abs(kept[name]).max() for name in kept.files}
    np.savez(check, **changed)
    with pytest.raises(DeviceError, match=r"gives vectors with a cosine of 0\.\d+ to those of the processor"):
        on_local(here)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROVIDER_VARIABLE, raising=False)
    with pytest.raises(DeviceError, match=r"has no CUDAExecutionProvider; .*pip install 'cliploom\[cuda\]'"):
        find_accelerator()
    monkeypatch.setenv(PROVIDER_VARIABLE, "NoSuchProvider")
    with pytest.raises(DeviceError, match=r"CLIPLOOM_ONNX_PROVIDER may be one of .*CPUExecutionProvider"):
        find_accelerator()
    monkeypatch.setenv(PROVIDER_VARIABLE, "CPUExecutionProvider")
    assert find_accelerator().name.startswith("cpu ")
