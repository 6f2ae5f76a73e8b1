"""Locates the numbers of an uncompressed Parquet column of lists, to read single rows through a memory map.

Arrow reads a whole row group for one row. Values with plain encoding and no compression are contiguous in each data
page, after the page's header (Thrift, compact protocol) and its levels. Source: parquet-format, Encodings.md
and parquet.thrift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

_DATA_PAGE, _DATA_PAGE_V2 = 0, 3
_PLAIN = 0
_FLOAT_BYTES = 4
_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)


class UnmappablePageError(ValueError):
    """The column is compressed, has another encoding, or contains nulls."""


@dataclass(frozen=True)
class MappedColumn:
    """A column of lists of ``width`` float32 numbers, in a memory map.

    Attributes:
        data: uint8, the whole file.
        first: int64 [pages + 1], number of the first value of each page.
        offsets: int64 [pages], byte of that value.
        width: numbers in a list.
    """

    data: NDArray[np.uint8]
    first: NDArray[np.int64]
    offsets: NDArray[np.int64]
    width: int

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.first[-1]) // self.width

    def row(self, number: int) -> NDArray[np.float32]:
        """Copy one row: float32 [width]."""
        made = np.empty(self.width, np.float32)
        self.read(number, made)
        return made

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Copy rows: float32 [n, width]."""
        made = np.empty((len(numbers), self.width), np.float32)
        values = numbers * self.width
        pages = np.searchsorted(self.first, values, "right") - 1
        begins = (self.offsets[pages] + _FLOAT_BYTES * (values - self.first[pages])).tolist()
        whole = values + self.width <= self.first[pages + 1]
        size, data = _FLOAT_BYTES * self.width, self.data
        target = made.view(np.uint8)
        for place, (begin, inside) in enumerate(zip(begins, whole.tolist(), strict=True)):
            if inside:
                target[place] = data[begin : begin + size]
            else:
                self.read(int(numbers[place]), made[place])
        return made

    def read(self, number: int, target: NDArray[np.float32]) -> None:
        """Copy one row, which may lie across pages, into float32 [width]."""
        value, end = number * self.width, (number + 1) * self.width
        page = int(np.searchsorted(self.first, value, "right")) - 1
        into, at = target.view(np.uint8), 0
        while value < end:
            count = min(end, int(self.first[page + 1])) - value
            begin = int(self.offsets[page]) + _FLOAT_BYTES * (value - int(self.first[page]))
            into[at : at + _FLOAT_BYTES * count] = self.data[begin : begin + _FLOAT_BYTES * count]
            at, value, page = at + _FLOAT_BYTES * count, value + count, page + 1


def map_column(path: Path, data: NDArray[np.uint8], column: str, width: int) -> MappedColumn:
    """Find the values of a column of lists of float32.

    Args:
        path: the Parquet file.
        data: uint8, the same file in a memory map.
        column: name of the column at the top.
        width: numbers in each list.

    Raises:
        UnmappablePageError: if the values are not stored contiguously as plain float32.
    """
    counts, offsets = [0], []
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise UnmappablePageError(str(error)) from None
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group)
        chunk = next(
            (each for each in map(rows.column, range(rows.num_columns)) if each.path_in_schema.split(".")[0] == column),
            None,
        )
        if chunk is None or chunk.compression != "UNCOMPRESSED" or chunk.physical_type != "FLOAT":
            raise UnmappablePageError(f"column {column} is not of uncompressed float32")
        if chunk.has_dictionary_page:
            raise UnmappablePageError(f"column {column} has a dictionary")
        end = chunk.data_page_offset + chunk.total_compressed_size
        found = 0
        for offset, count in _pages(data, chunk.data_page_offset, end):
            offsets.append(offset)
            counts.append(count)
            found += count
        if found != rows.num_rows * width:
            raise UnmappablePageError(f"column {column} holds {found} numbers in {rows.num_rows} rows")
    return MappedColumn(data, np.cumsum(counts, dtype=np.int64), np.array(offsets, np.int64), width)


def _pages(data: NDArray[np.uint8], at: int, end: int) -> Iterator[tuple[int, int]]:
    """Return offset of the first value and number of values of each data page."""
    while at < end:
        header, body = _read_struct(data, at)
        size = header[3]
        if header[1] == _DATA_PAGE:
            about = header[5]
            values = body
            for _ in range(2):  # repetition levels, then definition levels, each behind its length
                values += 4 + int.from_bytes(data[values : values + 4].tobytes(), "little")
        elif header[1] == _DATA_PAGE_V2:
            about = header[8]
            about = about | {2: about[4]}
            values = body + about[5] + about[6]
        else:
            raise UnmappablePageError(f"a page of type {header[1]}")
        if about[2] != _PLAIN:
            raise UnmappablePageError(f"a page of encoding {about[2]}")
        if size < 0 or not body <= values <= body + size <= end:
            raise UnmappablePageError("a page that ends before it begins or after its column")
        yield values, (body + size - values) // _FLOAT_BYTES
        at = body + size


def _read_struct(data: NDArray[np.uint8], at: int) -> tuple[dict[int, Any], int]:
    """Read a Thrift struct in compact protocol; return its fields by number, and the offset after it."""
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = int(data[at])
        at += 1
        if head == _STOP:
            return fields, at
        kind = head & 15
        if head >> 4:
            number += head >> 4
        else:
            zigzag, at = _read_varint(data, at)
            number = (zigzag >> 1) ^ -(zigzag & 1)
        fields[number], at = _read_value(data, at, kind)


def _read_value(data: NDArray[np.uint8], at: int, kind: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind == _BYTE:
        return int(data[at]), at + 1
    if kind in (_I16, _I32, _I64):
        zigzag, at = _read_varint(data, at)
        return (zigzag >> 1) ^ -(zigzag & 1), at
    if kind == _DOUBLE:
        return None, at + 8
    if kind == _BINARY:
        length, at = _read_varint(data, at)
        return None, at + length
    if kind == _STRUCT:
        return _read_struct(data, at)
    raise UnmappablePageError(f"a page header with a field of type {kind}")


def _read_varint(data: NDArray[np.uint8], at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = int(data[at])
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
