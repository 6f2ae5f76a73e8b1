"""Label and segment metrics: by hand, against brute force, in any order, and on Beam."""

import random
from itertools import pairwise
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from cliploom.transforms.metrics.combine import EvaluateLabels, LabelMetricsFn, SegmentMetricsFn
from cliploom.transforms.metrics.labels import LabelAccumulator, LabelMetrics, in_top, multi_hot, ranks
from cliploom.transforms.metrics.scores import ScoreHistogram
from cliploom.transforms.metrics.segments import SegmentAccumulator, SegmentMetrics

EXACT: dict[str, Any] = {"rel": 0, "abs": 1e-9}


def videos(seed: int, count: int, classes: int, levels: int, per_video: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of ``levels`` different values (many ties when few) and labels."""
    generator = np.random.default_rng(seed)
    scores = (generator.integers(0, levels, (count, classes)) / levels).astype(np.float32)
    return scores, generator.random((count, classes)) < per_video / classes


def labelled(scores: np.ndarray, labels: np.ndarray, top: int = 20) -> LabelMetrics:
    accumulator = LabelAccumulator(scores.shape[1], top)
    accumulator.add(scores, labels)
    return accumulator.result()


def brute_ap(scores: list[float], hits: list[bool], positives: int) -> float:
    """Average precision, one threshold at a time."""
    total, recalled = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [hit for score, hit in zip(scores, hits, strict=True) if score >= threshold]
        total += (sum(chosen) - recalled) / positives * (sum(chosen) / len(chosen))
        recalled = sum(chosen)
    return total


def brute(scores: np.ndarray, labels: np.ndarray, top: int = 20) -> dict[str, float]:
    """Every figure the slow way."""
    hits, perr, pooled = 0, 0.0, []
    for row, truth in zip(scores.tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda index: (-row[index], index))
        hits += truth[order[0]]
        if any(truth):
            perr += sum(truth[index] for index in order[: sum(truth)]) / sum(truth)
        pooled += [(index, row[index], truth[index]) for index in order[:top]]
    by_class = []
    for index, positives in enumerate(labels.sum(axis=0).tolist()):
        mine = [(score, hit) for other, score, hit in pooled if other == index]
        if positives:
            by_class.append(brute_ap([score for score, _ in mine], [hit for _, hit in mine], positives))
    total = int(labels.sum())
    above = scores > 0.5
    return {
        "hit_at_1": hits / len(scores),
        "perr": perr / len(scores),
        "gap": brute_ap([score for _, score, _ in pooled], [hit for _, _, hit in pooled], total) if total else 0.0,
        "map": sum(by_class) / len(by_class) if by_class else 0.0,
        "precision": (above & labels).sum() / above.sum() if above.any() else 0.0,
        "recall": (above & labels).sum() / total if total else 0.0,
        "predicted": above.sum() / len(scores),
        "labels": total / len(scores),
    }


def test_two_videos_by_hand() -> None:
    # Pooled, top 2: .9 hit, .8 miss, .7 hit, .6 miss; 3 labels, one of them (class 2 of video 0) below the top 2.
    scores = np.float32([[0.9, 0.8, 0.1], [0.2, 0.6, 0.7]])
    labels = multi_hot([[0, 2], [2]], 3)
    found = labelled(scores, labels, top=2)
    assert found.hit_at_1 == 1.0
    assert found.perr == pytest.approx((1 / 2 + 1) / 2, **EXACT)
    assert found.gap == pytest.approx((1 / 1 + 2 / 3) / 3, **EXACT)
    # Class 0: 1 of 1. Class 1 has no label. Class 2: one of its two labels is in a top 2, first of its ranking.
    assert found.map == pytest.approx((1 + 1 / 2) / 2, **EXACT)
    assert (found.precision, found.recall) == (pytest.approx(2 / 4), pytest.approx(2 / 3))
    assert (found.videos, found.predicted, found.labels, found.classes) == (2, 2.0, 1.5, 2)


def test_equal_scores_are_one_step_of_the_pooled_ranking() -> None:
    # Three videos whose best class has .5 each, one hit: its precision is 1/3 wherever it stands.
    scores = np.float32([[0.5, 0], [0.5, 0], [0.5, 0]])
    for hit in range(3):
        labels = np.zeros((3, 2), bool)
        labels[hit, 0] = True
        assert labelled(scores, labels, top=1).gap == pytest.approx(1 / 3, **EXACT)


def test_of_equal_scores_in_a_video_the_lower_class_is_first() -> None:
    scores = np.float32([[0.5, 0.5, 0.5]])
    assert labelled(scores, multi_hot([[0]], 3), top=1) == LabelMetrics(1, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1)
    assert labelled(scores, multi_hot([[2]], 3), top=1) == LabelMetrics(1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1)
    assert in_top(scores, 2).tolist() == [[True, True, False]]
    assert ranks(scores, np.array([0, 0]), np.array([0, 2])).tolist() == [0, 2]


def test_a_video_without_labels_counts_as_a_miss() -> None:
    found = labelled(np.float32([[0.9, 0.1], [0.9, 0.1]]), multi_hot([[0], []], 2))
    assert (found.hit_at_1, found.perr, found.labels) == (0.5, 0.5, 0.5)


def test_one_half_is_not_above_one_half() -> None:
    found = labelled(np.float32([[0.5, 0.500001]]), multi_hot([[0, 1]], 2))
    assert (found.predicted, found.recall) == (1.0, 0.5)


def test_nothing_seen_gives_zeros() -> None:
    assert LabelAccumulator(3).result() == LabelMetrics(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
    assert SegmentAccumulator().result() == SegmentMetrics(0.0, 0, 0, 100_000)


@pytest.mark.parametrize("levels", [3, 40, 10_000_000])
@pytest.mark.parametrize("classes", [5, 20, 21, 60])
def test_figures_equal_brute_force(classes: int, levels: int) -> None:
    for seed in range(4):
        scores, labels = videos(seed, 40, classes, levels)
        found = labelled(scores, labels)
        for name, value in brute(scores, labels).items():
            assert getattr(found, name) == pytest.approx(value, **EXACT), name


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(2, 8), st.integers(1, 5), st.integers(1, 9))
def test_figures_equal_brute_force_on_small_cases(seed: int, count: int, classes: int, levels: int, top: int) -> None:
    scores, labels = videos(seed, count, classes, levels)
    found = labelled(scores - np.float32(0.25), labels, top)
    for name, value in brute(scores - np.float32(0.25), labels, top).items():
        assert getattr(found, name) == pytest.approx(value, **EXACT), name


def test_gap_of_all_predictions_is_scikit_learns_average_precision() -> None:
    scores, labels = videos(0, 200, 15, 50)
    assert labelled(scores, labels, top=15).gap == pytest.approx(
        average_precision_score(labels.ravel(), scores.ravel()), **EXACT
    )


def test_the_order_and_grouping_of_parts_does_not_change_one_bit() -> None:
    scores, labels = videos(1, 500, 30, 1000)
    whole = labelled(scores, labels)
    for seed in range(5):
        shuffler = random.Random(seed)
        order = list(range(500))
        shuffler.shuffle(order)
        cuts = [0, *sorted(shuffler.sample(range(1, 500), 20)), 500]
        parts = []
        for start, end in pairwise(cuts):
            part = LabelAccumulator(30)
            part.add(scores[order[start:end]], labels[order[start:end]])
            parts.append(part)
        shuffler.shuffle(parts)
        while len(parts) > 1:
            taken = parts.pop(shuffler.randrange(len(parts)))
            parts[shuffler.randrange(len(parts))].merge(taken)
        assert parts[0].result() == whole


def test_wrong_shapes_and_numbers_are_refused() -> None:
    accumulator = LabelAccumulator(3)
    with pytest.raises(ValueError, match=r"not both \[videos, 3\]"):
        accumulator.add(np.zeros((2, 4)), np.zeros((2, 4), bool))
    with pytest.raises(ValueError, match="a score is nan"):
        accumulator.add([0, np.nan, 0], [0, 0, 1])
    with pytest.raises(ValueError, match="label 3 is outside the 3 classes"):
        multi_hot([[3]], 3)
    with pytest.raises(ValueError, match="a score is inf"):
        ScoreHistogram().add([0], [np.inf], [True])
    with pytest.raises(ValueError, match="class indices are in"):
        ScoreHistogram().add([-1], [0.0], [True])
    with pytest.raises(ValueError, match=r"not all \[M\]"):
        SegmentAccumulator().add([1, 2], [0.1], [True])


def test_scores_of_either_sign_rank_and_minus_zero_is_zero() -> None:
    histogram = ScoreHistogram()
    histogram.add([0] * 6, [-1.5, 0.0, -0.0, 3e38, -3e38, 1e-45], [True, False, True, False, True, False])
    steps = histogram.steps()
    assert steps.hits.tolist() == [0, 0, 1, 1, 1]
    assert steps.counts.tolist() == [1, 1, 2, 1, 1]


def test_equal_rows_share_memory() -> None:
    histogram = ScoreHistogram()
    for _ in range(100):
        histogram.add(np.zeros(5000, int), np.arange(5000) % 10, np.ones(5000, bool))
    assert len(histogram.steps().counts) == 10
    assert histogram.held == 10


def brute_segments(classes: np.ndarray, scores: np.ndarray, hits: np.ndarray, top: int) -> float:
    """Segment MAP@K the slow way; what ties with the K-th is kept."""
    averages = []
    for index in sorted(set(classes[hits].tolist())):
        mine = sorted(((s, h) for c, s, h in zip(classes, scores, hits, strict=True) if c == index), reverse=True)
        last = mine[min(top, len(mine)) - 1][0]
        kept = [(score, hit) for score, hit in mine if score >= last]
        averages.append(brute_ap([s for s, _ in kept], [h for _, h in kept], int(hits[classes == index].sum())))
    return sum(averages) / len(averages) if averages else 0.0


def test_segments_by_hand() -> None:
    # Class 7: hit, miss, hit -> (1 + 2/3) / 2; at K = 2 the second hit is out of reach. Class 8: never confirmed.
    rated = ([7, 7, 7, 8], np.float32([0.9, 0.5, 0.4, 0.9]), [True, False, True, False])
    for top, expected in ((100_000, 5 / 6), (2, 1 / 2)):
        accumulator = SegmentAccumulator(top)
        accumulator.add(*rated)
        found = accumulator.result()
        assert found.map == pytest.approx(expected, **EXACT)
        assert (found.classes, found.rated, found.top) == (1, 4, top)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(1, 8), st.sampled_from([3, 20, 10**6]))
def test_segments_equal_brute_force_in_parts(seed: int, count: int, top: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    classes = generator.integers(0, 4, count)
    scores = (generator.integers(0, levels, count) / levels).astype(np.float32)
    hits = generator.random(count) < 0.4
    parts = [SegmentAccumulator(top) for _ in range(3)]
    for number, part in enumerate(parts):
        part.add(classes[number::3], scores[number::3], hits[number::3])
        part.result()
    parts[1].merge(parts[2])
    parts[1].merge(parts[0])
    assert parts[1].result().map == pytest.approx(brute_segments(classes, scores, hits, top), **EXACT)


def test_segments_beyond_k_are_forgotten() -> None:
    accumulator = SegmentAccumulator(10)
    for start in range(0, 300_000, 30_000):
        accumulator.add(np.zeros(30_000, int), np.arange(start, start + 30_000), np.ones(30_000, bool))
    assert len(accumulator.ranking.steps().counts) == 10
    assert accumulator.result().map == pytest.approx(10 / 300_000, **EXACT)


def near(expected: Any) -> Any:
    def check(found: list[Any]) -> None:
        assert len(found) == 1
        for name in expected.__dataclass_fields__:
            assert getattr(found[0], name) == pytest.approx(getattr(expected, name), rel=0, abs=1e-12), name

    return check


def test_beam_gives_the_same_figures() -> None:
    scores, labels = videos(3, 400, 70, 500)
    generator = np.random.default_rng(0)
    rated = (generator.integers(0, 5, 300), generator.random(300, np.float32), generator.random(300) < 0.5)
    segments = SegmentAccumulator(40)
    segments.add(*rated)
    with beam.Pipeline("FnApiRunner") as pipeline:
        scored = pipeline | "Videos" >> beam.Create(
            [(scores[at : at + 30], labels[at : at + 30]) for at in range(0, 400, 30)]
        )
        pairs = pipeline | "Pairs" >> beam.Create([tuple(part[at::7] for part in rated) for at in range(7)])
        assert_that(scored | EvaluateLabels(70), near(labelled(scores, labels)), "spread")
        assert_that(scored | beam.CombineGlobally(LabelMetricsFn(70)), near(labelled(scores, labels)), "gathered")
        assert_that(pairs | beam.CombineGlobally(SegmentMetricsFn(40)), near(segments.result()), "segments")


def test_a_full_bundle_is_handed_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliploom.transforms.metrics.combine._FLUSH_ROWS", 100)
    scores, labels = videos(4, 200, 40, 10**6)
    with beam.Pipeline("FnApiRunner") as pipeline:
        scored = pipeline | beam.Create([(scores[at : at + 20], labels[at : at + 20]) for at in range(0, 200, 20)])
        assert_that(scored | EvaluateLabels(40), near(labelled(scores, labels)))


def test_bands_hold_their_share_of_scores_and_add_up() -> None:
    histogram = ScoreHistogram()
    generator = np.random.default_rng(5)
    histogram.add(np.zeros(5000, int), generator.normal(size=5000), generator.random(5000) < 0.3)
    bands = histogram.by_band(12)
    hits = counts = 0
    total = 0.0
    for band in sorted(bands):
        steps = bands[band].steps()
        total += steps.precision_sums(hits_before=hits, counts_before=counts).get(0, 0.0)
        hits, counts = hits + int(steps.hits.sum()), counts + int(steps.counts.sum())
    assert counts == 5000
    assert total == pytest.approx(histogram.steps().precision_sums()[0], **EXACT)
