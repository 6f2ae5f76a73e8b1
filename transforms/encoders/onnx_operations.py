"""OpenVINO's operations as ONNX nodes, one function for each kind.

Both formats are specified operation by operation: OpenVINO's opsets at
https://docs.openvino.ai/2026/documentation/openvino-ir-format/operation-sets.html, ONNX operators at
https://onnx.ai/onnx/operators/. ``ir_to_onnx`` walks a graph and calls these functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import openvino as ov
from numpy.typing import NDArray


class UnsupportedOperationError(Exception):
    """An operation, or a setting of one, has no translation; the text names it."""


class OnnxWriter(Protocol):
    """What the functions of this module write to."""

    def add(self, kind: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> Any:
        """Append an ONNX node; gives the name of its output, or a list of names when there are several."""
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

SAME_NAME = (
    *("Abs", "Add", "Cos", "Equal", "Erf", "Exp", "Floor", "Greater", "HardSwish", "Less", "Log", "Mish", "Relu"),
    *("Sigmoid", "Sign", "Sin", "Sqrt", "Tan", "Tanh"),
)
RENAMED = {name: name for name in SAME_NAME} | {
    "Ceiling": "Ceil",
    "Divide": "Div",
    "GreaterEqual": "GreaterOrEqual",
    "LessEqual": "LessOrEqual",
    "LogicalAnd": "And",
    "LogicalNot": "Not",
    "LogicalOr": "Or",
    "Maximum": "Max",
    "Minimum": "Min",
    "Multiply": "Mul",
    "Negative": "Neg",
    "Power": "Pow",
    "Select": "Where",
    "SoftPlus": "Softplus",
    "Subtract": "Sub",
}
"""Operations that take the same inputs in the same order and have no settings."""
REDUCTIONS = {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"}
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


def onnx_type(kind: ov.Type) -> int:
    """The number that ONNX has for an element type.

    Raises:
        UnsupportedOperationError: for a type that ONNX files of this module don't hold.
    """
    name = kind.get_type_name()
    if name not in _TYPES:
        raise UnsupportedOperationError(f"values of type {name}")
    return _TYPES[name]


def simple(node: Any, to: OnnxWriter) -> str:
    """An operation that ONNX has, too."""
    made: str = to.add(RENAMED[node.get_type_name()], [to.name(port) for port in node.inputs()])
    return made


def _integers(values: Any) -> NDArray[np.int64]:
    return np.atleast_1d(np.asarray(values, np.int64))


def _sizes(port: Any) -> list[int]:
    shape = port.get_partial_shape()
    if shape.is_dynamic:
        raise UnsupportedOperationError(f"{port.get_node().get_type_name()} of the shape {shape}")
    return [int(size) for size in port.get_shape()]


def _cast(to: OnnxWriter, name: str, kind: ov.Type) -> str:
    made: str = to.add("Cast", [name], to=onnx_type(kind))
    return made


def convert(node: Any, to: OnnxWriter) -> str:
    """Convert, ConvertLike."""
    return _cast(to, to.name(node.input(0)), node.get_output_element_type(0))


def reduction(node: Any, to: OnnxWriter) -> str:
    """ReduceMean and its like, with constant axes."""
    axes = to.constant(_integers(to.value(node.input(1))))
    keep = int(node.get_attributes()["keep_dims"])
    made: str = to.add(node.get_type_name(), [to.name(node.input(0)), axes], keepdims=keep, noop_with_empty_axes=1)
    return made


def matmul(node: Any, to: OnnxWriter) -> str:
    """MatMul; matrices are transposed before, those of weights at once."""
    settings = node.get_attributes()
    names = []
    for number, key in ((0, "transpose_a"), (1, "transpose_b")):
        port = node.input(number)
        rank = port.get_partial_shape().rank.get_length()
        if not settings[key] or rank < 2:
            names.append(to.name(port))
            continue
        order = [*range(rank - 2), rank - 1, rank - 2]
        source = port.get_source_output().get_node()
        if source.get_type_name() == "Constant":
            names.append(to.constant(np.ascontiguousarray(source.data.transpose(order))))
        else:
            names.append(to.add("Transpose", [to.name(port)], perm=order))
    made: str = to.add("MatMul", names)
    return made


def _windows(settings: dict[str, Any]) -> dict[str, Any]:
    """Strides, dilations and padding of convolutions and pools."""
    found: dict[str, Any] = {"strides": [int(value) for value in settings["strides"]]}
    if "dilations" in settings:
        found["dilations"] = [int(value) for value in settings["dilations"]]
    pad = settings["auto_pad"]
    if pad in ("same_upper", "same_lower", "valid"):
        found["auto_pad"] = pad.upper()
    else:
        found["pads"] = [*map(int, settings["pads_begin"]), *map(int, settings["pads_end"])]
    return found


def convolution(node: Any, to: OnnxWriter) -> str:
    """Convolution and GroupConvolution."""
    settings, filters = _windows(node.get_attributes()), to.name(node.input(1))
    shape = _sizes(node.input(1))
    if node.get_type_name() == "GroupConvolution":
        settings["group"] = shape[0]
        shape = [shape[0] * shape[1], *shape[2:]]
        source = node.input(1).get_source_output().get_node()
        if source.get_type_name() == "Constant":
            filters = to.constant(source.data.reshape(shape))
        else:
            filters = to.add("Reshape", [filters, to.constant(_integers(shape))])
    made: str = to.add("Conv", [to.name(node.input(0)), filters], kernel_shape=shape[2:], **settings)
    return made


def pool(node: Any, to: OnnxWriter) -> str | list[str]:
    """MaxPool (its first output) and AvgPool."""
    given = node.get_attributes()
    if given.get("rounding_type", "floor") not in ("floor", "ceil", "ceil_torch"):
        raise UnsupportedOperationError(f"{node.get_type_name()} with rounding_type {given['rounding_type']}")
    settings = _windows(given) | {
        "kernel_shape": [int(value) for value in given["kernel"]],
        "ceil_mode": int(given.get("rounding_type", "floor") != "floor"),
    }
    if node.get_type_name() == "MaxPool":
        made: str = to.add("MaxPool", [to.name(node.input(0))], **settings)
        return [made]
    excluded = int(not given["exclude-pad"])
    averaged: str = to.add("AveragePool", [to.name(node.input(0))], count_include_pad=excluded, **settings)
    return averaged


def adaptive_pool(node: Any, to: OnnxWriter) -> str:
    """AdaptiveAvgPool to sizes that divide the input's."""
    before, after = _sizes(node.input(0))[2:], [int(size) for size in to.value(node.input(1))]
    if any(size % wanted for size, wanted in zip(before, after, strict=True)):
        raise UnsupportedOperationError(f"AdaptiveAvgPool from {before} to {after}")
    window = [size // wanted for size, wanted in zip(before, after, strict=True)]
    made: str = to.add("AveragePool", [to.name(node.input(0))], kernel_shape=window, strides=window)
    return made


def batch_norm(node: Any, to: OnnxWriter) -> str:
    """BatchNormInference."""
    names = [to.name(port) for port in node.inputs()]
    made: str = to.add("BatchNormalization", names, epsilon=float(node.get_attributes()["epsilon"]))
    return made


def _normalised(to: OnnxWriter, x: str, axes: str, settings: dict[str, Any]) -> str:
    """Values minus their mean, divided by their deviation where asked for."""
    centred = to.add("Sub", [x, to.add("ReduceMean", [x, axes], keepdims=1)])
    if not settings["normalize_variance"]:
        return str(centred)
    variance = to.add("ReduceMean", [to.add("Mul", [centred, centred]), axes], keepdims=1)
    small = to.constant(np.array(settings["eps"], np.float32))
    if settings["eps_mode"].lower() == "inside_sqrt":
        divisor = to.add("Sqrt", [to.add("Add", [variance, small])])
    else:
        divisor = to.add("Add", [to.add("Sqrt", [variance]), small])
    made: str = to.add("Div", [centred, divisor])
    return made


def mvn(node: Any, to: OnnxWriter) -> str:
    """Normalisation by mean and variance."""
    axes = to.constant(_integers(to.value(node.input(1))))
    return _normalised(to, to.name(node.input(0)), axes, node.get_attributes())


def group_norm(node: Any, to: OnnxWriter) -> str:
    """GroupNormalization."""
    settings, shape = node.get_attributes(), _sizes(node.input(0))
    groups = int(settings["num_groups"])
    apart = to.add("Reshape", [to.name(node.input(0)), to.constant(_integers([0, groups, -1]))])
    whole = {"normalize_variance": True, "eps": settings["epsilon"], "eps_mode": "inside_sqrt"}
    made = _normalised(to, apart, to.constant(_integers([2])), whole)
    made = to.add("Reshape", [made, to.constant(_integers([-1, *shape[1:]]))])
    wide = to.constant(_integers([-1, *[1] * (len(shape) - 2)]))
    scale, shift = (to.add("Reshape", [to.name(node.input(number)), wide]) for number in (1, 2))
    done: str = to.add("Add", [to.add("Mul", [made, scale]), shift])
    return done


def normalize_l2(node: Any, to: OnnxWriter) -> str:
    """NormalizeL2."""
    settings, x = node.get_attributes(), to.name(node.input(0))
    axes = to.constant(_integers(to.value(node.input(1))))
    total = to.add("ReduceSumSquare", [x, axes], keepdims=1, noop_with_empty_axes=0)
    kind = "Max" if settings["eps_mode"].lower() == "max" else "Add"
    total = to.add(kind, [total, to.constant(np.array(settings["eps"], np.float32))])
    made: str = to.add("Div", [x, to.add("Sqrt", [total])])
    return made


def softmax(node: Any, to: OnnxWriter) -> str:
    """Softmax and LogSoftmax."""
    made: str = to.add(node.get_type_name(), [to.name(node.input(0))], axis=int(node.get_attributes()["axis"]))
    return made


def clamp(node: Any, to: OnnxWriter) -> str:
    """Clamp."""
    settings = node.get_attributes()
    kind = node.get_output_element_type(0).to_dtype()
    ends = [to.constant(np.array(settings[key]).astype(kind)) for key in ("min", "max")]
    made: str = to.add("Clip", [to.name(node.input(0)), *ends])
    return made


def gelu(node: Any, to: OnnxWriter) -> str:
    """Gelu, exact or by tanh."""
    mode = node.get_attributes().get("approximation_mode", "ERF").lower()
    made: str = to.add("Gelu", [to.name(node.input(0))], approximate="tanh" if mode == "tanh" else "none")
    return made


def swish(node: Any, to: OnnxWriter) -> str:
    """Swish, ``x * sigmoid(beta * x)``."""
    x = to.name(node.input(0))
    inner = x if len(node.inputs()) == 1 else to.add("Mul", [x, to.name(node.input(1))])
    made: str = to.add("Mul", [x, to.add("Sigmoid", [inner])])
    return made


def hard_sigmoid(node: Any, to: OnnxWriter) -> str:
    """HSigmoid, ``min(max(x + 3, 0), 6) / 6``."""
    made: str = to.add("HardSigmoid", [to.name(node.input(0))], alpha=1 / 6, beta=0.5)
    return made


def elu(node: Any, to: OnnxWriter) -> str:
    """Elu."""
    made: str = to.add("Elu", [to.name(node.input(0))], alpha=float(node.get_attributes()["alpha"]))
    return made


def prelu(node: Any, to: OnnxWriter) -> str:
    """PRelu, whose slopes of one axis belong to the channels."""
    slope = to.name(node.input(1))
    rank, slopes = node.input(0).get_partial_shape().rank.get_length(), _sizes(node.input(1))
    if len(slopes) == 1 and slopes[0] > 1 and rank > 2:
        slope = to.add("Reshape", [slope, to.constant(_integers([-1, *[1] * (rank - 2)]))])
    made: str = to.add("PRelu", [to.name(node.input(0)), slope])
    return made


def bitwise(node: Any, to: OnnxWriter) -> str:
    """BitwiseAnd and its like, which take truth values, too."""
    kind = node.get_type_name()
    if node.get_output_element_type(0) == ov.Type.boolean:
        kind = kind.removeprefix("Bitwise")
    made: str = to.add(kind, [to.name(port) for port in node.inputs()])
    return made


def squared_difference(node: Any, to: OnnxWriter) -> str:
    """SquaredDifference."""
    difference = to.add("Sub", [to.name(node.input(0)), to.name(node.input(1))])
    made: str = to.add("Mul", [difference, difference])
    return made


def not_equal(node: Any, to: OnnxWriter) -> str:
    """NotEqual."""
    made: str = to.add("Not", [to.add("Equal", [to.name(node.input(0)), to.name(node.input(1))])])
    return made


def reshape(node: Any, to: OnnxWriter) -> str:
    """Reshape. Where the batch may have any size it is the first axis, and the others keep their sizes."""
    source = node.input(1).get_source_output().get_node()
    if to.varies(node.input(0)) and source.get_type_name() == "Constant":
        wanted = to.constant(_integers([-1, *_sizes(node.output(0))[1:]]))
        made: str = to.add("Reshape", [to.name(node.input(0)), wanted])
        return made
    wanted = to.name(node.input(1))
    if node.input(1).get_element_type() != ov.Type.i64:
        wanted = _cast(to, wanted, ov.Type.i64)
    allow = int(not node.get_attributes()["special_zero"])
    made = to.add("Reshape", [to.name(node.input(0)), wanted], allowzero=allow)
    return made


def transpose(node: Any, to: OnnxWriter) -> str:
    """Transpose."""
    order = [int(axis) for axis in to.value(node.input(1))]
    rank = node.input(0).get_partial_shape().rank.get_length()
    made: str = to.add("Transpose", [to.name(node.input(0))], perm=order or list(range(rank))[::-1])
    return made


def squeeze(node: Any, to: OnnxWriter) -> str:
    """Squeeze and Unsqueeze."""
    names = [to.name(node.input(0))]
    if len(node.inputs()) > 1:
        names.append(to.constant(_integers(to.value(node.input(1)))))
    made: str = to.add(node.get_type_name(), names)
    return made


def concat(node: Any, to: OnnxWriter) -> str:
    """Concat. Where the batch may have any size, a part without one (a class token) is repeated for each item."""
    axis, ports = int(node.get_attributes()["axis"]), node.inputs()
    names = [to.name(port) for port in ports]
    varying = [number for number, port in enumerate(ports) if to.varies(port)]
    if varying and axis % len(_sizes(ports[0])):
        batch = to.add("Shape", [names[varying[0]]], start=0, end=1)
        for number, port in enumerate(ports):
            if number not in varying:
                size = to.add("Concat", [batch, to.constant(_integers(_sizes(port)[1:]))], axis=0)
                names[number] = to.add("Expand", [names[number], size])
    made: str = to.add("Concat", names, axis=axis)
    return made


def split(node: Any, to: OnnxWriter) -> list[str]:
    """Split and VariadicSplit."""
    axis = int(to.value(node.input(1)))
    sizes = [_sizes(output)[axis] for output in node.outputs()]
    found = to.add("Split", [to.name(node.input(0)), to.constant(_integers(sizes))], len(sizes), axis=axis)
    return [found] if isinstance(found, str) else list(found)


def gather(node: Any, to: OnnxWriter) -> str:
    """Gather along a constant axis."""
    if node.get_attributes().get("batch_dims", 0):
        raise UnsupportedOperationError("Gather with batch_dims")
    axis = int(to.value(node.input(2)))
    made: str = to.add("Gather", [to.name(node.input(0)), to.name(node.input(1))], axis=axis)
    return made


def pad(node: Any, to: OnnxWriter) -> str:
    """Pad by constant numbers of places."""
    mode = node.get_attributes()["pad_mode"].lower()
    if mode not in ("constant", "edge", "reflect"):
        raise UnsupportedOperationError(f"Pad with pad_mode {mode}")
    places = np.concatenate([_integers(to.value(node.input(number))) for number in (1, 2)])
    names = [to.name(node.input(0)), to.constant(places)]
    if mode == "constant" and len(node.inputs()) > 3:
        names.append(to.name(node.input(3)))
    made: str = to.add("Pad", names, mode=mode)
    return made


def strided_slice(node: Any, to: OnnxWriter) -> str:
    """StridedSlice with constant ends, without an ellipsis."""
    settings = node.get_attributes()
    begin, end = (_integers(to.value(node.input(number))) for number in (1, 2))
    steps = _integers(to.value(node.input(3))) if len(node.inputs()) > 3 else np.ones_like(begin)
    if any(settings.get("ellipsis_mask", [])):
        raise UnsupportedOperationError("StridedSlice with an ellipsis")
    masks = {
        key: [bool(value) for value in [*settings.get(key, []), *[0] * len(begin)]][: len(begin)]
        for key in ("begin_mask", "end_mask", "new_axis_mask", "shrink_axis_mask")
    }
    first, last, axes, strides, shrunk, new = [], [], [], [], [], []
    furthest = np.iinfo(np.int64).max
    axis = 0  # of the input
    place = 0  # of the output
    for number in range(len(begin)):
        if masks["new_axis_mask"][number]:
            new.append(place)
            place += 1
            continue
        step = int(steps[number])
        if masks["shrink_axis_mask"][number]:
            start = int(begin[number])
            first.append(start)
            last.append(start + 1 if start != -1 else furthest)
            step = 1
            shrunk.append(axis)
        else:
            forward = step > 0
            first.append((0 if forward else furthest) if masks["begin_mask"][number] else int(begin[number]))
            last.append((furthest if forward else -furthest) if masks["end_mask"][number] else int(end[number]))
            place += 1
        axes.append(axis)
        strides.append(step)
        axis += 1
    made = to.name(node.input(0))
    if axes:
        made = to.add("Slice", [made, *(to.constant(_integers(each)) for each in (first, last, axes, strides))])
    if shrunk:
        made = to.add("Squeeze", [made, to.constant(_integers(shrunk))])
    if new:
        made = to.add("Unsqueeze", [made, to.constant(_integers(new))])
    return made


def cut(node: Any, to: OnnxWriter) -> str:
    """Slice."""
    names = [to.name(port) for port in node.inputs()]
    start, stop, step = names[1:4]
    axes = names[4] if len(names) > 4 else to.constant(np.arange(_sizes(node.input(1))[0], dtype=np.int64))
    kind = node.input(1).get_element_type()
    made: str = to.add("Slice", [names[0], start, stop, _cast(to, axes, kind), step])
    return made


def shape_of(node: Any, to: OnnxWriter) -> str:
    """ShapeOf."""
    made: str = to.add("Shape", [to.name(node.input(0))])
    kind = node.get_output_element_type(0)
    return made if kind == ov.Type.i64 else _cast(to, made, kind)


def range_of(node: Any, to: OnnxWriter) -> str:
    """Range."""
    kind = node.get_output_element_type(0)
    made: str = to.add("Range", [_cast(to, to.name(port), kind) for port in node.inputs()])
    return made


def broadcast(node: Any, to: OnnxWriter) -> str:
    """Broadcast as NumPy does."""
    mode = node.get_attributes().get("mode", "numpy").lower()
    if mode not in ("numpy", "bidirectional"):
        raise UnsupportedOperationError(f"Broadcast with mode {mode}")
    source = node.input(1).get_source_output().get_node()
    if to.varies(node.input(0)) and source.get_type_name() == "Constant":
        sizes = _integers(source.data)
        if len(sizes) == node.input(0).get_partial_shape().rank.get_length():
            sizes = np.concatenate([_integers([1]), sizes[1:]])
        wanted = to.constant(sizes)
    else:
        wanted = _cast(to, to.name(node.input(1)), ov.Type.i64)
    made: str = to.add("Expand", [to.name(node.input(0)), wanted])
    return made


def tile(node: Any, to: OnnxWriter) -> str:
    """Tile by constant numbers of repeats."""
    made: str = to.add("Tile", [to.name(node.input(0)), to.constant(_integers(to.value(node.input(1))))])
    return made


def top_k(node: Any, to: OnnxWriter) -> list[str]:
    """TopK along an axis, sorted by value."""
    settings = node.get_attributes()
    count = to.constant(_integers(to.value(node.input(1))))
    values, places = to.add(
        "TopK",
        [to.name(node.input(0)), count],
        2,
        axis=int(settings["axis"]),
        largest=int(settings["mode"].lower() == "max"),
        sorted=1,
    )
    kind = node.get_output_element_type(1)
    return [values, places if kind == ov.Type.i64 else _cast(to, places, kind)]


def attention(node: Any, to: OnnxWriter) -> str:
    """ScaledDotProductAttention: ``softmax(q k^T * scale + mask) v``."""
    query, key, value = (to.name(node.input(number)) for number in range(3))
    rank = node.input(0).get_partial_shape().rank.get_length()
    if len(node.inputs()) > 4:
        scale = to.name(node.input(4))
    else:
        width = node.input(0).get_partial_shape()[rank - 1]
        if width.is_dynamic:
            raise UnsupportedOperationError("ScaledDotProductAttention of an open width")
        scale = to.constant(np.array(width.get_length() ** -0.5, np.float32))
    swapped = to.add("Transpose", [key], perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = to.add("MatMul", [to.add("Mul", [query, scale]), swapped])
    lowest = to.constant(np.array(-np.inf, np.float32))
    if node.get_attributes()["causal"]:
        sizes = to.add("Shape", [scores], start=-2)
        ones = to.add("Expand", [to.constant(np.array(1, np.float32)), sizes])
        lower = _cast(to, to.add("Trilu", [ones], upper=0), ov.Type.boolean)
        scores = to.add("Where", [lower, scores, lowest])
    elif len(node.inputs()) > 3 and node.input(3).get_partial_shape().rank.get_length():
        mask = to.name(node.input(3))
        if node.input(3).get_element_type() == ov.Type.boolean:
            scores = to.add("Where", [mask, scores, lowest])
        else:
            scores = to.add("Add", [scores, mask])
    made: str = to.add("MatMul", [to.add("Softmax", [scores], axis=-1), value])
    return made


def interpolate(node: Any, to: OnnxWriter) -> str:
    """Interpolate to constant sizes."""
    settings = node.get_attributes()
    modes = {"nearest": "nearest", "linear": "linear", "linear_onnx": "linear", "cubic": "cubic"}
    mode, place = settings["mode"].lower(), settings.get("coordinate_transformation_mode", "half_pixel").lower()
    padded = any([*settings.get("pads_begin", []), *settings.get("pads_end", [])])
    if mode not in modes or place == "tf_half_pixel_for_nn" or padded:
        raise UnsupportedOperationError(f"Interpolate with mode {mode}, {place}{', padded' if padded else ''}")
    after = _sizes(node.output(0))
    axes = [int(axis) for axis in to.value(node.input(2))] if len(node.inputs()) > 2 else list(range(len(after)))
    given = {
        "mode": modes[mode],
        "coordinate_transformation_mode": place,
        "axes": axes,
        "antialias": int(bool(settings.get("antialias", False))),
    }
    if mode == "cubic":
        given["cubic_coeff_a"] = float(settings.get("cube_coeff", -0.75))
    if mode == "nearest":
        given["nearest_mode"] = settings.get("nearest_mode", "round_prefer_floor").lower()
        if given["nearest_mode"] == "simple":
            raise UnsupportedOperationError("Interpolate with nearest_mode simple")
    sizes = to.constant(_integers([after[axis] for axis in axes]))
    made: str = to.add("Resize", [to.name(node.input(0)), "", "", sizes], **given)
    return made


def cumulative_sum(node: Any, to: OnnxWriter) -> str:
    """CumSum."""
    settings = node.get_attributes()
    made: str = to.add(
        "CumSum",
        [to.name(node.input(0)), to.name(node.input(1))],
        exclusive=int(settings["exclusive"]),
        reverse=int(settings["reverse"]),
    )
    return made


def einsum(node: Any, to: OnnxWriter) -> str:
    """Einsum."""
    names = [to.name(port) for port in node.inputs()]
    made: str = to.add("Einsum", names, equation=node.get_attributes()["equation"])
    return made


def roll(node: Any, to: OnnxWriter) -> str:
    """Roll along constant axes."""
    shape, made = _sizes(node.input(0)), to.name(node.input(0))
    shifts, axes = (_integers(to.value(node.input(number))) for number in (1, 2))
    furthest = to.constant(_integers(np.iinfo(np.int64).max))
    for shift, axis in zip(np.broadcast_to(shifts, axes.shape), axes, strict=True):
        place = to.constant(_integers(-(int(shift) % shape[axis]) % shape[axis]))
        along = to.constant(_integers(axis))
        back = to.add("Slice", [made, place, furthest, along])
        front = to.add("Slice", [made, to.constant(_integers(0)), place, along])
        made = to.add("Concat", [back, front], axis=int(axis))
    return made


TRANSLATIONS: dict[str, Translate] = {
    **dict.fromkeys(RENAMED, simple),
    **dict.fromkeys(REDUCTIONS, reduction),
    "AdaptiveAvgPool": adaptive_pool,
    "AvgPool": pool,
    "BatchNormInference": batch_norm,
    **dict.fromkeys(("BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"), bitwise),
    "Broadcast": broadcast,
    "Clamp": clamp,
    "Concat": concat,
    "Convert": convert,
    "ConvertLike": convert,
    "Convolution": convolution,
    "CumSum": cumulative_sum,
    "Einsum": einsum,
    "Elu": elu,
    "Gather": gather,
    "Gelu": gelu,
    "GroupConvolution": convolution,
    "GroupNormalization": group_norm,
    "HSigmoid": hard_sigmoid,
    "HSwish": lambda node, to: to.add("HardSwish", [to.name(node.input(0))]),
    "Interpolate": interpolate,
    "LogSoftmax": softmax,
    "MVN": mvn,
    "MatMul": matmul,
    "MaxPool": pool,
    "NormalizeL2": normalize_l2,
    "NotEqual": not_equal,
    "PRelu": prelu,
    "Pad": pad,
    "Range": range_of,
    "Reshape": reshape,
    "Roll": roll,
    "ScaledDotProductAttention": attention,
    "ShapeOf": shape_of,
    "Slice": cut,
    "Softmax": softmax,
    "Split": split,
    "SquaredDifference": squared_difference,
    "Squeeze": squeeze,
    "StridedSlice": strided_slice,
    "Swish": swish,
    "Tile": tile,
    "TopK": top_k,
    "Transpose": transpose,
    "Unsqueeze": squeeze,
    "VariadicSplit": split,
}
"""Type of an operation -> the function that writes it."""
