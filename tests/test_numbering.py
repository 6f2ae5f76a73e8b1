"""Numbered items: few columns to plan with, and the file of the next items table, whatever the listing's order."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from cliploom.pipelines.planning import numbering
from cliploom.pipelines.planning.numbering import Numbered, number_items
from cliploom.schemas.tables import ITEMS
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import commit_rows, table_files

KNOWN = {"source": pl.String, "uid": pl.String, "item_no": pl.Int64}


def listing(*uids: str) -> pl.DataFrame:
    columns = {
        name: [f"{name} of {uid}" for uid in uids] for name in ("uri", "signature", "digest", "facts", "metadata")
    }
    return pl.DataFrame({"source": ["s"] * len(uids), "uid": uids, "size": [7] * len(uids)} | columns)


def number(uids: list[str], known: dict[str, int] | None = None, free: int = 1) -> Numbered:
    before = [("s", uid, no) for uid, no in (known or {}).items()]
    return number_items(listing(*uids), pl.DataFrame(before, schema=KNOWN, orient="row"), free)


def test_the_file_holds_all_columns_in_order_of_the_numbers() -> None:
    found = number(["c", "a", "b"], {"b": 1}, free=2)
    assert found.items.rows() == [(n, "s", uid, f"digest of {uid}") for n, uid in [(1, "b"), (2, "a"), (3, "c")]]
    assert found.free == 4
    assert found.read().columns == ITEMS.names
    assert found.read(["uid", "uri"]).rows() == [(uid, f"uri of {uid}") for uid in "bac"]


def test_the_file_is_the_one_that_the_table_of_items_gets(tmp_path: Path) -> None:
    objects, found = ObjectStore(tmp_path), number(["a", "b"])
    version = commit_rows(objects, "items", found.read().to_arrow().cast(ITEMS))
    assert table_files(objects, "items", version) == [found.name]
    assert found.same_as(objects, version)
    assert not number(["a", "c"]).same_as(objects, version)
    assert not number(["a"]).same_as(objects, version)


def test_the_same_items_by_another_writer_are_the_same(tmp_path: Path) -> None:
    objects, found = ObjectStore(tmp_path), number(["a", "b"])
    buffer = io.BytesIO()
    pq.write_table(found.read().to_arrow().cast(ITEMS), buffer, compression="none", store_schema=False)
    other = Numbered(found.items, found.free, "rows-other.parquet", buffer.getvalue())
    version = commit_rows(objects, "items", found.read().to_arrow().cast(ITEMS))
    assert other.same_as(objects, version)
    assert not Numbered(found.items, found.free, "rows-other.parquet", number(["a", "x"]).data).same_as(
        objects, version
    )


def test_no_items_are_the_same_as_an_empty_table(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    version = commit_rows(objects, "items", ITEMS.empty_table())
    assert number([]).same_as(objects, version)
    assert not number(["a"]).same_as(objects, version)


@pytest.mark.parametrize("rows_in_group", [1, 2, 3, 100])
def test_some_items_are_read_back_by_their_numbers(monkeypatch: pytest.MonkeyPatch, rows_in_group: int) -> None:
    monkeypatch.setattr(numbering, "ROWS_IN_GROUP", rows_in_group)
    found = number(list("gfedcba"), {"g": 20})
    assert found.read()["uid"].to_list() == list("gabcdef")
    numbers = found.items.filter(pl.col("uid").is_in(["g", "b", "e"]))["item_no"].reverse()
    assert found.read_some(numbers, ["uid", "uri"])["uri"].to_list() == ["uri of g", "uri of b", "uri of e"]
    assert found.read_some(numbers.clear(), ["uri"]).is_empty()
