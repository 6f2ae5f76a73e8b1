"""Index files opened for searching."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.index import IndexRecipe, IndexShard
from cliploom.transforms.index.compact import CompactCodes, read_codes
from cliploom.transforms.index.files import read_index
from cliploom.transforms.index.inverted_lists import list_codes, list_ids


@dataclass(frozen=True)
class OpenShard:
    """An index file opened for searching.

    Attributes:
        index: the FAISS index to search: the one inside the ``IndexIDMap2``, or the inverted file.
        owner: the object that keeps ``index``, ``ids`` and ``vectors`` alive.
        ids: int64 [rows], the row at each position; empty for inverted files, which know ids themselves.
        vectors: float32 [rows, dim], a view of what is stored; empty for inverted files.
        compact: codes that find candidates, of ``ivf_rabitq``.
        longest: largest length of a stored vector; 1 where they are unit vectors or it is not needed.
    """

    path: Path
    recipe: IndexRecipe
    index: Any
    owner: Any
    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    longest: float = 1.0
    compact: CompactCodes | None = None

    @property
    def rows(self) -> int:
        """The number of rows in the shard."""
        return int(self.index.ntotal)

    @cached_property
    def row_ids(self) -> NDArray[np.int64]:
        """int64 [rows], the row at each position; inverted lists follow one another."""
        if not self.recipe.inverted:
            return self.ids
        return np.concatenate([np.empty(0, np.int64), *list_ids(self.index)])

    @cached_property
    def list_starts(self) -> NDArray[np.int64]:
        """The position at which each inverted list starts, int64 [lists + 1]."""
        sizes = [self.index.invlists.list_size(number) for number in range(self.index.nlist)]
        return np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))]).astype(np.int64)

    def ids_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row ids at ascending positions, int64 [n], read only from the lists that contain them."""
        if not self.recipe.inverted:
            return self.ids[positions]
        ids = np.empty(len(positions), np.int64)
        for number, mine, offsets in self._by_list(positions):
            pointer = self.index.invlists.get_ids(number)
            ids[mine] = faiss.rev_swig_ptr(pointer, self.index.invlists.list_size(number))[offsets]
            self.index.invlists.release_ids(number, pointer)
        return ids

    def vectors_at(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors at ascending positions, float32 [n, dim]; for inverted files decoded from their bytes."""
        if not self.recipe.inverted:
            return self.vectors[positions]
        if not positions.size:
            return np.empty((0, self.recipe.dim), np.float32)
        codes = np.empty((len(positions), self.index.coarse_code_size() + self.index.code_size), np.uint8)
        for number, mine, places in self._by_list(positions):
            codes[mine] = list_codes(self.index, number, places)
        vectors: NDArray[np.float32] = self.index.sa_decode(codes)
        return vectors

    def _by_list(self, positions: NDArray[np.int64]) -> Iterator[tuple[int, slice, NDArray[np.int64]]]:
        """Inverted list, places among ``positions``, and places in the list, for ascending positions."""
        lists = np.searchsorted(self.list_starts, positions, side="right") - 1
        numbers, firsts = np.unique(lists, return_index=True)
        for number, first, last in zip(numbers.tolist(), firsts, [*firsts[1:], len(positions)], strict=True):
            yield number, slice(first, last), positions[first:last] - self.list_starts[number]


def open_shard(path: Path, recipe: IndexRecipe, shard: IndexShard | None = None) -> OpenShard:
    """Open an index file; inverted lists are memory-mapped, so that opening is fast at any size.

    Raises:
        StoreError: the file is missing, damaged, or does not match the recipe or record; the message names it.
    """
    vectors = np.empty((0, recipe.dim), np.float32)
    longest = 1.0
    if recipe.inverted:
        lists = read_index(path, recipe, shard, mapped=True)
        # By default FAISS starts 32 prefetch threads per query, which takes 20 times as long as the query.
        mapped: Any = faiss.downcast_InvertedLists(lists.invlists)
        if lists.ntotal:
            mapped.prefetch_nthread = 0
        compact = read_codes(path, lists) if recipe.kind == "ivf_rabitq" else None
        return OpenShard(path, recipe, lists, lists, np.empty(0, np.int64), vectors, compact=compact)
    owner = read_index(path, recipe, shard)
    index: Any = faiss.downcast_index(owner.index)
    storage: Any = faiss.downcast_index(index.storage) if recipe.kind == "hnsw" else index
    if owner.ntotal:
        vectors = faiss.rev_swig_ptr(storage.get_xb(), owner.ntotal * recipe.dim).reshape(-1, recipe.dim)
        if recipe.kind == "flat" and recipe.metric != "cosine":
            longest = float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max()))
    return OpenShard(path, recipe, index, owner, faiss.vector_to_array(owner.id_map), vectors, longest)
