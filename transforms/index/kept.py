"""Filtered search: the rows of a shard that pass a filter, and how FAISS or an exact scan searches only them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.records import ORDINAL_BITS
from cliploom.transforms.index.vectors import exact_scores

if TYPE_CHECKING:
    from cliploom.transforms.index.opened import OpenShard

    Found = tuple[NDArray[np.int64], NDArray[np.float64]]

# Up to this many filtered rows are compared exhaustively: an index would have to visit most of itself to find them.
EXACT_ROWS = 8192
# A graph search reaches filtered rows only while they are at least this share of all.
LEAST_SHARE_OF_GRAPH = 0.2
# An exact scan reads the vectors of this many rows at a time, and caches them if there are no more.
BLOCK = 8192
# Bound on the error of float32 products, relative to the product of the two vectors' lengths.
ROUNDING = 4e-6


@dataclass(frozen=True)
class RowFilter:
    """The rows that a query may find.

    Attributes:
        items: the numbers of the items, int64, ascending.
        rows: the row ids, int64, ascending; None for all rows of the items.
    """

    items: NDArray[np.int64]
    rows: NDArray[np.int64] | None = None

    def keeps(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the given row ids pass."""
        if self.rows is None:
            return np.asarray(np.isin(ids >> ORDINAL_BITS, self.items), np.bool_)
        if not self.rows.size:
            return np.zeros(len(ids), np.bool_)
        places = np.minimum(np.searchsorted(self.rows, ids), len(self.rows) - 1)
        return np.asarray(self.rows[places] == ids, np.bool_)


class KeptRows:
    """The rows of one shard that pass a filter."""

    def __init__(self, shard: OpenShard, row_filter: RowFilter) -> None:
        """Find the rows; vectors and selectors are created when a query first needs them."""
        self.shard = shard
        self.row_filter = row_filter
        self.positions: NDArray[np.int64] = np.flatnonzero(row_filter.keeps(shard.row_ids))
        self.ids: NDArray[np.int64] = shard.row_ids[self.positions]

    @property
    def rows(self) -> int:
        """The number of rows that pass."""
        return len(self.positions)

    @property
    def exact(self) -> bool:
        """Whether the rows are compared exhaustively instead of through the index."""
        few = self.rows <= EXACT_ROWS
        return few or (self.shard.recipe.kind == "hnsw" and self.rows < LEAST_SHARE_OF_GRAPH * self.shard.rows)

    @property
    def widening(self) -> float:
        """The factor by which a query visits more of the index, since fewer of the visited rows pass."""
        return float((self.shard.rows / max(self.rows, 1)) ** (1.0 if self.shard.recipe.kind == "hnsw" else 0.5))

    @cached_property
    def selector(self) -> Any:
        """The FAISS selector of the rows: ids in inverted lists, positions elsewhere."""
        if self.shard.recipe.kind == "ivf_sq8":
            return faiss.IDSelectorBatch(self.ids)
        bits = np.zeros(self.shard.rows, np.bool_)
        bits[self.positions] = True
        return faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))  # type: ignore[call-arg, arg-type]

    @cached_property
    def _block(self) -> NDArray[np.float32]:
        return self.shard.vectors_at(self.positions)

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield row ids and vectors, one block at a time."""
        if self.rows <= BLOCK:
            yield self.ids, self._block
            return
        for at in range(0, self.rows, BLOCK):
            yield self.ids[at : at + BLOCK], self.shard.vectors_at(self.positions[at : at + BLOCK])

    def best(self, queries: NDArray[np.float32], k: int) -> list[Found]:
        """Return ids and scores of the best rows for each prepared query, as brute force does; ties by row id."""
        found = [(np.empty(0, np.int64), np.empty(0, np.float64)) for _ in queries]
        for ids, vectors in self.blocks():
            candidates = candidates_of(queries, vectors, k, self.shard.recipe.metric)
            for number, near in enumerate(candidates):
                scores = exact_scores(queries[number], vectors[near], self.shard.recipe.metric)
                every_id = np.concatenate([found[number][0], ids[near]])
                every_score = np.concatenate([found[number][1], scores])
                order = np.lexsort((every_id, -every_score))[:k]
                found[number] = every_id[order], every_score[order]
        return found


def kept_rows(shards: Sequence[OpenShard], row_filter: RowFilter) -> list[KeptRows]:
    """Return the rows of each shard that pass a filter."""
    return [KeptRows(shard, row_filter) for shard in shards]


def candidates_of(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int, metric: str
) -> list[NDArray[np.int64]]:
    """Return, for each query, positions that certainly include the exact best of some vectors."""
    if len(vectors) <= k:
        return [np.arange(len(vectors)) for _ in queries]
    products = queries @ vectors.T
    lengths = np.sqrt(np.einsum("qd,qd->q", queries, queries))
    squares = np.einsum("nd,nd->n", vectors, vectors)
    longest = float(np.sqrt(squares.max()))
    if metric == "l2":
        products = 2 * products - squares
        slack = 4 * ROUNDING * (lengths + longest) ** 2
    else:
        slack = 2 * ROUNDING * lengths * longest
    last = np.partition(products, len(vectors) - k, axis=1)[:, len(vectors) - k]
    return [np.flatnonzero(row >= edge) for row, edge in zip(products, last - slack, strict=True)]
