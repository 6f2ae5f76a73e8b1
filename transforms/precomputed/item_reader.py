"""Precomputed features for shards: rows as they are in the file, with the times of their windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cliploom.schemas.errors import ItemError
from cliploom.schemas.records import MAX_ORDINAL, ShardItem, row_id
from cliploom.schemas.sources import PrecomputedSource
from cliploom.schemas.tables import feature_schema
from cliploom.transforms.inputs.spool import open_input
from cliploom.transforms.precomputed.read import read_features
from cliploom.transforms.precomputed.source import feature_item, split_uri
from cliploom.transforms.precomputed.window_rule import WindowRule, row_times
from cliploom.transforms.store.part_builder import ItemCount, PartBuilder, Timings
from cliploom.transforms.store.parts import vectors_to_arrow

ROWS_AT_ONCE = 4_096


def read_precomputed_item(
    item: ShardItem, builders: Sequence[PartBuilder], counts: list[ItemCount], timings: Timings
) -> None:
    """Read one item's vectors and write them as rows; see ``SourceKind.read``.

    ``frame`` is the first frame of a row's window, counted at the declared rate.
    """
    source = PrecomputedSource.model_validate_json(builders[0].job.settings)
    rule = WindowRule(source.window.fps, source.window.window, source.window.stride)
    with open_input(split_uri(item.uri)[0], item.signature, "read") as path:
        vectors = read_features(feature_item(item.uri, path), source.dim, source.key)
    if len(vectors) > MAX_ORDINAL:
        raise ItemError("read", f"{item.uri} has {len(vectors)} rows; {MAX_ORDINAL} is the most that an item may have.")
    starts, ends = row_times(rule, len(vectors))
    first = row_id(item.duplicates[0].item_no, 0)
    for builder, count in zip(builders, counts, strict=True):
        count.planned = len(vectors)
        schema = feature_schema(builder.job.outputs)
        for at in range(0, len(vectors), ROWS_AT_ONCE):
            numbers = np.arange(at, min(at + ROWS_AT_ONCE, len(vectors)), dtype=np.int64)
            columns = [
                pa.array(first + numbers),
                pa.repeat(pa.scalar(item.duplicates[0].uid, pa.string()), len(numbers)),
                pa.array(starts[numbers]),
                pa.array(ends[numbers]),
                pa.array(numbers * rule.stride),
                pa.repeat(pa.scalar(item.digest, pa.string()), len(numbers)),
                vectors_to_arrow(vectors[numbers]),
            ]
            builder.add_table(count, pa.table(columns, schema=schema))
