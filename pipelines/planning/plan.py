"""Making the plan of a run: what is held of each feature, verdicts, numbers, shards; written beside the store."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain

import polars as pl

from cliploom.pipelines.planning.classify import FeatureHistory, RetryPolicy, classify, of_source
from cliploom.pipelines.planning.compile_jobs import CompiledSpec, describe_change
from cliploom.pipelines.planning.discover import Inventory
from cliploom.pipelines.planning.head_jobs import tag_verdicts
from cliploom.pipelines.planning.lost import lost_parts
from cliploom.pipelines.planning.numbering import Numbered, number_items
from cliploom.pipelines.planning.pack import (
    SHARDS,
    SHARDS_IN_ROW_GROUP,
    ShardLayout,
    cost_model_of,
    layout_shards,
    total_cost,
)
from cliploom.pipelines.planning.previous_release import PreviousRelease
from cliploom.pipelines.planning.projection_jobs import projection_verdicts
from cliploom.pipelines.planning.renames import merge_renames
from cliploom.schemas.errors import StoreError
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.plan import COMPUTED, CONFIG_CHANGED, DELETED, FAILED, SEEN, UNCHANGED
from cliploom.schemas.records import REFRESHED, PartRecord
from cliploom.schemas.tables import FAILURES
from cliploom.transforms.publish.assemble import HEAD, ORPHAN
from cliploom.transforms.publish.dataframes import PlanFrames, held_frame, not_renamed, reported_failures, write_frames
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import read_record
from cliploom.transforms.store.tables import ROWS_IN_GROUP, contents_of
from cliploom.transforms.work.part_records import PartRecordFrames, report
from cliploom.transforms.work.plan_ref import ITEMS_FILE, PLAN, newest_plan

_HELD = ("item_no", "uid", "digest", "segment", "segments", "planned", "rows")


@dataclass(frozen=True)
class PlanDraft:
    """A plan before it is executed.

    Attributes:
        numbered: all items.
        tables: the small frames that workers read.
        verdicts: feature, item_no, uid, verdict, reason, ...
        tags: the same of features that trained heads make: predicted labels, and projected rows.
        work: what is to be computed: feature, item_no, uid, digest, attempt.
        layout: packed work, costliest first.
        counts: had, deleted (not renamed ones), known_failed, probed, recompute, cost_ms (estimated).
        emptied: sources that had items and list none any more.
        lost: by feature, parts that the last release names and the store no longer has.
        recompute_reason: why items whose bytes did not change are computed again.
        taken_over: counters of finished parts that the last release does not name, see ``count_taken_over``.
    """

    numbered: Numbered
    tables: PlanFrames
    verdicts: pl.DataFrame
    tags: pl.DataFrame
    work: pl.DataFrame
    layout: ShardLayout
    counts: dict[str, int]
    emptied: tuple[str, ...]
    lost: dict[str, tuple[str, ...]]
    recompute_reason: str
    taken_over: dict[str, int] = field(default_factory=dict)

    @property
    def all_verdicts(self) -> pl.DataFrame:
        """Of all features."""
        return pl.concat([self.verdicts, self.tags])

    def write(self, objects: ObjectStore, folder: str) -> None:
        """Write the plan's tables, shards and verdicts as files that workers and people read."""
        objects.put(f"{folder}/{ITEMS_FILE}", self.numbered.data)
        self.tables.write(objects, folder)
        shards = chain([pl.DataFrame(schema=SHARDS)], self.layout.written())
        write_frames(objects, f"{folder}/shards.parquet", shards, SHARDS_IN_ROW_GROUP)
        self.write_verdicts(objects, folder)

    def write_verdicts(self, objects: ObjectStore, folder: str) -> str:
        """Write the verdicts alone; returns the file's path."""
        path = f"{folder}/verdicts.parquet"
        told = self.all_verdicts
        parts = (part.with_columns(pl.col("verdict").cast(pl.String)) for part in told.iter_slices(ROWS_IN_GROUP))
        write_frames(objects, path, parts if told.height else [told], ROWS_IN_GROUP)
        return path


def with_addresses(work: pl.DataFrame, numbered: Numbered) -> pl.DataFrame:
    """Work as packing takes it: with uri, signature, facts of its items."""
    found = numbered.read_some(work["item_no"].unique(), ["uri", "signature", "facts"])
    if found["item_no"].equals(work["item_no"]):  # one feature: nothing is held twice
        return work.hstack(found.drop("item_no"))
    return work.join(found, on="item_no", how="left", maintain_order="left")


def orphans_of(
    objects: ObjectStore, job: FeatureJob, published: pl.DataFrame, made_by: dict[str, str]
) -> PartRecordFrames:
    """Finished parts of a feature's config that the last release does not name: a killed run's, an older one's.

    Args:
        objects: the store.
        job: the feature.
        published: columns of ``PARTS``, of its table in the last release.
        made_by: gets the run that made each part.
    """
    known = set(published["part"].to_list())

    def records() -> Iterator[PartRecord]:
        for entry in sorted(objects.list(job.table), key=lambda entry: entry.path):
            name = entry.path.rsplit("/", 1)[-1]
            if name.startswith("part-") and name.endswith(".parquet") and "/_" not in entry.path and name not in known:
                try:
                    record = read_record(objects, job.table, name, hashed=False)
                except StoreError:
                    continue  # not adopted; the shard that wants this name would be told by its own read
                if record is not None:
                    made_by[name] = record.run
                    yield record

    return report(records())


def count_taken_over(
    orphans: Collection[PartRecordFrames], items: pl.DataFrame, work: pl.DataFrame, made_by: Mapping[str, str], run: str
) -> dict[str, int]:
    """Return counters of finished parts that are taken over, by the names of workers' counters.

    An attempt of the same run has made those of this run: they count as computed by it, and as resumed. Those of
    other runs count as adopted.

    Args:
        orphans: finished parts of each feature.
        items: item_no and digest of all items of the plan; parts without any of them are not used.
        work: item_no of items that are still to be computed for some feature.
        made_by: run that made each part.
        run: id of this run.
    """
    wanted = items.select("item_no", "digest")
    used = [
        (reported, reported.contents.join(wanted, on=["item_no", "digest"], how="semi").select("part", "item_no"))
        for reported in orphans
        if reported.parts.height
    ]
    if not used:
        return {}
    mine = pl.Series([part for part, maker in made_by.items() if maker == run], dtype=pl.String)
    is_mine = pl.col("part").is_in(mine.implode())
    contents = pl.concat([contents for _, contents in used])
    parts = pl.concat([reported.parts.select("part", "rows", "size") for reported, _ in used])
    parts = parts.join(contents, on="part", how="semi")
    own = parts.filter(is_mine)
    done = contents.filter(is_mine).join(work, on="item_no", how="anti")["item_no"].n_unique()
    failures = pl.concat([reported.failures.select("part", "type") for reported, _ in used])
    types = failures.join(own, on="part", how="semi")["type"].value_counts()
    found = {f"failed_{kind}": count for kind, count in types.rows()}
    found |= {
        "rows": int(own["rows"].sum()),
        "bytes_written": int(own["size"].sum()),
        "parts": own.height,
        "parts_resumed": own.height,
        "items_seen": done,
        "items_done": done,
        "items_resumed": done,
        "parts_adopted": parts.height - own.height,
        "adopted": contents.filter(~is_mine)["item_no"].n_unique(),
    }
    return {name: value for name, value in found.items() if value}


def numbers_of_killed_run(objects: ObjectStore, previous: PreviousRelease) -> pl.DataFrame:
    """Numbers that the newest run from the same release gave to its items, though it was not published.

    Its parts name some of them only; the others must not get these numbers in another order.
    """
    columns = ["source", "uid", "item_no"]
    plan = newest_plan(objects)
    if plan is not None:
        base = json.loads(objects.get(plan))["base"]
        # A vacuum that was stopped may have left a plan without its tables.
        with suppress(FileNotFoundError):
            if (base and base["release"]) == (previous.release and previous.release.release):
                with objects.local_copy(plan.removesuffix(PLAN) + ITEMS_FILE) as local:
                    return pl.read_parquet(local, columns=columns).select(columns)
    return previous.items.select(columns).clear()


def make_plan(
    objects: ObjectStore,
    previous: PreviousRelease,
    found: Inventory,
    compiled: CompiledSpec,
    policy: RetryPolicy,
    segment_s: float,
    next_item_no: int,
    *,
    refresh: bool = False,
    new_first: bool = False,
    run: str = "",
    workers: int = 1,
) -> PlanDraft:
    """Judge every (item, feature), adopt what killed runs left, pack the rest.

    The survey's items are taken over: nobody holds them any more.

    With ``new_first``, items that readers can't find yet come before those of which they have rows.
    """
    known = previous.items.select("source", "uid", "item_no")
    with previous.item_rows(objects) as rows:
        numbered = number_items(found.pop_items(), known, next_item_no, found.facts, rows)
    lost = lost_parts(objects, previous, compiled.jobs)
    orphans = dict.fromkeys(compiled.jobs, report([]))
    made_by: dict[str, str] = {}
    verdicts = _classify_all(objects, previous, compiled, numbered.items, orphans, lost, policy, refresh)
    if not verdicts["verdict"].is_in([UNCHANGED, FAILED, DELETED]).all():
        # Killed runs have allotted numbers and finished parts; both are taken over.
        orphans = {
            name: orphans_of(objects, job, previous.parts.filter(_made_as(job)), made_by)
            for name, job in compiled.jobs.items()
        }
    if any(reported.parts.height for reported in orphans.values()):
        known = _known_numbers(known, numbers_of_killed_run(objects, previous), orphans, compiled.jobs)
        numbered = number_items(numbered.read().drop("item_no"), known, next_item_no)
        verdicts = _classify_all(objects, previous, compiled, numbered.items, orphans, lost, policy, refresh)
    items = numbered.items
    attempt = pl.col("attempts").fill_null(0).cast(pl.Int64)
    if refresh:
        attempt += REFRESHED * (1 + (previous.release.release if previous.release else 0))
    work = verdicts.filter(pl.col("verdict").is_in(COMPUTED))
    work = work.select("feature", "item_no", "uid", "digest", attempt.alias("attempt"))
    cost_models = {name: cost_model_of(job) for name, job in compiled.jobs.items()}
    later = verdicts.filter(pl.col("verdict").is_in(SEEN))["item_no"].unique() if new_first else None
    layout = layout_shards(with_addresses(work, numbered), cost_models, segment_s, later, workers)
    tables = PlanFrames(
        adopted=pl.concat([held_frame(reported, ORPHAN) for reported in orphans.values()]),
        parts=pl.concat(
            [
                *(previous.parts.filter(_made_as(job) & ~_among(lost, name)) for name, job in compiled.jobs.items()),
                *(reported.parts for reported in orphans.values()),
            ]
        ),
        failures=_failures(previous, found, items, compiled, orphans),
    )
    counts = {
        "had": previous.items.height,
        "deleted": _deleted(previous.items, items),
        "known_failed": previous.failures.filter(~pl.col("partial")).select("source", "uid").unique().height,
        "probed": found.probed,
        "recompute": _recomputed(verdicts, previous),
        "cost_ms": round(1000 * total_cost(layout.shards)),
    }
    verdicts = merge_renames(_name_probe_failures(verdicts, tables.failures), previous.items)
    reasons = verdicts.filter(pl.col("verdict") == CONFIG_CHANGED)["reason"]
    projected = projection_verdicts(compiled.projections, verdicts, previous.release)
    heads = previous.release.heads if previous.release else {}
    tags = pl.concat([tag_verdicts(compiled.heads, pl.concat([verdicts, projected]), heads), projected])
    lost |= lost_parts(objects, previous, compiled.projections)
    reason = reasons[0] if len(reasons) else ""
    taken_over = count_taken_over(orphans.values(), items, work, made_by, run)
    return PlanDraft(numbered, tables, verdicts, tags, work, layout, counts, found.emptied, lost, reason, taken_over)


def _made_as(job: FeatureJob) -> pl.Expr:
    """Rows of ``PARTS``, ``CONTENTS`` or ``FAILURES`` about a feature's wanted config."""
    return (pl.col("feature") == job.name) & (pl.col("config") == job.config)


def _name_probe_failures(verdicts: pl.DataFrame, failures: pl.DataFrame) -> pl.DataFrame:
    """Verdicts whose reasons say of which type the failure of an item without a digest was."""
    types = failures.filter(pl.col("feature") == "").unique("item_no").select("item_no", "type")
    if types.is_empty():
        return verdicts
    kind = pl.col("item_no").replace_strict(types["item_no"], types["type"], default=None, return_dtype=pl.String)
    said = pl.concat_str(pl.lit("could not be probed: "), kind)
    failed = pl.col("digest").is_null() & (pl.col("verdict") == FAILED) & kind.is_not_null()
    return verdicts.with_columns(pl.when(failed).then(said).otherwise("reason").alias("reason"))


def _deleted(previous: pl.DataFrame, items: pl.DataFrame) -> int:
    """Items that are gone; one that was renamed is not, but each of several copies is an item."""
    gone = previous.join(items, on="item_no", how="anti").select("digest")
    came = items.join(previous, on="item_no", how="anti").select("digest")
    return not_renamed(gone, came).height


def _recomputed(verdicts: pl.DataFrame, previous: PreviousRelease) -> int:
    """Items computed again although their bytes did not change."""
    again = verdicts.filter(pl.col("verdict") == CONFIG_CHANGED)
    return again.select("item_no").unique().height if previous.release else 0


def _among(lost: Mapping[str, tuple[str, ...]], feature: str) -> pl.Expr:
    return pl.col("part").is_in(list(lost.get(feature, ())))


def _past(
    objects: ObjectStore,
    previous: PreviousRelease,
    job: FeatureJob,
    compiled: CompiledSpec,
    orphans: PartRecordFrames,
    lost: Mapping[str, tuple[str, ...]],
) -> FeatureHistory:
    contents = contents_of(objects, previous.release, job.name, ["config", "part", *_HELD])
    release = previous.release
    entry = release.features.get(job.name) if release else None
    mine = contents.select((pl.col("config") == job.config) & ~_among(lost, job.name)).to_series()
    recent = reported_failures(orphans, "")
    return FeatureHistory(
        held=pl.concat(
            [
                (contents if mine.all() else contents.filter(mine)).select(*_HELD, origin=pl.lit(HEAD, pl.Int32)),
                orphans.contents.select(*_HELD, origin=pl.lit(ORPHAN, pl.Int32)),
            ]
        ),
        failures=previous.failures.filter(_made_as(job)),
        recent=recent.select(previous.failures.columns),
        had=contents.select("item_no", "uid", "digest"),
        change=(describe_change(entry.recipe, compiled.recipes[job.name]) if entry else "")
        or ("the part that held it is missing" if job.name in lost else ""),
    )


def _classify_all(
    objects: ObjectStore,
    previous: PreviousRelease,
    compiled: CompiledSpec,
    items: pl.DataFrame,
    orphans: Mapping[str, PartRecordFrames],
    lost: Mapping[str, tuple[str, ...]],
    policy: RetryPolicy,
    refresh: bool,
) -> pl.DataFrame:
    frames = []
    for name, job in compiled.jobs.items():
        past = _past(objects, previous, job, compiled, orphans[name], lost)
        frames.append(classify(name, of_source(items, job.source), past, policy, refresh))
    return pl.concat(frames)


def _known_numbers(
    numbers: pl.DataFrame,
    planned: pl.DataFrame,
    orphans: Mapping[str, PartRecordFrames],
    jobs: Mapping[str, FeatureJob],
) -> pl.DataFrame:
    """Numbers of the last release, and those that killed runs gave to items it does not know."""
    given = [
        reported.contents.select(pl.lit(jobs[name].source).alias("source"), "uid", "item_no")
        for name, reported in orphans.items()
    ]
    left = pl.concat(given).unique().sort("source", "uid", "item_no")
    for more in (planned, left):
        fresh = more.join(numbers, on=["source", "uid"], how="anti").join(numbers, on="item_no", how="anti")
        fresh = fresh.unique(["source", "uid"], keep="first", maintain_order=True)
        numbers = pl.concat([numbers, fresh.unique("item_no", keep="first", maintain_order=True)])
    return numbers


def _failures(
    previous: PreviousRelease,
    found: Inventory,
    items: pl.DataFrame,
    compiled: CompiledSpec,
    orphans: Mapping[str, PartRecordFrames],
) -> pl.DataFrame:
    """Failures known before computing: of probing, of earlier runs for wanted configs, of adopted parts."""
    numbers = items.join(found.failures, on="uid", how="semi").select("source", "uid", "item_no")
    # Rows of texts that name no video, or one that nothing else is known of, have no item.
    probing = found.failures.drop("item_no").join(numbers, on=["source", "uid"], how="left", maintain_order="left")
    probing = probing.with_columns(pl.col("item_no").fill_null(0))
    configs = [job.config for job in compiled.jobs.values()]
    earlier = previous.failures.filter((pl.col("feature") != "") & pl.col("config").is_in(configs))
    adopted = pl.concat([reported_failures(reported, "") for reported in orphans.values()])
    columns = FAILURES.names
    return pl.concat([probing.select(columns), earlier.select(columns), adopted.select(columns)]).unique(
        ["source", "feature", "uid", "digest", "config", "stage", "message"], keep="first", maintain_order=True
    )
