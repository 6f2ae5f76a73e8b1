"""Ranks items by all of their rows: ``mean`` and ``bimatch`` with the results of brute force.

Rows that a search did not return do not count as missed: every row of an item is compared with every row of the query,
one block of rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.index import MediaHit, Metric, RowHit
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.transforms.index.inverted_lists import list_ids
from cliploom.transforms.index.opened import OpenShard
from cliploom.transforms.index.rank import default_d_miss
from cliploom.transforms.index.vectors import distance_of, prepare

if TYPE_CHECKING:
    Block = tuple[NDArray[np.int64], NDArray[np.float32]]

BLOCK = 4096
# Significant digits of scores; smaller differences are ties, since sums depend on a row's position in its block.
DIGITS = 11
# Below this share of their squared lengths, squared distances are recomputed from the differences.
CANCELLED = 1e-6


def items_in(shards: Sequence[OpenShard]) -> NDArray[np.int64]:
    """Return the numbers of all items that have rows in an index, int64, ascending."""
    found = [np.empty(0, np.int64)]
    for shard in shards:
        ids = list_ids(shard.index) if shard.recipe.inverted else [shard.ids]
        found += [np.unique(some >> ORDINAL_BITS) for some in ids]
    return np.unique(np.concatenate(found))


def stored_rows(shards: Sequence[OpenShard], items: NDArray[np.int64]) -> Iterator[Block]:
    """Yield (row ids, vectors) of some items, from shards that store full vectors: ``flat`` and ``hnsw``."""
    for shard in shards:
        mine = np.flatnonzero(np.isin(shard.ids >> ORDINAL_BITS, items))
        for at in range(0, len(mine), BLOCK):
            yield shard.ids[mine[at : at + BLOCK]], shard.vectors[mine[at : at + BLOCK]]


def rank_items(
    blocks: Iterable[Block],
    items: NDArray[np.int64],
    queries: NDArray[np.float32],
    ranker: Literal["mean", "bimatch"],
    metric: Metric,
    d_miss: float | None = None,
    most: int | None = None,
) -> list[MediaHit]:
    """Rank items by all their rows.

    - ``mean``: the mean score over all pairs of a row of the item and a row of the query.
    - ``bimatch``: for each row of one side the distance to the nearest row of the other;
      ``1 - mean distance / d_miss``, averaged over both sides. See ``cliploom.transforms.index.rank.bimatch``.

    Args:
        blocks: (row ids int64 [n], vectors float32 [n, dim]) of all rows of the items, in any order.
        items: the numbers of the candidates, int64, ascending.
        queries: float32 [q, dim].
        ranker: one of the above.
        metric: the metric of the index.
        d_miss: the cost of a miss for ``bimatch``; by default ``default_d_miss``.
        most: the maximum number of results; by default all.

    Returns:
        One hit per item with rows, best first, equal scores by item_no. ``hits`` is its number of rows.

    Raises:
        ValueError: ``d_miss`` is not above 0.
    """
    miss = default_d_miss(metric) if d_miss is None else d_miss
    if not miss > 0:
        raise ValueError(f"d_miss is {miss}; it must be above 0")
    sums = _Sums(items, len(queries))
    asked = prepare(queries, metric).astype(np.float64)
    for ids, vectors in blocks:
        for at in range(0, len(ids), BLOCK):
            order = np.argsort(ids[at : at + BLOCK])
            ready = prepare(vectors[at : at + BLOCK][order], metric).astype(np.float64)
            sums.add(ids[at : at + BLOCK][order], pair_scores(asked, ready, metric), metric)
    scores = sums.means() if ranker == "mean" else sums.bimatches(metric, miss)
    return sums.ranked(_rounded(scores), metric, most)


def pair_scores(queries: NDArray[np.float64], vectors: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    """Return the scores of prepared rows for prepared queries, float64 [rows, queries], larger is better.

    Distances of rows very close to the query are computed from the differences, since squares would cancel out.
    """
    products = vectors @ queries.T
    if metric != "l2":
        return np.asarray(products, np.float64)
    lengths = np.einsum("nd,nd->n", vectors, vectors)[:, np.newaxis] + np.einsum("qd,qd->q", queries, queries)
    squares = np.asarray(np.maximum(lengths - 2 * products, 0), np.float64)
    for query in np.flatnonzero((squares <= CANCELLED * lengths).any(axis=0)):
        near = np.flatnonzero(squares[:, query] <= CANCELLED * lengths[:, query])
        apart = vectors[near] - queries[query]
        squares[near, query] = np.einsum("nd,nd->n", apart, apart)
    return -np.sqrt(squares)


class _Sums:
    """Partial results of each item after some blocks.

    Attributes:
        rows: the number of rows, int64 [items].
        total: the sum of the scores of all pairs, float64 [items].
        nearest: the best score of each query row, float64 [items, queries].
        row_distances: the sum of the smallest distances of the item's rows, float64 [items].
        best: the best score, float64 [items]; ``best_row`` is its row.
    """

    def __init__(self, items: NDArray[np.int64], queries: int) -> None:
        self.items = items
        self.rows = np.zeros(len(items), np.int64)
        self.total = np.zeros(len(items))
        self.nearest = np.full((len(items), queries), -np.inf)
        self.row_distances = np.zeros(len(items))
        self.best = np.full(len(items), -np.inf)
        self.best_row = np.zeros(len(items), np.int64)

    def add(self, ids: NDArray[np.int64], scores: NDArray[np.float64], metric: Metric) -> None:
        """Add rows sorted by id; rows of other items are ignored."""
        wanted = np.isin(ids >> ORDINAL_BITS, self.items)
        ids, scores = ids[wanted], scores[wanted]
        if not ids.size:
            return
        numbers, starts, counts = np.unique(ids >> ORDINAL_BITS, return_index=True, return_counts=True)
        at = np.searchsorted(self.items, numbers)
        of_row = scores.max(axis=1)
        self.rows[at] += counts
        self.total[at] += np.add.reduceat(scores.sum(axis=1), starts)
        self.nearest[at] = np.maximum(self.nearest[at], np.maximum.reduceat(scores, starts, axis=0))
        self.row_distances[at] += np.add.reduceat(_distances(of_row, metric), starts)
        rounded = _rounded(of_row)
        for item, start, count in np.stack([at, starts, counts], axis=1).tolist():
            row = start + int(np.argmax(rounded[start : start + count]))
            better = rounded[row] > self.best[item]
            if better or (rounded[row] == self.best[item] and ids[row] < self.best_row[item]):
                self.best[item], self.best_row[item] = rounded[row], ids[row]

    def means(self) -> NDArray[np.float64]:
        return self.total / np.maximum(1, self.rows * self.nearest.shape[1])

    def bimatches(self, metric: Metric, d_miss: float) -> NDArray[np.float64]:
        of_item = self.row_distances / np.maximum(1, self.rows)
        of_query = _distances(self.nearest, metric).mean(axis=1)
        scores: NDArray[np.float64] = 1 - (of_item + of_query) / (2 * d_miss)
        return scores

    def ranked(self, scores: NDArray[np.float64], metric: Metric, most: int | None) -> list[MediaHit]:
        there = np.flatnonzero(self.rows)
        order = there[np.lexsort((self.items[there], -scores[there]))][:most]
        hits = []
        for at in order.tolist():
            best = float(self.best[at]) + 0.0
            row = RowHit(int(self.best_row[at]), best, distance_of(best, metric))
            hits.append(MediaHit(int(self.items[at]), float(scores[at]) + 0.0, row, int(self.rows[at])))
        return hits


def _distances(scores: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    """Return ``distance_of`` for arrays."""
    if metric == "dot":
        return -scores
    distances: NDArray[np.float64] = np.maximum(0.0, (1.0 if metric == "cosine" else 0.0) - scores)
    return distances


def _rounded(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores rounded to ``DIGITS`` digits of the largest."""
    largest = float(np.abs(scores[np.isfinite(scores)]).max(initial=0.0))
    rounded: NDArray[np.float64] = np.round(scores, DIGITS - math.ceil(math.log10(largest))) if largest else scores
    return rounded
