"""Segment MAP@K: are the right moments found for each class? Only rated (segment, class) pairs count.

For each class its rated segments are ranked by score and the best K kept; average precision divides by all of the
class's confirmed segments. YouTube-8M's evaluator truncates a submission to K *before* it drops unrated segments; both
agree if a class has at most K predictions, and K is 100,000. Source: google/youtube-8m, segment_eval_inference.py;
docs/formats.md section 4.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cliploom.transforms.metrics.scores import ScoreHistogram

TOP = 100_000


@dataclass(frozen=True)
class SegmentMetrics:
    """The figures over all rated segments.

    Attributes:
        map: the average precision at K, averaged over classes that have a confirmed segment; 0 if none has.
        classes: the number of classes with a confirmed segment.
        rated: the number of (segment, class) pairs.
        top: K.
    """

    map: float
    classes: int
    rated: int
    top: int


class SegmentAccumulator:
    """Accumulates rated predictions; partial results merge in any order to bit-identical figures.

    Memory: 16 bytes for each of a class's best K distinct scores: at most 1.6 MB per class (twice that if each score
    has hits and misses), 6.2 GB if all 3,862 classes were full; the published validation set has 237,000 rated
    segments: 4 MB.
    """

    def __init__(self, top: int = TOP) -> None:
        """Create an empty accumulator; ``top`` is K."""
        self.top = top
        self.rated = 0
        self.positives: Counter[int] = Counter()
        self.ranking = ScoreHistogram(top)

    def add(self, classes: ArrayLike, scores: ArrayLike, hits: ArrayLike) -> None:
        """Add rated pairs: class indices, float32 scores, whether raters confirmed the class; all [M].

        Raises:
            ValueError: the arrays differ in length, or scores are not finite.
        """
        indices, right = np.asarray(classes, np.int64), np.asarray(hits, np.bool_)
        if not indices.shape == right.shape == np.shape(scores) or indices.ndim != 1:
            raise ValueError(
                f"classes {indices.shape}, scores {np.shape(scores)} and hits {right.shape} are not all [M]"
            )
        self.ranking.add(indices, scores, right)
        self.positives.update(indices[right].tolist())
        self.rated += len(indices)

    def merge(self, other: SegmentAccumulator) -> None:
        """Add the content of another accumulator."""
        self.ranking.merge(other.ranking)
        self.positives.update(other.positives)
        self.rated += other.rated

    def result(self) -> SegmentMetrics:
        """Return the figures so far."""
        sums = self.ranking.steps().precision_sums()
        averages = [sums.get(index, 0.0) / count for index, count in self.positives.items()]
        mean = math.fsum(averages) / len(averages) if averages else 0.0
        return SegmentMetrics(mean, len(averages), self.rated, self.top)
