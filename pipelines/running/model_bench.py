"""``cliploom models bench``: what each precision of a spec's encoders gives on this machine, on its own media."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from cliploom.pipelines.console import table
from cliploom.pipelines.launching.target import open_store
from cliploom.pipelines.planning.calibrating import encoders_in_order, items_of
from cliploom.pipelines.planning.check import check_encoders
from cliploom.pipelines.planning.discover import list_sources
from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import SpecError, nearest
from cliploom.schemas.precision import OutputFigures
from cliploom.schemas.spec import Spec
from cliploom.transforms.encoders.isolated import run_isolated
from cliploom.transforms.work.calibration import DrawingRequest
from cliploom.transforms.work.model_bench import BenchRow

_SECONDS = 600.0


def bench_encoders(spec: Spec, base: Path, only: str | None, on_stage: Callable[[str], None]) -> list[BenchRow]:
    """Prepare all precisions of a spec's encoders in scratch folders and measure them.

    Args:
        spec: checked.
        base: folder that the spec's relative paths start from.
        only: name of one encoder; all that features use by default.
        on_stage: told what is measured.

    Raises:
        SpecError: when there is no such encoder.
        CliploomError: when there are too few samples.
    """
    checked = check_encoders(spec, base)
    names = encoders_in_order(spec, checked)
    if only is not None and only not in names:
        raise SpecError(f"No feature uses an encoder {only!r}{nearest(only, names)}")
    on_stage("listing sources")
    listed = list_sources(spec, base, open_store(spec, base)).items
    # Nothing is probed for this: files that are equal count twice, and others come first than in a run.
    keys = [digest_of(row) for row in listed.select("source", "uid", "signature").rows()]
    items = listed.with_columns(pl.coalesce("digest", pl.Series(keys, dtype=pl.String)).alias("digest"))
    rows: list[BenchRow] = []
    for name in names if only is None else [only]:
        on_stage(f"measuring {name}")
        encoder = checked[name]
        text = checked[encoder.spec.text_encoder] if encoder.spec.text_encoder is not None else None
        request = DrawingRequest(
            tuple(items_of(spec, encoder, items)), True, None, _SECONDS, spec.limits.media.to_limits()
        )
        found = run_isolated(
            "cliploom.transforms.work.model_bench:bench",
            f"Measuring the encoder '{name}'",
            name=name,
            kind=encoder.spec.kind,
            options=encoder.options.model_dump_json(exclude_unset=True),
            text=None
            if text is None
            else {"kind": text.spec.kind, "options": text.options.model_dump_json(exclude_unset=True)},
            drawing=request.to_dict(),
        )
        rows += [BenchRow.from_dict(row) for row in found]
    return rows


def bench_text(rows: list[BenchRow]) -> str:
    """The measurements for a person: a table, then why some precisions can't be had or are refused."""
    cells = [_cells(row) for row in rows]
    columns = ["encoder", "precision", "items/CPU s", "ratio", "mean", "p5", "recall@10", "MB", "verdict"]
    said = [f"{row.encoder} {row.precision}: {text}" for row in rows for text in (row.why_not, row.note) if text]
    return "\n".join([table(cells, columns), *said])


def _cells(row: BenchRow) -> dict[str, Any]:
    figures = row.figures
    # The outputs that are no scores decide, and of these the worst.
    used = [] if figures is None else [found for found in figures.outputs.values() if found.top1 is None]
    worst: OutputFigures | None = min(used, key=lambda found: found.p5, default=None)
    recalls = [found.recall for found in used if found.recall is not None]
    return {
        "encoder": row.encoder,
        "precision": row.precision,
        "items/CPU s": "" if row.rate is None else f"{row.rate:.1f}",
        "ratio": "" if figures is None else f"{figures.faster:.2f}",
        "mean": "" if worst is None else f"{worst.mean:.4f}",
        "p5": "" if worst is None else f"{worst.p5:.4f}",
        "recall@10": f"{min(recalls):.3f}" if recalls else "",
        "MB": "" if row.megabytes is None else f"{row.megabytes:.1f}",
        "verdict": "ok" if not row.why_not else ("not here" if row.rate is None else "refused"),
    }
