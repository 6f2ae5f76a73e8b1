"""Collects the content of a release and the course of its run from the store, as plain values for JSON and the page."""

from __future__ import annotations

import json
from typing import Any

from cliploom.pipelines.listings import failure_groups, release_rows
from cliploom.schemas.release import FeatureEntry, Release
from cliploom.schemas.secrets import masked
from cliploom.transforms.store.object_store import ObjectStore, existing_store
from cliploom.transforms.store.releases import read_releases

MOST_RELEASES = 20


def release_report(store: str, release: int | None = None) -> dict[str, Any]:
    """Return a report about a release.

    Args:
        store: the folder or URI of the store.
        release: the number of the release; the newest by default.

    Returns:
        ``release``, ``counts``, ``features``, ``indexes``, ``exports``, ``heads``, ``failures``, ``history``, and of
        the run that created it ``verdicts``, ``seconds``, ``counters``, ``drift``, ``versions``, which are empty if the
        run left no report.

    Raises:
        StoreError: the store or the release does not exist.
    """
    objects = existing_store(store)
    found = read_releases(objects).get(release)
    history = [row for row in release_rows(store) if row["release"] <= found.release]
    run = _run_report(objects, found.run)
    return {
        "store": objects.uri,
        "release": found.release,
        "run": found.run,
        "created_at": found.created_at.isoformat(timespec="seconds"),
        "program": found.program,
        "note": found.note,
        "changed": history[-1]["changed"],
        "counts": {
            "items": found.counts.get("items", 0),
            "failed": found.counts.get("failed", 0),
            "partial": found.counts.get("partial", 0),
            "rows": sum(feature.rows for feature in found.features.values()),
            "bytes": sum(feature.size for feature in found.features.values()),
        },
        "features": [_feature(objects, name, entry) for name, entry in found.features.items()],
        "indexes": _indexes(found),
        "exports": [
            {
                "export": name,
                "kind": entry.kind,
                "feature": entry.feature,
                "files": len(entry.files),
                "bytes": sum(file.size for file in entry.files),
            }
            for name, entry in found.exports.items()
        ],
        "heads": [{"head": name, "source": entry.source} for name, entry in found.heads.items()],
        "failures": [row | {"message": masked(str(row["message"]))} for row in failure_groups(store, found.release)],
        "history": history[-MOST_RELEASES:],
        "verdicts": run.get("verdicts", {}),
        "seconds": run.get("seconds", {}),
        "counters": run.get("counters", {}),
        "drift": run.get("drift", []),
        "versions": run.get("versions", {}),
    }


def _run_report(objects: ObjectStore, run: str) -> dict[str, Any]:
    """Return the run's report; empty if there is none, such as for a rollback."""
    try:
        found = json.loads(objects.get(f"runs/{run}/report.json"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _feature(objects: ObjectStore, name: str, entry: FeatureEntry) -> dict[str, Any]:
    """Return a feature's row; ``agreement`` is the smallest cosine of its outputs to those of the original model."""
    agreement: dict[str, float] = {}
    if entry.model:
        try:
            agreement = json.loads(objects.get(f"{entry.model}/card.json")).get("agreement", {})
        except (FileNotFoundError, ValueError):
            agreement = {}
    mine = [value for output, value in agreement.items() if output in entry.outputs]
    return {
        "feature": name,
        "source": entry.source,
        "encoder": entry.encoder,
        "outputs": {output: about.dim for output, about in entry.outputs.items()},
        "rows": entry.rows,
        "repeated": entry.repeated,
        "parts": entry.parts,
        "bytes": entry.size,
        "agreement": min(mine) if mine else None,
    }


def _indexes(release: Release) -> list[dict[str, Any]]:
    return [
        {
            "index": name,
            "over": f"{entry.feature}.{entry.output}",
            "metric": entry.metric,
            "kind": entry.kind,
            "rows": entry.rows,
            "shards": len(entry.shards),
            "nprobe": entry.nprobe,
            "recall": entry.recall,
            "reason": entry.reason,
        }
        for name, entry in release.indexes.items()
    ]
