"""Exports a trained head as a SavedModel, for TensorFlow servers. Imported by ``cliploom train`` only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from cliploom.schemas.heads import InputColumn
from cliploom.transforms.heads.plain import PlainHead
from cliploom.transforms.heads.transform import rounds_of
from cliploom.transforms.store import quantize

EXAMPLES, TENSORS = "serving_default", "tensors"


def write_saved_model(head: PlainHead, folder: Path, graph: Path | None = None) -> None:
    """Write the SavedModel.

    If the head has learned steps, tf.Transform's own graphs precede the regression: ``graph`` is their folder.

    Its signature ``serving_default`` takes ``examples_bytes``, string [n] of serialized tf.train.Examples with each
    input under its name in the type of the training records: a list of floats (also for training data that were not
    records) or of int64, a string of 8-bit codes, or a text. ``tensors`` takes the inputs by name, float32 [n, dim], or
    string [n, 1] for texts. Both return ``probabilities``, float32 [n, classes], in the order of the card's classes.
    """
    module = HeadModule(head, graph)
    inputs = head.card.inputs
    text = tf.TensorSpec([None], tf.string, name="examples_bytes")
    tensors = {
        each.name: tf.TensorSpec([None, 1], tf.string, name=each.name)
        if each.is_text
        else tf.TensorSpec([None, each.dim], tf.float32, name=each.name)
        for each in inputs
    }
    signatures = {
        EXAMPLES: module.of_examples.get_concrete_function(text),
        TENSORS: module.of_tensors.get_concrete_function(tensors),
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _feature(column: InputColumn) -> Any:
    """Return the feature description of an input in Examples."""
    if column.type in ("text", "uint8"):
        return tf.io.FixedLenFeature([1], tf.string)
    return tf.io.FixedLenFeature([column.dim], tf.int64 if column.type == "int64" else tf.float32)


def _numbers(column: InputColumn, values: Any) -> Any:
    """Return an input from Examples as the signature ``tensors`` takes it."""
    if column.is_text:
        return values
    if column.type == "uint8":
        codes = tf.io.decode_raw(values[:, 0], tf.uint8, fixed_length=column.dim)
        values = tf.gather(quantize.decode(np.arange(256, dtype=np.uint8)), tf.cast(codes, tf.int32))
    return tf.ensure_shape(tf.cast(values, tf.float32), [None, column.dim])


class HeadModule(tf.Module):  # type: ignore[misc]
    """The regression and its preceding steps, as TensorFlow operations."""

    def __init__(self, head: PlainHead, graph: Path | None) -> None:
        super().__init__()
        self._transform = None
        if head.steps and graph is not None:
            from cliploom.transforms.heads.transform_fit import TransformGraph

            rounds = rounds_of([(each.step, each.input) for each in head.steps])
            self._transform = TransformGraph(graph, len(rounds))
        self._inputs = head.card.inputs
        self._unit = head.card.spec.transform.unit
        self._kernel = tf.Variable(head.kernel, name="kernel", trainable=False)
        self._bias = tf.Variable(head.bias, name="bias", trainable=False)

    @tf.function  # type: ignore[untyped-decorator]
    def of_examples(self, examples_bytes: Any) -> dict[str, Any]:
        """Compute probabilities from serialized Examples."""
        found = tf.io.parse_example(examples_bytes, {each.name: _feature(each) for each in self._inputs})
        tensors = {each.name: _numbers(each, found[each.name]) for each in self._inputs}
        return self.of_tensors(tensors)  # type: ignore[no-any-return]

    @tf.function  # type: ignore[untyped-decorator]
    def of_tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Compute probabilities from the inputs by name."""
        blocks = [tensors[each.name] for each in self._inputs]
        if self._transform is not None:
            blocks = self._transform.blocks(blocks)
        if self._unit:
            blocks = [tf.math.divide_no_nan(block, tf.norm(block, axis=1, keepdims=True)) for block in blocks]
        logits = tf.concat(blocks, axis=1) @ self._kernel + self._bias
        return {"probabilities": tf.sigmoid(logits)}
