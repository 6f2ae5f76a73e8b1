"""Index files opened for searching."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.index import IndexRecipe, IndexShard
from cliploom.transforms.index.build import list_ids
from cliploom.transforms.index.files import read_index


@dataclass(frozen=True)
class OpenShard:
    """An index file opened for searching.

    Attributes:
        index: the FAISS index to search: the one inside the ``IndexIDMap2``, or the inverted file.
        owner: the object that keeps ``index``, ``ids`` and ``vectors`` alive.
        ids: int64 [rows], the row id at each position; empty for ``ivf_sq8``, which stores the ids itself.
        vectors: float32 [rows, dim], a view of the stored vectors; empty for ``ivf_sq8``.
        longest: the largest length of a stored vector; 1 for unit vectors or if it is not needed.
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
        """The number of rows in the shard."""
        return int(self.index.ntotal)

    @cached_property
    def row_ids(self) -> NDArray[np.int64]:
        """The row id at each position, int64 [rows]; inverted lists follow one another."""
        if self.recipe.kind != "ivf_sq8":
            return self.ids
        return np.concatenate([np.empty(0, np.int64), *list_ids(self.index)])

    @cached_property
    def list_starts(self) -> NDArray[np.int64]:
        """The position at which each inverted list starts, int64 [lists + 1]."""
        sizes = [self.index.invlists.list_size(number) for number in range(self.index.nlist)]
        return np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))]).astype(np.int64)

    def vectors_at(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors at ascending positions, float32 [n, dim]; for ``ivf_sq8`` decoded from its bytes."""
        if self.recipe.kind != "ivf_sq8":
            return self.vectors[positions]
        if not positions.size:
            return np.empty((0, self.recipe.dim), np.float32)
        lists = np.searchsorted(self.list_starts, positions, side="right") - 1
        prefix, size = self.index.coarse_code_size(), self.index.code_size
        codes = np.zeros((len(positions), prefix + size), np.uint8)
        for byte in range(prefix):
            codes[:, byte] = (lists >> (8 * byte)) & 255
        numbers, firsts = np.unique(lists, return_index=True)
        stored = self.index.invlists
        for number, first, last in zip(numbers.tolist(), firsts, [*firsts[1:], len(positions)], strict=True):
            start, end = self.list_starts[number], self.list_starts[number + 1]
            pointer = stored.get_codes(number)
            mine = faiss.rev_swig_ptr(pointer, int(end - start) * size).reshape(-1, size)
            codes[first:last, prefix:] = mine[positions[first:last] - start]
            stored.release_codes(number, pointer)
        vectors: NDArray[np.float32] = self.index.sa_decode(codes)
        return vectors


def open_shard(path: Path, recipe: IndexRecipe, shard: IndexShard | None = None) -> OpenShard:
    """Open an index file; inverted lists are memory-mapped, so that opening is fast at any size.

    Raises:
        StoreError: the file is missing, damaged, or does not match the recipe or record; the message names it.
    """
    vectors = np.empty((0, recipe.dim), np.float32)
    longest = 1.0
    if recipe.kind == "ivf_sq8":
        lists = read_index(path, recipe, shard, mapped=True)
        # By default FAISS starts 32 prefetch threads per query, which takes 20 times as long as the query.
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
