"""Notes on the tables of a store: each column of each table that a release has is explained, and no other."""

from __future__ import annotations

import polars as pl
import pytest
from stores import SmallStore

from cliploom.schemas.table_notes import FEATURE_TABLE, STORE_TABLES, TableNote
from cliploom.schemas.tables import feature_schema
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table

NOTES = {**STORE_TABLES, "a feature": FEATURE_TABLE}


@pytest.mark.parametrize("name", NOTES)
def test_every_column_has_a_note(name: str) -> None:
    note: TableNote = NOTES[name]
    assert list(note.columns) == note.schema.names
    assert note.about.endswith(".")
    assert all(text and text == text.strip() for text in note.columns.values())


def test_tables_of_a_release_have_the_columns_of_the_notes(built_store: SmallStore) -> None:
    objects = ObjectStore(built_store.store)
    release = read_releases(objects).get(None)
    for name, version in release.tables.items():
        assert read_table(objects, name, version).columns == STORE_TABLES[name].schema.names, name
    for entry in release.features.values():
        made = read_table(objects, entry.table, entry.version)
        outputs = {name: output.dim for name, output in entry.outputs.items()}
        assert made.columns == feature_schema(outputs).names
        assert set(made.columns) - set(outputs) == set(FEATURE_TABLE.columns) - {"<output>"}


def test_a_row_id_is_the_number_of_its_item_and_a_place_in_it(built_store: SmallStore) -> None:
    objects = ObjectStore(built_store.store)
    release = read_releases(objects).get(None)
    numbers = dict(read_table(objects, "items", release.tables["items"]).select("uid", "item_no").iter_rows())
    for entry in release.features.values():
        rows = read_table(objects, entry.table, entry.version, columns=["row_id", "uid"])
        assert rows["row_id"].is_unique().all()
        owners = rows.select(pl.col("row_id") // (1 << 24)).to_series().to_list()
        assert owners == [numbers[uid] for uid in rows["uid"]]
