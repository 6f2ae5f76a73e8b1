"""``cliploom plan``: what a run would do, and why; nothing is computed or published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.console import human_bytes, human_seconds, say
from pipelines.pack import total_cost
from pipelines.plan import COMPUTED, UNCHANGED, count_verdicts
from pipelines.run import RunOptions, new_run_id, open_store, prepare
from schemas.spec_file import load_spec
from transforms.store.lock import store_lock

EXAMPLES = 3


def plan_preview(spec_path: Path, overrides: Sequence[str], options: RunOptions) -> dict[str, Any]:
    """Verdicts with counts, reasons and an estimate, by feature; also written to ``plans/<run>/verdicts.parquet``.

    Raises:
        CliploomError: as a run would before it computes.
    """
    import io
    from dataclasses import replace

    spec = load_spec(spec_path, overrides)
    base = spec_path.absolute().parent
    objects = open_store(spec, base)
    with store_lock(objects, f"cliploom plan {spec_path}"):
        ready = prepare(spec, base, replace(options, run=new_run_id()), lambda text: say(f"• {text}"))
        buffer = io.BytesIO()
        ready.planned.verdicts.write_parquet(buffer)
        written = f"plans/{ready.job.run}/verdicts.parquet"
        objects.put(written, buffer.getvalue())
    verdicts, shards = ready.planned.verdicts, ready.planned.shards
    items = ready.planned.tables.items
    work = verdicts.filter(pl.col("verdict").is_in(COMPUTED)).join(items.select("item_no", "size"), on="item_no")
    return {
        "store": objects.uri,
        "verdicts": count_verdicts(verdicts),
        "reasons": _reasons(verdicts),
        "items": items.height,
        "compute_items": work.select("item_no").unique().height,
        "compute_bytes": int(work.unique("item_no")["size"].sum()),
        "rows": int(shards["rows"].sum()) if shards.height else 0,
        "shards": shards.height,
        "estimated_cpu_seconds": round(total_cost(shards), 1),
        "failures": ready.found.failures.height,
        "written": objects.uri_of(written),
    }


def _reasons(verdicts: pl.DataFrame) -> list[dict[str, Any]]:
    said = verdicts.filter((pl.col("verdict") != UNCHANGED) & (pl.col("reason") != ""))
    # Reasons that name another file or a message differ by item; one example stands for them.
    kind = pl.col("reason").str.replace(r"^(same bytes as) .*(, rows are copied)$", "$1 another item$2")
    grouped = (
        said.with_columns(kind.alias("reason"))
        .group_by("feature", "verdict", "reason", maintain_order=True)
        .agg(pl.len().alias("items"), pl.col("uid").head(EXAMPLES).alias("examples"))
        .sort("feature", "items", descending=[False, True])
    )
    return grouped.to_dicts()


def preview_text(preview: dict[str, Any]) -> str:
    """The plan for a person."""
    lines = []
    for feature, counts in preview["verdicts"].items():
        lines.append(f"{feature}: " + ", ".join(f"{number} {verdict}" for verdict, number in counts.items()))
        for reason in preview["reasons"]:
            if reason["feature"] == feature:
                examples = ", ".join(reason["examples"])
                lines.append(f"  {reason['verdict']}: {reason['reason']}: {reason['items']} items ({examples})")
    if preview["compute_items"]:
        lines.append(
            f"To compute: {preview['compute_items']} items, {human_bytes(preview['compute_bytes'])} to read, "
            f"about {preview['rows']} rows in {preview['shards']} shards, "
            f"about {human_seconds(preview['estimated_cpu_seconds'])} of one core."
        )
    else:
        lines.append("Nothing to compute.")
    lines.append(f"All verdicts: {preview['written']}")
    return "\n".join(lines)
