"""Shared by the readers of all record formats: parse each, refuse an id's second record, name the wrong feature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from cliploom.schemas.tfrecords import BadRecord
from cliploom.transforms.tfrecords.framing import Readable, read_records
from cliploom.transforms.tfrecords.proto import RecordError


class Named(Protocol):
    """A parsed record that may have an id."""

    @property
    def id(self) -> str:
        """Unique in the shard; empty for none."""
        ...


_N = TypeVar("_N", bound=Named)
_V = TypeVar("_V")


def read_each(stream: Readable, file: str, parser: Callable[[bytes, int], _N]) -> Iterator[_N | BadRecord]:
    """Parse each record; refuse the second record of an id.

    Memory: a record, and the ids of one shard.

    Args:
        stream: the shard.
        file: name for ``BadRecord``.
        parser: payload and offset to a record; raises ``RecordError``.
    """
    seen: dict[str, int] = {}
    for record in read_records(stream, file):
        if isinstance(record, BadRecord):
            yield record
            continue
        try:
            parsed = parser(record.data, record.offset)
            if parsed.id and (first := seen.setdefault(parsed.id, record.offset)) != record.offset:
                raise RecordError(f"id {parsed.id!r} stands in this shard before, at byte {first}")
        except RecordError as error:
            yield BadRecord(file, record.offset, str(error))
            continue
        yield parsed


def as_id(name: str, values: list[bytes]) -> str:
    """The one text in ``values``.

    Raises:
        RecordError: when it isn't one, is empty or not UTF-8.
    """
    text = with_name(name, lambda: as_text(values))
    if not text:
        raise RecordError(f"{name} holds an empty text, which names nothing")
    return text


def as_text(values: list[bytes]) -> str:
    """The one text in ``values``; it may be empty.

    Raises:
        RecordError: when it isn't one, holds a NUL character, or is not UTF-8.
    """
    if len(values) != 1:
        raise RecordError(f"holds {values!r:.60}, not one text")
    if b"\0" in values[0]:
        raise RecordError(f"{values[0]!r:.60} holds a NUL character")
    try:
        return values[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{values[0]!r:.60} is not UTF-8") from error


def with_name(name: str, decode: Callable[[], _V]) -> _V:
    """``decode()``; its ``RecordError`` starts with the feature's name."""
    try:
        return decode()
    except RecordError as error:
        raise RecordError(f"{name}: {error}") from error
