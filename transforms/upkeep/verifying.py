"""Verify that every file that a release names exists, is unchanged, and agrees with the others.

Files with a recorded digest (parts, rows of small tables, index shards, HDF5 files, models) are hashed completely. A
Delta log has no digest. Its entries are replayed one by one: they must be consistent with each other and yield exactly
the files that the release's other tables name, so an undetected change has no effect on readers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliploom.schemas.errors import StoreError
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.schemas.release import FeatureEntry, FileEntry, Release
from cliploom.schemas.tables import CONTENTS, FAILURES, ITEMS, PARTS, RELEASES, feature_schema
from cliploom.transforms.store.delta_log import LOG, list_log
from cliploom.transforms.store.object_store import ObjectStore, existing_store
from cliploom.transforms.store.parts import footer_of, part_path
from cliploom.transforms.store.releases import TABLE, read_releases
from cliploom.transforms.upkeep.verify_copies import verify_exports, verify_indexes
from cliploom.transforms.upkeep.verify_files import Problem, verify_file, verify_log, verify_small_table

SMALL_TABLES = {"items": ITEMS, "contents": CONTENTS, "parts": PARTS, "failures": FAILURES}
FIXED_COLUMNS = tuple(feature_schema({}).names)


def verify_release(store: str, release: int | None = None) -> list[Problem]:
    """Check every file that a release names.

    Args:
        store: a folder or URI.
        release: number of the release; the newest by default.

    Returns:
        The problems found, each with its file; empty for an undamaged release.

    Raises:
        StoreError: if there is no store, or no such release in an undamaged ``releases`` table.
    """
    objects = existing_store(store)
    problems = _verify_releases(objects)
    if problems:
        return problems
    return list(dict.fromkeys(_verify(objects, read_releases(objects).get(release))))


def _verify_releases(objects: ObjectStore) -> list[Problem]:
    """Check the releases table, on which all other checks depend."""
    commits = list_log(objects, TABLE).commits
    if 0 not in commits:
        # Runs that were killed or stopped by a limit leave parts and tables behind, but no release.
        path = f"{TABLE}/{LOG}/{0:020d}.json"
        if found := next(_published(objects), None):
            return [Problem(path, f"is missing: run {found[0]} has published release {found[1]}")]
        return [Problem(path, f"is missing, though there is something in {TABLE}")] if commits else []
    head = max(commits)
    frame, problems = verify_small_table(objects, TABLE, head, RELEASES)
    if frame is None:
        return problems
    newest = max(frame["release"].to_list(), default=0)
    for run, number in _published(objects):
        if number > newest:
            path = f"{TABLE}/{LOG}/{head + 1:020d}.json"
            problems.append(Problem(path, f"is missing: run {run} has published release {number}"))
    return problems


def _published(objects: ObjectStore) -> Iterator[tuple[str, int]]:
    """Yield (run, release) for each run whose outcome says that it published."""
    for entry in objects.list("runs"):
        if entry.path.endswith("/outcome.json"):
            try:
                outcome = json.loads(objects.get(entry.path))
            except (ValueError, FileNotFoundError):
                continue
            if outcome.get("state") == "published":
                yield entry.path.split("/")[1], int(outcome["release"])


@dataclass
class FeatureRows:
    """Row ids of a feature's parts.

    Attributes:
        ids: part -> row ids, int64, of undamaged parts.
        damaged: damaged parts.
    """

    ids: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)


def _verify(objects: ObjectStore, release: Release) -> Iterator[Problem]:
    frames: dict[str, pl.DataFrame] = {}
    for table, version in release.tables.items():
        frame, problems = verify_small_table(objects, table, version, SMALL_TABLES.get(table))
        yield from problems
        if frame is not None:
            frames[table] = frame
    yield from _counts(release, frames)
    models = [entry.model_files for entry in release.features.values()]
    models += [entry.model_files for entry in release.heads.values()]
    for file in {file.path: file for files in models for file in files}.values():
        yield from verify_file(objects, file)
    if not {"parts", "contents"} <= frames.keys():
        return
    found: dict[str, FeatureRows] = {}
    for name, entry in release.features.items():
        mine = pl.col("feature") == name
        parts, contents = frames["parts"].filter(mine), frames["contents"].filter(mine)
        yield from _feature_table(objects, entry, parts)
        found[name] = FeatureRows()
        yield from _parts(objects, entry, parts, contents, found[name])
    yield from verify_indexes(objects, release, {name: rows.ids for name, rows in found.items()})
    damaged = {name for name, rows in found.items() if rows.damaged}
    yield from verify_exports(objects, release, frames["parts"], damaged)


def _counts(release: Release, frames: dict[str, pl.DataFrame]) -> Iterator[Problem]:
    """Compare numbers of rows with the release's counts."""
    entry = f"{LOG}/{{:020d}}.json"
    for table, key in (("items", "items"), ("failures", "failed")):
        if table in frames and key in release.counts:
            frame = frames[table]
            if table == "failures":
                frame = frame.filter(~pl.col("partial")).select("source", "uid").unique()
            if frame.height != release.counts[key]:
                path = f"{table}/{entry.format(release.tables[table])}"
                yield Problem(path, f"gives {frame.height} {key}, the release counts {release.counts[key]}")


def _feature_table(objects: ObjectStore, entry: FeatureEntry, parts: pl.DataFrame) -> Iterator[Problem]:
    """Compare the file list of a feature's table with the parts table."""
    files, problems = verify_log(objects, entry.table, entry.version, [*FIXED_COLUMNS, *entry.columns])
    yield from problems
    if problems:
        return
    path = f"{entry.table}/{LOG}/{entry.version:020d}.json"
    listed = {(file.name, file.size, file.rows) for file in files}
    named = set(parts.filter(pl.col("rows") > 0).select("part", "size", "rows").rows())
    for name, size, rows in sorted(listed ^ named):
        which = "the log" if (name, size, rows) in listed else "the parts table"
        yield Problem(path, f"does not agree with the parts table: only {which} has {name} ({size} bytes, {rows} rows)")
    if (len(files), sum(file.rows for file in files)) != (entry.parts, entry.rows):
        yield Problem(path, f"gives {len(files)} files, the release counts {entry.parts} with {entry.rows} rows")


def _parts(
    objects: ObjectStore, entry: FeatureEntry, parts: pl.DataFrame, contents: pl.DataFrame, found: FeatureRows
) -> Iterator[Problem]:
    """Check digest, footer and rows of every part, and fill ``found``."""
    for part in contents.join(parts, on="part", how="anti")["part"].unique().sort().to_list():
        yield Problem(part_path(entry.table, part), "has contents but is not in the parts table")
    dims = {name: output.dim for name, output in entry.outputs.items()}
    by_part = {str(part): group for (part,), group in contents.group_by(["part"])}
    for part, rows, size, digest in parts.select("part", "rows", "size", "digest").rows():
        path = part_path(entry.table, part)
        problems = list(verify_file(objects, FileEntry(path=path, size=size, digest=digest)))
        if not problems:
            try:
                with objects.local_copy(path) as local:
                    footer, table = footer_of(local), pq.read_table(local)
            except (StoreError, pa.ArrowException, OSError) as error:
                problems = [Problem(path, f"can't be read: {str(error).splitlines()[0]}")]
            else:
                mine = by_part.get(part, contents.clear())
                problems = [Problem(path, problem) for problem in part_problems(table, footer, rows, mine, dims)]
                found.ids[part] = table["row_id"].to_numpy()
        if problems:
            found.ids.pop(part, None)
            found.damaged.add(part)
        yield from problems
    everything = np.concatenate([np.empty(0, np.int64), *found.ids.values()])
    values, counts = np.unique(everything, return_counts=True)
    for row in values[counts > 1].tolist()[:10]:
        holder = [part for part, ids in found.ids.items() if row in ids][-1]
        yield Problem(part_path(entry.table, holder), f"row {row} occurs twice")


def part_problems(
    table: pa.Table, footer: dict[str, Any], rows: int, contents: pl.DataFrame, dims: Mapping[str, int]
) -> Iterator[str]:
    """Yield the differences between a part (rows and footer) and the published tables.

    Args:
        table: rows of the part.
        footer: footer of the part, see ``cliploom.transforms.store.parts``.
        rows: published number of rows.
        contents: rows of the contents table for this part.
        dims: length of the vectors by output.
    """
    if missing := {*FIXED_COLUMNS, *dims} - set(table.column_names):
        yield f"lacks the columns {', '.join(sorted(missing))}"
        return
    if table.num_rows != rows or footer.get("rows") != rows:
        yield f"holds {table.num_rows} rows, its footer says {footer.get('rows')}, and {rows} were published"
        return
    for name, dim in dims.items():
        length = pc.binary_length if pa.types.is_binary(table[name].type) else pc.list_value_length
        if pc.unique(length(table[name])).to_pylist() not in ([], [dim]):
            yield f"has vectors of {name!r} that are not {dim} long"
    owners = table["row_id"].to_numpy() >> ORDINAL_BITS
    recorded = {
        (content["item_no"], content["segment"]): (
            content["uid"],
            content["digest"],
            content["rows"],
            content["first_row"],
        )
        for content in footer.get("contents", ())
    }
    columns = ["item_no", "segment", "uid", "digest", "rows", "first_row"]
    for number, segment, uid, digest, count, first in contents.select(columns).rows():
        if recorded.get((number, segment)) != (uid, digest, count, first):
            yield f"its footer differs from the contents table for item {uid!r}"
            continue
        mine = table.slice(first, count)
        # Rows that were read from records have the uids of the records.
        uids = {uid} if "labels" in table.column_names else set(pc.unique(mine["uid"]).to_pylist())
        digests = set(pc.unique(mine["item_digest"]).to_pylist())
        if count and (set(owners[first : first + count].tolist()), uids, digests) != ({number}, {uid}, {digest}):
            yield f"rows {first} to {first + count - 1} are not those of item {uid!r}"
    if contents["rows"].sum() != rows:
        yield f"holds {rows} rows, but the contents table lists {contents['rows'].sum()}"
