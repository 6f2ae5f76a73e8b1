"""Functions that need TensorFlow: called by ``isolated.run_isolated``, in a process without OpenVINO and PyTorch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import tensorflow as tf

from cliploom.schemas.errors import CliploomError

VALUES, TEXT = "values", "text"


@contextlib.contextmanager
def _said(model: str) -> Iterator[None]:
    """Convert any error to one sentence."""
    try:
        yield
    except CliploomError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise CliploomError(f"TensorFlow can't run '{model}' to measure it: {lines[0][:300].rstrip('.')}.") from error


def saved_model_vectors(
    folder: str,
    tags: list[str],
    signature: str,
    key: str,
    outputs: list[str],
    given: str,
    found: str,
    text: dict[str, Any] | None = None,
) -> None:
    """Write a SavedModel signature's results for items, one by one, and those of its text signature for sentences.

    Args:
        folder: the folder of the SavedModel.
        tags: the tags of its meta graph.
        signature: the name of the signature.
        key: the name of its input.
        outputs: the names of the outputs to keep.
        given: an ``.npz`` with ``values``, one row per item.
        found: the ``.npz`` to write, one row per item by output name.
        text: ``signature``, ``key``, ``output``, ``prompt`` and ``sentences`` of the text signature; its vectors are
            written too.
    """
    with _said(folder):
        model = tf.saved_model.load(folder, tags=tags)
        run = model.signatures[signature]
        dtype = run.structured_input_signature[1][key].dtype
        rows = [run(**{key: tf.cast(item[None], dtype)}) for item in _values(given)]
        texts = None
        if text is not None:
            sentences = tf.constant([text["prompt"] + each for each in text["sentences"]])
            outputs_of_text = model.signatures[text["signature"]](**{text["key"]: sentences})
            texts = outputs_of_text[text["output"]].numpy()
    _save(found, {name: [row[name].numpy()[0] for row in rows] for name in outputs}, texts)


def frozen_vectors(path: str, node: str, batched: bool, outputs: list[str], given: str, found: str) -> None:
    """Write the results of a frozen graph for some items, one by one; ``batched`` if its input has a batch axis."""
    graph_def = tf.compat.v1.GraphDef.FromString(Path(path).read_bytes())
    with _said(path), tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
        source = graph.get_tensor_by_name(node)
        rows = []
        with tf.compat.v1.Session(graph=graph) as session:
            for item in _values(given):
                fed = (item[None] if batched else item).astype(source.dtype.as_numpy_dtype)
                rows.append(session.run(outputs, {source: fed}))
    _save(found, {name: [row[place][0] for row in rows] for place, name in enumerate(outputs)})


def export_keras(path: str, folder: str, outputs: list[str], given: str, found: str) -> None:
    """Save a Keras model as a SavedModel with the signature ``serving_default``, and write its results.

    Args:
        path: a ``.keras`` or ``.h5`` file; files with code (Lambda layers) are rejected.
        folder: the folder of the SavedModel to write.
        outputs: the names of outputs or of layers.
        given: see ``saved_model_vectors``.
        found: likewise.
    """
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CliploomError(
            f"Keras can't load '{path}': {reason[:300].rstrip('.')}; save the model again as .keras with built-in "
            "layers, or export it as a SavedModel and use kind: saved_model."
        ) from error
    part = keras.Model(model.inputs, {name: _layer_output(model, name, path) for name in outputs})
    if len(part.inputs) != 1:
        raise CliploomError(f"'{path}' takes {len(part.inputs)} inputs; an encoder's model must take pixels alone.")
    spec = tf.TensorSpec(part.inputs[0].shape, part.inputs[0].dtype, name="pixels")
    serve = tf.function(lambda pixels: part(pixels, training=False), input_signature=[spec])
    module = tf.Module()
    module.model, module.serve = part, serve
    with _said(path):
        tf.saved_model.save(module, folder, signatures={"serving_default": serve})
        rows = [part(tf.cast(item[None], spec.dtype), training=False) for item in _values(given)]
    _save(found, {name: [row[name].numpy()[0] for row in rows] for name in outputs})


def _layer_output(model: Any, name: str, path: str) -> Any:
    """Return the output with a name, or that of the layer with the name."""
    named = dict(zip(model.output_names, model.outputs, strict=True))
    layers = {layer.name: layer for layer in model.layers}
    if name in named:
        return named[name]
    if name in layers:
        return layers[name].output
    shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in named.items())
    last = ", ".join(f"{layer.name} {list(layer.output.shape)}" for layer in model.layers[-6:])
    raise CliploomError(f"'{path}' has no output or layer '{name}'; its outputs are {shapes}, its last layers {last}.")


def _values(given: str) -> Any:
    with np.load(given, allow_pickle=False) as file:
        return file[VALUES]


def _save(found: str, rows: dict[str, list[Any]], texts: Any = None) -> None:
    arrays: dict[str, Any] = {f"{VALUES}/{name}": np.stack(values) for name, values in rows.items()}
    if texts is not None:
        arrays[TEXT] = texts
    np.savez(found, **arrays)
