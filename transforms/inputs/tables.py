"""Tables that list media or labels: CSV, TSV, JSONL and Parquet, read row by row.

Every CSV cell is text: an id such as ``00042`` keeps its zeros. JSONL and Parquet keep their types.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from cliploom.schemas.errors import SpecError

DELIMITERS = (",", "\t", ";")
Row = tuple[str, dict[str, Any]]
"""The location of a row, such as ``row 3`` (not counting blank ones), and its values by column."""


@dataclass(frozen=True)
class InputTable:
    """A table whose rows are read on demand.

    Attributes:
        columns: the column names, stripped.
        rows: the rows in file order; a missing or empty cell is None.
    """

    columns: tuple[str, ...]
    rows: Iterable[Row]


def read_table(path: Path, place: str, keys: Sequence[str], encoding: str | None = None) -> InputTable:
    """Open a table; its format is determined by the file extension.

    Args:
        path: the path of a .csv, .tsv, .jsonl, .ndjson or .parquet file.
        place: the location of the table in the spec, for errors.
        keys: the columns that the caller uses; they determine a CSV's delimiter, and must not be duplicated.
        encoding: the encoding of a CSV or JSONL file; UTF-8 by default, or UTF-16 if there is a byte order mark.

    Raises:
        SpecError: the file is missing, of another format, or cannot be parsed; reading rows may raise it too.
    """
    readers: dict[str, Callable[[], InputTable]] = {
        ".csv": lambda: _csv(path, place, keys, encoding),
        ".tsv": lambda: _csv(path, place, keys, encoding),
        ".jsonl": lambda: _jsonl(path, place, encoding),
        ".ndjson": lambda: _jsonl(path, place, encoding),
        ".parquet": lambda: _parquet(path),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SpecError(f"{place}: {path.name!r} is not a table; its name must end in .tsv, .csv, .parquet or .jsonl.")
    try:
        return reader()
    except FileNotFoundError:
        raise SpecError(f"{place}: there is no table {str(path)!r}.") from None
    except OSError as error:
        raise SpecError(f"{place}: {path} can't be read ({error.strerror or error}).") from None
    except pl.exceptions.PolarsError as error:
        raise SpecError(f"{place}: {path} can't be read ({str(error).strip().splitlines()[0][:200]}).") from None


def encoding_of(head: bytes, declared: str | None) -> str:
    """Return the encoding of a text file: the declared one, that of its byte order mark, or UTF-8.

    >>> encoding_of("a".encode("utf-16"), None), encoding_of(b"a", None), encoding_of(b"a", "cp1252")
    ('utf-16', 'utf-8-sig', 'cp1252')
    """
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return declared or ("utf-16" if head.startswith(marks) else "utf-8-sig")


def clean_name(name: str) -> str:
    r"""Return the name of a column without surrounding blanks and byte order marks.

    >>> clean_name("\ufeff uid ")
    'uid'
    """
    return name.strip().strip("\ufeff").strip()


def spaced(header: str, delimiter: str) -> bool:
    """Return whether a blank follows each delimiter of the header, so that ``a, "b c"`` has a quoted cell.

    >>> spaced("uid, text", ","), spaced("uid,text", ","), spaced("uid", ",")
    (True, False, False)
    """
    return delimiter in header and all(cell.startswith(" ") for cell in header.split(delimiter)[1:])


def delimiter_of(header: str, keys: Sequence[str], default: str = ",") -> str:
    """Return the first delimiter with which one of the names is a column of the header.

    >>> delimiter_of("uri;uid", ["uri"]), delimiter_of("uri,uid", ["uri"]), delimiter_of("x", ["uri"])
    (';', ',', ',')
    """
    for delimiter in sorted(DELIMITERS, key=lambda each: each != default):
        try:
            names = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error:
            continue
        if {clean_name(name) for name in names} & set(keys):
            return delimiter
    return default


def _csv(path: Path, place: str, keys: Sequence[str], encoding: str | None) -> InputTable:
    with path.open("rb") as file:
        chosen = encoding_of(file.read(4), encoding)
    lines = _lines(path, place, chosen)
    header = next((line for line in lines if line.strip()), "")
    delimiter = delimiter_of(header, keys, "\t" if path.suffix.lower() == ".tsv" else ",")
    reader = _records(path, place, chosen, delimiter, spaced(header, delimiter))
    names = [clean_name(name) for name in next(reader, ("", []))[1]]
    columns: dict[int, str] = {}
    seen: Counter[str] = Counter()
    for number, name in enumerate(names):
        if name in keys and seen[name]:
            raise SpecError(f"{place}: {path} has {names.count(name)} columns named {name!r}; rename all but one.")
        if name:  # empty columns of spreadsheets have no names
            columns[number] = f"{name}_duplicated_{seen[name] - 1}" if seen[name] else name
        seen[name] += 1

    def rows() -> Iterator[Row]:
        records = _records(path, place, chosen, delimiter, spaced(header, delimiter))
        next(records, None)
        for number, (where, cells) in enumerate(records, 1):
            if any(cell.strip() for cell in cells[len(names) :]):
                raise SpecError(
                    f"{place}: {where} of {path} has {len(cells)} columns where the header has {len(names)}; "
                    "put cells that contain the delimiter in quotes."
                )
            values = {name: (cells[at] or None) if at < len(cells) else None for at, name in columns.items()}
            yield f"row {number}", values

    return InputTable(tuple(columns.values()), _Again(rows))


@dataclass(frozen=True)
class _Again:
    """Rows that can be read repeatedly."""

    make: Callable[[], Iterator[Row]]

    def __iter__(self) -> Iterator[Row]:
        return self.make()


def _records(
    path: Path, place: str, encoding: str, delimiter: str, skip_blanks: bool
) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a CSV with their locations, the header first; blank rows are skipped."""
    reader = csv.reader(_lines(path, place, encoding), delimiter=delimiter, strict=True, skipinitialspace=skip_blanks)
    while True:
        where = f"line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SpecError(f"{place}: {where} of {path} is not a row of CSV ({error}); correct it.") from None
        if any("\0" in cell for cell in cells):
            raise SpecError(f"{place}: {where} of {path} contains a NUL character; remove it.")
        if any(cell.strip() for cell in cells):
            yield where, cells


def _lines(path: Path, place: str, encoding: str) -> Iterator[str]:
    """Yield the lines of a text file with their line ends.

    Raises:
        SpecError: the encoding is unknown, or bytes are invalid in it.
    """
    try:
        with path.open(encoding=encoding, newline="") as file:
            yield from file
    except LookupError:
        raise SpecError(
            f"{place}: {encoding!r} is not an encoding that Python knows; write one such as cp1252."
        ) from None
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{place}: {_bad_line(path, encoding)} {path} is not {encoding.removesuffix('-sig').upper()} "
            f"({error.object[max(0, error.start - 10) : error.end + 5]!r}); write how it is encoded, such as "
            "`encoding: cp1252`, or save it as UTF-8."
        ) from None


def _bad_line(path: Path, encoding: str) -> str:
    """Return the location of the first undecodable bytes, if it can be determined."""
    if encoding == "utf-8-sig":
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError:
                    return f"line {number} of"
    return "the file"


def _jsonl(path: Path, place: str, encoding: str | None) -> InputTable:
    with path.open("rb") as file:
        chosen = encoding_of(file.read(4), encoding)

    def objects() -> Iterator[Row]:
        rows = 0
        for number, line in enumerate(_lines(path, place, chosen), 1):
            if not line.strip():
                continue
            rows += 1
            try:
                value = json.loads(line, parse_constant=lambda name: None)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
                raise SpecError(f"{place}: line {number} of {path} is not JSON ({reason}); correct it.") from None
            if not isinstance(value, dict):
                raise SpecError(f'{place}: line {number} of {path} is not a JSON object such as {{"uri": ...}}.')
            yield f"row {rows}", {clean_name(name): each for name, each in value.items()}

    # A key missing in some rows is None there, so all keys must be known first.
    columns = tuple(dict.fromkeys(name for _, row in objects() for name in row))
    return InputTable(columns, _Again(lambda: ((where, {c: row.get(c) for c in columns}) for where, row in objects())))


def _parquet(path: Path) -> InputTable:
    frame = pl.read_parquet(path).rename(clean_name)

    def rows() -> Iterator[Row]:
        for number, row in enumerate(frame.iter_rows(named=True), 1):
            yield f"row {number}", row

    return InputTable(tuple(frame.columns), _Again(rows))
