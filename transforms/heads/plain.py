"""A trained head without TensorFlow: a matrix, a bias and the model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.heads import HeadCard, ZeroShotSpec
from cliploom.schemas.models import CARD_FILE
from cliploom.schemas.vector_heads import VECTOR_KINDS
from cliploom.transforms.heads.pooling import unit_rows
from cliploom.transforms.heads.transform import LearnedStep, apply_steps, blank_row, read_steps, write_steps
from cliploom.transforms.literals import load_arrays
from cliploom.transforms.metrics.labels import in_top
from cliploom.transforms.store.object_store import ObjectStore

WEIGHTS_FILE = "weights.npz"
STEPS_FILE = "transform.npz"


@dataclass(frozen=True)
class Label:
    """A predicted label: the number and name of the class, and the confidence, 0 to 1."""

    label: int
    name: str
    score: float


@dataclass(frozen=True)
class PlainHead:
    """A head as applied by workers and search.

    Attributes:
        kernel: float32 [width, classes], for vectors returned by ``transformed``.
        bias: float32 [classes].
        steps: the learned steps of the card's ``transform``.
    """

    card: HeadCard
    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    steps: tuple[LearnedStep, ...] = ()

    def probabilities(
        self, vectors: NDArray[np.float32], texts: NDArray[np.object_] | None = None
    ) -> NDArray[np.float32]:
        """Return the confidence of every class: joined means float32 [n, dim] and texts to float32 [n, classes]."""
        node = self.card.zero_shot
        if node is not None:
            return compared(node, vectors, self.kernel)
        logits = transformed(self.card, vectors, self.steps, texts) @ self.kernel + self.bias
        return sigmoid(logits)

    def top(self, probabilities: NDArray[np.float32], count: int) -> list[list[Label]]:
        """Return the ``count`` most probable classes of each row of [n, classes], best first, ties by number."""
        places, ranked = self.best(probabilities, count)
        classes = self.card.classes
        return [
            [Label(classes[i].label, classes[i].name, score) for i, score in zip(row, values, strict=True)]
            for row, values in zip(places.tolist(), ranked.tolist(), strict=True)
        ]

    def best(self, probabilities: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the positions of the ``count`` most probable classes of each row and their scores: both [n, count].

        Best first; of ties the lower number comes first.
        """
        width = probabilities.shape[1]
        count = min(count, width)
        if count == width:
            chosen = np.broadcast_to(np.arange(width), probabilities.shape)
        else:
            # The last kept and the best omitted: if they are equal, keep the lower number.
            found = np.argpartition(probabilities, width - count - 1, axis=1)[:, width - count - 1 :]
            values = np.take_along_axis(probabilities, found, axis=1)
            chosen = np.sort(found[:, 1:], axis=1)
            tied = np.flatnonzero(values[:, 0] == values[:, 1:].min(axis=1))
            if tied.size:
                chosen[tied] = np.nonzero(in_top(probabilities[tied], count))[1].reshape(-1, count)
        scores = np.take_along_axis(probabilities, chosen, axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(chosen, order, axis=1), np.take_along_axis(scores, order, axis=1)

    @property
    def unit_rows(self) -> bool:
        """Whether rows are scaled to length 1 before they are averaged, so that similarities average linearly."""
        node = self.card.zero_shot
        return node is not None and node.pool == "after" and node.similarity == "cosine"


def compared(node: ZeroShotSpec, vectors: NDArray[np.float32], kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scores of class names for videos.

    Args:
        node: the node of the head.
        vectors: float32 [n, dim], means of rows.
        kernel: float32 [dim, classes], the names' vectors.

    Returns:
        float32 [n, classes].
    """
    if node.similarity == "cosine" and node.pool == "before":
        vectors = unit_rows(vectors)
    scores = vectors @ kernel
    if node.scores == "similarity":
        return scores
    logits = scores / np.float32(node.temperature)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-x)), float32, without overflow.

    >>> sigmoid(np.float32([-1000, 0, 1000])).tolist()
    [0.0, 0.5, 1.0]
    """
    decay = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1 / (1 + decay), decay / (1 + decay)), np.float32)


def transformed(
    card: HeadCard,
    vectors: NDArray[np.float32],
    steps: Sequence[LearnedStep] = (),
    texts: NDArray[np.object_] | None = None,
) -> NDArray[np.float32]:
    """Return the input of the regression after the card's ``transform``: float32 [n, dim] and texts to [n, width]."""
    blocks = [np.asarray(block, np.float32) for block in apply_steps(steps, vectors, card.inputs, texts)]
    if card.spec.transform.unit:
        blocks = [unit_rows(block) for block in blocks]
    return np.concatenate(blocks, axis=1).astype(np.float32, copy=False)


def write_plain(
    folder: Path, kernel: NDArray[np.float32], bias: NDArray[np.float32], steps: Sequence[LearnedStep] = ()
) -> None:
    """Write the weights, and the constants of the learned steps, into a head's folder."""
    np.savez(folder / WEIGHTS_FILE, kernel=kernel, bias=bias)
    if steps:
        write_steps(folder / STEPS_FILE, steps)


def read_head(objects: ObjectStore, model: str) -> PlainHead:
    """Return a trained head.

    Args:
        objects: the store.
        model: the head's folder, relative to the store.

    Raises:
        SpecError: the head returns vectors, not labels.
        StoreError: a file is missing or damaged.
    """
    try:
        facts = json.loads(objects.get(f"{model}/{CARD_FILE}"))
        if facts.get("kind") in VECTOR_KINDS:
            name, kind = facts.get("name"), facts["kind"]
            raise SpecError(
                f"The head {name!r} is of kind {kind}: it returns vectors, not labels. Add a feature with the encoder "
                f"{{kind: head, head: {name}}}, and search an index over it."
            )
        card = HeadCard.from_dict(facts)
        with objects.local_copy(f"{model}/{WEIGHTS_FILE}") as local:
            weights = load_arrays(local)
        kernel, bias = weights["kernel"].astype(np.float32), weights["bias"].astype(np.float32)
        steps: tuple[LearnedStep, ...] = ()
        if card.zero_shot is None:
            if card.spec.transform.steps:
                with objects.local_copy(f"{model}/{STEPS_FILE}") as local:
                    steps = read_steps(local, card.spec.transform.steps, card.inputs)
            vectors, texts = blank_row(card.inputs)
            width = transformed(card, vectors, steps, texts).shape[1]
        else:
            width = card.width
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
        where = objects.uri_of(model)
        raise StoreError(f"The head in {where} is damaged ({type(error).__name__}: {error}); train it again.") from None
    wanted = (width, len(card.classes))
    if kernel.shape != wanted or bias.shape != wanted[1:]:
        where = objects.uri_of(model)
        raise StoreError(f"The head in {where} has weights {kernel.shape} instead of {wanted}; train it again.")
    return PlainHead(card, kernel, bias, steps)
