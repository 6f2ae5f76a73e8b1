"""Items of the previous release: compared by a few columns, the others read by number and passed on unchanged."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_numbering import listing

from cliploom.pipelines.planning.discover import FACTS
from cliploom.pipelines.planning.numbering import number_items
from cliploom.pipelines.planning.previous_release import COMPARED, PreviousRelease, read_previous_release
from cliploom.pipelines.planning.row_store import ParquetRowStore, RowStoreWriter
from cliploom.schemas.release import Release
from cliploom.schemas.tables import ITEMS
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import commit_rows


def items(*numbers: int) -> pa.Table:
    rows = listing(*(f"u{number:03}" for number in numbers)).with_columns(pl.Series("item_no", numbers, pl.Int64))
    return rows.select(ITEMS.names).to_arrow().cast(ITEMS)


def in_file(table: pa.Table, rows_in_group: int) -> pq.ParquetFile:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=rows_in_group)
    return pq.ParquetFile(pa.BufferReader(sink.getvalue()))


@given(st.lists(st.integers(1, 60), unique=True), st.sets(st.integers(0, 61)), st.integers(1, 9))
def test_rows_are_found_by_number_whatever_their_order(stored: list[int], asked: set[int], rows_in_group: int) -> None:
    half = len(stored) // 2
    rows = ParquetRowStore(
        [in_file(items(*stored[:half]), rows_in_group), in_file(items(*stored[half:]), rows_in_group)]
    )
    found = rows.read(pl.Series(sorted(asked), dtype=pl.Int64), ["uri"])
    assert found.columns == ["item_no", "uri"]
    assert found.rows() == [(number, f"uri of u{number:03}") for number in stored if number in asked]


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path)


def released(objects: ObjectStore, table: pa.Table) -> PreviousRelease:
    version = commit_rows(objects, "items", table)
    return read_previous_release(objects, Release.model_construct(release=1, tables={"items": version}))


def test_a_release_gives_what_is_compared_and_the_rest_by_number(objects: ObjectStore) -> None:
    previous = released(objects, items(1, 2, 5))
    assert previous.items.columns == list(COMPARED)
    assert previous.parts.is_empty()
    assert previous.failures.is_empty()
    with previous.item_rows(objects) as rows:
        assert rows.read(previous.items["item_no"], ["facts"])["facts"].to_list() == [
            f"facts of u00{number}" for number in (1, 2, 5)
        ]


def test_a_new_store_has_no_items(objects: ObjectStore) -> None:
    previous = read_previous_release(objects, None)
    assert previous.items.is_empty()
    with previous.item_rows(objects) as rows:
        assert rows.read(pl.Series([1], dtype=pl.Int64), ["facts"]).is_empty()


def test_facts_are_those_listed_or_probed_or_of_the_last_release(objects: ObjectStore) -> None:
    previous = released(objects, items(1, 2, 3))
    tonight = listing("u002", "u001", "u003", "u004").with_columns(
        pl.Series("facts", [None, "new", None, None]), pl.Series("digest", ["same", "other", None, "first"])
    )
    probed = RowStoreWriter(FACTS)
    probed.add(pl.DataFrame({"row": [3], "facts": ["of a new one"]}, schema={"row": pl.UInt32, "facts": pl.String}))
    with previous.item_rows(objects) as rows:
        found = number_items(tonight, previous.items.select("source", "uid", "item_no"), 4, probed.packed(), rows)
    assert found.read(["item_no", "uid", "facts"]).rows() == [
        (1, "u001", "new"),
        (2, "u002", "facts of u002"),
        (3, "u003", None),
        (4, "u004", "of a new one"),
    ]
