"""Going on from a saved plan: publish what a guard stopped, or point readers back to an older release."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from cliploom.pipelines.launching.runner import is_local
from cliploom.pipelines.launching.target import choose_target
from cliploom.pipelines.running.run import RunOptions, RunResult, Stopwatch, check_recompute, execute
from cliploom.pipelines.version import program_version
from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.release import Release
from cliploom.schemas.spec import Target
from cliploom.schemas.spec_file import parse_document
from cliploom.transforms.store.lock import store_lock
from cliploom.transforms.store.object_store import existing_store
from cliploom.transforms.store.releases import append_release, read_releases
from cliploom.transforms.work.plan_ref import last_plan, store_plan


def publish_plan(store: str, options: RunOptions, on_stage: Callable[[str], None]) -> RunResult:
    """Execute the newest plan again with some guards lifted; its finished parts are adopted.

    Raises:
        StoreError: when there is nothing to publish, or something was published since.
        LimitError: when a guard that was not lifted still stops it.
    """
    objects = existing_store(store)
    with store_lock(objects, options.command):
        plan = last_plan(objects)
        releases = read_releases(objects)
        if any(release.run == plan.job.run for release in releases.rows):
            raise StoreError(f"The last run ({plan.job.run}) is published already; `cliploom run SPEC` makes the next.")
        if releases.version != plan.releases_version:
            raise StoreError(f"Release {releases.rows[-1].release} was published after run {plan.job.run}; run again.")
        plan = plan.model_copy(update={"accept": plan.accept | options.accept})
        check_recompute(plan)
        asked = options.target or plan.target
        try:
            target = choose_target(parse_document(plan.document), asked or None)
        except SpecError:
            if asked:
                raise
            target = Target()  # variables that the spec needs may be gone; publishing needs no more than this machine
        progress = options.progress if is_local(target) else ""
        plan = plan.model_copy(
            update={"job": replace(plan.job, progress=progress, deadline=0.0, remote=not is_local(target))}
        )
        from cliploom.pipelines.running.status import count_parts

        counted = count_parts(objects, plan)
        stored, resumed = store_plan(objects, plan), counted.parts == counted.parts_planned
        return execute(plan, stored, target, options, {}, Stopwatch(), on_stage, resumed=resumed)


def rollback(store: str, number: int) -> Release:
    """Append a release that points back to release ``number``.

    Raises:
        StoreError: when it does not exist, is the newest, or its files are gone.
    """
    objects = existing_store(store)
    with store_lock(objects, "cliploom rollback"):
        releases = read_releases(objects)
        old = releases.get(number)
        latest = releases.get(None)
        if old.release == latest.release:
            raise StoreError(f"Release {number} is the newest already; there is nothing to roll back.")
        release = old.model_copy(
            update={
                "release": latest.release + 1,
                "run": f"rollback-{latest.release + 1}-to-{number}-{int(time.time())}",
                "created_at": datetime.now(UTC),
                "program": program_version(),
                "note": f"rollback to release {number}",
                "seconds": 0.0,
                "next_item_no": max(row.next_item_no for row in releases.rows),
            }
        )
        append_release(objects, release, releases.version)
        return release
