"""How far a run is that goes on without this terminal: from what it has left in the store, and from Flink."""

from __future__ import annotations

import fcntl
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import polars as pl

from cliploom.pipelines.launching.runner import job_name
from cliploom.pipelines.running.publish import last_plan
from cliploom.schemas.errors import SpecError
from cliploom.schemas.plan import RunPlan
from cliploom.schemas.records import Shard
from cliploom.schemas.spec_yaml import substitute
from cliploom.transforms.publish.final import read_outcome
from cliploom.transforms.store.lock import LOCK
from cliploom.transforms.store.object_store import ObjectStore, existing_store
from cliploom.transforms.store.parts import part_path
from cliploom.transforms.work.shards import SHARD

RUNNING, ENDED = "running", "ended"
_PATIENCE_S = 5.0
_AT_WORK = ("INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "FAILING", "RECONCILING")


@dataclass(frozen=True)
class RunStatus:
    """How far the newest run of a store is.

    Attributes:
        state: ``published``, ``stopped`` (by a limit), ``conflict``, ``running``, or ``ended`` (without publishing).
        message: why it was stopped; empty otherwise.
        started_at: seconds since 1970.
        parts, parts_planned: finished parts of those that the plan wants.
        items, items_planned: items of finished shards, each counted once a feature.
        at_work: items that workers have begun and not ended.
        job: name of the job on the cluster.
        cluster: Flink's state of it; empty where that is not known.
        failures: of a run that a limit stopped, by reason; see ``failure_reasons``.
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


def run_status(store: str) -> RunStatus:
    """The newest run of a store.

    Raises:
        StoreError: when there is no store, or nothing was run.
    """
    objects = existing_store(store)
    plan = last_plan(objects)
    outcome: dict[str, Any] = read_outcome(objects, plan.job.run) or {}
    cluster = "" if outcome else flink_state(flink_masters(plan.document), job_name(plan.job.run))
    there, items, planned, items_planned = count_parts(objects, plan)
    going = cluster in _AT_WORK or is_locked(objects)
    return RunStatus(
        run=plan.job.run,
        state=str(outcome.get("state") or (RUNNING if going else ENDED)),
        message=str(outcome.get("message", "")),
        started_at=plan.started_at,
        parts=there,
        parts_planned=planned,
        items=items,
        items_planned=items_planned,
        at_work=sum(1 for _ in objects.list(f"runs/{plan.job.run}/inflight")),
        job=job_name(plan.job.run),
        cluster=cluster,
        failures=tuple(outcome.get("failures", ())),
    )


def count_parts(objects: ObjectStore, plan: RunPlan) -> tuple[int, int, int, int]:
    """Finished parts and their items, planned parts and their items."""
    tables = {job.table for job in plan.job.features.values()}
    there = {entry.path for table in tables for entry in objects.list(table)}
    texts = pl.read_parquet(io.BytesIO(objects.get(f"{plan.folder}/shards.parquet")), columns=["shard"])["shard"]
    wanted = [
        (part_path(plan.feature(name).table, shard.part_name(plan.feature(name).config)), len(shard.items))
        for shard in _shards(texts)
        for name in shard.features
    ]
    done = [items for path, items in wanted if path in there]
    return len(done), sum(done), len(wanted), sum(items for _, items in wanted)


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


def flink_masters(document: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> list[str]:
    """``host:port`` of the Flink clusters that a spec's targets name in ``flink_master``.

    A run keeps its spec as it was written, so variables are those of this terminal; a target that names one that is
    not set here is left out.

    >>> flink_masters({"targets": {"local": {}, "flink": {"flink_master": "http://${MASTER}"}}}, {"MASTER": "one:8081"})
    ['one:8081']
    """
    named = []
    for node in (document.get("targets") or {}).values():
        with suppress(SpecError):
            named.append(str(substitute((node or {}).get("flink_master", ""), environment)).partition("://"))
    return [(rest or first).strip("/") for first, _, rest in named if ":" in (rest or first)]


def flink_state(masters: Iterable[str], job: str) -> str:
    """Flink's state of the job of this name, from the first cluster that knows it; empty when none does."""
    for master in masters:
        try:
            with urllib.request.urlopen(f"http://{master}/jobs/overview", timeout=_PATIENCE_S) as answer:
                jobs = json.load(answer)["jobs"]
        except (urllib.error.URLError, OSError, ValueError, KeyError):
            continue
        found = sorted((each["start-time"], each["state"]) for each in jobs if each["name"] == job)
        if found:
            return str(found[-1][1])
    return ""


def status_text(status: RunStatus, now: float) -> str:
    """The status for a person."""
    from cliploom.pipelines.console import human_seconds

    lines = [
        f"Run {status.run}: {status.state}, started {human_seconds(max(0.0, now - status.started_at))} ago.",
        f"  {status.parts}/{status.parts_planned} parts, {status.items}/{status.items_planned} items finished"
        + (f", {status.at_work} at work" if status.at_work and status.state == RUNNING else ""),
    ]
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
        shown = (status.state, status.parts, status.cluster)
        if shown != said:
            report(status_text(status, time.time()))
            said = shown
        if status.state != RUNNING:
            return status
        time.sleep(every_s)
