"""Delta tables: each commit overwrites the complete file list, computed against the head.

So the next commit repairs what a crashed run left, and committing the same list again changes nothing. Files are read
one by one and never by ``to_pyarrow_table``, which aborted the process at exit in one of three runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from cliploom.schemas.digests import digest_bytes
from cliploom.schemas.errors import CliploomError, StoreError
from cliploom.schemas.faults import system_fault
from cliploom.schemas.secrets import masked
from cliploom.schemas.tables import CONTENTS, empty_table
from cliploom.transforms.store.buckets import is_transient, retries_exhausted_message
from cliploom.transforms.store.object_store import ObjectStore

if TYPE_CHECKING:
    import polars as pl

    from cliploom.schemas.release import Release

# Rollback needs old versions, which Delta otherwise expires after 30 days.
_CONFIGURATION = {"delta.enableExpiredLogCleanup": "false", "delta.logRetentionDuration": "interval 36500 days"}
_TRIES = 5
ROWS_IN_GROUP = 200_000


@dataclass(frozen=True)
class TableFile:
    """A data file of a table: name inside the table's folder, size in bytes, rows."""

    name: str
    size: int
    rows: int


def open_table(objects: ObjectStore, table: str, schema: pa.Schema) -> DeltaTable:
    """Open the table at its head; create an empty one if it does not exist."""
    uri = objects.uri_of(table)

    def head() -> DeltaTable:
        try:
            return DeltaTable(uri, storage_options=objects.table_options)
        except TableNotFoundError:
            return DeltaTable.create(
                uri, schema=schema, mode="ignore", configuration=_CONFIGURATION, storage_options=objects.table_options
            )

    try:
        return objects.ask(head)
    except (DeltaError, OSError) as error:
        raise table_error(uri, "the table can't be opened", error) from None


def table_at(objects: ObjectStore, table: str, version: int | None = None) -> DeltaTable:
    """Open an existing table at a version or at its head; raises the errors of ``DeltaTable``."""
    uri = objects.uri_of(table)
    return objects.ask(lambda: DeltaTable(uri, version=version, storage_options=objects.table_options))


def reason_of(error: Exception) -> str:
    """Return an error as a short phrase without credentials."""
    if is_transient(error):
        return retries_exhausted_message(error)
    return masked(next(iter(str(error).strip().splitlines()), type(error).__name__))[:200]


def table_error(uri: str, what: str, error: Exception) -> CliploomError:
    """Return the error to show to users.

    Args:
        uri: URI of the table or store.
        what: what failed, such as "the table can't be opened".
        error: the error that deltalake raised.
    """
    return system_fault(error, uri) or StoreError(f"{uri}: {what} ({reason_of(error)}).")


def commit_files(objects: ObjectStore, table: str, schema: pa.Schema, files: Sequence[TableFile]) -> int:
    """Make ``files`` the whole content of the table's newest version, and return that version.

    If the head already has exactly these files, nothing is committed and its version is returned.

    Raises:
        StoreError: if other writers keep committing in between.
    """
    wanted = {file.name for file in files}
    for _ in range(_TRIES):
        head = open_table(objects, table, schema)
        if _names(head) == wanted and _same_columns(head, schema):
            return int(head.version())
        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [
            AddAction(file.name, file.size, {}, now, True, json.dumps({"numRecords": file.rows})) for file in files
        ]
        try:
            head.create_write_transaction(actions, mode="overwrite", schema=schema)
        except CommitFailedError as error:
            full = system_fault(error, objects.uri_of(table))
            if full is not None:
                raise full from None
            continue
        except (DeltaError, OSError) as error:
            # The response was lost, so the commit may have succeeded; reading the head again shows it.
            if not is_transient(error):
                raise table_error(objects.uri_of(table), "the table can't be written", error) from None
            continue
        found = _version_of(objects, table, wanted, int(head.version()))
        if found is not None:
            return found
    raise StoreError(f"{objects.uri_of(table)}: another writer keeps changing the table; let it finish and run again.")


def _version_of(objects: ObjectStore, table: str, wanted: set[str], before: int) -> int | None:
    """Return the version after ``before`` with exactly the requested files.

    In a bucket another run may commit at the same time; then the head belongs to the other run or is a merge of both.
    """
    for version in range(int(table_at(objects, table).version()), before, -1):
        if _names(table_at(objects, table, version)) == wanted:
            return version
    return None


def _names(table: DeltaTable) -> set[str]:
    return {uri.rsplit("/", 1)[-1] for uri in table.file_uris()}


def _same_columns(table: DeltaTable, schema: pa.Schema) -> bool:
    names = [field.name for field in table.schema().fields]
    return names == list(schema.names)


def commit_rows(objects: ObjectStore, table: str, rows: pa.Table) -> int:
    """Make ``rows`` the whole content of a small table, as one file named by the digest of its bytes."""
    return commit_files(objects, table, rows.schema, [put_rows(objects, table, rows)] if rows.num_rows else [])


def put_rows(objects: ObjectStore, table: str, rows: pa.Table) -> TableFile:
    """Write a data file for a small table, named by the digest of its bytes, without committing it."""
    file, data = rows_file(rows)
    objects.put_new(f"{table}/{file.name}", data)
    return file


def rows_file(rows: pa.Table) -> tuple[TableFile, bytes]:
    """Return the data file of a small table and its bytes."""
    return pieces_file(rows.schema, [rows])


def pieces_file(schema: pa.Schema, pieces: Iterable[pa.Table]) -> tuple[TableFile, bytes]:
    """Write the data file of a small table piece by piece, so that its rows are never all in memory.

    Args:
        schema: schema of the table.
        pieces: rows of the table; each piece except the last has a multiple of ``ROWS_IN_GROUP`` rows.
    """
    buffer = pa.BufferOutputStream()
    rows = 0
    with pq.ParquetWriter(buffer, schema, compression="zstd", store_schema=False) as writer:
        for piece in pieces:
            writer.write_table(piece, row_group_size=ROWS_IN_GROUP)
            rows += piece.num_rows
    data = buffer.getvalue().to_pybytes()
    return TableFile(f"rows-{digest_bytes(data)}.parquet", len(data), rows), data


def read_table(
    objects: ObjectStore,
    table: str,
    version: int,
    where: pl.Expr | None = None,
    columns: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Read a small table at a version into a polars DataFrame.

    Args:
        objects: the store.
        table: folder of the table.
        version: the version that a release names.
        where: filter; rows that do not match are never all in memory at once.
        columns: columns to read, including those of ``where``; None for all.

    Raises:
        StoreError: if the version or a file is missing or damaged.
    """
    import polars as pl

    uri = objects.uri_of(table)
    try:
        head = table_at(objects, table, version)
        empty = pl.DataFrame(empty_table(pa.schema(head.schema().to_arrow())))
        frames = [empty if columns is None else empty.select(columns)]
        # Polars' reader for Delta tables panics if a file is shorter than its log says.
        for name in sorted(_names(head)):
            with objects.local_copy(f"{table}/{name}") as local:
                rows = pl.read_parquet(local, columns=None if columns is None else list(columns), memory_map=False)
                frames.append(rows if where is None else rows.filter(where))
        return pl.concat(frames, how="diagonal_relaxed")
    except (DeltaError, OSError, pl.exceptions.PolarsError) as error:
        if is_transient(error):
            raise StoreError(f"{uri}: {retries_exhausted_message(error)}; run again later.") from None
        fault = system_fault(error, uri)
        if fault is not None:
            raise fault from None
        raise StoreError(
            f"{uri} can't be read at version {version} ({reason_of(error)}); see `cliploom verify`."
        ) from None


def table_files(objects: ObjectStore, table: str, version: int) -> list[str]:
    """Return the names of the data files of a table at a version."""
    try:
        return sorted(_names(table_at(objects, table, version)))
    except (DeltaError, OSError) as error:
        raise StoreError(f"{objects.uri_of(table)} has no readable version {version} ({reason_of(error)}).") from None


def contents_of(
    objects: ObjectStore, release: Release | None, feature: str, columns: Sequence[str] = CONTENTS.names
) -> pl.DataFrame:
    """Read the rows of a feature from a release's table ``contents``; no rows if there is no release.

    Args:
        objects: the store.
        release: a published release, or a draft.
        feature: name of the feature.
        columns: columns of ``CONTENTS`` to read.
    """
    import polars as pl

    if release is None or "contents" not in release.tables:
        return pl.DataFrame(empty_table(CONTENTS)).select(columns)
    wanted = list(dict.fromkeys(["feature", *columns]))
    mine = pl.col("feature") == feature
    return read_table(objects, "contents", release.tables["contents"], mine, wanted).select(columns)
