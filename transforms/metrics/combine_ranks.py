"""Retrieval metrics and mean average precision as Beam transforms; memory: see the accumulators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apache_beam as beam
import numpy as np
from numpy.typing import NDArray

from cliploom.transforms.metrics.average_precision import MOST_CELLS, AveragePrecisionAccumulator
from cliploom.transforms.metrics.intervals import Figure
from cliploom.transforms.metrics.retrieval import KS, RankAccumulator, RankedQueries, RetrievalMetrics

KeyedScores = tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.bool_]]
"""Hashes of the uids [n], scores and labels [n, classes] of some videos."""


@beam.typehints.with_input_types(RankedQueries)
@beam.typehints.with_output_types(RetrievalMetrics)
class RankMetricsFn(beam.CombineFn):  # type: ignore[misc]
    """Combines ``RankedQueries`` to ``RetrievalMetrics``."""

    def __init__(self, ks: Sequence[int] = KS, precision: Sequence[int] = (), seed: int = 0) -> None:
        """Set the k of R@k and of P@k, and the seed of the intervals."""
        self._settings = (tuple(ks), tuple(precision), seed)

    def create_accumulator(self) -> RankAccumulator:
        """Return an empty accumulator."""
        return RankAccumulator(*self._settings)

    def add_input(self, mutable_accumulator: RankAccumulator, element: RankedQueries) -> RankAccumulator:
        """Add queries."""
        mutable_accumulator.add(element)
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[RankAccumulator]) -> RankAccumulator:
        """Merge accumulators."""
        whole = self.create_accumulator()
        for part in accumulators:
            whole.merge(part)
        return whole

    def extract_output(self, accumulator: RankAccumulator) -> RetrievalMetrics:
        """Return the figures."""
        return accumulator.result()


@beam.typehints.with_input_types(tuple[np.ndarray, np.ndarray, np.ndarray])
@beam.typehints.with_output_types(tuple[Figure, int, int])
class AveragePrecisionFn(beam.CombineFn):  # type: ignore[misc]
    """Combines ``KeyedScores`` to (mean average precision, number of videos, number of classes with a positive)."""

    def __init__(self, classes: int, seed: int = 0, most_cells: int = MOST_CELLS) -> None:
        """Set the length of the score vectors, the seed of the interval and the maximum number of scores to keep."""
        self._settings = (classes, seed, most_cells)

    def create_accumulator(self) -> AveragePrecisionAccumulator:
        """Return an empty accumulator."""
        return AveragePrecisionAccumulator(*self._settings)

    def add_input(
        self, mutable_accumulator: AveragePrecisionAccumulator, element: KeyedScores
    ) -> AveragePrecisionAccumulator:
        """Add videos."""
        mutable_accumulator.add(*element)
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[AveragePrecisionAccumulator]) -> AveragePrecisionAccumulator:
        """Merge accumulators."""
        whole = self.create_accumulator()
        for part in accumulators:
            whole.merge(part)
        return whole

    def extract_output(self, accumulator: AveragePrecisionAccumulator) -> tuple[Figure, int, int]:
        """Return the figure."""
        return accumulator.result()
