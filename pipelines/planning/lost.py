"""Finds files that the last release names and the store no longer has, by one listing; no file is opened."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from cliploom.pipelines.planning.previous_release import PreviousRelease
from cliploom.schemas.errors import StoreError
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.release import Release
from cliploom.schemas.vector_heads import ProjectionJob
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import part_path
from cliploom.transforms.store.tables import table_files

# Tables whose files are not read by plans.
_UNREAD = ("labels", "narrations")


def lost_parts(
    objects: ObjectStore, before: PreviousRelease, jobs: Mapping[str, FeatureJob | ProjectionJob]
) -> dict[str, tuple[str, ...]]:
    """Return, by feature, the missing parts of its current config that the last release names.

    Raises:
        StoreError: if the size of a part has changed.
    """
    lost = {}
    for name, job in jobs.items():
        mine = before.parts.filter((pl.col("feature") == name) & (pl.col("config") == job.config))
        if mine.is_empty():
            continue
        sizes = {entry.path: entry.size for entry in objects.list(job.table)}
        missing = []
        for part, size in mine.select("part", "size").sort("part").iter_rows():
            found = sizes.get(part_path(job.table, part))
            if found is None:
                missing.append(part)
            elif found != size:
                raise StoreError(
                    f"{part_path(job.table, part)} is damaged: it has {found} bytes instead of {size}. Remove the file "
                    "and run again, which computes it again, or go back with `cliploom rollback`."
                )
        if missing:
            lost[name] = tuple(missing)
    return lost


def lost_files(objects: ObjectStore, release: Release | None) -> tuple[str, ...]:
    """Return the paths of missing index files, exports, labels and texts that a release names."""
    if release is None:
        return ()
    named = {shard.file.path for index in release.indexes.values() for shard in index.shards}
    named |= {index.trained.path for index in release.indexes.values() if index.trained is not None}
    named |= {index.fit.words.path for index in release.indexes.values() if index.fit and index.fit.words}
    named |= {shard.file.path for shard in release.words}
    named |= {file.path for export in release.exports.values() for file in export.files}
    for table in _UNREAD:
        if table in release.tables:
            named |= {f"{table}/{name}" for name in table_files(objects, table, release.tables[table])}
    there = {entry.path for top in {path.split("/")[0] for path in named} for entry in objects.list(top)}
    return tuple(sorted(named - there))
