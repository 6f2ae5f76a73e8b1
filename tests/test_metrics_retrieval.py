"""Exact ranks against brute force, and the figures made of them against cases worked out by hand."""

from __future__ import annotations

import itertools
import math

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from numpy.typing import NDArray

from cliploom.transforms.metrics.average_precision import AveragePrecisionAccumulator
from cliploom.transforms.metrics.chance import chance_of_ranks
from cliploom.transforms.metrics.combine_ranks import AveragePrecisionFn, RankMetricsFn
from cliploom.transforms.metrics.intervals import mean_figures, median_figure
from cliploom.transforms.metrics.ranks import Gallery, Relevance, Similarity, exact_ranks
from cliploom.transforms.metrics.retrieval import RankAccumulator, RankedQueries

NO_HITS = np.empty((0, 0), np.int64)


def brute_ranks(scores: NDArray[np.float64], pairs: set[tuple[int, int]]) -> dict[int, float]:
    """Rank of the best right answer of each row, of equal scores the mean place, by plain comparison."""
    found = {}
    for row in range(len(scores)):
        right = [column for query, column in pairs if query == row]
        if right:
            others = np.delete(scores[row], right)
            best = scores[row][right].max()
            found[row] = 1 + (others > best).sum() + (others == best).sum() / 2
    return found


@pytest.mark.parametrize("block_scores", [1 << 24, 60])
@pytest.mark.parametrize("many_rows", [False, True])
@pytest.mark.parametrize("similarity", ["cosine", "dot", "l2"])
def test_ranks_are_those_of_brute_force_with_many_ties(
    similarity: Similarity, many_rows: bool, block_scores: int
) -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 5, 40) if many_rows else np.ones(40, np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    # Vectors of few small whole numbers: many scores are equal.
    rows = rng.integers(-2, 3, (starts[-1], 4)).astype(np.float32)
    queries = rng.integers(-2, 3, (30, 4)).astype(np.float32)
    if similarity == "cosine":
        rows, queries = (each / np.maximum(1, np.linalg.norm(each, axis=1, keepdims=True)) for each in (rows, queries))
    relevance = Relevance.of_pairs(rng.integers(0, 25, 50), rng.integers(0, 40, 50))
    pairs = set(zip(relevance.queries.tolist(), relevance.things.tolist(), strict=True))
    wide, left = rows.astype(np.float64), queries.astype(np.float64)
    by_row = np.stack(
        [-(np.square(wide - query).sum(axis=1)) if similarity == "l2" else (wide * query).sum(axis=1) for query in left]
    )
    scores = np.stack([by_row[:, a:b].max(axis=1) for a, b in itertools.pairwise(starts)], axis=1)

    gallery = Gallery(rows.astype(np.float32), starts.astype(np.int64), similarity)
    forward, backward = exact_ranks(queries.astype(np.float32), gallery, relevance, block_scores=block_scores)

    assert dict(zip(forward.queries.tolist(), forward.ranks.tolist(), strict=True)) == brute_ranks(scores, pairs)
    mirrored = {(thing, query) for query, thing in pairs}
    assert dict(zip(backward.queries.tolist(), backward.ranks.tolist(), strict=True)) == brute_ranks(scores.T, mirrored)
    assert (forward.candidates, backward.candidates) == (40, 30)


def test_equal_vectors_everywhere_are_worth_chance() -> None:
    rows = np.ones((99, 8), np.float32)
    forward, backward = exact_ranks(
        rows[:3], Gallery.of_rows(rows, "dot"), Relevance.of_pairs(np.arange(3), np.arange(3) * 40)
    )
    assert forward.ranks.tolist() == [50, 50, 50]
    assert backward.ranks.tolist() == [2, 2, 2]


def test_a_thing_is_not_ranked_for_itself() -> None:
    rows = np.array([[0.0], [1.0], [5.0], [6.0]], np.float32)
    forward, _ = exact_ranks(
        rows,
        Gallery.of_rows(rows, "l2"),
        Relevance.of_pairs(np.array([0, 1, 2]), np.array([1, 3, 3])),
        itself=np.arange(4),
    )
    # From 1 the others are 0 (distance 1), 5 (4), 6 (5).
    assert forward.ranks.tolist() == [1, 3, 1]
    assert forward.candidates == 3


def ranked(groups: list[int], ranks: list[float], candidates: int, relevant: int = 1) -> RankedQueries:
    n = len(ranks)
    return RankedQueries(
        np.array(groups, np.uint64),
        np.array(ranks, np.float64),
        np.full(n, relevant, np.int64),
        np.full(n, candidates, np.int64),
        np.empty((n, 0), np.int64),
    )


def test_figures_of_a_case_worked_out_by_hand() -> None:
    accumulator = RankAccumulator()
    accumulator.add(ranked([1, 1], [1, 3], 20))
    accumulator.add(ranked([2, 3], [6, 20], 20))
    found = accumulator.result()
    values = {name: round(figure.value, 6) for name, figure in found.figures.items()}
    assert (found.queries, found.videos, found.candidates) == (4, 3, 20)
    assert values == {
        "R@1": 0.25,
        "R@5": 0.5,
        "R@10": 0.75,
        "MedR": 4.5,
        "MeanR": 7.5,
        "MRR": round((1 + 1 / 3 + 1 / 6 + 1 / 20) / 4, 6),
    }
    chance = {name: figure.chance for name, figure in found.figures.items()}
    assert chance["R@1"] == pytest.approx(1 / 20)
    assert chance["R@10"] == pytest.approx(0.5)
    assert chance["MedR"] == pytest.approx(10.5)
    assert chance["MeanR"] == pytest.approx(10.5)
    assert chance["MRR"] == pytest.approx(sum(1 / r for r in range(1, 21)) / 20)
    assert all(figure.low <= figure.value <= figure.high for figure in found.figures.values())


def test_chance_with_several_right_answers_is_that_of_drawing_without_putting_back() -> None:
    found = chance_of_ranks(np.array([5]), np.array([2]), (1, 2))
    assert found["R@1"] == pytest.approx(2 / 5)
    assert found["R@2"] == pytest.approx(1 - (3 / 5) * (2 / 4))
    assert found["MeanR"] == pytest.approx((5 + 1) / (2 + 1))


def test_precision_counts_right_answers_among_the_first() -> None:
    queries = RankedQueries(
        np.array([1, 2], np.uint64),
        np.array([1.0, 2.0]),
        np.array([2, 1], np.int64),
        np.array([4, 4], np.int64),
        np.array([[2], [1]], np.int64),
    )
    accumulator = RankAccumulator((1,), (2,))
    accumulator.add(queries)
    precision = accumulator.result().figures["P@2"]
    assert precision.value == 0.75
    assert precision.chance == pytest.approx((2 / 4 + 1 / 4) / 2)


def test_parts_merge_in_any_order_to_the_same_figures() -> None:
    rng = np.random.default_rng(0)
    parts = [ranked(rng.integers(0, 9, 20).tolist(), rng.integers(1, 50, 20).tolist(), 50) for _ in range(5)]
    results = []
    for order in (range(5), (3, 1, 4, 0, 2)):
        whole = RankAccumulator()
        for number in order:
            part = RankAccumulator()
            part.add(parts[number])
            whole.merge(part)
        results.append(whole.result())
    assert results[0] == results[1]


def test_ranks_that_can_not_be_are_refused() -> None:
    with pytest.raises(ValueError, match="is outside 1"):
        RankAccumulator().add(ranked([1], [7], 6))


def test_interval_of_a_mean_has_the_width_of_its_standard_error() -> None:
    rng = np.random.default_rng(1)
    values = rng.random(400)
    (figure,) = mean_figures(values[:, None], np.arange(400), seed=0)
    width = 2 * 1.96 * values.std() / math.sqrt(400)
    assert figure.high - figure.low == pytest.approx(width, rel=0.1)
    (same,) = mean_figures(values[:, None], np.arange(400), seed=0)
    assert same == figure


def test_queries_of_one_video_count_as_one_draw() -> None:
    values = np.repeat([0.0, 1.0], 500)
    (apart,) = mean_figures(values[:, None], np.arange(1000), seed=0)
    (together,) = mean_figures(values[:, None], np.repeat([0, 1], 500), seed=0)
    assert apart.high - apart.low < 0.1
    assert (together.low, together.high) == (0.0, 1.0)


def test_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    assert median_figure(np.array([1.0, 2.0, 10.0, 50.0]), np.arange(4), seed=0).value == 6


def test_average_precision_is_scikit_learns() -> None:
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(2)
    scores = rng.integers(0, 20, (60, 5)).astype(np.float32)
    labels = rng.random((60, 5)) < 0.3
    labels[:, 4] = False
    accumulator = AveragePrecisionAccumulator(5)
    for begin in (0, 25):
        end = 25 if begin == 0 else 60
        accumulator.add(np.arange(begin, end, dtype=np.uint64), scores[begin:end], labels[begin:end])
    figure, videos, classes = accumulator.result()
    expected = np.mean([average_precision_score(labels[:, c], scores[:, c]) for c in range(4)])
    assert figure.value == pytest.approx(expected)
    assert figure.chance == pytest.approx(labels[:, :4].mean())
    assert figure.low < figure.value < figure.high
    assert (videos, classes) == (60, 4)


def test_average_precision_keeps_a_sample_when_there_is_too_much() -> None:
    accumulator = AveragePrecisionAccumulator(2, most_cells=20)
    for begin in range(0, 100, 10):
        keys = np.arange(begin, begin + 10, dtype=np.uint64)[::-1]
        scores = np.stack([keys, keys], axis=1).astype(np.float32)
        accumulator.add(keys, scores, scores % 2 == 0)
    figure, videos, _ = accumulator.result()
    assert (accumulator.videos, videos) == (100, 10)
    # The sample are the videos of the ten smallest keys: 8, 6, 4, 2 and 0 stand at places 2, 4, 6, 8 and 10.
    assert figure.value == pytest.approx(0.5)


def test_combiners_give_what_the_accumulators_do() -> None:
    rng = np.random.default_rng(0)
    parts = [ranked(rng.integers(0, 9, 20).tolist(), rng.integers(1, 50, 20).tolist(), 50) for _ in range(3)]
    scores, labels = rng.random((30, 3)).astype(np.float32), rng.random((30, 3)) < 0.4
    keys = np.arange(30, dtype=np.uint64)
    ranks, precision = RankAccumulator(), AveragePrecisionAccumulator(3)
    for part in parts:
        ranks.add(part)
    precision.add(keys, scores, labels)
    batches = [(keys[a : a + 10], scores[a : a + 10], labels[a : a + 10]) for a in (0, 10, 20)]
    with TestPipeline() as pipeline:
        found = pipeline | "Ranked" >> beam.Create(parts) | "Ranks" >> beam.CombineGlobally(RankMetricsFn())
        assert_that(found, equal_to([ranks.result()]), label="CheckRanks")
        means = pipeline | "Scores" >> beam.Create(batches) | "Means" >> beam.CombineGlobally(AveragePrecisionFn(3))
        assert_that(means, equal_to([precision.result()]), label="CheckMeans")
