"""Converts the filters of a query to the rows that may be found."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from cliploom.schemas.errors import SpecError, UnknownNameError, nearest
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.transforms.index.kept import KeptRows, RowFilter, kept_rows
from cliploom.transforms.search.columns import ROW_COLUMNS, ItemColumns
from cliploom.transforms.search.where import (
    Comparison,
    Expression,
    Junction,
    Negation,
    Value,
    columns_in,
    conjuncts,
    parse_where,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cliploom.transforms.index.opened import OpenShard
    from cliploom.transforms.readers.release_tables import ReleaseReader

# A list of all uids would be too long.
_FEW_UIDS = 20
# The result of a comparison for each item or row: true, false, or null for missing values.
Compare = Callable[[Comparison], pl.Series]


class Filter:
    """The items and rows of a release that pass a query's filters.

    Attributes:
        items: numbers of the items that may be found, int64, ascending.
        needs_rows: whether the filter distinguishes rows of one item.
    """

    def __init__(self, reader: ReleaseReader, columns: ItemColumns, where: str | None, in_uid: str | None) -> None:
        """Find the items; rows are determined when an index is searched.

        Args:
            reader: the reader of the release.
            columns: the columns of its items.
            where: the expression that items or rows must satisfy.
            in_uid: the uid of the only item to search, if any.

        Raises:
            SpecError: the expression is invalid, or names an unknown column or uid.
        """
        self._reader = reader
        self._columns = columns
        parts = () if where is None else conjuncts(parse_where(where))
        for part in parts:
            for name in sorted(columns_in(part)):
                columns.resolve(name)
        self._of_rows = [part for part in parts if self._reads_rows(part)]
        self._rows: dict[str, NDArray[np.int64]] = {}
        self._kept: dict[str, list[KeptRows]] = {}
        kept = np.ones(len(columns.numbers), np.bool_)
        for part in parts:
            if not self._reads_rows(part):
                kept &= evaluate(part, self._compare_items).fill_null(value=False).to_numpy()
        if in_uid is not None:
            uids = columns.uids
            mine = (uids == in_uid).to_numpy()
            if not mine.any():
                near = nearest(in_uid, uids.to_list()) if len(uids) <= _FEW_UIDS else "; give another."
                raise UnknownNameError(f"Release {reader.release.release} has no item {in_uid!r}{near}")
            kept &= mine
        self.items: NDArray[np.int64] = columns.numbers[kept]
        self.needs_rows = bool(self._of_rows)

    def rows(self, feature: str) -> RowFilter:
        """Return the rows of a feature that may be found."""
        if not self.needs_rows:
            return RowFilter(self.items)
        if feature not in self._rows:
            self._rows[feature] = self._kept_rows(feature)
        return RowFilter(np.unique(self._rows[feature] >> ORDINAL_BITS), self._rows[feature])

    def in_shards(self, index: str, shards: Sequence[OpenShard], feature: str) -> list[KeptRows]:
        """Return the rows that may be found, for each shard of an index."""
        if index not in self._kept:
            self._kept[index] = kept_rows(shards, self.rows(feature))
        return self._kept[index]

    def _reads_rows(self, part: Expression) -> bool:
        return any(self._columns.resolve(name) in ROW_COLUMNS for name in columns_in(part))

    def _kept_rows(self, feature: str) -> NDArray[np.int64]:
        rows = self._reader.times_of(feature, self.items.tolist()).select("row_id", "start_s", "end_s")
        numbers = rows["row_id"].to_numpy() >> ORDINAL_BITS
        rows = rows.filter(pl.Series(np.isin(numbers, self.items), dtype=pl.Boolean)).sort("row_id")
        places = np.searchsorted(self._columns.numbers, rows["row_id"].to_numpy() >> ORDINAL_BITS)

        def compare(comparison: Comparison) -> pl.Series:
            name = self._columns.resolve(comparison.column)
            if name in ROW_COLUMNS:
                return compare_values(rows[name], comparison)
            return self._compare_items(comparison).gather(places)

        kept = evaluate(Junction("and", tuple(self._of_rows)), compare)
        found: NDArray[np.int64] = rows["row_id"].to_numpy()[kept.fill_null(value=False).to_numpy()]
        return found

    def _compare_items(self, comparison: Comparison) -> pl.Series:
        column = self._columns.column(self._columns.resolve(comparison.column))
        if isinstance(column, pl.Series):
            return compare_values(column, comparison)
        found = np.zeros(len(self._columns.numbers), np.bool_)
        if comparison.operator == "null":
            found[column["place"].to_numpy()] = True
            return pl.Series(~found, dtype=pl.Boolean)
        matching = compare_values(column["value"], comparison).fill_null(value=False)
        found[column["place"].filter(matching).to_numpy()] = True
        return pl.Series(found, dtype=pl.Boolean)


def evaluate(expression: Expression, compare: Compare) -> pl.Series:
    """Return the value of an expression for each item or row, null where SQL gives unknown."""
    if isinstance(expression, Comparison):
        return compare(expression)
    if isinstance(expression, Negation):
        return ~evaluate(expression.inner, compare)
    found = (evaluate(inner, compare) for inner in expression.inner)
    if expression.operator == "and":
        return reduce(lambda one, other: one & other, found)
    return reduce(lambda one, other: one | other, found)


def compare_values(values: pl.Series, comparison: Comparison) -> pl.Series:
    """Compare the values of a column with those of a comparison.

    Raises:
        SpecError: a numeric column is compared with a string that is not a number.
    """
    operator = comparison.operator
    if operator == "null":
        return values.is_null()
    if operator in ("like", "ilike"):
        return values.cast(pl.String).str.contains(_pattern(str(comparison.values[0]), ignore_case=operator == "ilike"))
    values, wanted = _alike(values, comparison)
    first = wanted[0]
    if operator == "in":
        return reduce(lambda one, other: one | other, [values == value for value in wanted])
    if operator == "between":
        return (values >= first) & (values <= wanted[1])
    if operator in ("=", "!="):
        return values == first if operator == "=" else values != first
    if operator in ("<", "<="):
        return values < first if operator == "<" else values <= first
    return values > first if operator == ">" else values >= first


def _alike(values: pl.Series, comparison: Comparison) -> tuple[pl.Series, Sequence[Value]]:
    """Return a column and the values to compare it with in one type; strings become numbers for numeric columns."""
    wanted = comparison.values
    if values.dtype == pl.Boolean:
        truths = {"true": True, "false": False, "1": True, "0": False}
        known = [truths.get(str(value).lower()) for value in wanted]
        if any(value is None for value in known):
            raise SpecError(f"The column {comparison.column!r} is true or false; compare it with one of these.")
        return values.cast(pl.Int8), [int(bool(value)) for value in known]
    if values.dtype.is_numeric():
        try:
            return values, [float(value) for value in wanted]
        except ValueError:
            strings = ", ".join(repr(value) for value in wanted if isinstance(value, str))
            raise SpecError(f"The column {comparison.column!r} has numbers; {strings} is not a number.") from None
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in wanted):
        return values.cast(pl.Float64, strict=False), [float(value) for value in wanted]
    return values, [str(value).lower() if isinstance(value, bool) else str(value) for value in wanted]


def _pattern(like: str, *, ignore_case: bool) -> str:
    """Return the regular expression of a LIKE pattern: % matches anything, _ one character."""
    parts = [{"%": ".*", "_": "."}.get(sign, re.escape(sign)) for sign in like]
    return ("(?si)" if ignore_case else "(?s)") + "^" + "".join(parts) + "$"
