"""Ridge regression from item vectors to the text vectors of their labels, in closed form.

With few labels an MLP fits its training items exactly and does not generalise to other words; the regularised linear
map generalises better. The penalty is chosen by cross-validation over labels: the one with which the words of unseen
labels rank their items best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError
from cliploom.transforms.heads.pooling import unit_rows
from cliploom.transforms.heads.towers import Layer
from cliploom.transforms.metrics.average_precision import precision_of_ranking

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Penalties relative to the mean squared distance of a vector from the mean."""
MOST_WIDTH = 8192
"""Maximum size of the linear system: the vectors' width, or the number of items if that is smaller."""
_FOLDS, _BLOCK, _GALLERY = 10, 4096, 2048

Batch = Callable[[NDArray[np.int64]], tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""Maps positions of items to their vectors float32 [b, D] and labels bool [b, C]."""


@dataclass(frozen=True)
class _Sums:
    """The sums from which a map is computed.

    Attributes:
        squares: ``X^T X`` [D, D].
        products: ``X^T Y`` [D, E].
        rows: the sum of the rows of X, [D]; ``targets`` that of Y, [E].
        items: the number of items.
    """

    squares: NDArray[np.float64]
    products: NDArray[np.float64]
    rows: NDArray[np.float64]
    targets: NDArray[np.float64]
    items: int = 0

    @classmethod
    def empty(cls, width: int, dim: int) -> _Sums:
        """Return the sums of no items."""
        return cls(np.zeros((width, width)), np.zeros((width, dim)), np.zeros(width), np.zeros(dim))

    def plus(self, rows: NDArray[np.float64], targets: NDArray[np.float64]) -> _Sums:
        """Return the sums with further items."""
        return _Sums(
            self.squares + rows.T @ rows,
            self.products + rows.T @ targets,
            self.rows + rows.sum(axis=0),
            self.targets + targets.sum(axis=0),
            self.items + len(rows),
        )

    def minus(self, other: _Sums) -> _Sums:
        """Return the sums without the items in ``other``."""
        return _Sums(
            self.squares - other.squares,
            self.products - other.products,
            self.rows - other.rows,
            self.targets - other.targets,
            self.items - other.items,
        )

    def solved(self, penalties: tuple[float, ...]) -> Iterator[Layer]:
        """Yield kernel and bias for each penalty."""
        mean, target = self.rows / self.items, self.targets / self.items
        squares = self.squares - self.items * np.outer(mean, mean)
        products = self.products - self.items * np.outer(mean, target)
        scale = max(float(np.trace(squares)) / self.items, np.finfo(np.float64).tiny)
        values, vectors = np.linalg.eigh(squares)
        turned = vectors.T @ products
        for penalty in penalties:
            kernel = vectors @ (turned / (np.maximum(values, 0)[:, None] + penalty * scale))
            yield np.asarray(kernel, np.float32), np.asarray(target - mean @ kernel, np.float32)


def fits_ridge(count: int, width: int) -> bool:
    """Return whether the closed form for this many items, of vectors of this width, fits in memory."""
    return width <= MOST_WIDTH if count >= width else count * width <= MOST_WIDTH**2


def ridge_map(
    count: int, batch: Batch, classes: NDArray[np.float32], seed: int, penalties: tuple[float, ...] = PENALTIES
) -> tuple[Layer, float]:
    """Fit the map and choose its penalty.

    ``(X^T X + penalty * mean squared distance * I)^-1 X^T Y`` of centred X and Y, Y the mean text vector of an item's
    labels, of length 1.
    Memory: at most eleven matrices [D, D + E] in float64, whatever the number of items.

    Args:
        count: the number of items.
        batch: a function that reads some of the items.
        classes: unit text vectors float32 [C, E] of the labels.
        seed: the seed of the cross-validation folds.
        penalties: the penalties to choose from, ascending.

    Returns:
        The kernel float32 [D, E], the bias [E], and the penalty.

    Raises:
        SpecError: the vectors are too wide and the items too many.
    """
    width = batch(np.zeros(1, np.int64))[0].shape[1]
    if not fits_ridge(count, width):
        raise SpecError(
            f"method: ridge solves a system as wide as its input; {width} numbers of {count} items are more than "
            f"{MOST_WIDTH}. Use method: head, or an output that is narrower."
        )
    if count < width:
        # The map lies in the span of the items, whose dimension is smaller than that of the vectors.
        _, _, basis = np.linalg.svd(batch(np.arange(count, dtype=np.int64))[0].astype(np.float64), full_matrices=False)
        turn = np.asarray(basis.T, np.float32)

        def turned(places: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
            vectors, labels = batch(places)
            return np.asarray(vectors @ turn, np.float32), labels

        (kernel, bias), chosen = _fitted(count, turned, classes, seed, penalties)
        return (np.asarray(turn @ kernel, np.float32), bias), chosen
    return _fitted(count, batch, classes, seed, penalties)


def _fitted(
    count: int, batch: Batch, classes: NDArray[np.float32], seed: int, penalties: tuple[float, ...]
) -> tuple[Layer, float]:
    width = batch(np.zeros(1, np.int64))[0].shape[1]
    parts = np.random.default_rng(seed).permutation(len(classes)) % min(_FOLDS, len(classes))
    whole = _Sums.empty(width, classes.shape[1])
    sums = [whole] * (int(parts.max()) + 1)
    for begin in range(0, count, _BLOCK):
        vectors, labels = batch(np.arange(begin, min(begin + _BLOCK, count), dtype=np.int64))
        targets = unit_rows(labels.astype(np.float32) @ classes).astype(np.float64)
        rows = vectors.astype(np.float64)
        whole = whole.plus(rows, targets)
        for part, before in enumerate(sums):
            mine = labels[:, parts == part].any(axis=1)
            if mine.any():
                sums[part] = before.plus(rows[mine], targets[mine])
    chosen = penalties[0]
    if len(penalties) > 1 and len(classes) > 2:
        gallery = np.sort(np.random.default_rng(seed).permutation(count)[:_GALLERY]).astype(np.int64)
        vectors, labels = batch(gallery)
        quality = np.zeros(len(penalties))
        for part, held in enumerate(sums):
            rest = whole.minus(held)
            columns = np.flatnonzero((parts == part) & labels.any(axis=0))
            if rest.items and held.items and len(columns):
                for place, (kernel, bias) in enumerate(rest.solved(penalties)):
                    scores = unit_rows(vectors @ kernel + bias) @ classes[columns].T
                    quality[place] += sum(
                        precision_of_ranking(scores[:, row], labels[:, column]) for row, column in enumerate(columns)
                    )
        chosen = penalties[int(quality.argmax())]
    return next(whole.solved((chosen,))), chosen
