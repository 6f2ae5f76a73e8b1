"""Items with their numbers: few columns to plan with, and all of them as the file of the next items table.

The texts of ten million items (addresses, facts) would fill the memory beside the plan; compressed they are a tenth of
that, and they are read again only of items that something is computed of.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.planning.before import NumberedRows
from pipelines.planning.judge import allot_numbers
from schemas.tables import ITEMS
from transforms.store.objects import Objects
from transforms.store.tables import ROWS_IN_GROUP, pieces_file, table_files


@dataclass(frozen=True)
class Numbered:
    """All listed items.

    Attributes:
        items: item_no, source, uid, digest, sorted by number.
        free: the first number that no item has.
        name: of the file in the table ``items``.
        data: its bytes: the columns of ``ITEMS``, sorted by number.
    """

    items: pl.DataFrame
    free: int
    name: str
    data: bytes

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """All items, as they are in the file."""
        return pl.read_parquet(io.BytesIO(self.data), columns=None if columns is None else list(columns))

    def read_some(self, numbers: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
        """The items of these numbers; memory is theirs."""
        with pq.ParquetFile(pa.BufferReader(self.data)) as file:
            return NumberedRows([file]).read(numbers, columns)

    def same_as(self, objects: Objects, version: int) -> bool:
        """The table ``items`` holds just these at a version."""
        names = table_files(objects, "items", version)
        if names == [self.name] or (not names and self.items.is_empty()):
            return True
        if len(names) != 1:
            return False
        # Another version of the writer gives other bytes.
        with (
            objects.local_copy(f"items/{names[0]}") as local,
            pq.ParquetFile(local) as old,
            pq.ParquetFile(pa.BufferReader(self.data)) as new,
        ):
            if old.metadata.num_rows != new.metadata.num_rows:
                return False
            pairs = zip(old.iter_batches(ROWS_IN_GROUP), new.iter_batches(ROWS_IN_GROUP), strict=True)
            return all(before.equals(after) for before, after in pairs)


def number_items(
    listing: pl.DataFrame, known: pl.DataFrame, next_item_no: int, before: NumberedRows | None = None
) -> Numbered:
    """Number the items of a listing; see ``allot_numbers``.

    Args:
        listing: source, uid and the other columns of ``ITEMS`` but the number.
        known: source, uid, item_no allotted before.
        next_item_no: the first number never used.
        before: the last release's items, which hand their facts on to those that have a digest and no facts.
    """
    names = listing.select("source", "uid", "digest").with_row_index("row")
    numbered, free = allot_numbers(names, known, next_item_no)
    pieces = _in_order(listing, numbered["row"], numbered["item_no"], before or NumberedRows())
    file, data = pieces_file(ITEMS, pieces)
    return Numbered(numbered.select("item_no", "source", "uid", "digest"), free, file.name, data)


def _in_order(listing: pl.DataFrame, rows: pl.Series, numbers: pl.Series, before: NumberedRows) -> Iterator[pa.Table]:
    in_place = rows.is_sorted()
    for start in range(0, len(rows), ROWS_IN_GROUP):
        some = listing.slice(start, ROWS_IN_GROUP) if in_place else listing[rows.slice(start, ROWS_IN_GROUP)]
        some = some.with_columns(numbers.slice(start, ROWS_IN_GROUP))
        lacking = some.filter(pl.col("facts").is_null() & pl.col("digest").is_not_null())["item_no"]
        if len(lacking):
            found = before.read(lacking, ["facts"])
            some = some.join(found, on="item_no", how="left", suffix="_before", maintain_order="left")
            some = some.with_columns(pl.coalesce("facts", "facts_before").alias("facts"))
        yield some.select(ITEMS.names).to_arrow().cast(ITEMS)
