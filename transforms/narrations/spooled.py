"""Puts texts that another package's kind of source lists into a spool of the store."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom.schemas.digests import digest_of
from cliploom.schemas.narrations import NARRATIONS
from cliploom.transforms.inputs.listing import KnownListing
from cliploom.transforms.narrations.ingest import GROUP_ROWS, SPOOLS
from cliploom.transforms.narrations.listing import listed_texts
from cliploom.transforms.store.object_store import ObjectStore


@dataclass(frozen=True)
class SpooledText:
    """A text of an item.

    Attributes:
        text: the text.
        start_s: second of the video at which it starts; None if it is about the whole video.
        end_s: second at which it ends; None if it is about a moment.
    """

    text: str
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class TextItem:
    """An item of texts: those of one video, or of whatever the uid names.

    Attributes:
        uid: id, unique in the source.
        uri: where the texts come from, for people.
        texts: the texts in their order; an item without texts is not listed.
    """

    uid: str
    uri: str
    texts: Sequence[SpooledText]


def spool_texts(name: str, items: Iterable[TextItem], objects: ObjectStore) -> KnownListing:
    """Write texts into the store, unless the same ones are there, and list their items.

    Args:
        name: name of the source.
        items: the items; all of them are in memory at once.
        objects: the store.
    """
    ordered = sorted((item for item in items if item.texts), key=lambda item: item.uid)
    digests = [digest_of([[text.text, text.start_s, text.end_s] for text in item.texts]) for item in ordered]
    path = f"{SPOOLS}/{digest_of(['texts', [item.uid for item in ordered], digests])}/texts.parquet"
    groups: list[list[TextItem]] = [[]]
    places, rows = [], 0
    for item in ordered:
        if rows >= GROUP_ROWS:
            groups.append([])
            rows = 0
        places.append((len(groups) - 1, rows, len(item.texts)))
        groups[-1].append(item)
        rows += len(item.texts)
    if objects.size(path) is None:
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, NARRATIONS, compression="zstd", store_schema=False) as writer:
            for group in groups:
                table = _table(group)
                writer.write_table(table, row_group_size=max(1, table.num_rows))
        objects.put_new(path, buffer.getvalue())
    frame = pl.DataFrame(
        {
            "uid": [item.uid for item in ordered],
            "uri": [item.uri for item in ordered],
            "size": [sum(len(text.text.encode()) for text in item.texts) for item in ordered],
            "digest": digests,
            "group": [place[0] for place in places],
            "first": [place[1] for place in places],
            "rows": [place[2] for place in places],
        },
        schema={"uid": pl.String, "uri": pl.String, "size": pl.Int64, "digest": pl.String}
        | dict.fromkeys(("group", "first", "rows"), pl.Int64),
    )
    return KnownListing(listed_texts(name, frame, objects.uri_of(path)))


def _table(items: Sequence[TextItem]) -> pa.Table:
    rows = [(item.uid, number, text) for item in items for number, text in enumerate(item.texts)]
    columns = [
        [uid for uid, _, _ in rows],
        [0] * len(rows),
        [number for _, number, _ in rows],
        [text.start_s for _, _, text in rows],
        [text.end_s for _, _, text in rows],
        [text.text for _, _, text in rows],
        [text.text for _, _, text in rows],
        [""] * len(rows),
    ]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, NARRATIONS, strict=True)], schema=NARRATIONS)
