"""Checks of index files for ``verify``: which rows they contain, and whether sampled vectors find themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.index import IndexRecipe
from cliploom.transforms.index.files import read_index
from cliploom.transforms.index.inverted_lists import list_ids
from cliploom.transforms.index.opened import OpenShard
from cliploom.transforms.index.search import search
from cliploom.transforms.index.vectors import exact_scores, prepare

K = 10
# How far a vector's stored form may be from itself, as a share of the score's scale.
TOLERANCE = {"flat": 1e-5, "hnsw": 1e-5, "ivf_sq8": 0.03, "ivf_rabitq": 0.03}


def shard_ids(path: Path, recipe: IndexRecipe) -> NDArray[np.int64]:
    """Return the row ids in an index file, ascending, with duplicates.

    Raises:
        StoreError: the file is missing, damaged or of another recipe; the message names it.
    """
    index = read_index(path, recipe, mapped=recipe.inverted)
    if recipe.inverted:
        return np.sort(np.concatenate([np.empty(0, np.int64), *list_ids(index)]))
    return np.sort(faiss.vector_to_array(index.id_map))


def check_finds_itself(shards: Sequence[OpenShard], ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> list[int]:
    """Return the sampled rows that a search for their own vectors does not find.

    A row passes if it is among the first ten hits, or if all ten score at least as well as the row itself: equal frames
    repeat, and with ``dot`` longer vectors rank first.

    Args:
        shards: the open shards of the index.
        ids: the ids of rows sampled from the table, int64 [n].
        vectors: float32 [n, dim], their vectors in the table.

    Returns:
        The ids of rows that do not find themselves; empty if the index is correct.
    """
    if not ids.size:
        return []
    if not shards:
        return [int(row) for row in ids]
    recipe = shards[0].recipe
    prepared = prepare(vectors, recipe.metric, ids)
    lost = []
    for row, vector, hits in zip(ids.tolist(), prepared, search(shards, vectors, K), strict=True):
        if any(hit.row_id == row for hit in hits):
            continue
        itself = float(exact_scores(vector, vector[np.newaxis], recipe.metric)[0])
        length = float(np.linalg.norm(vector.astype(np.float64)))
        scale = length if recipe.metric == "l2" else length**2
        if len(hits) < K or hits[-1].score < itself - TOLERANCE[recipe.kind] * scale:
            lost.append(row)
    return lost
