"""The ``releases`` table: the only truth about what readers see.

A release is one appended row. It is appended to the version of the table that the plan saw, without retries, so of two
runs that started from the same release only one can publish.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pyarrow as pa
from deltalake import CommitProperties, write_deltalake
from deltalake.exceptions import CommitFailedError

from schemas.errors import StoreError
from schemas.release import STORE_FORMAT, Release
from schemas.tables import RELEASES
from transforms.store.objects import Objects
from transforms.store.tables import open_table, read_table

TABLE = "releases"


@dataclass(frozen=True)
class Releases:
    """All releases as a reader found them.

    Attributes:
        version: of the ``releases`` table; -1 when there is none yet.
        rows: oldest first.
    """

    version: int
    rows: tuple[Release, ...]

    @property
    def latest(self) -> Release | None:
        """The newest release."""
        return self.rows[-1] if self.rows else None

    def get(self, number: int | None) -> Release:
        """The release with this number, or the newest.

        Raises:
            StoreError: naming the numbers that exist.
        """
        if not self.rows:
            raise StoreError("The store has no release yet; `cliploom run SPEC` makes the first one.")
        if number is None:
            return self.rows[-1]
        for row in self.rows:
            if row.release == number:
                return row
        have = f"{self.rows[0].release} to {self.rows[-1].release}"
        raise StoreError(f"There is no release {number}; the store has {have} (see `cliploom releases STORE`).")


def read_releases(objects: Objects) -> Releases:
    """All releases of a store; none when the store is new.

    Raises:
        StoreError: for damage, or a store made by a newer program.
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


def append_release(objects: Objects, release: Release, seen_version: int) -> None:
    """Append ``release`` to the version of the table that the plan saw.

    Raises:
        StoreError: when another run has published in between.
    """
    table = open_table(objects, TABLE, RELEASES)
    if seen_version >= 0:
        table.load_as_version(seen_version)
    elif table.version() != 0:
        raise _conflict(objects)
    row = pa.table(
        {
            "release": [release.release],
            "run": [release.run],
            "created_at": [release.created_at],
            "format": [release.format],
            "program": [release.program],
            "note": [release.note],
            "items": [release.counts.get("items", 0)],
            "rows": [sum(feature.rows for feature in release.features.values())],
            "failed": [release.counts.get("failed", 0)],
            "bytes": [sum(feature.size for feature in release.features.values())],
            "seconds": [release.seconds],
            "body": [json.dumps(release.model_dump(mode="json"), separators=(",", ":"))],
        },
        schema=RELEASES,
    )
    try:
        write_deltalake(table, row, mode="append", commit_properties=CommitProperties(max_commit_retries=0))
    except CommitFailedError:
        raise _conflict(objects) from None


def _conflict(objects: Objects) -> StoreError:
    return StoreError(
        f"{objects.uri}: another run published a release in the meantime; nothing of it was touched. "
        "Run again: finished parts are reused."
    )
