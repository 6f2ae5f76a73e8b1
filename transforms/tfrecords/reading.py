"""Shared by the readers of all record formats: parses each record, rejects duplicate ids, names the wrong feature."""

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
        """The id, unique in the shard; empty for none."""
        ...


_N = TypeVar("_N", bound=Named)
_V = TypeVar("_V")


def read_each(stream: Readable, file: str, parser: Callable[[bytes, int], _N]) -> Iterator[_N | BadRecord]:
    """Parse each record; reject the second record with an id.

    Memory: one record, and the ids of one shard.

    Args:
        stream: the stream of the shard.
        file: the file name for ``BadRecord``.
        parser: a function from payload and offset to a record; raises ``RecordError``.
    """
    seen: dict[str, int] = {}
    for record in read_records(stream, file):
        if isinstance(record, BadRecord):
            yield record
            continue
        try:
            parsed = parser(record.data, record.offset)
            if parsed.id and (first := seen.setdefault(parsed.id, record.offset)) != record.offset:
                raise RecordError(f"id {parsed.id!r} occurs in this shard before, at byte {first}")
        except RecordError as error:
            yield BadRecord(file, record.offset, str(error))
            continue
        yield parsed


def as_id(name: str, values: list[bytes]) -> str:
    """Return the single text in ``values``.

    Raises:
        RecordError: there is not exactly one, or it is empty or not UTF-8.
    """
    text = with_name(name, lambda: as_text(values))
    if not text:
        raise RecordError(f"{name} holds an empty text, which names nothing")
    return text


def as_text(values: list[bytes]) -> str:
    """Return the single text in ``values``; it may be empty.

    Raises:
        RecordError: there is not exactly one, or it contains a NUL character or is not UTF-8.
    """
    if len(values) != 1:
        raise RecordError(f"holds {values!r:.60}, not one text")
    if b"\0" in values[0]:
        raise RecordError(f"{values[0]!r:.60} contains a NUL character")
    try:
        return values[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{values[0]!r:.60} is not UTF-8") from error


def with_name(name: str, decode: Callable[[], _V]) -> _V:
    """Call ``decode()``; a ``RecordError`` gets the feature's name as a prefix."""
    try:
        return decode()
    except RecordError as error:
        raise RecordError(f"{name}: {error}") from error
