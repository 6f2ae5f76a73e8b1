"""What translations of OpenVINO's operations write ONNX nodes with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import openvino as ov
from numpy.typing import NDArray

_TYPES = {
    "boolean": 9,
    "f16": 10,
    "f32": 1,
    "f64": 11,
    "i16": 5,
    "i32": 6,
    "i64": 7,
    "i8": 3,
    "u16": 4,
    "u32": 12,
    "u64": 13,
    "u8": 2,
}
"""OpenVINO's names of element types -> numbers of ``onnx.TensorProto``."""


class UnsupportedOperationError(Exception):
    """An operation, or a setting of one, has no translation; the text names it."""


class OnnxWriter(Protocol):
    """What the functions of this module write to."""

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Append an ONNX node with one output, and return the name of the output."""
        ...

    def add_several(self, kind: str, inputs: list[str], outputs: int, **attributes: Any) -> list[str]:
        """Append an ONNX node with any number of outputs, and return their names."""
        ...

    def constant(self, value: NDArray[Any]) -> str:
        """The name of a constant."""
        ...

    def name(self, port: Any) -> str:
        """The name of the value that feeds an input port."""
        ...

    def value(self, port: Any) -> NDArray[Any]:
        """The value that feeds an input port, which must be constant."""
        ...

    def varies(self, port: Any) -> bool:
        """Whether the value that feeds an input port has a row for each item of a batch of any size."""
        ...


Translate = Callable[[Any, OnnxWriter], "str | list[str]"]


def onnx_type(kind: ov.Type) -> int:
    """The number that ONNX has for an element type.

    Raises:
        UnsupportedOperationError: for a type that ONNX files of this module don't hold.
    """
    name = kind.get_type_name()
    if name not in _TYPES:
        raise UnsupportedOperationError(f"values of type {name}")
    return _TYPES[name]


def integers(values: Any) -> NDArray[np.int64]:
    """Return one or several whole numbers as int64 [n], as ONNX takes axes and sizes."""
    return np.atleast_1d(np.asarray(values, np.int64))


def fixed_sizes(port: Any) -> list[int]:
    """Return the sizes of a port's axes.

    Raises:
        UnsupportedOperationError: a size is not fixed.
    """
    shape = port.get_partial_shape()
    if shape.is_dynamic:
        raise UnsupportedOperationError(f"{port.get_node().get_type_name()} of the shape {shape}")
    return [int(size) for size in port.get_shape()]


def cast(to: OnnxWriter, name: str, kind: ov.Type) -> str:
    """Append a conversion to an element type, and return its name."""
    return to.add("Cast", [name], to=onnx_type(kind))
