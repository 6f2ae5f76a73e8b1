"""The metrics as Beam transforms.

``LabelMetricsFn`` and ``SegmentMetricsFn`` use one accumulator, suitable for up to a few million videos.
``EvaluateLabels`` distributes the rankings over workers, so that GAP needs a fixed amount of memory per worker.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.utils.windowed_value import WindowedValue
from numpy.typing import NDArray

from cliploom.transforms.metrics.labels import TOP, LabelAccumulator, LabelCounts, LabelMetrics
from cliploom.transforms.metrics.scores import ScoreHistogram
from cliploom.transforms.metrics.segments import TOP as SEGMENT_TOP
from cliploom.transforms.metrics.segments import SegmentAccumulator, SegmentMetrics

Scored = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Scores and labels of some videos, both [B, C]."""
RatedPairs = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]
"""Classes, scores and hits of rated segments, all [M]."""

BAND_BITS = 12
"""A GAP band has at most 2 ** 20 distinct scores: 32 MiB with hits and misses."""
CLASS_GROUPS = 64
_FLUSH_ROWS = 1 << 20
_HISTOGRAM = tuple[int, ScoreHistogram]


@beam.typehints.with_input_types(tuple[np.ndarray, np.ndarray])
@beam.typehints.with_output_types(LabelMetrics)
class LabelMetricsFn(beam.CombineFn):  # type: ignore[misc]
    """Combines ``Scored`` batches to ``LabelMetrics``; memory: see ``LabelAccumulator``."""

    def __init__(self, classes: int, top: int = TOP) -> None:
        """Combine score vectors of ``classes`` numbers, pooling the best ``top`` of each video."""
        self._classes = classes
        self._top = top

    def create_accumulator(self) -> LabelAccumulator:
        """Return an empty accumulator."""
        return LabelAccumulator(self._classes, self._top)

    def add_input(self, mutable_accumulator: LabelAccumulator, element: Scored) -> LabelAccumulator:
        """Add a batch."""
        mutable_accumulator.add(*element)
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[LabelAccumulator]) -> LabelAccumulator:
        """Merge accumulators."""
        whole = self.create_accumulator()
        for part in accumulators:
            whole.merge(part)
        return whole

    def extract_output(self, accumulator: LabelAccumulator) -> LabelMetrics:
        """Return the figures."""
        return accumulator.result()


@beam.typehints.with_input_types(tuple[np.ndarray, np.ndarray, np.ndarray])
@beam.typehints.with_output_types(SegmentMetrics)
class SegmentMetricsFn(beam.CombineFn):  # type: ignore[misc]
    """Combines ``RatedPairs`` to ``SegmentMetrics``; memory: see ``SegmentAccumulator``."""

    def __init__(self, top: int = SEGMENT_TOP) -> None:
        """Combine pairs for MAP@``top``."""
        self._top = top

    def create_accumulator(self) -> SegmentAccumulator:
        """Return an empty accumulator."""
        return SegmentAccumulator(self._top)

    def add_input(self, mutable_accumulator: SegmentAccumulator, element: RatedPairs) -> SegmentAccumulator:
        """Add pairs."""
        mutable_accumulator.add(*element)
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[SegmentAccumulator]) -> SegmentAccumulator:
        """Merge accumulators."""
        whole = self.create_accumulator()
        for part in accumulators:
            whole.merge(part)
        return whole

    def extract_output(self, accumulator: SegmentAccumulator) -> SegmentMetrics:
        """Return the figures."""
        return accumulator.result()


class EvaluateLabels(beam.PTransform):  # type: ignore[misc]
    """Combines ``Scored`` batches to one ``LabelMetrics``, equal to that of ``LabelMetricsFn`` but distributed.

    GAP's ranking is split into bands of scores. A band's contribution depends on the bands above it only through their
    numbers of predictions and hits, so bands are summed independently. Memory per worker, temporarily a multiple while
    parts are merged: 32 MiB for a band, whatever the number of videos; for MAP 16 bytes for each distinct (class,
    score, hit or miss) in one of 64 groups of classes, on average 5 MB per million videos; for reading, 16 MiB.
    """

    def __init__(self, classes: int, top: int = TOP) -> None:
        """Combine score vectors of ``classes`` numbers, pooling the best ``top`` of each video."""
        super().__init__()
        self._classes = classes
        self._top = top

    def expand(self, scored: beam.PCollection[Scored]) -> beam.PCollection[LabelMetrics]:
        """Build the graph."""
        rank = beam.ParDo(_RankFn(self._classes, self._top)).with_output_types(
            LabelCounts, bands=_HISTOGRAM, groups=_HISTOGRAM
        )
        parts = scored | "Rank" >> rank.with_outputs("bands", "groups", main="counts")
        bands = parts.bands | "MergeBands" >> beam.CombinePerKey(_HistogramFn())
        groups = parts.groups | "MergeClasses" >> beam.CombinePerKey(_HistogramFn())
        totals = beam.pvalue.AsDict(
            bands | "Totals" >> beam.Map(_totals).with_output_types(tuple[int, tuple[int, int]])
        )
        gap = bands | "SumBands" >> beam.Map(_band_sum, totals=totals).with_output_types(float)
        per_class = groups | "SumClasses" >> beam.FlatMap(_class_sums).with_output_types(tuple[int, float])
        counts = parts.counts | "MergeCounts" >> beam.CombineGlobally(_CountsFn(self._classes))
        return counts | "Metrics" >> beam.Map(
            _metrics, gap_sums=beam.pvalue.AsList(gap), class_sums=beam.pvalue.AsList(per_class)
        ).with_output_types(LabelMetrics)


class _RankFn(beam.DoFn):  # type: ignore[misc]
    """Combines a bundle's videos to a few histograms before the shuffle."""

    def __init__(self, classes: int, top: int) -> None:
        self._classes = classes
        self._top = top

    def start_bundle(self) -> None:
        self._gathered = LabelAccumulator(self._classes, self._top)

    def process(self, element: Scored) -> Iterator[Any]:
        self._gathered.add(*element)
        if self._gathered.ranking.held >= _FLUSH_ROWS:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        window = beam.transforms.window.GlobalWindow()
        for part in self._flush():
            if isinstance(part, LabelCounts):
                yield WindowedValue(part, window.max_timestamp(), (window,))
            else:
                value = WindowedValue(part.value, window.max_timestamp(), (window,))
                yield beam.pvalue.TaggedOutput(part.tag, value)

    def _flush(self) -> Iterator[beam.pvalue.TaggedOutput | LabelCounts]:
        gathered = self._gathered
        self.start_bundle()
        for band, part in gathered.ranking.pooled().by_band(BAND_BITS).items():
            yield beam.pvalue.TaggedOutput("bands", (band, part))
        for group, part in gathered.ranking.by_class_group(CLASS_GROUPS).items():
            yield beam.pvalue.TaggedOutput("groups", (group, part))
        yield gathered.counts


@beam.typehints.with_input_types(ScoreHistogram)
@beam.typehints.with_output_types(ScoreHistogram)
class _HistogramFn(beam.CombineFn):  # type: ignore[misc]
    def create_accumulator(self) -> ScoreHistogram:
        return ScoreHistogram()

    def add_input(self, mutable_accumulator: ScoreHistogram, element: ScoreHistogram) -> ScoreHistogram:
        mutable_accumulator.merge(element)
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[ScoreHistogram]) -> ScoreHistogram:
        whole = ScoreHistogram()
        for part in accumulators:
            whole.merge(part)
        return whole

    def extract_output(self, accumulator: ScoreHistogram) -> ScoreHistogram:
        return accumulator


@beam.typehints.with_input_types(LabelCounts)
@beam.typehints.with_output_types(LabelCounts)
class _CountsFn(beam.CombineFn):  # type: ignore[misc]
    def __init__(self, classes: int) -> None:
        self._classes = classes

    def create_accumulator(self) -> LabelCounts:
        return LabelCounts(self._classes)

    def add_input(self, mutable_accumulator: LabelCounts, element: LabelCounts) -> LabelCounts:
        mutable_accumulator.merge(element)
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[LabelCounts]) -> LabelCounts:
        whole = self.create_accumulator()
        for part in accumulators:
            whole.merge(part)
        return whole

    def extract_output(self, accumulator: LabelCounts) -> LabelCounts:
        return accumulator


def _totals(band: tuple[int, ScoreHistogram]) -> tuple[int, tuple[int, int]]:
    """Return the number of hits and predictions in a band."""
    steps = band[1].steps()
    return band[0], (int(steps.hits.sum()), int(steps.counts.sum()))


def _band_sum(band: tuple[int, ScoreHistogram], totals: Mapping[int, tuple[int, int]]) -> float:
    above = [total for other, total in totals.items() if other < band[0]]
    hits, counts = sum(hits for hits, _ in above), sum(count for _, count in above)
    return band[1].steps().precision_sums(hits_before=hits, counts_before=counts).get(0, 0.0)


def _class_sums(group: tuple[int, ScoreHistogram]) -> Iterable[tuple[int, float]]:
    return group[1].steps().precision_sums().items()


def _metrics(counts: LabelCounts, gap_sums: list[float], class_sums: list[tuple[int, float]]) -> LabelMetrics:
    # fsum is exact, so the order in which workers finish does not matter.
    return counts.metrics(math.fsum(gap_sums), class_sums)
