"""Making the plan of a run: what is held of each feature, verdicts, numbers, shards; written beside the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from pipelines.head_jobs import tag_verdicts
from pipelines.pack import pack, total_cost, wish_of
from pipelines.plan import (
    COMPUTED,
    CONFIG_CHANGED,
    DELETED,
    FAILED,
    MOVED,
    UNCHANGED,
    FeaturePast,
    RetryLaw,
    allot_numbers,
    judge,
)
from pipelines.resolve import Resolved, describe_change
from pipelines.survey import Before, Survey
from schemas.errors import StoreError
from schemas.jobs import FeatureJob
from schemas.records import REFRESHED, PartRecord
from schemas.tables import FAILURES, ITEMS
from transforms.publish.assemble import HEAD, HELD, ORPHAN
from transforms.publish.frames import PlanTables, contents_frame, failures_frame, parts_frame, write_frame
from transforms.store.objects import Objects
from transforms.store.parts import read_record
from transforms.work.stored_plan import PLAN, newest_plan

SHARDS_IN_ROW_GROUP = 16


@dataclass(frozen=True)
class Planned:
    """A plan before it is executed.

    Attributes:
        verdicts: feature, item_no, uid, verdict, reason, ...
        tags: the same of features of predicted labels.
        work: what is to be computed, as ``pack`` takes it.
        shards: packed work, costliest first.
        counts: had, deleted (whose bytes no listed item has), known_failed, probed, recompute, cost_ms (estimated).
        emptied: sources that had items and list none any more.
        recompute_reason: why items whose bytes did not change are computed again.
    """

    tables: PlanTables
    verdicts: pl.DataFrame
    tags: pl.DataFrame
    work: pl.DataFrame
    shards: pl.DataFrame
    next_item_no: int
    counts: dict[str, int]
    emptied: tuple[str, ...]
    recompute_reason: str

    @property
    def all_verdicts(self) -> pl.DataFrame:
        """Of all features."""
        return pl.concat([self.verdicts, self.tags])


def held_by_release(before: Before, job: FeatureJob) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Contents (columns of ``HELD``) and parts of a feature's table in the last release, for its wanted config."""
    mine = (pl.col("feature") == job.name) & (pl.col("config") == job.config)
    contents = before.contents.filter(mine).with_columns(pl.lit(HEAD, pl.Int32).alias("origin"))
    return contents.select(*HELD), before.parts.filter(mine)


def orphans_of(objects: Objects, job: FeatureJob, published: pl.DataFrame) -> list[PartRecord]:
    """Finished parts of a feature's config that the last release does not name: a killed run's, an older one's."""
    known = set(published["part"].to_list())
    records = []
    for entry in sorted(objects.list(job.table), key=lambda entry: entry.path):
        name = entry.path.rsplit("/", 1)[-1]
        if name.startswith("part-") and name.endswith(".parquet") and "/_" not in entry.path and name not in known:
            try:
                record = read_record(objects, job.table, name, hashed=False)
            except StoreError:
                continue  # not adopted; the shard that wants this name would be told by its own read
            if record is not None:
                records.append(record)
    return records


def numbers_of_killed_run(objects: Objects, before: Before) -> pl.DataFrame:
    """Numbers that the newest run from the same release gave to its items, though it was not published.

    Its parts name some of them only; the others must not get these numbers in another order.
    """
    columns = ["source", "uid", "item_no"]
    plan = newest_plan(objects)
    if plan is not None:
        base = json.loads(objects.get(plan))["base"]
        if (base and base["release"]) == (before.release and before.release.release):
            with objects.local_copy(plan.removesuffix(PLAN) + "items.parquet") as local:
                return pl.read_parquet(local, columns=columns).select(columns)
    return before.items.select(columns).clear()


def make_plan(
    objects: Objects,
    before: Before,
    found: Survey,
    resolved: Resolved,
    law: RetryLaw,
    segment_s: float,
    next_item_no: int,
    *,
    refresh: bool = False,
) -> Planned:
    """Judge every (item, feature), adopt what killed runs left, pack the rest."""
    orphans: dict[str, list[PartRecord]] = {name: [] for name in resolved.jobs}
    numbers = before.items.select("source", "uid", "item_no")
    items, free = allot_numbers(found.items, numbers, next_item_no)
    pasts = {name: _past(before, job, resolved, []) for name, job in resolved.jobs.items()}
    verdicts = _judge_all(resolved, items, pasts, law, refresh)
    if not verdicts["verdict"].is_in([UNCHANGED, FAILED, DELETED]).all():
        # Killed runs have allotted numbers and finished parts; both are taken over.
        for name, job in resolved.jobs.items():
            orphans[name] = orphans_of(objects, job, held_by_release(before, job)[1])
    if any(orphans.values()):
        known = _known_numbers(numbers, numbers_of_killed_run(objects, before), orphans, resolved.jobs)
        items, free = allot_numbers(found.items, known, next_item_no)
        pasts = {name: _past(before, job, resolved, orphans[name]) for name, job in resolved.jobs.items()}
        verdicts = _judge_all(resolved, items, pasts, law, refresh)
    work = verdicts.filter(pl.col("verdict").is_in(COMPUTED)).join(
        items.select("item_no", "uri", "signature", "facts"), on="item_no"
    )
    attempt = pl.col("attempts").fill_null(0).cast(pl.Int64)
    if refresh:
        attempt += REFRESHED * (1 + (before.release.release if before.release else 0))
    wishes = {name: wish_of(job) for name, job in resolved.jobs.items()}
    work = work.with_columns(attempt.alias("attempt"))
    shards = pack(work, wishes, segment_s)
    tables = PlanTables(
        items=items.select(ITEMS.names),
        wanted=_wanted(resolved, items, verdicts, before),
        held=_all_held(before, resolved, orphans),
        parts=pl.concat(
            [
                pl.concat([held_by_release(before, job)[1], parts_frame(orphans[name])])
                for name, job in resolved.jobs.items()
            ]
        ),
        failures=_failures(before, found, items, resolved, orphans),
    )
    counts = {
        "had": before.items.height,
        "deleted": _deleted(before.items, items),
        "known_failed": before.failures.filter(~pl.col("partial")).select("source", "uid").unique().height,
        "probed": found.probed,
        "recompute": _recomputed(verdicts, before),
        "cost_ms": round(1000 * total_cost(shards)),
    }
    verdicts = _name_probe_failures(verdicts, tables.failures)
    reasons = verdicts.filter(pl.col("verdict") == CONFIG_CHANGED)["reason"]
    tags = tag_verdicts(resolved.heads, verdicts, before.release.heads if before.release else {})
    reason = reasons[0] if len(reasons) else ""
    return Planned(tables, verdicts, tags, work, shards, free, counts, found.emptied, reason)


def _name_probe_failures(verdicts: pl.DataFrame, failures: pl.DataFrame) -> pl.DataFrame:
    """Verdicts whose reasons say of which type the failure of an item without a digest was."""
    types = failures.filter(pl.col("feature") == "").unique("item_no").select("item_no", "type")
    if types.is_empty():
        return verdicts
    said = pl.concat_str(pl.lit("could not be probed: "), "type")
    failed = pl.col("digest").is_null() & (pl.col("verdict") == FAILED) & pl.col("type").is_not_null()
    named = verdicts.join(types, on="item_no", how="left", maintain_order="left")
    return named.with_columns(pl.when(failed).then(said).otherwise("reason").alias("reason")).drop("type")


def _deleted(before: pl.DataFrame, items: pl.DataFrame) -> int:
    """Items that are gone; one that was renamed is not."""
    gone = before.join(items, on="item_no", how="anti")
    return (
        gone.filter(pl.col("digest").is_null()).height
        + gone.join(items, on="digest", how="anti").filter(pl.col("digest").is_not_null()).height
    )


def _recomputed(verdicts: pl.DataFrame, before: Before) -> int:
    """Items computed again although their bytes did not change."""
    again = verdicts.filter(pl.col("verdict") == CONFIG_CHANGED)
    return again.select("item_no").unique().height if before.release else 0


def _past(before: Before, job: FeatureJob, resolved: Resolved, orphans: list[PartRecord]) -> FeaturePast:
    contents, _ = held_by_release(before, job)
    left = contents_frame(orphans, ORPHAN).drop("feature")
    entry = before.release.features.get(job.name) if before.release else None
    had = before.contents.filter(pl.col("feature") == job.name).select("item_no", "uid", "digest").unique("item_no")
    failures = before.failures.filter((pl.col("feature") == job.name) & (pl.col("config") == job.config))
    recent = failures_frame((failure for record in orphans for failure in record.failures), "")
    return FeaturePast(
        held=pl.concat([contents, left]),
        failures=failures,
        recent=recent.select(failures.columns),
        had=had,
        same_config=entry is not None and entry.config == job.config,
        change=describe_change(entry.recipe, resolved.recipes[job.name]) if entry else "",
    )


def _judge_all(
    resolved: Resolved, items: pl.DataFrame, pasts: Mapping[str, FeaturePast], law: RetryLaw, refresh: bool
) -> pl.DataFrame:
    frames = [
        judge(name, items.filter(pl.col("source") == job.source), pasts[name], law, refresh)
        for name, job in resolved.jobs.items()
    ]
    return pl.concat(frames)


def _known_numbers(
    numbers: pl.DataFrame,
    planned: pl.DataFrame,
    orphans: Mapping[str, list[PartRecord]],
    jobs: Mapping[str, FeatureJob],
) -> pl.DataFrame:
    """Numbers of the last release, and those that killed runs gave to items it does not know."""
    given = {
        (jobs[name].source, content.uid, content.item_no)
        for name, records in orphans.items()
        for record in records
        for content in record.contents
    }
    left = pl.DataFrame(sorted(given), schema=numbers.schema, orient="row")
    for more in (planned, left):
        fresh = more.join(numbers, on=["source", "uid"], how="anti").join(numbers, on="item_no", how="anti")
        fresh = fresh.unique(["source", "uid"], keep="first", maintain_order=True)
        numbers = pl.concat([numbers, fresh.unique("item_no", keep="first", maintain_order=True)])
    return numbers


def _wanted(resolved: Resolved, items: pl.DataFrame, verdicts: pl.DataFrame, before: Before) -> pl.DataFrame:
    """What each feature's next table should hold; see ``assemble.WANTED``."""
    frames = []
    for name, job in resolved.jobs.items():
        mine = pl.col("feature") == name
        had = before.contents.filter(mine & (pl.col("config") == job.config) & (pl.col("rows") > 0))
        old = had.select("item_no", pl.col("digest").alias("old_digest")).unique("item_no")
        fresh = verdicts.filter(mine & pl.col("verdict").is_in([*COMPUTED, MOVED])).select("item_no")
        frame = items.filter(pl.col("source") == job.source).select("item_no", "uid", "digest")
        frame = frame.join(old, on="item_no", how="left").with_columns(
            pl.lit(name).alias("feature"),
            pl.col("digest").fill_null(""),
            pl.when(pl.col("old_digest") != pl.col("digest").fill_null("")).then("old_digest").alias("old_digest"),
            pl.col("item_no").is_in(fresh["item_no"].implode()).alias("fresh"),
        )
        frames.append(frame.select("feature", "item_no", "uid", "digest", "old_digest", "fresh"))
    return pl.concat(frames)


def _all_held(before: Before, resolved: Resolved, orphans: Mapping[str, list[PartRecord]]) -> pl.DataFrame:
    frames = [contents_frame([], ORPHAN)]
    for name, job in resolved.jobs.items():
        contents, _ = held_by_release(before, job)
        frames.append(contents.select(pl.lit(name).alias("feature"), *HELD))
        frames.append(contents_frame(orphans[name], ORPHAN))
    return pl.concat(frames)


def _failures(
    before: Before,
    found: Survey,
    items: pl.DataFrame,
    resolved: Resolved,
    orphans: Mapping[str, list[PartRecord]],
) -> pl.DataFrame:
    """Failures known before computing: of probing, of earlier runs for wanted configs, of adopted parts."""
    numbers = items.select("source", "uid", "item_no")
    # Rows of texts that name no video, or one that nothing else is known of, have no item.
    probing = found.failures.drop("item_no").join(numbers, on=["source", "uid"], how="left")
    probing = probing.with_columns(pl.col("item_no").fill_null(0))
    configs = [job.config for job in resolved.jobs.values()]
    earlier = before.failures.filter((pl.col("feature") != "") & pl.col("config").is_in(configs))
    adopted = failures_frame(
        (failure for records in orphans.values() for record in records for failure in record.failures), ""
    )
    columns = FAILURES.names
    return pl.concat([probing.select(columns), earlier.select(columns), adopted.select(columns)]).unique(
        ["source", "feature", "uid", "digest", "config", "stage", "message"], keep="first", maintain_order=True
    )


def write_plan_files(objects: Objects, folder: str, planned: Planned) -> None:
    """The plan's tables, shards and verdicts as files that workers and people read."""
    planned.tables.write(objects, folder)
    write_frame(objects, f"{folder}/shards.parquet", planned.shards, SHARDS_IN_ROW_GROUP)
    write_frame(objects, f"{folder}/verdicts.parquet", planned.all_verdicts)
