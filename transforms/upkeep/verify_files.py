"""Check single files against the release or log that lists them: digests, names, Delta logs, small tables."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError

from cliploom.schemas.digests import digest_file
from cliploom.schemas.release import FileEntry
from cliploom.schemas.tables import empty_table
from cliploom.transforms.store.delta_log import LOG, LogError, LoggedFile, replay
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import table_at


@dataclass(frozen=True)
class Problem:
    """A damaged or missing file; ``path`` is relative to the store."""

    path: str
    problem: str


def verify_file(objects: ObjectStore, entry: FileEntry) -> Iterator[Problem]:
    """Check that a file exists and has the expected size and digest."""
    size = objects.size(entry.path)
    if size is None:
        yield Problem(entry.path, "is missing")
    elif size != entry.size:
        yield Problem(entry.path, f"has {size} bytes instead of {entry.size}")
    elif _digest(objects, entry.path, entry.digest) != entry.digest:
        yield Problem(entry.path, "is damaged: its bytes are not those that were published")


def _digest(objects: ObjectStore, path: str, like: str) -> str:
    if objects.root is None:
        return objects.digest(path, like=like)
    # Measured: four times as fast on disk as the object store's stream.
    with objects.errors(path):
        return digest_file(objects.root / path, like=like)


def verify_log(
    objects: ObjectStore, table: str, version: int, columns: Collection[str]
) -> tuple[list[LoggedFile], list[Problem]]:
    """Return the files of a table at a version according to its log, and the problems of the log.

    Args:
        objects: the store.
        table: folder of the table.
        version: the version that a release names.
        columns: columns that the table must have.
    """
    try:
        files = replay(objects, table, version)
    except LogError as error:
        return [], [Problem(error.path, error.problem)]
    try:
        delta = table_at(objects, table, version)
        names = sorted(uri.rsplit("/", 1)[-1] for uri in delta.file_uris())
        found = {field.name for field in delta.schema().fields}
    except (DeltaError, OSError, ValueError) as error:
        return [], [Problem(f"{table}/{LOG}", f"can't be read by Delta ({str(error).splitlines()[0][:200]})")]
    if names != [file.name for file in files]:
        return [], [Problem(f"{table}/{LOG}", f"gives Delta {len(names)} files at version {version}, not {len(files)}")]
    if missing := set(columns) - found:
        return [], [Problem(f"{table}/{LOG}", f"has a table without the columns {', '.join(sorted(missing))}")]
    return files, []


def verify_small_table(
    objects: ObjectStore, table: str, version: int, schema: pa.Schema | None
) -> tuple[pl.DataFrame | None, list[Problem]]:
    """Return a small table's content at a version, or None if it is damaged, and the problems.

    Args:
        objects: the store.
        table: folder of the table.
        version: the version that a release names.
        schema: the expected schema; None if it is not known here.
    """
    columns = [] if schema is None else schema.names
    files, problems = verify_log(objects, table, version, columns)
    for file in files:
        found = list(_verify_rows_file(objects, table, file, columns))
        if any(problem.problem == "is missing" for problem in found):
            found.append(Problem(f"{table}/{LOG}/{version:020d}.json", f"names {file.name}, which is missing"))
        problems += found
    if problems:
        return None, problems
    frames = [] if schema is None else [pl.DataFrame(empty_table(schema))]
    for file in files:
        with objects.local_copy(f"{table}/{file.name}") as local:
            frames.append(pl.read_parquet(local))
    return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame(), []


def _verify_rows_file(
    objects: ObjectStore, table: str, file: LoggedFile, columns: Collection[str]
) -> Iterator[Problem]:
    """Check a data file of a small table. Its name is the digest of its bytes, or of its inputs (predicted labels)."""
    path = f"{table}/{file.name}"
    if table == "labels" and file.name.startswith("part-"):
        size = objects.size(path)
        if size is None:
            yield Problem(path, "is missing")
        elif size != file.size:
            yield Problem(path, f"has {size} bytes, not the {file.size} of its table")
        return
    if not (file.name.startswith("rows-") and file.name.endswith(".parquet")):
        yield Problem(path, "is not named as this program names files of this table")
        return
    problems = list(verify_file(objects, FileEntry(path=path, size=file.size, digest=file.name[5:-8])))
    yield from problems
    if problems:
        return
    with objects.local_copy(path) as local:
        names, rows = pq.read_schema(local).names, pq.read_metadata(local).num_rows
    if not set(columns) <= set(names):
        yield Problem(path, f"has the columns {', '.join(names)}; it is a file of another table")
    elif rows != file.rows:
        yield Problem(path, f"holds {rows} rows, the table's log says {file.rows}")
