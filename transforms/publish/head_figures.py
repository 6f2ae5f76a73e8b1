"""What releases measure of a trained head, written beside its model card."""

from __future__ import annotations

import json

from cliploom.schemas.release import Release
from cliploom.transforms.heads.report import figure_rows
from cliploom.transforms.store.object_store import ObjectStore

PAGE, FIGURES = "EVALUATIONS.md", "evaluations.json"


def head_of(release: Release, about: str) -> str:
    """Folder of the trained head that made what an evaluation is about; empty where no head did.

    Args:
        release: that was measured.
        about: a feature, or its output as ``feature.output``.
    """
    feature = about.partition(".")[0]
    if feature in release.heads:
        return release.heads[feature].model
    return str(release.features[feature].recipe.get("head", "")) if feature in release.features else ""


def write_head_figures(objects: ObjectStore, release: Release) -> list[str]:
    """Write a release's figures of what heads made into the folders of these heads, as JSON and as a page.

    The card of a head says how it was when it was trained; these files say how it does in the newest release that was
    measured with it, and are replaced by the next one.

    Returns:
        The folders.
    """
    mine: dict[str, dict[str, dict[str, object]]] = {}
    for name, figures in release.figures.items():
        model = head_of(release, str(figures.get("about", "")))
        if model and "error" not in figures:
            mine.setdefault(model, {})[name] = figures
    for model, known in mine.items():
        lines = [f"# Evaluations in release {release.release} (run {release.run})", ""]
        for name, figures in known.items():
            lines += [f"## {name}: {figures['kind']} of {figures['about']}", ""]
            lines += figure_rows(figures["parts"])  # type: ignore[arg-type]
            lines += [f"{note}." for note in figures["notes"]]  # type: ignore[attr-defined]
        page = "\n".join(lines).rstrip() + "\n"
        objects.put(f"{model}/{FIGURES}", json.dumps({"release": release.release, "figures": known}).encode())
        objects.put(f"{model}/{PAGE}", page.encode())
    return list(mine)
