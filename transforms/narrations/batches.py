"""Narrations as tables and as items: to and from Arrow batches, grouped by video, with digests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice

import pyarrow as pa

from cliploom.schemas.digests import digest_of
from cliploom.schemas.narrations import NARRATIONS, PLAIN, BadRow, Narration, TextRules, VideoNarrations
from cliploom.transforms.narrations.text import encoded_text

BATCH_ROWS = 65_536


def usable(rows: Iterable[Narration | BadRow], on_bad: Callable[[BadRow], object]) -> Iterator[Narration]:
    """Yield the narrations of a reader's rows; pass each bad row to ``on_bad``."""
    for row in rows:
        if isinstance(row, BadRow):
            on_bad(row)
        else:
            yield row


def to_batches(
    narrations: Iterable[Narration], rules: TextRules = PLAIN, rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Pack narrations into record batches, one per row group, keeping at most one in memory.

    Args:
        narrations: the narrations, in any order.
        rules: the rules that fill the column ``encoded``.
        rows: the number of rows of all batches but the last.

    Yields:
        Batches of the schema ``NARRATIONS``.
    """
    stream = iter(narrations)
    while chunk := list(islice(stream, rows)):
        columns = [
            [n.uid for n in chunk],
            [n.pass_ for n in chunk],
            [n.idx for n in chunk],
            [n.start_s for n in chunk],
            [n.end_s for n in chunk],
            [n.text for n in chunk],
            [encoded_text(n.text, rules) for n in chunk],
            [n.annotation_uid for n in chunk],
        ]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, NARRATIONS, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=NARRATIONS)


def from_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[Narration]:
    """Yield the narrations of record batches with the columns of ``NARRATIONS``; other columns are ignored."""
    names = [name for name in NARRATIONS.names if name != "encoded"]
    for batch in batches:
        yield from map(Narration, *(batch.column(name).to_pylist() for name in names))


def group_by_video(narrations: Iterable[Narration]) -> Iterator[VideoNarrations]:
    """Yield each video's narrations as one item, in the given order.

    Args:
        narrations: narrations in which each video is contiguous, such as those of a table sorted by uid.

    Raises:
        ValueError: a video is not contiguous, since two items cannot share a uid.
    """
    seen = set()
    for uid, group in groupby(narrations, key=lambda n: n.uid):
        if uid in seen:
            raise ValueError(f"narrations of '{uid}' come in two places: sort the table by uid first")
        seen.add(uid)
        rows = tuple(group)
        yield VideoNarrations(uid, item_digest(rows), rows)


def item_digest(narrations: Iterable[Narration]) -> str:
    """Return the digest of the content of one video's narrations; uid and order are ignored.

    >>> a, b = Narration("v", 1, 0, 0.5, None, "a"), Narration("v", 1, 1, 0.7, None, "b")
    >>> item_digest([a, b]) == item_digest([b, a])
    True
    """
    return digest_of(
        sorted([n.pass_, n.idx, _exact(n.start_s), _exact(n.end_s), n.text, n.annotation_uid] for n in narrations)
    )


def _exact(seconds: float | None) -> int:
    """Return microseconds that are comparable even without a time."""
    return -(2**62) if seconds is None else round(seconds * 1_000_000)
