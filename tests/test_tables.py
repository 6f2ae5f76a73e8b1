"""Delta tables contain exactly the committed files, regardless of files left by others."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from cliploom.schemas.errors import StoreError
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import (
    TableFile,
    commit_files,
    commit_rows,
    open_table,
    put_rows,
    read_table,
    table_files,
)

SCHEMA = pa.schema([pa.field("a", pa.int64()), pa.field("b", pa.string())])


def rows(*numbers: int) -> pa.Table:
    return pa.table({"a": list(numbers), "b": [str(number) for number in numbers]}, schema=SCHEMA)


def test_rows_come_back_at_their_version(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    first = commit_rows(objects, "t", rows(1, 2))
    second = commit_rows(objects, "t", rows(3))
    assert read_table(objects, "t", first)["a"].to_list() == [1, 2]
    assert read_table(objects, "t", second).rows() == [(3, "3")]


def test_same_rows_are_not_committed_twice(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    assert commit_rows(objects, "t", rows(1)) == commit_rows(objects, "t", rows(1))


def test_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    frame = read_table(objects, "t", commit_rows(objects, "t", rows()))
    assert frame.height == 0
    assert frame.schema == {"a": pl.Int64, "b": pl.String}


def test_leftovers_of_others_are_put_right(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    wanted = [put_rows(objects, "t", rows(1)), put_rows(objects, "t", rows(2))]
    commit_files(objects, "t", SCHEMA, [put_rows(objects, "t", rows(9))])
    version = commit_files(objects, "t", SCHEMA, wanted)
    assert table_files(objects, "t", version) == sorted(file.name for file in wanted)
    assert sorted(read_table(objects, "t", version)["a"]) == [1, 2]


def test_new_columns_come_with_a_commit(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    old = commit_rows(objects, "t", rows(1))
    wider = pa.table({"a": [1], "b": ["1"], "c": [0.5]})
    new = commit_rows(objects, "t", wider)
    assert read_table(objects, "t", new).columns == ["a", "b", "c"]
    assert read_table(objects, "t", old).columns == ["a", "b"]


def test_old_versions_are_never_expired(tmp_path: Path) -> None:
    table = open_table(ObjectStore(tmp_path), "t", SCHEMA)
    assert table.metadata().configuration["delta.enableExpiredLogCleanup"] == "false"


def test_polars_and_other_readers_agree(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    version = commit_rows(objects, "t", rows(1, 2))
    assert pl.scan_delta(str(tmp_path / "t"), version=version).collect().equals(read_table(objects, "t", version))


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbled", "empty"])
def test_damaged_file_is_reported_with_its_table(tmp_path: Path, damage: str) -> None:
    objects = ObjectStore(tmp_path)
    version = commit_rows(objects, "t", rows(*range(1000)))
    path = tmp_path / "t" / table_files(objects, "t", version)[0]
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"truncated": data[:-40], "garbled": data[:4] + bytes(len(data) - 8) + data[-4:], "empty": b""}[damage]
        )
    with pytest.raises(StoreError, match=rf"{tmp_path}/t can't be read at version {version} .*; see `cliploom verify`"):
        read_table(objects, "t", version)


def test_version_that_is_not_there_is_reported(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    commit_rows(objects, "t", rows(1))
    for read in (read_table, table_files):
        with pytest.raises(StoreError, match="version 7"):
            read(objects, "t", 7)


def test_file_where_a_table_should_be_is_reported(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("hello")
    with pytest.raises(StoreError, match=f"{tmp_path}/t: the table can't be"):
        commit_files(ObjectStore(tmp_path), "t", SCHEMA, [TableFile("x.parquet", 1, 1)])
