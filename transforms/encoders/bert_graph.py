"""A BERT sentence encoder (mean pooling, unit length) as an OpenVINO graph, from a Hugging Face checkpoint's tensors.

Devlin et al., "BERT" (2019); pooling after Reimers and Gurevych, "Sentence-BERT" (2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from cliploom.transforms.encoders.runtime import named_result

_MASKED = np.float32(-1e30)
_NORM_EPSILON = 1e-12

Tensors = Mapping[str, NDArray[Any]]


def bert_graph(tensors: Tensors, heads: int, output: str) -> ov.Model:
    """Build the graph.

    Args:
        tensors: the encoder's state dict, with the names of ``BertModel``.
        heads: the number of attention heads per layer.
        output: the name of the output.

    Returns:
        A graph from int32 [batch, tokens] ids and mask to float32 [batch, hidden], rows of length 1.

    Raises:
        KeyError: a tensor is missing.
    """
    hidden = tensors["embeddings.word_embeddings.weight"].shape[1]
    layers = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layer."))
    ids = op.parameter([-1, -1], np.int32, name="ids")
    mask = op.parameter([-1, -1], np.int32, name="mask")
    present = op.convert(mask, "f32")
    # chosen, not computed as (1 - mask) * large: in bfloat16 the two roundings of the large number leave a remainder
    score_bias = op.select(op.equal(op.unsqueeze(mask, _axes(1, 2)), np.int32(1)), np.float32(0), _MASKED)

    x = _norm(_embed(tensors, ids), tensors, "embeddings.LayerNorm")
    for number in range(layers):
        prefix = f"encoder.layer.{number}"
        attended = _attend(x, score_bias, tensors, f"{prefix}.attention.self", heads, hidden)
        attended = _dense(attended, tensors, f"{prefix}.attention.output.dense")
        x = _norm(op.add(x, attended), tensors, f"{prefix}.attention.output.LayerNorm")
        inner = op.gelu(_dense(x, tensors, f"{prefix}.intermediate.dense"), "erf")
        x = _norm(op.add(x, _dense(inner, tensors, f"{prefix}.output.dense")), tensors, f"{prefix}.output.LayerNorm")

    weights = op.unsqueeze(present, _axes(2))
    mean = op.divide(op.reduce_sum(op.multiply(x, weights), _axes(1), False), op.reduce_sum(weights, _axes(1), False))
    unit = op.normalize_l2(mean, _axes(1), 1e-24, "max")
    return ov.Model([named_result(unit, output)], [ids, mask], "bert")


def _axes(*axes: int) -> NDArray[np.int64]:
    return np.array(axes, np.int64)


def _embed(tensors: Tensors, ids: Any) -> Any:
    words = op.gather(_constant(tensors, "embeddings.word_embeddings.weight"), ids, np.int64(0))
    tokens = op.gather(op.shape_of(ids, "i64"), np.int64(1), np.int64(0))
    order = op.range(np.int64(0), tokens, np.int64(1), "i64")
    positions = op.gather(_constant(tensors, "embeddings.position_embeddings.weight"), order, np.int64(0))
    segment = op.constant(tensors["embeddings.token_type_embeddings.weight"][0].astype(np.float32))
    return op.add(op.add(words, positions), segment)


def _attend(x: Any, score_bias: Any, tensors: Tensors, prefix: str, heads: int, hidden: int) -> Any:
    def by_head(name: str) -> Any:
        split = op.reshape(_dense(x, tensors, f"{prefix}.{name}"), _axes(0, 0, heads, hidden // heads), True)
        return op.transpose(split, _axes(0, 2, 1, 3))

    mixed = op.scaled_dot_product_attention(by_head("query"), by_head("key"), by_head("value"), score_bias)
    return op.reshape(op.transpose(mixed, _axes(0, 2, 1, 3)), _axes(0, 0, hidden), True)


def _dense(x: Any, tensors: Tensors, prefix: str) -> Any:
    return op.add(
        op.matmul(x, _constant(tensors, f"{prefix}.weight"), False, True), _constant(tensors, f"{prefix}.bias")
    )


def _norm(x: Any, tensors: Tensors, prefix: str) -> Any:
    scaled = op.multiply(
        op.mvn(x, _axes(-1), True, _NORM_EPSILON, "inside_sqrt"), _constant(tensors, f"{prefix}.weight")
    )
    return op.add(scaled, _constant(tensors, f"{prefix}.bias"))


def _constant(tensors: Tensors, name: str) -> Any:
    return op.constant(tensors[name].astype(np.float32))
