"""Models of user files are prepared in a separate process; excessive time or memory and crashes are reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_encoders_onnx import SIZE, floats, linear_model, options, picture_options, write_onnx

from cliploom.pipelines.planning.preparing import PrepareLimits, prepare_safely
from cliploom.schemas.errors import CliploomError
from cliploom.schemas.spec import Limits
from cliploom.transforms.encoders import registry
from cliploom.transforms.encoders.known_hashes import KNOWN_FILE
from cliploom.transforms.encoders.prepare import prepare_model


def limits(time: str = "10m", memory: str = "2GB") -> Limits:
    return Limits.model_validate({"prepare_time": time, "prepare_memory": memory})


def prepare(path: str, folder: Path, bounds: Limits, **changes: Any) -> Any:
    return prepare_safely("mine", "onnx", options(picture_options(path, **changes)), folder / "models", None, bounds)


def scalar(name: str, value: int | float, kind: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, kind), name)


def mean_and(path: Path, nodes: list[Any], weights: dict[str, Any]) -> str:
    """The mean colour of the pixels as ``m``, and what ``nodes`` make of it as ``y``."""
    first = helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0)
    return write_onnx(path, [first, *nodes], [floats("x", [1, 3, SIZE, SIZE])], [floats("y", [1, 3])], weights)


def looping_model(path: Path, steps: int) -> str:
    body = helper.make_graph(
        [helper.make_node("Sin", ["old"], ["new"]), helper.make_node("Identity", ["going"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            floats("old", [1, 3]),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), floats("new", [1, 3])],
    )
    loop = helper.make_node("Loop", ["steps", "always", "m"], ["y"], body=body)
    return mean_and(path, [loop], {"steps": np.array(steps, np.int64), "always": np.array(True)})


def huge_constant_model(path: Path, size: int) -> str:
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["shape"], ["big"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1])
        ),
        helper.make_node("ReduceSum", ["big"], ["all"], keepdims=0),
        helper.make_node("Add", ["m", "all"], ["y"]),
    ]
    return mean_and(path, nodes, {"shape": np.array([size], np.int64)})


def chained_model(path: Path, length: int) -> str:
    names = ["m", *(f"n{number}" for number in range(length - 1)), "y"]
    nodes = [helper.make_node("Sin", [names[at]], [names[at + 1]]) for at in range(length)]
    return mean_and(path, nodes, {})


def test_a_model_is_prepared_apart_as_it_is_here(tmp_path: Path) -> None:
    path = linear_model(tmp_path / "m.onnx", [2, 3], ["n", 3, SIZE, SIZE])
    folder, card = prepare(path, tmp_path, limits())
    here, same = prepare_model("onnx", options(picture_options(path)), tmp_path / "here")
    assert folder.name == here.name
    assert card == same
    assert sorted(file.name for file in folder.iterdir()) == sorted(file.name for file in here.iterdir())
    assert prepare(path, tmp_path, limits("1us")) == (folder, card), "it is there already"


def test_a_loop_of_a_thousand_million_steps_ends(tmp_path: Path) -> None:
    path = looping_model(tmp_path / "loop.onnx", 10**9)
    with pytest.raises(CliploomError, match=r"encoders\.mine: .* took more than 8s \(limits\.prepare_time\)") as told:
        prepare(path, tmp_path, limits("8s"))
    assert "--set limits.prepare_time=48s" in str(told.value)
    assert [path.name for path in (tmp_path / "models").iterdir()] in ([], [KNOWN_FILE])


def test_a_constant_of_four_gigabytes_is_refused(tmp_path: Path) -> None:
    path = huge_constant_model(tmp_path / "big.onnx", 10**9)
    with pytest.raises(CliploomError, match=r"took more than 1\.0 GB of memory \(limits\.prepare_memory\)") as told:
        prepare(path, tmp_path, limits(memory="1GB"))
    assert "--set limits.prepare_memory=4GB" in str(told.value)


def test_a_long_chain_ends(tmp_path: Path) -> None:
    path = chained_model(tmp_path / "chain.onnx", 20_000)
    with pytest.raises(CliploomError, match=r"encoders\.mine: preparing this model took"):
        prepare(path, tmp_path, limits("2s"))


def test_what_the_encoder_says_is_said(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model at all")
    with pytest.raises(CliploomError, match="can't be read as ONNX"):
        prepare(str(tmp_path / "m.onnx"), tmp_path, limits())


def test_memory_grows_with_the_files() -> None:
    assert PrepareLimits.of(Limits(), 10**9).memory == 12 * 10**9
    assert PrepareLimits.of(limits(memory="5GB"), 10**9).memory == 5 * 10**9


def test_only_foreign_files_are_prepared_apart() -> None:
    lite0 = registry.family("efficientnet_lite0")
    assert lite0.foreign_bytes(lite0.Options()) is None
