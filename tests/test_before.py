"""Items of the last release: compared by a few columns, the others read by number, and handed on where they stand."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_numbering import listing

from cliploom.pipelines.planning.before import COMPARED, Before, read_before
from cliploom.pipelines.planning.numbering import number_items
from cliploom.pipelines.planning.packed import NumberedRows, Packer
from cliploom.pipelines.planning.survey import FACTS
from cliploom.schemas.release import Release
from cliploom.schemas.tables import ITEMS
from cliploom.transforms.store.objects import Objects
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
    rows = NumberedRows([in_file(items(*stored[:half]), rows_in_group), in_file(items(*stored[half:]), rows_in_group)])
    found = rows.read(pl.Series(sorted(asked), dtype=pl.Int64), ["uri"])
    assert found.columns == ["item_no", "uri"]
    assert found.rows() == [(number, f"uri of u{number:03}") for number in stored if number in asked]


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(tmp_path)


def released(objects: Objects, table: pa.Table) -> Before:
    version = commit_rows(objects, "items", table)
    return read_before(objects, Release.model_construct(release=1, tables={"items": version}))


def test_a_release_gives_what_is_compared_and_the_rest_by_number(objects: Objects) -> None:
    before = released(objects, items(1, 2, 5))
    assert before.items.columns == list(COMPARED)
    assert before.parts.is_empty()
    assert before.failures.is_empty()
    with before.item_rows(objects) as rows:
        assert rows.read(before.items["item_no"], ["facts"])["facts"].to_list() == [
            f"facts of u00{number}" for number in (1, 2, 5)
        ]


def test_a_new_store_has_no_items(objects: Objects) -> None:
    before = read_before(objects, None)
    assert before.items.is_empty()
    with before.item_rows(objects) as rows:
        assert rows.read(pl.Series([1], dtype=pl.Int64), ["facts"]).is_empty()


def test_facts_are_those_listed_or_probed_or_of_the_last_release(objects: Objects) -> None:
    before = released(objects, items(1, 2, 3))
    tonight = listing("u002", "u001", "u003", "u004").with_columns(
        pl.Series("facts", [None, "new", None, None]), pl.Series("digest", ["same", "other", None, "first"])
    )
    probed = Packer(FACTS)
    probed.add(pl.DataFrame({"row": [3], "facts": ["of a new one"]}, schema={"row": pl.UInt32, "facts": pl.String}))
    with before.item_rows(objects) as rows:
        found = number_items(tonight, before.items.select("source", "uid", "item_no"), 4, probed.packed(), rows)
    assert found.read(["item_no", "uid", "facts"]).rows() == [
        (1, "u001", "new"),
        (2, "u002", "facts of u002"),
        (3, "u003", None),
        (4, "u004", "of a new one"),
    ]
