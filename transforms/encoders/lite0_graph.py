"""The EfficientNet-Lite0 network as an OpenVINO graph, from the tensors of its PyTorch port.

Architecture: Tan and Le, "EfficientNet" (2019), in the lite form: ReLU6, no squeeze-and-excitation, fixed stem, head.
Padding is TensorFlow's SAME: for a stride of 2 and an even size, the extra pixel is added at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from cliploom.transforms.encoders.conse import TOP
from cliploom.transforms.encoders.runtime import named_result

SIZE = 224
OFFSET = 127.0
SCALE = 128.0
POOLED = 1280
CLASSES = 1000
_BATCH_NORM_EPSILON = 1e-3

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class _Stage:
    """Blocks of one width; only the first has the stride."""

    repeats: int
    kernel: int
    stride: int
    filters: int


_STAGES = (
    _Stage(1, 3, 1, 16),
    _Stage(2, 3, 2, 24),
    _Stage(2, 5, 2, 40),
    _Stage(3, 3, 2, 80),
    _Stage(3, 5, 1, 112),
    _Stage(4, 5, 2, 192),
    _Stage(1, 3, 1, 320),
)


def lite0_graph(tensors: Tensors, batch: int, classes: NDArray[np.float32] | None = None) -> ov.Model:
    """Build the graph.

    Args:
        tensors: the state dict: convolutions [out, in, k, k], batch norms, ``_fc``.
        batch: the fixed number of pictures per run.
        classes: float32 [1000, dim], text vectors of the classes, for the ConSE output ``semantic``.

    Returns:
        A graph from uint8 [batch, 224, 224, 3] RGB to ``pooled`` [batch, 1280], ``probs`` [batch, 1000] and, with
        ``classes``, ``semantic`` [batch, dim] of length 1.

    Raises:
        KeyError: a tensor is missing.
    """
    pixels = op.parameter([batch, SIZE, SIZE, 3], np.uint8, name="pixels")
    x = op.transpose(op.convert(pixels, "f32"), [0, 3, 1, 2])
    x = op.multiply(op.subtract(x, np.float32(OFFSET)), np.float32(1 / SCALE))
    x = _relu6(_conv(x, tensors, "_conv_stem", "_bn0", kernel=3, stride=2))
    filters, number = 32, 0
    for stage in _STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            before, prefix = x, f"_blocks.{number}."
            if f"{prefix}_expand_conv.weight" in tensors:
                x = _relu6(_conv(x, tensors, f"{prefix}_expand_conv", f"{prefix}_bn0"))
            x = _conv(x, tensors, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stage.kernel, stride, depthwise=True)
            x = _conv(_relu6(x), tensors, f"{prefix}_project_conv", f"{prefix}_bn2")
            if stride == 1 and filters == stage.filters:
                x = op.add(x, before)
            filters, number = stage.filters, number + 1
    x = _relu6(_conv(x, tensors, "_conv_head", "_bn1"))
    pooled = op.reduce_mean(x, [2, 3], False)
    logits = op.add(op.matmul(pooled, tensors["_fc.weight"], False, True), tensors["_fc.bias"][None])
    probs = op.softmax(logits, 1)
    outputs = {"pooled": pooled, "probs": probs}
    if classes is not None:
        outputs["semantic"] = _conse(probs, classes)
    return ov.Model([named_result(node, name) for name, node in outputs.items()], [pixels], "efficientnet_lite0")


def _conv(
    x: Any, tensors: Tensors, weight: str, norm: str, kernel: int = 1, stride: int = 1, *, depthwise: bool = False
) -> Any:
    """Return a convolution with SAME padding for even sizes and its batch norm folded in (in float64)."""
    gamma, beta, mean, variance = (
        tensors[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gamma / np.sqrt(variance + _BATCH_NORM_EPSILON)
    weights = (tensors[f"{weight}.weight"] * factor[:, None, None, None]).astype(np.float32)
    shift = (beta - mean * factor).astype(np.float32)[None, :, None, None]
    total = kernel - stride
    begin, end = [total // 2] * 2, [total - total // 2] * 2
    if depthwise:
        y = op.group_convolution(x, weights[:, None], [stride] * 2, begin, end, [1, 1])
    else:
        y = op.convolution(x, weights, [stride] * 2, begin, end, [1, 1])
    return op.add(y, shift)


def _relu6(x: Any) -> Any:
    return op.clamp(x, 0.0, 6.0)


def _conse(probs: Any, classes: NDArray[np.float32]) -> Any:
    """Return the formula of ``conse.conse``; normalisation makes the division by the sum unnecessary."""
    top = op.topk(probs, np.int32(TOP), 1, "max", "value", "i32", stable=True)
    vectors = op.gather(op.constant(classes), top.output(1), np.int32(0))
    mixed = op.reduce_sum(op.multiply(op.unsqueeze(top.output(0), np.int32(2)), vectors), [1], False)
    return op.normalize_l2(mixed, np.array([1], np.int64), 1e-30, "max")
