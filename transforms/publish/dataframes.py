"""Frames that a plan's steps share: its tables as files, and records as rows. No Beam here."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom.schemas.faults import temporary_faults
from cliploom.schemas.plan import COMPUTED, DELETED, MOVED, RunPlan
from cliploom.schemas.records import Failure
from cliploom.schemas.tables import FAILURES
from cliploom.transforms.publish.assemble import HEAD, HELD, WANTED
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import contents_of
from cliploom.transforms.work.part_records import PartRecordFrames


@dataclass(frozen=True)
class PlanFrames:
    """The small frames that the launcher wrote beside the plan; the large ones are read by feature.

    Attributes:
        adopted: feature and the columns of ``assemble.HELD``, of orphaned parts.
        parts: columns of ``PARTS``, published and orphaned parts.
        failures: columns of ``FAILURES``: earlier and probe failures, and those of orphaned parts.
    """

    adopted: pl.DataFrame
    parts: pl.DataFrame
    failures: pl.DataFrame

    @classmethod
    def read(cls, objects: ObjectStore, folder: str) -> PlanFrames:
        """Read them from the plan's folder."""
        frames = {}
        for name in cls.__dataclass_fields__:
            with objects.local_copy(f"{folder}/{name}.parquet") as local:
                frames[name] = pl.read_parquet(local)
        return cls(**frames)

    def write(self, objects: ObjectStore, folder: str) -> None:
        """Write them to the plan's folder."""
        for name in self.__dataclass_fields__:
            write_frame(objects, f"{folder}/{name}.parquet", getattr(self, name))


def published_contents(objects: ObjectStore, plan: RunPlan, feature: str) -> pl.DataFrame:
    """What the release that a plan starts from still holds of a feature for its config: columns of ``HELD``."""
    columns = [name for name in HELD if name != "origin"]
    found = contents_of(objects, plan.base, feature, ["config", *columns])
    mine = found.filter(
        (pl.col("config") == plan.feature(feature).config) & ~pl.col("part").is_in(list(plan.lost.get(feature, ())))
    )
    return mine.select(*columns, pl.lit(HEAD, pl.Int32).alias("origin"))


def wanted_items(objects: ObjectStore, plan: RunPlan, feature: str, published: pl.DataFrame) -> pl.DataFrame:
    """What a feature's next table should hold, as the verdicts say.

    Args:
        objects: the store.
        plan: of the run.
        feature: its name.
        published: what the last release holds of it for its wanted config.

    Returns:
        The columns of ``assemble.WANTED``.
    """
    had = published.filter(pl.col("rows") > 0).select("item_no", pl.col("digest").alias("old_digest"))
    mine = (pl.col("feature") == feature) & (pl.col("verdict") != DELETED)
    with objects.local_copy(f"{plan.folder}/verdicts.parquet") as local:
        verdicts = pl.scan_parquet(local).filter(mine).select("item_no", "uid", "digest", "verdict").collect()
    digest = pl.col("digest").fill_null("")
    found = verdicts.select(
        "item_no", "uid", digest.alias("digest"), pl.col("verdict").is_in([*COMPUTED, MOVED]).alias("fresh")
    )
    found = found.join(had.unique("item_no"), on="item_no", how="left", maintain_order="left")
    changed = pl.when(pl.col("old_digest") != pl.col("digest")).then("old_digest")
    return found.with_columns(changed.alias("old_digest")).select(*WANTED)


def write_frame(objects: ObjectStore, path: str, frame: pl.DataFrame) -> None:
    """Create or replace a Parquet file of the store."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="lz4", statistics=False)
    objects.put(path, buffer.getvalue())


def write_frames(objects: ObjectStore, path: str, frames: Iterable[pl.DataFrame], row_group_size: int) -> None:
    """The same for frames that are never all in memory at once; there is at least one, which may be empty."""
    writer: pq.ParquetWriter | None = None
    with objects.errors(path), tempfile.TemporaryDirectory(prefix="cliploom-plan-") as folder:
        local = Path(folder) / "rows.parquet"
        with temporary_faults():
            for frame in frames:
                table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
                writer = writer or pq.ParquetWriter(local, table.schema, compression="zstd", store_schema=False)
                if table.num_rows:
                    writer.write_table(table, row_group_size=row_group_size)
            if writer is not None:
                writer.close()
        objects.put(path, local)


def held_frame(reported: PartRecordFrames, origin: int) -> pl.DataFrame:
    """The contents of reported parts: feature and the columns of ``assemble.HELD``."""
    return reported.contents.with_columns(pl.lit(origin, pl.Int32).alias("origin")).select("feature", *HELD)


def reported_failures(reported: PartRecordFrames, run: str) -> pl.DataFrame:
    """Their failures as a frame with the columns of ``FAILURES``."""
    schema = empty_frame(FAILURES).schema
    found = reported.failures.with_columns(pl.lit(run).alias("run"), pl.lit(datetime.now(UTC)).alias("seen_at"))
    return found.select(pl.col(name).cast(kind) for name, kind in schema.items())


def failures_frame(failures: Iterable[Failure], run: str) -> pl.DataFrame:
    """Failures as a frame with the columns of ``FAILURES``."""
    now = datetime.now(UTC)
    rows = [asdict(failure) | {"run": run, "seen_at": now} for failure in failures]
    return pl.DataFrame(rows, schema=empty_frame(FAILURES).schema)


def empty_frame(schema: pa.Schema) -> pl.DataFrame:
    """A polars frame without rows, of an Arrow schema."""
    return pl.DataFrame(schema.empty_table())


def not_renamed(items: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """The items that have no counterpart of the same digest among the others; each of these stands for one item.

    Args:
        items: with a column digest, null where the bytes are not known.
        others: the same.
    """
    place = pl.int_range(pl.len()).over("digest").alias("place")
    items, others = items.with_columns(place), others.filter(pl.col("digest").is_not_null()).with_columns(place)
    return items.join(others, on=["digest", "place"], how="anti", maintain_order="left").drop("place")


def failure_reasons(failures: pl.DataFrame) -> pl.DataFrame:
    """Failures (rows of ``FAILURES``) by reason, most first, each with its number of items and one example."""
    return (
        failures.group_by("stage", "type", "transient", "partial", maintain_order=True)
        .agg(pl.struct("source", "uid").n_unique().alias("items"), pl.col("uid", "uri", "message").first())
        .sort("partial", "items", descending=[False, True])
    )
