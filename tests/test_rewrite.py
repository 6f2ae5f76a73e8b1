"""Rewriting copies rows as they are, under the numbers and names of whom they belong to now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cliploom.schemas.errors import StoreError
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.records import Content, Duplicate, PartRecord, PartUse, Rewrite, RowCopy, row_id
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import FeatureRow, PartWriter, read_record, read_rows
from cliploom.transforms.work.rewrite import rewrite_part

JOB = FeatureJob("frames", "clips", "media", "{}", "c" * 40, "t", "", None, {"v": 2})


def write(objects: ObjectStore, name: str, items: dict[int, int]) -> None:
    """A part with so many rows of each item."""
    contents, first = [], 0
    with objects.create_file(f"t/{name}") as path, PartWriter(path, JOB.outputs) as writer:
        for number, rows in items.items():
            for ordinal in range(rows):
                vector = np.array([number, ordinal], np.float32)
                writer.write(
                    FeatureRow(row_id(number, ordinal), f"u{number}", ordinal, ordinal + 1, 0, "d", {"v": vector})
                )
            contents.append(Content(number, f"u{number}", "d", 0, 1, rows, rows, first))
            first += rows
        writer.finish(PartRecord("frames", JOB.config, name, first, 0, "", tuple(contents)).to_dict() | {"run": "r"})


def take(number: int, to: int | None = None) -> RowCopy:
    return RowCopy(number, 0, Duplicate(to or number, f"u{to or number}"))


def test_wanted_rows_of_several_parts_become_one(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    write(objects, "one", {1: 2, 2: 3, 3: 1})
    write(objects, "two", {4: 2})
    rewrite = Rewrite("frames", (PartUse("one", (take(3), take(1))), PartUse("two", (take(4),))))
    record = rewrite_part(objects, JOB, rewrite, "r")
    rows = pa.concat_tables(read_rows(tmp_path / "t" / record.part))
    assert rows["row_id"].to_pylist() == [row_id(3, 0), row_id(1, 0), row_id(1, 1), row_id(4, 0), row_id(4, 1)]
    assert [(c.item_no, c.first_row, c.rows) for c in record.contents] == [(3, 0, 1), (1, 1, 2), (4, 3, 2)]
    assert read_record(objects, "t", record.part) == record


def test_copies_get_the_number_and_name_of_their_item(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    write(objects, "one", {1: 2})
    record = rewrite_part(objects, JOB, Rewrite("frames", (PartUse("one", (take(1), take(1, to=9))),)), "r")
    rows = pa.concat_tables(read_rows(tmp_path / "t" / record.part))
    assert rows["uid"].to_pylist() == ["u1", "u1", "u9", "u9"]
    assert rows["row_id"].to_pylist()[2:] == [row_id(9, 0), row_id(9, 1)]
    assert rows["v"].to_pylist() == [[1, 0], [1, 1]] * 2


def test_same_rewrite_is_the_same_file(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    write(objects, "one", {1: 2, 2: 1})
    rewrite = Rewrite("frames", (PartUse("one", (take(1),)),))
    first = rewrite_part(objects, JOB, rewrite, "r")
    assert rewrite_part(objects, JOB, rewrite, "r") == first


def test_part_that_is_gone_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="t/one is missing; `cliploom verify`"):
        rewrite_part(ObjectStore(tmp_path), JOB, Rewrite("frames", (PartUse("one", (take(1),)),)), "r")


def test_part_without_the_item_is_reported(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    write(objects, "one", {1: 2})
    with pytest.raises(StoreError, match="t/one does not contain item 7"):
        rewrite_part(objects, JOB, Rewrite("frames", (PartUse("one", (take(7),)),)), "r")
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["one"]
