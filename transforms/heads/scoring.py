"""Scores a release's videos with a trained head on Beam, and combines scores and truths into metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
import numpy as np

from cliploom.schemas.heads import InputColumn
from cliploom.transforms.heads.dataset import VALIDATION, split_of_video
from cliploom.transforms.heads.plain import read_head
from cliploom.transforms.heads.pooling import (
    PartsToRead,
    PooledVideo,
    input_groups,
    pool_group,
    pooled_within,
    texts_of,
)
from cliploom.transforms.heads.truths import Truths, classes_of, hot_rows, read_truths
from cliploom.transforms.metrics.combine import EvaluateLabels, SegmentMetricsFn
from cliploom.transforms.metrics.combine_ranks import AveragePrecisionFn, RankMetricsFn
from cliploom.transforms.metrics.intervals import Figure
from cliploom.transforms.metrics.labels import LabelMetrics
from cliploom.transforms.metrics.retrieval import HIT_KS, RankedQueries, RetrievalMetrics, hashed_uids, ranked_labels
from cliploom.transforms.metrics.segments import SegmentMetrics
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.wire import Spread

MOST_SCORES = 1 << 24
"""Maximum number of scores for mean average precision, e.g. 4,300 videos of 3,862 classes; more are sampled."""
_BATCH = 256
_WINDOW_S = 1.0
"""Rated segments start and end at whole seconds."""


@dataclass(frozen=True)
class Scoring:
    """The videos to score, and the head to score them with.

    Attributes:
        store: the URI of the store.
        release: the number of the release whose features and labels are used.
        model: the folder of the trained head, relative to the store.
        inputs: the features of ``source``, in the head's order.
        held_out: the share of the videos to score, by hash of the uid with ``seed``; 0 for all.
        classes: the number of scores per video: the head's classes, then those that only the labels have.
        result: the path of the figures, relative to the store.
    """

    store: str
    release: int
    model: str
    inputs: tuple[InputColumn, ...]
    source: str
    held_out: float
    seed: int
    classes: int
    result: str


class _ScoreVideosFn(beam.DoFn):  # type: ignore[misc]
    """Maps a group of parts to ``Scored`` batches of its labelled videos; rated segments go to the output ``rated``.

    A worker keeps the labels of the source in memory: about 200 bytes per video.
    """

    def __init__(self, scoring: Scoring) -> None:
        super().__init__()
        self._scoring = scoring

    def setup(self) -> None:
        """Read the head and the labels."""
        scoring = self._scoring
        objects = ObjectStore(scoring.store)
        self._head = read_head(objects, scoring.model)
        self._truths = read_truths(objects, read_releases(objects).get(scoring.release), scoring.source)
        known = {each.label for each in self._head.card.classes}
        self._classes = [
            *self._head.card.classes,
            *(each for each in classes_of([self._truths], {}) if each.label not in known),
        ]

    def process(self, group: tuple[PartsToRead, ...]) -> Iterator[Any]:
        """Score the videos of a group."""
        scoring, truths = self._scoring, self._truths
        videos = pool_group(
            ObjectStore(scoring.store), {each.feature: each for each in group}, scoring.inputs, _WINDOW_S
        )
        chosen = [video for video in videos if self._is_chosen(video.key.uid)]
        labelled = [video for video in chosen if truths.given.get(video.key.uid)]
        for begin in range(0, len(labelled), _BATCH):
            some = labelled[begin : begin + _BATCH]
            scores = self._head.probabilities(np.stack([video.vector for video in some]), texts_of(some))
            # A class that the head does not know counts as missed.
            scores = np.pad(scores, ((0, 0), (0, len(self._classes) - scores.shape[1])))
            labels = hot_rows([truths.given[video.key.uid] for video in some], self._classes)
            yield scores, labels
            keys = hashed_uids([video.key.uid for video in some])
            yield beam.pvalue.TaggedOutput("ranked", ranked_labels(keys, scores, labels))
            yield beam.pvalue.TaggedOutput("keyed", (keys, scores, labels))
        for video in chosen:
            yield from self._rated(video, truths)

    def _is_chosen(self, uid: str) -> bool:
        held_out = self._scoring.held_out
        return not held_out or split_of_video(uid, held_out, self._scoring.seed) == VALIDATION

    def _rated(self, video: PooledVideo, truths: Truths) -> Iterator[Any]:
        pairs = truths.rated.get(video.key.uid, ())
        column = {each.label: place for place, each in enumerate(self._classes)}
        for start_s, end_s in dict.fromkeys((pair.start_s, pair.end_s) for pair in pairs):
            vector = pooled_within(video, start_s, end_s)
            if vector is not None:
                found = self._head.probabilities(vector[None], texts_of([video]))[0]
                scores = np.pad(found, (0, len(self._classes) - len(found)))
                mine = [pair for pair in pairs if (pair.start_s, pair.end_s) == (start_s, end_s)]
                classes = np.array([column[pair.label] for pair in mine], np.int64)
                hits = np.array([pair.confirmed for pair in mine], np.bool_)
                yield beam.pvalue.TaggedOutput("rated", (classes, scores[classes], hits))


def list_groups(scoring: Scoring) -> list[tuple[PartsToRead, ...]]:
    """Return the parts that contain the videos, in groups that can be read independently."""
    objects = ObjectStore(scoring.store)
    release = read_releases(objects).get(scoring.release)
    return [tuple(group.values()) for group in input_groups(objects, release, scoring.inputs)]


def build_scoring(pipeline: beam.Pipeline, scoring: Scoring) -> None:
    """Score all videos and write the figures to ``scoring.result`` as JSON.

    The graph does not depend on the number of parts: a worker lists them.
    """
    score = beam.ParDo(_ScoreVideosFn(scoring)).with_output_types(
        tuple[np.ndarray, np.ndarray],
        rated=tuple[np.ndarray, np.ndarray, np.ndarray],
        ranked=RankedQueries,
        keyed=tuple[np.ndarray, np.ndarray, np.ndarray],
    )
    scored = (
        pipeline
        | "Scoring" >> beam.Create([scoring])
        | "ListGroups" >> beam.FlatMap(list_groups).with_output_types(tuple[PartsToRead, ...])
        | "SpreadGroups" >> Spread()
        | "ScoreVideos" >> score.with_outputs("rated", "ranked", "keyed", main="scored")
    )
    labels = scored.scored | "EvaluateLabels" >> EvaluateLabels(scoring.classes)
    segments = scored.rated | "EvaluateSegments" >> beam.CombineGlobally(SegmentMetricsFn())
    ranks = scored.ranked | "EvaluateRanks" >> beam.CombineGlobally(RankMetricsFn(HIT_KS, seed=scoring.seed))
    precision = scored.keyed | "EvaluatePrecision" >> beam.CombineGlobally(
        AveragePrecisionFn(scoring.classes, scoring.seed, MOST_SCORES)
    )
    _ = labels | "WriteFigures" >> beam.Map(
        write_figures,
        beam.pvalue.AsSingleton(segments),
        beam.pvalue.AsSingleton(ranks),
        beam.pvalue.AsSingleton(precision),
        scoring,
    ).with_output_types(None)


def write_figures(
    labels: LabelMetrics,
    segments: SegmentMetrics,
    ranks: RetrievalMetrics,
    precision: tuple[Figure, int, int],
    scoring: Scoring,
) -> None:
    """Write the figures to the store."""
    hits = {f"hit@{name[2:]}": figure for name, figure in ranks.figures.items() if name.startswith("R@")}
    mean, videos, _ = precision
    figures = {
        "labels": asdict(labels),
        "segments": asdict(segments),
        "figures": {name: asdict(figure) for name, figure in (hits | {"mAP": mean}).items()} if videos else {},
        "sample": videos,
    }
    ObjectStore(scoring.store).put(scoring.result, json.dumps(figures).encode())
