"""What the tables of a store and their columns hold, for the reader of a table and for the page ``docs/api.md``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from cliploom.schemas.narrations import NARRATIONS_TABLE
from cliploom.schemas.tables import CONTENTS, FAILURES, ITEMS, LABELS, PARTS, RELEASES, feature_schema


@dataclass(frozen=True)
class TableNote:
    """A table of a store.

    Attributes:
        about: what one row is.
        schema: columns with their types.
        columns: column -> what it holds.
    """

    about: str
    schema: pa.Schema
    columns: Mapping[str, str]


STORE_TABLES: Mapping[str, TableNote] = {
    "items": TableNote(
        "One row for each item: a media file, the texts of one video, a TFRecord shard, a feature file.",
        ITEMS,
        {
            "item_no": "number of the item; never changes and is never used again",
            "source": "name of the source in the spec",
            "uid": "name of the item, unique in its source",
            "uri": "path or address of the file",
            "size": "bytes",
            "signature": "changes when the file may have changed: size and modification time, or the bucket's etag",
            "digest": "blake2b of the bytes, hexadecimal",
            "facts": "JSON: what probing found, such as the width, height, frames and duration of a video",
            "metadata": "JSON: further columns of the table that listed the item",
        },
    ),
    "narrations": TableNote(
        "One row for each timed text, caption or label text; only where the spec has such a source.",
        NARRATIONS_TABLE,
        {
            "row_id": "the same as in the features of the source",
            "source": "name of the source in the spec",
            "uid": "the video that the text is about",
            "pass": "number of the annotation pass (Ego4D has 1 and 2); 0 where the format has none",
            "idx": "number of the text within its video and pass, from 0",
            "start_s": "seconds from the video's start; null for a text about the whole video",
            "end_s": "end of the stretch in seconds; null for a text about a moment",
            "text": "the text as given",
            "encoded": "the text as the encoder gets it, after the rules of the source",
            "annotation_uid": "the annotator's id; may be empty",
        },
    ),
    "labels": TableNote(
        "One row for each label of an item or record; only where a source gives labels or a head predicts them.",
        LABELS,
        {
            "source": "name of the source in the spec",
            "uid": "item, or record of a TFRecord shard",
            "label": "number of the class",
            "name": "name of the class; null without a vocabulary",
            "score": "probability of a predicted label; null for a given one",
            "start_s": "start of the labelled segment in seconds; null for a label of the whole item",
            "end_s": "end of the labelled segment in seconds",
            "origin": "`given`, or `predicted:` and the name of the feature",
        },
    ),
    "failures": TableNote(
        "One row for each item that could not be used, and for each feature of it that could not be computed.",
        FAILURES,
        {
            "source": "name of the source in the spec",
            "feature": "name of the feature; empty for failures before any feature, such as in probing",
            "uid": "name of the item",
            "uri": "path or address of the file",
            "item_no": "number of the item",
            "digest": "blake2b of the bytes",
            "config": "config digest of the feature",
            "stage": "`list`, `probe`, `decode`, `encode`, ...",
            "type": "kind of failure, such as `NoVideo` or `Damaged`",
            "message": "one sentence that explains it",
            "transient": "trying again on another night may help; such items are tried again by themselves",
            "partial": "some rows were computed and kept",
            "expected": "rows that were planned",
            "got": "rows that were computed",
            "attempts": "how often the item was tried",
            "run": "the run that found it",
            "seen_at": "when, UTC",
        },
    ),
    "contents": TableNote(
        "One row for each item and part: which part of a feature holds which rows.",
        CONTENTS,
        {
            "feature": "name of the feature",
            "config": "config digest of the feature",
            "part": "file name of the part",
            "item_no": "number of the item",
            "uid": "name of the item",
            "digest": "blake2b of the item's bytes",
            "segment": "number of the segment of a long item, from 0",
            "segments": "number of segments that the item was split into",
            "planned": "rows that the sampling asked for",
            "rows": "rows that are there",
            "first_row": "position of the item's first row in the part",
        },
    ),
    "parts": TableNote(
        "One row for each Parquet file of a feature.",
        PARTS,
        {
            "feature": "name of the feature",
            "config": "config digest of the feature",
            "part": "file name of the part",
            "rows": "rows in it",
            "size": "bytes",
            "digest": "SHA-256 of the file",
        },
    ),
    "releases": TableNote(
        "One row for each release that there was when the store was opened.",
        RELEASES,
        {
            "release": "number of the release, from 1",
            "run": "the run that published it",
            "created_at": "when, UTC",
            "format": "version of the store's format",
            "program": "version of cliploom",
            "note": "such as `rollback to release 1`",
            "items": "number of items",
            "rows": "rows of all features",
            "failed": "items that failed",
            "bytes": "size of the parts of all features",
            "seconds": "how long the run took",
            "body": "JSON: the whole release",
        },
    ),
}
"""The tables that every store has, by name; a feature's table has the feature's name."""

FEATURE_TABLE = TableNote(
    "One row for each sampled frame, window, sentence or item.",
    feature_schema({"<output>": 0}),
    {
        "row_id": "`item_no << 24 | ordinal`; the id of the row's vector in indexes",
        "uid": "name of the item",
        "start_s": "seconds from the item's start; null where rows have no times",
        "end_s": "end of the row's stretch in seconds",
        "frame": "index in the file of the row's (first) frame",
        "item_digest": "blake2b of the item's bytes",
        "<output>": "a column for each output of the encoder, float32",
    },
)
"""The table of a feature."""
