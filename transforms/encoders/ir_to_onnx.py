"""OpenVINO graphs as ONNX files, for devices that OpenVINO does not compute on.

A prepared model is an OpenVINO graph whatever it was made from, so one translation serves all families, and what is
put before and after the network (scaling of pixels, pooling) is in the ONNX file, too. Whether the file gives the same
vectors is measured, see ``device_graphs``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.passes import ConstantFolding, Manager

from cliploom.schemas.errors import CliploomError, MissingExtraError
from cliploom.transforms.encoders.onnx_operations import TRANSLATIONS
from cliploom.transforms.encoders.onnx_writer import UnsupportedOperationError, onnx_type

OPSET = 20
IR_VERSION = 10
RESULT = "result/"
"""Before the names of outputs, which would else be those of other values of the graph, too."""
LARGE_BYTES = 1 << 30
"""Larger weights are stored in a file beside the graph: a protocol buffer ends at 2 GB."""


def require_onnx() -> Any:
    """Import ``onnx``.

    Raises:
        MissingExtraError: when it is not installed.
    """
    if importlib.util.find_spec("onnx") is None:
        raise MissingExtraError("cuda", "Preparing an encoder with device: cuda or auto")
    import onnx

    return onnx


def write_onnx(graph: Path | ov.Model, path: Path, *, any_batch: bool, large: int = LARGE_BYTES) -> None:
    """Write an OpenVINO graph as an ONNX file.

    Args:
        graph: an IR file, or a model in memory.
        path: of the ONNX file; weights of more than ``large`` bytes get a file beside it.
        any_batch: leave the first axis of all inputs open, which graphs allow whose batch is the first axis throughout.
        large: in bytes.

    Raises:
        MissingExtraError: without the package ``onnx``.
        CliploomError: when the graph has an operation that is not translated; the message names it.
    """
    onnx = require_onnx()
    model = ov.Core().read_model(graph) if isinstance(graph, Path) else graph.clone()
    # Axes and sizes that follow from constants and from fixed shapes become constants.
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    try:
        made = _Translation(onnx, model, any_batch=any_batch).model()
    except UnsupportedOperationError as error:
        raise CliploomError(f"there is no translation to ONNX of {error}") from None
    size = sum(len(each.raw_data) for each in made.graph.initializer)
    beside = f"{path.name}.data"
    onnx.save(made, path, save_as_external_data=size > large, location=beside, all_tensors_to_one_file=True)


class _Translation:
    """One graph on its way; see ``onnx_writer.OnnxWriter``."""

    def __init__(self, onnx: Any, model: ov.Model, *, any_batch: bool) -> None:
        self._onnx = onnx
        self._model = model
        self._any_batch = any_batch
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._names: dict[tuple[str, int], str] = {}
        self._constants: dict[str, NDArray[Any]] = {}
        self._varying: set[str] = set()  # nodes whose values have a row for each item

    def model(self) -> Any:
        """The ONNX model."""
        helper = self._onnx.helper
        inputs = [self._input(node) for node in self._model.get_parameters()]
        for node in self._model.get_ordered_ops():
            kind = node.get_type_name()
            if kind == "Constant":
                self._constants[node.get_friendly_name()] = node.data
            elif kind not in ("Parameter", "Result"):
                self._translate(node)
        outputs = [self._output(node) for node in self._model.get_results()]
        graph = helper.make_graph(self._nodes, "cliploom", inputs, outputs, self._weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _translate(self, node: Any) -> None:
        kind, name = node.get_type_name(), node.get_friendly_name()
        if kind not in TRANSLATIONS:
            raise UnsupportedOperationError(kind)
        if kind != "ShapeOf" and any(self.varies(port) for port in node.inputs()):
            self._varying.add(name)
        found = TRANSLATIONS[kind](node, self)
        for number, each in enumerate([found] if isinstance(found, str) else found):
            self._names[name, number] = each

    def _input(self, node: Any) -> Any:
        name = node.output(0).get_any_name()
        shape: list[int | str | None] = [
            None if size.is_dynamic else size.get_length() for size in node.get_partial_shape()
        ]
        if self._any_batch and shape[0] is not None:
            shape[0] = "batch"
            self._varying.add(node.get_friendly_name())
        shape = [f"{name}_{axis}" if size is None else size for axis, size in enumerate(shape)]
        self._names[node.get_friendly_name(), 0] = name
        return self._onnx.helper.make_tensor_value_info(name, onnx_type(node.get_element_type()), shape)

    def _output(self, node: Any) -> Any:
        port = node.input(0)
        name = sorted(node.output(0).get_names())[0] if node.output(0).get_names() else node.get_friendly_name()
        self._nodes.append(self._onnx.helper.make_node("Identity", [self.name(port)], [RESULT + name]))
        sizes = [None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]
        if self.varies(port):
            sizes[0] = None
        return self._onnx.helper.make_tensor_value_info(RESULT + name, onnx_type(port.get_element_type()), sizes)

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """See ``OnnxWriter``."""
        return self.add_several(kind, inputs, 1, **attributes)[0]

    def add_several(self, kind: str, inputs: list[str], outputs: int, **attributes: Any) -> list[str]:
        """See ``OnnxWriter``."""
        number = len(self._nodes)
        names = [f"{kind}_{number}" if outputs == 1 else f"{kind}_{number}_{place}" for place in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, names, name=f"{kind}_{number}", **attributes))
        return names

    def constant(self, value: NDArray[Any]) -> str:
        """See ``OnnxWriter``."""
        name = f"constant_{len(self._weights)}"
        self._weights.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name

    def name(self, port: Any) -> str:
        """See ``OnnxWriter``."""
        source = port.get_source_output()
        key = (source.get_node().get_friendly_name(), source.get_index())
        if key not in self._names and key[0] in self._constants:
            self._names[key] = self.constant(self._constants[key[0]])
        if key not in self._names:
            raise UnsupportedOperationError(f"output {key[1]} of {source.get_node().get_type_name()}")
        return self._names[key]

    def value(self, port: Any) -> NDArray[Any]:
        """See ``OnnxWriter``."""
        node = port.get_source_output().get_node()
        if node.get_type_name() != "Constant":
            raise UnsupportedOperationError(
                f"{port.get_node().get_type_name()} with a computed input {port.get_index()}"
            )
        found: NDArray[Any] = node.data
        return found

    def varies(self, port: Any) -> bool:
        """See ``OnnxWriter``."""
        return port.get_source_output().get_node().get_friendly_name() in self._varying
