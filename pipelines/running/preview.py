"""``cliploom plan``: shows what a run would do, and why; nothing is computed or published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl

from cliploom.pipelines.console import counted, human_bytes, human_seconds, say, short_path
from cliploom.pipelines.launching.target import new_run_id, open_store
from cliploom.pipelines.planning.classify import count_verdicts
from cliploom.pipelines.planning.pack import total_cost
from cliploom.pipelines.running.run import RunOptions, prepare
from cliploom.schemas.plan import COMPUTED, UNCHANGED
from cliploom.schemas.spec_file import load_spec
from cliploom.transforms.store.lock import store_lock
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import Releases
from cliploom.transforms.store.uris import absolute

EXAMPLES = 3
RUNS_BACK = 20
LEAST_MS = 100
"""Minimum work, in seconds, for a meaningful rate."""


class Plan(dict[str, Any]):
    """The result of ``cliploom plan``: a dictionary with the keys of its JSON; ``print(plan)`` explains it.

    ``plan["verdicts"]["frames"]["new"]`` is the number of new items of the feature ``frames``.
    """

    def __repr__(self) -> str:
        """Return a one-line summary of what would be computed."""
        verdicts = {feature: dict(counts) for feature, counts in self["verdicts"].items()}
        held = ("items", "compute_items", "rows", "estimated_cpu_seconds")
        shown = ", ".join(f"{name}={self[name]}" for name in held)
        return f"Plan({shown}, verdicts={verdicts})"

    def __str__(self) -> str:
        """Return the text that ``cliploom plan`` prints."""
        return preview_text(self)


def plan_preview(spec_path: Path, overrides: Sequence[str], options: RunOptions, sample: int = 0) -> Plan:
    """Return verdicts with counts, reasons and an estimate; also write ``plans/<run>/verdicts.parquet``.

    Args:
        spec_path: the path of the spec.
        overrides: changes to the spec's values.
        options: the options of the run.
        sample: the number of items to compute for the estimate; 0 for none.

    Raises:
        CliploomError: the errors of a run before computing.
    """
    if sample:
        from cliploom.pipelines.running.measure import measure  # imports Beam, which takes seconds
    from cliploom.pipelines.training.retraining import due_heads

    spec = load_spec(spec_path, overrides)
    base = absolute(spec_path).parent
    objects = open_store(spec, base)
    with store_lock(objects, f"cliploom plan {spec_path}"):
        due = due_heads(spec, base, objects, lambda text: say(f"• {text}"))
        ready = prepare(spec, base, replace(options, run=new_run_id()), lambda text: say(f"• {text}"))
        written = ready.planned.write_verdicts(objects, f"plans/{ready.job.run}")
        measured = measure(ready, sample) if sample else None
        seconds = total_cost(ready.planned.layout.shards) * pace_of(objects, ready.releases)
    verdicts, shards = ready.planned.verdicts, ready.planned.layout.shards
    work, numbered = ready.planned.work, ready.planned.numbered
    computed = numbered.read_some(work["item_no"].unique(), ["size"])
    plan: dict[str, Any] = {
        "store": objects.uri,
        "verdicts": count_verdicts(ready.planned.all_verdicts),
        "reasons": _reasons(verdicts, seconds / max(1, work.height)) + _reasons(ready.planned.tags, 0.0),
        "retrain": [
            {"head": each.name, "changed": round(each.share, 4), "seconds": each.seconds, "reason": each.reason}
            for each in due
        ],
        "items": numbered.items.height,
        "compute_items": computed.height,
        "compute_bytes": int(computed["size"].sum()),
        "rows": int(shards["rows"].sum()) if shards.height else 0,
        "shards": shards.height,
        "estimated_cpu_seconds": round(seconds, 1),
        "measured": asdict(measured) if measured else None,
        "failures": ready.found.failures.height,
        "written": objects.uri_of(written),
    }
    return Plan(plan)


def pace_of(objects: ObjectStore, releases: Releases) -> float:
    """Return the actual seconds of one core per estimated second in earlier runs; 1 without reports."""
    for release in releases.rows[: -RUNS_BACK - 1 : -1]:
        try:
            report = json.loads(objects.get(f"runs/{release.run}/report.json"))
        except FileNotFoundError:
            continue
        spent = sum(report["counters"].get(f"{stage}_ms", 0) for stage in ("decode", "encode", "write"))
        if report["counts"].get("cost_ms") and spent >= LEAST_MS:
            return float(spent / report["counts"]["cost_ms"])
    return 1.0


def _reasons(verdicts: pl.DataFrame, seconds_each: float) -> list[dict[str, Any]]:
    said = verdicts.filter((pl.col("verdict") != UNCHANGED) & (pl.col("reason") != ""))
    # Reasons with another file's name or a message differ by item; one example represents them.
    kind = pl.col("reason").str.replace(r"^(same bytes as|renamed from) .*(, rows are copied)$", "$1 another item$2")
    grouped = (
        said.with_columns(kind.alias("reason"))
        .group_by("feature", "verdict", "reason", maintain_order=True)
        .agg(pl.len().alias("items"), pl.col("uid").head(EXAMPLES).alias("examples"))
        .sort("feature", "items", descending=[False, True])
    )
    spent = pl.when(pl.col("verdict").is_in(COMPUTED)).then(pl.col("items") * seconds_each).otherwise(0.0).round(1)
    return grouped.with_columns(spent.alias("estimated_cpu_seconds")).to_dicts()


def preview_text(preview: dict[str, Any]) -> str:
    """Return the plan as text."""
    lines = []
    for feature, counts in preview["verdicts"].items():
        said = ", ".join(f"{number:,} {verdict.replace('_', ' ')}" for verdict, number in counts.items())
        lines.append(f"{feature}: {said}")
        for reason in preview["reasons"]:
            if reason["feature"] == feature:
                examples = ", ".join(reason["examples"])
                again = " recomputed" if reason["verdict"] in COMPUTED else ""
                cost = f", about {human_seconds(reason['estimated_cpu_seconds'])} of one core" if again else ""
                items = f"{counted(reason['items'], 'item')}{again}{cost}"
                lines.append(f"  {reason['verdict'].replace('_', ' ')}: {reason['reason']}: {items} ({examples})")
    lines += [f"Before that, {each['reason']}." for each in preview["retrain"]]
    if preview["compute_items"]:
        lines.append(
            f"To compute: {counted(preview['compute_items'], 'item')}, "
            + f"{human_bytes(preview['compute_bytes'])} to read, "
            + f"about {counted(preview['rows'], 'row')} in {counted(preview['shards'], 'shard')}, "
            + f"about {human_seconds(preview['estimated_cpu_seconds'])} of one core."
        )
    else:
        lines.append("Nothing to compute.")
    if preview["measured"]:
        found = preview["measured"]
        spent = f"{counted(found['rows'], 'row')} in {human_seconds(found['cpu_seconds'])} of one core"
        lines.append(
            f"Measured on {counted(found['items'], 'item')} ({spent}): "
            + f"about {human_seconds(found['hours'] * 3600)} on the target's workers, "
            + f"{human_bytes(preview['compute_bytes'])} to read, a store of about {human_bytes(found['store_bytes'])}."
        )
    lines.append(f"All verdicts: {short_path(preview['written'])}")
    return "\n".join(lines)
