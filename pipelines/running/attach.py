"""Waiting again for a run whose launcher went away: a job on a cluster goes on without it, and publishes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from cliploom.pipelines.running.attempts import cluster_attempts
from cliploom.pipelines.running.flink import flink_masters
from cliploom.pipelines.running.report import run_report, write_report
from cliploom.pipelines.running.status import CONFLICT, ENDED, PUBLISHED, STOPPED, follow
from cliploom.schemas.errors import CliploomError, LimitError, StoreError
from cliploom.transforms.store.object_store import existing_store
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.work.part_records import counters_of_records
from cliploom.transforms.work.plan_ref import last_plan


def attach(store: str, report: Callable[[str], None], every_s: float = 10.0) -> dict[str, Any]:
    """Wait for the end of a store's newest run, and write its report.

    Args:
        store: path or address.
        report: told the status whenever it changes.
        every_s: seconds between two looks.

    Returns:
        The result as ``cliploom run`` would have it, as plain values. Counters are those of the parts in the store and
        those that workers left there; the seconds are those from the plan to the release.

    Raises:
        LimitError: when a limit stopped the run.
        StoreError: when another run published first.
        CliploomError: when it ended without publishing.
    """
    objects = existing_store(store)
    status = follow(store, report, every_s)
    plan = last_plan(objects)
    if plan.job.run != status.run:
        raise StoreError(f"Run {plan.job.run} began meanwhile; `cliploom attach` waits for that one.")
    if status.state == ENDED:
        raise CliploomError(f"Run {status.run} ended without publishing; run again: finished parts are reused.")
    published = status.state == PUBLISHED
    releases = read_releases(objects)
    release = next((row for row in releases.rows if row.run == status.run), None) if published else plan.base
    ended_at = release.created_at.timestamp() if published and release else time.time()
    attempts = cluster_attempts(objects, status.run, flink_masters(plan.document), status.job)
    told = {"rows": status.rows, "items_done": status.items} | dict(attempts.figures or {})
    counters = told | counters_of_records(objects, plan.folder, status.run)
    seconds = {"compute": round(max(0.0, ended_at - plan.started_at), 3)}
    made = run_report(plan, status.state, release, counters, seconds, attempts)
    if objects.size(f"runs/{status.run}/report.json") is None:
        write_report(objects, made)
    if status.state in (STOPPED, CONFLICT):
        raise (LimitError if status.state == STOPPED else StoreError)(status.message)
    if release is None:
        raise StoreError(f"Run {status.run} has published a release that is not in the store any more.")
    return {
        "run": status.run,
        "release": release.model_dump(mode="json"),
        "changed": True,
        "verdicts": plan.verdicts,
        "counters": counters,
        "seconds": seconds,
        "report": made,
        "status": asdict(status),
    }
