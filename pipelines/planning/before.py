"""What the last release says of the items: a few columns to compare with, and the others by number.

The texts of ten million items (addresses, facts, metadata) would fill the memory beside the plan; they stay in the
table's file and are read from there in ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.release import Release
from schemas.tables import FAILURES, ITEMS, PARTS
from transforms.publish.frames import empty_frame
from transforms.store.objects import Objects
from transforms.store.tables import read_table, table_files

COMPARED = ("item_no", "source", "uid", "size", "signature", "digest")


class NumberedRows:
    """Rows of the schema ``ITEMS`` in Parquet files, to be read by their numbers; memory is that of what is asked.

    Args:
        files: open, with statistics; quick where sorted by number.
    """

    def __init__(self, files: Sequence[pq.ParquetFile] = ()) -> None:
        self._groups: list[tuple[pq.ParquetFile, int, int, int]] = []
        for file in files:
            place = file.schema_arrow.get_field_index("item_no")
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group)
                if rows.num_rows:
                    bounds = rows.column(place).statistics
                    self._groups.append((file, group, bounds.min, bounds.max))

    def read(self, numbers: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
        """``item_no`` and the columns of the rows that have these numbers, in the order of the files."""
        numbers, found = numbers.sort(), [empty_frame(ITEMS).select("item_no", *columns)]
        for file, group, least, most in self._groups:
            start = numbers.search_sorted(least, side="left")
            asked = numbers.slice(start, numbers.search_sorted(most, side="right") - start)
            if len(asked):
                rows = file.read_row_group(group, ["item_no", *columns])
                mine = pl.Series(rows["item_no"]).is_in(asked.implode())
                found.append(pl.DataFrame(rows if mine.all() else rows.filter(pa.array(mine))))
        return pl.concat(found)


@dataclass(frozen=True)
class Before:
    """The last release's tables, empty for a new store; ``contents`` are read by who needs them, for one feature.

    Attributes:
        release: None for a new store.
        items: the columns ``COMPARED``.
        parts: of all features.
        failures: of all features, and of probing.
    """

    release: Release | None
    items: pl.DataFrame
    parts: pl.DataFrame
    failures: pl.DataFrame

    @contextmanager
    def item_rows(self, objects: Objects) -> Iterator[NumberedRows]:
        """All columns of the items, to be read by number."""
        with ExitStack() as open_files:
            names = table_files(objects, "items", self.release.tables["items"]) if self.release else []
            local = (open_files.enter_context(objects.local_copy(f"items/{name}")) for name in names)
            yield NumberedRows([open_files.enter_context(pq.ParquetFile(path)) for path in local])


def read_before(objects: Objects, release: Release | None) -> Before:
    """Read the small tables of a release."""
    frames = {}
    for name, schema, columns in (("items", ITEMS, COMPARED), ("parts", PARTS, None), ("failures", FAILURES, None)):
        if release is not None and name in release.tables:
            frames[name] = read_table(objects, name, release.tables[name], columns=columns)
        else:
            frames[name] = empty_frame(schema).select(columns or schema.names)
    return Before(release, **frames)
