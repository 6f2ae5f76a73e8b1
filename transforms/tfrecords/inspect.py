"""Summarises the content of a TFRecord of unknown schema: message types, features, types, shapes, first values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from cliploom.schemas.tfrecords import BadRecord, Record
from cliploom.transforms.tfrecords.framing import Readable, read_records
from cliploom.transforms.tfrecords.proto import Feature, FeatureList, Kind, RecordError, parse

MessageKind = Literal["Example", "SequenceExample", "bytes"]
_SHOWN = 4
_SHOWN_CHARACTERS = 48


@dataclass(frozen=True, slots=True)
class FeatureSummary:
    """The content of one feature in the records read so far.

    Attributes:
        where: ``features`` of an Example, ``context`` or ``frames`` (feature lists) of a SequenceExample.
        kind: ``bytes``, ``float``, ``int64``, ``empty``, or several joined by ``|``.
        records: the number of records that have it.
        values: the minimum and maximum number of values (per record, or per frame).
        size: the minimum and maximum bytes of a string, (0, 0) for numbers.
        frames: the minimum and maximum number of steps, (0, 0) outside feature lists.
        first: the values of the first record, shortened.
    """

    name: str
    where: Literal["features", "context", "frames"]
    kind: str
    records: int
    values: tuple[int, int]
    size: tuple[int, int]
    frames: tuple[int, int]
    first: str


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """The content of the first records of a shard.

    Attributes:
        records: the number of valid records, of each message type in ``kinds``.
        bytes: the minimum and maximum bytes of a payload.
        complete: whether the end of the shard was reached.
        bad: the records that could not be read.
    """

    records: int
    kinds: dict[MessageKind, int]
    bytes: tuple[int, int]
    features: tuple[FeatureSummary, ...]
    complete: bool
    bad: tuple[BadRecord, ...]


@dataclass(frozen=True, slots=True)
class _Seen:
    """One feature of one record."""

    where: Literal["features", "context", "frames"]
    name: str
    kind: Kind
    frames: int
    values: tuple[int, ...]
    sizes: tuple[int, ...]
    shown: str


def describe(stream: Readable, file: str, *, limit: int = 100) -> ShardSummary:
    """Summarise the first ``limit`` records, valid or not.

    Args:
        stream: the shard, compressed or not.
        file: the file name for ``BadRecord``.
        limit: the number of records to read.
    """
    reader = read_records(stream, file)
    kinds: Counter[MessageKind] = Counter()
    sizes: list[int] = []
    bad: list[BadRecord] = []
    seen: dict[tuple[str, str], list[_Seen]] = {}
    for record in islice(reader, limit):
        if isinstance(record, BadRecord):
            bad.append(record)
            continue
        sizes.append(len(record.data))
        kind, found = _look(record)
        kinds[kind] += 1
        for feature in found:
            seen.setdefault((feature.where, feature.name), []).append(feature)
    features = tuple(_summary(group) for _, group in sorted(seen.items()))
    return ShardSummary(len(sizes), dict(kinds), _span(sizes), features, next(reader, None) is None, tuple(bad))


def lines(summary: ShardSummary) -> Iterator[str]:
    """Yield the summary as lines of text."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary.kinds.items())
    more = "all of the shard" if summary.complete else "more follow"
    yield f"{summary.records} records ({kinds or 'none readable'}; {more}), {_range(summary.bytes)} bytes each"
    for feature in summary.features:
        shape = f"[{_range(feature.values)}]"
        if feature.where == "frames":
            shape = f"[{_range(feature.frames)} frames]{shape}"
        size = f" of {_range(feature.size)} bytes" if feature.size[1] else ""
        yield (
            f"  {feature.where} {feature.name}: {feature.kind}{shape}{size}, "
            f"in {feature.records} of {summary.records}, first {feature.first}"
        )
    for bad in summary.bad:
        yield f"  bad record at byte {bad.offset}: {bad.reason}"


def _look(record: Record) -> tuple[MessageKind, list[_Seen]]:
    """Return the kind and features of a record; ``bytes`` if it is not a message of tf.train."""
    try:
        message = parse(record.data)
        place: Literal["context", "features"] = "context" if message.sequence else "features"
        found = [_seen(name, place, [feature], 0) for name, feature in message.features.items()]
        found += [_seen_list(name, steps) for name, steps in message.lists.items()]
    except RecordError:
        return "bytes", []
    if not found and record.data:
        return "bytes", []
    return ("SequenceExample" if message.sequence else "Example"), found


def _seen_list(name: str, steps: FeatureList) -> _Seen:
    features = steps.features()
    return _seen(name, "frames", features, len(features))


def _seen(name: str, where: Literal["features", "context", "frames"], features: list[Feature], frames: int) -> _Seen:
    kinds = sorted({feature.kind for feature in features} - {"empty"})
    counts, sizes = [], []
    for feature in features:
        if feature.kind == "bytes":
            strings = feature.strings()
            counts.append(len(strings))
            sizes += [len(string) for string in strings]
        else:
            counts.append(len(feature.ints() if feature.kind == "int64" else feature.floats()))
    kind = kinds[0] if kinds else "empty"
    return _Seen(where, name, kind, frames, tuple(counts), tuple(sizes), _show(features[0]) if features else "nothing")


def _show(feature: Feature) -> str:
    """Return the first values, shortened."""
    if feature.kind == "bytes":
        return _cut([_text(string) for string in feature.strings()])
    numbers = feature.ints() if feature.kind == "int64" else feature.floats()
    return _cut(
        [f"{number:g}" if isinstance(number, float) else str(number) for number in numbers[: _SHOWN + 1].tolist()]
    )


def _text(value: bytes) -> str:
    """Printable text in quotes, or the first raw numbers."""
    text = value.decode("utf-8", "replace")
    if text.isprintable() and "\ufffd" not in text:
        return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}...")
    return f"bytes {_cut([str(code) for code in np.frombuffer(value[: _SHOWN + 1], np.uint8)])}"


def _cut(shown: list[str]) -> str:
    return f"[{', '.join(shown[:_SHOWN])}{', ...' if len(shown) > _SHOWN else ''}]"


def _summary(group: list[_Seen]) -> FeatureSummary:
    return FeatureSummary(
        group[0].name,
        group[0].where,
        "|".join(sorted({seen.kind for seen in group})),
        len(group),
        _span([count for seen in group for count in seen.values]),
        _span([size for seen in group for size in seen.sizes]),
        _span([seen.frames for seen in group]),
        group[0].shown,
    )


def _span(numbers: Iterable[int]) -> tuple[int, int]:
    known = list(numbers)
    return (min(known), max(known)) if known else (0, 0)


def _range(span: tuple[int, int]) -> str:
    return str(span[0]) if span[0] == span[1] else f"{span[0]}-{span[1]}"
