"""Rows of one item out of a part: only the row groups that hold them are read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import StoreError


class RowRanges:
    """A local part, read by ranges of rows; the last row group stays in memory, since items stand together.

    Args:
        path: the part.
        columns: to read.
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
        """Rows ``first`` to ``first + count``.

        Raises:
            StoreError: when the part is damaged or has fewer rows.
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
