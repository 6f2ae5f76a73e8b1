"""Ranks items of indexes lazily: a longer result always begins with the shorter one.

The search depth of each step does not depend on the number of requested hits, and later steps never change the order of
earlier hits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.index import MediaHit, RowHit
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.transforms.index.kept import KeptRows
from cliploom.transforms.index.opened import OpenShard
from cliploom.transforms.index.rank import rank, reciprocal_rank_fusion
from cliploom.transforms.index.rank_items import items_in, rank_items, stored_rows
from cliploom.transforms.index.search import search

RowsOf = Callable[[NDArray[np.int64]], Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]]

# Number of rows requested from an index first; multiplied by four while they belong to too few items.
FIRST_ROWS = 128
# Limit on query rows times requested rows, so that a long item as a query does not exhaust the memory.
MOST_ROWS = 2_000_000
# Indexes with at most this many rows are ranked by brute force for mean and bimatch, up to this many row pairs.
ALL_ROWS = 200_000
ALL_PAIRS = 20_000_000
# In larger ones the items of this many nearest rows are candidates, with a minimum per row of the query.
CANDIDATES = 1000
LEAST_CANDIDATES = 8
# Initial depth of each index's list when several are merged.
FUSED_DEPTH = 200


def by_best_row(
    shards: Sequence[OpenShard],
    queries: NDArray[np.float32],
    skips: Collection[int] = (),
    kept: Sequence[KeptRows] | None = None,
) -> Iterator[MediaHit]:
    """Yield items by their best row, best first; exact for the contents of the index.

    Requests rows until no unseen row could rank before the next hit.

    Args:
        shards: the shards of one index.
        queries: float32 [q, dim].
        skips: the numbers of items to exclude.
        kept: the rows of each shard that may be found; all rows if None.
    """
    total = sum(some.rows for some in (shards if kept is None else kept))
    most = min(total, max(FIRST_ROWS, MOST_ROWS // len(queries)))
    seen = set(skips)
    for k in _depths(FIRST_ROWS, most):
        found = search(shards, queries, k, kept)
        bound = max((hits[-1].score for hits in found if hits and len(hits) < total), default=float("-inf"))
        for media in rank(found, "max"):
            # Tied rows of one query are ordered by row_id, those of several queries arbitrarily.
            settled = media.score > bound or (media.score == bound and len(queries) == 1)
            if (settled or k == most) and media.item_no not in seen:
                seen.add(media.item_no)
                yield media


def by_all_rows(
    shards: Sequence[OpenShard],
    queries: NDArray[np.float32],
    ranker: Literal["mean", "bimatch"],
    d_miss: float | None,
    skips: Collection[int] = (),
    rows_of: RowsOf | None = None,
    kept: Sequence[KeptRows] | None = None,
) -> Iterator[MediaHit]:
    """Yield items ranked by all of their rows, as brute force would.

    In a small index all items are candidates. In a larger one, the items of the nearest rows are; items of more distant
    rows follow if more hits are requested.

    Args:
        shards: the shards of one index.
        queries: float32 [q, dim].
        ranker: the ranker, ``mean`` or ``bimatch``.
        d_miss: see ``rank_items``.
        skips: the numbers of items to exclude.
        rows_of: a function that reads all rows of items, for indexes that do not store exact vectors.
        kept: the rows of each shard that may be found and are compared; all rows if None.
    """
    total = sum(some.rows for some in (shards if kept is None else kept))
    if not total:
        return
    exhaustive = total <= ALL_ROWS and total * len(queries) <= ALL_PAIRS
    first = total if exhaustive else max(LEAST_CANDIDATES, CANDIDATES // len(queries))
    seen = np.array(sorted(skips), np.int64)
    for k in _depths(first, total):
        if k == total:
            near = items_in(shards) if kept is None else _numbers([some.ids for some in kept])
        else:
            near = _items_of(search(shards, queries, k, kept))
        fresh = np.setdiff1d(near, seen)
        seen = np.union1d(seen, fresh)
        blocks = stored_rows(shards, fresh) if rows_of is None else rows_of(fresh)
        if kept is not None:
            blocks = _only_kept(blocks, kept)
        yield from rank_items(blocks, fresh, queries, ranker, shards[0].recipe.metric, d_miss)


def _only_kept(
    blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]], kept: Sequence[KeptRows]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    for ids, vectors in blocks:
        mine = np.zeros(len(ids), np.bool_)
        for some in kept:
            mine |= some.row_filter.keeps(ids)
        yield ids[mine], vectors[mine]


def _numbers(ids: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([np.empty(0, np.int64), *ids]) >> ORDINAL_BITS)


def _items_of(found: Sequence[Sequence[RowHit]]) -> NDArray[np.int64]:
    return np.unique(np.array([hit.row_id for hits in found for hit in hits], np.int64) >> ORDINAL_BITS)


class MergedList:
    """Items of several ranked lists merged lazily, best first.

    Lists are merged to a fixed depth before deeper items follow, so a longer result begins with the shorter one.

    Attributes:
        taken: the items taken of each list so far.
    """

    def __init__(self, lists: Mapping[str, Iterator[MediaHit]], stands_for: Mapping[int, int] | None = None) -> None:
        """Take nothing yet.

        Args:
            lists: the ranked lists by index.
            stands_for: maps item_no to the item_no that is displayed instead; other items are displayed themselves.
        """
        self._lists = lists
        self._stands_for = stands_for or {}
        self.taken: dict[str, list[MediaHit]] = {name: [] for name in lists}

    def shown_as(self, item_no: int) -> int:
        """Return the item that is displayed for a hit."""
        return self._stands_for.get(item_no, item_no)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        """Yield (item_no, score), best first."""
        if len(self._lists) == 1:
            ((name, ranked),) = self._lists.items()
            for media in ranked:
                self.taken[name].append(media)
                yield media.item_no, media.score
            return
        scores: dict[int, float] = {}
        for depth in _depths(FUSED_DEPTH, sys.maxsize):
            more = {name: list(islice(ranked, depth - len(self.taken[name]))) for name, ranked in self._lists.items()}
            if not any(more.values()):
                return
            for name, found in more.items():
                self.taken[name] += found
            lists = [[self.shown_as(media.item_no) for media in some] for some in self.taken.values()]
            for item_no, score in reciprocal_rank_fusion(lists):
                if item_no not in scores:
                    scores[item_no] = score
                    yield item_no, score

    def leader(self, item_nos: Collection[int]) -> dict[int, tuple[str, MediaHit]]:
        """Return, for each item, the index that ranked it highest, and its rank there."""
        leaders: dict[int, tuple[int, str, MediaHit]] = {}
        for name, ranked in self.taken.items():
            for place, media in enumerate(ranked):
                shown = self.shown_as(media.item_no)
                if shown in item_nos and (shown not in leaders or (place, name) < leaders[shown][:2]):
                    leaders[shown] = place, name, media
        return {shown: (name, media) for shown, (_, name, media) in leaders.items()}


def _depths(first: int, last: int) -> Iterator[int]:
    """Yield the numbers of rows to request: ``first``, then four times as many each time, finally ``last``."""
    while first < last:
        yield first
        first *= 4
    if last:
        yield last
