"""OpenVINO's operations as ONNX nodes, one function for each kind; those on single values, and the table of all.

Both formats are specified operation by operation: OpenVINO's opsets at
https://docs.openvino.ai/2026/documentation/openvino-ir-format/operation-sets.html, ONNX operators at
https://onnx.ai/onnx/operators/. ``ir_to_onnx`` walks a graph and calls these functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov

from cliploom.transforms.encoders import onnx_layers, onnx_shapes
from cliploom.transforms.encoders.onnx_writer import (
    OnnxWriter,
    Translate,
    cast,
    fixed_sizes,
    integers,
)

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


def simple(node: Any, to: OnnxWriter) -> str:
    """An operation that ONNX has, too."""
    return to.add(RENAMED[node.get_type_name()], [to.name(port) for port in node.inputs()])


def convert(node: Any, to: OnnxWriter) -> str:
    """Convert, ConvertLike."""
    return cast(to, to.name(node.input(0)), node.get_output_element_type(0))


def reduction(node: Any, to: OnnxWriter) -> str:
    """ReduceMean and its like, with constant axes."""
    axes = to.constant(integers(to.value(node.input(1))))
    keep = int(node.get_attributes()["keep_dims"])
    return to.add(node.get_type_name(), [to.name(node.input(0)), axes], keepdims=keep, noop_with_empty_axes=1)


def softmax(node: Any, to: OnnxWriter) -> str:
    """Softmax and LogSoftmax."""
    return to.add(node.get_type_name(), [to.name(node.input(0))], axis=int(node.get_attributes()["axis"]))


def clamp(node: Any, to: OnnxWriter) -> str:
    """Clamp."""
    settings = node.get_attributes()
    kind = node.get_output_element_type(0).to_dtype()
    ends = [to.constant(np.array(settings[key]).astype(kind)) for key in ("min", "max")]
    return to.add("Clip", [to.name(node.input(0)), *ends])


def gelu(node: Any, to: OnnxWriter) -> str:
    """Gelu, exact or by tanh."""
    mode = node.get_attributes().get("approximation_mode", "ERF").lower()
    return to.add("Gelu", [to.name(node.input(0))], approximate="tanh" if mode == "tanh" else "none")


def swish(node: Any, to: OnnxWriter) -> str:
    """Swish, ``x * sigmoid(beta * x)``."""
    x = to.name(node.input(0))
    inner = x if len(node.inputs()) == 1 else to.add("Mul", [x, to.name(node.input(1))])
    return to.add("Mul", [x, to.add("Sigmoid", [inner])])


def hard_sigmoid(node: Any, to: OnnxWriter) -> str:
    """HSigmoid, ``min(max(x + 3, 0), 6) / 6``."""
    return to.add("HardSigmoid", [to.name(node.input(0))], alpha=1 / 6, beta=0.5)


def elu(node: Any, to: OnnxWriter) -> str:
    """Elu."""
    return to.add("Elu", [to.name(node.input(0))], alpha=float(node.get_attributes()["alpha"]))


def prelu(node: Any, to: OnnxWriter) -> str:
    """PRelu, whose slopes of one axis belong to the channels."""
    slope = to.name(node.input(1))
    rank, slopes = node.input(0).get_partial_shape().rank.get_length(), fixed_sizes(node.input(1))
    if len(slopes) == 1 and slopes[0] > 1 and rank > 2:
        slope = to.add("Reshape", [slope, to.constant(integers([-1, *[1] * (rank - 2)]))])
    return to.add("PRelu", [to.name(node.input(0)), slope])


def bitwise(node: Any, to: OnnxWriter) -> str:
    """BitwiseAnd and its like, which take truth values, too."""
    kind = node.get_type_name()
    if node.get_output_element_type(0) == ov.Type.boolean:
        kind = kind.removeprefix("Bitwise")
    return to.add(kind, [to.name(port) for port in node.inputs()])


def squared_difference(node: Any, to: OnnxWriter) -> str:
    """SquaredDifference."""
    difference = to.add("Sub", [to.name(node.input(0)), to.name(node.input(1))])
    return to.add("Mul", [difference, difference])


def not_equal(node: Any, to: OnnxWriter) -> str:
    """NotEqual."""
    return to.add("Not", [to.add("Equal", [to.name(node.input(0)), to.name(node.input(1))])])


def range_of(node: Any, to: OnnxWriter) -> str:
    """Range."""
    kind = node.get_output_element_type(0)
    return to.add("Range", [cast(to, to.name(port), kind) for port in node.inputs()])


def top_k(node: Any, to: OnnxWriter) -> list[str]:
    """TopK along an axis, sorted by value."""
    settings = node.get_attributes()
    count = to.constant(integers(to.value(node.input(1))))
    values, places = to.add_several(
        "TopK",
        [to.name(node.input(0)), count],
        2,
        axis=int(settings["axis"]),
        largest=int(settings["mode"].lower() == "max"),
        sorted=1,
    )
    kind = node.get_output_element_type(1)
    return [values, places if kind == ov.Type.i64 else cast(to, places, kind)]


def cumulative_sum(node: Any, to: OnnxWriter) -> str:
    """CumSum."""
    settings = node.get_attributes()
    return to.add(
        "CumSum",
        [to.name(node.input(0)), to.name(node.input(1))],
        exclusive=int(settings["exclusive"]),
        reverse=int(settings["reverse"]),
    )


def einsum(node: Any, to: OnnxWriter) -> str:
    """Einsum."""
    names = [to.name(port) for port in node.inputs()]
    return to.add("Einsum", names, equation=node.get_attributes()["equation"])


TRANSLATIONS: dict[str, Translate] = {
    **dict.fromkeys(RENAMED, simple),
    **dict.fromkeys(REDUCTIONS, reduction),
    "AdaptiveAvgPool": onnx_layers.adaptive_pool,
    "AvgPool": onnx_layers.pool,
    "BatchNormInference": onnx_layers.batch_norm,
    **dict.fromkeys(("BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"), bitwise),
    "Broadcast": onnx_shapes.broadcast,
    "Clamp": clamp,
    "Concat": onnx_shapes.concat,
    "Convert": convert,
    "ConvertLike": convert,
    "Convolution": onnx_layers.convolution,
    "CumSum": cumulative_sum,
    "Einsum": einsum,
    "Elu": elu,
    "Gather": onnx_shapes.gather,
    "Gelu": gelu,
    "GroupConvolution": onnx_layers.convolution,
    "GroupNormalization": onnx_layers.group_norm,
    "HSigmoid": hard_sigmoid,
    "HSwish": lambda node, to: to.add("HardSwish", [to.name(node.input(0))]),
    "Interpolate": onnx_layers.interpolate,
    "LogSoftmax": softmax,
    "MVN": onnx_layers.mvn,
    "MatMul": onnx_layers.matmul,
    "MaxPool": onnx_layers.pool,
    "NormalizeL2": onnx_layers.normalize_l2,
    "NotEqual": not_equal,
    "PRelu": prelu,
    "Pad": onnx_shapes.pad,
    "Range": range_of,
    "Reshape": onnx_shapes.reshape,
    "Roll": onnx_shapes.roll,
    "ScaledDotProductAttention": onnx_layers.attention,
    "ShapeOf": onnx_shapes.shape_of,
    "Slice": onnx_shapes.cut,
    "Softmax": softmax,
    "Split": onnx_shapes.split,
    "SquaredDifference": squared_difference,
    "Squeeze": onnx_shapes.squeeze,
    "StridedSlice": onnx_shapes.strided_slice,
    "Swish": swish,
    "Tile": onnx_shapes.tile,
    "TopK": top_k,
    "Transpose": onnx_shapes.transpose,
    "Unsqueeze": onnx_shapes.squeeze,
    "VariadicSplit": onnx_shapes.split,
}
"""Type of an operation -> the function that writes it."""
