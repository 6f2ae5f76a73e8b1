"""DataFrames that the steps of a plan share: its tables as files, and records as rows. Does not use Beam."""

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
from cliploom.schemas.tables import FAILURES, empty_table
from cliploom.transforms.publish.assemble import HEAD, HELD, WANTED
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import contents_of
from cliploom.transforms.work.part_records import PartRecordFrames


@dataclass(frozen=True)
class PlanFrames:
    """The small DataFrames that the launcher wrote beside the plan; large ones are read per feature.

    Attributes:
        adopted: feature and the columns of ``assemble.HELD``, for orphaned parts.
        parts: columns of ``PARTS``, for published and orphaned parts.
        failures: columns of ``FAILURES``: earlier and probe failures, and those of orphaned parts.
    """

    adopted: pl.DataFrame
    parts: pl.DataFrame
    failures: pl.DataFrame

    @classmethod
    def read(cls, objects: ObjectStore, folder: str) -> PlanFrames:
        """Read the DataFrames from the plan's folder."""
        frames = {}
        for name in cls.__dataclass_fields__:
            with objects.local_copy(f"{folder}/{name}.parquet") as local:
                frames[name] = pl.read_parquet(local)
        return cls(**frames)

    def write(self, objects: ObjectStore, folder: str) -> None:
        """Write the DataFrames to the plan's folder."""
        for name in self.__dataclass_fields__:
            write_frame(objects, f"{folder}/{name}.parquet", getattr(self, name))


def published_contents(objects: ObjectStore, plan: RunPlan, feature: str) -> pl.DataFrame:
    """Return the contents of a feature's current config in the plan's base release: columns of ``HELD``."""
    columns = [name for name in HELD if name != "origin"]
    found = contents_of(objects, plan.base, feature, ["config", *columns])
    mine = found.filter(
        (pl.col("config") == plan.feature(feature).config) & ~pl.col("part").is_in(list(plan.lost.get(feature, ())))
    )
    return mine.select(*columns, pl.lit(HEAD, pl.Int32).alias("origin"))


def wanted_items(objects: ObjectStore, plan: RunPlan, feature: str, published: pl.DataFrame) -> pl.DataFrame:
    """Return the items that a feature's next table should contain, by their verdicts.

    Args:
        objects: the store.
        plan: plan of the run.
        feature: name of the feature.
        published: contents of its current config in the last release.

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
    """Create or replace a Parquet file piece by piece; needs at least one DataFrame, which may be empty."""
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
    """Return the contents of reported parts: feature and the columns of ``assemble.HELD``."""
    return reported.contents.with_columns(pl.lit(origin, pl.Int32).alias("origin")).select("feature", *HELD)


def reported_failures(reported: PartRecordFrames, run: str) -> pl.DataFrame:
    """Return the failures of reported parts as a DataFrame with the columns of ``FAILURES``."""
    schema = empty_frame(FAILURES).schema
    found = reported.failures.with_columns(pl.lit(run).alias("run"), pl.lit(datetime.now(UTC)).alias("seen_at"))
    return found.select(pl.col(name).cast(kind) for name, kind in schema.items())


def failures_frame(failures: Iterable[Failure], run: str) -> pl.DataFrame:
    """Return failures as a DataFrame with the columns of ``FAILURES``."""
    now = datetime.now(UTC)
    rows = [asdict(failure) | {"run": run, "seen_at": now} for failure in failures]
    return pl.DataFrame(rows, schema=empty_frame(FAILURES).schema)


def empty_frame(schema: pa.Schema) -> pl.DataFrame:
    """Return an empty polars DataFrame with an Arrow schema."""
    return pl.DataFrame(empty_table(schema))


def not_renamed(items: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Return the items without a counterpart of the same digest in ``others``; each of those matches one item.

    Args:
        items: items with a column digest, null if the bytes are unknown.
        others: items with the same column.
    """
    place = pl.int_range(pl.len()).over("digest").alias("place")
    items, others = items.with_columns(place), others.filter(pl.col("digest").is_not_null()).with_columns(place)
    return items.join(others, on=["digest", "place"], how="anti", maintain_order="left").drop("place")


def failure_reasons(failures: pl.DataFrame) -> pl.DataFrame:
    """Group failures (rows of ``FAILURES``) by reason, most frequent first, with number of items and an example."""
    return (
        failures.group_by("stage", "type", "transient", "partial", maintain_order=True)
        .agg(pl.struct("source", "uid").n_unique().alias("items"), pl.col("uid", "uri", "message").first())
        .sort("partial", "items", descending=[False, True])
    )
