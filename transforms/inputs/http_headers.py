"""Parses response headers without trusting them: numbers are bounded, texts truncated."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MOST_BYTES = 10**15
"""Larger values are replaced by this, a petabyte."""
_DIGITS = len(str(MOST_BYTES))
_CODING = 20


def number(text: str | None) -> int | None:
    """Return a number of bytes, at most ``MOST_BYTES``, so that sums of sizes fit in 64 bits.

    >>> number("12"), number("9" * 5000) == MOST_BYTES, number("-1"), number("1, 1")
    (12, True, None, None)
    """
    digits = (text or "").strip()
    if not (digits.isascii() and digits.isdecimal()):
        return None
    return min(MOST_BYTES, int(digits.lstrip("0")[:_DIGITS] or 0))


def content_range(text: str) -> tuple[int, int | None]:
    """Return the first byte and the total size from ``bytes 5-9/10``; -1 for a missing value.

    >>> content_range("bytes 5-9/10"), content_range("bytes 5-9/*"), content_range("")
    ((5, 10), (5, None), (-1, None))
    """
    unit, _, rest = text.strip().partition(" ")
    stretch, _, whole = rest.partition("/")
    begin = number(stretch.partition("-")[0])
    return (-1, None) if unit.lower() != "bytes" or begin is None else (begin, number(whole))


def coding(headers: Mapping[str, str]) -> str:
    """Return the compression of a body by the first header that states one; empty if uncompressed.

    >>> coding({"Transfer-Encoding": "gzip, chunked"}), coding({"Transfer-Encoding": "chunked"})
    ('gzip', '')
    """
    named = f"{headers.get('Content-Encoding', '')},{headers.get('Transfer-Encoding', '')}".lower().split(",")
    codings = [each.strip() for each in named if each.strip() not in ("", "identity", "chunked")]
    return "".join(filter(str.isprintable, codings[0]))[:_CODING] if codings else ""


def retry_after(text: str) -> float | None:
    """Return the seconds that a server asks to wait: a number or a date (RFC 9110, 10.2.3); None for anything else.

    >>> retry_after("120"), retry_after("soon"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    (120.0, None, 0.0)
    """
    if text.strip().isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
