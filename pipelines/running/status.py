"""How far a run is that goes on without this terminal: from what it has left in the store, and from Flink."""

from __future__ import annotations

import fcntl
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from cliploom.pipelines.launching.runner import job_name
from cliploom.pipelines.running.flink import flink_masters, flink_restarts, flink_state
from cliploom.schemas.plan import RunPlan
from cliploom.schemas.records import Shard
from cliploom.transforms.publish.outcome import read_outcome
from cliploom.transforms.store.lock import LOCK
from cliploom.transforms.store.object_store import ObjectStore, existing_store
from cliploom.transforms.store.parts import part_path
from cliploom.transforms.work.heartbeat import FRESH_S, read_heartbeats
from cliploom.transforms.work.plan_ref import last_plan
from cliploom.transforms.work.progress import items_of, shard_name
from cliploom.transforms.work.shard_text import SHARD

RUNNING, ENDED, PUBLISHED, STOPPED, CONFLICT = "running", "ended", "published", "stopped", "conflict"
_AT_WORK = ("INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "FAILING", "RECONCILING")


@dataclass(frozen=True)
class StageProgress:
    """How far one stage of a run is.

    Attributes:
        name: of the feature that is computed, or ``publish`` for indexes, exports and the release.
        state: ``waiting``, ``running`` or ``done``.
        parts, parts_planned: finished parts of those that the plan wants; of ``publish`` one.
        items, items_planned: items of finished shards; of ``publish`` none.
    """

    name: str
    state: str
    parts: int
    parts_planned: int
    items: int = 0
    items_planned: int = 0


@dataclass(frozen=True)
class RunStatus:
    """How far the newest run of a store is.

    Attributes:
        state: ``published``, ``stopped`` (by a limit), ``conflict``, ``running``, or ``ended`` (without publishing).
        message: why it was stopped; empty otherwise.
        started_at: seconds since 1970.
        parts, parts_planned: finished parts of those that the plan wants.
        items, items_planned: finished items of those that the plan computes, each counted once whatever the number of
            its features; an item of a shard that is being worked on counts as soon as it is finished.
        rows: that workers have said they made, of all features; 0 for a run that leaves no heartbeats.
        failed: items that failed, as workers have said.
        at_work: items that workers have begun and not ended.
        workers: processes that were heard of in the last minute.
        heard_s: age in seconds of the newest heartbeat; None where there is none.
        job: name of the job on the cluster.
        cluster: Flink's state of it; empty where that is not known.
        failures: of a run that a limit stopped, by reason; see ``failure_reasons``.
        stages: features with something to compute, then ``publish``.
        restarts: over all attempts, ``at`` (seconds since 1970) and ``reason`` of each.
        repeated_shards: how often work on a shard began anew.
        parts_adopted: parts that earlier runs had made; known when the run has ended.
        cpu_seconds: of all workers, over all attempts.
        postponed: items that were left for the next run because time was up.
    """

    run: str
    state: str
    message: str
    started_at: float
    parts: int
    parts_planned: int
    items: int
    items_planned: int
    at_work: int
    job: str
    cluster: str
    failures: tuple[dict[str, Any], ...] = ()
    rows: int = 0
    failed: int = 0
    workers: int = 0
    heard_s: float | None = None
    stages: tuple[StageProgress, ...] = ()
    restarts: tuple[dict[str, Any], ...] = ()
    repeated_shards: int = 0
    parts_adopted: int = 0
    cpu_seconds: float = 0.0
    postponed: int = 0


@dataclass(frozen=True)
class Finished:
    """How much of a plan's work is in the store.

    Attributes:
        parts, parts_planned: parts that are there, of those that are wanted.
        items, items_planned: items of which all parts are there, of those that are wanted; each counted once.
        unfinished: names of the shards that lack a part.
        features: how far each feature is that has something to compute, in the order of the plan.
    """

    parts: int
    parts_planned: int
    items: int
    items_planned: int
    unfinished: frozenset[str]
    features: tuple[StageProgress, ...] = ()


def run_status(store: str) -> RunStatus:
    """The newest run of a store.

    Raises:
        StoreError: when there is no store, or nothing was run.
    """
    objects = existing_store(store)
    plan = last_plan(objects)
    outcome: dict[str, Any] = read_outcome(objects, plan.job.run) or {}
    masters, job = flink_masters(plan.document), job_name(plan.job.run)
    cluster = "" if outcome else flink_state(masters, job)
    heard = read_heartbeats(objects, plan.job.run, time.time())
    finished = count_parts(objects, plan)
    going = cluster in _AT_WORK or is_locked(objects) or heard.alive or _just_begun(objects, plan)
    state = str(outcome.get("state") or (RUNNING if going else ENDED))
    ended = _report_of(objects, plan.job.run) if outcome else {}
    counters, attempts = ended.get("counters", {}), ended.get("attempts", {})
    restarts = attempts.get("restarts") or (heard.restarts + (flink_restarts(masters, job) if cluster else []))
    under_way = sum(heard.shards[name]["items"] for name in finished.unfinished & heard.shards.keys())
    return RunStatus(
        run=plan.job.run,
        state=state,
        message=str(outcome.get("message", "")),
        started_at=plan.started_at,
        parts=finished.parts,
        parts_planned=finished.parts_planned,
        items=min(finished.items + under_way, finished.items_planned),
        items_planned=finished.items_planned,
        at_work=sum(1 for _ in objects.list(f"runs/{plan.job.run}/inflight")),
        job=job,
        cluster=cluster,
        failures=tuple(outcome.get("failures", ())),
        rows=counters.get("rows", heard.tally.rows),
        failed=heard.tally.failures,
        workers=heard.workers,
        heard_s=None if heard.newest_s is None else round(heard.newest_s, 1),
        stages=(*finished.features, _publishing(finished.features, state)),
        restarts=tuple(restarts),
        repeated_shards=attempts.get("repeated_shards", heard.tally.repeated),
        parts_adopted=counters.get("parts_adopted", 0),
        cpu_seconds=attempts.get("cpu_seconds", round(heard.cpu_s, 1)),
        postponed=max(heard.tally.postponed, int(ended.get("counts", {}).get("postponed", 0))),
    )


def _report_of(objects: ObjectStore, run: str) -> dict[str, Any]:
    """Return the report of an ended run; empty where there is none, as for a job that nobody waited for."""
    try:
        found = json.loads(objects.get(f"runs/{run}/report.json"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _publishing(features: Sequence[StageProgress], state: str) -> StageProgress:
    """Whether indexes, exports and the release are made: they come when all parts are there."""
    if state == PUBLISHED:
        return StageProgress("publish", "done", 1, 1)
    ready = all(each.state == "done" for each in features)
    return StageProgress("publish", "running" if ready and state == RUNNING else "waiting", 0, 1)


def _just_begun(objects: ObjectStore, plan: RunPlan) -> bool:
    """A run in a bucket whose first heartbeat is not due yet; on a disk there is a lock to look at."""
    if objects.root is not None:
        return False
    age_s = time.time() - plan.started_at
    return 0 <= age_s < FRESH_S


def count_parts(objects: ObjectStore, plan: RunPlan) -> Finished:
    """How much of a plan's work is in the store."""
    tables = {job.table for job in plan.job.features.values()}
    there = {entry.path for table in tables for entry in objects.list(table)}
    texts = pl.read_parquet(io.BytesIO(objects.get(f"{plan.folder}/shards.parquet")), columns=["shard"])["shard"]
    parts = parts_planned = items = items_planned = 0
    unfinished = set()
    counts = {name: [0, 0, 0, 0] for name in plan.job.features}
    for shard in _shards(texts):
        jobs = [plan.feature(name) for name in shard.features]
        made = [part_path(job.table, shard.part_name(job.config)) in there for job in jobs]
        found = sum(made)
        count = sum(items_of(item) for item in shard.items)
        for name, done in zip(shard.features, made, strict=True):
            added = done, 1, count if done else 0, count
            counts[name] = [before + more for before, more in zip(counts[name], added, strict=True)]
        parts, parts_planned = parts + found, parts_planned + len(jobs)
        items_planned += count
        if found == len(jobs):
            items += count
        else:
            unfinished.add(shard_name(shard))
    features = tuple(_feature_progress(name, *each) for name, each in counts.items() if each[1])
    return Finished(parts, parts_planned, items, items_planned, frozenset(unfinished), features)


def _feature_progress(name: str, parts: int, planned: int, items: int, items_planned: int) -> StageProgress:
    state = "done" if parts == planned else "running" if parts else "waiting"
    return StageProgress(name, state, parts, planned, items, items_planned)


def _shards(texts: Iterable[str]) -> Iterable[Shard]:
    return (SHARD.validate_json(text) for text in texts)


def is_locked(objects: ObjectStore) -> bool:
    """A process on this machine holds the lock of a local store."""
    if objects.root is None or not (objects.root / LOCK).exists():
        return False
    with (objects.root / LOCK).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def status_text(status: RunStatus, now: float) -> str:
    """The status for a person."""
    from cliploom.pipelines.console import counted, human_seconds

    lines = [
        f"Run {status.run}: {status.state}, started {human_seconds(max(0.0, now - status.started_at))} ago.",
        f"  {status.parts}/{status.parts_planned} parts, {status.items}/{status.items_planned} items finished"
        + (f", {status.at_work} at work" if status.at_work and status.state == RUNNING else ""),
    ]
    if status.state == RUNNING and status.heard_s is not None:
        lines.append(
            f"  {counted(status.workers, 'worker')}, {counted(status.rows, 'row')}"
            + (f", {status.failed:,} failed" if status.failed else "")
            + f"; last heard of {human_seconds(status.heard_s)} ago"
        )
    if status.state == RUNNING:
        lines += [
            f"  {each.name}: {each.parts}/{each.parts_planned} parts, {each.state}" for each in status.stages[:-1]
        ]
    if status.postponed:
        lines.append(f"  {counted(status.postponed, 'item')} left for the next run: time was up")
    if status.restarts:
        newest = status.restarts[-1]
        lines.append(
            f"  {counted(len(status.restarts), 'restart')}, {counted(status.repeated_shards, 'shard')} begun again; "
            f"last {human_seconds(max(0.0, now - float(newest['at'])))} ago: {newest['reason']}"
        )
    if status.cluster:
        lines.append(f"  Flink job {status.job}: {status.cluster}")
    if status.message:
        lines.append(f"  {status.message}")
    if status.failures:
        from cliploom.pipelines.listings import failure_text

        lines.append(failure_text(status.failures))
    if status.state == ENDED:
        lines.append("  It ended without publishing; run again: finished parts are reused.")
    return "\n".join(lines)


def follow(store: str, report: Callable[[str], None], every_s: float = 10.0) -> RunStatus:
    """Tell the status whenever it changes, until the run has ended; returns the last."""
    said = None
    while True:
        status = run_status(store)
        shown = (status.state, status.parts, status.items, status.cluster)
        if shown != said:
            report(status_text(status, time.time()))
            said = shown
        if status.state != RUNNING:
            return status
        time.sleep(every_s)
