"""Vectors as the metrics require them: validated, float32, and of unit length for cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cliploom.schemas.index import Metric

# Squared distances of vectors below this length stay finite in float32.
MAX_NORM = 2.0**62

# Number of rows that are converted to float64 at a time.
BLOCK = 4096


def prepare(
    vectors: NDArray[np.floating[Any]], metric: Metric, names: Sequence[object] | NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Validate and convert vectors for an index or a query.

    Cosine is the inner product of unit vectors; a zero vector has no direction and stays zero, so that its cosine with
    anything is 0 and never NaN.

    >>> prepare(np.float32([[3, 4], [0, 0]]), "cosine").tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]

    Args:
        vectors: float [n, dim].
        metric: the metric of the index.
        names: names of the vectors for errors (row ids); their positions by default.

    Returns:
        float32 [n, dim], C-contiguous; the input itself if nothing had to be changed.

    Raises:
        ValueError: the shape is wrong, a value is not finite, or values are too large for float32 arithmetic.
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors have shape {vectors.shape}; [n, dim] is needed")
    squares = _squares(vectors)
    # A NaN fails every comparison, so this detects it too.
    bad = np.flatnonzero(~(squares < (np.inf if metric == "cosine" else MAX_NORM**2)))
    if bad.size:
        at = int(bad[0])
        what = "too large for float32 distances" if np.isfinite(vectors[at]).all() else "not finite"
        raise ValueError(f"the vector of row {at if names is None else names[at]} has a value that is {what}")
    if metric == "cosine":
        unit = np.empty(vectors.shape, np.float32)
        norms = np.sqrt(squares)
        norms[norms == 0] = 1
        for at in range(0, len(vectors), BLOCK):
            unit[at : at + BLOCK] = vectors[at : at + BLOCK] / norms[at : at + BLOCK, np.newaxis]
        return unit
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _squares(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the squared lengths in float64, which keeps them exact enough for very long and very short vectors."""
    squares = np.empty(len(vectors), np.float64)
    for at in range(0, len(vectors), BLOCK):
        block = np.array(vectors[at : at + BLOCK], np.float64, order="C")
        np.square(block, out=block)
        squares[at : at + BLOCK] = block.sum(axis=1)
    return squares


def exact_scores(query: NDArray[np.float32], vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    """Return the scores (larger is better, see ``RowHit``) of prepared vectors for one prepared query, float64.

    Each row is summed in the same order whatever its position, so equal vectors get equal scores, which a matrix
    product does not guarantee.

    Args:
        query: float32 [dim].
        vectors: float32 [n, dim].
        metric: the metric of the index.

    Returns:
        float64 [n].
    """
    scores = np.empty(len(vectors), np.float64)
    for at in range(0, len(vectors), BLOCK):
        block = vectors[at : at + BLOCK].astype(np.float64)
        if metric == "l2":
            block -= query
            np.square(block, out=block)
        else:
            block *= query
        scores[at : at + BLOCK] = block.sum(axis=1)
    return -np.sqrt(scores) if metric == "l2" else scores


def distance_of(score: float, metric: Metric) -> float:
    """Return the distance (smaller is better, see ``RowHit``) for a score; never negative through rounding.

    >>> distance_of(0.75, "cosine"), distance_of(-2.0, "l2")
    (0.25, 2.0)
    """
    if metric == "cosine":
        return max(0.0, 1.0 - score)
    return -score if metric == "dot" else max(0.0, -score)
