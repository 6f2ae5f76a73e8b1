"""Measures how closely a prepared model agrees with the original implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import CliploomError, EncodeError
from cliploom.schemas.models import ModelCard
from cliploom.transforms.encoders.base import Encoder

LEAST = {"f32": 0.9999, "bf16": 0.99, "int8": 0.9999, "int8_weights": 0.9999}
"""Limits for the graph before quantisation; ``figures`` compares the quantised graph."""
GOLDEN_SENTENCES = [  # short, long, other alphabets, odd spacing, longer than any model takes
    "A cup of coffee on a wooden table.",
    "cat",
    "Camera wearer opens the door of the fridge with the left hand, takes out the milk and closes the door again.",
    "¿Dónde está la biblioteca? Zürich, naïve café.",
    "1,234.56 metres at 25 fps (29.97i); SHOUTING   with odd\tspacing\n",
    "and then the person picks up the hammer " * 40,
]


def golden_pictures(height: int, width: int, frames: int | None = None) -> NDArray[np.uint8]:
    """Return colour waves computed with integers, as test inputs: uint8 [4, (frames,) height, width, 3]."""
    items = np.stack([_waves(item, frames or 1, height, width) for item in range(4)])
    return items if frames is not None else items[:, 0]


def _waves(item: int, frames: int, height: int, width: int) -> NDArray[np.uint8]:
    frame, y, x, channel = np.ogrid[:frames, :height, :width, :3]
    waves = (y * (3 + 2 * item) + x * (5 - item) + (y * x * (channel + 1)) // (40 + 9 * item) + 13 * frame) % 511
    pixels: NDArray[np.uint8] = np.abs(waves - 255).astype(np.uint8)
    return pixels


def agreement(encoder: Encoder, items: Sequence[Any], expected: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
    """Return the smallest cosine by output.

    Args:
        encoder: the newly prepared encoder.
        items: the golden inputs.
        expected: the golden outputs, float32 [n, dim] by output name.

    Raises:
        CliploomError: an item cannot be encoded.
    """
    rows = []
    for row in encoder.encode(items):
        if isinstance(row, EncodeError):
            raise CliploomError(f"The prepared model fails on a golden input: {row}")
        rows.append(row)
    return {name: smallest_cosine(np.stack([row[name] for row in rows]), wanted) for name, wanted in expected.items()}


def smallest_cosine(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the smallest cosine between rows of two arrays [n, dim]; two zero rows agree, a NaN never does.

    >>> smallest_cosine(np.float32([[1, 0], [3, 4]]), np.float32([[2, 0], [4, 3]]))
    0.96
    """
    a, b = found.astype(np.float64), expected.astype(np.float64)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosines = np.where(both_zero, 1.0, (a * b).sum(axis=1) / np.where(norms == 0, 1.0, norms))
    return float(np.nan_to_num(cosines, nan=-1.0).min())


def agrees(card: ModelCard) -> bool:
    """Return whether an agreement was measured and is sufficient for the precision."""
    return bool(card.agreement) and min(card.agreement.values()) >= LEAST[card.precision]


def check_agreement(card: ModelCard) -> None:
    """Raise an error if a prepared model disagrees with the original.

    Raises:
        CliploomError: the agreement of an output is insufficient for its precision.
    """
    least = LEAST[card.precision]
    for name, cosine in card.agreement.items():
        if cosine < least:
            fix = "use precision: f32" if card.precision == "bf16" else "the conversion or the weights are damaged"
            raise CliploomError(
                f"The prepared model '{card.kind}' gives '{name}' with cosine {cosine:.6f} against the original, "
                f"below {least} for {card.precision}; {fix}."
            )
