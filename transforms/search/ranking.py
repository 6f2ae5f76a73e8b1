"""Ranked items of indexes as long lists that are made as they are read: a longer answer begins with the shorter one.

How deep a search goes at each step does not depend on how many hits are wanted, and what a step has placed stays where
it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.index import MediaHit, RowHit
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.transforms.index.rank import rank, reciprocal_rank_fusion
from cliploom.transforms.index.rank_items import items_in, rank_items, stored_rows
from cliploom.transforms.index.search import OpenShard, search

RowsOf = Callable[[NDArray[np.int64]], Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]]

# Rows asked of an index at first; four times as many when they belong to too few items, and so on.
FIRST_ROWS = 128
# Bound on query rows times rows asked, so that a long item as a query does not fill the memory.
MOST_ROWS = 2_000_000
# Indexes of so many rows are ranked whole by mean and bimatch, while there are so many pairs with rows of the query.
ALL_ROWS = 200_000
ALL_PAIRS = 20_000_000
# In larger ones the items of so many nearest rows are candidates, and of at least so many for each row of the query.
CANDIDATES = 1000
LEAST_CANDIDATES = 8
# How deep each index's list goes at first when several are merged.
FUSED_DEPTH = 200


def by_best_row(shards: Sequence[OpenShard], queries: NDArray[np.float32], skip: int | None) -> Iterator[MediaHit]:
    """Items by their best row, best first, exact for what the index holds.

    Rows are asked for until no row that was not seen could come before the next hit.

    Args:
        shards: of one index.
        queries: float32 [q, dim].
        skip: number of an item to leave out.
    """
    total = sum(shard.rows for shard in shards)
    most = min(total, max(FIRST_ROWS, MOST_ROWS // len(queries)))
    seen = {skip}
    for k in _depths(FIRST_ROWS, most):
        found = search(shards, queries, k)
        bound = max((hits[-1].score for hits in found if hits and len(hits) < total), default=float("-inf"))
        for media in rank(found, "max"):
            # Rows of one query that tie come by row_id, those of several queries in any order.
            settled = media.score > bound or (media.score == bound and len(queries) == 1)
            if (settled or k == most) and media.item_no not in seen:
                seen.add(media.item_no)
                yield media


def by_all_rows(
    shards: Sequence[OpenShard],
    queries: NDArray[np.float32],
    ranker: Literal["mean", "bimatch"],
    d_miss: float | None,
    skip: int | None,
    rows_of: RowsOf | None = None,
) -> Iterator[MediaHit]:
    """Items by all of their rows, as brute force ranks them.

    In a small index all items are candidates. In a larger one those of the nearest rows are; items of rows that are
    further away follow when more hits are wanted.

    Args:
        shards: of one index.
        queries: float32 [q, dim].
        ranker: which.
        d_miss: see ``rank_items``.
        skip: number of an item to leave out.
        rows_of: reads all rows of items where the index does not keep whole vectors.
    """
    total = sum(shard.rows for shard in shards)
    if not total:
        return
    exhaustive = total <= ALL_ROWS and total * len(queries) <= ALL_PAIRS
    first = total if exhaustive else max(LEAST_CANDIDATES, CANDIDATES // len(queries))
    seen = np.empty(0, np.int64) if skip is None else np.array([skip])
    for k in _depths(first, total):
        near = items_in(shards) if k == total else _items_of(search(shards, queries, k))
        fresh = np.setdiff1d(near, seen)
        seen = np.union1d(seen, fresh)
        blocks = stored_rows(shards, fresh) if rows_of is None else rows_of(fresh)
        yield from rank_items(blocks, fresh, queries, ranker, shards[0].recipe.metric, d_miss)


def _items_of(found: Sequence[Sequence[RowHit]]) -> NDArray[np.int64]:
    return np.unique(np.array([hit.row_id for hits in found for hit in hits], np.int64) >> ORDINAL_BITS)


def merged(
    lists: Mapping[str, Iterator[MediaHit]], top: int
) -> tuple[dict[str, list[MediaHit]], list[tuple[int, float]]]:
    """What was taken of each index's list, and at most ``top`` (item_no, score), best first.

    A longer answer begins with the shorter one: lists are merged to a fixed depth, what lies deeper comes after that.
    """
    if len(lists) == 1:
        taken = {name: list(islice(ranked, top)) for name, ranked in lists.items()}
        return taken, [(media.item_no, media.score) for ranked in taken.values() for media in ranked]
    taken = {name: [] for name in lists}
    scores: dict[int, float] = {}
    for depth in _depths(FUSED_DEPTH, sys.maxsize):
        more = {name: list(islice(ranked, depth - len(taken[name]))) for name, ranked in lists.items()}
        if not any(more.values()):
            break
        for name, found in more.items():
            taken[name] += found
        for item_no, score in reciprocal_rank_fusion([[media.item_no for media in some] for some in taken.values()]):
            scores.setdefault(item_no, score)
        if len(scores) >= top:
            break
    return taken, list(scores.items())[:top]


def _depths(first: int, last: int) -> Iterator[int]:
    """How many rows to ask for: ``first``, then four times as many each time, at last ``last``."""
    while first < last:
        yield first
        first *= 4
    if last:
        yield last
