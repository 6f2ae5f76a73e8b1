"""Reads precomputed features for shards: rows as stored, with the times of their windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cliploom.schemas.records import ShardItem
from cliploom.schemas.sources import PrecomputedSource
from cliploom.transforms.inputs.spool import open_input
from cliploom.transforms.precomputed.read import read_features
from cliploom.transforms.precomputed.source import feature_item, split_uri
from cliploom.transforms.precomputed.window_rule import WindowRule, row_times
from cliploom.transforms.store.part_builder import ItemCount, PartBuilder, Timings
from cliploom.transforms.store.vector_rows import VectorRows, add_vector_rows


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
    starts, ends = row_times(rule, len(vectors))
    frames = np.arange(len(vectors), dtype=np.int64) * rule.stride
    add_vector_rows(item, VectorRows({source.output: vectors}, starts, ends, frames), builders, counts)
