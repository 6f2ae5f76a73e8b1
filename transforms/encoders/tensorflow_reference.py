"""TensorFlow's results, computed in a separate process, to measure a prepared model against."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cliploom.transforms.encoders.golden import Expected, golden_items, laid_out, pooled
from cliploom.transforms.encoders.isolated import run_isolated
from cliploom.transforms.encoders.onnx_options import PixelOptions

_CHILD = "cliploom.transforms.encoders.tensorflow_child"


def has_tensorflow() -> bool:
    """Return whether TensorFlow is installed, without loading it."""
    return importlib.util.find_spec("tensorflow") is not None


def tensorflow_expected(
    function: str, options: PixelOptions, *, text: Mapping[str, Any] | None = None, **arguments: Any
) -> Expected:
    """Return golden items, and the original's results for them.

    Args:
        function: the function of ``tensorflow_child``; it also gets the items' values and the outputs' names.
        options: the options of the encoder.
        text: the text signature, for ``saved_model_vectors``.
        arguments: further arguments of the function.

    Raises:
        CliploomError: TensorFlow fails.
    """
    items = golden_items(options.input)
    nodes = sorted({output.node for output in options.outputs.values()})
    if text is not None:
        arguments["text"] = dict(text)
    with tempfile.TemporaryDirectory(prefix="cliploom-") as scratch:
        given, found = Path(scratch) / "given.npz", Path(scratch) / "found.npz"
        np.savez(given, values=laid_out(items, options.input))
        run_isolated(
            f"{_CHILD}:{function}",
            f"TensorFlow with '{options.model}'",
            outputs=nodes,
            given=str(given),
            found=str(found),
            **arguments,
        )
        with np.load(found, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
    vectors = {
        name: np.stack([pooled(value.astype(np.float32), output) for value in values[f"values/{output.node}"]])
        for name, output in options.outputs.items()
    }
    sentences = () if text is None else tuple(text["sentences"])
    return Expected(items, vectors, sentences, values.get("text"))
