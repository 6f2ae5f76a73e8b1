"""Narrations in tables: CSV and JSONL with declared columns, and TGIF's list of captions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, BinaryIO

from cliploom.schemas.errors import SpecError, nearest
from cliploom.schemas.narrations import BadRow, BrokenFileError, Columns, Narration
from cliploom.transforms.inputs.tables import clean_name, delimiter_of, encoding_of, spaced
from cliploom.transforms.narrations.rows import (
    BROKEN_UTF8,
    DEFAULT_OFFSET_S,
    Numbers,
    RowError,
    Source,
    build,
    checked_uid,
    name_of,
    opened,
    seconds_in,
    time_of,
)
from cliploom.transforms.narrations.uids import UrlRule, uid_of_url

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longer lines are not rows but data of another kind; they are skipped without being kept in memory."""


def read_csv(
    source: Source,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    url_rule: str | UrlRule | None = None,
    offset_s: float = DEFAULT_OFFSET_S,
) -> Iterator[Narration | BadRow]:
    """Read a CSV file whose first line names the columns.

    Args:
        source: a path or binary file.
        columns: the columns of each field.
        delimiter: the delimiter, such as a tab; None for the comma, tab or semicolon that fits the header.
        encoding: any encoding known to Python; None for UTF-8 or that of the byte order mark. Invalid bytes make bad
            rows.
        url_rule: how URLs in the uid column become uids (``uid_of_url``).
        offset_s: a row is usable if its time + ``offset_s`` is not negative.

    Yields:
        The rows in file order.

    Raises:
        SpecError: the file cannot be opened, a column is missing, or the encoding is unknown.
        BrokenFileError: a file in UTF-16 or UTF-32 has invalid bytes.
    """
    file_name = name_of(source)
    with opened(source) as file:
        encoding = encoding_of(file.read(4), encoding)
        file.seek(0)
        try:
            text = io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline="")
        except LookupError as error:
            raise SpecError(f"'{encoding}' is not an encoding that Python knows; write one such as cp1252.") from error
        try:
            lines = _Lines(text)
            before = _until_header(lines)
            first = before[-1] if before else ""
            delimiter = delimiter or delimiter_of(first, columns.named())
            # strict, or an unclosed quote would silently turn the rest of the file into one text
            rows = csv.reader(
                chain(before, lines), delimiter=delimiter, strict=True, skipinitialspace=spaced(first, delimiter)
            )
            header = _header(rows, columns, file_name)
            read = _Row(columns, url_rule, offset_s, seconds_in).read
            while True:
                line = rows.line_num + 1
                try:
                    values = next(rows)
                    if lines.cut:
                        lines.cut = False
                        raise RowError(f"the line is longer than {MAX_LINE_BYTES} characters", values)
                    if not any(value.strip() for value in values):
                        continue
                    if len(values) != len(header):
                        raise RowError(f"the row has {len(values)} columns where the header has {len(header)}", values)
                    yield from _failing(read, dict(zip(header, values, strict=True)), file_name, line)
                except StopIteration:
                    return
                except csv.Error as error:
                    lines.cut = False
                    place = f"line {line}" if rows.line_num <= line else f"lines {line} to {rows.line_num}"
                    yield RowError("not a row of CSV", str(error)).at(file_name, place)
                except RowError as error:
                    yield error.at(file_name, f"line {line}")
        except UnicodeDecodeError as error:
            # utf-16 and utf-32 cannot use surrogateescape
            byte = file.tell() - len(error.object) + error.start
            raise BrokenFileError(file_name, byte, f"the bytes are not {encoding}") from error
        finally:
            # so that the wrapper does not close a file that the caller opened
            text.detach()


def _until_header(lines: Iterable[str]) -> list[str]:
    """Return the blank lines at the start of a file, and the first line that is not blank."""
    taken = []
    for line in lines:
        taken.append(line)
        if line.strip():
            break
    return taken


class _Lines:
    """Lines of a text, of which none longer than ``MAX_LINE_BYTES`` is kept in memory.

    Attributes:
        cut: whether a line was longer, and an empty one was returned instead.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.cut = False

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(MAX_LINE_BYTES):
            if len(line) == MAX_LINE_BYTES and not line.endswith(("\r", "\n")):
                self.cut = True
                while line and not line.endswith(("\r", "\n")):
                    line = self._text.readline(MAX_LINE_BYTES)
                line = "\n"
            yield line


def _header(rows: Iterator[list[str]], columns: Columns, file: str) -> list[str]:
    try:
        names = next((row for row in rows if row), [])
    except csv.Error as error:
        raise SpecError(f"{file}: the first line is not a row of CSV ({error}); declare the delimiter.") from error
    header = [name if name in columns.named() else clean_name(name) for name in names]
    for name in columns.named():
        if name not in header:
            raise SpecError(f"{file} has no column '{name}'{nearest(name, header)}")
        if header.count(name) > 1:
            raise SpecError(f"{file} has {header.count(name)} columns named '{name}'; rename all but one.")
    return header


def read_jsonl(
    source: Source,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    *,
    url_rule: str | UrlRule | None = None,
    offset_s: float = DEFAULT_OFFSET_S,
) -> Iterator[Narration | BadRow]:
    """Read a file with one JSON object per line.

    Args:
        source: a path or binary file in UTF-8.
        columns: the keys of each field; other keys are ignored.
        url_rule: how URLs in the uid key become uids (``uid_of_url``).
        offset_s: a row is usable if its time + ``offset_s`` is not negative.

    Yields:
        The rows in file order.

    Raises:
        SpecError: the file cannot be opened.
    """
    file_name = name_of(source)
    read = _Row(columns, url_rule, offset_s, time_of).read
    with opened(source) as file:
        for number, raw in _lines(file):
            try:
                line = _decoded(raw).strip()
                if not line:
                    continue
                yield from _failing(read, _object(line), file_name, number)
            except RowError as error:
                yield error.at(file_name, f"line {number}")


def _object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise RowError(f"not JSON at column {error.colno} ({error.msg})", line) from error
    except (RecursionError, ValueError) as error:
        raise RowError(f"not readable JSON ({type(error).__name__})", line) from error
    if not isinstance(value, dict):
        raise RowError("the line is not a JSON object", line)
    return value


def read_tgif(source: Source, *, url_rule: str | UrlRule = "path") -> Iterator[Narration | BadRow]:
    """Read TGIF's ``tgif-v1.0.tsv``: ``URL<TAB>sentence``, no header, no quoting; a URL may repeat.

    Args:
        source: a path or binary file in UTF-8.
        url_rule: how a URL becomes a uid (``uid_of_url``).

    Yields:
        The captions of whole clips, without times; ``idx`` counts the captions of one URL.

    Raises:
        SpecError: the file cannot be opened.
    """
    file_name = name_of(source)
    numbers = Numbers()
    with opened(source) as file:
        for number, raw in _lines(file):
            uid = ""
            try:
                line = _decoded(raw)
                if not line.strip():
                    continue
                url, tab, sentence = line.rstrip("\r\n").partition("\t")
                if not tab:
                    raise RowError("there is no tab between URL and sentence", line)
                uid = uid_of_url(url, url_rule)
                yield build(uid, 0, numbers.take(uid, 0), None, None, sentence, "", 0.0)
            except RowError as error:
                yield error.at(file_name, f"line {number}", uid)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield lines numbered from 1; None for one that is too long."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)
        yield number, None


def _decoded(raw: bytes | None) -> str:
    if raw is None:
        raise RowError(f"the line is longer than {MAX_LINE_BYTES} bytes", "")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        around = raw[max(0, error.start - 20) : error.end + 20]
        raise RowError(f"{BROKEN_UTF8} from byte {error.start} of the line on", around) from error


class _Row:
    """Creates narrations from rows whose values have names."""

    def __init__(
        self, columns: Columns, url_rule: str | UrlRule | None, offset_s: float, number: Callable[[Any, str], float]
    ) -> None:
        self._columns = columns
        self._url_rule = url_rule
        self._offset_s = offset_s
        self._number = number
        self._numbers = Numbers()

    def read(self, row: Mapping[str, Any], uids: list[str]) -> Narration:
        """Return the narration; the uid is appended to ``uids`` as soon as it is known, for a later failure."""
        columns = self._columns
        given = row.get(columns.uid)
        if self._url_rule is not None:
            if not isinstance(given, str):
                raise RowError("there is no uid", given)
            uid = uid_of_url(given, self._url_rule)
        else:
            uid = checked_uid(given)
        uids.append(uid)
        pass_ = self._pass(row)
        idx = self._numbers.take(uid, pass_)
        start = self._number(row.get(columns.start), columns.start) if columns.start else None
        end = self._number(row.get(columns.end), columns.end) if columns.end else None
        annotation = row.get(columns.annotation_uid) if columns.annotation_uid else ""
        return build(uid, pass_, idx, start, end, row.get(columns.text), annotation, self._offset_s)

    def _pass(self, row: Mapping[str, Any]) -> int:
        value = row.get(self._columns.pass_) if self._columns.pass_ else 0
        number: object = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**31:
            raise RowError(f"the {self._columns.pass_} is not a whole number from 0", value)
        return number


def _failing(
    read: Callable[[Mapping[str, Any], list[str]], Narration], row: Mapping[str, Any], file: str, line: int
) -> Iterator[Narration | BadRow]:
    uids: list[str] = []
    try:
        yield read(row, uids)
    except RowError as error:
        yield error.at(file, f"line {line}", *uids)
