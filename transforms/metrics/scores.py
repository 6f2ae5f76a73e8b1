"""Ranked predictions as an exact histogram: counts of each (class, score, hit or miss).

Average precision needs nothing else, so equal rows are merged, and histograms of parts add up to that of the whole in
any order, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROW_BYTES = 16
"""Memory of one distinct (class, score, hit or miss)."""

_SCORE_BITS = 32
_CLASS_SHIFT = _SCORE_BITS + 1
_MAX_CLASS = (1 << (63 - _CLASS_SHIFT)) - 1
_PENDING = 1 << 16


@dataclass(frozen=True)
class Steps:
    """The steps of a ranking, by class, then by descending score; tied predictions are one step.

    Attributes:
        classes: int64 [S].
        hits: int64 [S], positives in the step.
        counts: int64 [S], predictions in the step.
    """

    classes: NDArray[np.int64]
    hits: NDArray[np.int64]
    counts: NDArray[np.int64]

    def precision_sums(self, *, hits_before: int = 0, counts_before: int = 0) -> dict[int, float]:
        """Return, per class, the sum over positives of the precision at their step: average precision * denominator.

        Args:
            hits_before: the positives above all steps, if these are the lower end of a longer ranking.
            counts_before: the predictions above all steps.
        """
        if not len(self.classes):
            return {}
        starts = np.flatnonzero(np.diff(self.classes, prepend=-1))
        lengths = np.diff(starts, append=len(self.classes))
        hits, counts = np.cumsum(self.hits), np.cumsum(self.counts)
        hits_above = np.repeat(hits[starts] - self.hits[starts], lengths) - hits_before
        counts_above = np.repeat(counts[starts] - self.counts[starts], lengths) - counts_before
        gained = self.hits * ((hits - hits_above) / (counts - counts_above))
        sums = np.add.reduceat(gained, starts)
        return dict(zip(self.classes[starts].tolist(), sums.tolist(), strict=True))


class ScoreHistogram:
    """Predictions by class and score.

    Memory: ``ROW_BYTES`` for each distinct (class, score, hit or miss), at most one per prediction, twice that while
    parts are merged. With ``top``, only about ``top`` rows per class are kept.
    """

    def __init__(self, top: int | None = None) -> None:
        """Create an empty histogram; ``top`` keeps a class's best predictions and those tied with the last."""
        self._top = top
        self._keys: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._counts: NDArray[np.int64] = np.empty(0, np.int64)
        self._pending: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        self._waiting = 0

    def add(self, classes: ArrayLike, scores: ArrayLike, hits: ArrayLike) -> None:
        """Add predictions: class indices, float32 scores and whether each is right, all [M].

        Raises:
            ValueError: scores are not finite, or classes are out of range.
        """
        indices = np.asarray(classes, np.int64)
        if indices.size and (indices.min() < 0 or indices.max() > _MAX_CLASS):
            raise ValueError(f"class indices are in [{indices.min()}, {indices.max()}], not in [0, {_MAX_CLASS}]")
        misses = ~np.asarray(hits, np.bool_)
        keys: NDArray[np.uint64] = indices.astype(np.uint64) << np.uint64(_CLASS_SHIFT)
        keys |= _falling(scores) << np.uint64(1)
        keys |= misses.astype(np.uint64)
        self._wait(keys, np.ones(len(keys), np.int64))

    def merge(self, other: ScoreHistogram) -> None:
        """Add all of ``other``'s predictions."""
        other._settle()
        self._wait(other._keys, other._counts)

    @property
    def held(self) -> int:
        """The number of rows in memory, including equal rows that are not merged yet."""
        return len(self._keys) + self._waiting

    def steps(self) -> Steps:
        """Return the ranking of each class."""
        self._settle()
        groups = self._keys >> np.uint64(1)
        starts = np.flatnonzero(_first_of_run(groups))
        right = np.where(self._keys & np.uint64(1), 0, self._counts)
        if not len(starts):
            return Steps(self._counts, self._counts, self._counts)
        return Steps(
            (groups[starts] >> np.uint64(_SCORE_BITS)).astype(np.int64),
            np.add.reduceat(right, starts),
            np.add.reduceat(self._counts, starts),
        )

    def pooled(self) -> ScoreHistogram:
        """Return the same predictions as if all were of class 0: one ranking over all classes."""
        self._settle()
        whole = ScoreHistogram()
        whole._wait(self._keys & np.uint64((1 << _CLASS_SHIFT) - 1), self._counts)
        return whole

    def by_class_group(self, groups: int) -> dict[int, ScoreHistogram]:
        """Split by class index modulo ``groups``."""
        self._settle()
        return self._split((self._keys >> np.uint64(_CLASS_SHIFT)) % np.uint64(groups))

    def by_band(self, bits: int) -> dict[int, ScoreHistogram]:
        """Split by the first ``bits`` of the score's rank among all float32 numbers; band 0 has the best.

        A band has at most ``2 ** (32 - bits)`` distinct scores, however many predictions there are.
        """
        self._settle()
        scores = self._keys >> np.uint64(1) & np.uint64((1 << _SCORE_BITS) - 1)
        return self._split(scores >> np.uint64(_SCORE_BITS - bits))

    def _split(self, names: NDArray[np.uint64]) -> dict[int, ScoreHistogram]:
        parts = {}
        for name in np.unique(names).tolist():
            part = ScoreHistogram(self._top)
            chosen = names == name
            part._keys, part._counts = self._keys[chosen], self._counts[chosen]
            parts[name] = part
        return parts

    def _wait(self, keys: NDArray[np.uint64], counts: NDArray[np.int64]) -> None:
        self._pending.append((keys, counts))
        self._waiting += len(keys)
        if self._waiting > max(_PENDING, len(self._keys)):
            self._settle()

    def _settle(self) -> None:
        """Merge waiting rows into the sorted rows."""
        if not self._pending:
            return
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._pending)])
        counts = np.concatenate([self._counts, *(counts for _, counts in self._pending)])
        self._pending, self._waiting = [], 0
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        starts = np.flatnonzero(_first_of_run(keys))
        self._keys = keys[starts]
        self._counts = np.add.reduceat(counts, starts) if len(starts) else counts
        if self._top is not None:
            self._cut(self._top)

    def _cut(self, top: int) -> None:
        """Drop the steps that start after a class's best ``top``."""
        steps = self.steps()
        if not len(steps.counts):
            return
        starts = np.flatnonzero(np.diff(steps.classes, prepend=-1))
        before = np.cumsum(steps.counts) - steps.counts
        before -= np.repeat(before[starts], np.diff(starts, append=len(before)))
        groups = np.cumsum(_first_of_run(self._keys >> np.uint64(1))) - 1
        kept = (before < top)[groups]
        self._keys, self._counts = self._keys[kept], self._counts[kept]


def _falling(scores: ArrayLike) -> NDArray[np.uint64]:
    """Return the rank of each score among all float32 numbers, 0 for the largest, as 32 bits."""
    values = np.asarray(scores, np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"a score is {values[~np.isfinite(values)][0]}; scores have to be finite")
    # Adding 0 turns -0 into 0. The bit patterns of floats of one sign are ordered like the floats.
    bits = (values + np.float32(0)).view(np.uint32)
    rising = np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))
    return (~rising).astype(np.uint64)


def _first_of_run(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return whether each value differs from the one before it."""
    first = np.ones(len(values), np.bool_)
    first[1:] = values[1:] != values[:-1]
    return first
