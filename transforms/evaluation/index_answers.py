"""Ranks from the release's index, including the losses of its approximation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.index import IndexRecipe, IndexShard, RowHit
from cliploom.schemas.release import Release
from cliploom.transforms.evaluation.gallery import FeatureRows
from cliploom.transforms.index.opened import OpenShard, open_shard
from cliploom.transforms.index.search import search
from cliploom.transforms.metrics.ranks import Ranks, Relevance
from cliploom.transforms.store.cache import cached_file
from cliploom.transforms.store.object_store import ObjectStore

DEPTH = 10
_ROWS_A_HIT = 10
_QUERIES_AT_ONCE = 1024


def index_over(release: Release, feature: str, output: str, similarity: str) -> str | None:
    """Return the first index over an output with this similarity."""
    for name, index in release.indexes.items():
        if (index.feature, index.output, index.metric) == (feature, output, similarity) and index.rows:
            return name
    return None


def index_ranks(
    objects: ObjectStore,
    release: Release,
    index: str,
    queries: NDArray[np.float32],
    rows: FeatureRows,
    relevance: Relevance,
    *,
    items: bool,
) -> Ranks:
    """Rank items by an index search; a correct answer that is not among the first 10 ranks last.

    Args:
        objects: the store.
        release: the release that has the index.
        index: the name of the index.
        queries: float32 [queries, dim].
        rows: the feature's rows.
        relevance: the texts, and the items (or rows, if ``items`` is false) that answer them.
        items: whether to rank items, each by its best row.
    """
    shards = open_index(objects, release, index)
    total = sum(shard.rows for shard in shards)
    candidates = len(rows.uids) if items else len(rows.row_ids)
    known, firsts = np.unique(relevance.queries, return_index=True)
    ends = np.append(firsts[1:], len(relevance.queries))
    ranks = np.full(len(known), float(candidates))
    for begin in range(0, len(known), _QUERIES_AT_ONCE):
        some = np.arange(begin, min(begin + _QUERIES_AT_ONCE, len(known)))
        k = min(total, DEPTH * _ROWS_A_HIT if items else DEPTH)
        while some.size and k:
            unsettled = []
            for place, hits in zip(some.tolist(), search(shards, queries[known[some]], k), strict=True):
                found = _things(hits, rows, items=items)
                if len(found) < DEPTH and k < total:
                    unsettled.append(place)
                right = set(relevance.things[firsts[place] : ends[place]].tolist())
                at = next((number for number, thing in enumerate(found[:DEPTH], 1) if thing in right), None)
                ranks[place] = candidates if at is None else at
            some, k = np.array(unsettled, np.int64), min(total, 4 * k)
            if not unsettled:
                break
    relevant = (ends - firsts).astype(np.int64)
    return Ranks(known, ranks, relevant, candidates)


def open_index(objects: ObjectStore, release: Release, index: str) -> list[OpenShard]:
    """Open all shards of an index."""
    entry = release.indexes[index]
    dim = release.features[entry.feature].outputs[entry.output].dim
    recipe = IndexRecipe(entry.metric, entry.kind, dim, entry.nprobe)  # type: ignore[arg-type]
    return [
        open_shard(
            cached_file(objects, shard.file),
            recipe,
            IndexShard(shard.file.path, shard.file.size, shard.file.digest, shard.rows),
        )
        for shard in entry.shards
    ]


def _things(hits: list[RowHit], rows: FeatureRows, *, items: bool) -> list[int]:
    """Return the items (or rows) of some hits, best first, without duplicates."""
    places = np.searchsorted(rows.row_ids, [hit.row_id for hit in hits])
    if items:
        places = np.searchsorted(rows.starts, places, "right") - 1
    return list(dict.fromkeys(places.tolist()))
