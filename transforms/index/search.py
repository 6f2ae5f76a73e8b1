"""Searches index shards: queries every shard, merges and sorts the results.

``flat`` is exact and repeatable to the last bit: FAISS proposes candidates, their scores are computed again in
float64, and rows with equal scores come by row_id, also where a tie straddles the last place. ``ivf_sq8`` scores are
those of the stored bytes; ties are broken the same way among the lists it visits. ``ivf_rabitq`` scores so the
candidates that its compact codes find. ``hnsw`` finds what its graph leads
to; its scores are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.index import RowHit
from cliploom.transforms.index.compact import CompactCodes
from cliploom.transforms.index.kept import ROUNDING, KeptRows, candidates_of
from cliploom.transforms.index.opened import OpenShard
from cliploom.transforms.index.vectors import distance_of, exact_scores, prepare

if TYPE_CHECKING:
    from cliploom.schemas.index import Metric

    # Ids and scores (larger is better) of one shard for one query.
    Found = tuple[NDArray[np.int64], NDArray[np.float64]]


# Candidates of compact codes for each hit that is wanted, and the fewest.
CANDIDATES, LEAST_CANDIDATES = 20, 200


def search(
    shards: Sequence[OpenShard],
    queries: NDArray[np.float32],
    k: int,
    kept: Sequence[KeptRows] | None = None,
) -> list[list[RowHit]]:
    """Return the best rows for each query.

    Args:
        shards: the shards of one index.
        queries: float32 [q, dim].
        k: the number of hits; with fewer rows, all of them.
        kept: the rows of each shard that may be found; all rows if None.

    Returns:
        For each query at most ``k`` hits, best first, ties ordered by row_id.

    Raises:
        ValueError: the queries have another width or are not finite, ``k`` is below 1, or the shards differ in recipe.
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least 1 hit")
    if not shards:
        return [[] for _ in queries]
    recipe = shards[0].recipe
    for shard in shards:
        if shard.recipe != recipe:
            raise ValueError(
                f"{shard.path} is of {shard.recipe}, {shards[0].path} of {recipe}; search one index at a time"
            )
    if queries.ndim != 2 or queries.shape[1] != recipe.dim:
        raise ValueError(f"queries have shape {queries.shape}; expected [q, {recipe.dim}]")
    prepared = prepare(queries, recipe.metric)
    if not len(prepared):
        return []
    filters: Sequence[KeptRows | None] = [None] * len(shards) if kept is None else kept
    answers = [
        _search_shard(shard, prepared, k, rows)
        for shard, rows in zip(shards, filters, strict=True)
        if (shard.rows if rows is None else rows.rows)
    ]
    if len(answers) == 1:
        return [_row_hits(*found, recipe.metric) for found in answers[0]]
    merged = []
    for number in range(len(prepared)):
        ids = np.concatenate([np.empty(0, np.int64), *(answer[number][0] for answer in answers)])
        scores = np.concatenate([np.empty(0, np.float64), *(answer[number][1] for answer in answers)])
        merged.append(_row_hits(*_best(ids, scores, k), recipe.metric))
    return merged


def _row_hits(ids: NDArray[np.int64], scores: NDArray[np.float64], metric: Metric) -> list[RowHit]:
    # Adding 0 turns -0.0 into 0.0.
    found = (scores + 0.0).tolist()
    distances = [distance_of(score, metric) for score in found]
    return list(map(RowHit._make, zip(ids.tolist(), found, distances, strict=True)))


def _search_shard(shard: OpenShard, queries: NDArray[np.float32], k: int, kept: KeptRows | None) -> list[Found]:
    if kept is not None and kept.exact:
        return kept.best(queries, k)
    rows = shard.rows if kept is None else kept.rows
    if shard.compact is not None:
        return _search_compact(shard, shard.compact, queries, k, kept)
    # One more than wanted shows whether the last place is tied.
    ask = min(k + 1, rows)
    parameters = _parameters(shard, ask, kept)
    scores, found = shard.index.search(queries, ask, params=parameters)
    if shard.recipe.kind == "ivf_sq8":
        return _search_lists(shard, queries, k, scores, found, kept)
    answers = []
    for query, positions, approximate in zip(queries, found, scores, strict=True):
        if shard.recipe.kind == "flat" and ask > k:
            positions = _with_ties(shard, query, positions, approximate, parameters)
        positions = positions[positions >= 0]
        if kept is not None and len(positions) < min(k, rows):
            # The graph reaches too few of the filtered rows.
            answers += kept.best(query[np.newaxis], k)
            continue
        exact = exact_scores(query, shard.vectors[positions], shard.recipe.metric)
        answers.append(_best(shard.ids[positions], exact, k))
    return answers


def _with_ties(
    shard: OpenShard,
    query: NDArray[np.float32],
    positions: NDArray[np.int64],
    scores: NDArray[np.float32],
    parameters: Any,
) -> NDArray[np.int64]:
    """Return candidates that certainly include the exact best: if the last place is tied, all that may share it."""
    length = float(np.linalg.norm(query.astype(np.float64)))
    last, beyond = float(scores[-2]), float(scores[-1])
    if shard.recipe.metric == "l2":
        slack = ROUNDING * (length + shard.longest) ** 2
        radius = last + slack
    else:
        slack = ROUNDING * length * shard.longest
        radius = last - slack
    if abs(last - beyond) > slack:
        return positions[:-1]
    # Enlarge the radius by one float: FAISS returns only what is strictly within it.
    outward = np.inf if shard.recipe.metric == "l2" else -np.inf
    _, _, within = shard.index.range_search(
        query[np.newaxis], float(np.nextafter(np.float32(radius), np.float32(outward))), params=parameters
    )
    return np.asarray(within)


def _search_lists(
    shard: OpenShard,
    queries: NDArray[np.float32],
    k: int,
    scores: NDArray[np.float32],
    found: NDArray[np.int64],
    kept: KeptRows | None,
) -> list[Found]:
    """Finish a search of inverted lists: visit more lists if too few rows were found, then resolve ties."""
    ask = scores.shape[1]
    nprobe = _lists_visited(shard, kept)
    visited: dict[int, int] = {}
    last = min(k, shard.rows if kept is None else kept.rows) - 1
    while nprobe < shard.index.nlist and (short := np.flatnonzero(found[:, last] < 0)).size:
        nprobe = min(2 * nprobe, shard.index.nlist)
        scores[short], found[short] = shard.index.search(queries[short], ask, params=_visiting(nprobe, kept))
        visited |= dict.fromkeys(short.tolist(), nprobe)
    # Complete results without ties are already in order.
    whole = (found[:, last] >= 0) & (scores[:, 1:] != scores[:, :-1]).all(axis=1)
    exact_all = scores.astype(np.float64)
    if shard.recipe.metric == "l2":
        exact_all = -np.sqrt(np.maximum(exact_all, 0))
    answers = list(zip(found[:, : last + 1], exact_all[:, : last + 1], strict=True))
    outward = np.float32(np.inf if shard.recipe.metric == "l2" else -np.inf)
    for number in np.flatnonzero(~whole).tolist():
        query, ids, raw = queries[number], found[number], scores[number]
        if ask > k and ids[k] >= 0 and raw[k] == raw[k - 1]:
            radius = float(np.nextafter(raw[k], outward))
            parameters = _visiting(visited.get(number, _lists_visited(shard, kept)), kept)
            _, raw, ids = shard.index.range_search(query[np.newaxis], radius, params=parameters)
        if not ids.size or ids.min() < 0:
            raw, ids = raw[ids >= 0], ids[ids >= 0]
        exact = raw.astype(np.float64)
        answers[number] = _best(ids, -np.sqrt(np.maximum(exact, 0)) if shard.recipe.metric == "l2" else exact, k)
    return answers


def _search_compact(
    shard: OpenShard, compact: CompactCodes, queries: NDArray[np.float32], k: int, kept: KeptRows | None
) -> list[Found]:
    """Candidates by the compact codes, then their scores by the stored bytes."""
    rows = shard.rows if kept is None else kept.rows
    wanted = min(max(LEAST_CANDIDATES, CANDIDATES * k), rows)
    selector = None if kept is None else kept.selector
    nprobe = _lists_visited(shard, kept)
    found = compact.search(queries, wanted, nprobe, selector)
    last = min(k, rows) - 1
    while nprobe < shard.index.nlist and (short := np.flatnonzero(found[:, last] < 0)).size:
        nprobe = min(2 * nprobe, shard.index.nlist)
        found[short] = compact.search(queries[short], wanted, nprobe, selector)
    answers = []
    for query, candidates in zip(queries, found, strict=True):
        positions = np.sort(candidates[candidates >= 0])
        vectors = shard.vectors_at(positions)
        near = candidates_of(query[np.newaxis], vectors, k, shard.recipe.metric)[0]
        scores = exact_scores(query, vectors[near], shard.recipe.metric)
        answers.append(_best(shard.ids_at(positions[near]), scores, k))
    return answers


def _lists_visited(shard: OpenShard, kept: KeptRows | None) -> int:
    widening = 1.0 if kept is None else kept.widening
    return min(math.ceil(max(shard.recipe.nprobe, 1) * widening), int(shard.index.nlist))


def _parameters(shard: OpenShard, ask: int, kept: KeptRows | None) -> Any:
    if shard.recipe.kind == "ivf_sq8":
        return _visiting(_lists_visited(shard, kept), kept)
    if shard.recipe.kind == "hnsw":
        depth = math.ceil(max(shard.recipe.nprobe, ask) * (1.0 if kept is None else kept.widening))
        selector = {} if kept is None else {"sel": kept.selector}
        # FAISS's type stubs lack these parameters.
        return faiss.SearchParametersHNSW(efSearch=depth, **selector)  # type: ignore[attr-defined]
    return None if kept is None else faiss.SearchParameters(sel=kept.selector)  # type: ignore[call-arg]


def _visiting(nprobe: int, kept: KeptRows | None) -> Any:
    if kept is None:
        return _visiting_all(nprobe)
    return faiss.SearchParametersIVF(nprobe=nprobe, sel=kept.selector)  # type: ignore[call-arg]


@lru_cache(maxsize=64)
def _visiting_all(nprobe: int) -> Any:
    return faiss.SearchParametersIVF(nprobe=nprobe)  # type: ignore[call-arg]


def _best(ids: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> Found:
    order = np.lexsort((ids, -scores))[:k]
    return ids[order], scores[order]
