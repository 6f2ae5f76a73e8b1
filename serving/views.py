"""Plain values that pages and the API show: stores, releases, their differences, the DAG, items."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cliploom.pipelines.listings import changes
from cliploom.schemas.errors import SpecError
from cliploom.schemas.release import Release
from cliploom.schemas.secrets import masked
from cliploom.serving.playback import ConversionLimits, playback
from cliploom.serving.served_store import ServedStore
from cliploom.transforms.publish.dataframes import failure_reasons
from cliploom.transforms.search.searching import Hit
from cliploom.transforms.search.thumbnails import media_facts

_MOST_FAILURES = 500
_MOST_NARRATIONS = 500


def hit_row(hit: Hit) -> dict[str, Any]:
    """Return a hit for the API, without the file's location on the server."""
    row = hit.to_dict()
    row.pop("uri")
    return row


def release_row(release: Release, previous: Release | None) -> dict[str, Any]:
    """Return the figures of a release that lists and plots show."""
    recalls = {name: index.recall for name, index in release.indexes.items() if index.recall is not None}
    return {
        "release": release.release,
        "created_at": release.created_at.isoformat(timespec="seconds"),
        "run": release.run,
        "program": release.program,
        "items": release.counts.get("items", 0),
        "rows": sum(feature.rows for feature in release.features.values()),
        "failed": release.counts.get("failed", 0),
        "partial": release.counts.get("partial", 0),
        "bytes": sum(feature.size for feature in release.features.values()),
        "seconds": release.seconds,
        "recall": recalls,
        "changed": changes(previous, release),
        "note": release.note,
    }


def release_rows(releases: Sequence[Release]) -> list[dict[str, Any]]:
    """Return all releases, newest first."""
    previous = [None, *releases[:-1]]
    rows = [release_row(release, before) for release, before in zip(releases, previous, strict=True)]
    return rows[::-1]


def release_difference(old: Release, new: Release) -> dict[str, Any]:
    """Return the differences between two releases: counts, features, indexes and exports with their rows."""
    rows = []
    for kind in ("features", "indexes"):
        before, after = getattr(old, kind), getattr(new, kind)
        for name in sorted({*before, *after}):
            was, now = before.get(name), after.get(name)
            key = "config" if kind == "features" else "recipe"
            same = was is not None and now is not None and getattr(was, key) == getattr(now, key)
            state = "new" if was is None else "gone" if now is None else "same settings" if same else "other settings"
            rows.append(
                {
                    "kind": kind,
                    "name": name,
                    "state": state,
                    "rows_before": was.rows if was else None,
                    "rows_after": now.rows if now else None,
                }
            )
    counts = sorted({*old.counts, *new.counts} & {"items", "failed", "partial", "outdated", "deleted"})
    return {
        "from": old.release,
        "to": new.release,
        "counts": [{"name": n, "before": old.counts.get(n, 0), "after": new.counts.get(n, 0)} for n in counts],
        "nodes": rows,
        "changed": changes(old, new),
    }


def failure_summary(store: ServedStore) -> dict[str, Any]:
    """Return the failures of a release, grouped by reason, and individually up to a limit."""
    rows = store.collected(store.failures)
    groups = failure_reasons(rows).to_dicts() if rows.height else []
    each = rows.select("source", "feature", "uid", "stage", "type", "message", "transient", "partial", "attempts")
    return {
        "release": store.release.release,
        "total": rows.height,
        "groups": [_clean(group) for group in groups],
        "failures": [_clean(row) for row in each.head(_MOST_FAILURES).to_dicts()],
    }


def _clean(row: dict[str, Any]) -> dict[str, Any]:
    return {name: masked(value) if isinstance(value, str) else value for name, value in row.items() if name != "uri"}


def item_view(
    store: ServedStore, uid: str, source: str | None, limits: ConversionLimits | None = None
) -> dict[str, Any]:
    """Return everything that a release knows about an item, and how it is shown under the limits of conversions."""
    item = store.item(uid, source)
    facts = media_facts(item["facts"])
    labels = store.item_labels([item["item_no"]], [uid]).get((item["source"], uid), ())
    mine = [
        row
        for row in store.collected(store.failures).to_dicts()
        if row["uid"] == uid and row["source"] == item["source"]
    ]
    shown = playback(facts, item["size"] or 0, limits or ConversionLimits()) if facts else None
    narrations = store.narrations_of(uid).head(_MOST_NARRATIONS)
    return {
        "release": store.release.release,
        "source": item["source"],
        "uid": uid,
        "size": item["size"],
        "facts": facts.to_dict() | {"duration_s": facts.duration_s} if facts else None,
        "plays": shown is not None and shown.how == "as_is",
        "playback": asdict(shown) if shown else None,
        "metadata": json.loads(item["metadata"] or "{}"),
        "labels": [{"name": each.name, "score": each.score, "origin": each.origin} for each in labels],
        "narrations": narrations.to_dicts(),
        "rows": store.rows_by_feature(item["item_no"]),
        "failures": [
            _clean({name: row[name] for name in ("feature", "stage", "type", "message", "transient", "partial")})
            for row in mine
        ],
        "other_sources": sorted(row for row in store.items_with(uid=uid)["source"].to_list() if row != item["source"]),
    }


def dag_view(release: Release, previous: Release | None) -> dict[str, Any]:
    """Return the DAG of a release: nodes with counts and with what its run did to each, and edges."""
    spec, before = release.spec, previous or Release.model_construct(features={}, indexes={}, exports={}, heads={})
    nodes: list[dict[str, Any]] = []
    edges: list[tuple[str, str]] = []

    def add(kind: str, name: str, about: str, count: str, change: str) -> None:
        nodes.append(
            {"id": f"{kind}:{name}", "kind": kind, "name": name, "about": about, "count": count, "change": change}
        )

    for name, source in (spec.get("sources") or {}).items():
        add("source", name, str((source or {}).get("kind", "")), "", "")
    for name, feature in release.features.items():
        was = before.features.get(name)
        change = _row_change(None if was is None else was.rows, feature.rows)
        if was is not None and was.config != feature.config:
            change = "computed again"
        add("feature", name, feature.encoder, f"{feature.rows:,} rows", change)
        edges.append((f"source:{feature.source}", f"feature:{name}"))
    for name, head in release.heads.items():
        add("head", name, head.head, "labels", "")
        edges += [(f"feature:{feature}", f"head:{name}") for feature, _ in dict(head.inputs).items()]
    for name, index in release.indexes.items():
        old = before.indexes.get(name)
        recall = "" if index.recall is None else f", recall@10 {index.recall:.3f}"
        change = _row_change(None if old is None else old.rows, index.rows)
        add("index", name, index.kind, f"{index.rows:,} rows{recall}", change)
        edges.append((f"feature:{index.feature}", f"index:{name}"))
    for name, export in release.exports.items():
        same = name in before.exports and before.exports[name].files == export.files
        files = len(export.files)
        add("export", name, export.kind, f"{files} file{'s' * (files != 1)}", "unchanged" if same else "written")
        if export.feature in release.features:
            edges.append((f"feature:{export.feature}", f"export:{name}"))
    return {"release": release.release, "nodes": nodes, "edges": [{"from": a, "to": b} for a, b in edges]}


def _row_change(before: int | None, after: int) -> str:
    if before is None:
        return "new"
    return "unchanged" if before == after else f"{after - before:+,} rows"


def release_of(releases: Sequence[Release], number: int) -> Release:
    """Return the release with a number.

    Raises:
        SpecError: there is no such release.
    """
    for release in releases:
        if release.release == number:
            return release
    raise SpecError(f"There is no release {number}; see the list of releases.")
