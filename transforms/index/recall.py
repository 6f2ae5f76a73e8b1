"""Measures the recall of an index, and finds the search depth that reaches a target.

recall@k is the share of the k nearest rows that are among the k rows found. If several rows tie for the k-th place, any
of them counts, since still frames repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.index import Metric
from cliploom.transforms.index.opened import OpenShard
from cliploom.transforms.index.search import search
from cliploom.transforms.index.vectors import prepare

if TYPE_CHECKING:
    Batch = tuple[NDArray[np.int64], NDArray[np.float32]]

K = 10
TARGET = 0.95
BLOCK = 8192
# Maximum number of tied rows kept beyond k for one query; those with the smallest row_ids.
TIES = 1000
# Scores that differ by less, relative to the vectors' lengths, are ties: float32 products are not more exact.
CLOSE = 2e-6
HNSW_FIRST, HNSW_LAST = 16, 2048


def exact_top_k(
    batches: Iterable[Batch],
    queries: NDArray[np.float32],
    k: int,
    metric: Metric,
    own: NDArray[np.int64] | None = None,
) -> list[NDArray[np.int64]]:
    """Return the nearest rows by brute force in blocks; memory is one batch and ``BLOCK`` scores per query.

    Args:
        batches: (ids int64 [n], vectors float32 [n, dim]) of all rows, each once.
        queries: float32 [q, dim].
        k: the number of nearest rows per query.
        metric: the metric of the index.
        own: int64 [q], the row to exclude for each query: the query itself.

    Returns:
        For each query the ids of its k nearest rows, best first, then rows that tie with the k-th.

    Raises:
        ValueError: vectors or queries are not finite.
    """
    wanted = prepare(queries, metric)
    lengths = np.sqrt(np.einsum("qd,qd->q", wanted, wanted, dtype=np.float64))
    ids: list[NDArray[np.int64]] = [np.empty(0, np.int64) for _ in wanted]
    scores: list[NDArray[np.float64]] = [np.empty(0, np.float64) for _ in wanted]
    floor = np.full(len(wanted), -np.inf)
    longest = 0.0
    for batch_ids, vectors in batches:
        ready = prepare(vectors, metric, batch_ids)
        for at in range(0, len(ready), BLOCK):
            block_ids, block = batch_ids[at : at + BLOCK], ready[at : at + BLOCK]
            squares = np.einsum("nd,nd->n", block, block, dtype=np.float64)
            longest = max(longest, float(np.sqrt(squares.max())))
            slack = CLOSE * lengths * longest if metric != "l2" else CLOSE * (lengths + longest) ** 2
            table = (wanted @ block.T).astype(np.float64)
            if metric == "l2":
                # Minus the squared distance, which has the same order as minus the distance.
                table = 2 * table - squares - (lengths**2)[:, np.newaxis]
            if own is not None:
                table[own[:, np.newaxis] == block_ids] = -np.inf
            for number in range(len(wanted)):
                row = table[number]
                least = max(floor[number] - slack[number], np.finfo(np.float64).min)
                if row.size > 4 * k:
                    least = max(least, np.partition(row, -k)[-k] - slack[number])
                near = np.flatnonzero(row >= least)
                if near.size == 0:
                    continue
                all_ids = np.concatenate([ids[number], block_ids[near]])
                all_scores = np.concatenate([scores[number], row[near]])
                order = np.lexsort((all_ids, -all_scores))
                if order.size > k:
                    floor[number] = all_scores[order[k - 1]]
                    tied = order[k:][all_scores[order[k:]] >= floor[number] - slack[number]]
                    tied = tied[np.argsort(all_ids[tied], kind="stable")][:TIES]
                    order = np.concatenate([order[:k], tied])
                ids[number], scores[number] = all_ids[order], all_scores[order]
    return ids


def recall_at(k: int, approx: Sequence[Sequence[int] | NDArray[np.int64]], exact: Sequence[NDArray[np.int64]]) -> float:
    """Return recall@k averaged over queries.

    >>> recall_at(2, [[5, 9]], [np.array([5, 7])])
    0.5

    Args:
        k: the number of places.
        approx: the ids found for each query, best first.
        exact: the k nearest rows of each query, then rows that tie with the k-th (see ``exact_top_k``).

    Returns:
        0 to 1; 1 if there is nothing to find.

    Raises:
        ValueError: the two have different numbers of queries.
    """
    if len(approx) != len(exact):
        raise ValueError(f"approx has {len(approx)} queries, exact has {len(exact)}")
    shares = []
    for found, right in zip(approx, exact, strict=True):
        places = min(k, len(right))
        if places:
            hits = np.isin(np.unique(np.asarray(found[:k], np.int64)), right).sum()
            shares.append(min(int(hits), places) / places)
    return float(np.mean(shares)) if shares else 1.0


def measure(
    shards: Sequence[OpenShard],
    sample_ids: NDArray[np.int64],
    sample: NDArray[np.float32],
    exact: Sequence[NDArray[np.int64]],
    k: int = K,
) -> float:
    """Return the recall@k of an index for queries that are rows of it; a row does not count as its own neighbour.

    Args:
        shards: the open shards of the index.
        sample_ids: int64 [q], the row ids of the queries, which ``exact`` excludes as well.
        sample: float32 [q, dim], the vectors of the queries.
        exact: the result of ``exact_top_k`` for them with ``own=sample_ids``.
        k: the number of places.
    """
    found = search(shards, sample, k + 1)
    rows = [[hit.row_id for hit in hits if hit.row_id != own] for own, hits in zip(sample_ids, found, strict=True)]
    return recall_at(k, rows, exact)


def tune_nprobe(
    shards: Sequence[OpenShard],
    sample_ids: NDArray[np.int64],
    sample: NDArray[np.float32],
    exact: Sequence[NDArray[np.int64]],
    k: int = K,
    target: float = TARGET,
) -> tuple[int, float]:
    """Return the smallest ``nprobe`` that reaches the target on a held-out sample.

    Args:
        shards: the open shards of the index, with any ``nprobe``.
        sample_ids: int64 [q], as for ``measure``.
        sample: float32 [q, dim].
        exact: as for ``measure``.
        k: the number of places.
        target: the recall to reach.

    Returns:
        ``nprobe`` for the recipe (0 for ``flat``) and the recall@k measured with it. If quantisation prevents every
        value from reaching the target, the smallest that is within .001 of the best.
    """
    if not shards:
        return 0, 1.0

    def recall_with(nprobe: int) -> float:
        tried = [replace(shard, recipe=replace(shard.recipe, nprobe=nprobe)) for shard in shards]
        return measure(tried, sample_ids, sample, exact, k)

    kind = shards[0].recipe.kind
    if kind == "flat":
        return 0, recall_with(0)
    if kind == "hnsw":
        return _least(recall_with, HNSW_FIRST, HNSW_LAST, target)
    return _least(recall_with, 1, max(shard.index.nlist for shard in shards), target)


def _least(recall_with: Callable[[int], float], first: int, last: int, target: float) -> tuple[int, float]:
    """Double from ``first`` until the target is reached, then bisect."""
    recalls = {first: recall_with(first)}
    high = first
    while recalls[high] < target and high < last:
        high = min(2 * high, last)
        recalls[high] = recall_with(high)
    if recalls[high] < target:
        best = max(recalls.values())
        high = min(value for value, recall in recalls.items() if recall >= best - 0.001)
        return high, recalls[high]
    low = max((value for value in recalls if value < high), default=high)
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        recalls[middle] = recall_with(middle)
        if recalls[middle] >= target:
            high = middle
        else:
            low = middle
    return high, recalls[high]
