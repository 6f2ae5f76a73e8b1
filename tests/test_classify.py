"""Verdicts, numbers and subsets: against a model in plain Python, and one sentence of the design at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.pipelines.planning.classify import (
    FeatureHistory,
    RetryPolicy,
    allot_numbers,
    classify,
    count_verdicts,
    select_subset,
)
from cliploom.pipelines.planning.renames import merge_renames
from cliploom.schemas.plan import CONFIG_CHANGED, CONTENT_CHANGED, DELETED, FAILED, MOVED, NEW, RETRY, UNCHANGED
from cliploom.schemas.tables import FAILURES
from cliploom.transforms.publish.assemble import HEAD, HELD, ORPHAN
from cliploom.transforms.publish.dataframes import empty_frame

ITEM = {"item_no": pl.Int64, "uid": pl.String, "digest": pl.String}
ADDRESS = {"source": pl.String, "uid": pl.String}


@dataclass(frozen=True)
class Held:
    """One content of a part."""

    part: str
    item_no: int
    digest: str
    rows: int
    planned: int = 2
    segment: int = 0
    segments: int = 1
    origin: int = HEAD

    @property
    def uid(self) -> str:
        return f"u{self.item_no}"


@dataclass(frozen=True)
class Bad:
    """One known failure."""

    item_no: int
    digest: str
    transient: bool = False
    partial: bool = False
    attempts: int = 1
    message: str = "no frame"


def held_frame(held: list[Held]) -> pl.DataFrame:
    rows = [(h.part, h.item_no, h.uid, h.digest, h.segment, h.segments, h.planned, h.rows, 0, h.origin) for h in held]
    return pl.DataFrame(rows, schema=HELD, orient="row")


def failed_frame(bad: list[Bad]) -> pl.DataFrame:
    rows: list[dict[str, Any]] = [
        {
            "source": "clips",
            "feature": "frames",
            "uid": f"u{b.item_no}",
            "item_no": b.item_no,
            "digest": b.digest,
            "config": "c",
            "message": b.message,
            "transient": b.transient,
            "partial": b.partial,
            "attempts": b.attempts,
        }
        for b in bad
    ]
    return pl.DataFrame(rows, schema=empty_frame(FAILURES).schema)


def items_frame(items: dict[int, str | None]) -> pl.DataFrame:
    return pl.DataFrame([(no, f"u{no}", digest) for no, digest in items.items()], schema=ITEM, orient="row")


def verdicts_of(
    items: dict[int, str | None],
    held: list[Held] | None = None,
    bad: list[Bad] | None = None,
    had: dict[int, str | None] | None = None,
    *,
    recent: list[Bad] | None = None,
    everything: bool = False,
    refresh: bool = False,
    change: str = "",
) -> dict[int, str]:
    frame = classified(items, held, bad, had, recent=recent, everything=everything, refresh=refresh, change=change)
    return dict(frame.select("item_no", "verdict").rows())


def classified(
    items: dict[int, str | None],
    held: list[Held] | None = None,
    bad: list[Bad] | None = None,
    had: dict[int, str | None] | None = None,
    *,
    recent: list[Bad] | None = None,
    everything: bool = False,
    refresh: bool = False,
    change: str = "",
) -> pl.DataFrame:
    past = FeatureHistory(
        held_frame(held or []),
        failed_frame(bad or []),
        failed_frame(recent or []),
        items_frame(had or {}),
        change=change,
    )
    return classify("frames", items_frame(items), past, RetryPolicy(everything, 3), refresh)


def test_an_item_never_seen_is_new() -> None:
    assert verdicts_of({1: "a"}) == {1: NEW}


def test_an_item_whose_rows_are_held_is_unchanged() -> None:
    assert verdicts_of({1: "a"}, [Held("p", 1, "a", 2)], had={1: "a"}) == {1: UNCHANGED}


def test_another_correction_of_the_same_bytes_is_a_change_of_config_that_says_so() -> None:
    frame = classified({1: "a+aspect.pq"}, [Held("p", 1, "a", 2)], had={1: "a"})
    reason = "pictures are read as they are meant: aspect, pq"
    assert frame.select("verdict", "reason").rows() == [(CONFIG_CHANGED, reason)]


def test_other_bytes_are_content_changed() -> None:
    assert verdicts_of({1: "b"}, [Held("p", 1, "a", 2)], had={1: "a"}) == {1: CONTENT_CHANGED}


def test_the_same_bytes_of_another_config_are_config_changed_with_the_reason() -> None:
    frame = classified({1: "a"}, had={1: "a"}, change="encoder lite0: precision f32 -> bf16")
    assert frame.select("verdict", "reason").rows() == [(CONFIG_CHANGED, "encoder lite0: precision f32 -> bf16")]


def test_a_new_name_for_held_bytes_is_moved_and_names_where_from() -> None:
    frame = classified({2: "a"}, [Held("p", 1, "a", 2)], had={1: "a"})
    assert frame.select("item_no", "verdict", "reason").rows() == [
        (2, MOVED, "same bytes as u1, rows are copied"),
        (1, DELETED, "not listed any more"),
    ]


def test_what_is_not_listed_any_more_is_deleted() -> None:
    assert verdicts_of({}, [Held("p", 1, "a", 2)], had={1: "a"}) == {1: DELETED}


def test_a_known_permanent_failure_is_not_tried_again() -> None:
    assert verdicts_of({1: "a"}, [Held("p", 1, "a", 0)], [Bad(1, "a")], {1: "a"}) == {1: FAILED}


@pytest.mark.parametrize(("attempts", "verdict"), [(1, RETRY), (2, RETRY), (3, FAILED)])
def test_a_transient_failure_is_tried_until_max_attempts(attempts: int, verdict: str) -> None:
    bad = [Bad(1, "a", transient=True, attempts=attempts)]
    assert verdicts_of({1: "a"}, [Held("p", 1, "a", 0)], bad, {1: "a"}) == {1: verdict}


def test_retry_failed_tries_permanent_failures_too() -> None:
    assert verdicts_of({1: "a"}, [Held("p", 1, "a", 0)], [Bad(1, "a")], {1: "a"}, everything=True) == {1: RETRY}


def test_an_item_that_lost_some_rows_for_a_passing_reason_is_tried_again() -> None:
    held = [Held("p", 1, "a", 1)]
    assert verdicts_of({1: "a"}, held, [Bad(1, "a", transient=True, partial=True)], {1: "a"}) == {1: RETRY}
    assert verdicts_of({1: "a"}, held, [Bad(1, "a", partial=True)], {1: "a"}) == {1: UNCHANGED}


def test_an_item_with_some_rows_is_computed_again_when_its_part_was_lost() -> None:
    assert verdicts_of({1: "a"}, [], [Bad(1, "a", partial=True)], {1: "a"}) == {1: CONFIG_CHANGED}
    assert verdicts_of({1: "a"}, [], [Bad(1, "a")], {1: "a"}) == {1: FAILED}


def test_a_failure_that_a_killed_run_has_healed_is_past() -> None:
    held = [Held("q", 1, "a", 2, origin=ORPHAN)]
    assert verdicts_of({1: "a"}, held, [Bad(1, "a", transient=True)], {1: "a"}) == {1: UNCHANGED}


def test_an_old_part_that_tells_of_a_failure_does_not_bring_it_back() -> None:
    held = [Held("p", 1, "a", 2), Held("old", 1, "a", 0, origin=ORPHAN)]
    assert verdicts_of({1: "a"}, held, had={1: "a"}, recent=[Bad(1, "a", transient=True)]) == {1: UNCHANGED}


def test_a_file_that_could_not_be_probed_is_failed() -> None:
    assert verdicts_of({1: None}) == {1: FAILED}


def test_an_item_without_rows_in_good_order_is_unchanged() -> None:
    assert verdicts_of({1: "a"}, [Held("p", 1, "a", 0, planned=0)], had={1: "a"}) == {1: UNCHANGED}


def test_a_refresh_computes_what_is_held() -> None:
    assert verdicts_of({1: "a"}, [Held("p", 1, "a", 2)], had={1: "a"}, refresh=True) == {1: CONFIG_CHANGED}


def test_segments_of_different_splits_do_not_add_up() -> None:
    held = [Held("p", 1, "a", 2, segment=0, segments=2), Held("q", 1, "a", 1, segment=1, segments=3)]
    assert verdicts_of({1: "a"}, held, had={1: "a"}) == {1: CONFIG_CHANGED}


def test_a_left_over_segment_of_another_split_hides_nothing() -> None:
    held = [Held("p", 1, "a", 2), Held("q", 1, "a", 1, segment=0, segments=3, origin=ORPHAN)]
    assert verdicts_of({1: "a"}, held, had={1: "a"}) == {1: UNCHANGED}


def model(
    items: dict[int, str | None],
    held: list[Held],
    bad: list[Bad],
    had: dict[int, str | None],
    everything: bool,
    refresh: bool,
) -> dict[int, str]:
    """Verdicts by the sentences of the design, item by item."""

    def rows_held(item_no: int, digest: str | None) -> list[tuple[int, int]]:
        """(rows, planned) of each split of the item that is there whole."""
        found = []
        for segments in {h.segments for h in held}:
            mine = [h for h in held if (h.item_no, h.digest, h.segments) == (item_no, digest, segments)]
            if {h.segment for h in mine} == set(range(segments)):
                best = [max((h for h in mine if h.segment == s), key=lambda h: h.rows) for s in range(segments)]
                found.append((sum(h.rows for h in best), sum(h.planned for h in best)))
        return found

    answer = {}
    for item_no, digest in items.items():
        whole = rows_held(item_no, digest)
        has_rows = any(rows for rows, _ in whole)
        failures = [b for b in bad if (b.item_no, b.digest) == (item_no, digest)]
        stands = bool(failures) and (any(b.partial for b in failures) or not has_rows)
        tried = stands and (
            everything or (any(b.transient for b in failures) and max(b.attempts for b in failures) < 3)
        )
        no_reason = bool(whole) and not has_rows and not stands and any(planned for _, planned in whole)
        elsewhere = any(rows for other in {h.item_no for h in held} for rows, _ in rows_held(other, digest))
        if digest is None:
            answer[item_no] = FAILED
        elif tried or (no_reason and everything):
            answer[item_no] = RETRY
        elif not refresh and (has_rows or (whole and not stands and not no_reason)):
            answer[item_no] = UNCHANGED
        elif not refresh and ((stands and (whole or not any(b.partial for b in failures))) or no_reason):
            answer[item_no] = FAILED
        elif not refresh and elsewhere:
            answer[item_no] = MOVED
        elif item_no not in had:
            answer[item_no] = NEW
        else:
            answer[item_no] = CONTENT_CHANGED if had[item_no] != digest else CONFIG_CHANGED
    return answer | {item_no: DELETED for item_no in had if item_no not in items}


NUMBERS = st.integers(1, 4)
DIGESTS = st.sampled_from(["a", "b", "c"])


@st.composite
def contents(draw: st.DrawFn) -> Held:
    segments = draw(st.sampled_from([1, 1, 2]))
    planned = draw(st.sampled_from([0, 2, 2]))
    return Held(
        draw(st.sampled_from(["p", "q", "r"])),
        draw(NUMBERS),
        draw(DIGESTS),
        draw(st.integers(0, planned)),
        planned,
        draw(st.integers(0, segments - 1)),
        segments,
        draw(st.sampled_from([HEAD, ORPHAN])),
    )


BADS = st.builds(Bad, NUMBERS, DIGESTS, st.booleans(), st.booleans(), st.integers(1, 4))


@given(
    st.dictionaries(NUMBERS, st.none() | DIGESTS, max_size=4),
    st.lists(contents(), max_size=7, unique_by=lambda h: (h.part, h.item_no, h.digest, h.segment, h.segments)),
    st.lists(BADS, max_size=3),
    st.dictionaries(NUMBERS, DIGESTS, max_size=4),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=250, deadline=None)
def test_verdicts_are_those_of_the_model(
    items: dict[int, str | None],
    held: list[Held],
    bad: list[Bad],
    had: dict[int, str | None],
    everything: bool,
    refresh: bool,
) -> None:
    # Copies of one segment plan the same rows.
    planned = {(h.item_no, h.digest, h.segment, h.segments): h.planned for h in held}
    held = [h for h in held if planned[h.item_no, h.digest, h.segment, h.segments] == h.planned]
    found = verdicts_of(items, held, bad, had, everything=everything, refresh=refresh)
    assert found == model(items, held, bad, had, everything, refresh)


def listing(*uids: str) -> pl.DataFrame:
    return pl.DataFrame([("s", uid) for uid in uids], schema=ADDRESS, orient="row")


def numbers(known: dict[str, int]) -> pl.DataFrame:
    return pl.DataFrame(
        [("s", uid, no) for uid, no in known.items()], schema=ADDRESS | {"item_no": pl.Int64}, orient="row"
    )


def test_numbers_are_kept_and_new_ones_follow_in_order_of_uid() -> None:
    frame, free = allot_numbers(listing("d", "b", "a", "c"), numbers({"c": 7}), 9)
    assert frame.select("uid", "item_no").rows() == [("c", 7), ("a", 9), ("b", 10), ("d", 11)]
    assert free == 12


def test_a_number_beyond_the_next_one_is_not_given_twice() -> None:
    frame, free = allot_numbers(listing("a", "b"), numbers({"a": 30}), 9)
    assert dict(frame.select("uid", "item_no").rows()) == {"a": 30, "b": 31}
    assert free == 32


@given(
    st.sets(st.text("abc", min_size=1, max_size=2)), st.dictionaries(st.text("abc", min_size=1, max_size=2), NUMBERS)
)
@settings(max_examples=60, deadline=None)
def test_numbers_are_unique_and_free_is_above_all(listed: set[str], known: dict[str, int]) -> None:
    given_before = dict({no: uid for uid, no in known.items()}.items())
    before = {uid: no for no, uid in given_before.items()}
    frame, free = allot_numbers(listing(*sorted(listed)), numbers(before), 1)
    allotted = dict(frame.select("uid", "item_no").rows())
    assert len(set(allotted.values())) == len(listed)
    assert all(no < free for no in [*allotted.values(), *before.values()])
    assert all(allotted[uid] == no for uid, no in before.items() if uid in listed)


def test_a_subset_is_seeded_grows_with_the_limit_and_keeps_what_is_known() -> None:
    full = listing(*(f"u{n}" for n in range(40)))
    none, one = full.head(0), full.head(1)
    small, large = (select_subset(full, none, limit)["uid"].to_list() for limit in (5, 9))
    assert len(small) == 5
    assert set(small) < set(large)
    assert set(select_subset(full, one, 5)["uid"]) == {*small, "u0"}


def test_verdicts_are_counted_in_a_fixed_order() -> None:
    frame = classified({1: "a", 2: "b", 3: "b"}, [Held("p", 2, "b", 2)], had={2: "b", 9: "z"})
    counted = count_verdicts(frame)
    assert counted == {"frames": {NEW: 1, MOVED: 1, UNCHANGED: 1, DELETED: 1}}
    assert list(counted["frames"]) == [NEW, MOVED, UNCHANGED, DELETED]


def test_a_rename_is_one_item_and_not_a_deleted_one_beside_a_copy() -> None:
    held = [Held("p", 1, "a", 2), Held("p", 2, "b", 2), Held("p", 3, "a", 2)]
    had = {1: "a", 2: "b", 3: "a"}
    verdicts = classified({2: "b", 3: "a", 4: "a", 5: "a"}, held, had=had)
    previous = pl.DataFrame(
        {"item_no": list(had), "digest": list(had.values())}, schema={"item_no": pl.Int64, "digest": pl.String}
    )
    merged = merge_renames(verdicts, previous)
    assert merged.columns == verdicts.columns
    # One old name for one new one: the second new name is a copy of what is still there.
    assert merged.select("item_no", "verdict", "reason").rows() == [
        (2, UNCHANGED, ""),
        (3, UNCHANGED, ""),
        (4, MOVED, "renamed from u1, rows are copied"),
        (5, MOVED, "same bytes as u1, rows are copied"),
    ]


def test_what_is_gone_without_a_new_name_stays_deleted() -> None:
    verdicts = classified({2: "b"}, [Held("p", 1, "a", 2), Held("p", 2, "b", 2)], had={1: "a", 2: "b"})
    previous = pl.DataFrame({"item_no": [1, 2], "digest": ["a", "b"]})
    assert merge_renames(verdicts, previous).equals(verdicts)
