"""Reads Ego4D's narration files, of both versions, with one video in memory at a time.

Version 1 (``narration.json``) maps a video's uid to ``narration_pass_1`` and ``narration_pass_2``, either of which may
be absent, each with ``narrations`` of ``{timestamp_sec, timestamp_frame, narration_text, annotation_uid}`` and
``summaries`` of ``{start_sec, end_sec, summary_text, annotation_uid}``. Version 2 (``all_narrations_redacted.json``)
has under ``videos`` per uid ``narrations`` of ``{text, time}`` and ``summaries`` of ``{text, start_time, end_time}``,
without passes. The version of a file, a video and a row is determined by its keys, in any mixture, and not by the
version stated in the file. Unknown keys are ignored.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import ijson

from cliploom.schemas.narrations import BadRow, BrokenFileError, Narration
from cliploom.transforms.narrations.json_stream import BROKEN, RepairedJson, TooMuchError, broken_byte
from cliploom.transforms.narrations.rows import (
    BROKEN_UTF8,
    DEFAULT_OFFSET_S,
    RowError,
    Source,
    build,
    checked_uid,
    name_of,
    opened,
    seconds,
)

Kind = Literal["narrations", "summaries"]

_PASS = re.compile(r"narration_pass_(\d{1,4})")


@dataclass(frozen=True)
class _Keys:
    """The names of the fields of one kind of row in one version."""

    text: str
    start: str
    end: str
    annotation_uid: str


_KEYS: dict[Kind, tuple[_Keys, _Keys]] = {
    "narrations": (
        _Keys("narration_text", "timestamp_sec", "", "annotation_uid"),
        _Keys("text", "time", "", "annotation_uid"),
    ),
    "summaries": (
        _Keys("summary_text", "start_sec", "end_sec", "annotation_uid"),
        _Keys("text", "start_time", "end_time", "annotation_uid"),
    ),
}
"""Names of version 1 and of version 2."""

_ABOUT = frozenset({"version", "date", "description", "status"})
"""Keys beside the videos that describe the file."""
_MOST_KEYS = 8


def _is_video(keys: Iterable[str]) -> bool:
    """Return whether one of the keys is that of a video's narrations, even if it has none."""
    return any(key in ("narrations", "summaries", "status") or _PASS.fullmatch(key) for key in keys)


def read_ego4d(
    source: Source, *, kind: Kind = "narrations", offset_s: float = DEFAULT_OFFSET_S
) -> Iterator[Narration | BadRow]:
    """Read a narration file of either version, determined by its content.

    Args:
        source: a path, or a seekable binary file.
        kind: ``narrations`` (moments) or ``summaries`` (time ranges).
        offset_s: a row is usable if its time + ``offset_s`` is not negative.

    Yields:
        Rows in the file's order; ``pass_`` is 0 in version 2.

    Raises:
        BrokenFileError: the file is not valid JSON to its end (raised after all complete videos before that byte, which
            the message names), or is not a narration file.
        SpecError: the file cannot be opened.
    """
    file_name = name_of(source)
    with opened(source) as file:
        stream = RepairedJson(file)
        try:
            within = _container(stream, file_name)
            file.seek(0)
            stream = RepairedJson(file)
            seen: set[str] = set()
            odd: dict[str, None] | None = {}
            for uid, video in ijson.kvitems(stream, within):
                if not within and uid in _ABOUT and not isinstance(video, dict):
                    continue
                if isinstance(video, dict) and odd is not None:
                    odd = None if _is_video(video) else odd | dict.fromkeys(list(video)[:_MOST_KEYS])
                reader = _Video(file_name, str(uid), kind, offset_s)
                name = unicodedata.normalize("NFC", str(uid).strip())
                yield from reader.twice() if name in seen else reader.rows(video)
                seen.add(name)
            if odd:
                raise _other_shape(file_name, f"the videos have the keys {', '.join(list(odd)[:_MOST_KEYS])}")
        except ijson.JSONError as error:
            raise _broken(file, file_name, stream, error) from error
        except TooMuchError as error:
            raise BrokenFileError(file_name, error.byte, error.reason) from error
        except ArithmeticError as error:  # an exponent beyond the limits of Python's decimal module
            raise BrokenFileError(file_name, stream.last_start, "a number of too large an exponent follows") from error


def _broken(file: BinaryIO, name: str, stream: RepairedJson, error: Exception) -> BrokenFileError:
    detail = error.args[0] if error.args else ""
    detail = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
    byte = broken_byte(file, stream.last_start)
    return BrokenFileError(name, byte, f"not JSON ({detail.splitlines()[0] if detail else 'unreadable'})")


def _container(stream: RepairedJson, name: str) -> str:
    """Return the location of the videos: ``videos``, or empty for the outermost object."""
    depth, top, odd = 0, "", False
    keys: dict[str, None] = {}
    for event, value in ijson.basic_parse(stream):
        if depth == 0 and event != "start_map":
            raise _other_shape(name, f"it is a {'list' if event == 'start_array' else event}, not an object")
        if event == "map_key":
            if depth == 1:
                top = value
                keys = keys if len(keys) >= _MOST_KEYS else keys | {top: None}
            elif depth == 2 and top != "videos":
                if _is_video([value]):
                    return ""
                odd = True
        elif event in ("start_map", "start_array"):
            if depth == 1 and event == "start_map" and top == "videos":
                return "videos"
            odd |= depth == 1 and event == "start_array"
            depth += 1
        elif event in ("end_map", "end_array"):
            depth -= 1
            if depth == 0:
                # The remainder is read, and errors in it are found, with the videos.
                break
        else:
            odd |= depth == 1 and top not in _ABOUT
    if odd:
        raise _other_shape(name, f"its keys are {', '.join(keys)}")
    return ""


def _other_shape(name: str, found: str) -> BrokenFileError:
    reason = "neither Ego4D's narration.json ({uid: {narration_pass_1: ...}}) nor all_narrations_redacted.json"
    return BrokenFileError(name, 0, f"{reason} ({{videos: {{uid: {{narrations: ...}}}}}}); {found}")


@dataclass(frozen=True)
class _Video:
    """Reads the rows of the JSON object of one video."""

    file: str
    uid: str
    kind: Kind
    offset_s: float

    def twice(self) -> Iterator[BadRow]:
        yield BadRow(self.file, self.uid, "the video's uid occurs twice in the file; the first is kept", repr(self.uid))

    def rows(self, video: object) -> Iterator[Narration | BadRow]:
        try:
            if BROKEN in self.uid:
                raise RowError(BROKEN_UTF8, self.uid)
            uid = checked_uid(self.uid)
            if not isinstance(video, dict):
                raise RowError("the video is not an object", video)
        except RowError as error:
            yield error.at(self.file, self.uid.replace(BROKEN, "?"), "" if BROKEN in self.uid else self.uid)
            return
        passes = sorted(key for key in video if _PASS.fullmatch(key))
        if not passes:
            yield from self._list(uid, 0, video, self.uid)
        for key in passes:
            if video[key] is not None:
                number = int(key.rpartition("_")[2])
                yield from self._list(uid, number, video[key], f"{self.uid}.{key}")

    def _list(self, uid: str, pass_: int, holder: object, path: str) -> Iterator[Narration | BadRow]:
        if not isinstance(holder, dict):
            yield RowError("the pass is not an object", holder).at(self.file, path, uid)
            return
        items = holder.get(self.kind)
        if items is None:
            return
        if not isinstance(items, list):
            yield RowError(f"'{self.kind}' is not a list", items).at(self.file, f"{path}.{self.kind}", uid)
            return
        for idx, item in enumerate(items):
            try:
                yield self._row(uid, pass_, idx, item)
            except RowError as error:
                yield error.at(self.file, f"{path}.{self.kind}[{idx}]", uid)

    def _row(self, uid: str, pass_: int, idx: int, item: Any) -> Narration:
        if not isinstance(item, dict):
            raise RowError("the row is not an object", item)
        first, second = _KEYS[self.kind]
        if first.start not in item and second.start not in item:
            reason = f"the row has neither {first.start} nor {second.start}"
            raise RowError(f"{reason}; its keys are", ", ".join(list(item)[:_MOST_KEYS]))
        keys = first if first.start in item else second
        start = _seconds(item.get(keys.start), keys.start)
        end = _seconds(item.get(keys.end), keys.end) if keys.end else None
        text = item.get(keys.text)
        if isinstance(text, str) and BROKEN in text:
            raise RowError(BROKEN_UTF8, text.replace(BROKEN, "\ufffd"))
        annotation = item.get(keys.annotation_uid)
        if isinstance(annotation, str):
            annotation = annotation.replace(BROKEN, "\ufffd")
        return build(uid, pass_, idx, start, end, text, annotation, self.offset_s)


def _seconds(value: object, what: str) -> float:
    if isinstance(value, str) and value.startswith(BROKEN):
        raise RowError(f"the {what} is not finite", "NaN or Infinity")
    return seconds(value, what)
