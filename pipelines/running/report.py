"""The report of a run: what it did, how fast, with what, and how far the new vectors are from the old ones.

It lies in the store as ``runs/<run>/report.json`` with stable keys; ``running.metrics`` says the same to Prometheus.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import polars as pl

from cliploom.pipelines.console import counted, human_seconds
from cliploom.pipelines.running.attempts import Attempts
from cliploom.schemas.plan import CONFIG_CHANGED, CONTENT_CHANGED, RETRY, RunPlan
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.schemas.release import FeatureEntry, FileEntry, IndexEntry, Release
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import part_path
from cliploom.transforms.store.tables import read_table

LIBRARIES = ("apache-beam", "av", "deltalake", "faiss-cpu", "numpy", "openvino", "polars", "pyarrow")
DRIFT_ITEMS = 64
DRIFT_PARTS = 8
_SEED = 0
_SAME_ROW = ["item_no", "timed", "place", "twin"]


@dataclass(frozen=True)
class Drift:
    """How far an output's new vectors are from those that the last release has for the same rows.

    Attributes:
        rows: that were compared, a bounded sample.
        mean_cosine, least_cosine: 1 is no change.
    """

    feature: str
    output: str
    rows: int
    mean_cosine: float
    least_cosine: float


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
        "drift": [asdict(drift) for drift in measure_drift(objects, plan, new)] if new else [],
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
    failures = read_table(objects, "failures", release.tables["failures"])
    grouped = failures.group_by("stage", "type", "transient", "partial").agg(
        pl.struct("source", "uid").n_unique().alias("items"),
        pl.col("uid").min().alias("uid"),
        pl.col("message").sort_by("uid").first(),
    )
    return grouped.sort(["items", "type", "stage"], descending=[True, False, False]).to_dicts()


def measure_drift(objects: ObjectStore, plan: RunPlan, release: Release) -> Iterator[Drift]:
    """Old against new vectors of rows that were computed again: a seeded sample of a few parts' rows.

    Rows are the same when they start at the same time of the same item, whatever their number is: another sampling
    takes some of the same pictures. Rows without times are compared by their number.
    """
    if plan.base is None:
        return
    verdicts = objects.get(f"{plan.folder}/verdicts.parquet")
    again = pl.read_parquet(verdicts).filter(pl.col("verdict").is_in([CONFIG_CHANGED, CONTENT_CHANGED, RETRY]))
    if again.is_empty():
        return
    columns = ["feature", "part", "item_no", "rows"]
    old_contents = read_table(objects, "contents", plan.base.tables["contents"], columns=columns)
    new_contents = read_table(objects, "contents", release.tables["contents"], columns=columns)
    for name, new in release.features.items():
        old, mine = plan.base.features.get(name), pl.col("feature") == name
        items = again.filter(mine)["item_no"].unique().sort()
        if old is None or items.is_empty():
            continue
        items = items.sample(min(DRIFT_ITEMS, len(items)), seed=_SEED)
        held = old_contents.filter(mine & ~pl.col("part").is_in(list(plan.lost.get(name, ()))))
        after = _places(new_contents.filter(mine), items)
        previous = _places(held, after["item_no"].unique())
        yield from _feature_drift(objects, name, old, new, previous, after)


def _places(contents: pl.DataFrame, items: pl.Series) -> pl.DataFrame:
    """part, item_no of the sampled items, in a few parts."""
    found = contents.filter(pl.col("item_no").is_in(items.implode()) & (pl.col("rows") > 0)).select("part", "item_no")
    counted = found.group_by("part").len().sort(["len", "part"], descending=[True, False]).head(DRIFT_PARTS)
    return found.join(counted, on="part", how="semi")


def _feature_drift(
    objects: ObjectStore, name: str, old: FeatureEntry, new: FeatureEntry, previous: pl.DataFrame, after: pl.DataFrame
) -> Iterator[Drift]:
    for output, entry in new.outputs.items():
        if output not in old.outputs or old.outputs[output].dim != entry.dim:
            continue
        rows = _rows(objects, old.table, previous, output).join(
            _rows(objects, new.table, after, output), on=_SAME_ROW, suffix="_new"
        )
        if rows.is_empty() or not isinstance(rows[output].dtype, pl.List):
            continue
        a, b = (np.asarray(rows[column].to_list(), np.float64) for column in (output, f"{output}_new"))
        scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = np.divide((a * b).sum(axis=1), scale, out=np.ones_like(scale), where=scale > 0)
        yield Drift(name, output, rows.height, round(float(cosine.mean()), 6), round(float(cosine.min()), 6))


def _rows(objects: ObjectStore, table: str, places: pl.DataFrame, output: str) -> pl.DataFrame:
    items = places["item_no"].unique()
    frames = [pl.DataFrame(schema={"row_id": pl.Int64, "start_s": pl.Float64, output: pl.List(pl.Float32)})]
    for part in places["part"].unique().sort():
        with objects.local_copy(part_path(table, part)) as local:
            frame = pl.read_parquet(local, columns=["row_id", "start_s", output])
        frames.append(frame.filter((pl.col("row_id") // (1 << ORDINAL_BITS)).is_in(items.implode())))
    kept = [frame for frame in frames if frame.height] or frames[:1]
    item_no, ordinal = pl.col("row_id") // (1 << ORDINAL_BITS), pl.col("row_id") % (1 << ORDINAL_BITS)
    time_us = (pl.col("start_s") * 1e6).round().cast(pl.Int64)
    rows = pl.concat(kept).sort("row_id").select(item_no.alias("item_no"), time_us, ordinal.alias("ordinal"), output)
    timed = pl.col("start_s").is_not_null()
    # Of several rows that start together, the first is compared with the first.
    twin = pl.int_range(pl.len()).over("item_no", "start_s")
    return rows.select(
        "item_no",
        pl.coalesce("start_s", "ordinal").alias("place"),
        timed.alias("timed"),
        pl.when(timed).then(twin).otherwise(0).alias("twin"),
        output,
    )


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
