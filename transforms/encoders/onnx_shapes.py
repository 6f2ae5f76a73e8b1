"""OpenVINO's operations on shapes and places of values as ONNX nodes: reshape, concatenate, slice, pad."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov

from cliploom.transforms.encoders.onnx_writer import OnnxWriter, UnsupportedOperationError, cast, fixed_sizes, integers


def reshape(node: Any, to: OnnxWriter) -> str:
    """Reshape. Where the batch may have any size it is the first axis, and the others keep their sizes."""
    source = node.input(1).get_source_output().get_node()
    if to.varies(node.input(0)) and source.get_type_name() == "Constant":
        wanted = to.constant(integers([-1, *fixed_sizes(node.output(0))[1:]]))
        return to.add("Reshape", [to.name(node.input(0)), wanted])
    wanted = to.name(node.input(1))
    if node.input(1).get_element_type() != ov.Type.i64:
        wanted = cast(to, wanted, ov.Type.i64)
    allow = int(not node.get_attributes()["special_zero"])
    made = to.add("Reshape", [to.name(node.input(0)), wanted], allowzero=allow)
    return made


def transpose(node: Any, to: OnnxWriter) -> str:
    """Transpose."""
    order = [int(axis) for axis in to.value(node.input(1))]
    rank = node.input(0).get_partial_shape().rank.get_length()
    return to.add("Transpose", [to.name(node.input(0))], perm=order or list(range(rank))[::-1])


def squeeze(node: Any, to: OnnxWriter) -> str:
    """Squeeze and Unsqueeze."""
    names = [to.name(node.input(0))]
    if len(node.inputs()) > 1:
        names.append(to.constant(integers(to.value(node.input(1)))))
    return to.add(node.get_type_name(), names)


def concat(node: Any, to: OnnxWriter) -> str:
    """Concat. Where the batch may have any size, a part without one (a class token) is repeated for each item."""
    axis, ports = int(node.get_attributes()["axis"]), node.inputs()
    names = [to.name(port) for port in ports]
    varying = [number for number, port in enumerate(ports) if to.varies(port)]
    if varying and axis % len(fixed_sizes(ports[0])):
        batch = to.add("Shape", [names[varying[0]]], start=0, end=1)
        for number, port in enumerate(ports):
            if number not in varying:
                size = to.add("Concat", [batch, to.constant(integers(fixed_sizes(port)[1:]))], axis=0)
                names[number] = to.add("Expand", [names[number], size])
    return to.add("Concat", names, axis=axis)


def split(node: Any, to: OnnxWriter) -> list[str]:
    """Split and VariadicSplit."""
    axis = int(to.value(node.input(1)))
    sizes = [fixed_sizes(output)[axis] for output in node.outputs()]
    return to.add_several("Split", [to.name(node.input(0)), to.constant(integers(sizes))], len(sizes), axis=axis)


def gather(node: Any, to: OnnxWriter) -> str:
    """Gather along a constant axis."""
    if node.get_attributes().get("batch_dims", 0):
        raise UnsupportedOperationError("Gather with batch_dims")
    axis = int(to.value(node.input(2)))
    return to.add("Gather", [to.name(node.input(0)), to.name(node.input(1))], axis=axis)


def pad(node: Any, to: OnnxWriter) -> str:
    """Pad by constant numbers of places."""
    mode = node.get_attributes()["pad_mode"].lower()
    if mode not in ("constant", "edge", "reflect"):
        raise UnsupportedOperationError(f"Pad with pad_mode {mode}")
    places = np.concatenate([integers(to.value(node.input(number))) for number in (1, 2)])
    names = [to.name(node.input(0)), to.constant(places)]
    if mode == "constant" and len(node.inputs()) > 3:
        names.append(to.name(node.input(3)))
    return to.add("Pad", names, mode=mode)


def strided_slice(node: Any, to: OnnxWriter) -> str:
    """StridedSlice with constant ends, without an ellipsis."""
    settings = node.get_attributes()
    begin, end = (integers(to.value(node.input(number))) for number in (1, 2))
    steps = integers(to.value(node.input(3))) if len(node.inputs()) > 3 else np.ones_like(begin)
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
        made = to.add("Slice", [made, *(to.constant(integers(each)) for each in (first, last, axes, strides))])
    if shrunk:
        made = to.add("Squeeze", [made, to.constant(integers(shrunk))])
    if new:
        made = to.add("Unsqueeze", [made, to.constant(integers(new))])
    return made


def cut(node: Any, to: OnnxWriter) -> str:
    """Slice."""
    names = [to.name(port) for port in node.inputs()]
    start, stop, step = names[1:4]
    axes = names[4] if len(names) > 4 else to.constant(np.arange(fixed_sizes(node.input(1))[0], dtype=np.int64))
    kind = node.input(1).get_element_type()
    return to.add("Slice", [names[0], start, stop, cast(to, axes, kind), step])


def shape_of(node: Any, to: OnnxWriter) -> str:
    """ShapeOf."""
    made = to.add("Shape", [to.name(node.input(0))])
    kind = node.get_output_element_type(0)
    return made if kind == ov.Type.i64 else cast(to, made, kind)


def broadcast(node: Any, to: OnnxWriter) -> str:
    """Broadcast as NumPy does."""
    mode = node.get_attributes().get("mode", "numpy").lower()
    if mode not in ("numpy", "bidirectional"):
        raise UnsupportedOperationError(f"Broadcast with mode {mode}")
    source = node.input(1).get_source_output().get_node()
    if to.varies(node.input(0)) and source.get_type_name() == "Constant":
        sizes = integers(source.data)
        if len(sizes) == node.input(0).get_partial_shape().rank.get_length():
            sizes = np.concatenate([integers([1]), sizes[1:]])
        wanted = to.constant(sizes)
    else:
        wanted = cast(to, to.name(node.input(1)), ov.Type.i64)
    return to.add("Expand", [to.name(node.input(0)), wanted])


def tile(node: Any, to: OnnxWriter) -> str:
    """Tile by constant numbers of repeats."""
    return to.add("Tile", [to.name(node.input(0)), to.constant(integers(to.value(node.input(1))))])


def roll(node: Any, to: OnnxWriter) -> str:
    """Roll along constant axes."""
    shape, made = fixed_sizes(node.input(0)), to.name(node.input(0))
    shifts, axes = (integers(to.value(node.input(number))) for number in (1, 2))
    furthest = to.constant(integers(np.iinfo(np.int64).max))
    for shift, axis in zip(np.broadcast_to(shifts, axes.shape), axes, strict=True):
        place = to.constant(integers(-(int(shift) % shape[axis]) % shape[axis]))
        along = to.constant(integers(axis))
        back = to.add("Slice", [made, place, furthest, along])
        front = to.add("Slice", [made, to.constant(integers(0)), place, along])
        made = to.add("Concat", [back, front], axis=int(axis))
    return made
