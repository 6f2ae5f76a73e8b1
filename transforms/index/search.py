"""Search index shards: every shard is asked, the answers are merged and sorted.

``flat`` is exact and repeatable to the last bit: FAISS proposes candidates, their scores are computed again in
float64, and rows with equal scores come by row_id, also where a tie straddles the last place. ``ivf_sq8`` scores are
those of the stored bytes; ties are broken the same way among the lists it visits. ``hnsw`` finds what its graph leads
to; its scores are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.index import IndexRecipe, IndexShard, RowHit
from cliploom.transforms.index.files import read_index
from cliploom.transforms.index.vectors import distance_of, exact_scores, prepare

if TYPE_CHECKING:
    # Ids and scores (larger is better) that one shard gives for one query.
    Found = tuple[NDArray[np.int64], NDArray[np.float64]]

# Bound of the error of FAISS's float32 scores, as a share of the product of the two vectors' lengths.
ROUNDING = 4e-6


@dataclass(frozen=True)
class OpenShard:
    """An index file that is open for searching.

    Attributes:
        index: what FAISS searches: the index inside the ``IndexIDMap2``, or the inverted file.
        owner: the object that keeps ``index``, ``ids`` and ``vectors`` alive.
        ids: int64 [rows], the row at each position; empty for ``ivf_sq8``, which knows ids itself.
        vectors: float32 [rows, dim], a view of what is stored; empty for ``ivf_sq8``.
        longest: largest length of a stored vector; 1 where they are unit vectors or it is not needed.
    """

    path: Path
    recipe: IndexRecipe
    index: Any
    owner: Any
    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    longest: float = 1.0

    @property
    def rows(self) -> int:
        """Rows in the shard."""
        return int(self.index.ntotal)


def open_shard(path: Path, recipe: IndexRecipe, shard: IndexShard | None = None) -> OpenShard:
    """Open an index file; inverted lists stay on disk and are mapped, so that opening is fast at any size.

    Raises:
        StoreError: naming the file, when it is missing, damaged, or not of the recipe or record.
    """
    vectors = np.empty((0, recipe.dim), np.float32)
    longest = 1.0
    if recipe.kind == "ivf_sq8":
        lists = read_index(path, recipe, shard, mapped=True)
        # FAISS would start 32 threads a query to read ahead, which takes 20 times as long as the query.
        mapped: Any = faiss.downcast_InvertedLists(lists.invlists)
        if lists.ntotal:
            mapped.prefetch_nthread = 0
        return OpenShard(path, recipe, lists, lists, np.empty(0, np.int64), vectors)
    owner = read_index(path, recipe, shard)
    index: Any = faiss.downcast_index(owner.index)
    storage: Any = faiss.downcast_index(index.storage) if recipe.kind == "hnsw" else index
    if owner.ntotal:
        vectors = faiss.rev_swig_ptr(storage.get_xb(), owner.ntotal * recipe.dim).reshape(-1, recipe.dim)
        if recipe.kind == "flat" and recipe.metric != "cosine":
            longest = float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max()))
    return OpenShard(path, recipe, index, owner, faiss.vector_to_array(owner.id_map), vectors, longest)


def search(shards: Sequence[OpenShard], queries: NDArray[np.float32], k: int) -> list[list[RowHit]]:
    """The best rows for each query.

    Args:
        shards: of one index.
        queries: float32 [q, dim].
        k: hits wanted; with fewer rows than that, all of them.

    Returns:
        For each query at most ``k`` hits, best first, equal scores by row_id.

    Raises:
        ValueError: for queries of another width or not finite, ``k`` below 1, or shards of different recipes.
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
        raise ValueError(f"queries have shape {queries.shape}; the index wants [q, {recipe.dim}]")
    prepared = prepare(queries, recipe.metric)
    answers = [_search_shard(shard, prepared, k) for shard in shards if shard.rows and len(prepared)]
    merged = []
    for number in range(len(prepared)):
        ids = np.concatenate([np.empty(0, np.int64), *(answer[number][0] for answer in answers)])
        scores = np.concatenate([np.empty(0, np.float64), *(answer[number][1] for answer in answers)])
        order = np.lexsort((ids, -scores))[:k]
        # Adding 0 turns -0.0 into 0.0.
        best = zip(ids[order].tolist(), (scores[order] + 0.0).tolist(), strict=True)
        merged.append([RowHit(row, score, distance_of(score, recipe.metric)) for row, score in best])
    return merged


def _search_shard(shard: OpenShard, queries: NDArray[np.float32], k: int) -> list[Found]:
    # One more than wanted shows whether the last place is tied.
    ask = min(k + 1, shard.rows)
    parameters = _parameters(shard, ask)
    scores, found = shard.index.search(queries, ask, params=parameters)
    if shard.recipe.kind == "ivf_sq8":
        return _search_lists(shard, queries, k, scores, found)
    answers = []
    for query, positions, approximate in zip(queries, found, scores, strict=True):
        if shard.recipe.kind == "flat" and ask > k:
            positions = _with_ties(shard, query, positions, approximate)
        positions = positions[positions >= 0]
        exact = exact_scores(query, shard.vectors[positions], shard.recipe.metric)
        answers.append(_best(shard.ids[positions], exact, k))
    return answers


def _with_ties(
    shard: OpenShard, query: NDArray[np.float32], positions: NDArray[np.int64], scores: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Candidates that surely hold the exact best: when the last place is tied, all that may share it."""
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
    # Outward by one float, as FAISS keeps what is strictly within the radius.
    outward = np.inf if shard.recipe.metric == "l2" else -np.inf
    _, _, within = shard.index.range_search(
        query[np.newaxis], float(np.nextafter(np.float32(radius), np.float32(outward)))
    )
    return np.asarray(within)


def _search_lists(
    shard: OpenShard,
    queries: NDArray[np.float32],
    k: int,
    scores: NDArray[np.float32],
    found: NDArray[np.int64],
) -> list[Found]:
    """Finish a search of inverted lists: look further where the lists visited held too few rows, then settle ties."""
    ask = scores.shape[1]
    nprobe = max(shard.recipe.nprobe, 1)
    visited = np.full(len(queries), nprobe)
    while nprobe < shard.index.nlist and (short := np.flatnonzero(found[:, min(k, shard.rows) - 1] < 0)).size:
        nprobe = min(2 * nprobe, shard.index.nlist)
        parameters = _visiting(nprobe)
        scores[short], found[short] = shard.index.search(queries[short], ask, params=parameters)
        visited[short] = nprobe
    answers = []
    for number, query in enumerate(queries):
        ids, raw = found[number], scores[number]
        if ask > k and ids[k] >= 0 and raw[k] == raw[k - 1]:
            outward = np.float32(np.inf if shard.recipe.metric == "l2" else -np.inf)
            parameters = _visiting(int(visited[number]))
            radius = float(np.nextafter(raw[k], outward))
            _, raw, ids = shard.index.range_search(query[np.newaxis], radius, params=parameters)
        raw, ids = raw[ids >= 0].astype(np.float64), ids[ids >= 0]
        answers.append(_best(ids, -np.sqrt(np.maximum(raw, 0)) if shard.recipe.metric == "l2" else raw, k))
    return answers


def _parameters(shard: OpenShard, ask: int) -> Any:
    if shard.recipe.kind == "ivf_sq8":
        return _visiting(min(max(shard.recipe.nprobe, 1), shard.index.nlist))
    if shard.recipe.kind == "hnsw":
        # FAISS's stubs lag behind its parameters.
        return faiss.SearchParametersHNSW(efSearch=max(shard.recipe.nprobe, ask))  # type: ignore[attr-defined]
    return None


def _visiting(nprobe: int) -> Any:
    return faiss.SearchParametersIVF(nprobe=nprobe)  # type: ignore[call-arg]


def _best(ids: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> Found:
    order = np.lexsort((ids, -scores))[:k]
    return ids[order], scores[order]
