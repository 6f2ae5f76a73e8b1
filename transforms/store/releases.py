"""The ``releases`` table: the single source of truth for readers.

A release is one appended row. It is appended to the version of the table that the plan used, without retries, so of two
runs that started from the same release only one can publish.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from deltalake import CommitProperties
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction

from cliploom.schemas.errors import StoreError, UnknownReleaseError
from cliploom.schemas.faults import system_fault
from cliploom.schemas.release import STORE_FORMAT, FileEntry, Release
from cliploom.schemas.tables import RELEASES
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import open_table, put_rows, read_table, table_error, table_files

TABLE = "releases"


@dataclass(frozen=True)
class Releases:
    """All releases at the time of reading.

    Attributes:
        version: the version of the ``releases`` table; -1 if there is none yet.
        rows: the releases, oldest first.
    """

    version: int
    rows: tuple[Release, ...]

    @property
    def latest(self) -> Release | None:
        """The newest release."""
        return self.rows[-1] if self.rows else None

    def get(self, number: int | None) -> Release:
        """Return the release with this number, or the newest.

        Raises:
            StoreError: there is no such release; the message lists the existing numbers.
        """
        if not self.rows:
            raise StoreError("The store has no release yet; `cliploom run SPEC` makes the first one.")
        if number is None:
            return self.rows[-1]
        for row in self.rows:
            if row.release == number:
                return row
        have = f"{self.rows[0].release} to {self.rows[-1].release}"
        raise UnknownReleaseError(
            f"There is no release {number}; the store has {have} (see `cliploom releases STORE`)."
        )


def read_releases(objects: ObjectStore) -> Releases:
    """Return all releases of a store; empty for a new store.

    Raises:
        StoreError: the store is damaged, or made by a newer program.
    """
    if objects.size(f"{TABLE}/_delta_log/00000000000000000000.json") is None:
        return Releases(-1, ())
    version = int(open_table(objects, TABLE, RELEASES).version())
    frame = read_table(objects, TABLE, version).sort("release")
    for found in frame["format"].to_list():
        if found > STORE_FORMAT:
            raise StoreError(
                f"{objects.uri} has format {found}, this program knows {STORE_FORMAT} at most; upgrade cliploom."
            )
    return Releases(version, tuple(Release.model_validate_json(body) for body in frame["body"].to_list()))


def append_release(objects: ObjectStore, release: Release, seen_version: int) -> None:
    """Append ``release`` to the version of the table that the plan used.

    Raises:
        StoreError: another run has published in the meantime.
    """
    _commit(objects, [release], seen_version, "append")


def keep_releases(objects: ObjectStore, kept: Sequence[Release], seen_version: int) -> int:
    """Make ``kept`` the only releases; return the table's new version.

    Raises:
        StoreError: another run has published in the meantime.
    """
    _commit(objects, kept, seen_version, "overwrite")
    return seen_version + 1


def release_columns(release: Release) -> dict[str, Any]:
    """Return the row of a release, by column of ``RELEASES``; the body is the complete release as JSON."""
    return {
        "release": release.release,
        "run": release.run,
        "created_at": release.created_at,
        "format": release.format,
        "program": release.program,
        "note": release.note,
        "items": release.counts.get("items", 0),
        "rows": sum(feature.rows for feature in release.features.values()),
        "failed": release.counts.get("failed", 0),
        "bytes": sum(feature.size for feature in release.features.values()),
        "seconds": release.seconds,
        "body": json.dumps(release.model_dump(mode="json"), separators=(",", ":")),
    }


def release_table(releases: Sequence[Release]) -> pa.Table:
    """Return the releases as rows of the table."""
    return pa.Table.from_pylist([release_columns(release) for release in releases], schema=RELEASES)


def _commit(
    objects: ObjectStore, releases: Sequence[Release], seen_version: int, mode: Literal["append", "overwrite"]
) -> None:
    table = open_table(objects, TABLE, RELEASES)
    if seen_version >= 0:
        try:
            table.load_as_version(seen_version)
        except DeltaError:  # removed by a vacuum
            raise _conflict(objects) from None
    elif table.version() != 0:
        raise _conflict(objects)
    file = put_rows(objects, TABLE, release_table(releases))
    action = AddAction(file.name, file.size, {}, int(time.time() * 1000), True, json.dumps({"numRecords": file.rows}))
    # Without retries: of two runs that saw the same version only one succeeds.
    once = CommitProperties(max_commit_retries=0)
    try:
        objects.ask(
            lambda: table.create_write_transaction([action], mode=mode, schema=RELEASES, commit_properties=once)
        )
    except CommitFailedError as error:
        fault = system_fault(error, objects.uri)
        if fault is not None:
            raise fault from None
        # The commit may be our own: the response to the first attempt may have been lost.
        if not _holds(objects, int(table.version()) + 1, file.name):
            raise _conflict(objects) from None
    except (DeltaError, OSError) as error:
        raise table_error(objects.uri, "the release can't be appended", error) from None


def _holds(objects: ObjectStore, version: int, name: str) -> bool:
    try:
        return name in table_files(objects, TABLE, version)
    except StoreError:
        return False


def _conflict(objects: ObjectStore) -> StoreError:
    return StoreError(
        f"{objects.uri}: another run published a release (or a vacuum removed old ones) in the meantime; nothing of it "
        "was touched. Run again: finished parts are reused."
    )


def file_entry(objects: ObjectStore, path: str) -> FileEntry:
    """Return the release entry of a file in the store."""
    return FileEntry(path=path, size=objects.size(path) or 0, digest=objects.digest(path))


def folder_entries(objects: ObjectStore, *folders: str) -> list[FileEntry]:
    """Return all files below these folders, by path."""
    found = [entry for folder in folders for entry in objects.list(folder)]
    return [
        FileEntry(path=entry.path, size=entry.size, digest=objects.digest(entry.path))
        for entry in sorted(found, key=lambda entry: entry.path)
    ]
