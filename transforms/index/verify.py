"""What ``verify`` asks of index files: which rows they hold, and whether sampled vectors find themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.index import IndexRecipe
from cliploom.transforms.index.build import list_ids
from cliploom.transforms.index.files import read_index
from cliploom.transforms.index.opened import OpenShard
from cliploom.transforms.index.search import search
from cliploom.transforms.index.vectors import exact_scores, prepare

K = 10
# How far a vector's stored form may be from itself, as a share of the score's scale.
TOLERANCE = {"flat": 1e-5, "hnsw": 1e-5, "ivf_sq8": 0.03, "ivf_rabitq": 0.03}


def shard_ids(path: Path, recipe: IndexRecipe) -> NDArray[np.int64]:
    """The row ids in an index file, ascending; an id that is there twice is given twice.

    Raises:
        StoreError: naming the file, when it is missing, damaged or not of the recipe.
    """
    index = read_index(path, recipe, mapped=recipe.inverted)
    if recipe.inverted:
        return np.sort(np.concatenate([np.empty(0, np.int64), *list_ids(index)]))
    return np.sort(faiss.vector_to_array(index.id_map))


def check_finds_itself(shards: Sequence[OpenShard], ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> list[int]:
    """Sampled rows that a search for their own vectors should find, and does not.

    A row passes when it is among the first ten hits, or when all ten score at least as well as the row itself does:
    equal frames repeat, and under ``dot`` longer vectors come first.

    Args:
        shards: of the index, open.
        ids: int64 [n], rows sampled from the table.
        vectors: float32 [n, dim], their vectors in the table.

    Returns:
        Row ids that don't find themselves; empty when all is well.
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
