"""Rankers: published values of BiMatchRanker, then properties."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cliploom.schemas.index import RowHit
from cliploom.schemas.records import row_id
from cliploom.transforms.index.rank import bimatch, default_d_miss, rank, reciprocal_rank_fusion

ITEM = {10: 1, 11: 1, 20: 2, 21: 2, 22: 2, 23: 2}


def by_distance(*pairs):
    """Row hits of (chunk, distance), chunks 1x being of item 1 and 2x of item 2."""
    return [RowHit(row_id(ITEM[chunk], chunk), -distance, distance) for chunk, distance in pairs]


def test_bimatch_gives_the_published_scores_with_the_default_of_jina():
    found = [by_distance((10, 0.4)), by_distance((10, 0.3), (11, 0.2), (20, 0.1))]
    hits = rank(found, "bimatch", metric="l2", rows_of={1: 200, 2: 300}, d_miss=2000)
    assert [hit.item_no for hit in hits] == [1, 2]
    assert [hit.score for hit in hits] == [pytest.approx(0.504924, abs=5e-7), pytest.approx(0.251654, abs=5e-7)]
    assert [hit.hits for hit in hits] == [3, 1]
    assert hits[0].best.row_id == row_id(1, 11)


def test_bimatch_gives_the_published_scores_with_d_miss_1():
    found = [
        by_distance((11, 0.1), (22, 0.5), (21, 0.7)),
        by_distance((21, 0.1), (11, 0.5), (22, 0.7)),
        by_distance((21, 0.1), (22, 0.5), (23, 0.7)),
    ]
    hits = rank(found, "bimatch", metric="l2", rows_of={1: 4, 2: 3}, d_miss=1)
    assert [hit.item_no for hit in hits] == [2, 1]
    assert [hit.score for hit in hits] == [pytest.approx(0.666667, abs=5e-7), pytest.approx(0.345833, abs=5e-7)]


def test_max_and_mean_of_hand_made_hits():
    found = [[RowHit(row_id(5, 0), 0.9, 0.1), RowHit(row_id(6, 1), 0.8, 0.2)], [RowHit(row_id(5, 3), 0.1, 0.9)]]
    assert [(h.item_no, h.score, h.hits) for h in rank(found, "max")] == [(5, 0.9, 2), (6, 0.8, 1)]
    assert [(h.item_no, h.score) for h in rank(found, "mean")] == [(6, 0.8), (5, 0.5)]
    assert rank(found, "max")[0].best == found[0][0]
    assert rank([], "max") == rank([[]], "mean") == []


def test_equal_scores_come_by_item_and_the_best_row_by_row_id():
    found = [[RowHit(row_id(n, o), 0.5, 0.5) for n in (9, 3, 7) for o in (4, 2)]]
    for ranker in ("max", "mean", "bimatch"):
        hits = rank(found, ranker, rows_of={3: 5, 7: 5, 9: 5})
        assert [hit.item_no for hit in hits] == [3, 7, 9]
        assert [hit.best.row_id for hit in hits] == [row_id(n, 2) for n in (3, 7, 9)]


scores = st.floats(-1, 1).map(lambda value: round(value, 3))
hits = st.builds(
    lambda item, ordinal, score: RowHit(row_id(item, ordinal), score, 1 - score),
    st.integers(1, 4),
    st.integers(0, 5),
    scores,
)
results = st.lists(st.lists(hits, max_size=6, unique_by=lambda hit: hit.row_id), max_size=5)
ROWS = {1: 6, 2: 7, 3: 8, 4: 100}


@given(results, st.sampled_from(["max", "mean", "bimatch"]), st.randoms(use_true_random=False))
def test_the_order_of_hits_and_query_rows_does_not_matter(found, ranker, random):
    right = rank(found, ranker, rows_of=ROWS)
    shuffled = [random.sample(those, len(those)) for those in random.sample(found, len(found))]
    assert rank(shuffled, ranker, rows_of=ROWS) == right


@given(results)
def test_scores_keep_their_bounds(found):
    best = {hit.item_no: hit for hit in rank(found, "max")}
    mean = {hit.item_no: hit for hit in rank(found, "mean")}
    both = {hit.item_no: hit for hit in rank(found, "bimatch", metric="cosine", rows_of=ROWS)}
    assert best.keys() == mean.keys() == both.keys()
    for item_no in best:
        assert mean[item_no].score <= best[item_no].score + 1e-12
        assert best[item_no].score == best[item_no].best.score
        assert -1e-12 <= both[item_no].score <= 1 + 1e-12
        assert best[item_no].hits == mean[item_no].hits == both[item_no].hits


def test_default_d_miss_follows_the_metric_and_not_what_was_found():
    assert [default_d_miss(metric) for metric in ("cosine", "l2", "dot")] == [2, 2000, 2000]


@given(st.dictionaries(st.integers(0, 9), st.floats(0, 2)), st.dictionaries(st.integers(0, 9), st.floats(0, 2)))
def test_a_perfect_match_scores_one_and_none_scores_zero(query, item):
    assume(query and item)
    assert bimatch(dict.fromkeys(query, 0.0), len(query), dict.fromkeys(item, 0.0), len(item), 2) == 1
    assert bimatch({}, len(query), {}, len(item), 2) == 0
    assert bimatch(query, 20, item, 20, 2) == pytest.approx(bimatch(item, 20, query, 20, 2))


def test_bimatch_refuses_what_it_can_not_score():
    found = [by_distance((10, 0.4), (11, 0.5))]
    with pytest.raises(ValueError, match="give rows_of"):
        rank(found, "bimatch")
    with pytest.raises(ValueError, match="item 1 was found but"):
        rank(found, "bimatch", rows_of={2: 4})
    with pytest.raises(ValueError, match="2 rows were matched of 1"):
        rank(found, "bimatch", rows_of={1: 1})
    with pytest.raises(ValueError, match="d_miss is 0"):
        rank(found, "bimatch", rows_of={1: 4}, d_miss=0)


def test_fusion_of_hand_made_lists():
    fused = reciprocal_rank_fusion([["a", "b", "c"], ["b", "d"]])
    assert [key for key, _ in fused] == ["b", "a", "d", "c"]
    assert dict(fused)["b"] == pytest.approx(1 / 62 + 1 / 61)
    assert reciprocal_rank_fusion([]) == reciprocal_rank_fusion([[], []]) == []


def test_equally_fused_keys_come_by_place_then_by_list():
    assert [key for key, _ in reciprocal_rank_fusion([["x"], ["a"], ["m"]])] == ["x", "a", "m"]


@given(st.lists(st.lists(st.integers(0, 9), unique=True), max_size=5), st.randoms(use_true_random=False))
def test_fused_scores_do_not_depend_on_the_order_of_lists(lists, random):
    fused = reciprocal_rank_fusion(lists)
    assert dict(fused) == dict(reciprocal_rank_fusion(random.sample(lists, len(lists))))
    assert [score for _, score in fused] == sorted((score for _, score in fused), reverse=True)
    assert {key for key, _ in fused} == {key for ranked in lists for key in ranked}


@given(st.lists(st.integers(0, 99), unique=True))
def test_one_list_keeps_its_order_and_repeats_count_once(ranked):
    assert [key for key, _ in reciprocal_rank_fusion([ranked])] == ranked
    assert reciprocal_rank_fusion([ranked + ranked]) == reciprocal_rank_fusion([ranked])
