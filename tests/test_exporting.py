"""Exports: files contain whole items, are named by their inputs, and follow the spec's declaration."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from stores import SmallStore

from cliploom.schemas.exports import Hdf5Export
from cliploom.schemas.records import row_id
from cliploom.schemas.release import FeatureEntry, OutputEntry
from cliploom.transforms.exports.base import groups_of_parts
from cliploom.transforms.exports.hdf5 import places_of_uids, tasks_of

CONTENTS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 12)), min_size=1, max_size=40)


def frame(pairs: list[tuple[str, int]]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema={"part": pl.String, "item_no": pl.Int64}, orient="row")


def feature(**values: object) -> FeatureEntry:
    plain = {
        "source": "s", "encoder": "e", "config": "c", "table": "features/f/c", "version": 1, "rows": 1, "parts": 1,
        "size": 1, "model": "m", "recipe": {},
        "outputs": {name: OutputEntry(dim=dim, space=name) for name, dim in (("b", 3), ("a", 2))},
    }  # fmt: skip
    return FeatureEntry.model_validate(plain | values)


@given(CONTENTS)
def test_parts_that_share_an_item_are_in_one_group(pairs: list[tuple[str, int]]) -> None:
    groups = groups_of_parts(frame(pairs))
    assert sorted(part for group in groups for part in group) == sorted({part for part, _ in pairs})
    of = {part: number for number, group in enumerate(groups) for part in group}
    for item in {item for _, item in pairs}:
        assert len({of[part] for part, other in pairs if other == item}) == 1


@given(CONTENTS)
def test_groups_are_no_larger_than_they_must_be(pairs: list[tuple[str, int]]) -> None:
    joined = {part: {part} for part, _ in pairs}
    for _ in pairs:
        for part, item in pairs:
            for other, same in pairs:
                if item == same:
                    joined[part] |= joined[other]
    assert groups_of_parts(frame(pairs)) == sorted({tuple(sorted(group)) for group in joined.values()})


def test_groups_do_not_depend_on_order() -> None:
    pairs = [("a", 1), ("b", 1), ("b", 2), ("c", 3), ("d", 2)]
    assert groups_of_parts(frame(pairs)) == groups_of_parts(frame(pairs[::-1])) == [("a", "b", "d"), ("c",)]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.integers(0, 9)), min_size=1, max_size=30, unique=True)
)
def test_places_of_uids_are_their_rows_in_order_and_as_few_stretches_as_can_be(
    made: list[tuple[int, int, int]],
) -> None:
    made = list({row[1:]: row for row in made}.values())
    parts: list[list[tuple[int, str]]] = [[], [], []]
    for part, item, ordinal in made:
        parts[part].append((row_id(item, ordinal), f"uid{item}"))
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.parquet" for number in range(3)]
        for path, rows in zip(paths, parts, strict=True):
            pl.DataFrame(rows, schema={"row_id": pl.Int64, "uid": pl.String}, orient="row").write_parquet(path)
        places = dict(places_of_uids(paths))
    for uid, stretches in places.items():
        found = [parts[file][row] for file, first, count in stretches for row in range(first, first + count)]
        assert found == sorted(row for rows in parts for row in rows if row[1] == uid)
        ends = [(file, first + count) for file, first, count in stretches]
        assert all(end != start[:2] for end, start in zip(ends[:-1], stretches[1:], strict=True))
    assert sum(count for stretches in places.values() for _, _, count in stretches) == len(made)


def test_file_is_named_by_what_it_is_made_from() -> None:
    contents = frame([("a", 1), ("b", 2)])
    export = Hdf5Export(kind="hdf5", feature="f")
    tasks = tasks_of("x", export, feature(), contents)
    assert [task.parts for task in tasks] == [("a",), ("b",)]
    assert [name for name, _ in tasks[0].outputs] == ["a", "b"]
    assert len({task.path for task in tasks}) == 2
    assert tasks == tasks_of("x", export, feature(version=9, rows=7), contents)
    one = tasks_of("x", export.model_copy(update={"output": "b"}), feature(), contents)
    assert one[0].outputs == (("b", 3),)
    assert one[0].path != tasks[0].path
    assert tasks_of("x", export, feature(table="features/f/d"), contents)[0].path != tasks[0].path


def test_release_lists_the_file_that_readers_open_first(small_store: SmallStore) -> None:
    release = small_store.run().release
    master, *parts = release.exports["frames_h5"].files
    assert master.path.startswith("hdf5/frames_h5/master-")
    assert all(part.path.startswith("hdf5/frames_h5/part-") for part in parts)
    assert release.exports["looks_h5"].files[0].path.startswith("hdf5/looks_h5/single-")
    for entry in (file for export in release.exports.values() for file in export.files):
        assert (small_store.store / entry.path).stat().st_size == entry.size
