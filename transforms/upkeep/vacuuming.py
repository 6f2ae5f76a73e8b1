"""Vacuum: deletes files that no kept release uses and that were not used for a day.

Only files with names in this program's format are ever deleted, so a store may share its folder with other files.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.release import Release
from cliploom.transforms.store.delta_log import LAST_CHECKPOINT, LOG, LogEntries, list_log
from cliploom.transforms.store.lock import store_lock
from cliploom.transforms.store.object_store import TEMPORARY, Entry, ObjectStore, existing_store
from cliploom.transforms.store.parts import part_path
from cliploom.transforms.store.releases import TABLE, Releases, read_releases, release_table
from cliploom.transforms.store.releases import keep_releases as strike
from cliploom.transforms.store.tables import read_table, rows_file, table_at, table_files

# A run without a sign of life for this long has ended; in buckets, younger files may belong to a run.
FRESH_S = 3600.0
# How long readers that opened a release may keep using it after it stopped being the newest.
MINIMUM_AGE_S = 24 * 3600.0

_DIGEST = "[0-9a-f]{40}"
_OURS = re.compile(
    rf"""(?:
    [a-z]+/(?:(?:rows|part)-{_DIGEST}\.parquet|{LOG}/.+)                   # small tables
    | features/[^/]+/[0-9a-f]{{12}}/(?:part-{_DIGEST}\.parquet|{LOG}/.+)
    | [a-z0-9]+/[^/]+/[A-Za-z0-9_-]+-{_DIGEST}\.[a-z0-9]+                 # index shards, exports
    | tfrecords/[^/]+/[0-9a-f]{{12}}/(?:.+\.tfrecord(?:\.gz)?|pieces/piece-{_DIGEST})
    | models/\.?[0-9a-f]{{12}}[^/]*/.+
    | plans/[^/]+/[A-Za-z0-9_-]+\.(?:parquet|json)
    | probes/{_DIGEST}\.parquet
    | runs/[^/]+/(?:[a-z_]+\.json|(?:heartbeats|inflight|pca)/.+)
    | spools/[^/]+/.+                                                     # texts read from files
    )""",
    re.VERBOSE,
)
_FOLDERS = ("features", "hdf5", "index", "models", "pairs", "plans", "probes", "runs", "spools", "tfrecords")
# Temporary files that a killed process leaves beside the file that it was writing.
_STAGED = re.compile(r"(.+)#\d+|.*/_commit_[^/]*\.tmp")


@dataclass(frozen=True)
class Kept:
    """The files to keep.

    Attributes:
        paths: single files.
        folders: folders, each ending in ``/``, of which everything is kept.
        tables: maps a Delta table to its oldest version in a kept release.
    """

    paths: frozenset[str]
    folders: tuple[str, ...]
    tables: dict[str, int]


def vacuum_store(
    store: str,
    keep_releases: int,
    *,
    older_than: float = MINIMUM_AGE_S,
    dry_run: bool = False,
    report: Callable[[str], None] = lambda text: None,
) -> list[Entry]:
    """Delete everything that the newest releases do not use.

    Releases that were the newest one less than ``older_than`` ago are kept as well, since they may have readers, and so
    are files that are in no release but were written since then.

    Older releases are removed from the ``releases`` table first: they can no longer be opened or rolled back to, and
    Delta's time travel to them ends. Then their rows, parts, index shards, exports and models are deleted, with the
    plans, probe results and notes of all runs, and leftovers of killed runs. A deleted item's uid, text and vectors are
    then in no file, unless a kept release has them. A run that was stopped by a limit cannot be published afterwards.

    Whenever it is interrupted, the kept releases remain valid, and a second vacuum finishes the work.

    Args:
        store: the folder or URI of the store.
        keep_releases: the number of newest releases to keep.
        older_than: the age in seconds; 0 deletes at once, even files in use by readers.
        dry_run: whether to only report what would be deleted.
        report: a callback for a message about unused files in a bucket that are too young to be deleted.

    Returns:
        The files that were (or would be) deleted, by path.

    Raises:
        SpecError: the number is below 1, or the age below 0.
        StoreError: a run is active, or a kept release cannot be read: repair damage first.
    """
    if keep_releases < 1:
        raise SpecError(f"keep_releases is {keep_releases}; give 1 or more, since the newest release is always kept.")
    if not older_than >= 0:
        raise SpecError(f"older_than is {older_than}; give seconds, 0 or more.")
    objects = existing_store(store)
    with store_lock(objects, "cliploom vacuum"):
        releases = read_releases(objects)
        releases.get(None)
        if objects.root is None:
            _refuse_live_runs(objects)
        # With 0 nothing is too young, even if the clock was set back.
        since = time.time() - older_than if older_than else math.inf
        before = list(everything(objects))
        keep = releases.rows[-max(keep_releases, _in_use(releases.rows, since)) :]
        kept = with_releases(objects, kept_by(objects, keep), releases, keep)
        doomed = without_young(doomed_entries(before, kept, objects), before, kept, since)
        if objects.root is None:
            new = doomed_entries(everything(objects, settled=False), kept, objects)
            if new:
                files, size = len(new), sum(entry.size for entry in new) / 1e6
                report(
                    f"{files} more file{'' if files == 1 else 's'} ({size:.1f} MB) written in the last hour stay, "
                    "whatever --older-than says: in a bucket, a run elsewhere may own them. Vacuum again in an hour."
                )
        if not dry_run:
            if len(keep) < len(releases.rows):
                strike(objects, keep, releases.version)
            _write_checkpoints(objects, kept)
            _delete(objects, doomed)
        return sorted(doomed, key=lambda entry: entry.path)


def _in_use(releases: Sequence[Release], since: float) -> int:
    """Return how many of the newest releases were the newest one at some time after ``since``."""
    superseded = [follower.created_at.timestamp() for follower in releases[1:]]
    return next((len(releases) - place for place, at in enumerate(superseded) if at > since), 1)


def without_young(doomed: Sequence[Entry], entries: Iterable[Entry], kept: Kept, since: float) -> list[Entry]:
    """Return the entries to delete whose group has had no new file after ``since``.

    The log of a deleted table is deleted completely or not at all, as are the files of a run or a model, which cannot
    be read in part. Kept tables can be read without the deleted entries.

    Args:
        doomed: the entries to delete, in a safe order.
        entries: all files.
        kept: the files to keep.
        since: the time in seconds since 1970.
    """
    newest: dict[str, float] = {}
    for entry in entries:
        group = _group(entry.path, kept)
        newest[group] = max(entry.modified_s, newest.get(group, entry.modified_s))
    return [entry for entry in doomed if newest[_group(entry.path, kept)] <= since]


def _group(path: str, kept: Kept) -> str:
    table, marker, _ = path.partition(f"/{LOG}/")
    if marker:
        return path if table in kept.tables else f"{table}/{LOG}"
    top, *rest = path.split("/")
    return f"{top}/{rest[0]}" if top in ("models", "plans", "runs", "spools") and len(rest) > 1 else path


def everything(objects: ObjectStore, *, settled: bool = True) -> Iterator[Entry]:
    """Yield all files that may be the store's, including those that were being written when a run was killed.

    Args:
        objects: the store.
        settled: whether to list files of a bucket older than an hour, or else those written since.
    """
    if objects.root is None:
        for entry in objects.list():
            if _OURS.fullmatch(entry.path) and (time.time() - entry.modified_s > FRESH_S) == settled:
                yield entry
        return
    for folder, _, names in os.walk(objects.root):
        for name in names:
            path = (Path(folder) / name).relative_to(objects.root).as_posix()
            staged = _STAGED.fullmatch(path)
            if (
                _OURS.fullmatch((staged and staged[1]) or path)
                or (staged and LOG in path)
                or name.startswith(TEMPORARY)
            ):
                status = os.lstat(objects.root / path)
                yield Entry(path, status.st_size, status.st_mtime)


def kept_by(objects: ObjectStore, releases: Iterable[Release]) -> Kept:
    """Return everything that releases use, except the ``releases`` table.

    Raises:
        StoreError: one of their tables cannot be read.
    """
    paths: set[str] = set()
    folders: set[str] = set()
    tables: dict[str, int] = {}
    for release in releases:
        versions = release.tables | {entry.table: entry.version for entry in release.features.values()}
        for table, version in versions.items():
            tables[table] = min(version, tables.get(table, version))
            paths |= {f"{table}/{name}" for name in table_files(objects, table, version)}
        parts = read_table(objects, "parts", release.tables["parts"])
        of_feature = {name: entry.table for name, entry in release.features.items()}
        # Parts without rows are in no Delta table, but record which items failed.
        paths |= {part_path(of_feature[feature], part) for feature, part in parts.select("feature", "part").rows()}
        folders |= _spools(objects, release)
        for feature in release.features.values():
            paths |= {file.path for file in feature.model_files}
            folders |= {f"{feature.model}/"} if feature.model else set()
        for head in release.heads.values():
            paths |= {file.path for file in head.model_files}
        for index in release.indexes.values():
            paths |= {shard.file.path for shard in index.shards}
            paths |= {index.trained.path} if index.trained else set()
            paths |= {index.fit.words.path} if index.fit and index.fit.words else set()
        paths |= {shard.file.path for shard in release.words}
        for export in release.exports.values():
            paths |= {file.path for file in export.files}
        paths |= {f"runs/{release.run}/{name}.json" for name in ("outcome", "report")}
    return Kept(frozenset(paths), tuple(sorted(folders)), tables)


def _spools(objects: ObjectStore, release: Release) -> set[str]:
    """Return the folders of the texts that a release's items were read from."""
    items = read_table(objects, "items", release.tables["items"])
    found = pl.concat([items[column].str.extract(r"(spools/[^/\"]+)/") for column in ("uri", "facts")])
    return {f"{folder}/" for folder in found.drop_nulls().unique().to_list()}


def with_releases(objects: ObjectStore, kept: Kept, releases: Releases, keep: Sequence[Release]) -> Kept:
    """Add the ``releases`` table, of which only the newest version matters: the one without the removed rows."""
    striking = len(keep) < len(releases.rows)
    names = [rows_file(release_table(keep))[0].name] if striking else table_files(objects, TABLE, releases.version)
    # The first entry marks the table as existing.
    paths = kept.paths | {f"{TABLE}/{name}" for name in names} | {f"{TABLE}/{LOG}/{0:020d}.json"}
    return Kept(paths, kept.folders, kept.tables | {TABLE: releases.version + striking})


def doomed_entries(entries: Iterable[Entry], kept: Kept, objects: ObjectStore) -> list[Entry]:
    """Return the entries to delete, in an order in which they may be deleted one by one."""
    logs = {table: list_log(objects, table) for table in kept.tables}
    return sorted((entry for entry in entries if not _stays(entry.path, kept, logs)), key=_turn)


def _stays(path: str, kept: Kept, logs: dict[str, LogEntries]) -> bool:
    if path in kept.paths or path.startswith(kept.folders):
        return True
    table, marker, name = path.partition(f"/{LOG}/")
    if not marker or table not in kept.tables or _STAGED.fullmatch(path) or name.startswith(TEMPORARY):
        return False
    oldest, log = kept.tables[table], logs[table]
    if path in log.other:
        return name == LAST_CHECKPOINT or not name[:20].isdigit() or int(name[:20]) >= oldest
    version = int(name[:20])
    return version >= oldest


def _turn(entry: Entry) -> tuple[int, int, str]:
    """Return the sort key: logs first, from their newest entries to checkpoints, so the rest is always a table."""
    name = entry.path.rpartition("/")[2]
    if f"/{LOG}/" not in entry.path:
        return 3, 0, entry.path
    if name.endswith(".checkpoint.parquet"):
        return 2, -int(name[:20]), entry.path
    if name.endswith(".json") and name[:20].isdigit():
        return 0, -int(name[:20]), entry.path
    return 1, 0, entry.path


def _write_checkpoints(objects: ObjectStore, kept: Kept) -> None:
    """Make each table's oldest kept version readable without earlier log entries."""
    for table, version in kept.tables.items():
        log = list_log(objects, table)
        entries = (*log.commits.items(), *log.checkpoints.items())
        before = [path for number, path in entries if number < version]
        if version not in log.checkpoints and set(before) - kept.paths:
            table_at(objects, table, version).create_checkpoint()


def _refuse_live_runs(objects: ObjectStore) -> None:
    """Reject a vacuum during a run: buckets have no locks, so signs of life of an unfinished run serve as one.

    Raises:
        StoreError: a run is active; the message names it.
    """
    last: dict[str, float] = {}
    ended: set[str] = set()
    for folder in ("plans", "runs"):
        for entry in objects.list(folder):
            run = entry.path.split("/")[1]
            last[run] = max(entry.modified_s, last.get(run, 0.0))
            if entry.path.endswith("/outcome.json"):
                ended.add(run)
    for run, seen in last.items():
        age = time.time() - seen
        if run not in ended and age < FRESH_S:
            raise StoreError(
                f"{objects.uri}: run {run} was active {age:.0f} s ago; wait until it ends, or for "
                f"{FRESH_S / 60:.0f} minutes after its last sign."
            )


def _delete(objects: ObjectStore, doomed: Sequence[Entry]) -> None:
    root = objects.root
    if root is None:
        objects.delete(entry.path for entry in doomed)
        return
    for entry in doomed:
        with objects.errors(entry.path):
            (root / entry.path).unlink(missing_ok=True)
    for top in _FOLDERS:
        for folder, _, _ in os.walk(root / top, topdown=False):
            if not os.listdir(folder):
                os.rmdir(folder)
