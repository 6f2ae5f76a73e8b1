"""Converts files of pictures or clips (ONNX, TensorFlow) to OpenVINO graphs from uint8 pixels to vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.onnx_options import OnnxOutput, PixelOptions
from cliploom.transforms.encoders.runtime import last_line, named_result
from cliploom.transforms.encoders.text_graph import output_port


def read_onnx(path: Path) -> ov.Model:
    """Read an ONNX file.

    Raises:
        CliploomError: the file cannot be read.
    """
    try:
        return ov.Core().read_model(path)
    except RuntimeError as error:
        raise CliploomError(f"'{path}' can't be read as ONNX: {last_line(error)}.") from error


def image_graph(model: ov.Model, options: PixelOptions) -> tuple[ov.Model, dict[str, int]]:
    """Add preprocessing before, and pooling after, the graph of a file.

    Args:
        model: the model as read; modified in place.
        options: the options in the spec.

    Returns:
        A graph from uint8 [batch, (T,) H, W, 3] to float32 [batch, dim] by output name, and each dim.

    Raises:
        CliploomError: inputs or outputs differ from the spec.
    """
    port = input_port(model, options)
    shape = input_shape(port, options)
    try:
        model.reshape({port: ov.PartialShape(shape)})
    except RuntimeError as error:
        raise CliploomError(
            f"'{options.model}' doesn't take {shape} ({options.input.layout}): {last_line(error)}."
        ) from error
    parameter = port.get_node()
    check_values(parameter.get_element_type(), options)
    channels_last = "nthwc" if options.input.frames else "nhwc"
    layout = options.input.layout
    sizes = {"n": 1} | dict(zip(layout, shape, strict=True))
    pixels = op.parameter([sizes[axis] for axis in channels_last], np.uint8, name="pixels")
    x = op.subtract(op.convert(pixels, "f32"), np.array(options.input.offset, np.float32))
    x = op.divide(x, np.array(options.input.scale, np.float32))
    if "n" not in layout:
        x = op.squeeze(x, np.array([0], np.int64))
        channels_last = channels_last.removeprefix("n")
    x = op.transpose(x, np.array([channels_last.index(axis) for axis in layout], np.int64))
    source = op.convert(x, parameter.get_element_type().get_type_name())
    for target in parameter.output(0).get_target_inputs():
        target.replace_source_output(source.output(0))
    results = {
        name: _vectors(output_port(model, wanted.node, options.model), wanted, name, sizes["n"])
        for name, wanted in options.outputs.items()
    }
    graph = ov.Model([named_result(node, name) for name, node in results.items()], [pixels], "onnx")
    dims = {name: int(port.shape[1]) for name, port in zip(results, graph.outputs, strict=True)}
    return graph, dims


def input_port(model: ov.Model, options: PixelOptions) -> ov.Output:
    """Return the one input of a file.

    Raises:
        CliploomError: it has several, or not the one named in the spec.
    """
    wanted = options.input.node
    found = [port for port in model.inputs if wanted is None or wanted in port.get_names()]
    if len(found) != 1 or len(model.inputs) != 1:
        names = ", ".join(f"'{port.get_any_name()}'" for port in model.inputs)
        raise CliploomError(
            f"'{options.model}' has the inputs {names}; an encoder's file must take pixels alone (input.node)."
        )
    return found[0]


def input_shape(port: ov.Output, options: PixelOptions) -> list[int]:
    """Return the shape to run the file with, checked against fixed sizes in the file."""
    sizes = {"h": options.input.height, "w": options.input.width, "c": 3, "t": options.input.frames}
    shape = port.partial_shape
    layout = options.input.layout
    fits = not shape.rank.is_dynamic and len(shape) == len(layout)
    fits = fits and all(
        d.is_dynamic or a == "n" or sizes[a] == d.get_length() for a, d in zip(layout, list(shape), strict=True)
    )
    if not fits and not shape.rank.is_dynamic:
        wanted = ", ".join(f"{axis} {size}" for axis, size in sizes.items() if size is not None)
        raise CliploomError(f"'{options.model}' takes {shape}, which is not '{layout}' with {wanted}; correct input.")
    sizes["n"] = options.together if shape.rank.is_dynamic or shape[0].is_dynamic else shape[0].get_length()
    return [int(sizes[axis] or 0) for axis in layout]


def check_values(kind: ov.Type, options: PixelOptions) -> None:
    """Reject fractional values for a file with integer input.

    Raises:
        CliploomError: the values are fractional; the message names the keys to set.
    """
    given = options.input
    if kind.is_integral() and not all(value == int(value) for value in (*given.offset, *(1 / s for s in given.scale))):
        raise CliploomError(
            f"'{options.model}' takes whole numbers ({kind.get_type_name()}); set input.offset: 0 and input.scale: 1."
        )


def _vectors(port: ov.Output, output: OnnxOutput, name: str, batch: int) -> Any:
    """Return an output as float32 [batch, dim]."""
    shape = port.get_partial_shape()
    if shape.is_dynamic or len(shape) < 2:
        raise CliploomError(f"The output '{output.node}' has the shape {shape}, which is not fixed [batch, ...].")
    sizes = list(port.get_shape())
    if sizes[0] != batch:
        raise CliploomError(
            f"The output '{output.node}' has the shape {sizes} for a batch of {batch}, so the file does not take "
            "several items; leave batch out."
        )
    value = op.convert(port, "f32")
    if output.pool == "mean":
        channel = output.channel_axis % len(sizes)
        if channel == 0 or not -len(sizes) <= output.channel_axis < len(sizes):
            raise CliploomError(
                f"outputs.{name}.channel_axis {output.channel_axis} is not an axis of {sizes} besides the batch."
            )
        others = [axis for axis in range(1, len(sizes)) if axis != channel]
        return op.reduce_mean(value, np.array(others, np.int64), False) if others else value
    if output.pool == "none" and max(sizes[1:]) != int(np.prod(sizes[1:])):
        raise CliploomError(
            f"The output '{output.node}' has the shape {sizes}, not a vector; add pool: mean to outputs.{name}, "
            "or pool: flatten."
        )
    return op.reshape(value, np.array([sizes[0], -1], np.int64), False)
