"""The columns available to filters, groups and facets: of items, their labels and their metadata."""

from __future__ import annotations

import json
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from cliploom.schemas.errors import UnknownNameError, nearest
from cliploom.schemas.tables import LABELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cliploom.transforms.readers.release_tables import ReleaseReader

ITEM_COLUMNS = ("uid", "source", "label", "duration")
ROW_COLUMNS = ("start_s", "end_s")
_ALIASES = {"labels": "label"}


class ItemColumns:
    """Columns of the items of a release, loaded on first use.

    A column has one value per item, or (position, value) pairs if items can have several values.
    """

    def __init__(self, reader: ReleaseReader) -> None:
        """Load nothing yet."""
        self._reader = reader
        self._columns: dict[str, pl.Series | pl.DataFrame] = {}

    @cached_property
    def _items(self) -> pl.DataFrame:
        columns = ("item_no", "source", "uid", "facts", "metadata")
        return self._reader.collected(self._reader.items.select(columns).sort("item_no"))

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers of all items, ascending."""
        return self._items["item_no"].to_numpy()

    @property
    def uids(self) -> pl.Series:
        """The uids of all items, in the order of ``numbers``."""
        return self._items["uid"]

    @cached_property
    def _metadata(self) -> dict[str, list[Any]]:
        """The values of each metadata column, in the order of the items."""
        height, found = self._items.height, dict[str, list[Any]]()
        for place, text in enumerate(self._items["metadata"]):
            for key, value in json.loads(text or "{}").items():
                found.setdefault(key, [None] * height)[place] = value
        return found

    @property
    def names(self) -> list[str]:
        """The names of all columns that a filter can use."""
        return list(dict.fromkeys([*ITEM_COLUMNS, *ROW_COLUMNS, *self._metadata]))

    def resolve(self, name: str, use: str = "filter by") -> str:
        """Return the full name of a column; letter case is ignored unless it is ambiguous.

        Raises:
            SpecError: no column fits; the message names the nearest ones.
        """
        known = self.names
        name = _ALIASES.get(name.lower(), name)
        if name in known:
            return name
        same = [other for other in known if other.lower() == name.lower()]
        if len(same) == 1:
            return same[0]
        raise UnknownNameError(f"There is no column {name!r} to {use}{nearest(name, known)}")

    def column(self, name: str) -> pl.Series | pl.DataFrame:
        """Return a column by its full name: values in the order of ``numbers``, or (position, value) pairs."""
        if name not in self._columns:
            self._columns[name] = self._read(name)
        return self._columns[name]

    def values_of(self, name: str, numbers: Sequence[int]) -> list[list[Any]]:
        """Return the values of one column for some items; empty for an item without a value."""
        column = self.column(name)
        places = np.searchsorted(self.numbers, np.array(numbers, np.int64))
        if isinstance(column, pl.Series):
            return [[] if value is None else [value] for value in column.gather(places).to_list()]
        found: dict[int, list[Any]] = {}
        wanted = column.filter(pl.col("place").is_in(places.tolist()))
        for place, value in wanted.iter_rows():
            found.setdefault(place, []).append(value)
        return [found.get(place, []) for place in places.tolist()]

    def _read(self, name: str) -> pl.Series | pl.DataFrame:
        if name in ("uid", "source"):
            return self._items[name]
        if name == "label":
            return self._labels()
        if name == "duration":
            return self._durations()
        values = self._metadata[name]
        if not any(isinstance(value, list) for value in values):
            return _series(values)
        lists = [value if isinstance(value, list) else [value] for value in values]
        pairs = [(place, _plain(value)) for place, some in enumerate(lists) for value in some if value is not None]
        places = pl.Series("place", [place for place, _ in pairs], pl.Int64)
        return pl.DataFrame([places, _series([value for _, value in pairs]).alias("value")])

    def _labels(self) -> pl.DataFrame:
        """Return all labels of items, given and predicted, also those of segments: the name, or else the number."""
        empty = pl.DataFrame(schema={"place": pl.Int64, "value": pl.String})
        if "labels" not in self._reader.release.tables:
            return empty
        table = self._reader.table_rows("labels", LABELS)
        named = pl.coalesce("name", pl.col("label").cast(pl.String)).alias("value")
        labels = self._reader.collected(table.select("source", "uid", named).unique().drop_nulls("value"))
        places = self._items.select("source", "uid").with_row_index("place")
        return labels.join(places, on=["source", "uid"]).select(pl.col("place").cast(pl.Int64), "value")

    def _durations(self) -> pl.Series:
        facts = [json.loads(text or "{}") for text in self._items["facts"]]
        ends = [(found.get("start_s"), found.get("end_s")) for found in facts]
        lasting = [None if start is None or end is None else float(end) - float(start) for start, end in ends]
        return pl.Series("duration", lasting, pl.Float64)


def _plain(value: Any) -> Any:
    """Return a value that a filter can compare: the last element of pairs such as [3, 'cat']."""
    return value[-1] if isinstance(value, list) and value else value


def _series(values: list[Any]) -> pl.Series:
    """Return numbers and booleans unchanged, everything else as strings; NaN and infinity become null."""
    values = [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, bool) for value in there):
        return pl.Series(values, dtype=pl.Boolean)
    if there and all(isinstance(value, int | float) and not isinstance(value, bool) for value in there):
        return pl.Series([None if value is None else float(value) for value in values], dtype=pl.Float64)
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pl.Series(texts, dtype=pl.String)
