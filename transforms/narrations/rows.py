"""Checks that the rows of every format pass before they become narrations."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO

from cliploom.schemas.errors import SpecError
from cliploom.schemas.narrations import BadRow, Narration
from cliploom.schemas.secrets import masked
from cliploom.transforms.inputs.ids import id_text

Source = Path | BinaryIO

DEFAULT_OFFSET_S = 2.0
"""Half the range that Ego4D's tutorial averages around a moment; a moment before its negative is unusable."""

BROKEN_UTF8 = "the bytes are not UTF-8"
MAX_TEXT = 131_072
"""Maximum number of characters of a text, that of Python's csv module; real texts are shorter."""

MAX_UID = 4_096
_SHOWN = 80
_NUMBERS = frozenset({int, float, Decimal})
_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+")
_CLOCK = re.compile(
    r"(?P<sign>-?)(?:(?P<days>[0-9]{1,6}) days?,? )?(?:(?P<hours>[0-9]{1,6}):)?(?P<minutes>[0-9]{1,6}):"
    r"(?P<seconds>[0-9]{1,6}(?:[.,][0-9]*)?)"
)
"""Includes the format of pandas: ``0 days 00:00:01.089000``."""


class RowError(ValueError):
    """A row cannot be used; becomes a ``BadRow`` once the position is known."""

    def __init__(self, reason: str, value: object) -> None:
        super().__init__(reason)
        self.reason = reason
        # A row may contain a URL, and the table of failures keeps the message.
        self.value = masked(shown(value), {})

    def at(self, file: str, position: str, uid: str = "") -> BadRow:
        """Return the row as a failure."""
        return BadRow(file, position, self.reason, self.value, uid)


def shown(value: object) -> str:
    """Return the value as Python shows it, printable, with at most 80 characters.

    >>> shown("abc")
    "'abc'"
    """
    # truncate before repr, which would copy a huge text completely
    try:
        text = repr(value[: _SHOWN + 1] if isinstance(value, str | bytes | list) else value)
    except (RecursionError, ValueError):  # nested too deep; an integer with thousands of digits
        text = f"a {type(value).__name__}"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


@contextmanager
def opened(source: Source) -> Iterator[BinaryIO]:
    """Open the source as a binary file; a file that is already open stays open.

    Raises:
        SpecError: a path cannot be opened.
    """
    if not isinstance(source, Path):
        yield source
        return
    try:
        file = source.open("rb")
    except OSError as error:
        raise SpecError(f"{source} can't be read ({error.strerror}); correct the path in the spec.") from error
    with file:
        yield file


def name_of(source: Source) -> str:
    """Return the name of the source for messages."""
    return str(source) if isinstance(source, Path) else str(getattr(source, "name", "the stream"))


def checked_uid(value: object) -> str:
    """Return the uid in NFC, stripped; integers are accepted too.

    Raises:
        RowError: it is neither text nor an integer, is empty, or is not Unicode.
    """
    try:
        uid = id_text(value)
    except ValueError as error:
        raise RowError(f"the uid {error}", value) from None
    if not uid:
        raise RowError("there is no uid", value)
    if len(uid) > MAX_UID:
        raise RowError(f"the uid has {len(uid)} characters, more than {MAX_UID}", value)
    return unicodedata.normalize("NFC", _unicode(uid))


def checked_text(value: object) -> str:
    """Return the text unchanged.

    Raises:
        RowError: it is missing, blank, of another type, or not Unicode.
    """
    if not isinstance(value, str):
        raise RowError("there is no text" if value is None else "the text is not a string", value)
    if not value or value.isspace():
        raise RowError("there is no text", value)
    if "\0" in value:
        raise RowError("the text contains a NUL character", value)
    if len(value) > MAX_TEXT:
        raise RowError(f"the text has {len(value)} characters, more than {MAX_TEXT}", value)
    return _unicode(value)


def seconds(value: object, what: str) -> float:
    """Return the seconds rounded to 1 us.

    Args:
        value: a number.
        what: a description of the value, for messages.

    Raises:
        RowError: the value has another type or is not finite.
    """
    if type(value) not in _NUMBERS:
        missing = value is None or value == ""
        raise RowError(f"there is no {what}" if missing else f"the {what} is not a number", value)
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RowError(f"the {what} is not finite", value)
    return round(number, 6)


def seconds_in(text: str, what: str) -> float:
    """Return the seconds of a text: a number, or hours, minutes and seconds; a decimal comma is accepted.

    >>> seconds_in(" 1.5 ", "start"), seconds_in("00:01:01.089", "start"), seconds_in("1:30", "start")
    (1.5, 61.089, 90.0)

    Raises:
        RowError: the text is neither a finite number nor a time.
    """
    if not text.strip():
        raise RowError(f"there is no {what}", text)
    if ":" in text:
        return _clock(text, what)
    if _THOUSANDS.fullmatch(text.strip()):
        raise RowError(f"the {what} may have a comma for the point or for thousands; write it with a point", text)
    try:
        number = float(text.replace(",", ".")) if "_" not in text else None
    except ValueError:
        number = None
    if number is None:
        raise RowError(f"the {what} is not a number", text)
    return seconds(number, what)


def time_of(value: object, what: str) -> float:
    """Return the seconds of a JSON value: a number, or a text as ``seconds_in`` reads it.

    Raises:
        RowError: the value has another type, or is neither a finite number nor a time.
    """
    return seconds_in(value, what) if isinstance(value, str) else seconds(value, what)


def _clock(text: str, what: str) -> float:
    """Return the seconds of ``H:M:S.ms`` or ``MM:SS``."""
    found = _CLOCK.fullmatch(text.strip())
    if found is None:
        raise RowError(f"the {what} is not a number and not a time such as 00:01:30.500", text)
    days, hours, minutes = (int(found[name] or 0) for name in ("days", "hours", "minutes"))
    rest = float(found["seconds"].replace(",", "."))
    if minutes > 59 or rest >= 60:
        raise RowError(f"the {what} has more than 59 minutes or seconds; write the hours, such as 1:01:30", text)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    return seconds(-total if found["sign"] else total, what)


def check_span(start_s: float | None, end_s: float | None, offset_s: float) -> None:
    """Reject times without a corresponding clip.

    Args:
        start_s: the start in seconds from the video's start; None for a text about the whole video.
        end_s: the end in seconds; None for a moment.
        offset_s: a moment is usable if ``start_s + offset_s >= 0``, a range if its end is.

    Raises:
        RowError: the time is before the video, or ends before it starts.
    """
    if start_s is None:
        return
    if end_s is not None and end_s < start_s:
        raise RowError(f"the end is before the start ({start_s:g} s)", end_s)
    if (start_s if end_s is None else end_s) + offset_s < 0:
        raise RowError(f"the time is more than {offset_s:g} s before the video", start_s)


class Numbers:
    """Counts rows per (uid, pass), including bad ones."""

    def __init__(self) -> None:
        self._next: Counter[tuple[str, int]] = Counter()

    def take(self, uid: str, pass_: int) -> int:
        """Return the row's number."""
        number = self._next[uid, pass_]
        self._next[uid, pass_] = number + 1
        return number


def build(
    uid: str,
    pass_: int,
    idx: int,
    start_s: float | None,
    end_s: float | None,
    text: object,
    annotation_uid: object,
    offset_s: float,
) -> Narration:
    """Return a narration from checked numbers and unchecked texts.

    Raises:
        RowError: a value is invalid.
    """
    check_span(start_s, end_s, offset_s)
    return Narration(uid, pass_, idx, start_s, end_s, checked_text(text), _annotation(annotation_uid))


def _annotation(value: object) -> str:
    """Return the annotator's id; an integer becomes its digits, other values none."""
    if isinstance(value, str):
        if "\0" in value:
            raise RowError("the annotation_uid contains a NUL character", value)
        return _unicode(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _unicode(text: str) -> str:
    """Return the text, unless it has surrogates: undecodable bytes, or half of an escaped pair."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(BROKEN_UTF8, text[max(0, error.start - 20) :]) from error
    return text
