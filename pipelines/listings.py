"""Listings of a store: releases, failures, hits; as rows for JSON and as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from cliploom.pipelines.console import clock, counted, failed_text, human_bytes, short_path, short_paths, table, visible
from cliploom.pipelines.drift import precision_rows, precision_text
from cliploom.schemas.heads import PREDICTED
from cliploom.schemas.records import LABELS_KEY
from cliploom.schemas.release import Release
from cliploom.transforms.store.object_store import existing_store
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table

MOST_REASONS = 3
"""Number of failures that a warning shows."""

MOST_LABELS = 3
"""Number of predicted labels that a hit shows."""

# Number of facet values that fit on a line.
MOST_VALUES = 20


def release_rows(store: str) -> list[dict[str, Any]]:
    """Return the releases of a store, oldest first, each with its changes from the previous one."""
    releases = read_releases(existing_store(store)).rows
    before: Release | None = None
    rows = []
    for release in releases:
        rows.append(
            {
                "release": release.release,
                "created_at": release.created_at.isoformat(timespec="seconds"),
                "run": release.run,
                "items": release.counts.get("items", 0),
                "rows": sum(feature.rows for feature in release.features.values()),
                "failed": release.counts.get("failed", 0),
                "bytes": sum(feature.size for feature in release.features.values()),
                "seconds": release.seconds,
                "changed": changes(before, release),
                "note": release.note,
                "precision": precision_rows(release),
                "quantised": precision_text(release),
            }
        )
        before = release
    return rows


def changes(before: Release | None, after: Release) -> str:
    """Return the changes between two releases, in a few words."""
    if before is None:
        return "first release"
    said = []
    items = after.counts.get("items", 0) - before.counts.get("items", 0)
    if items:
        said.append(f"{items:+,} {'item' if abs(items) == 1 else 'items'}")
    for name, feature in after.features.items():
        old = before.features.get(name)
        if old is None:
            said.append(f"feature {name} is new")
        elif old.config != feature.config:
            said.append(f"feature {name} recomputed")
        elif old.version != feature.version:
            rows = feature.rows - old.rows
            said.append(f"{name} {rows:+,} {'row' if abs(rows) == 1 else 'rows'}")
    for name, head in after.heads.items():
        was = before.heads.get(name)
        if was is None or was.config != head.config:
            said.append(f"labels of {name} predicted {'again' if was else 'for the first time'}")
    said += [f"feature {name} was removed" for name in before.features if name not in after.features]
    return ", ".join(said) or "no row changed"


def release_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the releases as text."""
    if not rows:
        return "No release yet."
    plain = [
        row
        | {
            "created_at": row["created_at"][:16].replace("T", " ") + "Z",
            "size": human_bytes(row["bytes"]),
            "took": clock(round(row["seconds"])),
        }
        for row in rows
    ]
    optional = ("quantised", "note")
    columns = ["release", "created_at", "items", "rows", "failed", "size", "took", "changed", *optional]
    shown = [column for column in columns if column not in optional or any(row.get(column) for row in rows)]
    return table(plain, shown, below=["changed", *optional])


@dataclass(frozen=True)
class FailureFilter:
    """Selects failures to list.

    Attributes:
        type: the name of the error, such as ``NoVideo``, in any letter case.
        stage: the stage, such as ``probe`` or ``decode``.
        glob: a pattern for the item's uid, or for the name or path of its file.
    """

    type: str | None = None
    stage: str | None = None
    glob: str | None = None

    def takes(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row of ``FAILURES`` is listed."""
        if self.type is not None and self.type.lower() != str(row["type"]).lower():
            return False
        if self.stage is not None and self.stage.lower() != str(row["stage"]).lower():
            return False
        uri = str(row["uri"] or "")
        names = (row["uid"], uri, uri.rpartition("/")[2])
        return self.glob is None or any(fnmatchcase(name, self.glob) for name in names)


ALL_FAILURES = FailureFilter()


def failure_rows(store: str, release: int | None = None, wanted: FailureFilter = ALL_FAILURES) -> list[dict[str, Any]]:
    """Return the failures recorded in a release, one by one."""
    objects = existing_store(store)
    found = read_releases(objects).get(release)
    rows = read_table(objects, "failures", found.tables["failures"]).to_dicts()
    return [row for row in rows if wanted.takes(row)]


def failure_groups(
    store: str, release: int | None = None, wanted: FailureFilter = ALL_FAILURES
) -> list[dict[str, Any]]:
    """Return failures grouped by reason, most frequent first, each with one example."""
    rows = failure_rows(store, release, wanted)
    if not rows:
        return []
    import polars as pl

    from cliploom.transforms.publish.dataframes import failure_reasons

    return failure_reasons(pl.DataFrame(rows)).to_dicts()


def failure_counts(store: str, release: int | None = None) -> dict[str, int]:
    """Return the counts of a release, in which ``failed`` and ``partial`` count items."""
    return read_releases(existing_store(store)).get(release).counts


def failure_list(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return each failure as text: the item and its file, then the reason."""
    if not rows:
        return "No failures."
    lines = []
    for row in sorted(rows, key=lambda row: (row["source"], row["uid"], row["feature"])):
        of = f", feature {row['feature']}" if row["feature"] else ""
        kept = f", {row['got']} of {counted(row['expected'], 'row')} kept" if row["partial"] else ""
        lines.append(f"{visible(row['uid'])}: {row['type']} in {row['stage']}{of}{kept}")
        lines.append(f"  {short_paths(row['message'])}")
        if row["uri"]:
            lines.append(f"  {short_path(row['uri'])}")
    items = len({(row["source"], row["uid"]) for row in rows})
    return "\n".join([*lines, f"{counted(len(rows), 'failure')} of {counted(items, 'item')}."])


def failure_text(groups: Sequence[dict[str, Any]], counts: Mapping[str, int] | None = None) -> str:
    """Return failures grouped by reason as text.

    Args:
        groups: the result of ``failure_groups``.
        counts: the counts of the release, if all of its failures are shown.
    """
    if not groups:
        return "No failures."
    lines = [f"{failed_text(counts)}."] if counts else []
    for group in groups:
        kind = "transient, tried again" if group["transient"] else "permanent"
        kept = ", part kept" if group["partial"] else ""
        lines.append(f"{counted(group['items'], 'item')}: {group['type']} in {group['stage']} ({kind}{kept})")
        lines.append(f"  e.g. {visible(group['uid'])}: {short_paths(group['message'])}")
    return "\n".join(lines)


def empty_outcomes(store: str, release: Mapping[str, Any]) -> list[str]:
    """Return warnings about indexes and exports without any row, each with the first reasons.

    Args:
        store: the folder or URI of the store.
        release: the release, as in JSON output.
    """
    features = release["features"]
    said = [
        f"Warning: index {name} has 0 rows, so searching it finds nothing{_why(store, release, index['feature'])}"
        for name, index in release["indexes"].items()
        if not index["rows"]
    ]
    for name, export in release["exports"].items():
        if export["kind"] == "pairs":
            manifest = json.loads(existing_store(store).get(export["files"][0]["path"]))
            if not manifest["pairs"]:
                sides = [side for side in (manifest["text"], manifest["feature"]) if not features[side]["rows"]]
                lost = ", ".join(f"{drop['narrations']} texts: {drop['reason']}" for drop in manifest["dropped"])
                why = f" ({lost})" if lost else _why(store, release, sides[0]) if sides else ""
                said.append(f"Warning: export {name} has 0 pairs{why or ': no video has both texts and features'}")
        elif not features[export["feature"]]["rows"]:
            said.append(f"Warning: export {name} has 0 rows{_why(store, release, export['feature'])}")
    return [sentence if sentence.endswith(".") else f"{sentence}." for sentence in said]


def _why(store: str, release: Mapping[str, Any], feature: str) -> str:
    """Return the first failures of a feature and of its source, after a colon."""
    source = release["features"][feature]["source"]
    rows = failure_rows(store, release["release"])
    mine = [row["message"] for row in rows if row["source"] == source and row["feature"] in ("", feature)]
    if not mine:
        return f": feature {feature} has no rows"
    more = f" And {len(mine) - MOST_REASONS} more." if mine[MOST_REASONS:] else ""
    return f": {' '.join(mine[:MOST_REASONS])}{more}"


def label_text(labels: Sequence[dict[str, Any]]) -> str:
    """Return the labels in a few words: all given ones, and the most probable of each head.

    >>> cat, dog = ({"name": n, "score": s, "origin": "predicted:tags"} for n, s in (("cat", 0.98), ("dog", 0.3)))
    >>> label_text([{"name": "pets", "score": None, "origin": "given"}, cat, dog])
    '[pets; tags: cat 98%, dog 30%]'
    """
    given = ", ".join(str(each["name"]) for each in labels if each["score"] is None)
    said = [given] if given else []
    for origin in dict.fromkeys(each["origin"] for each in labels if each["score"] is not None):
        mine = [f"{each['name']} {each['score']:.0%}" for each in labels if each["origin"] == origin][:MOST_LABELS]
        said.append(f"{origin.removeprefix(PREDICTED)}: {', '.join(mine)}")
    return f"[{'; '.join(said)}]" if said else ""


def distance_of(score: float) -> float:
    """Return the Euclidean distance for a score of the metric ``l2``, which is its negative.

    >>> distance_of(-2.5)
    2.5
    """
    return max(0.0, -score)


def facet_text(name: str, counts: Sequence[tuple[Any, int]]) -> str:
    """Return the values of a facet on one line, with the number of hits for each."""
    shown = ", ".join(f"{value} ({count})" for value, count in counts[:MOST_VALUES])
    more = f" and {len(counts) - MOST_VALUES} more" if len(counts) > MOST_VALUES else ""
    return f"{name}: {shown or 'no values'}{more}"


def moments_text(moments: Sequence[Any]) -> str:
    """Return the moments of a hit on one line."""
    return ", ".join(f"{clock(moment['start_s'])}-{clock(moment['end_s'])}" for moment in moments)


def hit_table(hits: Sequence[Any], distances: bool = False, offset: int = 0) -> str:
    """Return the hits as text.

    Args:
        hits: the hits, best first.
        distances: whether to show distances, for scores that are negative distances (metric ``l2``).
        offset: the number of hits before them.
    """
    if not hits:
        return "No hits."
    several = len({hit.source for hit in hits}) > 1
    rows = []
    for place, hit in enumerate(hits, offset + 1):
        found = hit.to_dict()
        labels = label_text(found["labels"])
        # The given labels of an item are in its metadata, too.
        metadata = {key: value for key, value in found["metadata"].items() if not (labels and key == LABELS_KEY)}
        extra = " ".join(f"{key}={value}" for key, value in metadata.items())
        rows.append(
            {
                "#": place,
                "score": f"{found['score']:.3f}",
                "distance": f"{distance_of(found['score']):.3f}",
                "fit": "" if found["fit"] is None else f"{found['fit']:.2f}",
                # The same uid in two sources means two items, such as a video and its narrations.
                "source": found["source"] if several else "",
                "uid": found["uid"],
                "at": "" if found["start_s"] is None else clock(found["start_s"]),
                "moments": moments_text(found["moments"]),
                "about": " ".join(text for text in (found["text"], labels, extra) if text),
                "file": short_path(found.get("uri") or ""),
            }
        )
    # Omit empty columns: pictures have no text, feature files no times.
    columns = ["#", "distance" if distances else "score", "fit", "source", "uid", "at", "moments", "about", "file"]
    return table(rows, [column for column in columns if any(row[column] != "" for row in rows)])
