"""Items to measure a prepared model with, and golden vectors given by the user."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.agreement import golden_pictures
from cliploom.transforms.encoders.onnx_options import OnnxInput, OnnxOutput

MOST_BYTES = 1 << 30


def golden_items(given: OnnxInput) -> NDArray[np.uint8]:
    """Return distinct synthetic pictures or clips, uint8 [n, (T,) H, W, 3]."""
    return golden_pictures(given.height, given.width, given.frames)


def laid_out(items: NDArray[np.uint8], given: OnnxInput) -> NDArray[np.float32]:
    """Return the pixels in the layout of a file, float32 [n, ...] with the file's axes, except the batch."""
    channels_last = "thwc" if given.frames else "hwc"
    order = [channels_last.index(axis) for axis in given.layout.removeprefix("n")]
    offset, scale = np.array(given.offset), np.array(given.scale)
    # one by one: clips in float64 would need more memory than the model
    values = [((item - offset) / scale).astype(np.float32).transpose(order) for item in items]
    return np.stack(values)


def pooled(value: NDArray[np.float32], output: OnnxOutput) -> NDArray[np.float32]:
    """Return the value of one item, [c, h, w] or [dim] in the file's layout, as a vector."""
    if output.pool != "mean":
        return value.reshape(-1)
    axis = output.channel_axis - 1 if output.channel_axis > 0 else output.channel_axis
    return np.asarray(np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1).mean(axis=1))


@dataclass(frozen=True)
class Expected:
    """The results of the original.

    Attributes:
        items: uint8 [n, (T,) H, W, 3].
        vectors: float32 [n, dim] by output name.
        sentences: the sentences for the text tower.
        text: their vectors, float32 [n, dim], or None.
    """

    items: NDArray[np.uint8]
    vectors: dict[str, NDArray[np.float32]]
    sentences: tuple[str, ...] = ()
    text: NDArray[np.float32] | None = field(default=None)


def read_golden(path: Path, outputs: tuple[str, ...]) -> Expected:
    """Read an ``.npz`` of golden vectors.

    Args:
        path: the path of the file: ``items``, uint8; each output's vectors by its name, float32; for a text tower
            ``sentences``, strings, and ``text``, float32.
        outputs: the names of the encoder's outputs; those that the file lacks are not compared.

    Raises:
        CliploomError: the file cannot be read, or has other content.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CliploomError(f"The golden file '{path}' is larger than 1 GiB; a few items are enough.")
        with np.load(path, allow_pickle=False) as found:
            values = {name: found[name] for name in (*outputs, "items", "sentences", "text") if name in found}
    except (OSError, ValueError, BadZipFile, AttributeError) as error:
        raise CliploomError(f"The golden file '{path}' can't be read as .npz: {str(error).rstrip('.')}.") from None
    vectors = {name: values[name] for name in outputs if name in values}
    pairs = [(vector, values.get("items")) for vector in vectors.values()]
    pairs += [(values[name], values.get("sentences")) for name in ("text",) if name in values]
    fits = bool(vectors) and "items" in values and values["items"].dtype == np.uint8
    if not fits or not all(_beside(vector, items) for vector, items in pairs):
        listed = ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in values.items())
        raise CliploomError(
            f"The golden file '{path}' must hold items (uint8), float vectors [n, dim] for {', '.join(outputs)}, and "
            f"for a text tower sentences and text; it holds {listed or 'none of these'}."
        )
    sentences = tuple(str(each) for each in values.get("sentences", ()))
    return Expected(values["items"], vectors, sentences, values.get("text"))


def _beside(vectors: NDArray[Any], items: NDArray[Any] | None) -> bool:
    """Return whether there is one float vector per item."""
    return items is not None and vectors.ndim == 2 and vectors.dtype.kind == "f" and len(vectors) == len(items)
