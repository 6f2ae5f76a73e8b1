"""YouTube-8M's label metrics; formulas: docs/formats.md section 4, conventions: the package's docstring."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliploom.transforms.metrics.scores import ScoreHistogram

TOP = 20
THRESHOLD = 0.5
_CHUNK = 64


@dataclass(frozen=True)
class LabelMetrics:
    """The figures over all videos; all 0 without videos.

    Attributes:
        hit_at_1: the share of videos whose best class is one of their labels.
        perr: the precision among a video's best n, with n its number of labels, averaged over videos.
        gap: the average precision over the pooled top predictions of all videos; the denominator includes all labels.
        map: the average precision per class over the same predictions, averaged over classes that have a label.
        precision, recall: over all (video, class) pairs; scores above .5 count as predicted.
        predicted: the mean number of classes above .5 per video.
        labels: the mean number of true labels per video.
        classes: the number of classes with a label, which are averaged in ``map``.
    """

    videos: int
    hit_at_1: float
    perr: float
    gap: float
    map: float
    precision: float
    recall: float
    predicted: float
    labels: float
    classes: int


class LabelCounts:
    """The counts for everything but the rankings: integers only, so that sums do not depend on their order.

    Memory: 16 bytes per class.
    """

    def __init__(self, classes: int) -> None:
        """Start at zero for score vectors of ``classes`` numbers."""
        self.videos = self.hits = self.predicted = self.correct = 0
        self.positives: NDArray[np.int64] = np.zeros(classes, np.int64)
        # Hits in the top n, summed by n: PERR is a sum of fractions, so it is computed only at the end.
        self.top_hits: NDArray[np.int64] = np.zeros(classes + 1, np.int64)

    def add(self, scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> None:
        """Add videos: scores and labels [B, C]."""
        self.videos += len(scores)
        self.hits += int(labels[np.arange(len(scores)), scores.argmax(axis=1)].sum())
        above = scores > THRESHOLD
        self.predicted += int(above.sum())
        self.correct += int((above & labels).sum())
        self.positives += labels.sum(axis=0)
        wanted = labels.sum(axis=1)
        rows, columns = np.nonzero(labels)
        in_top = ranks(scores, rows, columns) < wanted[rows]
        np.add.at(self.top_hits, wanted[rows[in_top]], 1)

    def merge(self, other: LabelCounts) -> None:
        """Add the counts of another accumulator."""
        self.videos += other.videos
        self.hits += other.hits
        self.predicted += other.predicted
        self.correct += other.correct
        self.positives += other.positives
        self.top_hits += other.top_hits

    def metrics(self, gap_sum: float, class_sums: Iterable[tuple[int, float]]) -> LabelMetrics:
        """Return all figures.

        Args:
            gap_sum: the precision sum of the pooled ranking.
            class_sums: the precision sum of each class's ranking.
        """
        total = int(self.positives.sum())
        with_labels = int(np.count_nonzero(self.positives))
        averages = [precision / int(self.positives[index]) for index, precision in class_sums if self.positives[index]]
        perr = math.fsum(int(hits) / n for n, hits in enumerate(self.top_hits) if hits)
        return LabelMetrics(
            self.videos,
            _share(self.hits, self.videos),
            _share(perr, self.videos),
            _share(gap_sum, total),
            _share(math.fsum(averages), with_labels),
            _share(self.correct, self.predicted),
            _share(self.correct, total),
            _share(self.predicted, self.videos),
            _share(total, self.videos),
            with_labels,
        )


class LabelAccumulator:
    """Accumulates videos; partial results merge in any order to bit-identical figures.

    Memory: 16 bytes for each of a video's ``top`` predictions, less if scores repeat: 320 MB for a million videos.
    ``combine.EvaluateLabels`` distributes this over workers.
    """

    def __init__(self, classes: int, top: int = TOP) -> None:
        """Create an empty accumulator for score vectors of ``classes`` numbers, pooling the best ``top`` per video."""
        self.classes = classes
        self.top = top
        self.counts = LabelCounts(classes)
        self.ranking = ScoreHistogram()

    def add(self, scores: ArrayLike, labels: ArrayLike) -> None:
        """Add videos.

        Args:
            scores: float32 [B, C], or [C] for one video.
            labels: bool, of the same shape (see ``multi_hot``).

        Raises:
            ValueError: the shapes are wrong, or scores are not finite.
        """
        rows = np.atleast_2d(np.asarray(scores, np.float32))
        truth = np.atleast_2d(np.asarray(labels, np.bool_))
        if rows.shape != truth.shape or rows.shape[1:] != (self.classes,):
            raise ValueError(f"scores {rows.shape} and labels {truth.shape} are not both [videos, {self.classes}]")
        if not np.isfinite(rows).all():
            raise ValueError(f"a score is {rows[~np.isfinite(rows)][0]}; scores have to be finite")
        for start in range(0, len(rows), _CHUNK):
            some, true = rows[start : start + _CHUNK], truth[start : start + _CHUNK]
            self.counts.add(some, true)
            videos, classes = np.nonzero(in_top(some, self.top))
            self.ranking.add(classes, some[videos, classes], true[videos, classes])

    def merge(self, other: LabelAccumulator) -> None:
        """Add the content of another accumulator."""
        self.counts.merge(other.counts)
        self.ranking.merge(other.ranking)

    def result(self) -> LabelMetrics:
        """Return the figures so far."""
        pooled = self.ranking.pooled().steps().precision_sums()
        return self.counts.metrics(pooled.get(0, 0.0), self.ranking.steps().precision_sums().items())


def multi_hot(labels: Sequence[Iterable[int]], classes: int) -> NDArray[np.bool_]:
    """Return the label indices of each video as bool [B, C].

    >>> multi_hot([[0, 2], []], 3).astype(int).tolist()
    [[1, 0, 1], [0, 0, 0]]

    Raises:
        ValueError: an index is outside [0, classes).
    """
    truth = np.zeros((len(labels), classes), np.bool_)
    for row, indices in enumerate(labels):
        for index in indices:
            if not 0 <= index < classes:
                raise ValueError(f"label {index} is outside the {classes} classes")
            truth[row, index] = True
    return truth


def in_top(scores: NDArray[np.float32], top: int) -> NDArray[np.bool_]:
    """Return which of scores [B, C] are among the best ``top`` of their row; ties are ordered by index."""
    width = scores.shape[1]
    if top >= width:
        return np.ones(scores.shape, np.bool_)
    last = np.partition(scores, width - top, axis=1)[:, width - top, None]
    above, level = scores > last, scores == last
    free = top - above.sum(axis=1, keepdims=True)
    return np.asarray(above | (level & (np.cumsum(level, axis=1) <= free)), np.bool_)


def ranks(scores: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the rank, from 0, of each ``scores[row, column]`` in its row of [B, C]; ties are ordered by index."""
    own = scores[rows, columns][:, None]
    compared = scores[rows]
    first = np.arange(scores.shape[1]) < columns[:, None]
    return np.asarray(((compared > own) | ((compared == own) & first)).sum(axis=1), np.int64)


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0
