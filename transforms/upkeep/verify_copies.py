"""Compare copies of a feature's rows (index shards, HDF5 files) with the rows themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cliploom.schemas.errors import StoreError
from cliploom.schemas.index import IndexRecipe
from cliploom.schemas.release import ExportEntry, FeatureEntry, IndexEntry, Release
from cliploom.transforms.index.opened import OpenShard, open_shard
from cliploom.transforms.index.pieces import part_of, range_of, rows_in
from cliploom.transforms.index.verify import check_finds_itself, shard_ids
from cliploom.transforms.store.cache import cached_file
from cliploom.transforms.store.hdf5 import read_uid, read_uids
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import arrow_to_vectors, iterate_vectors, part_path
from cliploom.transforms.upkeep.verify_files import Problem, verify_file

SAMPLES = 50
SEED = 0
# Number of parts in memory while items are compared one after another.
_PARTS_AT_ONCE = 4


def verify_indexes(
    objects: ObjectStore, release: Release, rows: Mapping[str, Mapping[str, NDArray[np.int64]]]
) -> Iterator[Problem]:
    """Check index files: digests, row ids against those of their parts, and that sampled vectors find themselves.

    Args:
        objects: the store.
        release: the release that names them.
        rows: feature -> part -> row ids, int64, of undamaged parts.
    """
    for words in release.words:
        yield from verify_file(objects, words.file)
    for name, entry in release.indexes.items():
        feature = release.features[entry.feature]
        own = rows.get(entry.feature, {})
        if entry.trained is not None:
            yield from verify_file(objects, entry.trained)
        if entry.fit is not None and entry.fit.words is not None:
            yield from verify_file(objects, entry.fit.words)
        shards: list[OpenShard] = []
        for number in range(len(entry.shards)):
            yield from _verify_shard(objects, entry, number, feature, own, shards)
        pieces = [piece for shard in entry.shards for piece in shard.parts]
        held = {part_of(piece) for piece in pieces}
        sizes = {part: len(ids) for part, ids in own.items()}
        covered: Counter[str] = Counter()
        for piece in pieces:
            covered[part_of(piece)] += rows_in(piece, sizes) if part_of(piece) in own else 0
        for part in sorted(part for part, size in sizes.items() if covered[part] != size):
            said = f"has {covered[part]} of its {sizes[part]} rows" if part in held else "is not"
            yield Problem(part_path(feature.table, part), f"{said} in the index {name!r}")
        if shards and len(shards) == len(entry.shards) and held <= own.keys():
            yield from _finds_itself(objects, name, entry, feature, shards)


def _verify_shard(
    objects: ObjectStore,
    entry: IndexEntry,
    number: int,
    feature: FeatureEntry,
    own: Mapping[str, NDArray[np.int64]],
    opened: list[OpenShard],
) -> Iterator[Problem]:
    """Check one file, and add it to ``opened`` if it can be searched."""
    shard = entry.shards[number]
    problems = list(verify_file(objects, shard.file))
    yield from problems
    if problems:
        return
    recipe = IndexRecipe(entry.metric, entry.kind, feature.outputs[entry.output].dim, entry.nprobe)  # type: ignore[arg-type]
    try:
        local = cached_file(objects, shard.file)
        ids = shard_ids(local, recipe)
        opened.append(open_shard(local, recipe))
    except StoreError as error:
        yield Problem(shard.file.path, str(error))
        return
    if all(part_of(piece) in own for piece in shard.parts):
        mine = [own[part_of(piece)][slice(*range_of(piece))] for piece in shard.parts]
        wanted = np.sort(np.concatenate([np.empty(0, np.int64), *mine]))
        if not np.array_equal(ids, wanted):
            yield Problem(shard.file.path, f"holds {len(ids)} rows that are not the {len(wanted)} of its parts")


def _finds_itself(
    objects: ObjectStore, name: str, entry: IndexEntry, feature: FeatureEntry, shards: list[OpenShard]
) -> Iterator[Problem]:
    parts = sorted({part_of(piece) for shard in entry.shards for piece in shard.parts})
    chosen = np.random.default_rng(SEED).permutation(len(parts))[:SAMPLES].tolist()
    each = -(-SAMPLES // max(1, len(chosen)))
    dim = feature.outputs[entry.output].dim
    ids, vectors = [np.empty(0, np.int64)], [np.empty((0, dim), np.float32)]
    for number in chosen:
        first = next(iterate_vectors(objects, feature.table, [parts[number]], entry.output, dim), None)
        if first is not None:
            ids.append(first[0][:each])
            vectors.append(first[1][:each])
    lost = check_finds_itself(shards, np.concatenate(ids), np.concatenate(vectors))
    if lost:
        said = f"index {name!r}: {len(lost)} sampled rows don't find themselves, such as row {lost[0]}"
        yield Problem(entry.shards[0].file.path, said)


def verify_exports(
    objects: ObjectStore, release: Release, parts: pl.DataFrame, damaged: Collection[str]
) -> Iterator[Problem]:
    """Check HDF5 files: digests, uids, and values against those of the parts.

    Args:
        objects: the store.
        release: the release that names them.
        parts: the release's parts table.
        damaged: features with damaged parts, which cannot be compared.
    """
    for name, entry in release.exports.items():
        problems = [problem for file in entry.files for problem in verify_file(objects, file)]
        yield from problems
        if problems or entry.feature in damaged or entry.kind != "hdf5":
            continue
        mine = parts.filter((pl.col("feature") == entry.feature) & (pl.col("rows") > 0))["part"].sort().to_list()
        yield from _equal_values(objects, name, entry, release.features[entry.feature], mine)


def _equal_values(
    objects: ObjectStore, name: str, entry: ExportEntry, feature: FeatureEntry, parts: Sequence[str]
) -> Iterator[Problem]:
    """Compare each uid in each file that contains it; masters are read through their links."""
    files = {file.path: cached_file(objects, file) for file in entry.files}
    holders: dict[str, list[str]] = {}
    for path, local in files.items():
        try:
            for uid in read_uids(local):
                holders.setdefault(uid, []).append(path)
        except StoreError as error:
            yield Problem(path, str(error))
            return

    @lru_cache(_PARTS_AT_ONCE)
    def rows_by_uid(part: str) -> dict[str, pl.DataFrame]:
        with objects.local_copy(part_path(feature.table, part)) as local:
            by_uid = pl.read_parquet(local).partition_by("uid", as_dict=True, maintain_order=True)
        return {str(uid): rows for (uid,), rows in by_uid.items()}

    parts_of: dict[str, list[str]] = {}
    for part in parts:
        with objects.local_copy(part_path(feature.table, part)) as local:
            for uid in pl.read_parquet(local, columns=["uid"])["uid"].unique(maintain_order=True):
                parts_of.setdefault(uid, []).append(part)
    for uid in sorted(parts_of.keys() ^ holders.keys()):
        path = holders[uid][0] if uid in holders else entry.files[0].path if entry.files else f"hdf5/{name}"
        yield Problem(path, f"{'lacks' if uid in parts_of else 'has'} uid {uid!r}")
    # Uids are ordered by part, so that each part is read about once.
    for uid, holding in parts_of.items():
        rows = pl.concat([rows_by_uid(part)[uid] for part in holding]).sort("row_id")
        for path in holders.get(uid, ()):
            try:
                found = read_uid(files[path], uid)
            except StoreError as error:
                yield Problem(path, str(error))
                continue
            for output, values in found.outputs.items():
                expected = arrow_to_vectors(rows[output].to_arrow(), feature.outputs[output].dim)
                if values.shape != expected.shape or values.tobytes() != expected.tobytes():
                    yield Problem(path, f"{output!r} of {uid!r} is not what the feature's table holds")
