"""Command-line output about quantised features: their figures, and how far processors differ."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cliploom.pipelines.console import fit, say, show, show_json, table
from cliploom.schemas.precision import PrecisionFigures
from cliploom.schemas.release import FeatureEntry, Release

SAME = 0.99999
"""Cosine above which the results of two processors count as equal."""


def precision_rows(release: Release) -> dict[str, Any]:
    """Return precision, figures and processors of a release's quantised features, for JSON."""
    return {
        name: {"precision": entry.precision, "figures": entry.figures, "processors": entry.processors}
        for name, entry in release.features.items()
        if entry.figures
    }


def precision_text(release: Release) -> str:
    """Return the same in a few words; empty if no feature is quantised."""
    said = [_feature_text(name, entry) for name, entry in release.features.items() if entry.figures]
    said += [_device_text(name, entry) for name, entry in release.features.items() if not entry.figures]
    return "; ".join(filter(None, said))


def _device_text(name: str, entry: FeatureEntry) -> str:
    """Which devices rows of a feature that is not quantised were computed on; empty for processors alone."""
    devices = [f"{each} (cosine {cosine:.5f})" for each, cosine in entry.processors.items() if cosine is not None]
    return f"{name} computed on {' and '.join(devices)}" if devices else ""


def _feature_text(name: str, entry: FeatureEntry) -> str:
    figures = PrecisionFigures.from_dict(entry.figures)
    used = [found for output, found in figures.outputs.items() if output in entry.outputs and found.top1 is None]
    said = [f"{name} {entry.precision}"]
    if used:
        said.append(f"p5 {min(found.p5 for found in used):.3f}")
        recalls = [found.recall for found in used if found.recall is not None]
        said += [f"recall@10 {min(recalls):.3f}"] if recalls else []
    said.append(f"{figures.faster:.2f} times as fast as f32")
    text = ", ".join(said)
    others = [
        f"{processor} (cosine {cosine:.4f})"
        for processor, cosine in entry.processors.items()
        if cosine is not None and cosine < SAME
    ]
    if others and len(entry.processors) > 1:
        text += f"; rows come from processors that give other results: {', '.join(others)}"
    return text


def show_drift(store: str, items: int, release: int | None, *, as_json: bool) -> int:
    """Recompute rows and show how they compare; return the exit code."""
    from cliploom.transforms.upkeep.recompute import recompute_rows

    found = recompute_rows(store, items, release)
    if as_json:
        show_json([drift.to_dict() for drift in found])
    elif found:
        columns = ["feature", "precision", "rows", "mean", "least", "lost", "computed on"]
        rows = [
            asdict(drift)
            | {
                "computed on": drift.processor or "not known",
                "mean": _cosine(drift.mean),
                "least": _cosine(drift.least),
            }
            for drift in found
        ]
        shown = [name for name in columns if name != "lost" or any(drift.lost for drift in found)]
        show(fit(table(rows, shown, below=["computed on"])))
    if not found:
        say("No feature of this release is computed from media or texts.")
        return 0
    bad = [drift for drift in found if not drift.acceptable]
    for drift in bad:
        say(
            f"{drift.feature}: a row has a cosine of {drift.least:.4f} to the result on this processor ({drift.here}). "
            f"Compute all on processors of one kind (cliploom run SPEC --full-refresh), or use precision: f32."
        )
    if not bad:
        say(f"Compared with the results on this processor: {found[0].here}.")
    return 4 if bad else 0


def _cosine(value: float | None) -> str:
    return "none" if value is None else f"{value:.5f}"
