"""Finds rows that trained centroids reveal, so that deleted rows leave no traces.

An outlier becomes its own centroid, and a row that is extreme in many dimensions determines the ranges of the
quantiser. Such centroids are trained again when the row is deleted.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.index import Metric
from cliploom.transforms.index.vectors import prepare

NEAR = 0.01
"""A centroid within this share of a row's length is a copy of it: rounding and still frames explain the rest."""
EXTREMES, SHARE = 4, 1 / 16
"""A row that sets the quantiser's range in at least this many, and this share of, dimensions is revealed by it."""
BLOCK = 4096


def traces_of(trained: Any, vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.int64]:
    """Return the positions of the vectors that are revealed by centroids or ranges.

    Args:
        trained: a trained ``faiss.IndexIVFScalarQuantizer``.
        vectors: float32 [n, dim], as stored in the table.
        metric: the metric of the index.

    Returns:
        int64, ascending.
    """
    quantizer: Any = faiss.downcast_index(trained.quantizer)
    centroids = quantizer.reconstruct_n(0, quantizer.ntotal)
    least, span = faiss.vector_to_array(trained.sq.trained).reshape(2, -1)
    found = [np.empty(0, np.int64)]
    for at in range(0, len(vectors), BLOCK):
        ready = prepare(vectors[at : at + BLOCK], metric)
        copied = _copied(ready, centroids)
        if metric == "dot":  # FAISS trains an inner-product index with unit centroids
            copied |= _copied(prepare(ready, "cosine"), centroids)
        _, lists = quantizer.search(ready, 1)
        residuals = ready - centroids[lists[:, 0]] if trained.by_residual else ready
        slack = 1e-6 * np.maximum(span, np.abs(least))
        # A row outside the range did not set it: it was not in the sample.
        extreme = (np.abs(residuals - least) <= slack) | (np.abs(residuals - (least + span)) <= slack)
        # A dimension that never varies reveals nothing.
        many = (extreme & (span > slack)).sum(axis=1) >= max(EXTREMES, SHARE * ready.shape[1])
        found.append(at + np.flatnonzero(copied | many))
    return np.concatenate(found)


def _copied(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return whether each vector has a centroid that is a copy of it; zero vectors never do."""
    squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    _, nearest = faiss.knn(vectors, centroids, 1, metric=faiss.METRIC_L2)
    # In float64, as float32 distances of long vectors are imprecise.
    apart = vectors.astype(np.float64) - centroids[nearest[:, 0]]
    near: NDArray[np.bool_] = np.einsum("nd,nd->n", apart, apart) <= NEAR**2 * squares
    near &= squares > 0
    return near
