"""A small vision transformer as an ONNX file, with the few large channels that trained transformers have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, PATCH, WIDTH, HEADS, LAYERS = 32, 8, 64, 4, 4


def write_vit(path: Path, outlier: float, seed: int = 0) -> str:
    """Random weights; three channels behind each normalisation are ``outlier`` times as large as the others.

    The matrices that read them are as much smaller there, so that the network computes what it does without outliers.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    nodes: list[Any] = []
    tokens = (SIZE // PATCH) ** 2
    large = rng.choice(WIDTH, 3, replace=False)
    gains = np.ones(WIDTH)
    gains[large] = outlier

    def constant(value: Any, kind: type = np.float32) -> str:
        name = f"w{len(weights)}"
        weights[name] = np.asarray(value, kind)
        return name

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def matrix(x: str, rows: int, columns: int, scale: float = 1.0, *, after_gains: bool = False) -> str:
        values = rng.normal(size=(rows, columns)) / np.sqrt(rows) * scale
        if after_gains:
            values[large] /= outlier
        return node("MatMul", x, constant(values))

    def normalised(x: str, gain: np.ndarray) -> str:
        return node("LayerNormalization", x, constant(gain), constant(np.zeros(WIDTH)), axis=-1)

    def split(x: str, order: list[int]) -> str:
        shape = constant([-1, tokens, HEADS, WIDTH // HEADS], np.int64)
        return node("Transpose", node("Reshape", x, shape), perm=order)

    patches = constant(rng.normal(size=(WIDTH, 3, PATCH, PATCH)) / np.sqrt(3 * PATCH * PATCH))
    x = node("Conv", "x", patches, kernel_shape=[PATCH] * 2, strides=[PATCH] * 2)
    x = node("Transpose", node("Reshape", x, constant([-1, WIDTH, tokens], np.int64)), perm=[0, 2, 1])
    x = node("Add", x, constant(rng.normal(size=(1, tokens, WIDTH)) / 2))
    for _ in range(LAYERS):
        y = normalised(x, gains)
        q = split(matrix(y, WIDTH, WIDTH, 2.0, after_gains=True), [0, 2, 1, 3])
        k = split(matrix(y, WIDTH, WIDTH, 2.0, after_gains=True), [0, 2, 3, 1])
        v = split(matrix(y, WIDTH, WIDTH, after_gains=True), [0, 2, 1, 3])
        weight = node("Softmax", node("Mul", node("MatMul", q, k), constant(1 / np.sqrt(WIDTH // HEADS))), axis=-1)
        mixed = node("Transpose", node("MatMul", weight, v), perm=[0, 2, 1, 3])
        mixed = node("Reshape", mixed, constant([-1, tokens, WIDTH], np.int64))
        x = node("Add", x, matrix(mixed, WIDTH, WIDTH))
        inner = node("Relu", matrix(normalised(x, gains), WIDTH, 4 * WIDTH, after_gains=True))
        x = node("Add", x, matrix(inner, 4 * WIDTH, WIDTH))
    nodes.append(helper.make_node("ReduceMean", [normalised(x, np.ones(WIDTH))], ["y"], axes=[1], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "vit",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)
