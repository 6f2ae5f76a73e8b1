"""Detects that a quantised model gives other vectors on another processor, from stored vectors of fixed inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import EncodeError
from cliploom.schemas.models import ModelCard
from cliploom.schemas.precision import QUANTISED
from cliploom.transforms.encoders.agreement import GOLDEN_SENTENCES, golden_pictures, smallest_cosine
from cliploom.transforms.encoders.base import Encoder
from cliploom.transforms.literals import load_arrays

CHECK_FILE = "check.npz"


def check_inputs(card: ModelCard) -> Sequence[Any]:
    """Return inputs that need no file: pictures or clips of colour waves, or sentences."""
    if card.preprocess is None:
        return GOLDEN_SENTENCES
    frames = card.clip_frames if card.modality == "clip" else None
    return list(golden_pictures(card.preprocess.height, card.preprocess.width, frames))


def write_check(folder: Path, card: ModelCard, encoder: Encoder) -> None:
    """Store the vectors of the fixed inputs, computed on this processor, beside a model."""
    np.savez(folder / CHECK_FILE, **_vectors(card, encoder))  # type: ignore[arg-type]


def measure_drift(folder: Path, card: ModelCard, encoder: Encoder) -> float | None:
    """Return the smallest cosine between this processor's vectors of the fixed inputs and the stored ones.

    Args:
        folder: the folder of a prepared model.
        card: the card of the model.
        encoder: the opened encoder.

    Returns:
        None for a model that is not quantised, or has no stored vectors.
    """
    if card.precision not in QUANTISED or not (folder / CHECK_FILE).exists():
        return None
    now = _vectors(card, encoder)
    return min(smallest_cosine(now[name], kept) for name, kept in load_arrays(folder / CHECK_FILE).items())


def _vectors(card: ModelCard, encoder: Encoder) -> dict[str, NDArray[np.float32]]:
    rows = [row for row in encoder.encode(check_inputs(card)) if not isinstance(row, EncodeError)]
    return {name: np.stack([row[name] for row in rows]) for name in card.outputs}
