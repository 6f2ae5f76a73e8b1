"""The report of a release as one self-contained HTML page: counts, failures, figures, plots, thumbnails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cliploom.pipelines.console import counted, human_bytes, human_seconds, visible
from cliploom.schemas.errors import CliploomError
from cliploom.transforms.readers.release_tables import ReleaseReader
from cliploom.transforms.search.html_page import bars, escaped, media_link, named, page, picture, table
from cliploom.transforms.search.thumbnails import ThumbnailCache, media_facts

PICTURES = 42
_WIDTH, _SEED, _OVERSAMPLED = 200, 0, 6
_COLUMNS = {
    "features": ("feature", "source", "encoder", "outputs", "rows", "parts", "size", "agreement"),
    "indexes": ("index", "over", "metric", "kind", "rows", "shards", "nprobe", "recall@10", "reason"),
    "exports": ("export", "kind", "feature", "files", "size"),
    "failures": ("items", "type", "stage", "try again", "example", "reason"),
    "drift": ("feature", "output", "rows", "mean_cosine", "least_cosine"),
    "history": ("release", "created_at", "items", "rows", "failed", "size", "took", "changed", "note"),
}


def report_page(report: Mapping[str, Any], store: ReleaseReader, cache: ThumbnailCache | None = None) -> str:
    """Return the page of a report.

    Args:
        report: the result of ``release_report``.
        store: the store at that release, for thumbnails.
        cache: the cache of thumbnails; the user's by default.
    """
    counts = report["counts"]
    note = f": {named(report['note'])}" if report["note"] else ""
    body = [
        f"<h1>Release {report['release']} of {named(report['store'])}</h1>",
        f'<p class="dim">{named(report["created_at"])}, run {named(report["run"])}, '
        f"cliploom {named(report['program'])}; {named(report['changed'])}{note}</p>",
        _tiles(counts),
        _section("Features", table(_features(report), _COLUMNS["features"]), report["features"]),
        _section("Work of the run", table(*_verdicts(report["verdicts"])), report["verdicts"]),
        _section("Indexes", table(_indexes(report), _COLUMNS["indexes"]), report["indexes"]),
        _section("Exports", table(_sized(report["exports"]), _COLUMNS["exports"]), report["exports"]),
        _section("Heads", table(report["heads"], ("head", "source")), report["heads"]),
        "<h2>Failures</h2>"
        + (table(_failures(report), _COLUMNS["failures"]) if report["failures"] else "<p>None.</p>"),
        _section("Time by stage", _stages(report["seconds"]), report["seconds"]),
        _section("Counters of the workers", _work(report["counters"]), report["counters"]),
        _section("Drift from the previous release", table(_drift(report), _COLUMNS["drift"]), report["drift"]),
        _section("Items by release", _items_plot(report["history"]), report["history"][1:]),
        _section("Releases", table(_history(report), _COLUMNS["history"]), report["history"]),
        contact_sheet(store, cache or ThumbnailCache()),
        _section("Made with", _chips(report["versions"]), report["versions"]),
    ]
    return page(f"Release {report['release']} of {report['store']}", "".join(body))


def report_text(report: Mapping[str, Any]) -> str:
    """Return the report as a few lines for the terminal."""
    counts = report["counts"]
    lines = [
        f"Release {report['release']} of {report['store']}, {report['created_at'][:16].replace('T', ' ')}Z, "
        f"run {report['run']}",
        f"  {counted(counts['items'], 'item')}, {counts['failed']:,} failed, {counts['partial']:,} in part; "
        f"{counted(counts['rows'], 'row')}, "
        f"{human_bytes(counts['bytes'])}; {report['changed']}",
    ]
    for row in report["features"]:
        agreement = "" if row["agreement"] is None else f", agreement {row['agreement']:.6f}"
        lines.append(
            f"  feature {row['feature']}: {counted(row['rows'], 'row')}, {human_bytes(row['bytes'])}{agreement}"
        )
    for row in report["indexes"]:
        recall = "" if row["recall"] is None else f", recall@10 {row['recall']:.3f}"
        lines.append(f"  index {row['index']}: {counted(row['rows'], 'row')}, {row['kind']}{recall}")
    lines += [
        f"  failed: {row['items']} {row['type']}, e.g. {visible(row['uid'])}: {row['message']}"
        for row in report["failures"]
    ]
    if report["seconds"]:
        spent = ", ".join(f"{stage} {human_seconds(seconds)}" for stage, seconds in report["seconds"].items())
        lines.append(f"  time: {spent}")
    return "\n".join(lines)


def contact_sheet(store: ReleaseReader, cache: ThumbnailCache) -> str:
    """Return thumbnails of a seeded choice of items, in the order in which they were added to the store."""
    cells = []
    for row in _chosen_items(store):
        try:
            data, reason = cache.get(store, row["uid"], None, _WIDTH, row["source"]), ""
        except CliploomError as error:
            data, reason = None, str(error)
        image, link = picture(data, reason, row["uid"]), media_link(row["uri"] or "")
        image = f'<a href="{escaped(link)}">{image}</a>' if link else image
        cells.append(f'<article class="card">{image}<div class="about">{named(row["uid"])}</div></article>')
    title = f"<h2>Contact sheet: {len(cells)} items</h2>"
    return f'{title}<div class="grid small">{"".join(cells)}</div>' if cells else ""


def _chosen_items(store: ReleaseReader) -> list[dict[str, Any]]:
    numbers = np.arange(1, store.release.next_item_no)
    if len(numbers) > _OVERSAMPLED * PICTURES:
        # Skip deleted items and those without media; the candidates suffice in almost any store.
        numbers = np.random.default_rng(_SEED).choice(numbers, _OVERSAMPLED * PICTURES, replace=False)
    rows = store.items_with(numbers=numbers.tolist()).to_dicts()
    media = [row for row in rows if media_facts(row["facts"]) is not None]
    order = {int(number): place for place, number in enumerate(np.random.default_rng(_SEED).permutation(numbers))}
    chosen = sorted(media, key=lambda row: order[row["item_no"]])[:PICTURES]
    return sorted(chosen, key=lambda row: int(row["item_no"]))


def _section(title: str, content: str, there: object) -> str:
    return f"<h2>{escaped(title)}</h2>{content}" if there else ""


def _tiles(counts: Mapping[str, int]) -> str:
    shown = {
        "items": f"{counts['items']:,}",
        "failed": f"{counts['failed']:,}",
        "kept in part": f"{counts['partial']:,}",
        "rows": f"{counts['rows']:,}",
        "of features": human_bytes(counts["bytes"]),
    }
    tiles = "".join(
        f'<div class="tile"><b>{value}</b><span class="dim">{key}</span></div>' for key, value in shown.items()
    )
    return f'<div class="tiles">{tiles}</div>'


def _sized(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "size": human_bytes(row["bytes"])} for row in rows]


def _features(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        row
        | {
            "outputs": ", ".join(f"{name} [{dim}]" for name, dim in row["outputs"].items()),
            "agreement": None if row["agreement"] is None else f"{row['agreement']:.6f}",
        }
        for row in _sized(report["features"])
    ]


def _indexes(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {**row, "recall@10": None if row["recall"] is None else f"{row['recall']:.3f}", "nprobe": row["nprobe"] or None}
        for row in report["indexes"]
    ]


def _verdicts(verdicts: Mapping[str, Mapping[str, int]]) -> tuple[list[dict[str, Any]], list[str]]:
    kinds = dict.fromkeys(kind for found in verdicts.values() for kind in found)
    return [{"feature": name, **found} for name, found in verdicts.items()], ["feature", *kinds]


def _failures(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        row
        | {
            "try again": "on the next run" if row["transient"] else "no",
            "example": row["uid"],
            "reason": row["message"] + (" The rest is kept." if row["partial"] else ""),
        }
        for row in report["failures"]
    ]


def _stages(seconds: Mapping[str, float]) -> str:
    return bars(seconds, {stage: human_seconds(value) for stage, value in seconds.items()})


def _work(counters: Mapping[str, int]) -> str:
    spent = {stage: counters.get(f"{stage}_ms", 0) / 1000 for stage in ("decode", "encode", "write")}
    return bars(spent, {stage: human_seconds(value) for stage, value in spent.items()})


def _drift(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        row | {key: f"{row[key]:.6f}" for key in ("mean_cosine", "least_cosine")} for row in map(dict, report["drift"])
    ]


def _items_plot(history: Sequence[Mapping[str, Any]]) -> str:
    values = {f"release {row['release']}": row["items"] for row in history}
    return bars(values, {f"release {row['release']}": f"{row['items']:,} items" for row in history})


def _history(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    # Release numbers are names, so they get no thousands separators.
    return [
        {**row, "release": str(row["release"]), "took": human_seconds(row["seconds"])}
        for row in reversed(_sized(report["history"]))
    ]


def _chips(versions: Mapping[str, str]) -> str:
    chips = "".join(f"<span>{named(f'{name} {version}')}</span>" for name, version in versions.items())
    return f'<div class="chips">{chips}</div>'
