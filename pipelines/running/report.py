"""The report of a run: what it did, how fast, with what, and how far the new vectors are from the old ones.

It lies in the store as ``runs/<run>/report.json`` with stable keys; ``running.metrics`` says the same to Prometheus.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from cliploom.pipelines.console import counted, human_seconds

if TYPE_CHECKING:
    from cliploom.pipelines.running.attempts import Attempts
    from cliploom.schemas.plan import RunPlan
    from cliploom.schemas.release import FileEntry, IndexEntry, Release
    from cliploom.transforms.store.object_store import ObjectStore

LIBRARIES = ("apache-beam", "av", "deltalake", "faiss-cpu", "numpy", "openvino", "polars", "pyarrow")


def versions(program: str) -> dict[str, str]:
    """Versions of the program and of the libraries that vectors and files depend on."""
    found = {"cliploom": program, "python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    try:
        from av import library_versions
    except ImportError:
        return found
    return found | {name: ".".join(map(str, numbers)) for name, numbers in sorted(library_versions.items())}


def run_report(
    plan: RunPlan,
    state: str,
    release: Release | None,
    counters: Mapping[str, int],
    seconds: Mapping[str, float],
    attempts: Attempts,
) -> dict[str, Any]:
    """The report of a run that has ended.

    Args:
        plan: what was to be done.
        state: ``published``, ``unchanged``, ``stopped`` (by a limit) or ``conflict``.
        release: what readers see now.
        counters: of all workers.
        seconds: by stage.
        attempts: of the run.
    """
    from cliploom.transforms.store.object_store import ObjectStore

    objects = ObjectStore(plan.job.store)
    new = release if state == "published" else None
    rows, computing = counters.get("rows", 0), seconds.get("compute", 0.0)
    busy = sum(counters.get(f"{stage}_ms", 0) for stage in ("decode", "encode", "write")) / 1000
    return {
        "run": plan.job.run,
        "state": state,
        "release": release.release if release else None,
        "verdicts": plan.verdicts,
        "counts": plan.counts | (new.counts if new else {}),
        "seconds": dict(seconds),
        "rates": {
            "rows_per_second": round(rows / computing, 3) if rows and computing else None,
            "rows_per_busy_second": round(rows / busy, 3) if rows and busy else None,
        },
        "counters": dict(sorted(counters.items())),
        "attempts": attempts.to_dict(),
        "bytes": {
            "written": counters.get("bytes_written", 0),
            "rewritten": counters.get("bytes_rewritten", 0),
            "indexes": _new_bytes(_index_files(plan.base), _index_files(new)),
            "exports": _new_bytes(_export_files(plan.base), _export_files(new)),
        },
        "failures": _failure_groups(objects, new) if new else [],
        "notes": [*first_run_notes(plan, new), *repeat_notes(new)] if new else [],
        "drift": _drift(objects, plan, new) if new else [],
        "indexes": {
            name: {
                "kind": e.kind,
                "rows": e.rows,
                "recall": e.recall,
                "nprobe": e.nprobe,
                "reason": _fresh_reason(plan, name, e),
            }
            for name, e in (new.indexes if new else {}).items()
        },
        "versions": versions(plan.program),
    }


def first_run_notes(plan: RunPlan, release: Release) -> list[str]:
    """Say that a first run has published although more failed than later runs may lose."""
    failed, items = release.counts.get("failed", 0), release.counts.get("items", 0)
    if not plan.is_first or not items or failed / items <= plan.limits.max_failed or plan.accept.failures:
        return []
    return [
        f"{failed} of {counted(items, 'item')} failed ({failed / items:.0%}); the rest is published, as a first run "
        f"may lose {plan.max_failed:.0%} (limits.max_failed_first). Later runs stop when more than "
        f"{plan.limits.max_failed:.0%} fail (limits.max_failed)."
    ]


def repeat_notes(release: Release) -> list[str]:
    """Say of each feature that drops repeats how many rows it kept and dropped."""
    return [
        f"{name}: {counted(entry.rows, 'row')} kept, {entry.repeated:,} dropped that repeat the one before (distinct)."
        for name, entry in release.features.items()
        if (entry.recipe.get("sample") or {}).get("distinct")
    ]


def write_report(objects: ObjectStore, report: Mapping[str, Any]) -> None:
    """Leave the report in the store."""
    objects.put(f"runs/{report['run']}/report.json", json.dumps(report, indent=1).encode())


def _index_files(release: Release | None) -> list[FileEntry]:
    indexes = release.indexes.values() if release else ()
    return [shard.file for index in indexes for shard in index.shards]


def _export_files(release: Release | None) -> list[FileEntry]:
    exports = release.exports.values() if release else ()
    return [file for export in exports for file in export.files]


def _fresh_reason(plan: RunPlan, name: str, entry: IndexEntry) -> str:
    """Why an index was made anew or changed in this run, empty for one that is new to readers or was kept."""
    previous = plan.base.indexes.get(name) if plan.base else None
    return "" if previous in (None, entry) else entry.reason


def _new_bytes(previous: list[FileEntry], after: list[FileEntry]) -> int:
    known = {file.path for file in previous}
    return sum(file.size for file in after if file.path not in known)


def _failure_groups(objects: ObjectStore, release: Release) -> list[dict[str, Any]]:
    import polars as pl

    from cliploom.transforms.store.tables import read_table

    failures = read_table(objects, "failures", release.tables["failures"])
    grouped = failures.group_by("stage", "type", "transient", "partial").agg(
        pl.struct("source", "uid").n_unique().alias("items"),
        pl.col("uid").min().alias("uid"),
        pl.col("message").sort_by("uid").first(),
    )
    return grouped.sort(["items", "type", "stage"], descending=[True, False, False]).to_dicts()


def _drift(objects: ObjectStore, plan: RunPlan, release: Release) -> list[dict[str, Any]]:
    from cliploom.pipelines.running.vector_drift import measure_drift

    return [asdict(drift) for drift in measure_drift(objects, plan, release)]


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """What the report adds to the summary on the screen."""
    lines = [
        f"  drift {drift['feature']}.{drift['output']}: mean cosine {drift['mean_cosine']:.4f} between old and new "
        f"vectors ({drift['rows']} rows compared)"
        for drift in report["drift"]
    ]
    if waiting := report["counts"].get("postponed"):
        lines.append(f"  time was up: {counted(waiting, 'item')} left for the next run, which goes on from here")
    restarts = report["attempts"]["restarts"]
    if restarts:
        kept = report["counters"].get("parts_resumed", 0)
        lines.append(
            f"  {counted(len(restarts), 'restart')}, {counted(kept, 'part')} kept from before; "
            f"{human_seconds(report['attempts']['cpu_seconds'])} of CPU in all; last: {restarts[-1]['reason']}"
        )
    lines += [f"  index {name}: {entry['reason']}" for name, entry in report["indexes"].items() if entry["reason"]]
    return [*report.get("notes", ()), *lines]
