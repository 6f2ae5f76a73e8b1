"""ONNX files as OpenVINO graphs from uint8 pixels to vectors, and what the file itself gives, to compare with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from schemas.errors import CliploomError
from transforms.encoders.onnx_options import OnnxOptions, OnnxOutput
from transforms.encoders.runtime import CompiledGraph, last_line, named_result
from transforms.encoders.text_graph import output_port

_REFERENCE_ITEMS = 4


def read_onnx(path: Path) -> ov.Model:
    """Read an ONNX file.

    Raises:
        CliploomError: when it can't be.
    """
    try:
        return ov.Core().read_model(path)
    except RuntimeError as error:
        raise CliploomError(f"'{path}' can't be read as ONNX: {last_line(error)}.") from error


def image_graph(model: ov.Model, options: OnnxOptions) -> tuple[ov.Model, dict[str, int]]:
    """Put preprocessing before, and pooling after, the graph of a file.

    Args:
        model: as read; changed in place.
        options: what the spec says of it.

    Returns:
        uint8 [batch, (T,) H, W, 3] to float32 [batch, dim] by output name, and each dim.

    Raises:
        CliploomError: when inputs or outputs are not as the spec says.
    """
    port = _input_port(model, options)
    shape = _input_shape(port, options)
    try:
        model.reshape({port: ov.PartialShape(shape)})
    except RuntimeError as error:
        raise CliploomError(
            f"'{options.model}' doesn't take {shape} ({options.input.layout}): {last_line(error)}."
        ) from error
    channels_last = "nthwc" if options.input.frames else "nhwc"
    sizes = dict(zip(options.input.layout, shape, strict=True))
    pixels = op.parameter([sizes[axis] for axis in channels_last], np.uint8, name="pixels")
    x = op.subtract(op.convert(pixels, "f32"), np.array(options.input.offset, np.float32))
    x = op.divide(x, np.array(options.input.scale, np.float32))
    x = op.transpose(x, np.array([channels_last.index(axis) for axis in options.input.layout], np.int64))
    parameter = port.get_node()
    source = op.convert(x, parameter.get_element_type().get_type_name())
    for target in parameter.output(0).get_target_inputs():
        target.replace_source_output(source.output(0))
    results = {
        name: _vectors(output_port(model, wanted.node, options.model), wanted, name)
        for name, wanted in options.outputs.items()
    }
    graph = ov.Model([named_result(node, name) for name, node in results.items()], [pixels], "onnx")
    dims = {name: int(port.shape[1]) for name, port in zip(results, graph.outputs, strict=True)}
    return graph, dims


def reference(path: Path, options: OnnxOptions) -> tuple[list[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
    """Items, and what the file as it is gives for them in float32: by ONNX Runtime where installed, else by OpenVINO.

    Returns:
        uint8 [(T,) H, W, 3] items and float32 [n, dim] by output name.
    """
    height, width, frames = options.input.height, options.input.width, options.input.frames or 1
    item, frame, y, x, channel = np.ogrid[:_REFERENCE_ITEMS, :frames, :height, :width, :3]
    waves = (y * (3 + 2 * item) + x * (5 - item) + (y * x * (channel + 1)) // (40 + 9 * item) + 13 * frame) % 511
    items = np.abs(waves - 255).astype(np.uint8)
    if options.input.frames is None:
        items = items[:, 0]
    values = ((items - np.array(options.input.offset)) / np.array(options.input.scale)).astype(np.float32)
    channels_last = "nthwc" if options.input.frames else "nhwc"
    values = values.transpose([channels_last.index(axis) for axis in options.input.layout])
    batch = _input_shape(_input_port(read_onnx(path), options), options)[0]
    nodes = [output.node for output in options.outputs.values()]
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in options.outputs}
    run = _runtime_session(path, options, nodes) if importlib.util.find_spec("onnxruntime") else _plain(path, options)
    for one in values:
        given = np.ascontiguousarray(np.broadcast_to(one, (batch, *one.shape)))
        for (name, output), value in zip(options.outputs.items(), run(given), strict=True):
            found[name].append(_pooled(value[0].astype(np.float32), output))
    return list(items), {name: np.stack(vectors) for name, vectors in found.items()}


def _runtime_session(path: Path, options: OnnxOptions, nodes: list[str]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    chosen = next(i for i in session.get_inputs() if options.input.node in (None, i.name))
    dtype = np.float16 if "float16" in chosen.type else np.float32
    return lambda given: session.run(nodes, {chosen.name: given.astype(dtype)})


def _plain(path: Path, options: OnnxOptions) -> Any:
    model = read_onnx(path)
    port = _input_port(model, options)
    dtype = port.get_element_type().to_dtype()
    model.reshape({port: ov.PartialShape(_input_shape(port, options))})
    kept = [output_port(model, output.node, options.model) for output in options.outputs.values()]
    names = list(options.outputs)
    plain = ov.Model([named_result(node, name) for node, name in zip(kept, names, strict=True)], model.get_parameters())
    graph = CompiledGraph(plain, names, "f32")

    def run(given: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        found = graph.run([given.astype(dtype)])
        return [found[name] for name in names]

    return run


def _pooled(value: NDArray[np.float32], output: OnnxOutput) -> NDArray[np.float32]:
    """One item's value as the file gives it, [c, h, w] or [dim], as a vector."""
    if output.pool == "none":
        return value.reshape(-1)
    axis = output.channel_axis - 1 if output.channel_axis > 0 else output.channel_axis
    return np.asarray(np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1).mean(axis=1))


def _input_port(model: ov.Model, options: OnnxOptions) -> ov.Output:
    wanted = options.input.node
    found = [port for port in model.inputs if wanted is None or wanted in port.get_names()]
    if len(found) != 1 or len(model.inputs) != 1:
        names = ", ".join(f"'{port.get_any_name()}'" for port in model.inputs)
        raise CliploomError(
            f"'{options.model}' has the inputs {names}; an encoder's file must take pixels alone (input.node)."
        )
    return found[0]


def _input_shape(port: ov.Output, options: OnnxOptions) -> list[int]:
    """The shape to run the file with, checked against what the file fixes."""
    sizes = {"h": options.input.height, "w": options.input.width, "c": 3, "t": options.input.frames}
    shape = port.partial_shape
    layout = options.input.layout
    fits = not shape.rank.is_dynamic and len(shape) == len(layout)
    fits = fits and all(
        d.is_dynamic or sizes[a] == d.get_length() for a, d in zip(layout[1:], list(shape)[1:], strict=True)
    )
    if not fits and not shape.rank.is_dynamic:
        wanted = ", ".join(f"{axis} {size}" for axis, size in sizes.items() if size is not None)
        raise CliploomError(f"'{options.model}' takes {shape}, which is not '{layout}' with {wanted}; correct input.")
    batch = options.batch if shape.rank.is_dynamic or shape[0].is_dynamic else shape[0].get_length()
    return [batch, *(int(sizes[axis] or 0) for axis in layout[1:])]


def _vectors(port: ov.Output, output: OnnxOutput, name: str) -> Any:
    """Float32 [batch, dim] of an output."""
    shape = port.get_partial_shape()
    if shape.is_dynamic or len(shape) < 2:
        raise CliploomError(f"The output '{output.node}' has the shape {shape}, which is not fixed [batch, ...].")
    sizes = list(port.get_shape())
    value = op.convert(port, "f32")
    if output.pool == "mean":
        channel = output.channel_axis % len(sizes)
        if channel == 0 or not -len(sizes) <= output.channel_axis < len(sizes):
            raise CliploomError(
                f"outputs.{name}.channel_axis {output.channel_axis} is no axis of {sizes} besides the batch."
            )
        others = [axis for axis in range(1, len(sizes)) if axis != channel]
        return op.reduce_mean(value, np.array(others, np.int64), False) if others else value
    if max(sizes[1:]) != int(np.prod(sizes[1:])):
        raise CliploomError(
            f"The output '{output.node}' has the shape {sizes}, so it is no vector; add pool: mean to outputs.{name}."
        )
    return op.reshape(value, np.array([sizes[0], -1], np.int64), False)
