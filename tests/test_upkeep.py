"""Index upkeep: every part of the next table is in exactly one shard, and what need not change does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.schemas.release import FileEntry, IndexEntry, IndexShardEntry
from cliploom.transforms.index.upkeep import IndexUpkeep, plan_upkeep, tasks_of

PARTS = st.dictionaries(st.sampled_from([f"p{number}" for number in range(12)]), st.integers(1, 50), max_size=12)


def shard(number: int, *parts: str) -> IndexShardEntry:
    return IndexShardEntry(file=FileEntry(path=f"s{number}", size=1, digest="d"), rows=1, parts=list(parts))


def entry(*shards: IndexShardEntry, **values: Any) -> IndexEntry:
    plain = {"feature": "f", "output": "o", "metric": "cosine", "kind": "flat", "recipe": "r", "rows": 1}
    return IndexEntry.model_validate(plain | values | {"shards": [each.model_dump() for each in shards]})


def next_entry(upkeep: IndexUpkeep) -> IndexEntry:
    """The index after the upkeep."""
    held = [shard.parts for shard in upkeep.keep]
    held += [[*stay, *added] for _, stay, added in upkeep.change]
    held += [list(parts) for parts in upkeep.build]
    return entry(*(shard(number, *parts) for number, parts in enumerate(held)), kind=upkeep.kind)


@given(PARTS, PARTS, st.integers(1, 5) | st.none())
def test_every_part_is_in_exactly_one_shard(before: dict[str, int], after: dict[str, int], shards: int | None) -> None:
    first = next_entry(plan_upkeep(before, "flat", "r", shards, None))
    assert sorted(part for each in first.shards for part in each.parts) == sorted(before)
    second = next_entry(plan_upkeep(before | after, "flat", "r", shards, first))
    assert sorted(part for each in second.shards for part in each.parts) == sorted(before | after)
    third = next_entry(plan_upkeep(after, "flat", "r", shards, second))
    assert sorted(part for each in third.shards for part in each.parts) == sorted(after)


@given(PARTS)
def test_same_parts_keep_all_shards(parts: dict[str, int]) -> None:
    first = next_entry(plan_upkeep(parts, "flat", "r", None, None))
    again = plan_upkeep(parts, "flat", "r", None, first)
    assert (again.keep, again.change, again.build, again.reason) == (tuple(first.shards), (), (), "")


def test_new_parts_go_to_the_last_shard() -> None:
    upkeep = plan_upkeep({"a": 1, "b": 1, "c": 1}, "flat", "r", None, entry(shard(0, "a"), shard(1, "b")))
    assert [each.file.path for each in upkeep.keep] == ["s0"]
    assert [(each[0].file.path, each[1], each[2]) for each in upkeep.change] == [("s1", ("b",), ("c",))]
    assert upkeep.reason == "0 parts left, 1 came"


@pytest.mark.parametrize(
    ("previous", "rows", "kind", "reason"),
    [
        (None, {"a": 10}, "ivf_sq8", "the index is new"),
        (entry(recipe="other"), {"a": 10}, "ivf_sq8", "its declaration or feature changed"),
        (entry(kind="flat"), {"a": 30_000}, "auto", "flat -> ivf_sq8 at 30000 rows"),
        (entry(kind="ivf_sq8", trained_rows=10), {"a": 20}, "ivf_sq8", "rows doubled since training (10 -> 20)"),
        (entry(kind="ivf_sq8", trained_rows=100, recall=0.9), {"a": 20}, "ivf_sq8", "recall@10 fell to 0.900"),
    ],
)
def test_reasons_to_train_anew(previous: IndexEntry | None, rows: dict[str, int], kind: str, reason: str) -> None:
    upkeep = plan_upkeep(rows, kind, "r", None, previous)
    assert (upkeep.retrain, upkeep.reason, upkeep.build) == (True, reason, (("a",),))


def test_lists_are_changed_in_place_and_others_rebuilt() -> None:
    for kind, rebuilt in (("ivf_sq8", False), ("flat", True), ("hnsw", True)):
        previous = entry(shard(0, "a", "b"), kind=kind, trained_rows=100)
        upkeep = plan_upkeep({"b": 10, "c": 10}, kind, "r", None, previous)
        [task] = tasks_of(upkeep, "i", "t", "o", "cosine", 4, None)
        assert task.parts == ("b", "c")
        assert (task.previous is None, task.remove, task.add) == (
            (True, (), ("b", "c")) if rebuilt else (False, ("a",), ("c",))
        )
