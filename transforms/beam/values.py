"""From values to elements and back: pixels, vectors, failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import ItemError
from cliploom.schemas.media import Sampled
from cliploom.transforms.beam.rows import Failure, Frame, MediaFile
from cliploom.transforms.store.part_builder import ItemCount, failure_facts


def vector_columns(vectors: Mapping[str, NDArray[np.float32]]) -> dict[str, list[float]]:
    """Return vectors, float32 [dim] by output, as the values of columns."""
    return {output: vector.tolist() for output, vector in vectors.items()}


def fields_of(element: Any) -> dict[str, Any]:
    """Return the fields of a row, which Beam represents as ``beam.Row`` or as a NamedTuple.

    Raises:
        TypeError: for any other value.
    """
    if isinstance(element, beam.Row):
        return dict(element.as_dict())
    if isinstance(element, tuple) and hasattr(element, "_asdict"):
        return dict(element._asdict())
    raise TypeError(f"a row (beam.Row or a NamedTuple) is needed, not {type(element).__name__}: {element!r:.80}")


def frame_row(file: MediaFile, sampled: Sampled) -> Frame:
    """Return a decoded sample as an element."""
    pixels = sampled.pixels
    if isinstance(pixels, str) or sampled.start_s is None or sampled.end_s is None:
        raise TypeError("a sample of media has pixels and times")
    shape = [int(size) for size in pixels.shape]
    return Frame(
        file.uri, file.uid, sampled.ordinal, sampled.start_s, sampled.end_s, sampled.frame, shape, pixels.tobytes()
    )


def pixels_of(frame: Frame) -> NDArray[np.uint8]:
    """Return the pixels of a frame.

    Args:
        frame: an element of ``DecodeFrames``, also after a shuffle.

    Returns:
        uint8 [height, width, 3], or [pictures, height, width, 3] for a window; read-only.

    Raises:
        ValueError: if the number of bytes does not fit the shape.
    """
    return np.frombuffer(frame.pixels, np.uint8).reshape(tuple(frame.shape))


def failure_of(uri: str, item: ItemCount, error: ItemError) -> Failure:
    """Return the failure of an item, or of the part of it that was lost.

    Args:
        uri: of the file, as the user gave it; empty for texts.
        item: what was planned and made.
        error: what happened.
    """
    return Failure(
        uri=uri,
        uid=item.item.duplicates[0].uid,
        **failure_facts(item, error),
    )
