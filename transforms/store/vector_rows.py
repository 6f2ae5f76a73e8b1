"""Writes rows of vectors that come with an item, a few thousand at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cliploom.schemas.errors import ItemError
from cliploom.schemas.records import MAX_ORDINAL, ShardItem, row_id
from cliploom.schemas.tables import feature_schema
from cliploom.transforms.store.part_builder import ItemCount, PartBuilder
from cliploom.transforms.store.parts import vectors_to_arrow

ROWS_AT_ONCE = 4_096


@dataclass(frozen=True)
class VectorRows:
    """The rows of one item.

    Attributes:
        vectors: float array [rows, length] by name of the output; the number of rows is the same for all.
        start_s: float64 [rows], seconds from the item's start; None if rows have no times.
        end_s: the same of the rows' ends.
        frame: int64 [rows], numbers of frames; None if rows have none.
    """

    vectors: Mapping[str, NDArray[np.floating]]
    start_s: NDArray[np.float64] | None = None
    end_s: NDArray[np.float64] | None = None
    frame: NDArray[np.int64] | None = None

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(next(iter(self.vectors.values())))


def add_vector_rows(
    item: ShardItem, found: VectorRows, builders: Sequence[PartBuilder], counts: Sequence[ItemCount]
) -> None:
    """Write the rows of one item into the part of each feature.

    Args:
        item: the item; its first duplicate gives the rows' ids and uid.
        found: its rows, see ``check_rows``.
        builders: one for each feature.
        counts: one for each feature.

    Raises:
        ItemError: if the item has more rows than can be numbered.
    """
    if found.count > MAX_ORDINAL:
        raise ItemError("read", f"{item.uri} has {found.count} rows; {MAX_ORDINAL} is the most that an item may have.")
    first, uid = row_id(item.duplicates[0].item_no, 0), item.duplicates[0].uid
    for builder, count in zip(builders, counts, strict=True):
        count.planned = found.count
        schema = feature_schema(builder.job.outputs)
        for at in range(0, found.count, ROWS_AT_ONCE):
            numbers = np.arange(at, min(at + ROWS_AT_ONCE, found.count), dtype=np.int64)
            columns = [
                pa.array(first + numbers),
                pa.repeat(pa.scalar(uid, pa.string()), len(numbers)),
                _column(found.start_s, numbers, pa.float64()),
                _column(found.end_s, numbers, pa.float64()),
                _column(found.frame, numbers, pa.int64()),
                pa.repeat(pa.scalar(item.digest, pa.string()), len(numbers)),
                *(
                    vectors_to_arrow(found.vectors[name][numbers].astype(np.float32, copy=False))
                    for name in builder.job.outputs
                ),
            ]
            builder.add_table(count, pa.table(columns, schema=schema))


def _column(
    values: NDArray[np.float64] | NDArray[np.int64] | None, rows: NDArray[np.int64], kind: pa.DataType
) -> pa.Array:
    return pa.nulls(len(rows), kind) if values is None else pa.array(np.asarray(values)[rows], kind)


def check_rows(item: ShardItem, found: VectorRows, outputs: Mapping[str, int]) -> None:
    """Check what another package's reader made of an item.

    Args:
        item: the item.
        found: its rows.
        outputs: names and lengths of the wanted vectors.

    Raises:
        ItemError: if a vector is missing, has another length, or holds something else than finite numbers.
    """
    for name, dim in outputs.items():
        vectors = np.asarray(found.vectors[name]) if name in found.vectors else None
        if vectors is None or vectors.ndim != 2 or vectors.shape[1] != dim or vectors.dtype.kind != "f":
            said = "missing" if vectors is None else f"{vectors.dtype} {list(vectors.shape)}"
            raise ItemError("read", f"{item.uri}: {name!r} is {said}; floats [rows, {dim}] are wanted.")
        if len(vectors) != found.count:
            raise ItemError("read", f"{item.uri}: {name!r} has {len(vectors)} rows, other outputs {found.count}.")
        with np.errstate(over="ignore"):
            good = np.isfinite(vectors.astype(np.float32)).all()
        if not good:
            raise ItemError("read", f"{item.uri}: {name!r} holds numbers that are not finite in float32.")
    for what in ("start_s", "end_s", "frame"):
        values = getattr(found, what)
        if values is not None and np.shape(values) != (found.count,):
            raise ItemError("read", f"{item.uri}: {what} has the shape {list(np.shape(values))}, not [{found.count}].")
