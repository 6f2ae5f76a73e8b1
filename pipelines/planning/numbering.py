"""Items with their numbers: a few columns for planning, and all columns as the file of the next items table.

The strings of ten million items (URIs, facts) would fill the memory. Compressed they take a tenth, and they are read
again only for items that are computed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom.pipelines.planning.classify import allot_numbers
from cliploom.pipelines.planning.row_store import ParquetRowStore
from cliploom.schemas.tables import ITEMS
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import ROWS_IN_GROUP, pieces_file, table_files


@dataclass(frozen=True)
class Numbered:
    """All listed items.

    Attributes:
        items: item_no, source, uid, digest, sorted by number.
        free: first unused number.
        name: name of the file in the table ``items``.
        data: bytes of the file: the columns of ``ITEMS``, sorted by number.
    """

    items: pl.DataFrame
    free: int
    name: str
    data: bytes

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return all items with all columns."""
        return pl.read_parquet(io.BytesIO(self.data), columns=None if columns is None else list(columns))

    def read_some(self, numbers: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
        """Return the items with these numbers; only they take memory."""
        with pq.ParquetFile(pa.BufferReader(self.data)) as file:
            return ParquetRowStore([file]).read(numbers, columns)

    def same_as(self, objects: ObjectStore, version: int) -> bool:
        """Return whether the table ``items`` contains exactly these items at a version."""
        names = table_files(objects, "items", version)
        if names == [self.name] or (not names and self.items.is_empty()):
            return True
        if len(names) != 1:
            return False
        # Another version of the Parquet writer gives other bytes for the same rows.
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
    listing: pl.DataFrame,
    known: pl.DataFrame,
    next_item_no: int,
    probed: ParquetRowStore | None = None,
    before: ParquetRowStore | None = None,
) -> Numbered:
    """Number the items of a listing; see ``allot_numbers``.

    Args:
        listing: source, uid and the other columns of ``ITEMS`` without the number.
        known: source, uid, item_no assigned earlier.
        next_item_no: first unused number.
        probed: facts by row of the listing, for items with a digest and no facts.
        before: the last release's items, which provide facts for items that still have none.
    """
    names = listing.select("source", "uid", "digest").with_row_index("row")
    numbered, free = allot_numbers(names, known, next_item_no)
    pieces = _in_order(listing, numbered.select("row", "item_no"))
    facts = [known for known in (probed, before) if known is not None]
    file, data = pieces_file(ITEMS, (_with_facts(piece, facts) for piece in pieces))
    return Numbered(numbered.select("item_no", "source", "uid", "digest"), free, file.name, data)


def _in_order(listing: pl.DataFrame, order: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the listing with ``row`` and ``item_no`` in pieces, in this order."""
    in_place = order["row"].is_sorted()
    for start in range(0, order.height, ROWS_IN_GROUP):
        some = order.slice(start, ROWS_IN_GROUP)
        rows = listing.slice(start, ROWS_IN_GROUP) if in_place else listing[some["row"]]
        yield rows.hstack(some)


def _with_facts(piece: pl.DataFrame, facts: Sequence[ParquetRowStore]) -> pa.Table:
    """Return a piece of the table ``items``."""
    for known in facts:
        lacking = piece.filter(pl.col("facts").is_null() & pl.col("digest").is_not_null())
        if lacking.height:
            found = known.read(lacking[known.number], ["facts"])
            piece = piece.join(found, on=known.number, how="left", suffix="_known", maintain_order="left")
            piece = piece.with_columns(pl.coalesce("facts", "facts_known").alias("facts")).drop("facts_known")
    return piece.select(ITEMS.names).to_arrow().cast(ITEMS)
