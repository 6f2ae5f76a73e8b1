"""Transforms for Apache Beam pipelines of your own: media files to frames or vectors, texts to vectors.

They need no store and no spec. Each has two outputs, rows and failures, both with Beam schemas. docs/beam.md has
complete programs.
"""

from cliploom.pipelines.beam.transforms import DecodeFrames, EncodeFrames, EncodeMedia, EncodeTexts, Results
from cliploom.transforms.beam.rows import Failure, Frame, MediaFile
from cliploom.transforms.beam.values import pixels_of
from cliploom.transforms.metrics.combine import EvaluateLabels, LabelMetricsFn, SegmentMetricsFn
from cliploom.transforms.metrics.combine_ranks import AveragePrecisionFn, RankMetricsFn

__all__ = [
    "AveragePrecisionFn",
    "DecodeFrames",
    "EncodeFrames",
    "EncodeMedia",
    "EncodeTexts",
    "EvaluateLabels",
    "Failure",
    "Frame",
    "LabelMetricsFn",
    "MediaFile",
    "RankMetricsFn",
    "Results",
    "SegmentMetricsFn",
    "pixels_of",
]
