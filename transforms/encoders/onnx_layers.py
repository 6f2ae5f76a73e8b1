"""OpenVINO's layers as ONNX nodes: products, convolutions, pools, normalisations, attention, resizing."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov

from cliploom.transforms.encoders.onnx_writer import OnnxWriter, UnsupportedOperationError, cast, fixed_sizes, integers


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
    return to.add("MatMul", names)


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
    shape = fixed_sizes(node.input(1))
    if node.get_type_name() == "GroupConvolution":
        settings["group"] = shape[0]
        shape = [shape[0] * shape[1], *shape[2:]]
        source = node.input(1).get_source_output().get_node()
        if source.get_type_name() == "Constant":
            filters = to.constant(source.data.reshape(shape))
        else:
            filters = to.add("Reshape", [filters, to.constant(integers(shape))])
    return to.add("Conv", [to.name(node.input(0)), filters], kernel_shape=shape[2:], **settings)


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
        return [to.add("MaxPool", [to.name(node.input(0))], **settings)]
    excluded = int(not given["exclude-pad"])
    return to.add("AveragePool", [to.name(node.input(0))], count_include_pad=excluded, **settings)


def adaptive_pool(node: Any, to: OnnxWriter) -> str:
    """AdaptiveAvgPool to sizes that divide the input's."""
    before, after = fixed_sizes(node.input(0))[2:], [int(size) for size in to.value(node.input(1))]
    if any(size % wanted for size, wanted in zip(before, after, strict=True)):
        raise UnsupportedOperationError(f"AdaptiveAvgPool from {before} to {after}")
    window = [size // wanted for size, wanted in zip(before, after, strict=True)]
    return to.add("AveragePool", [to.name(node.input(0))], kernel_shape=window, strides=window)


def batch_norm(node: Any, to: OnnxWriter) -> str:
    """BatchNormInference."""
    names = [to.name(port) for port in node.inputs()]
    return to.add("BatchNormalization", names, epsilon=float(node.get_attributes()["epsilon"]))


def _normalised(to: OnnxWriter, x: str, axes: str, settings: dict[str, Any]) -> str:
    """Values minus their mean, divided by their deviation where asked for."""
    centred = to.add("Sub", [x, to.add("ReduceMean", [x, axes], keepdims=1)])
    if not settings["normalize_variance"]:
        return centred
    variance = to.add("ReduceMean", [to.add("Mul", [centred, centred]), axes], keepdims=1)
    small = to.constant(np.array(settings["eps"], np.float32))
    if settings["eps_mode"].lower() == "inside_sqrt":
        divisor = to.add("Sqrt", [to.add("Add", [variance, small])])
    else:
        divisor = to.add("Add", [to.add("Sqrt", [variance]), small])
    return to.add("Div", [centred, divisor])


def mvn(node: Any, to: OnnxWriter) -> str:
    """Normalisation by mean and variance."""
    axes = to.constant(integers(to.value(node.input(1))))
    return _normalised(to, to.name(node.input(0)), axes, node.get_attributes())


def group_norm(node: Any, to: OnnxWriter) -> str:
    """GroupNormalization."""
    settings, shape = node.get_attributes(), fixed_sizes(node.input(0))
    groups = int(settings["num_groups"])
    apart = to.add("Reshape", [to.name(node.input(0)), to.constant(integers([0, groups, -1]))])
    whole = {"normalize_variance": True, "eps": settings["epsilon"], "eps_mode": "inside_sqrt"}
    made = _normalised(to, apart, to.constant(integers([2])), whole)
    made = to.add("Reshape", [made, to.constant(integers([-1, *shape[1:]]))])
    wide = to.constant(integers([-1, *[1] * (len(shape) - 2)]))
    scale, shift = (to.add("Reshape", [to.name(node.input(number)), wide]) for number in (1, 2))
    return to.add("Add", [to.add("Mul", [made, scale]), shift])


def normalize_l2(node: Any, to: OnnxWriter) -> str:
    """NormalizeL2."""
    settings, x = node.get_attributes(), to.name(node.input(0))
    axes = to.constant(integers(to.value(node.input(1))))
    total = to.add("ReduceSumSquare", [x, axes], keepdims=1, noop_with_empty_axes=0)
    kind = "Max" if settings["eps_mode"].lower() == "max" else "Add"
    total = to.add(kind, [total, to.constant(np.array(settings["eps"], np.float32))])
    return to.add("Div", [x, to.add("Sqrt", [total])])


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
        lower = cast(to, to.add("Trilu", [ones], upper=0), ov.Type.boolean)
        scores = to.add("Where", [lower, scores, lowest])
    elif len(node.inputs()) > 3 and node.input(3).get_partial_shape().rank.get_length():
        mask = to.name(node.input(3))
        if node.input(3).get_element_type() == ov.Type.boolean:
            scores = to.add("Where", [mask, scores, lowest])
        else:
            scores = to.add("Add", [scores, mask])
    return to.add("MatMul", [to.add("Softmax", [scores], axis=-1), value])


def interpolate(node: Any, to: OnnxWriter) -> str:
    """Interpolate to constant sizes."""
    settings = node.get_attributes()
    modes = {"nearest": "nearest", "linear": "linear", "linear_onnx": "linear", "cubic": "cubic"}
    mode, place = settings["mode"].lower(), settings.get("coordinate_transformation_mode", "half_pixel").lower()
    padded = any([*settings.get("pads_begin", []), *settings.get("pads_end", [])])
    if mode not in modes or place == "tf_half_pixel_for_nn" or padded:
        raise UnsupportedOperationError(f"Interpolate with mode {mode}, {place}{', padded' if padded else ''}")
    after = fixed_sizes(node.output(0))
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
    sizes = to.constant(integers([after[axis] for axis in axes]))
    return to.add("Resize", [to.name(node.input(0)), "", "", sizes], **given)
