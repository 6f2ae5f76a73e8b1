"""Delta tables: the complete wanted file list is committed in one overwrite, computed against the head.

So leftovers of a crashed run are put right by the next commit, and committing the same list again changes nothing.
Files are read one by one, never by ``to_pyarrow_table`` (M: it aborts the process at exit one time in three).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from schemas.digests import digest_bytes
from schemas.errors import StoreError
from transforms.store.objects import Objects

if TYPE_CHECKING:
    import polars as pl

# Old versions are rollback points; without this Delta expires them after 30 days.
_CONFIGURATION = {"delta.enableExpiredLogCleanup": "false", "delta.logRetentionDuration": "interval 36500 days"}
_TRIES = 5


@dataclass(frozen=True)
class TableFile:
    """One data file of a table: name inside the table's folder, bytes, rows."""

    name: str
    size: int
    rows: int


def open_table(objects: Objects, table: str, schema: pa.Schema) -> DeltaTable:
    """The table at its head; made empty when it is not there."""
    uri = objects.uri_of(table)
    try:
        return DeltaTable(uri, storage_options=objects.table_options)
    except TableNotFoundError:
        pass
    except (DeltaError, OSError) as error:
        raise StoreError(f"{uri}: the table can't be read ({str(error).splitlines()[0][:200]}).") from None
    try:
        return DeltaTable.create(
            uri, schema=schema, mode="ignore", configuration=_CONFIGURATION, storage_options=objects.table_options
        )
    except (DeltaError, OSError) as error:
        raise StoreError(f"{uri}: the table can't be made ({str(error).splitlines()[0][:200]}).") from None


def commit_files(objects: Objects, table: str, schema: pa.Schema, files: Sequence[TableFile]) -> int:
    """Make ``files`` the whole content of the table's newest version; returns that version.

    When the head holds exactly these files already, nothing is committed and its version is returned.

    Raises:
        StoreError: when other writers keep committing in between.
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
        except CommitFailedError:
            continue
        found = _version_of(objects, table, wanted, int(head.version()))
        if found is not None:
            return found
    raise StoreError(f"{objects.uri_of(table)}: another writer keeps changing the table; let it finish and run again.")


def _version_of(objects: Objects, table: str, wanted: set[str], before: int) -> int | None:
    """The version after ``before`` that holds just the wanted files.

    In a bucket another run may commit at the same moment: then the head is not ours, and a merged commit is nobody's.
    """
    uri, options = objects.uri_of(table), objects.table_options
    for version in range(int(DeltaTable(uri, storage_options=options).version()), before, -1):
        if _names(DeltaTable(uri, version=version, storage_options=options)) == wanted:
            return version
    return None


def _names(table: DeltaTable) -> set[str]:
    return {uri.rsplit("/", 1)[-1] for uri in table.file_uris()}


def _same_columns(table: DeltaTable, schema: pa.Schema) -> bool:
    names = [field.name for field in table.schema().fields]
    return names == list(schema.names)


def commit_rows(objects: Objects, table: str, rows: pa.Table) -> int:
    """Make ``rows`` the whole content of a small table; its one file is named by its bytes."""
    return commit_files(objects, table, rows.schema, [put_rows(objects, table, rows)] if rows.num_rows else [])


def put_rows(objects: Objects, table: str, rows: pa.Table) -> TableFile:
    """Write a data file for a small table, named by the digest of its bytes; it is not committed."""
    file, data = rows_file(rows)
    objects.put_new(f"{table}/{file.name}", data)
    return file


def rows_file(rows: pa.Table) -> tuple[TableFile, bytes]:
    """The data file of a small table and its bytes."""
    buffer = pa.BufferOutputStream()
    pq.write_table(rows, buffer, compression="zstd", store_schema=False, row_group_size=200_000)
    data = buffer.getvalue().to_pybytes()
    return TableFile(f"rows-{digest_bytes(data)}.parquet", len(data), rows.num_rows), data


def read_table(objects: Objects, table: str, version: int) -> pl.DataFrame:
    """A small table at a version, as a polars frame.

    Raises:
        StoreError: when the version or a file is gone or damaged.
    """
    import polars as pl

    uri = objects.uri_of(table)
    try:
        head = DeltaTable(uri, version=version, storage_options=objects.table_options)
        frames = [pl.DataFrame(pa.schema(head.schema().to_arrow()).empty_table())]
        # Polars' own reader of Delta tables panics when a file is shorter than its log says.
        for name in sorted(_names(head)):
            with objects.local_copy(f"{table}/{name}") as local:
                frames.append(pl.read_parquet(local, memory_map=False))
        return pl.concat(frames, how="diagonal_relaxed")
    except (DeltaError, OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise StoreError(f"{uri} can't be read at version {version} ({reason}); see `cliploom verify`.") from None


def table_files(objects: Objects, table: str, version: int) -> list[str]:
    """Names of the data files of a table at a version."""
    uri = objects.uri_of(table)
    try:
        return sorted(_names(DeltaTable(uri, version=version, storage_options=objects.table_options)))
    except (DeltaError, OSError) as error:
        raise StoreError(f"{uri} has no readable version {version} ({str(error).splitlines()[0][:200]}).") from None
