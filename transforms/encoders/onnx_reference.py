"""The results of an unmodified ONNX file, to measure a prepared model against."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from cliploom.transforms.encoders.golden import golden_items, laid_out, pooled
from cliploom.transforms.encoders.onnx_graph import input_port, input_shape, read_onnx
from cliploom.transforms.encoders.onnx_options import OnnxOptions
from cliploom.transforms.encoders.runtime import CompiledGraph, named_result
from cliploom.transforms.encoders.text_graph import output_port

Run = Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]


def reference(path: Path, options: OnnxOptions) -> tuple[list[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
    """Return items, and the file's results for them in float32: by ONNX Runtime if installed, else by OpenVINO.

    Returns:
        uint8 [(T,) H, W, 3] items and float32 [n, dim] by output name.
    """
    items = golden_items(options.input)
    batch = dict(
        zip(options.input.layout, input_shape(input_port(read_onnx(path), options), options), strict=True)
    ).get("n")
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in options.outputs}
    run = onnx_runtime(path, options) if importlib.util.find_spec("onnxruntime") else plain_openvino(path, options)
    for one in laid_out(items, options.input):
        given = one if batch is None else np.ascontiguousarray(np.broadcast_to(one, (batch, *one.shape)))
        for (name, output), value in zip(options.outputs.items(), run(given), strict=True):
            found[name].append(pooled(value[0].astype(np.float32), output))
    return list(items), {name: np.stack(vectors) for name, vectors in found.items()}


def onnx_runtime(path: Path, options: OnnxOptions) -> Run:
    """Return a function that runs the file with ONNX Runtime: floats in its layout to its outputs, in option order."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    chosen = next(i for i in session.get_inputs() if options.input.node in (None, i.name))
    dtype = np.float16 if "float16" in chosen.type else np.float32
    nodes = [output.node for output in options.outputs.values()]
    return lambda given: session.run(nodes, {chosen.name: given.astype(dtype)})


def plain_openvino(path: Path, options: OnnxOptions) -> Run:
    """Return the same function for OpenVINO in f32, with nothing added to the file."""
    model = read_onnx(path)
    port = input_port(model, options)
    dtype = port.get_element_type().to_dtype()
    model.reshape({port: ov.PartialShape(input_shape(port, options))})
    kept = [output_port(model, output.node, options.model) for output in options.outputs.values()]
    names = list(options.outputs)
    plain = ov.Model([named_result(node, name) for node, name in zip(kept, names, strict=True)], model.get_parameters())
    graph = CompiledGraph(plain, names, "f32")

    def run(given: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        found = graph.run([given.astype(dtype)])
        return [found[name] for name in names]

    return run
