"""Mean average precision of multi-label classification over all scores, with a bootstrap interval.

Predictions with tied scores are one step of the ranking, as in scikit-learn's ``average_precision_score``. Classes
without a positive are excluded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cliploom.transforms.metrics.intervals import Figure, statistic_figure

MOST_CELLS = 1 << 26
_WORK = 400_000_000
_LEAST_REPEATS, _MOST_REPEATS = 100, 1000


class AveragePrecisionAccumulator:
    """Accumulates scores of videos; partial results merge in any order to the same figure.

    Memory: 5 bytes per video and class, up to twice ``MOST_CELLS`` of them (640 MiB). Of more videos a sample is kept:
    those with the smallest keys.
    """

    def __init__(self, classes: int, seed: int = 0, most_cells: int = MOST_CELLS) -> None:
        """Create an empty accumulator for score vectors of ``classes`` numbers."""
        self.classes, self.seed = classes, seed
        self.videos = 0
        self._most = max(1, most_cells // max(1, classes))
        self._keys: list[NDArray[np.uint64]] = []
        self._scores: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.bool_]] = []

    def add(self, keys: NDArray[np.uint64], scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> None:
        """Add videos.

        Args:
            keys: the hashes of the uids, uint64 [n].
            scores: float32 [n, classes].
            labels: bool [n, classes].

        Raises:
            ValueError: the shapes differ, or a score is NaN.
        """
        if scores.shape != labels.shape or scores.shape != (len(keys), self.classes):
            raise ValueError(f"scores {scores.shape} and labels {labels.shape} are not both [videos, {self.classes}]")
        if np.isnan(scores).any():
            raise ValueError("a score is not a number")
        self.videos += len(keys)
        self._keys.append(keys)
        self._scores.append(scores)
        self._labels.append(labels)
        if sum(map(len, self._keys)) > 2 * self._most:
            self._trim()

    def merge(self, other: AveragePrecisionAccumulator) -> None:
        """Add the content of another accumulator."""
        self.videos += other.videos
        self._keys += other._keys
        self._scores += other._scores
        self._labels += other._labels
        if sum(map(len, self._keys)) > 2 * self._most:
            self._trim()

    def _trim(self) -> None:
        keys = np.concatenate(self._keys)
        order = np.argsort(keys, kind="stable")[: self._most]
        self._keys = [keys[order]]
        self._scores = [np.concatenate(self._scores)[order]]
        self._labels = [np.concatenate(self._labels)[order]]

    def result(self) -> tuple[Figure, int, int]:
        """Return the figure, the number of videos behind it, and of classes with a positive; NaN without videos."""
        if not self.videos:
            return Figure(float("nan"), float("nan"), float("nan")), 0, 0
        self._trim()
        scores, labels = self._scores[0], self._labels[0]
        positives = labels.any(axis=0)
        scores, labels = scores[:, positives], labels[:, positives]
        if not positives.any():
            return Figure(float("nan"), float("nan"), float("nan")), len(labels), 0
        repeats = int(np.clip(_WORK // max(1, labels.size), _LEAST_REPEATS, _MOST_REPEATS))
        rankings = [_Ranking(scores[:, column], labels[:, column]) for column in range(scores.shape[1])]

        def mean_precision(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            total, known = np.zeros(len(weights)), np.zeros(len(weights))
            for ranking in rankings:
                found = ranking.average_precision(weights)
                defined = ~np.isnan(found)
                total[defined] += found[defined]
                known += defined
            return np.asarray(np.where(known > 0, total / np.maximum(known, 1), np.nan), np.float64)

        chance = float(labels.mean(axis=0).mean())
        return statistic_figure(mean_precision, len(labels), self.seed, chance, repeats), len(labels), len(rankings)


def precision_of_ranking(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """Return the average precision of one class.

    Args:
        scores: float32 [n].
        labels: bool [n], at least one True.

    >>> precision_of_ranking(np.float32([0.9, 0.8, 0.1]), np.array([True, False, True])).__round__(4)
    0.8333
    """
    return float(_Ranking(scores, labels).average_precision(np.ones((1, len(scores))))[0])


class _Ranking:
    """The videos of one class by descending score."""

    def __init__(self, scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        self._labels = labels[self._order].astype(np.float64)
        self._ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))

    def average_precision(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the average precision for each row of weights [repeats, videos]; NaN if no positive has weight."""
        ranked = weights[:, self._order]
        hits = np.cumsum(ranked * self._labels, axis=1)[:, self._ends]
        counts = np.cumsum(ranked, axis=1)[:, self._ends]
        gained = np.diff(hits, axis=1, prepend=0.0)
        precision = np.divide(hits, counts, out=np.zeros_like(hits), where=counts > 0)
        total = hits[:, -1]
        return np.asarray(
            np.divide((gained * precision).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)
        )
