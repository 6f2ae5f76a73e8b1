"""The survey: what the sources hold now, with digests and facts; only what is new or may have changed is probed."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from schemas.jobs import RunJob
from schemas.records import Failure
from schemas.release import Release
from schemas.spec import Spec
from schemas.tables import CONTENTS, FAILURES, ITEMS, PARTS, PROBED
from transforms.frames import empty_frame, failures_frame
from transforms.listing import LISTING, list_source
from transforms.store.objects import Objects
from transforms.store.paths import probe_results_path
from transforms.store.tables import read_table

_LISTERS = {"media": list_source}
MOST_IN_BATCH = 256
LEAST_BATCHES = 50


@dataclass(frozen=True)
class Survey:
    """What is there now.

    Attributes:
        items: source, uid, uri, size, signature, metadata, digest, facts; the last two null where probing failed.
        failures: of probing, columns of ``FAILURES`` (item_no still 0).
        probed: items that were probed now.
        emptied: sources that had items and list none any more.
    """

    items: pl.DataFrame
    failures: pl.DataFrame
    probed: int
    emptied: tuple[str, ...]


@dataclass(frozen=True)
class Before:
    """The last release's tables, empty for a new store."""

    release: Release | None
    items: pl.DataFrame
    contents: pl.DataFrame
    parts: pl.DataFrame
    failures: pl.DataFrame


def read_before(objects: Objects, release: Release | None) -> Before:
    """Read the small tables of a release."""
    frames = {}
    for name, schema in (("items", ITEMS), ("contents", CONTENTS), ("parts", PARTS), ("failures", FAILURES)):
        known = release is not None and name in release.tables
        frames[name] = read_table(objects, name, release.tables[name]) if release and known else empty_frame(schema)
    return Before(release, **frames)


def list_sources(spec: Spec, base: Path) -> pl.DataFrame:
    """All sources' items, with the columns of ``LISTING`` and ``kind``."""
    frames = [_LISTERS[source.kind](name, source, base) for name, source in spec.sources.items()]
    kinds = [pl.lit(source.kind).alias("kind") for source in spec.sources.values()]
    listed = [frame.with_columns(kind) for frame, kind in zip(frames, kinds, strict=True)]
    return pl.concat(listed) if listed else pl.DataFrame(schema=LISTING | {"kind": pl.String})


def survey(
    listing: pl.DataFrame,
    before: Before,
    job: RunJob,
    objects: Objects,
    run_probe: Callable[[str], None],
    *,
    retry_all: bool,
    max_attempts: int,
) -> Survey:
    """Bring digests and facts up to date.

    Args:
        listing: what is there.
        before: what was known.
        job: the run, for where files go.
        objects: the store.
        run_probe: runs the probe pipeline over a listing file of the store.
        retry_all: probe known failures again.
        max_attempts: nights on which a transient failure is tried.
    """
    old = before.items.select("source", "uid", "signature", "digest", "facts")
    merged = listing.join(old, on=["source", "uid", "signature"], how="left", maintain_order="left")
    known_failures = _known_failures(before, merged)
    again = pl.lit(retry_all) | (pl.col("transient") & (pl.col("attempts") < max_attempts))
    stale = known_failures.filter(again).select("source", "uid")
    standing = known_failures.join(stale, on=["source", "uid"], how="anti")
    todo = merged.filter(pl.col("digest").is_null()).join(standing, on=["source", "uid"], how="anti")
    results = _probe(todo, job, objects, run_probe)
    attempts = {
        (source, uid): count for source, uid, count in known_failures.select("source", "uid", "attempts").iter_rows()
    }
    fresh = failures_frame(_failures(results, todo, attempts), job.run)
    done = results.filter(pl.col("digest").is_not_null()).select("source", "uid", "digest", "facts")
    items = merged.join(done, on=["source", "uid"], how="left", suffix="_new", maintain_order="left").with_columns(
        pl.coalesce("digest", "digest_new").alias("digest"), pl.coalesce("facts", "facts_new").alias("facts")
    )
    listed = set(listing["source"].unique().to_list())
    emptied = tuple(sorted(set(before.items["source"].unique().to_list()) - listed))
    return Survey(
        items.drop("digest_new", "facts_new"),
        pl.concat([standing.select(fresh.columns), fresh]),
        todo.height,
        emptied,
    )


def _known_failures(before: Before, merged: pl.DataFrame) -> pl.DataFrame:
    """Probe failures of items whose signature has not changed since."""
    unchanged = merged.join(
        before.items.filter(pl.col("digest").is_null()), on=["source", "uid", "signature"], how="semi"
    )
    return before.failures.filter(pl.col("feature") == "").join(unchanged, on=["source", "uid"], how="semi")


def _probe(todo: pl.DataFrame, job: RunJob, objects: Objects, run_probe: Callable[[str], None]) -> pl.DataFrame:
    if todo.is_empty():
        return empty_frame(PROBED)
    size = max(1, min(MOST_IN_BATCH, -(-todo.height // LEAST_BATCHES)))
    path = f"plans/{job.run}/listing.parquet"
    buffer = io.BytesIO()
    rows = todo.select("source", "uid", "uri", "signature", "kind").to_arrow()
    pq.write_table(rows, buffer, row_group_size=size, store_schema=False)
    objects.put(path, buffer.getvalue())
    run_probe(path)
    results = []
    for start in range(0, todo.height, size):
        batch = todo.slice(start, size)
        name = probe_results_path(batch["uri"].to_list(), batch["signature"].to_list())
        results.append(pl.read_parquet(io.BytesIO(objects.get(name))))
    return pl.concat(results)


def _failures(results: pl.DataFrame, todo: pl.DataFrame, attempts: dict[tuple[str, str], int]) -> list[Failure]:
    uris = dict(zip(zip(todo["source"], todo["uid"], strict=True), todo["uri"], strict=True))
    return [
        Failure(
            source=row["source"],
            feature="",
            uid=row["uid"],
            uri=uris[row["source"], row["uid"]],
            item_no=0,
            digest="",
            config="",
            stage=row["stage"],
            type=row["type"],
            message=row["message"],
            transient=bool(row["transient"]),
            attempts=attempts.get((row["source"], row["uid"]), 0) + 1,
        )
        for row in results.filter(pl.col("digest").is_null()).iter_rows(named=True)
    ]
