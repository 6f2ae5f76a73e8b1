"""One run from spec to release: survey, plan, compute, publish. The supervised part of ``cliploom run``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from cliploom.pipelines.console import counted
from cliploom.pipelines.launching.runner import (
    check_options,
    is_local,
    job_name,
    parallel_workers,
    run_graph,
    takes_hints,
    workers_of,
)
from cliploom.pipelines.launching.target import choose_target, new_run_id, open_store
from cliploom.pipelines.planning.addresses import ask_addresses
from cliploom.pipelines.planning.classify import RetryPolicy, count_verdicts, select_subset
from cliploom.pipelines.planning.compile_jobs import CompiledSpec, compile_jobs
from cliploom.pipelines.planning.discover import Inventory, discover, keep_unlisted, list_sources
from cliploom.pipelines.planning.export_names import check_export_names
from cliploom.pipelines.planning.lost import lost_files
from cliploom.pipelines.planning.plan import PlanDraft, make_plan
from cliploom.pipelines.planning.previous_release import PreviousRelease, read_previous_release
from cliploom.pipelines.running.attempts import Attempts, cluster_attempts, local_attempts, whole_counters
from cliploom.pipelines.running.flink import flink_masters
from cliploom.pipelines.running.relay import relayed
from cliploom.pipelines.running.report import run_report, write_report
from cliploom.pipelines.version import program_version
from cliploom.schemas.errors import LimitError, SpecError, StoreError
from cliploom.schemas.heads import ZeroShotSpec
from cliploom.schemas.jobs import FeatureJob, RunJob
from cliploom.schemas.media import PROBE_REVISION
from cliploom.schemas.plan import COMPUTED, CONTENT_CHANGED, DELETED, LIMITED, MOVED, Accept, RunPlan, declared
from cliploom.schemas.precision import QUANTISED
from cliploom.schemas.release import Release
from cliploom.schemas.spec import Spec, Target
from cliploom.schemas.vector_heads import ProjectionJob
from cliploom.transforms.inputs.inside import LIST
from cliploom.transforms.inputs.listing import KnownListing
from cliploom.transforms.publish.dataframes import published_contents
from cliploom.transforms.publish.outcome import read_outcome
from cliploom.transforms.store.lock import store_lock
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import part_path
from cliploom.transforms.store.releases import Releases, read_releases
from cliploom.transforms.work.heartbeat import cpu_seconds, launcher_heartbeat
from cliploom.transforms.work.plan_ref import PlanRef, store_plan
from cliploom.transforms.work.progress import ProgressLog


@dataclass(frozen=True)
class RunOptions:
    """What the command line says of a run.

    Attributes:
        progress: local file for progress lines, or empty.
        extra: Beam options after ``--``.
        restarts: of this run's worker process so far: ``at`` (seconds since 1970) and ``reason``.
        cpu_s: CPU seconds of worker processes of this run that have died.
        deadline: no work on a shard begins after this time, in seconds since 1970; 0 for no limit.
        log_format: ``json`` for JSON lines of workers on stderr.
    """

    target: str | None = None
    limit: int | None = None
    retry_failed: bool = False
    full_refresh: bool = False
    compact: bool = False
    recalibrate: bool = False
    run: str | None = None
    progress: str = ""
    extra: tuple[str, ...] = ()
    accept: Accept = field(default_factory=Accept)
    command: str = "cliploom run"
    restarts: tuple[Mapping[str, Any], ...] = ()
    cpu_s: float = 0.0
    deadline: float = 0.0
    log_format: str = ""


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        release: what readers see now.
        changed: a release was published by this run.
        counters: Beam's, added up over stages.
        seconds: by stage.
        report: what lies in the store as ``runs/<run>/report.json``.
    """

    run: str
    release: Release
    changed: bool
    verdicts: dict[str, dict[str, int]]
    counters: dict[str, int]
    seconds: dict[str, float]
    report: dict[str, Any]

    def __repr__(self) -> str:
        """How it ended; the report has everything."""
        total = sum(self.seconds.values())
        return f"RunResult(changed={self.changed}, seconds={total:.1f}, verdicts={self.verdicts}, {self.release!r})"


@dataclass
class Stopwatch:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """The time since the last lap was spent on ``stage``."""
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._began, 3)
        self._began = now


REWRITTEN = (CONTENT_CHANGED, DELETED, MOVED)
"""Verdicts of items whose old rows a night takes out of their parts, or renames."""
MOST_REASONS = 3
"""Failures that an error shows."""


@dataclass(frozen=True)
class RunContext:
    """Everything decided before anything is computed."""

    spec: Spec
    objects: ObjectStore
    target: Target
    releases: Releases
    previous: PreviousRelease
    compiled: CompiledSpec
    found: Inventory
    planned: PlanDraft
    lost_files: tuple[str, ...]
    job: RunJob
    counters: dict[str, int]
    watch: Stopwatch
    started_at: float


def _nothing_listed(spec: Spec, listing: KnownListing) -> str:
    """Why there is nothing to compute: rows that are all bad or filtered out, or no files."""
    names = ", ".join(spec.sources)
    if listing.failures:
        first = " ".join(failure.message for failure in listing.failures[:MOST_REASONS])
        more = len(listing.failures) - MOST_REASONS
        return f"No row of the sources ({names}) can be used: {first}" + (f" And {more} more." if more > 0 else "")
    dropped = [on_stage for on_stage in listing.notes if " dropped (" in on_stage]
    if dropped:
        return f"The filters leave nothing of the sources ({names}): {'; '.join(dropped)}; correct keep, uids or limit."
    return f"The sources hold no files ({names}); check their glob or table."


def prepare(spec: Spec, base: Path, options: RunOptions, on_stage: Callable[[str], None]) -> RunContext:
    """List, probe and plan."""
    watch, started_at = Stopwatch(), time.time()
    objects = open_store(spec, base)

    def compiled_spec() -> CompiledSpec:
        made = compile_jobs(spec, objects, base)
        for text in made.notes:
            on_stage(text)
        return made

    target = choose_target(spec, options.target)
    check_options(target, options.extra)
    releases = read_releases(objects)
    previous = read_previous_release(objects, releases.latest)
    on_stage("listing sources")
    listing = keep_unlisted(list_sources(spec, base, objects), previous, objects)
    for text in listing.notes:
        on_stage(text)
    if options.limit is not None:
        listing = replace(listing, items=select_subset(listing.items, previous.items, options.limit))
    unlisted = any(failure.stage == LIST for failure in listing.failures)
    if listing.items.is_empty() and not unlisted and previous.release is None:
        raise SpecError(_nothing_listed(spec, listing))
    watch.lap("list")
    on_stage("preparing models")
    compiled = None if _wants_samples(spec, base, objects, options) else compiled_spec()
    watch.lap("models")
    job = RunJob(
        store=objects.uri,
        run=options.run or new_run_id(),
        features=compiled.jobs if compiled is not None else {},
        media_limits=spec.limits.media.to_limits(),
        threads=_threads(target),
        # Workers elsewhere can't write to the file; this process copies their heartbeats from the store into it.
        progress=options.progress if is_local(target) else "",
        stall_s=spec.limits.stall,
        deadline=options.deadline,
        remote=not is_local(target),
        log_format=options.log_format,
        settings={name: source.model_dump_json() for name, source in spec.sources.items() if source.content != "texts"},
    )
    counters: dict[str, int] = {}

    def run_probe(path: str) -> None:
        from cliploom.pipelines.running.build import build_probe

        on_stage("probing new files")
        name = f"{job_name(job.run)}-probe"
        with objects.local_copy(path) as local:
            batches = pq.read_metadata(local).num_row_groups
        build = partial(build_probe, job=job, listing=path)
        _add(counters, run_graph(build, target, options.extra, name, pieces=batches))

    known = len(listing.notes)
    listing = ask_addresses(listing, previous, job, objects, run_probe)
    for text in listing.notes[known:]:
        on_stage(text)
    policy = RetryPolicy(options.retry_failed, spec.limits.max_attempts)
    # From here on the listing is the survey's, and the survey's items the plan's.
    found = discover(
        listing,
        previous,
        {name: source.kind for name, source in spec.sources.items()},
        job,
        objects,
        run_probe,
        retry_all=options.retry_failed,
        max_attempts=policy.max_attempts,
    )
    del listing
    previous = previous.for_planning()
    watch.lap("probe")
    if compiled is None:
        from cliploom.pipelines.planning.calibrating import prepare_quantised_encoders

        prepare_quantised_encoders(spec, base, objects, found.items, on_stage, recalibrate=options.recalibrate)
        compiled = compiled_spec()
        job = replace(job, features=compiled.jobs)
        watch.lap("models")
    on_stage("planning")
    next_no = max((release.next_item_no for release in releases.rows), default=1)
    planned = make_plan(
        objects,
        previous,
        found,
        compiled,
        policy,
        spec.limits.segment,
        next_no,
        refresh=options.full_refresh,
        new_first=options.deadline > 0,
        run=job.run,
        workers=parallel_workers(target),
    )
    _add(counters, planned.taken_over)
    check_export_names(compiled.exports, compiled.jobs, planned.numbered.items, objects)
    gone = lost_files(objects, releases.latest)
    for text in lost_notes({**compiled.jobs, **compiled.projections}, planned, gone):
        on_stage(text)
    watch.lap("plan")
    return RunContext(
        spec, objects, target, releases, previous, compiled, found, planned, gone, job, counters, watch, started_at
    )


def _wants_samples(spec: Spec, base: Path, objects: ObjectStore, options: RunOptions) -> bool:
    """Whether a quantised encoder has to be prepared, for which items have to be probed first."""
    if not any(encoder.options.get("precision") in QUANTISED for encoder in spec.encoders.values()):
        return False
    from cliploom.pipelines.planning.calibrating import wants_samples

    return wants_samples(spec, base, objects, recalibrate=options.recalibrate)


def lost_notes(
    jobs: Mapping[str, FeatureJob | ProjectionJob], planned: PlanDraft, files: Sequence[str]
) -> Iterator[str]:
    """What to say of files that are missing from the store."""
    for name, parts in planned.lost.items():
        example = part_path(jobs[name].table, parts[0])
        yield (
            f"missing from the store: {counted(len(parts), 'part')} of feature {name}, such as {example}; "
            "the items are computed again"
        )
    if files:
        yield f"missing from the store: {counted(len(files), 'file')}, such as {files[0]}; made again"


def _threads(target: Target) -> int:
    if is_local(target):
        return 1 if target.processes else workers_of(target)
    return target.workers or 1


def _add(total: dict[str, int], more: Any) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


def run_spec(
    spec: Spec, document: dict[str, Any], base: Path, options: RunOptions, on_stage: Callable[[str], None]
) -> RunResult:
    """Bring the store up to date with the spec and publish a release, when anything changed.

    Args:
        spec: checked.
        document: as it was written, for the record.
        base: folder that the spec's relative paths start from.
        options: from the command line.
        on_stage: told what is being done.

    Raises:
        LimitError: when a guard stops the run; nothing is published.
        StoreError: when the store is in use, damaged, or another run published first.
    """
    objects = open_store(spec, base)
    with store_lock(objects, options.command):
        if any(not isinstance(head, ZeroShotSpec) and head.retrain for head in spec.heads.values()):
            from cliploom.pipelines.training.retraining import retrain

            retrain(spec, document, base, objects, on_stage, accept_worse=options.accept.worse)
        ready = prepare(spec, base, options, on_stage)
        plan = build_run_plan(ready, document, options)
        latest = ready.releases.latest
        if latest is not None and not options.compact and is_idle(ready, latest):
            attempts = local_attempts(options.progress, options.restarts, options.cpu_s)
            return _ended(objects, plan, "unchanged", latest, ready.counters, ready.watch, attempts)
        ready.planned.write(objects, plan.folder)
        stored = store_plan(objects, plan)
        keep_known_sentences(objects, plan, ready)
        check_recompute(plan)
        target, counters, watch = ready.target, ready.counters, ready.watch
        del ready  # the plan is in the store, and workers may be of this process
        return execute(plan, stored, target, options, counters, watch, on_stage)


def keep_known_sentences(objects: ObjectStore, plan: RunPlan, ready: RunContext) -> None:
    """Hand the workers the vectors that edited texts have already."""
    version = plan.base.tables.get("narrations") if plan.base else None
    for name, job in plan.job.features.items():
        if version is not None and job.card is not None and job.card.modality == "text":
            edited = ready.planned.verdicts.filter((pl.col("feature") == name) & (pl.col("verdict") == CONTENT_CHANGED))
            if edited.is_empty():
                continue
            from cliploom.transforms.narrations.sentence_cache import write_sentence_cache

            contents = published_contents(objects, plan, name).filter(pl.col("rows") > 0)
            contents = contents.join(edited, on="item_no", how="semi")
            write_sentence_cache(objects, plan.job.run, job, contents, version)


def build_run_plan(ready: RunContext, document: dict[str, Any], options: RunOptions) -> RunPlan:
    """The plan as workers see it."""
    latest = ready.releases.latest
    limited = options.limit is not None and (latest is None or LIMITED in latest.counts)
    return RunPlan(
        job=ready.job,
        base=ready.releases.latest,
        releases_version=ready.releases.version,
        document=document,
        recipes=ready.compiled.recipes,
        indexes=ready.compiled.indexes,
        exports=ready.compiled.exports,
        heads=ready.compiled.heads,
        evaluations=ready.compiled.evaluations,
        projections=ready.compiled.projections,
        limits=ready.spec.limits,
        next_item_no=ready.planned.numbered.free,
        counts=ready.planned.counts | ({LIMITED: options.limit} if limited and options.limit else {}),
        prober=PROBE_REVISION,
        verdicts=count_verdicts(ready.planned.all_verdicts),
        emptied=ready.planned.emptied,
        lost=ready.planned.lost,
        lost_files=ready.lost_files,
        recompute_reason=ready.planned.recompute_reason,
        started_at=ready.started_at,
        program=program_version(),
        compact=options.compact,
        accept=options.accept,
        target=options.target or "",
    )


def is_idle(ready: RunContext, latest: Release) -> bool:
    """Nothing would change: no work, no moves or deletes, nothing lost, the same items, indexes and exports."""
    if ready.planned.lost or ready.lost_files:
        return False
    moving = ready.planned.all_verdicts.filter(~pl.col("verdict").is_in(["unchanged", "failed"]))
    if moving.height:
        return False
    configs = {name: entry.config for name, entry in latest.features.items()}
    made = {name: job.config for name, job in ready.compiled.jobs.items()}
    made |= {name: job.config for name, job in ready.compiled.projections.items()}
    if configs != made:
        return False
    if set(latest.heads) != set(ready.compiled.heads):
        return False
    if latest.declared != declared(ready.compiled.indexes, ready.compiled.exports, ready.compiled.evaluations):
        return False
    if not ready.planned.numbered.same_as(ready.objects, latest.tables["items"]):
        return False
    keys = ["source", "feature", "uid", "message", "attempts"]
    old, new = ready.previous.failures.select(keys).sort(keys), ready.planned.tables.failures.select(keys).sort(keys)
    return old.equals(new)


def check_recompute(plan: RunPlan) -> None:
    """Stop before computing when more is to be computed again than ``max_recompute`` allows.

    Raises:
        LimitError: naming the share, the reason and how to go on.
    """
    had, again = plan.counts["had"], plan.counts["recompute"]
    if plan.accept.recompute or not had or again / had <= plan.limits.max_recompute:
        return
    raise LimitError(
        f"{again} of {had} items would be computed again, more than max_recompute ({plan.limits.max_recompute:.0%}): "
        f"{plan.recompute_reason}. Nothing was computed; "
        f"`cliploom publish {shlex.quote(plan.job.store)} --allow-recompute` goes on."
    )


def execute(
    plan: RunPlan,
    stored: PlanRef,
    target: Target,
    options: RunOptions,
    counters: dict[str, int],
    watch: Stopwatch,
    on_stage: Callable[[str], None],
    *,
    resumed: bool = False,
) -> RunResult:
    """Run the main graph of a plan and read how it ended.

    Args:
        plan: what is to be done.
        stored: the plan as workers find it.
        target: where to run.
        options: from the command line.
        counters: added to.
        watch: the run's clock.
        on_stage: told what is being done.
        resumed: all that the plan computes is finished.
    """
    from cliploom.pipelines.running.build import build_run

    objects = ObjectStore(plan.job.store)
    items, cost_ms = work_of(objects, plan)
    on_stage(f"computing {counted(items, 'item')}" if items and not resumed else "publishing")
    ProgressLog(options.progress).add(total_items=items, total_ms=cost_ms)
    objects.delete([f"runs/{plan.job.run}/outcome.json"])
    pieces = pieces_of_work(objects, plan)
    name = job_name(plan.job.run)
    build = partial(build_run, plan=stored, job=plan.job, hints=takes_hints(target), accelerator=target.accelerator)
    log = None if is_local(target) else ProgressLog(options.progress)
    with (
        launcher_heartbeat(objects, plan.job.run, "computing", restarts=options.restarts),
        relayed(objects, plan.job.run, log),
    ):
        _add(counters, run_graph(build, target, options.extra, name, processes=target.processes, pieces=pieces))
        attempts = _attempts_of(objects, plan, target, options)
    counters = whole_counters(counters, attempts)
    watch.lap("compute")
    outcome = read_outcome(objects, plan.job.run)
    if outcome is None:
        raise StoreError(f"Run {plan.job.run} ended without publishing; run again: finished parts are reused.")
    if outcome["state"] != "published":
        report = run_report(plan, str(outcome["state"]), plan.base, counters, watch.seconds, attempts)
        write_report(objects, report)
        raise (LimitError if outcome["state"] == "stopped" else StoreError)(str(outcome["message"]))
    release = read_releases(objects).get(int(str(outcome["release"])))
    return _ended(objects, plan, "published", release, counters, watch, attempts)


def _attempts_of(objects: ObjectStore, plan: RunPlan, target: Target, options: RunOptions) -> Attempts:
    """Return what is known of all attempts of a run that has just ended."""
    if is_local(target):
        return local_attempts(options.progress, options.restarts, options.cpu_s)
    own = Attempts(options.restarts, cpu_s=options.cpu_s + cpu_seconds())
    return cluster_attempts(objects, plan.job.run, flink_masters(plan.document), job_name(plan.job.run), own)


def pieces_of_work(objects: ObjectStore, plan: RunPlan) -> int | None:
    """Return how many shards and rewritten parts a night has at most; None where more than items decides that."""
    made = declared(plan.indexes, plan.exports, plan.evaluations)
    others = plan.compact or plan.heads or plan.projections or plan.lost_files
    if others or plan.base is None or plan.base.declared != made:
        return None
    with objects.local_copy(f"{plan.folder}/shards.parquet") as local:
        shards = int(pq.read_metadata(local).num_rows)
    return shards + sum(counts.get(name, 0) for counts in plan.verdicts.values() for name in REWRITTEN)


def work_of(objects: ObjectStore, plan: RunPlan) -> tuple[int, int]:
    """Return the number of items that a plan computes, and their estimated work in milliseconds of one core."""
    with objects.local_copy(f"{plan.folder}/verdicts.parquet") as local:
        computed = pl.scan_parquet(local).filter(
            pl.col("verdict").is_in(COMPUTED) & pl.col("feature").is_in(list(plan.job.features))
        )
        items = int(computed.select(pl.col("item_no").n_unique()).collect().item())
    with objects.local_copy(f"{plan.folder}/shards.parquet") as local:
        cost_s = float(pl.scan_parquet(local).select(pl.col("cost_s").sum()).collect().item())
    return items, round(1000 * cost_s)


def _ended(
    objects: ObjectStore,
    plan: RunPlan,
    state: str,
    release: Release,
    counters: dict[str, int],
    watch: Stopwatch,
    attempts: Attempts,
) -> RunResult:
    report = run_report(plan, state, release, counters, watch.seconds, attempts)
    write_report(objects, report)
    # A worker process may die after it has published; the next one finds nothing left to do.
    changed = release.run == plan.job.run
    return RunResult(plan.job.run, release, changed, plan.verdicts, counters, watch.seconds, report)
