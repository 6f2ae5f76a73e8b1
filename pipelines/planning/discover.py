"""Lists the sources and brings digests and facts up to date; only new or possibly changed items are probed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl
import polars.selectors as cs
import pyarrow as pa

from cliploom.pipelines.planning.classify import of_source
from cliploom.pipelines.planning.previous_release import PreviousRelease
from cliploom.pipelines.planning.reprobe import is_outdated, with_outdated_unknown
from cliploom.pipelines.planning.row_store import ParquetRowStore, RowStoreWriter
from cliploom.schemas.errors import StoreError
from cliploom.schemas.exports import PairsExport
from cliploom.schemas.jobs import RunJob
from cliploom.schemas.records import Failure
from cliploom.schemas.spec import Spec
from cliploom.transforms.inputs.inside import INSIDE, LIST
from cliploom.transforms.inputs.listing import LISTING, KnownListing
from cliploom.transforms.publish.dataframes import failures_frame, write_frames
from cliploom.transforms.sources.base import ListContext
from cliploom.transforms.sources.listing import list_one
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.paths import ALIKE, TO_PROBE, probe_results_path

LISTED = LISTING | {"digest": pl.String, "facts": pl.String}
FACTS = pa.schema([pa.field("row", pa.uint32()), pa.field("facts", pa.string())])
MOST_IN_BATCH = 256
LEAST_BATCHES = 50
MOST_ALIKE = 4
BATCHES_AT_ONCE = 1000


@dataclass
class Inventory:
    """The current items of all sources.

    Attributes:
        items: columns of ``LISTED``; digest is null if probing failed, facts if the listing does not provide them.
            Empty after they were handed over.
        facts: facts of the items probed in this run, by row.
        failures: failures of probing, columns of ``FAILURES`` (item_no is still 0).
        probed: number of items probed in this run.
        emptied: sources of the spec that had items and now list none.
    """

    items: pl.DataFrame
    facts: ParquetRowStore
    failures: pl.DataFrame
    probed: int
    emptied: tuple[str, ...]

    def pop_items(self) -> pl.DataFrame:
        """Hand over the items, so that only one copy is in memory."""
        items, self.items = self.items, self.items.clear()
        return items


def list_sources(spec: Spec, base: Path, objects: ObjectStore) -> KnownListing:
    """List all sources: columns of ``LISTING``, and ``digest``, ``facts`` where the listing provides them.

    Texts are read if their files are new; ``notes`` count them and the videos that have both texts and media.
    """
    frames = [pl.DataFrame(schema=LISTED)]
    failures: list[Failure] = []
    notes: list[str] = []
    narrated: dict[str, pl.DataFrame] = {}
    clips: dict[str, pl.DataFrame] = {}
    for name, source in spec.sources.items():
        listed = list_one(source, ListContext(name, base, objects, notes.append))
        frame = listed.items
        failures += listed.failures
        notes += listed.notes
        if source.content == "texts" and listed.failures and frame.is_empty():
            first = " ".join(failure.message for failure in listed.failures[:3])
            notes.append(f"Warning: no row of {name} can be used: {first}")
        frames.append(frame)
        if source.about_media:
            narrated[name] = frame.select("uid", "uri")
        elif source.content != "texts" and not source.records:
            clips[name] = frame.select("uid", "uri")
    if narrated and clips:
        from cliploom.transforms.narrations.listing import list_notes, matching_notes

        texts = {name: items.rows() for name, items in narrated.items()}
        media = {name: items.rows() for name, items in clips.items()}
        notes += matching_notes(texts, media)
        for name, export in spec.exports.items():
            if isinstance(export, PairsExport):
                said, seen = (spec.features[each].source for each in (export.text, export.feature))
                if said in texts and seen in media:
                    sides = (said, texts[said]), (seen, media[seen])
                    notes += list_notes(f"exports.{name}", export, base, *sides)
    items = pl.concat(frames, how="diagonal").select(*LISTED)
    return KnownListing(items, tuple(failures), tuple(notes))


def keep_unlisted(listing: KnownListing, previous: PreviousRelease, objects: ObjectStore) -> KnownListing:
    """Add the last release's items of files that cannot be listed now to the listing, unchanged.

    A damaged HDF5 file is then one failure, and the rows of its items are kept until it is repaired or removed.
    """
    files = pl.DataFrame(
        [(failure.source, failure.uri + INSIDE) for failure in listing.failures if failure.stage == LIST],
        schema={"source": pl.String, "file": pl.String},
        orient="row",
    )
    known = previous.items.join(files, on="source", how="semi")
    if known.is_empty():
        return listing
    with previous.item_rows(objects) as rows:
        found = rows.read(known["item_no"], [*LISTING])
    file = pl.col("uri").str.replace(f"(?s)^(.*){INSIDE}.*$", f"${{1}}{INSIDE}")
    kept = found.with_columns(file.alias("file")).join(files, on=["source", "file"], how="semi")
    kept = kept.join(listing.items, on=["source", "uid"], how="anti")
    return replace(listing, items=pl.concat([listing.items, kept.select(*LISTING)], how="diagonal"))


def discover(
    listing: KnownListing,
    previous: PreviousRelease,
    kinds: Mapping[str, str],
    job: RunJob,
    objects: ObjectStore,
    run_probe: Callable[[str], None],
    *,
    retry_all: bool,
    max_attempts: int,
) -> Inventory:
    """Bring digests and facts up to date.

    Args:
        listing: the current listing.
        previous: the previous release.
        kinds: kinds of the spec's sources by name; a declared source that lists nothing may be a missing disk.
        job: settings of the run, for the paths of files.
        objects: the store.
        run_probe: runs the probe pipeline over a listing file of the store.
        retry_all: whether to probe known failures again.
        max_attempts: number of runs that try an item with a transient failure.
    """
    items = _with_known_digests(listing.items, previous.items)
    items = with_outdated_unknown(items, previous, kinds, objects)
    unknown = items["digest"].is_null()
    todo = items.select("source", "uid", "uri", "signature", "size").with_row_index("row").filter(unknown)
    todo = todo.with_columns(pl.col("source").replace_strict(kinds, return_dtype=pl.String).alias("kind"))
    failing = _known_failures(previous, todo)
    # A newer prober may be able to read what failed before.
    retry_all = retry_all or previous.probed_by_older_version
    again = pl.lit(retry_all) | (pl.col("transient") & (pl.col("attempts") < max_attempts))
    stale = failing.filter(again).select("source", "uid")
    standing = failing.join(stale, on=["source", "uid"], how="anti")
    todo = todo.join(standing, on=["source", "uid"], how="anti", maintain_order="left") if standing.height else todo
    todo = _with_attempts(todo, failing)
    done, failed, facts = [], [], RowStoreWriter(FACTS)
    for batch in _probed(todo, previous, job, objects, run_probe):
        fine = pl.col("digest").is_not_null()
        found = batch.filter(fine)
        done.append(found.select("row", "digest"))
        facts.add(found)
        failed += _failures(batch.filter(~fine))
    probed = todo.height
    del todo
    fresh = failures_frame([*listing.failures, *failed], job.run)
    listed, had = set(items["source"].unique()), set(previous.items["source"].unique())
    emptied = tuple(sorted((had & set(kinds)) - listed))
    if done:
        items = items.with_columns(_digests(items, pl.concat(done)))
    return Inventory(items, facts.packed(), pl.concat([standing.select(fresh.columns), fresh]), probed, emptied)


def _probed(
    todo: pl.DataFrame, previous: PreviousRelease, job: RunJob, objects: ObjectStore, run_probe: Callable[[str], None]
) -> Iterator[pl.DataFrame]:
    """Probe a listing, see ``probe_listing``. The previous items, a download in a bucket, are only opened if needed."""
    if todo.is_empty():
        return
    known = previous.items.filter(pl.col("digest").is_not_null())
    with previous.item_rows(objects) as rows:
        yield from probe_listing(todo, "listing", job, objects, run_probe, partial(_with_alike, known, rows))


def _with_attempts(todo: pl.DataFrame, failing: pl.DataFrame) -> pl.DataFrame:
    """Add the column ``attempts``, int64: number of runs in which the item failed."""
    if failing.is_empty():
        return todo.with_columns(pl.lit(0, pl.Int64).alias("attempts"))
    known = failing.group_by("source", "uid").agg(pl.col("attempts").max().cast(pl.Int64))
    return todo.join(known, on=["source", "uid"], how="left", maintain_order="left").with_columns(
        pl.col("attempts").fill_null(0)
    )


def _with_known_digests(listing: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Add the known digests of items whose signature has not changed."""
    frames = [listing.clear()]
    for source in listing["source"].unique(maintain_order=True):
        mine = of_source(listing, source)
        theirs = of_source(known, source).select("uid", pl.col("signature").alias("was"), pl.col("digest").alias("had"))
        # Joining by one string column takes much less memory than by three.
        both = mine.select("uid", "signature", "digest").join(theirs, on="uid", how="left", maintain_order="left")
        same = pl.when(pl.col("was") == pl.col("signature")).then("had")
        frames.append(mine.with_columns(both.select(pl.coalesce("digest", same))["digest"]))
    return pl.concat(frames)


def _digests(items: pl.DataFrame, done: pl.DataFrame) -> pl.Series:
    """Return the items' digests, including those found by probing, by row."""
    found = items.select("digest").with_row_index("row")
    found = found.join(done, on="row", how="left", suffix="_new", maintain_order="left")
    return found.select(pl.coalesce("digest", "digest_new"))["digest"]


def _with_alike(known: pl.DataFrame, rows: ParquetRowStore, todo: pl.DataFrame) -> pl.DataFrame:
    """Add the column ``ALIKE``: facts of the item's earlier content and of other items with the same size.

    A file that was touched, renamed or copied then only costs a digest.
    """
    key = ["source", "size"]
    near = known.join(todo, on=key, how="semi", maintain_order="left")
    few = near.filter(pl.int_range(pl.len()).over(key) < MOST_ALIKE)
    named = near.join(todo, on=["source", "uid"], how="semi", maintain_order="left")
    near = pl.concat([few, named]).unique("item_no", maintain_order=True)
    near = near.join(rows.read(near["item_no"], ["facts"]), on="item_no", how="left", maintain_order="left")
    near = near.filter(~is_outdated().fill_null(value=False))
    near = near.select("source", "uid", "size", pl.struct("digest", "facts").alias(ALIKE))
    by_size = near.group_by(key).agg(pl.col(ALIKE).head(MOST_ALIKE))
    own = near.select("source", "uid", pl.concat_list(ALIKE).alias("own"))
    found = todo.join(own, on=["source", "uid"], how="left", maintain_order="left")
    found = found.join(by_size, on=key, how="left", maintain_order="left")
    return found.with_columns(pl.concat_list(pl.col("own", ALIKE).fill_null([])).alias(ALIKE)).drop("own")


def _known_failures(previous: PreviousRelease, todo: pl.DataFrame) -> pl.DataFrame:
    """Return probe failures of items whose signature has not changed."""
    unchanged = previous.items.filter(pl.col("digest").is_null()).join(
        todo, on=["source", "uid", "signature"], how="semi"
    )
    return previous.failures.filter(pl.col("feature") == "").join(unchanged, on=["source", "uid"], how="semi")


def probe_listing(
    todo: pl.DataFrame,
    name: str,
    job: RunJob,
    objects: ObjectStore,
    run_probe: Callable[[str], None],
    with_alike: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
) -> Iterator[pl.DataFrame]:
    """Probe items on workers.

    Args:
        todo: items to probe, with the columns ``TO_PROBE``.
        name: name of the file in the plan's folder to write the items to.
        job: settings of the run.
        objects: the store.
        run_probe: runs the probe pipeline over a listing file of the store.
        with_alike: adds the column ``ALIKE`` to some of the items.

    Yields:
        Some of the items, in their order, with the columns of ``PROBED``.
    """
    if todo.is_empty():
        return
    size = max(1, min(MOST_IN_BATCH, -(-todo.height // LEAST_BATCHES)))
    path = f"plans/{job.run}/{name}.parquet"
    pieces = todo.iter_slices(BATCHES_AT_ONCE * size)
    listed = (piece if with_alike is None else with_alike(piece) for piece in pieces)
    columns = cs.by_name(*TO_PROBE, ALIKE, require_all=False)
    write_frames(objects, path, (piece.select(columns) for piece in listed), size)
    run_probe(path)
    for batch in todo.iter_slices(size):
        results = probe_results_path(batch.select(TO_PROBE).iter_rows(), job.media_limits)
        try:
            found = pl.read_parquet(io.BytesIO(objects.get(results)))
        except FileNotFoundError:
            raise StoreError(
                f"{batch.height} inputs were to be probed but no worker reported them, such as {batch['uid'][0]!r}; "
                "nothing was published, run again: what was probed is kept."
            ) from None
        yield batch.join(found, on=["source", "uid"], how="left", maintain_order="left")


def _failures(failed: pl.DataFrame) -> list[Failure]:
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
