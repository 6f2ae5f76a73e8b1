import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.schemas.errors import SpecError
from cliploom.schemas.narrations import EGO4D, NARRATIONS, BadRow, Dropped, FilterTally, KeepRules, Narration, TextRules
from cliploom.transforms.narrations.batches import from_batches, group_by_video, item_digest, to_batches, usable
from cliploom.transforms.narrations.select import (
    in_order,
    kept,
    mean_spacing_s,
    seeded_place,
    seeded_subset,
)
from cliploom.transforms.narrations.text import count_tokens, encoded_text, label_texts

LONG = "#C C opens a door"

narrations_of_some_videos = st.lists(
    st.builds(
        Narration,
        st.sampled_from("abc"),
        st.integers(0, 2),
        st.integers(0, 5),
        st.none() | st.floats(-2, 1e5).map(lambda t: round(t, 6)),
        st.none(),
        st.text(min_size=1),
        st.text(),
    ),
    max_size=30,
)


def at(start, text=LONG, uid="v", pass_=1, idx=0):
    return Narration(uid, pass_, idx, start, None, text)


@pytest.mark.parametrize(
    ("given_", "encoded"),
    [
        ("#C C opens a door", "Camera wearer C opens a door"),
        ("#O a man X looks at #C", "Other person a man X looks at Camera wearer"),
        ("#C C holds a #unsure", "Camera wearer C holds a something"),
    ],
)
def test_ego4d_tags_become_words(given_, encoded):
    assert encoded_text(given_, EGO4D) == encoded


def test_own_rules_replace_in_turn_and_no_rules_change_nothing():
    assert encoded_text("ab", TextRules((("a", "b"), ("bb", "c")))) == "c"
    assert encoded_text("#C", TextRules()) == "#C"


@given(st.text())
def test_tokens_are_counted_as_the_research_code_does(text):
    assert count_tokens(text) == len(text.split(" "))


def test_labels_go_into_each_template():
    texts = label_texts(["yoga", "{label} x"], ["The person in this video is doing {label}", "{label}"])
    assert [(t.label_no, t.template_no, t.text) for t in texts] == [
        (0, 0, "The person in this video is doing yoga"),
        (0, 1, "yoga"),
        (1, 0, "The person in this video is doing {label} x"),
        (1, 1, "{label} x"),
    ]


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        (["a"], ["doing {lable}"], "has no {label}"),
        (["a", " "], ["{label}"], "label 1 is blank"),
        ([], ["{label}"], "at least one"),
        (["a"], [], "at least one"),
    ],
)
def test_prompts_that_can_not_be_made_are_spec_errors(labels, templates, message):
    with pytest.raises(SpecError, match=message):
        label_texts(labels, templates)


def test_short_texts_are_dropped_and_counted():
    stay, tally = kept("v", [at(0), at(1, "#C C walks")], KeepRules(min_tokens=5))
    assert stay == [at(0)]
    assert tally == FilterTally(1, 1, (Dropped("fewer than 5 tokens", 1, 0),))


def test_a_video_that_loses_all_its_texts_is_counted_as_lost():
    assert kept("v", [at(0, "hm")], KeepRules(min_tokens=5))[1] == FilterTally(
        0, 0, (Dropped("fewer than 5 tokens", 1, 1),)
    )


def test_videos_of_other_splits_are_dropped():
    assert kept("v", [at(0)], KeepRules(without=frozenset("v")))[1].dropped[0].reason == "video of a split left out"
    assert kept("v", [at(0)], KeepRules(only=frozenset("w")))[1].dropped[0].reason == "video not asked for"
    assert kept("v", [at(0)], KeepRules(only=frozenset("v")))[1] == FilterTally(1, 1)


def test_a_video_with_crowded_narrations_is_dropped_whole():
    rules = KeepRules(min_spacing_s=0.1)
    assert kept("v", [at(0), at(0.09), at(0.18)], rules)[1].dropped == (Dropped("closer than 0.1 s on average", 3, 1),)
    assert len(kept("v", [at(0), at(0.1), at(0.2)], rules)[0]) == 3


def test_spacing_is_measured_on_what_the_other_filters_left():
    rules = KeepRules(min_tokens=5, min_spacing_s=0.1)
    assert kept("v", [at(0), at(0.01, "short"), at(0.15)], rules)[1].narrations == 2


def test_one_narration_has_no_spacing_and_stays():
    assert kept("v", [at(3)], KeepRules(min_spacing_s=0.1))[1] == FilterTally(1, 1)
    assert kept("v", [at(None), at(None)], KeepRules(min_spacing_s=0.1))[1] == FilterTally(2, 1)


@given(st.lists(st.floats(0, 1e4), min_size=2))
def test_spacing_is_the_mean_of_differences_in_time_order(times):
    differences = [b - a for a, b in zip(sorted(times), sorted(times)[1:], strict=False)]
    assert mean_spacing_s([at(t) for t in times]) == pytest.approx(sum(differences) / len(differences), abs=1e-9)


def test_tallies_add_up_by_reason_in_any_order():
    tallies = [
        FilterTally(1, 1, (Dropped("b", 1, 0),)),
        FilterTally(2, 1, (Dropped("a", 2, 1), Dropped("b", 3, 1))),
        FilterTally(0, 0, (Dropped("a", 1, 0),)),
    ]
    total = FilterTally(3, 2, (Dropped("a", 3, 1), Dropped("b", 4, 1)))
    assert FilterTally.total(tallies) == FilterTally.total(tallies[::-1]) == total


def test_tutorial_order_is_that_of_a_stable_sort_by_uid_and_pass():
    file = [at(5, pass_=2), at(9), at(1, idx=1), at(1, uid="a", pass_=2), at(0, pass_=2, idx=1)]
    expected = sorted(file, key=lambda n: (n.uid, n.pass_))
    assert in_order(file, "tutorial") == in_order(file[::-1], "tutorial") == expected


def test_research_order_is_that_of_a_stable_sort_by_uid_and_time():
    file = [at(5), at(1, idx=1), at(5, idx=2), at(5, pass_=2), at(0, pass_=2, idx=1), at(9, uid="a")]
    expected = sorted(file, key=lambda n: (n.uid, n.start_s))
    assert in_order(file, "research") == in_order(file[::-1], "research") == expected


def test_texts_without_a_time_come_first_in_research_order():
    assert in_order([at(-1), at(None, idx=1)], "research") == [at(None, idx=1), at(-1)]


def test_a_subset_is_the_same_whatever_the_order_and_differs_by_seed():
    uids = [f"v{n}" for n in range(200)]
    chosen = seeded_subset(uids, 20, seed=1)
    assert len(chosen) == 20
    assert chosen == seeded_subset(uids[::-1] + uids, 20, seed=1)
    assert chosen != seeded_subset(uids, 20, seed=2)


@given(st.sets(st.text(min_size=1), min_size=1), st.text(min_size=1), st.integers(1, 10), st.integers(0, 3))
def test_a_new_video_replaces_at_most_one_of_a_subset(uids, new, limit, seed):
    before, after = set(seeded_subset(uids, limit, seed)), set(seeded_subset(uids | {new}, limit, seed))
    assert len(before - after) <= 1
    assert len(before) == min(limit, len(uids))


def test_a_subset_of_nothing_is_a_spec_error():
    with pytest.raises(SpecError, match="limit: 0"):
        seeded_subset(["a"], 0)


def test_seeded_places_are_even():
    places = sorted(seeded_place(f"v{n}", 0) for n in range(2000))
    assert max(abs(place - n / 2000) for n, place in enumerate(places)) < 0.04
    assert 0 <= places[0] <= places[-1] < 1


@given(narrations_of_some_videos, st.integers(1, 7))
@settings(deadline=None)
def test_batches_hold_all_narrations_in_order(narrations, rows):
    batches = list(to_batches(narrations, EGO4D, rows))
    assert list(from_batches(batches)) == narrations
    assert all(batch.schema == NARRATIONS and batch.num_rows == rows for batch in batches[:-1])
    encoded = [text for batch in batches for text in batch.column("encoded").to_pylist()]
    assert encoded == [encoded_text(n.text, EGO4D) for n in narrations]


def test_batches_become_row_groups_of_a_parquet_file(tmp_path):
    with pq.ParquetWriter(tmp_path / "n.parquet", NARRATIONS) as writer:
        for batch in to_batches([at(t) for t in range(10)], rows=4):
            writer.write_batch(batch)
    file = pq.ParquetFile(tmp_path / "n.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4, 4, 2]
    assert list(from_batches(pa.table(file.read()).to_batches())) == [at(float(t)) for t in range(10)]


def test_bad_rows_go_aside():
    bad = BadRow("f", "line 1", "r", "x")
    failures = []
    assert list(usable([at(0), bad, at(1)], failures.append)) == [at(0), at(1)]
    assert failures == [bad]


@given(narrations_of_some_videos, st.randoms(use_true_random=False))
def test_an_item_is_one_video_and_its_digest_ignores_order(narrations, shuffler):
    ordered = sorted(narrations, key=lambda n: n.uid)
    shuffled = list(narrations)
    shuffler.shuffle(shuffled)
    items = list(group_by_video(ordered))
    again = list(group_by_video(sorted(shuffled, key=lambda n: n.uid)))
    assert [(item.uid, item.digest) for item in items] == [(item.uid, item.digest) for item in again]
    assert [n for item in items for n in item.narrations] == ordered


@pytest.mark.parametrize(
    "change",
    [{"text": "other"}, {"start_s": 1.000001}, {"end_s": 2.0}, {"annotation_uid": "b"}, {"pass_": 2}, {"idx": 1}],
)
def test_an_edit_changes_the_digest_of_its_video_only(change):
    fields = {"uid": "v", "pass_": 1, "idx": 0, "start_s": 1.0, "end_s": None, "text": LONG, "annotation_uid": "a"}
    before = {item.uid: item.digest for item in group_by_video([at(0, uid="a"), Narration(**fields), at(0, uid="w")])}
    edited = Narration(**(fields | change))
    after = {item.uid: item.digest for item in group_by_video([at(0, uid="a"), edited, at(0, uid="w")])}
    assert {uid for uid in before if before[uid] != after[uid]} == {"v"}


def test_no_time_and_time_0_are_different():
    assert item_digest([at(None)]) != item_digest([at(0.0)])


def test_a_video_in_two_places_can_not_be_grouped():
    with pytest.raises(ValueError, match="narrations of 'a' come in two places"):
        list(group_by_video([at(0, uid="a"), at(0, uid="b"), at(1, uid="a")]))


def test_grouping_holds_one_video_at_a_time():
    def endless():
        number = 0
        while True:
            yield at(random.random(), uid=f"v{number // 3}")
            number += 1

    assert len(next(iter(group_by_video(endless()))).narrations) == 3
