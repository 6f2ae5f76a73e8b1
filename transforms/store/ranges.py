"""Reads the rows of one item from a part; only the row groups that contain them are read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom.schemas.errors import StoreError
from cliploom.schemas.records import MAX_ORDINAL
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import part_path


@dataclass(frozen=True)
class ItemRows:
    """The location of one item's rows of a feature.

    Attributes:
        item_no, uid, digest: the item.
        places: (part, first row, rows), in the order of segments.
        planned: number of rows that its sampling planned; all ordinals are below this.
    """

    item_no: int
    uid: str
    digest: str
    places: tuple[tuple[str, int, int], ...]
    planned: int

    @property
    def rows(self) -> int:
        """Number of existing rows."""
        return sum(rows for _, _, rows in self.places)


def rows_by_item(objects: ObjectStore, table: str, contents: pl.DataFrame) -> Iterator[ItemRows]:
    """Return the items of a feature that have rows, by uid.

    Args:
        objects: the store.
        table: folder of the feature's table.
        contents: all contents of the feature, including those without rows, so that a lost segment shifts no other.
    """
    lost = (pl.col("rows") == 0) & (pl.col("planned") == 0)
    grouped = contents.sort("uid", "segment").group_by("uid", "item_no", "digest", maintain_order=True)
    columns = ("item_no", "uid", "digest", "part", "first_row", "rows", "planned", "lost")
    items = grouped.agg("part", "first_row", "rows", pl.col("planned").sum(), lost.any().alias("lost"))
    for item_no, uid, digest, parts, firsts, rows, planned, unplanned in items.select(columns).iter_rows():
        places = tuple(place for place in zip(parts, firsts, rows, strict=True) if place[2])
        if places:
            # The planned rows of an unreadable segment are unknown; they follow from the next segment.
            most = max(planned, _last_ordinal(objects, table, places[-1]) + 1) if unplanned else planned
            yield ItemRows(item_no, uid, digest, places, most)


def _last_ordinal(objects: ObjectStore, table: str, place: tuple[str, int, int]) -> int:
    part, first, rows = place
    with objects.local_copy(part_path(table, part)) as path:
        last = RowRanges(path, ["row_id"]).rows(first + rows - 1, 1)
    return int(last["row_id"][0].as_py()) & MAX_ORDINAL


class RowRanges:
    """Reads a local part by ranges of rows. It caches the last row group, because rows of an item are adjacent.

    Args:
        path: the part.
        columns: columns to read.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = list(columns)
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(
                f"{path} is damaged ({type(error).__name__}); `cliploom verify` lists all damage."
            ) from None
        metadata = self._file.metadata
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(sizes)]
        self._last: tuple[int, pa.Table] | None = None

    def rows(self, first: int, count: int) -> pa.Table:
        """Return rows ``first`` to ``first + count`` (exclusive).

        Raises:
            StoreError: if the part is damaged or has fewer rows.
        """
        if first < 0 or first + count > self._starts[-1]:
            raise StoreError(f"{self._path} has {self._starts[-1]} rows, not the {first + count} that it should have.")
        tables = []
        group = bisect_right(self._starts, first) - 1
        while count:
            table = self._group(group)
            at = first - self._starts[group]
            taken = min(count, table.num_rows - at)
            tables.append(table.slice(at, taken))
            first, count, group = first + taken, count - taken, group + 1
        return pa.concat_tables(tables) if tables else self._group(0).slice(0, 0)

    def _group(self, number: int) -> pa.Table:
        if self._last is None or self._last[0] != number:
            try:
                self._last = number, self._file.read_row_group(number, columns=self._columns, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise StoreError(
                    f"{self._path} is damaged ({type(error).__name__}); `cliploom verify` lists all damage."
                ) from None
        return self._last[1]
