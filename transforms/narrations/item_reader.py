"""Reads texts for shards: the rows of one video or label from the spool, for each text encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cliploom.schemas.errors import UnreadableError
from cliploom.schemas.media import Sampled
from cliploom.schemas.records import ShardItem
from cliploom.transforms.inputs.spool import open_input
from cliploom.transforms.narrations.listing import TextsPlace, place_of
from cliploom.transforms.store.part_builder import ItemCount, PartBuilder, Timings
from cliploom.transforms.store.uris import is_remote

COLUMNS = ["idx", "start_s", "end_s", "encoded"]


def read_text_item(item: ShardItem, builders: Sequence[PartBuilder], counts: list[ItemCount], timings: Timings) -> None:
    """Read one item's texts and hand each to the features that want them; see ``SourceKind.read``.

    A row's ordinal is its position in the item's order, ``frame`` its number in the file. A text about a moment starts
    and ends there; one about the whole video has no times.
    """
    place = place_of(item.facts)
    rows = read_texts(place, COLUMNS)
    for number, (builder, count) in enumerate(zip(builders, counts, strict=True)):
        count.planned = rows.num_rows
        columns = (rows[name].to_pylist() for name in COLUMNS)
        for ordinal, (idx, start, end, text) in enumerate(zip(*columns, strict=True)):
            builder.add(count, Sampled(number, ordinal, start, start if end is None else end, idx, text))


def read_texts(place: TextsPlace, columns: Sequence[str]) -> pa.Table:
    """Return an item's rows of a spool.

    Raises:
        UnreadableError: the spool was deleted; the next run creates it again.
    """
    try:
        with _local(place.spool) as path:
            group = _row_group(str(path), place.group)
    except FileNotFoundError:
        reason = f"{place.spool} was deleted; the next run reads the texts again."
        raise UnreadableError("read", reason, transient=True) from None
    return group.select(list(columns)).slice(place.first, place.rows)


@contextmanager
def _local(uri: str) -> Iterator[Path]:
    if not is_remote(uri):
        yield Path(uri.removeprefix("file://"))
        return
    # A spool is named by its content, so one local copy serves all items.
    with open_input(uri, "", "read") as path:
        yield path


@lru_cache(maxsize=8)
def _row_group(path: str, group: int) -> pa.Table:
    """Return a row group of an immutable file; cached, since neighbouring items share it."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group)
