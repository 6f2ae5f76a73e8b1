"""Arrow schemas of the store's tables. Vectors are ``list<float32>``; timestamps are UTC with zone."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")


def empty_table(schema: pa.Schema) -> pa.Table:
    """Return a table without rows.

    ``Schema.empty_table`` does the same, but imports pandas where it is installed: 0.2 s of a command that needs none.
    """
    return pa.Table.from_batches([], schema)


ITEMS = pa.schema(
    [
        pa.field("item_no", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("signature", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("facts", pa.string()),
        pa.field("metadata", pa.string()),
    ]
)

CONTENTS = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("config", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("item_no", pa.int64(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("segment", pa.int32(), nullable=False),
        pa.field("segments", pa.int32(), nullable=False),
        pa.field("planned", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("first_row", pa.int64(), nullable=False),
    ]
)

PARTS = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("config", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
    ]
)

FAILURES = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("feature", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("item_no", pa.int64()),
        pa.field("digest", pa.string()),
        pa.field("config", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("type", pa.string()),
        pa.field("message", pa.string()),
        pa.field("transient", pa.bool_()),
        pa.field("partial", pa.bool_()),
        pa.field("expected", pa.int64()),
        pa.field("got", pa.int64()),
        pa.field("attempts", pa.int32()),
        pa.field("run", pa.string()),
        pa.field("seen_at", TIMESTAMP),
    ]
)

PROBED = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("uid", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("facts", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("type", pa.string()),
        pa.field("message", pa.string()),
        pa.field("transient", pa.bool_()),
    ]
)

RELEASES = pa.schema(
    [
        pa.field("release", pa.int64(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("created_at", TIMESTAMP, nullable=False),
        pa.field("format", pa.int32(), nullable=False),
        pa.field("program", pa.string()),
        pa.field("note", pa.string()),
        pa.field("items", pa.int64()),
        pa.field("rows", pa.int64()),
        pa.field("failed", pa.int64()),
        pa.field("bytes", pa.int64()),
        pa.field("seconds", pa.float64()),
        pa.field("body", pa.string(), nullable=False),
    ]
)


RECORD_LABELS = pa.list_(
    pa.field(
        "element",
        pa.struct(
            [
                pa.field("label", pa.int64()),
                pa.field("start_s", pa.float64()),
                pa.field("end_s", pa.float64()),
                pa.field("score", pa.float32()),
            ]
        ),
    )
)

LABELS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("label", pa.int64()),
        pa.field("name", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("origin", pa.string(), nullable=False),
    ]
)


def feature_schema(
    outputs: Mapping[str, int], compact: Collection[str] = (), texts: Collection[str] = (), *, records: bool = False
) -> pa.Schema:
    """Return the schema of a feature's table.

    Args:
        outputs: output name -> length of its vectors, kept as field metadata ``dim``.
        compact: outputs stored as YouTube-8M's 8-bit codes, see ``cliploom.transforms.store.quantize``.
        texts: string columns after the vectors.
        records: whether rows belong to records of an item; the first row of each record has its labels.
    """
    vectors = [
        pa.field(
            name,
            pa.binary() if name in compact else pa.list_(pa.field("element", pa.float32())),
            metadata={"dim": str(dim)},
        )
        for name, dim in outputs.items()
    ]
    vectors += [pa.field(name, pa.string()) for name in texts]
    if records:
        vectors.append(pa.field("labels", RECORD_LABELS))
    return pa.schema(
        [
            pa.field("row_id", pa.int64(), nullable=False),
            pa.field("uid", pa.string(), nullable=False),
            pa.field("start_s", pa.float64()),
            pa.field("end_s", pa.float64()),
            pa.field("frame", pa.int64()),
            pa.field("item_digest", pa.string(), nullable=False),
            *vectors,
        ]
    )
