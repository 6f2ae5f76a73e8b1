"""Rows by number in compressed Parquet, which takes a tenth of the memory of a DataFrame and is read in ranges.

The strings of ten million items (URIs, facts, metadata) would fill the memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom.schemas.tables import ITEMS
from cliploom.transforms.publish.dataframes import empty_frame
from cliploom.transforms.store.tables import ROWS_IN_GROUP


class ParquetRowStore:
    """Rows in Parquet files, read by their numbers; only the requested rows take memory.

    Args:
        files: open files with statistics; fast if sorted by number.
        schema: schema of the rows; the first column is the number.

    Attributes:
        number: name of the column of the numbers.
    """

    def __init__(self, files: Sequence[pq.ParquetFile] = (), schema: pa.Schema = ITEMS) -> None:
        self._schema = schema
        self.number = schema.names[0]
        self._groups: list[tuple[pq.ParquetFile, int, int, int]] = []
        for file in files:
            place = file.schema_arrow.get_field_index(self.number)
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group)
                if rows.num_rows:
                    bounds = rows.column(place).statistics
                    self._groups.append((file, group, bounds.min, bounds.max))

    def read(self, numbers: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
        """Return number and columns of the rows with these numbers, in the order of the files."""
        numbers, found = numbers.sort(), [empty_frame(self._schema).select(self.number, *columns)]
        for file, group, least, most in self._groups:
            start = numbers.search_sorted(least, side="left")
            asked = numbers.slice(start, numbers.search_sorted(most, side="right") - start)
            if len(asked):
                rows = file.read_row_group(group, [self.number, *columns])
                mine = pl.Series(rows[self.number]).is_in(asked.implode())
                found.append(pl.DataFrame(rows if mine.all() else rows.filter(mine.to_arrow())))
        return pl.concat(found)


class RowStoreWriter:
    """Packs DataFrames that arrive in pieces, sorted by number.

    Args:
        schema: schema of the rows; the first column is the number.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", store_schema=False)
        self._waiting: list[pl.DataFrame] = []

    def add(self, frame: pl.DataFrame) -> None:
        """Append rows."""
        self._waiting.append(frame.select(self._schema.names))
        if sum(waiting.height for waiting in self._waiting) >= ROWS_IN_GROUP:
            self._write()

    def packed(self) -> ParquetRowStore:
        """Finish, and return all appended rows."""
        self._write()
        self._writer.close()
        return ParquetRowStore([pq.ParquetFile(pa.BufferReader(self._sink.getvalue()))], self._schema)

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pl.concat(self._waiting).to_arrow().cast(self._schema))
        self._waiting = []
