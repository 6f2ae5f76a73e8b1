"""Ids are texts: converts a table cell or a JSON value to an id."""

from __future__ import annotations

from decimal import Decimal

_EXACT = 2**53
"""Larger integers may have lost digits if they were stored as floats."""


def id_text(value: object) -> str:
    """Return the id in a cell or a JSON value, stripped; empty if there is none.

    Integers are ids too, also those that a table stored as floats, such as 42.0 beside blank cells.

    >>> id_text(" 00042 "), id_text(42), id_text(42.0), id_text(None)
    ('00042', '42', '42', '')

    Raises:
        ValueError: the value is invalid; the message says why.
    """
    if value is None or (isinstance(value, float | Decimal) and value != value):
        return ""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("contains a NUL character")
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("is not text")
    if isinstance(value, int):
        return str(value)
    if -_EXACT < value < _EXACT and value == int(value):
        return str(int(value))
    raise ValueError("is a number that cannot be an id; write it as text, in quotes")
