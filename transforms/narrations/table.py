"""The ``narrations`` table of a release: all texts of its items, with the row ids of feature tables."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom.schemas.digests import digest_file, digest_of
from cliploom.schemas.faults import temporary_faults
from cliploom.schemas.narrations import NARRATIONS, NARRATIONS_TABLE
from cliploom.schemas.records import row_id
from cliploom.transforms.narrations.item_reader import read_texts
from cliploom.transforms.narrations.listing import PLACE, TextsPlace
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import TableFile, commit_files

TABLE = "narrations"
ROWS_AT_ONCE = 32_768
REVISION = 1
MADE_FROM = b"made_from"
MOST_STANDING = 4


def commit_narrations(objects: ObjectStore, items: pl.DataFrame) -> int | None:
    """Commit the texts of all text items; memory is bounded by a row group.

    A run in which no text changed finds the existing file by its footer, and reads no text.

    Args:
        objects: the store.
        items: the items, with the columns of ``ITEMS``.

    Returns:
        The table's version, or None if no item is a text.
    """
    texts = text_items(items)
    if texts.is_empty():
        return None
    made_from = digest_of([REVISION, texts.select("item_no", "source", *PLACE).rows()])
    file = _standing(objects, made_from) or _written(objects, texts, made_from)
    return commit_files(objects, TABLE, NARRATIONS_TABLE, [file])


def _standing(objects: ObjectStore, made_from: str) -> TableFile | None:
    """Return the existing file of exactly these texts, if it is among the newest of the table."""
    entries = [entry for entry in objects.list(TABLE) if PurePosixPath(entry.path).match(f"{TABLE}/rows-*.parquet")]
    for entry in sorted(entries, key=lambda entry: entry.modified_s, reverse=True)[:MOST_STANDING]:
        with objects.open_file(entry.path) as opened:
            try:
                found = pq.read_metadata(opened)
            except pa.ArrowException:
                continue  # damaged: a new one is written, and `verify` reports this one
        if (found.metadata or {}).get(MADE_FROM) == made_from.encode():
            return TableFile(PurePosixPath(entry.path).name, entry.size, found.num_rows)
    return None


def _written(objects: ObjectStore, texts: pl.DataFrame, made_from: str) -> TableFile:
    with tempfile.TemporaryDirectory(prefix="cliploom-texts-") as folder:
        written = Path(folder) / "rows.parquet"
        with temporary_faults():
            _write(written, texts, made_from)
        name = f"rows-{digest_file(written)}.parquet"
        size = written.stat().st_size
        if objects.size(f"{TABLE}/{name}") is None:
            with objects.create_file(f"{TABLE}/{name}") as local:
                shutil.copyfile(written, local)
    return TableFile(name, size, int(texts["rows"].sum()))


def is_text() -> pl.Expr:
    """Return an expression that is true for text items, by their facts."""
    return pl.col("facts").str.contains('"spool":', literal=True)


def text_items(items: pl.DataFrame) -> pl.DataFrame:
    """Return the text items, with the columns of ``PLACE``, in the order of their locations."""
    found = items.filter(is_text())
    places = found["facts"].str.json_decode(pl.Struct(PLACE)).struct.unnest()
    return pl.concat([found, places], how="horizontal").sort("spool", "group", "first", "item_no")


def _write(path: Path, texts: pl.DataFrame, made_from: str) -> None:
    pending: list[pa.Table] = []
    with pq.ParquetWriter(path, NARRATIONS_TABLE, compression="zstd", store_schema=False) as writer:
        for item in texts.iter_rows(named=True):
            place = TextsPlace(item["spool"], item["group"], item["first"], item["rows"])
            pending.append(item_rows(place, item["item_no"], item["source"]))
            if sum(table.num_rows for table in pending[-64:]) >= ROWS_AT_ONCE or len(pending) >= 4_096:
                writer.write_table(pa.concat_tables(pending).combine_chunks())
                pending = []
        if pending:
            writer.write_table(pa.concat_tables(pending).combine_chunks())
        writer.add_key_value_metadata({MADE_FROM.decode(): made_from})


def item_rows(place: TextsPlace, item_no: int, source: str) -> pa.Table:
    """Return one item's texts as rows of the table."""
    rows = read_texts(place, NARRATIONS.names)
    ids = pa.array(row_id(item_no, 0) + np.arange(rows.num_rows, dtype=np.int64))
    sources = pa.repeat(pa.scalar(source, pa.string()), rows.num_rows)
    columns = [ids, sources, *(rows[name] for name in NARRATIONS.names)]
    return pa.table(columns, schema=NARRATIONS_TABLE)
