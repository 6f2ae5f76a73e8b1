import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.schemas.errors import SpecError
from cliploom.schemas.narrations import (
    Dropped,
    EvenlySpaced,
    FilterTally,
    KeepRules,
    Narration,
    Pair,
    PairRules,
    SplitRule,
)
from cliploom.transforms.narrations.pair_files import tutorial_names
from cliploom.transforms.narrations.pairs import _NOISE, plan_pairs, pool_rows, select_window, span_of, time_to_index
from cliploom.transforms.narrations.splits import split_by_lists, split_by_shares, split_of

RATE = 1.875
FEATURES = np.arange(100, dtype=np.float32)[:, None] * np.ones(3, np.float32)


def at(start, end=None, text="#C C opens a door", idx=0):
    return Narration("v", 1, idx, start, end, text)


@pytest.mark.parametrize(
    ("t1", "t2", "rows"),
    [(8, 12, (15, 23)), (60, 64, (99, 100)), (-2, 0, (0, 1)), (-2, 2, (0, 4)), (0, 0, (0, 1)), (51, 55, (95, 100))],
)
def test_times_become_rows_as_published(t1, t2, rows):
    assert time_to_index(t1, t2, RATE, 100) == rows


@pytest.mark.parametrize(
    ("t1", "t2", "rate", "n", "message"),
    [
        (-4, -0.1, RATE, 100, "ends before the video starts"),
        (3, 2, RATE, 100, "ends before it starts"),
        (1, 2, RATE, 0, "0 feature rows"),
        (1, 2, 0.0, 100, "not a number of feature rows"),
        (math.nan, 2, RATE, 100, "not a time range"),
        (1, math.inf, RATE, 100, "not a time range"),
    ],
)
def test_times_that_answer_to_no_row_are_errors(t1, t2, rate, n, message):
    with pytest.raises(ValueError, match=message):
        time_to_index(t1, t2, rate, n)


@given(st.floats(-100, 1000), st.floats(0, 100), st.floats(0.01, 100), st.integers(1, 1000))
def test_a_window_is_never_empty_and_never_beyond_the_rows(t1, length, rate, n):
    t2 = t1 + length
    if t2 < 0:
        return
    start, end = time_to_index(t1, t2, rate, n)
    assert 0 <= start < end <= n
    # Products just below a whole number count as that number: which of the two they are is rounding.
    first, last = (math.floor(seconds * rate + _NOISE) for seconds in (t1, t2))
    inside = [row for row in range(n) if first <= row <= last]
    assert list(range(start, end)) == (inside or [n - 1])


def test_the_mean_of_a_window():
    pooled = select_window(FEATURES, 10, 2, RATE)
    assert (pooled.dtype, pooled.tolist()) == (np.float32, [18.5] * 3)


def test_rows_taken_of_a_window_are_evenly_spread():
    assert select_window(FEATURES, 10, 2, RATE, EvenlySpaced(4))[:, 0].tolist() == [16, 18, 20, 22]
    assert select_window(FEATURES, 10, 2, RATE, EvenlySpaced(1))[:, 0].tolist() == [19]


def test_a_window_shorter_than_what_is_taken_repeats_rows():
    assert pool_rows(FEATURES[:2], EvenlySpaced(5))[:, 0].tolist() == [0, 0, 1, 1, 1]


@given(st.integers(1, 50), st.integers(1, 50))
def test_taken_rows_keep_their_order_and_stay_inside(n, k):
    taken = pool_rows(FEATURES[:n], EvenlySpaced(k))[:, 0]
    assert len(taken) == k
    assert (np.diff(taken) >= 0).all()
    assert 0 <= taken[0] <= taken[-1] < n
    if n <= k:
        assert set(taken.tolist()) == set(range(n))


def test_a_moment_is_widened_a_stretch_is_not_and_no_time_is_the_whole_video():
    assert span_of(at(10.0), 2) == (8, 12)
    assert span_of(at(10.0, 11.0), 2) == (10, 11)
    assert span_of(at(None), 2) is None


def test_pairs_name_their_rows_and_split():
    rules = PairRules(RATE, split=SplitRule((("all", 1.0),)))
    narrations = [at(10.0), at(3.0, 9.0), at(None)]
    pairs, tally = plan_pairs("v", narrations, 100, rules)
    assert pairs == [
        Pair(narrations[0], 15, 23, "all"),
        Pair(narrations[1], 5, 17, "all"),
        Pair(narrations[2], 0, 100, "all"),
    ]
    assert tally == FilterTally(3, 1)


def test_what_is_not_paired_is_counted_with_its_reason():
    rules = PairRules(RATE, around_s=1, keep=KeepRules(min_tokens=5))
    pairs, tally = plan_pairs("v", [at(-1.5), at(-0.5), at(3.0, text="hm")], 100, rules)
    assert [(pair.first, pair.end) for pair in pairs] == [(0, 1)]
    assert tally == FilterTally(
        1, 1, (Dropped("fewer than 5 tokens", 1, 0), Dropped("ends before the video starts", 1, 0))
    )


@pytest.mark.parametrize(
    ("n", "rules", "reason"),
    [
        (0, PairRules(RATE), "video without features"),
        (9, PairRules(RATE, split=split_by_lists({"train": frozenset("w")})), "video in no split"),
        (9, PairRules(RATE, keep=KeepRules(without=frozenset("v"))), "video of a split left out"),
        (9, PairRules(RATE, around_s=0.5, keep=KeepRules(min_tokens=1)), "ends before the video starts"),
    ],
)
def test_a_video_without_pairs_says_why(n, rules, reason):
    assert plan_pairs("v", [at(-1.0)], n, rules) == ([], FilterTally(0, 0, (Dropped(reason, 1, 1),)))


def test_shares_are_met_and_a_video_keeps_its_split():
    rule = split_by_shares({"train": 0.8, "val": 0.1, "test": 0.1}, seed=3)
    splits = [split_of(f"v{n}", rule) for n in range(5000)]
    assert splits == [split_of(f"v{n}", rule) for n in range(5000)]
    assert [round(splits.count(name) / 5000, 1) for name in ("train", "val", "test")] == [0.8, 0.1, 0.1]
    assert splits != [split_of(f"v{n}", split_by_shares({"train": 0.8, "val": 0.1, "test": 0.1})) for n in range(5000)]


def test_a_smaller_first_share_only_moves_videos_out_of_it():
    wide, narrow = split_by_shares({"train": 0.9, "val": 0.1}), split_by_shares({"train": 0.7, "val": 0.3})
    uids = [f"v{n}" for n in range(500)]
    assert {u for u in uids if split_of(u, narrow) == "train"} < {u for u in uids if split_of(u, wide) == "train"}


def test_lists_of_uids_are_splits():
    rule = split_by_lists({"train": frozenset("ab"), "val": frozenset("c")})
    assert [split_of(uid, rule) for uid in "abcd"] == ["train", "train", "val", None]


@pytest.mark.parametrize(
    ("shares", "message"),
    [({"train": 0.8, "val": 0.1}, "add up to 0.9"), ({"train": 1.5, "val": -0.5}, "share -0.5"), ({}, "add up to 0")],
)
def test_shares_that_make_no_whole_are_spec_errors(shares, message):
    with pytest.raises(SpecError, match=message):
        split_by_shares(shares)


def test_a_video_in_two_lists_is_a_spec_error():
    with pytest.raises(SpecError, match="'b' is in the splits 'train' and 'val'"):
        split_by_lists({"train": frozenset("ab"), "val": frozenset("bc")})


def test_the_tutorials_datasets_are_called_by_uid_unless_one_is_a_folder_of_another():
    assert tutorial_names(["a/b", "v1.5", "c"]) == {"a/b": "a/b", "v1.5": "v1.5", "c": "c"}
    assert tutorial_names(["a/b", "v1.5", "a"]) == {"a/b": "a%2Fb", "v1.5": "v1%2E5", "a": "a"}
