"""Checks of a store: its newest release, whether the files in it exist, its newest run, active writers."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from cliploom.pipelines.console import counted, human_bytes
from cliploom.pipelines.health.findings import Finding
from cliploom.schemas.errors import CliploomError
from cliploom.schemas.release import FileEntry, Release
from cliploom.transforms.store.object_store import ObjectStore, existing_store
from cliploom.transforms.store.parts import part_path
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table

SECTION = "Store"
_SHOWN = 3


def store_findings(store: str) -> Iterator[Finding]:
    """Check a store's tables and one listing; no file is read completely (``cliploom verify`` does that).

    Args:
        store: a folder or URI.
    """
    from cliploom.pipelines.running.status import is_locked, run_status

    objects = existing_store(store)
    releases = read_releases(objects)
    newest = releases.latest
    if newest is None:
        yield Finding(SECTION, objects.uri, "note", "has no release yet", "cliploom run SPEC")
    else:
        yield Finding(SECTION, objects.uri, "ok", counted(len(releases.rows), "release"))
        yield from _newest(newest)
        yield from _files(objects, newest)
        yield from _precision(newest)
    try:
        status = run_status(objects.uri)
    except CliploomError:
        return
    if status.state == "published":
        yield Finding(SECTION, "newest run", "ok", f"{status.run} was published")
    elif status.state == "running" or is_locked(objects):
        parts = f"{status.parts} of {status.parts_planned} parts"
        yield Finding(SECTION, "newest run", "note", f"{status.run} is running, {parts}", "cliploom status STORE")
    elif status.state == "stopped":
        fix = "cliploom publish STORE, with the option that the message names"
        yield Finding(SECTION, "newest run", "note", f"{status.run} was stopped by a limit: {status.message}", fix)
    else:
        said = f"{status.run} ended without publishing; its finished parts are kept"
        yield Finding(SECTION, "newest run", "note", said, "cliploom run SPEC")


def _newest(release: Release) -> Iterator[Finding]:
    rows = sum(entry.rows for entry in release.features.values())
    size = human_bytes(sum(entry.size for entry in release.features.values()))
    when = release.created_at.isoformat(sep=" ", timespec="seconds")
    said = f"of {when} by cliploom {release.program}: {counted(release.counts.get('items', 0), 'item')}, "
    yield Finding(SECTION, f"release {release.release}", "ok", f"{said}{counted(rows, 'row')}, {size}")
    if failed := release.counts.get("failed", 0):
        yield Finding(SECTION, "failures", "note", f"{counted(failed, 'item')} failed", "cliploom failures STORE")


def _files(objects: ObjectStore, release: Release) -> Iterator[Finding]:
    named = dict(named_files(objects, release))
    folders = {path.rpartition("/")[0] for path in named}
    there = {entry.path: entry.size for folder in sorted(folders) for entry in objects.list(folder)}
    wrong = [path for path, size in named.items() if there.get(path) != size]
    if not wrong:
        said = f"{counted(len(named), 'file')} of it exist, {human_bytes(sum(named.values()))}"
        yield Finding(SECTION, "files", "ok", said)
        return
    some = ", ".join(wrong[:_SHOWN]) + (", ..." if len(wrong) > _SHOWN else "")
    said = f"{len(wrong)} of {counted(len(named), 'file')} are missing or have another size: {some}"
    fix = "cliploom verify STORE, then cliploom rollback STORE RELEASE or cliploom run SPEC --full-refresh"
    yield Finding(SECTION, "files", "problem", said, fix)


def named_files(objects: ObjectStore, release: Release) -> Iterator[tuple[str, int]]:
    """Yield the path and size of each part, model, index and export of a release."""
    files: list[FileEntry] = []
    for feature in release.features.values():
        files += feature.model_files
    for head in release.heads.values():
        files += head.model_files
    for index in release.indexes.values():
        files += [shard.file for shard in index.shards]
    for export in release.exports.values():
        files += export.files
    yield from ((file.path, file.size) for file in files)
    if "parts" not in release.tables:
        return
    parts = read_table(objects, "parts", release.tables["parts"])
    for name, entry in release.features.items():
        mine = parts.filter((pl.col("feature") == name) & (pl.col("config") == entry.config))
        for part, size in mine.select("part", "size").rows():
            yield part_path(entry.table, part), size


def _precision(release: Release) -> Iterator[Finding]:
    """Check for features whose precision this processor lacks."""
    needing = [
        name
        for name, entry in release.features.items()
        if (entry.recipe.get("encoder") or {}).get("precision") == "bf16"
    ]
    if not needing:
        return
    import openvino as ov

    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        said = f"{', '.join(needing)} use bf16, which this processor does not support"
        yield Finding(SECTION, "precision", "problem", said, "run on a processor with bf16, or set precision: f32")
