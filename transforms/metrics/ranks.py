"""Exact ranks of the correct answers in both directions, from blocked matrix products in bounded memory.

A float32 matrix product decides almost all comparisons. Those within its rounding error are repeated in float64, summed
in one order, so that the ranks are those of a plain float64 computation, including ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Similarity = Literal["cosine", "dot", "l2"]

ROUNDING = 8e-6
"""Bound on the error of float32 scores, relative to the product of the two vectors' lengths."""
BLOCK_SCORES = 1 << 22
"""Number of scores in memory at a time: 16 MiB, and as much again for intermediate results."""
_MOST_QUERIES = 4096
_PAIR_ROWS = 8192
_BYTE, _WORD = 255, 8


@dataclass(frozen=True)
class Gallery:
    """The things to rank, of one row or more. The score of a thing is that of its best row.

    Attributes:
        vectors: float32 [rows, dim], possibly a memory map; of unit length if the similarity is ``cosine``.
        starts: int64 [things + 1]; thing i has the rows ``starts[i]`` to ``starts[i + 1]``, at least one.
        similarity: ``cosine`` and ``dot`` are inner products, ``l2`` is the negative distance.
    """

    vectors: NDArray[np.float32]
    starts: NDArray[np.int64]
    similarity: Similarity = "cosine"

    @classmethod
    def of_rows(cls, vectors: NDArray[np.float32], similarity: Similarity = "cosine") -> Gallery:
        """Return a gallery in which each row is a thing."""
        return cls(vectors, np.arange(len(vectors) + 1, dtype=np.int64), similarity)

    @property
    def things(self) -> int:
        """The number of things."""
        return len(self.starts) - 1


@dataclass(frozen=True)
class Relevance:
    """The things that answer each query: pairs, each once.

    Attributes:
        queries, things: int64 [pairs], sorted by query, then by thing.
    """

    queries: NDArray[np.int64]
    things: NDArray[np.int64]

    @classmethod
    def of_pairs(cls, queries: NDArray[np.int64], things: NDArray[np.int64]) -> Relevance:
        """Sort pairs and remove duplicates."""
        pairs = np.unique(np.stack([queries, things], axis=1).astype(np.int64).reshape(-1, 2), axis=0)
        return cls(np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]))


@dataclass(frozen=True)
class Ranks:
    """The rank of the best correct answer of each query.

    Attributes:
        queries: the queries that have a correct answer, int64 [n], ascending.
        ranks: float64 [n], from 1; ties get their mean rank, so that identical vectors score at chance level.
        relevant: the number of correct answers of each query, int64 [n].
        candidates: the number of ranked things.
    """

    queries: NDArray[np.int64]
    ranks: NDArray[np.float64]
    relevant: NDArray[np.int64]
    candidates: int


def exact_ranks(
    queries: NDArray[np.float32],
    gallery: Gallery,
    relevance: Relevance,
    *,
    itself: NDArray[np.int64] | None = None,
    block_scores: int = BLOCK_SCORES,
) -> tuple[Ranks, Ranks]:
    """Rank a gallery's things for every query, and the queries for every thing.

    Args:
        queries: float32 [queries, dim], of unit length if the similarity is ``cosine``.
        gallery: the things.
        relevance: the correct answers.
        itself: the thing that each query is, which is excluded, int64 [queries]; -1 for none.
        block_scores: the number of scores in memory at a time.

    Returns:
        Ranks of things for queries, then of queries for things (a thing's score is that of its best row).
    """
    answers = exact_pair_scores(queries, gallery, relevance.queries, relevance.things)
    known = _Pairs(relevance, gallery.things)
    forward = _Counter.of(relevance.queries, answers, len(queries))
    backward = _Counter.of(relevance.things, answers, gallery.things)
    slack = _slack(queries, gallery)
    widest = float(slack.max(initial=0.0))
    for begin in range(0, len(queries), _MOST_QUERIES):
        columns = slice(begin, min(begin + _MOST_QUERIES, len(queries)))
        block = np.ascontiguousarray(queries[columns])
        for first, end in _blocks(gallery.starts, max(1, block_scores // len(block))):
            scores = _block_scores(block, gallery, first, end)
            if itself is not None:
                mine = np.flatnonzero((itself[columns] >= first) & (itself[columns] < end))
                scores[itself[columns][mine] - first, mine] = -np.inf
            # Forward, a column has a query's things; backward, a thing's queries.
            things, found = forward.count(scores, columns, slack[columns])
            known.settle(forward, queries, gallery, found + begin, things + first, forward=True)
            found, things = backward.count(scores.T, slice(first, end), np.full(end - first, widest))
            known.settle(backward, queries, gallery, found + begin, things + first, forward=False)
    hidden = int(itself is not None)
    return forward.ranks(gallery.things - hidden), backward.ranks(len(queries) - hidden)


def exact_pair_scores(
    queries: NDArray[np.float32], gallery: Gallery, query_of: NDArray[np.int64], thing_of: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the scores of pairs of a query and a thing in float64.

    Each product is summed in the same order wherever its row is, so equal vectors get equal scores.

    Returns:
        float64 [pairs].
    """
    lengths = gallery.starts[thing_of + 1] - gallery.starts[thing_of]
    ends = np.cumsum(lengths)
    scores = np.empty(len(query_of), np.float64)
    begin = 0
    while begin < len(query_of):
        before = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + _PAIR_ROWS, "right")))
        some = lengths[begin:end]
        firsts = np.concatenate([[0], np.cumsum(some)[:-1]])
        rows = np.repeat(gallery.starts[thing_of[begin:end]] - firsts, some) + np.arange(int(some.sum()))
        left = np.repeat(query_of[begin:end], some)
        scores[begin:end] = np.maximum.reduceat(_row_scores(queries[left], gallery.vectors[rows], gallery), firsts)
        begin = end
    return scores


def _row_scores(left: NDArray[np.float32], right: NDArray[np.float32], gallery: Gallery) -> NDArray[np.float64]:
    wide = right.astype(np.float64)
    if gallery.similarity == "l2":
        wide -= left
        # Half the squared distance, as in the matrix products.
        return np.asarray(-0.5 * np.square(wide).sum(axis=1), np.float64)
    wide *= left
    return np.asarray(wide.sum(axis=1), np.float64)


def _block_scores(block: NDArray[np.float32], gallery: Gallery, first: int, end: int) -> NDArray[np.float32]:
    """Return the scores of the things ``first`` to ``end``, float32 [things, queries of the block]."""
    starts = gallery.starts[first : end + 1]
    rows = np.asarray(gallery.vectors[starts[0] : starts[-1]])
    scores = rows @ block.T
    if gallery.similarity == "l2":
        scores -= _half_squares(rows)[:, None]
        scores -= _half_squares(block)
    if len(rows) == end - first:
        return scores
    best = np.empty((end - first, len(block)), np.float32)
    # Measured: numpy's reduceat takes 25 times as long.
    for number, (low, high) in enumerate(zip(starts[:-1] - starts[0], starts[1:] - starts[0], strict=True)):
        np.max(scores[low:high], axis=0, out=best[number])
    return best


def _half_squares(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(0.5 * np.einsum("nd,nd->n", rows, rows), np.float32)


def _blocks(starts: NDArray[np.int64], rows: int) -> Iterator[tuple[int, int]]:
    """Yield runs of whole things with at most this many rows, or one thing."""
    first, things = 0, len(starts) - 1
    while first < things:
        end = int(np.searchsorted(starts, starts[first] + rows, "right")) - 1
        end = min(max(end, first + 1), things)
        yield first, end
        first = end


def _slack(queries: NDArray[np.float32], gallery: Gallery) -> NDArray[np.float64]:
    """Return the maximum error of a float32 score of each query."""
    lengths = np.sqrt(np.einsum("nd,nd->n", queries, queries, dtype=np.float64))
    longest = 0.0
    for first in range(0, len(gallery.vectors), _PAIR_ROWS):
        rows = np.asarray(gallery.vectors[first : first + _PAIR_ROWS])
        longest = max(longest, float(np.einsum("nd,nd->n", rows, rows).max(initial=0.0)) ** 0.5)
    both = (lengths + longest) ** 2 if gallery.similarity == "l2" else lengths * longest
    return np.asarray(ROUNDING * both, np.float64)


class _Pairs:
    """The correct answers, to be distinguished from other things with nearly equal scores."""

    def __init__(self, relevance: Relevance, things: int) -> None:
        self._things = things
        self._keys = relevance.queries * things + relevance.things

    def settle(
        self,
        counter: _Counter,
        queries: NDArray[np.float32],
        gallery: Gallery,
        found: NDArray[np.int64],
        things: NDArray[np.int64],
        *,
        forward: bool,
    ) -> None:
        """Compare near pairs in float64; correct answers never count as better than or equal to themselves."""
        keys = found * self._things + things
        places = np.searchsorted(self._keys, keys)
        right = np.zeros(len(keys), np.bool_)
        inside = places < len(self._keys)
        right[inside] = self._keys[places[inside]] == keys[inside]
        found, things = found[~right], things[~right]
        for begin in range(0, len(found), _PAIR_ROWS):
            some = slice(begin, begin + _PAIR_ROWS)
            scores = exact_pair_scores(queries, gallery, found[some], things[some])
            counter.settle(found[some] if forward else things[some], scores)


class _Counter:
    """For each column of a matrix with a correct answer, how many scores are better than it, and how many equal.

    Attributes:
        targets: the score of the best correct answer, float64; NaN for columns without one.
    """

    def __init__(self, targets: NDArray[np.float64], relevant: NDArray[np.int64]) -> None:
        self._targets, self._relevant = targets, relevant
        self._better = np.zeros(len(targets), np.int64)
        self._equal = np.zeros(len(targets), np.int64)

    @classmethod
    def of(cls, columns: NDArray[np.int64], scores: NDArray[np.float64], count: int) -> _Counter:
        targets = np.full(count, -np.inf)
        np.maximum.at(targets, columns, scores)
        relevant = np.bincount(columns, minlength=count).astype(np.int64)
        return cls(np.where(relevant > 0, targets, np.nan), relevant)

    def count(
        self, scores: NDArray[np.float32], columns: slice, slack: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Count scores that are certainly better; return (rows, columns) in the block of undecided ones."""
        wanted = np.flatnonzero(self._relevant[columns] > 0)
        nothing = np.empty(0, np.int64)
        if not wanted.size:
            return nothing, nothing
        whole = len(wanted) == scores.shape[1]
        # Copy the few requested columns, so that the others need no comparisons.
        chosen = scores if whole else scores[:, wanted]
        targets = self._targets[columns][wanted]
        low = np.nextafter((targets - slack[wanted]).astype(np.float32), np.float32(-np.inf))
        high = np.nextafter((targets + slack[wanted]).astype(np.float32), np.float32(np.inf))
        if chosen.flags.c_contiguous:
            above = chosen > high
            self._better[columns.start + wanted] += _column_sums(above)
            rows, places = _differing(above, chosen > low)
        else:
            flipped = np.ascontiguousarray(chosen.T)
            above = flipped > high[:, None]
            self._better[columns.start + wanted] += [np.count_nonzero(each) for each in above]
            places, rows = _differing(above, flipped > low[:, None])
        return rows, wanted[places]

    def settle(self, columns: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        """Count the exact scores of undecided pairs."""
        np.add.at(self._better, columns[scores > self._targets[columns]], 1)
        np.add.at(self._equal, columns[scores == self._targets[columns]], 1)

    def ranks(self, candidates: int) -> Ranks:
        """Return the ranks of all columns with a correct answer."""
        known = np.flatnonzero(self._relevant > 0)
        ranks = 1 + self._better[known] + self._equal[known] / 2
        return Ranks(known.astype(np.int64), ranks, self._relevant[known], candidates)


def _column_sums(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the number of true values of each column, int64 [columns]."""
    total = np.zeros(mask.shape[1], np.int64)
    # Sums of at most 255 bytes fit in bytes, which takes half the time of a sum of booleans.
    for begin in range(0, len(mask), _BYTE):
        total += np.add.reduce(mask[begin : begin + _BYTE].view(np.uint8), axis=0, dtype=np.uint8)
    return total


def _differing(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and columns where two masks differ, comparing eight values at a time, as differences are rare."""
    whole = one.size // _WORD * _WORD
    flat, against = one.reshape(-1), other.reshape(-1)
    words = np.flatnonzero(flat[:whole].view(np.uint64) != against[:whole].view(np.uint64))
    near = (words[:, None] * _WORD + np.arange(_WORD)).reshape(-1)
    cells = np.concatenate([near, np.arange(whole, one.size)])
    cells = cells[flat[cells] != against[cells]]
    rows, columns = np.divmod(cells, one.shape[1])
    return rows.astype(np.int64), columns.astype(np.int64)
