"""A trained head that returns vectors, without TensorFlow: layers as arrays, and the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import StoreError
from cliploom.schemas.models import CARD_FILE
from cliploom.schemas.vector_heads import VECTOR_KINDS, VectorHeadCard
from cliploom.transforms.heads.pooling import unit_rows
from cliploom.transforms.literals import load_arrays
from cliploom.transforms.store.object_store import ObjectStore

TOWERS_FILE, GOLDEN_FILE = "towers.npz", "golden.npz"
CONSE_TOP = 10

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""A layer's kernel [n, m] and bias [m]."""


@dataclass(frozen=True)
class Tower:
    """Layers with ReLU between them, without one after the last.

    Attributes:
        layers: the layers, first to last.
        classes: float32 [classes, dim], for ConSE: the layers return logits, and the vector is the mean of the rows of
            the ten most probable classes, weighted by their probabilities.
        unit: whether vectors are scaled to length 1.
    """

    layers: tuple[Layer, ...]
    classes: NDArray[np.float32] | None = None
    unit: bool = False

    @property
    def width(self) -> int:
        """The length of the input vectors."""
        return len(self.layers[0][0])

    @property
    def dim(self) -> int:
        """The length of the output vectors."""
        last = self.layers[-1][0] if self.classes is None else self.classes
        return int(last.shape[1])

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project float32 [n, width] to [n, dim] in numpy; ``projection`` does the same in OpenVINO."""
        for place, (kernel, bias) in enumerate(self.layers):
            vectors = vectors @ kernel + bias
            if place + 1 < len(self.layers):
                vectors = np.maximum(vectors, np.float32(0))
        if self.classes is not None:
            vectors = mix_classes(vectors, self.classes)
        return unit_rows(vectors) if self.unit else vectors


def mix_classes(logits: NDArray[np.float32], classes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ConSE's ``sum(p_k s_k) / sum(p_k)`` over the ten most probable classes, float32 [n, dim].

    Source: docs/formats.md section 5.
    """
    count = min(CONSE_TOP, logits.shape[1])
    chosen = np.argpartition(-logits, count - 1, axis=1)[:, :count]
    top = np.take_along_axis(logits, chosen, axis=1)
    weights = np.exp(top - top.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray((weights[:, :, None] * classes[chosen]).sum(axis=1), np.float32)


def write_towers(folder: Path, towers: Mapping[str, Tower]) -> None:
    """Write the arrays of all towers into a head's folder."""
    named: dict[str, NDArray[np.float32]] = {}
    for side, tower in towers.items():
        for place, (kernel, bias) in enumerate(tower.layers):
            named |= {f"{side}.{place}.kernel": kernel, f"{side}.{place}.bias": bias}
        if tower.classes is not None:
            named[f"{side}.classes"] = tower.classes
    np.savez(folder / TOWERS_FILE, **named)  # type: ignore[arg-type]


def is_vector_head(objects: ObjectStore, model: str) -> bool:
    """Return whether the trained head in this folder returns vectors instead of labels.

    Raises:
        StoreError: its card is missing or damaged.
    """
    try:
        return json.loads(objects.get(f"{model}/{CARD_FILE}")).get("kind") in VECTOR_KINDS
    except (OSError, ValueError, AttributeError) as error:
        where = objects.uri_of(model)
        raise StoreError(f"The head in {where} is damaged ({type(error).__name__}); train it again.") from None


def read_vector_card(objects: ObjectStore, model: str) -> VectorHeadCard:
    """Return the card of a trained head.

    Raises:
        StoreError: it is missing or damaged.
    """
    try:
        return VectorHeadCard.from_dict(json.loads(objects.get(f"{model}/{CARD_FILE}")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        where = objects.uri_of(model)
        raise StoreError(f"The head in {where} is damaged ({type(error).__name__}: {error}); train it again.") from None


def read_towers(objects: ObjectStore, model: str) -> tuple[VectorHeadCard, dict[str, Tower]]:
    """Return a trained head: its card, and its towers by side.

    Args:
        objects: the store.
        model: the head's folder, relative to the store.

    Raises:
        StoreError: a file is missing or damaged.
    """
    card = read_vector_card(objects, model)
    try:
        with objects.local_copy(f"{model}/{TOWERS_FILE}") as local:
            arrays = {name: array.astype(np.float32) for name, array in load_arrays(local).items()}
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        where = objects.uri_of(model)
        raise StoreError(f"The head in {where} is damaged ({type(error).__name__}: {error}); train it again.") from None
    towers = {side: _tower(arrays, side, unit=card.normalize) for side in sorted({n.split(".")[0] for n in arrays})}
    for side, each in card.inputs.items():
        found = towers.get(side)
        if found is None or not _fits(found, each.dim, card.dim):
            where = objects.uri_of(model)
            raise StoreError(f"The head in {where} has no tower {side} from {each.dim} to {card.dim}; train it again.")
    return card, towers


def _tower(arrays: Mapping[str, NDArray[np.float32]], side: str, *, unit: bool) -> Tower:
    layers: list[Layer] = []
    while (name := f"{side}.{len(layers)}.kernel") in arrays:
        layers.append((arrays[name], arrays.get(f"{side}.{len(layers)}.bias", np.empty(0, np.float32))))
    return Tower(tuple(layers), arrays.get(f"{side}.classes"), unit)


def _fits(tower: Tower, width: int, dim: int) -> bool:
    """Return whether the shapes of all layers match."""
    here = width
    for kernel, bias in tower.layers:
        if kernel.ndim != 2 or bias.shape != kernel.shape[1:] or len(kernel) != here:
            return False
        here = kernel.shape[1]
    if tower.classes is not None and (tower.classes.ndim != 2 or len(tower.classes) != here):
        return False
    return bool(tower.layers) and tower.dim == dim
