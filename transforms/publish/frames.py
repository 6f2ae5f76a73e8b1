"""Frames that a plan's steps share: its tables as files, and records as rows. No Beam here."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa

from schemas.records import Failure, PartRecord
from schemas.tables import FAILURES, PARTS
from transforms.publish.assemble import HELD
from transforms.store.objects import Objects


@dataclass(frozen=True)
class PlanTables:
    """The frames that the launcher wrote beside the plan.

    Attributes:
        items: columns of ``ITEMS``, the next items table.
        wanted: feature and the columns of ``assemble.WANTED``.
        held: feature and the columns of ``assemble.HELD``, published and orphaned parts.
        parts: columns of ``PARTS`` for these parts.
        failures: columns of ``FAILURES``: earlier and probe failures, and those of orphaned parts.
    """

    items: pl.DataFrame
    wanted: pl.DataFrame
    held: pl.DataFrame
    parts: pl.DataFrame
    failures: pl.DataFrame

    @classmethod
    def read(cls, objects: Objects, folder: str) -> PlanTables:
        """Read them from the plan's folder."""
        frames = {}
        for name in cls.__dataclass_fields__:
            with objects.local_copy(f"{folder}/{name}.parquet") as local:
                frames[name] = pl.read_parquet(local)
        return cls(**frames)

    def write(self, objects: Objects, folder: str) -> None:
        """Write them to the plan's folder."""
        for name in self.__dataclass_fields__:
            write_frame(objects, f"{folder}/{name}.parquet", getattr(self, name))


def write_frame(objects: Objects, path: str, frame: pl.DataFrame, row_group_size: int | None = None) -> None:
    """Create or replace a Parquet file of the store."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="lz4", statistics=False, row_group_size=row_group_size)
    objects.put(path, buffer.getvalue())


def contents_frame(records: Iterable[PartRecord], origin: int) -> pl.DataFrame:
    """The contents of parts as a frame: feature and the columns of ``assemble.HELD``."""
    rows = [
        (
            record.feature,
            record.part,
            content.item_no,
            content.uid,
            content.digest,
            content.segment,
            content.segments,
            content.planned,
            content.rows,
            content.first_row,
            origin,
        )
        for record in records
        for content in record.contents
    ]
    columns = ["feature", "part", "item_no", "uid", "digest", "segment", "segments"]
    columns += ["planned", "rows", "first_row", "origin"]
    schema = {"feature": pl.String} | HELD
    return pl.DataFrame(rows, schema={name: schema[name] for name in columns}, orient="row").select(*schema)


def parts_frame(records: Iterable[PartRecord]) -> pl.DataFrame:
    """Parts as a frame with the columns of ``PARTS``."""
    rows = [(r.feature, r.config, r.part, r.rows, r.size, r.digest) for r in records]
    kinds = [pl.String, pl.String, pl.String, pl.Int64, pl.Int64, pl.String]
    return pl.DataFrame(rows, schema=dict(zip(PARTS.names, kinds, strict=True)), orient="row")


def failures_frame(failures: Iterable[Failure], run: str) -> pl.DataFrame:
    """Failures as a frame with the columns of ``FAILURES``."""
    now = datetime.now(UTC)
    rows = [asdict(failure) | {"run": run, "seen_at": now} for failure in failures]
    return pl.DataFrame(rows, schema=empty_frame(FAILURES).schema)


def empty_frame(schema: pa.Schema) -> pl.DataFrame:
    """A polars frame without rows, of an Arrow schema."""
    return pl.DataFrame(schema.empty_table())
