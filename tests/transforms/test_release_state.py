"""Failures of the next release: which of this run's and of earlier ones still say what its tables hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest

from cliploom.schemas.errors import LimitError, StoreError
from cliploom.schemas.plan import Accept, RunPlan
from cliploom.schemas.records import Content, Failure, PartRecord
from cliploom.schemas.spec import Limits
from cliploom.transforms.publish.assemble import COMPUTED, HELD
from cliploom.transforms.publish.dataframes import PlanFrames, failures_frame, held_frame
from cliploom.transforms.publish.final import check_limits
from cliploom.transforms.publish.release_state import FeatureState, check_complete, check_gathered, next_failures
from cliploom.transforms.work.part_records import PartRecordFrames, report

PLAN = cast(RunPlan, SimpleNamespace(job=SimpleNamespace(run="now")))
NONE = report([])


def failure(item: int, digest: str = "d", **changes: Any) -> Failure:
    values: dict[str, Any] = {"source": "s", "feature": "f", "uid": f"u{item}", "uri": "", "item_no": item}
    values |= {"digest": digest, "config": "c", "stage": "decode", "type": "Damaged", "message": "damaged"}
    return Failure(**(values | {"expected": 3, "got": 0} | changes))


def content(item: int, digest: str = "d", rows: int = 0, planned: int = 3) -> Content:
    return Content(item, f"u{item}", digest, 0, 1, planned, rows, 0)


def part(name: str, *contents: Content, failures: tuple[Failure, ...] = ()) -> PartRecord:
    return PartRecord("f", "c", name, sum(each.rows for each in contents), 9, name, contents, failures)


@dataclass(frozen=True)
class Case:
    """A run, and what the next release says of its failures.

    Attributes:
        known: failures that the last release or probing had.
        computed, rewritten: parts that this run made.
        wanted: item -> digest that the next table should have.
        chosen: parts whose contents it has; of ``computed`` and these.
        expected: (item, digest, run, attempts, partial) of each failure.
    """

    known: tuple[Failure, ...] = ()
    computed: tuple[PartRecord, ...] = ()
    rewritten: tuple[PartRecord, ...] = ()
    wanted: tuple[tuple[int, str], ...] = ()
    chosen: tuple[PartRecord, ...] = ()
    expected: tuple[tuple[int, str, str, int, bool], ...] = ()


FAILED = failure(1)
PARTIAL = failure(1, got=2, partial=True)
NEW_PART = part("new", content(1), content(2, rows=3), failures=(FAILED,))
CASES = {
    "nothing failed": Case(computed=(part("p", content(1, rows=3)),), wanted=((1, "d"),)),
    "failed now": Case(computed=(NEW_PART,), wanted=((1, "d"), (2, "d")), expected=((1, "d", "now", 1, False),)),
    "failed before and not tried again": Case(
        known=(FAILED,), wanted=((1, "d"),), expected=((1, "d", "then", 1, False),)
    ),
    "failed before, deleted since": Case(known=(FAILED,)),
    "failed before with other bytes": Case(known=(FAILED,), wanted=((1, "e"),)),
    "failed before, computed now": Case(known=(FAILED,), computed=(part("p", content(1, rows=3)),), wanted=((1, "d"),)),
    "failed before and again, counted on": Case(
        known=(replace(FAILED, attempts=2),),
        computed=(part("p", content(1), failures=(replace(FAILED, attempts=3),)),),
        wanted=((1, "d"),),
        expected=((1, "d", "now", 3, False),),
    ),
    "some rows are there": Case(
        computed=(part("p", content(1, rows=2), failures=(PARTIAL,)),),
        wanted=((1, "d"),),
        expected=((1, "d", "now", 1, True),),
    ),
    "some rows were there and still are": Case(
        known=(PARTIAL,),
        chosen=(part("old", content(1, rows=2)),),
        wanted=((1, "d"),),
        expected=((1, "d", "then", 1, True),),
    ),
    "a whole older part is used instead of the one that failed": Case(
        computed=(part("p", content(1), failures=(FAILED,)),),
        chosen=(part("old", content(1, rows=3)),),
        wanted=((1, "d"),),
    ),
    "rows copied under another name keep what they lack": Case(
        rewritten=(part("r", content(2, rows=2), failures=(replace(PARTIAL, item_no=2, uid="u2"),)),),
        chosen=(part("r", content(2, rows=2)),),
        wanted=((2, "d"),),
        expected=((2, "d", "now", 1, True),),
    ),
    "probing goes through as it is": Case(
        known=(failure(7, feature="", stage="probe"),), expected=((7, "d", "then", 1, False),)
    ),
}


def state(case: Case) -> FeatureState:
    contents = held_frame(report(case.chosen or case.computed), COMPUTED).drop("feature")
    kept = contents.filter(pl.col("rows") > 0).select(*HELD)
    wanted = pl.DataFrame(case.wanted, schema={"item_no": pl.Int64, "digest": pl.String}, orient="row")
    return FeatureState(kept, NONE.parts, 0, wanted.clear(), wanted, True)


@pytest.mark.parametrize("name", CASES)
def test_failures_of_the_next_release(name: str) -> None:
    case = CASES[name]
    tables = PlanFrames(pl.DataFrame(), pl.DataFrame(), failures_frame(case.known, "then"))
    computed, rewritten = report(case.computed), report(case.rewritten)
    found = next_failures(PLAN, tables, computed, rewritten, {"f": state(case)})
    assert found.columns == tables.failures.columns
    shown = found.select("item_no", "digest", "run", "attempts", "partial").rows()
    assert tuple(shown) == case.expected


@pytest.mark.parametrize(("planned", "reported", "lost"), [(0, 0, 0), (3, 3, 0), (3, 4, 0), (3, 2, 1), (1, 0, 1)])
def test_what_was_planned_has_to_be_reported(planned: int, reported: int, lost: int) -> None:
    if not lost:
        check_gathered("parts", planned, reported)
        return
    with pytest.raises(StoreError, match=f"{lost} of {planned} parts were planned but no worker reported them"):
        check_gathered("parts", planned, reported)


@pytest.mark.parametrize(
    ("failures", "lost"),
    [
        ((), 2),
        ((failure(1),), 1),
        ((failure(1), failure(2, feature="")), 0),
        ((failure(1, feature="another"), failure(2)), 1),
    ],
)
def test_every_wanted_item_has_rows_or_a_failure(failures: tuple[Failure, ...], lost: int) -> None:
    missing = pl.DataFrame({"item_no": [1, 2], "uid": ["u1", "u2"]})
    states = {"f": replace(state(Case()), missing=missing)}
    if not lost:
        check_complete(states, failures_frame(failures, "now"))
        return
    with pytest.raises(StoreError, match=f"{lost} items of feature 'f' were planned but no worker reported them"):
        check_complete(states, failures_frame(failures, "now"))


def plan(limits: Limits, accept: Accept, first: bool, emptied: tuple[str, ...], deleted: int) -> RunPlan:
    """The part of a plan that the limits look at."""
    share = max(limits.max_failed, limits.max_failed_first) if first else limits.max_failed
    found = SimpleNamespace(
        limits=limits,
        accept=accept,
        base=None,
        job=SimpleNamespace(store="my store", features={}),
        max_failed=share,
        emptied=emptied,
        counts={"had": 10, "deleted": deleted},
    )
    return cast(RunPlan, found)


LIMITS = Limits.model_validate({"max_failed": "10%", "max_failed_first": "50%", "max_deleted": "20%"})


@pytest.mark.parametrize(
    ("failed", "known", "deleted", "emptied", "first", "accept", "said"),
    [
        (1, 0, 2, (), False, Accept(), ""),
        (2, 0, 0, (), False, Accept(), r"2 of 10 items failed, more than max_failed \(10%\), for example: damaged"),
        (2, 0, 0, (), False, Accept(failures=True), ""),
        (2, 1, 0, (), False, Accept(), ""),
        (5, 0, 0, (), True, Accept(), ""),
        (6, 0, 0, (), True, Accept(), r"6 of 10 items failed, more than max_failed_first \(50%\)"),
        (4, 2, 0, (), False, Accept(), r"2 of 10 items failed, .* beside 2 that failed before"),
        (0, 0, 3, (), False, Accept(), r"3 of 10 items are not listed any more, more than max_deleted \(20%\)"),
        (0, 0, 3, (), False, Accept(deletes=True), ""),
        (0, 0, 0, ("s",), False, Accept(), "s: the source had items and lists none any more"),
        (0, 0, 0, ("s",), False, Accept(failures=True), "s: the source had items"),
        (0, 0, 0, ("s",), False, Accept(deletes=True), ""),
        (2, 0, 3, (), False, Accept(deletes=True), "2 of 10 items failed"),
        (2, 0, 3, (), False, Accept(failures=True), "3 of 10 items are not listed"),
    ],
)
def test_a_limit_stops_a_run_unless_it_is_lifted(
    failed: int, known: int, deleted: int, emptied: tuple[str, ...], first: bool, accept: Accept, said: str
) -> None:
    before = failures_frame([failure(item) for item in range(known)], "then")
    now = failures_frame([failure(item) for item in range(failed)], "now")
    made = plan(LIMITS, accept, first, emptied, deleted)
    if not said:
        check_limits(made, now, before, 10)
        return
    with pytest.raises(LimitError, match=said) as told:
        check_limits(made, now, before, 10)
    assert "publish 'my store' --" in str(told.value), "the way on can be pasted"


def test_rows_that_are_there_in_part_are_no_failure_for_the_limits() -> None:
    partial = failures_frame([failure(item, partial=True, got=1) for item in range(9)], "now")
    check_limits(plan(LIMITS, Accept(), False, (), 0), partial, partial.clear(), 10)


def test_reports_of_no_parts_are_empty_frames_of_the_same_columns() -> None:
    assert isinstance(NONE, PartRecordFrames)
    assert NONE.contents.columns == report([NEW_PART]).contents.columns
    assert NONE.parts.is_empty()
