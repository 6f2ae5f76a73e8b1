"""Index upkeep: every part of the next table is in exactly one shard, and unaffected shards stay."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.schemas.release import FileEntry, IndexEntry, IndexShardEntry
from cliploom.transforms.index.pieces import part_of, range_of, rows_in
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


def rows_held(index: IndexEntry, rows: dict[str, int]) -> list[tuple[str, int]]:
    """All rows of all shards, as (part, place)."""
    pieces = [piece for shard in index.shards for piece in shard.parts]
    held = [(part_of(piece), range(rows[part_of(piece)])[slice(*range_of(piece))]) for piece in pieces]
    return sorted((part, row) for part, places in held for row in places)


@given(PARTS, PARTS, st.integers(1, 5) | st.none())
def test_every_row_is_in_exactly_one_shard(before: dict[str, int], after: dict[str, int], shards: int | None) -> None:
    index = None
    for rows in (before, before | after, after):
        # A part never changes: other rows are another part.
        parts = {f"{part}-{size}": size for part, size in rows.items()}
        index = next_entry(plan_upkeep(parts, "flat", "r", shards, index))
        assert rows_held(index, parts) == sorted((part, row) for part in parts for row in range(parts[part]))


@given(PARTS, PARTS, st.integers(1, 5), st.sampled_from(["flat", "hnsw", "ivf_sq8", "ivf_rabitq"]))
def test_a_number_of_shards_gives_so_many_of_nearly_equal_size_every_night(
    before: dict[str, int], after: dict[str, int], shards: int, kind: str
) -> None:
    index = None
    for rows in (before, before | after, after):
        parts = {f"{part}-{size}": size for part, size in rows.items()}
        index = next_entry(plan_upkeep(parts, kind, "r", shards, index))
        total = sum(parts.values())
        sizes = [sum(rows_in(piece, parts) for piece in shard.parts) for shard in index.shards]
        assert len(sizes) == min(shards, total)
        assert not sizes or max(sizes) - min(sizes) <= max(1, 0.1 * total / shards)


def test_new_parts_fill_the_smallest_shard_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliploom.transforms.index.upkeep.SHARD_ROWS", 10)
    previous = entry(shard(0, "a"), shard(1, "b"), shard(2, "c"))
    upkeep = plan_upkeep({"a": 10, "b": 3, "c": 9, "d": 7, "e": 2}, "flat", "r", None, previous)
    assert [(each[0].file.path, each[1], each[2]) for each in upkeep.change] == [("s1", ("b",), ("d",))]
    assert upkeep.build == (("e",),)


def test_equal_shards_are_cut_within_a_part_and_keep_their_centroids() -> None:
    assert plan_upkeep({"a": 10}, "flat", "r", 4, None).build == (("a[0:3]",), ("a[3:6]",), ("a[6:8]",), ("a[8:10]",))
    trained = FileEntry(path="t", size=1, digest="d")
    previous = entry(shard(0, "a"), shard(1, "b"), kind="ivf_sq8", trained_rows=100, trained=trained.model_dump())
    upkeep = plan_upkeep({"a": 10, "c": 2}, "ivf_sq8", "r", 2, previous)
    assert (upkeep.retrain, upkeep.build) == (False, (("a[0:6]",), ("a[6:10]", "c")))
    assert upkeep.reason == "2 shards of 2 to 10 rows -> 2 equal ones"


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
