"""The survey: what the sources hold now, with digests and facts; only what is new or may have changed is probed."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs

from schemas.jobs import RunJob
from schemas.records import Failure
from schemas.release import Release
from schemas.spec import Spec
from schemas.tables import FAILURES, ITEMS, PARTS, PROBED
from transforms.inputs.label_listing import list_media
from transforms.inputs.listing import LISTING, KnownListing
from transforms.precomputed.source import list_precomputed
from transforms.publish.frames import empty_frame, failures_frame, write_frames
from transforms.store.objects import Objects
from transforms.store.paths import ALIKE, TO_PROBE, probe_results_path
from transforms.store.tables import read_table
from transforms.tfrecords.settings import list_shards

_LISTERS: Mapping[str, Callable[[str, Any, Path], pl.DataFrame]] = {
    "media": list_media,
    "tfrecord": list_shards,
    "precomputed": list_precomputed,
}
_TEXT_LISTERS = {
    "narrations": "transforms.narrations.listing:list_narrations",
    "labels": "transforms.narrations.listing:list_labels",
}
LISTED = LISTING | {"kind": pl.String, "known_digest": pl.String, "known_facts": pl.String}
MOST_IN_BATCH = 256
LEAST_BATCHES = 50
MOST_ALIKE = 4
BATCHES_AT_ONCE = 1000


@dataclass
class Survey:
    """What is there now.

    Attributes:
        items: source, uid, uri, size, signature, metadata, digest, facts; the last two null where probing failed. Gone
            when they are taken.
        failures: of probing, columns of ``FAILURES`` (item_no still 0).
        probed: items that were probed now.
        emptied: sources of the spec that had items and list none any more.
    """

    items: pl.DataFrame
    failures: pl.DataFrame
    probed: int
    emptied: tuple[str, ...]

    def take_items(self) -> pl.DataFrame:
        """The items, which are too many to be held by two."""
        items, self.items = self.items, self.items.clear()
        return items


@dataclass(frozen=True)
class Before:
    """The last release's tables, empty for a new store; ``contents`` are read by who needs them, for one feature."""

    release: Release | None
    items: pl.DataFrame
    parts: pl.DataFrame
    failures: pl.DataFrame

    def without_texts(self) -> Before:
        """The same once the survey is done: of the items only what a plan compares."""
        return replace(self, items=self.items.select("item_no", "source", "uid", "digest"))


def read_before(objects: Objects, release: Release | None) -> Before:
    """Read the small tables of a release."""
    frames = {}
    for name, schema in (("items", ITEMS), ("parts", PARTS), ("failures", FAILURES)):
        known = release is not None and name in release.tables
        frames[name] = read_table(objects, name, release.tables[name]) if release and known else empty_frame(schema)
    return Before(release, **frames)


def list_sources(spec: Spec, base: Path, objects: Objects) -> KnownListing:
    """All sources' items: the columns of ``LISTING``, ``kind``, and ``known_digest``, ``known_facts`` or null.

    Texts are read when their files are new; ``notes`` say what they hold and which videos have both texts and media.
    """
    frames = [pl.DataFrame(schema=LISTED)]
    failures: list[Failure] = []
    notes: list[str] = []
    narrated: dict[str, pl.Series] = {}
    clips: dict[str, pl.Series] = {}
    for name, source in spec.sources.items():
        if source.kind in _TEXT_LISTERS:
            module, _, function = _TEXT_LISTERS[source.kind].partition(":")
            listed: KnownListing = getattr(importlib.import_module(module), function)(name, source, base, objects)
            frame = listed.items.rename({"digest": "known_digest", "facts": "known_facts"})
            failures += listed.failures
            notes += listed.notes
        else:
            frame = _LISTERS[source.kind](name, source, base)
        frames.append(frame.with_columns(pl.lit(source.kind).alias("kind")))
        if source.kind in ("narrations", "media", "precomputed"):
            (narrated if source.kind == "narrations" else clips)[name] = frame["uid"]
    if narrated and clips:
        from transforms.narrations.listing import matching_notes

        notes += matching_notes(
            {name: uids.to_list() for name, uids in narrated.items()},
            {name: uids.to_list() for name, uids in clips.items()},
        )
    items = pl.concat(frames, how="diagonal").select(*LISTED)
    return KnownListing(items, tuple(failures), tuple(notes))


def survey(
    listing: KnownListing,
    before: Before,
    sources: Collection[str],
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
        sources: names of the spec's sources; one that is declared but lists nothing looks like a lost disk.
        job: the run, for where files go.
        objects: the store.
        run_probe: runs the probe pipeline over a listing file of the store.
        retry_all: probe known failures again.
        max_attempts: nights on which a transient failure is tried.
    """
    old = before.items.select("source", "uid", "signature", "digest", "facts")
    merged = listing.items.join(old, on=["source", "uid", "signature"], how="left", maintain_order="left")
    merged = merged.with_columns(
        pl.coalesce("known_digest", "digest").alias("digest"), pl.coalesce("known_facts", "facts").alias("facts")
    ).drop("known_digest", "known_facts")
    known_failures = _known_failures(before, merged)
    again = pl.lit(retry_all) | (pl.col("transient") & (pl.col("attempts") < max_attempts))
    stale = known_failures.filter(again).select("source", "uid")
    standing = known_failures.join(stale, on=["source", "uid"], how="anti")
    todo = merged.filter(pl.col("digest").is_null()).select("source", "uid", "uri", "signature", "kind", "size")
    todo = todo.join(standing, on=["source", "uid"], how="anti")
    attempts = known_failures.group_by("source", "uid").agg(pl.col("attempts").max().cast(pl.Int64))
    todo = todo.join(attempts, on=["source", "uid"], how="left", maintain_order="left")
    todo = todo.with_columns(pl.col("attempts").fill_null(0))
    results = probe_listing(_with_alike(todo, before.items), "listing", job, objects, run_probe)
    fresh = failures_frame([*listing.failures, *_failures(results, todo)], job.run)
    listed, had = set(listing.items["source"].unique()), set(before.items["source"].unique())
    emptied = tuple(sorted((had & set(sources)) - listed))
    items = _with_results(merged, results)
    return Survey(items, pl.concat([standing.select(fresh.columns), fresh]), todo.height, emptied)


def _with_results(merged: pl.DataFrame, results: pl.DataFrame) -> pl.DataFrame:
    """The items with the digests and facts that probing found."""
    done = results.filter(pl.col("digest").is_not_null()).select("source", "uid", "digest", "facts")
    if done.is_empty():
        return merged
    found = merged.join(done, on=["source", "uid"], how="left", suffix="_new", maintain_order="left")
    return found.with_columns(
        pl.coalesce("digest", "digest_new").alias("digest"), pl.coalesce("facts", "facts_new").alias("facts")
    ).drop("digest_new", "facts_new")


def _with_alike(todo: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Further column ``ALIKE``: what is known of the item by its name, and of others with as many bytes.

    A file that was touched, renamed or copied then costs a digest.
    """
    if todo.is_empty() or known.is_empty():
        return todo
    known = known.filter(pl.col("digest").is_not_null()).select("source", "uid", "size", pl.struct("digest", "facts"))
    known = known.join(todo, on=["source", "size"], how="semi")
    by_size = known.group_by("source", "size").agg(pl.col("digest").head(MOST_ALIKE).alias(ALIKE))
    own = known.select("source", "uid", pl.concat_list("digest").alias("own"))
    found = todo.join(own, on=["source", "uid"], how="left", maintain_order="left")
    found = found.join(by_size, on=["source", "size"], how="left", maintain_order="left")
    return found.with_columns(pl.concat_list(pl.col("own", ALIKE).fill_null([])).alias(ALIKE)).drop("own")


def _known_failures(before: Before, merged: pl.DataFrame) -> pl.DataFrame:
    """Probe failures of items whose signature has not changed since."""
    unchanged = merged.join(
        before.items.filter(pl.col("digest").is_null()), on=["source", "uid", "signature"], how="semi"
    )
    return before.failures.filter(pl.col("feature") == "").join(unchanged, on=["source", "uid"], how="semi")


def probe_listing(
    todo: pl.DataFrame, name: str, job: RunJob, objects: Objects, run_probe: Callable[[str], None]
) -> pl.DataFrame:
    """Probe items on workers.

    Args:
        todo: with the columns ``TO_PROBE``, and perhaps ``ALIKE``.
        name: of the file among the run's plan files that the items are written to.
        job: the run.
        objects: the store.
        run_probe: runs the probe pipeline over a listing file of the store.

    Returns:
        The columns of ``PROBED``.
    """
    if todo.is_empty():
        return empty_frame(PROBED)
    size = max(1, min(MOST_IN_BATCH, -(-todo.height // LEAST_BATCHES)))
    path = f"plans/{job.run}/{name}.parquet"
    rows = todo.select(TO_PROBE)
    listed = todo.select(*TO_PROBE, cs.by_name(ALIKE, require_all=False))
    write_frames(objects, path, listed.iter_slices(BATCHES_AT_ONCE * size), size)
    run_probe(path)
    results = []
    for start in range(0, todo.height, size):
        found = probe_results_path(rows.slice(start, size).iter_rows(), job.media_limits)
        results.append(pl.read_parquet(io.BytesIO(objects.get(found))))
    return pl.concat(results)


def _failures(results: pl.DataFrame, todo: pl.DataFrame) -> list[Failure]:
    failed = results.filter(pl.col("digest").is_null()).drop("digest", "facts")
    failed = failed.join(todo.select("source", "uid", "uri", "attempts"), on=["source", "uid"], maintain_order="left")
    return [
        Failure(
            source=row["source"],
            feature="",
            uid=row["uid"],
            uri=row["uri"],
            item_no=0,
            digest="",
            config="",
            stage=row["stage"],
            type=row["type"],
            message=row["message"],
            transient=bool(row["transient"]),
            attempts=row["attempts"] + 1,
        )
        for row in failed.iter_rows(named=True)
    ]
