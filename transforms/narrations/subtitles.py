"""SubRip (``.srt``) and WebVTT (``.vtt``) subtitles: one file has one video's narrations.

pysubs2 parses times and markup. It silently ignores invalid input and treats comments and names of cues as text, so the
file is split into cues here and each is parsed separately.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Literal

import pysubs2

from cliploom.schemas.errors import SpecError
from cliploom.schemas.narrations import BadRow, Narration
from cliploom.transforms.narrations.rows import MAX_TEXT, RowError, Source, build, checked_uid, name_of, opened

Format = Literal["srt", "vtt"]

MAX_BYTES = 64 * 1024 * 1024
"""Maximum size of a subtitle file."""

MAX_CUES = 200_000
"""Maximum number of cues: two per second for a day."""

_ARROW = "-->"
_NUMBER = re.compile(r"\s*\d+\s*")
_TIME = re.compile(r"(?:([0-9]+):)?([0-9]+):([0-9]+)(?![0-9:])")
_KARAOKE = re.compile(r"<\d[\d:.]*>")
_SPACES = re.compile(r" {2,}")
_NEWLINE = re.compile(r"\r\n|\r|\n")


def uid_of_file(name: str) -> str:
    """Return the uid of a subtitle file: its name without extension, in NFC.

    >>> uid_of_file("talks/P01_03.srt")
    'P01_03'

    Raises:
        RowError: the name is not Unicode.
    """
    return checked_uid(PurePath(name).stem)


def read_subtitles(
    source: Source, format_: Format, *, uid: str | None = None, encoding: str = "utf-8"
) -> Iterator[Narration | BadRow]:
    """Read one subtitle file; cues are time ranges, the lines of a cue are joined by spaces.

    Args:
        source: a path or binary file.
        format_: ``srt`` or ``vtt``.
        uid: the uid of the video; by default the file name without extension.
        encoding: the encoding of files without a byte order mark; cues with invalid bytes become bad rows.

    Yields:
        The cues in file order; times in seconds.

    Raises:
        SpecError: the file cannot be opened, or the encoding is unknown.
        ValueError: neither a path nor a uid is given.
    """
    if uid is None and not isinstance(source, Path):
        raise ValueError("subtitles from an open file need a uid")
    file_name = name_of(source)
    try:
        # Blanks in a path are part of the uid of its media too.
        uid = uid_of_file(file_name) if uid is None else uid if uid.strip() else checked_uid(uid)
        text = _text(source, encoding)
        cues = _cues(_NEWLINE.split(text), format_)
        if not cues:
            raise RowError(f"there is no cue ('{_ARROW}') in the file", text)
        if len(cues) > MAX_CUES:
            raise RowError(f"the file has {len(cues)} cues, more than {MAX_CUES}", cues[0].timing)
    except RowError as error:
        yield error.at(file_name, "line 1", uid or "")
        return
    for idx, cue in enumerate(cues):
        try:
            start, end, words = _parsed(cue, format_)
            yield build(uid, 0, idx, start, end, words, "", 0.0)
        except RowError as error:
            yield error.at(file_name, f"line {cue.line}", uid)


def _text(source: Source, encoding: str) -> str:
    with opened(source) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise RowError("the file is too large for subtitles", f"more than {MAX_BYTES} bytes")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    if data.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding, "surrogateescape")
    except LookupError as error:
        raise SpecError(f"'{encoding}' is not an encoding that Python knows; write one such as cp1252.") from error
    except UnicodeDecodeError as error:
        # utf-16 and utf-32 cannot use surrogateescape
        raise RowError(
            f"the bytes are not {encoding} from byte {error.start} on", data[error.start : error.end]
        ) from error


@dataclass(frozen=True)
class _Cue:
    """A timing line, its line number, and the lines below it."""

    line: int
    timing: str
    text: tuple[str, ...]


def _cues(lines: list[str], format_: Format) -> list[_Cue]:
    starts = [number for number, line in enumerate(lines) if _ARROW in line]
    cues = []
    for start, stop in pairwise([*starts, len(lines)]):
        text = lines[start + 1 : stop]
        if format_ == "vtt":
            # comments, styles and the next cue's name follow a blank line, which cannot be inside a cue
            blank = next((number for number, line in enumerate(text) if not line.strip()), len(text))
            text = text[:blank]
        elif stop < len(lines) and text and _NUMBER.fullmatch(text[-1]):
            text = text[:-1]
        cues.append(_Cue(start + 1, lines[start], tuple(text)))
    return cues


def _parsed(cue: _Cue, format_: Format) -> tuple[float, float, str]:
    size = sum(map(len, cue.text)) + len(cue.timing)
    if size > MAX_TEXT:
        raise RowError(f"the cue has {size} characters, more than {MAX_TEXT}", cue.timing)
    for _, minutes, secs in _TIME.findall(cue.timing):
        if int(minutes) > 59 or int(secs) > 59:
            raise RowError("a time of the cue has more than 59 minutes or seconds; write the hours", cue.timing)
    body = "\n".join(line for line in cue.text if line.strip())
    if format_ == "vtt":
        body = _KARAOKE.sub("", body)
    # Unclosed sequences of spaces and signs cost pysubs2 quadratic time and have no effect.
    body, opening = _without_unclosed(_SPACES.sub(" ", body))
    # pysubs2 treats a last line of digits as the next cue's number: append one, or it drops a line of the cue
    document = f"{cue.timing}\n{body}\n\n1\n"
    try:
        events = pysubs2.SSAFile.from_string(document, format_=format_).events
    except (pysubs2.exceptions.Pysubs2Error, ValueError) as error:
        raise RowError(f"the cue can't be read ({error})", cue.timing) from error
    if len(events) != 1:
        raise RowError("the times of the cue can't be read", cue.timing if not events else body)
    words = " ".join(_plain(events[0]).replace(opening, "<").split())
    if format_ == "vtt":
        try:
            words = html.unescape(words)
        except ValueError as error:
            raise RowError("the cue has a character reference of thousands of digits", words) from error
    return events[0].start / 1000, events[0].end / 1000, words


def _without_unclosed(body: str) -> tuple[str, str]:
    """Return the text with each ``<`` after the last ``>`` replaced, and the replacement character."""
    opening = next(letter for letter in map(chr, range(0xE000, 0xF900)) if letter not in body)
    head, close, tail = body.rpartition(">")
    return head + close + tail.replace("<", opening), opening


def _plain(event: pysubs2.SSAEvent) -> str:
    """Return ``event.plaintext``; braces after the last closing one are not searched to the end each."""
    head, close, tail = event.text.rpartition("}")
    text: str = event.OVERRIDE_SEQUENCE.sub("", head + close) + tail
    return text.replace(r"\h", " ").replace(r"\n", "\n").replace(r"\N", "\n")
