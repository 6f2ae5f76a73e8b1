"""Ridge regression from vectors of items to the text vectors of their labels, in closed form.

With few labels an MLP follows its training items exactly and knows no word beside them; the linear map with a penalty
generalises better. The penalty is chosen by leaving labels out: it is the one with which the words of labels that a map
has not seen rank their items best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError
from cliploom.transforms.heads.pooling import unit_rows
from cliploom.transforms.metrics.average_precision import precision_of_ranking

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""As shares of the mean squared length of a vector."""
MOST_WIDTH = 8192
_FOLDS, _BLOCK, _GALLERY = 10, 4096, 2048

Batch = Callable[[NDArray[np.int64]], tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""Places of items to their vectors float32 [b, D] and labels bool [b, C]."""


@dataclass(frozen=True)
class _Sums:
    """What a map is made from: ``X^T X`` [D, D], ``X^T Y`` [D, E] and the number of items."""

    squares: NDArray[np.float64]
    products: NDArray[np.float64]
    items: int

    def without(self, other: _Sums) -> _Sums:
        """The sums of the items that are not in ``other``."""
        return _Sums(self.squares - other.squares, self.products - other.products, self.items - other.items)


def ridge_map(
    count: int, batch: Batch, classes: NDArray[np.float32], seed: int, penalties: tuple[float, ...] = PENALTIES
) -> tuple[NDArray[np.float32], float]:
    """Fit the map and choose its penalty.

    ``(X^T X + penalty * mean squared length * I)^-1 X^T Y``, Y the mean text vector of an item's labels, of length 1.
    Memory: eleven matrices [D, D + E] in float64 at most, whatever the number of items.

    Args:
        count: of the items.
        batch: reads some of them.
        classes: unit text vectors float32 [C, E] of the labels.
        seed: of the parts that labels are left out in.
        penalties: to choose from, rising.

    Returns:
        float32 [D, E] and the penalty.

    Raises:
        SpecError: for vectors that are too wide for it.
    """
    width = batch(np.zeros(1, np.int64))[0].shape[1]
    if width > MOST_WIDTH:
        raise SpecError(
            f"method: ridge solves a system as wide as its input; {width} numbers are more than {MOST_WIDTH}. "
            "Use method: head, or an output that is narrower."
        )
    parts = np.random.default_rng(seed).permutation(len(classes)) % min(_FOLDS, len(classes))
    whole = _Sums(np.zeros((width, width)), np.zeros((width, classes.shape[1])), 0)
    sums = [whole] * (int(parts.max()) + 1)
    for begin in range(0, count, _BLOCK):
        vectors, labels = batch(np.arange(begin, min(begin + _BLOCK, count), dtype=np.int64))
        targets = unit_rows(labels.astype(np.float32) @ classes).astype(np.float64)
        rows = vectors.astype(np.float64)
        whole = _added(whole, rows, targets)
        for part, before in enumerate(sums):
            mine = labels[:, parts == part].any(axis=1)
            if mine.any():
                sums[part] = _added(before, rows[mine], targets[mine])
    chosen = penalties[0]
    if len(penalties) > 1 and len(classes) > 2:
        gallery = np.sort(np.random.default_rng(seed).permutation(count)[:_GALLERY]).astype(np.int64)
        vectors, labels = batch(gallery)
        quality = np.zeros(len(penalties))
        for part, held in enumerate(sums):
            rest = whole.without(held)
            columns = np.flatnonzero((parts == part) & labels.any(axis=0))
            if rest.items and held.items and len(columns):
                for place, found in enumerate(_solved(rest, penalties)):
                    scores = unit_rows(vectors @ found) @ classes[columns].T
                    quality[place] += sum(
                        precision_of_ranking(scores[:, row], labels[:, column]) for row, column in enumerate(columns)
                    )
        chosen = penalties[int(quality.argmax())]
    return next(_solved(whole, (chosen,))), chosen


def _added(sums: _Sums, rows: NDArray[np.float64], targets: NDArray[np.float64]) -> _Sums:
    return _Sums(sums.squares + rows.T @ rows, sums.products + rows.T @ targets, sums.items + len(rows))


def _solved(sums: _Sums, penalties: tuple[float, ...]) -> Iterator[NDArray[np.float32]]:
    """Yield the map for each penalty."""
    scale = max(float(np.trace(sums.squares)) / max(1, sums.items), np.finfo(np.float64).tiny)
    values, vectors = np.linalg.eigh(sums.squares)
    turned = vectors.T @ sums.products
    for penalty in penalties:
        divisor = np.maximum(values, 0)[:, None] + penalty * scale
        yield np.asarray(vectors @ (turned / divisor), np.float32)
