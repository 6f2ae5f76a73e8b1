"""The planner alone on made-up items: seconds and peak memory of a first night, a usual one and a great renaming.

The promise is a million items in under 10 s and 2 GB. A plan here is all that the launcher does between the probe and
the Beam graph: verdicts, numbers, shards, and the plan's files; after it, which parts make the next table.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import polars as pl

from benchmarks.measure import table
from pipelines.plan import RetryLaw, count_verdicts
from pipelines.planning import Planned, make_plan, write_plan_files
from pipelines.resolve import Resolved
from pipelines.survey import Before, Survey
from schemas.jobs import FeatureJob
from schemas.release import FeatureEntry, Release
from schemas.sampling import Every
from schemas.tables import CONTENTS, FAILURES, ITEMS, PARTS
from transforms.publish.assemble import assemble
from transforms.publish.frames import empty_frame
from transforms.store.objects import Objects

ITEMS_IN_PART = 400
CONFIG = "c" * 40
COLUMNS = ["night", "seconds", "CPU s", "peak MB", "verdicts"]


def main(arguments: list[str]) -> int:
    """Time the nights."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks planner")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--first", action="store_true", help="only the first night, such as one of 10,000,000 items")
    options = parser.parse_args(arguments)
    count = options.items
    listed = made_up(count)
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        objects = Objects(folder)
        first = _timed(rows, "first night", lambda: night(objects, nothing_before(), listed))
        if options.first:
            table(COLUMNS, rows)
            return 0
        before = published(first)
        del first
        edited = pl.when(pl.int_range(pl.len()) % 100 == 7).then(pl.concat_str(pl.lit("x"), "digest"))
        changed = listed.with_columns(edited.otherwise(pl.col("digest")).alias("digest"))
        _timed(rows, "1 % changed", lambda: night(objects, before, changed))
        deleted = listed.filter(pl.int_range(pl.len()) % 1000 != 5)
        plan = _timed(rows, "0.1 % deleted", lambda: night(objects, before, deleted))
        _timed(rows, "  its parts", lambda: parts_of(plan))
        renamed = listed.with_columns(pl.concat_str(pl.lit("new/"), "uid").alias("uid"))
        plan = _timed(rows, "all renamed", lambda: night(objects, before, renamed))
        _timed(rows, "  its parts", lambda: parts_of(plan))
    table(COLUMNS, rows)
    return 0


def _timed(rows: list[tuple[object, ...]], label: str, work: Callable[[], Any]) -> Any:
    began, busy = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - began, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    said = count_verdicts(result.verdicts)["frames"] if isinstance(result, Planned) else ""
    rows.append((label, f"{wall:.1f}", f"{cpu:.1f}", peak, said))
    return result


def night(objects: Objects, before: Before, listed: pl.DataFrame) -> Planned:
    """Plan one night and write the plan."""
    found = Survey(listed, empty_frame(FAILURES), 0, ())
    planned = make_plan(objects, before, found, resolved(), RetryLaw(), 600.0, listed.height + 1)
    write_plan_files(objects, "plans/benchmark", planned)
    return planned


def parts_of(planned: Planned) -> object:
    """What the next table is made of, once everything is computed."""
    tables = planned.tables
    sizes = dict(tables.parts.select("part", "size").rows())
    return assemble("frames", tables.wanted.drop("feature"), tables.held.drop("feature"), sizes)


def made_up(count: int) -> pl.DataFrame:
    """Items as a survey gives them."""
    number = pl.col("number")
    seconds = (number % 600 + 25) / 25.0
    return (
        pl.DataFrame({"number": pl.int_range(count, eager=True)})
        .with_columns(
            pl.lit("clips").alias("source"),
            pl.format("2026/camera-{}/clip-{}", number % 97, number).alias("uid"),
            (number * 7919 % 10_000_000 + 100_000).alias("size"),
            pl.concat_str(number.hash(1), number.hash(2)).alias("digest"),
            pl.concat_str(
                pl.lit('{"type":"video","width":640,"height":360,"frames":'),
                number % 600 + 25,
                pl.lit(',"start_s":0.0,"end_s":'),
                seconds,
                pl.lit(',"fps":25.0,"codec":"h264","rotation":0,"lost":""}'),
            ).alias("facts"),
            pl.lit("{}").alias("metadata"),
            pl.lit("media").alias("kind"),
        )
        .with_columns(
            pl.format("/srv/corpus/{}.mp4", "uid").alias("uri"),
            pl.format("{}:{}", "size", number * 1_000_003 + 1_700_000_000_000_000_000).alias("signature"),
        )
        .drop("number")
    )


def resolved() -> Resolved:
    """One feature, without a model."""
    sample = Every.model_validate({"every": "1s"})
    table_folder = f"features/frames/{CONFIG[:12]}"
    job = FeatureJob("frames", "clips", "media", "{}", CONFIG, table_folder, "", None, {"pooled": 1280}, sample)
    return Resolved({"frames": job}, {"frames": {}}, {}, {})


def nothing_before() -> Before:
    """A new store."""
    return Before(None, *(empty_frame(schema) for schema in (ITEMS, CONTENTS, PARTS, FAILURES)))


def published(planned: Planned) -> Before:
    """The release that a first night would have made, parts filled in order."""
    items, (job,) = planned.tables.items, resolved().jobs.values()
    rows = pl.lit(20, pl.Int64)
    contents = items.select(
        pl.lit(job.name).alias("feature"),
        pl.lit(job.config).alias("config"),
        pl.format("part-{}{}.parquet", pl.col("item_no") // ITEMS_IN_PART, pl.lit("d" * 36)).alias("part"),
        "item_no",
        "uid",
        "digest",
        pl.lit(0, pl.Int32).alias("segment"),
        pl.lit(1, pl.Int32).alias("segments"),
        rows.alias("planned"),
        rows.alias("rows"),
        (pl.col("item_no") % ITEMS_IN_PART * 20).alias("first_row"),
    )
    parts = (
        contents.group_by("part")
        .agg(pl.col("rows").sum())
        .select(
            pl.lit(job.name).alias("feature"),
            pl.lit(job.config).alias("config"),
            "part",
            "rows",
            pl.lit(30_000_000, pl.Int64).alias("size"),
            pl.lit("e" * 40).alias("digest"),
        )
    )
    entry = FeatureEntry(
        source=job.source,
        encoder="",
        config=job.config,
        table=job.table,
        version=1,
        rows=0,
        parts=0,
        size=0,
        model="",
        outputs={},
        recipe={},
    )
    release = Release(
        release=1, run="first", created_at=datetime.now(UTC), program="", spec={}, tables={}, features={"frames": entry}
    )
    return Before(release, items, contents, parts, empty_frame(FAILURES))
