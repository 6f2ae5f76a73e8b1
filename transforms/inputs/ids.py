"""Ids are text: what a table's cell or a JSON value says an item is called."""

from __future__ import annotations

from decimal import Decimal

_EXACT = 2**53
"""Larger whole numbers may have lost digits where they were kept as floats."""


def id_text(value: object) -> str:
    """Return the id that a cell or a JSON value names, without blanks around it; empty when there is none.

    Whole numbers are ids too, and those that a table kept as floats, such as 42.0 beside blank cells.

    >>> id_text(" 00042 "), id_text(42), id_text(42.0), id_text(None)
    ('00042', '42', '42', '')

    Raises:
        ValueError: saying what is wrong with the value.
    """
    if value is None or (isinstance(value, float | Decimal) and value != value):
        return ""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("holds a NUL character")
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("is not text")
    if isinstance(value, int):
        return str(value)
    if -_EXACT < value < _EXACT and value == int(value):
        return str(int(value))
    raise ValueError("is a number that is no id; write it as text, in quotes")
