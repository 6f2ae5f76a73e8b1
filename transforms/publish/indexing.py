"""Beam steps of indexes: one element per shard, each built directly from its parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path

import apache_beam as beam
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.digests import digest_of
from cliploom.schemas.index import INVERTED, IndexRecipe
from cliploom.schemas.plan import RunPlan
from cliploom.schemas.release import FeatureEntry, FileEntry, IndexEntry, IndexShardEntry, Release
from cliploom.schemas.spec import IndexSpec
from cliploom.transforms.index.build import SHARD_ROWS, build_shard, rows_within, train, training_rows, write_index
from cliploom.transforms.index.files import read_index
from cliploom.transforms.index.fit import SAMPLE_ROWS, SAMPLE_SEED
from cliploom.transforms.index.opened import open_shard
from cliploom.transforms.index.pieces import iterate_pieces, part_of
from cliploom.transforms.index.recall import exact_top_k, measure, tune_nprobe
from cliploom.transforms.index.traces import traces_of
from cliploom.transforms.index.upkeep import IndexTask, IndexUpkeep, plan_upkeep, tasks_of
from cliploom.transforms.publish.fitting import measured_fit
from cliploom.transforms.publish.release_state import check_gathered
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import iterate_vectors
from cliploom.transforms.store.releases import file_entry
from cliploom.transforms.store.tables import read_table
from cliploom.transforms.wire import Step
from cliploom.transforms.work.counters import count
from cliploom.transforms.work.plan_dofn import PlanDoFn
from cliploom.transforms.work.plan_ref import PlanRef

QUERIES = 200
TRAINING_SEED, QUERY_SEED = 0, 1


def index_recipe(spec: IndexSpec, output: str, config: str) -> str:
    """Return the digest of an index's declaration."""
    later = [spec.memory] if spec.memory is not None else []
    return digest_of([config, output, spec.metric, spec.kind, spec.shards, spec.nprobe, *later])


def intact_entry(plan: RunPlan, name: str) -> IndexEntry | None:
    """Return the last release's index of this name if its files and the parts in them all exist."""
    previous = plan.base.indexes.get(name) if plan.base else None
    if previous is None:
        return None
    files = {shard.file.path for shard in previous.shards} | ({previous.trained.path} if previous.trained else set())
    parts = {part_of(piece) for shard in previous.shards for piece in shard.parts}
    gone = files & set(plan.lost_files) or parts & set(plan.lost.get(previous.feature, ()))
    return None if gone else previous


def next_upkeep(objects: ObjectStore, plan: RunPlan, draft: Release, name: str) -> IndexUpkeep:
    """Decide how an index is updated, given the tables of the draft."""
    spec = plan.indexes[name]
    feature = draft.features[spec.feature]
    parts = read_table(objects, "parts", draft.tables["parts"])
    mine = parts.filter((parts["feature"] == spec.feature) & (parts["rows"] > 0))
    previous = intact_entry(plan, name)
    recipe = index_recipe(spec, str(spec.output), feature.config)
    rows = dict(mine.select("part", "rows").rows())
    traced = ""
    if previous is not None and previous.recipe == recipe and previous.trained is not None:
        traced = traced_rows(objects, previous, feature.table, feature.outputs[previous.output].dim, set(rows))
    fitting = rows_within(spec.memory, feature.outputs[str(spec.output)].dim)
    return plan_upkeep(rows, spec.kind, recipe, spec.shards, previous, traced=traced, mapped_rows=fitting)


def traced_rows(objects: ObjectStore, previous: IndexEntry, table: str, dim: int, parts: set[str]) -> str:
    """Return why the centroids of an index reveal deleted rows; empty if they do not.

    Only removed and added parts are read.

    Args:
        objects: the store.
        previous: the index, an inverted file.
        table: folder of the feature's table.
        dim: length of the vectors.
        parts: parts of the next table.
    """
    held = {part_of(piece) for shard in previous.shards for piece in shard.parts}
    gone, came = sorted(held - parts), sorted(parts - held)
    if not gone or previous.trained is None:
        return ""
    with objects.local_copy(previous.trained.path) as local:
        trained = read_index(local, IndexRecipe(previous.metric, "ivf_sq8", dim))  # type: ignore[arg-type]
    suspects: dict[int, list[bytes]] = {}
    for ids, vectors in iterate_vectors(objects, table, gone, previous.output, dim):
        for at in traces_of(trained, vectors, previous.metric):  # type: ignore[arg-type]
            suspects.setdefault(int(ids[at]), []).append(vectors[at].tobytes())
    if suspects:
        # The remaining rows of a part that lost rows are in a new part under another name.
        for ids, vectors in iterate_vectors(objects, table, came, previous.output, dim):
            for at in np.flatnonzero(np.isin(ids, list(suspects))):
                row = int(ids[at])
                suspects[row] = [held for held in suspects[row] if held != vectors[at].tobytes()]
    lost = sum(map(bool, suspects.values()))
    return f"centroids or ranges were made of {lost} deleted rows" if lost else ""


class _PlanIndexesFn(PlanDoFn):
    def process(self, draft: Release) -> Iterator[IndexTask]:
        """Look at every index of the spec."""
        objects = ObjectStore(self._plan.job.store)
        for name, spec in self._plan.indexes.items():
            upkeep = next_upkeep(objects, self._plan, draft, name)
            feature = draft.features[spec.feature]
            output = str(spec.output)
            dim = feature.outputs[output].dim
            previous = intact_entry(self._plan, name)
            trained = kept_centroids(upkeep, previous)
            if upkeep.retrain:
                parts = _parts_of(upkeep)
                trained = train_centroids(objects, name, feature.table, parts, output, dim, spec, feature.rows)
            yield from tasks_of(upkeep, name, feature.table, output, spec.metric, dim, trained)


class PlanIndexes(Step):
    """Yields the shards to build, for a draft. Trains centroids on a sample."""

    do_fn = _PlanIndexesFn


def kept_centroids(upkeep: IndexUpkeep, previous: IndexEntry | None) -> FileEntry | None:
    """Return the centroids that an index continues to use; None for an index that became exact."""
    return previous.trained if previous and not upkeep.retrain and upkeep.kind in INVERTED else None


def _parts_of(upkeep: IndexUpkeep) -> list[str]:
    """Return all parts of shards that are rebuilt, each once."""
    return list(dict.fromkeys(part_of(piece) for shard in upkeep.build for piece in shard))


def train_centroids(
    objects: ObjectStore, name: str, table: str, parts: list[str], output: str, dim: int, spec: IndexSpec, rows: int
) -> FileEntry:
    """Train on a seeded sample of the rows and store the centroids in the index's folder."""
    shard_rows = min(SHARD_ROWS, -(-rows // max(1, spec.shards or 1)))
    path = f"index/{name}/trained-{digest_of([output, spec.metric, dim, shard_rows, parts])}.faiss"
    if objects.size(path) is None:
        _, sample = sample_rows(objects, table, parts, output, dim, rows, training_rows(shard_rows), TRAINING_SEED)
        with objects.create_file(path) as local:
            write_index(train(sample, shard_rows, spec.metric, TRAINING_SEED), local)
    return file_entry(objects, path)


def sample_rows(
    objects: ObjectStore, table: str, parts: list[str], output: str, dim: int, rows: int, wanted: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return a seeded sample of ``wanted`` rows: ids int64 [n], vectors float32 [n, dim]."""
    wanted = min(wanted, rows)
    chosen = np.sort(np.random.default_rng(seed).choice(rows, wanted, replace=False)) if rows else np.empty(0, np.int64)
    ids, vectors, seen = [np.empty(0, np.int64)], [np.empty((0, dim), np.float32)], 0
    for block_ids, block in iterate_vectors(objects, table, parts, output, dim):
        inside = chosen[np.searchsorted(chosen, seen) : np.searchsorted(chosen, seen + len(block_ids))] - seen
        ids.append(block_ids[inside])
        vectors.append(block[inside])
        seen += len(block_ids)
    return np.concatenate(ids), np.concatenate(vectors)


class _BuildIndexShardFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, store: str) -> None:
        super().__init__()
        self._store = store

    def process(self, task: IndexTask) -> Iterator[tuple[str, IndexShardEntry]]:
        """Remove rows, add rows, and write the shard."""
        objects = ObjectStore(self._store)
        plain = asdict(task) | {"previous": task.previous and task.previous.digest}
        path = f"index/{task.index}/shard-{digest_of(plain | {'trained': task.trained and task.trained.digest})}.faiss"
        recipe = IndexRecipe(task.metric, task.kind, task.dim)
        if objects.size(path) is None:
            gone = [ids for ids, _ in iterate_vectors(objects, task.table, task.remove, task.output, task.dim)]
            with (
                objects.create_file(path) as local,
                _optional(objects, task.trained) as trained,
                _optional(objects, task.previous) as previous,
            ):
                build_shard(
                    recipe,
                    trained,
                    previous,
                    np.concatenate([np.empty(0, np.int64), *gone]),
                    iterate_pieces(objects, task.table, task.add, task.output, task.dim),
                    local,
                )
            count("index_shards_built", 1)
        with objects.local_copy(path) as local:
            rows = open_shard(local, recipe).rows
        yield task.index, IndexShardEntry(file=file_entry(objects, path), rows=rows, parts=list(task.parts))


class BuildIndexShard(Step):
    """Builds a shard and yields (index, shard entry); an existing shard is adopted."""

    do_fn = _BuildIndexShardFn


class _FinishIndexesFn(PlanDoFn):
    def process(self, draft: Release, built: list[tuple[str, IndexShardEntry]]) -> Iterator[tuple[str, IndexEntry]]:
        """Assemble the entries."""
        objects = ObjectStore(self._plan.job.store)
        for name, spec in self._plan.indexes.items():
            upkeep = next_upkeep(objects, self._plan, draft, name)
            previous = intact_entry(self._plan, name)
            found = {shard.file.path: shard for index, shard in built if index == name}
            check_gathered("index shards", len(upkeep.change) + len(upkeep.build), len(found))
            mine = [found[path] for path in sorted(found)]
            feature = draft.features[spec.feature]
            if previous is not None and not mine and len(upkeep.keep) == len(previous.shards):
                kept = previous.model_copy(update={"d_miss": spec.d_miss})
                words = kept.fit.words if kept.fit else None
                yield name, fitted(objects, kept, feature) if words and words.path in self._plan.lost_files else kept
                continue
            trained = kept_centroids(upkeep, previous)
            trained_rows = previous.trained_rows if previous and not upkeep.retrain else feature.rows
            if upkeep.retrain:
                parts = _parts_of(upkeep)
                dim = feature.outputs[str(spec.output)].dim
                trained = train_centroids(
                    objects, name, feature.table, parts, str(spec.output), dim, spec, feature.rows
                )
            entry = IndexEntry(
                feature=spec.feature,
                output=str(spec.output),
                metric=spec.metric,
                kind=upkeep.kind,
                recipe=index_recipe(spec, str(spec.output), feature.config),
                rows=sum(shard.rows for shard in (*upkeep.keep, *mine)),
                shards=[*upkeep.keep, *mine],
                trained=trained,
                trained_rows=trained_rows,
                trained_recall=previous.trained_recall if previous and not upkeep.retrain else None,
                reason=upkeep.reason,
                d_miss=spec.d_miss,
            )
            entry = tuned(objects, entry, feature.table, feature.outputs[entry.output].dim, spec.nprobe)
            yield name, fitted(objects, entry, feature)


class FinishIndexes(Step):
    """Yields the entry of every index, for a draft: kept and built shards, nprobe, measured recall."""

    do_fn = _FinishIndexesFn


def tuned(objects: ObjectStore, entry: IndexEntry, table: str, dim: int, nprobe: int | None) -> IndexEntry:
    """Return the entry with nprobe set to reach recall@10 of .95 on sampled rows, and the measured recall."""
    if entry.kind == "flat" or entry.rows == 0:
        return entry.model_copy(update={"recall": 1.0 if entry.rows else None})
    parts = sorted({part_of(piece) for shard in entry.shards for piece in shard.parts})
    ids, sample = sample_rows(objects, table, parts, entry.output, dim, entry.rows, QUERIES, QUERY_SEED)
    batches = iterate_vectors(objects, table, parts, entry.output, dim)
    exact = exact_top_k(batches, sample, 10, entry.metric, own=ids)  # type: ignore[arg-type]
    recipe = IndexRecipe(entry.metric, entry.kind, dim, nprobe or 0)  # type: ignore[arg-type]
    with ExitStack() as files:
        shards = [open_shard(files.enter_context(objects.local_copy(s.file.path)), recipe) for s in entry.shards]
        if nprobe is None:
            nprobe, recall = tune_nprobe(shards, ids, sample, exact)
        else:
            recall = measure(shards, ids, sample, exact)
    measured = round(float(recall), 4)
    trained = measured if entry.trained_rows == entry.rows else entry.trained_recall
    return entry.model_copy(update={"nprobe": nprobe, "recall": measured, "trained_recall": trained})


def fitted(objects: ObjectStore, entry: IndexEntry, feature: FeatureEntry) -> IndexEntry:
    """Return the entry with the scales of unrelated queries."""
    parts = sorted({part_of(piece) for shard in entry.shards for piece in shard.parts})
    dim = feature.outputs[entry.output].dim
    sample = sample_rows(objects, feature.table, parts, entry.output, dim, entry.rows, SAMPLE_ROWS, SAMPLE_SEED)
    return entry.model_copy(update={"fit": measured_fit(objects, entry, feature, *sample)})


def _optional(objects: ObjectStore, entry: FileEntry | None) -> AbstractContextManager[Path | None]:
    """Give a local copy of a file, or None for no file."""
    return objects.local_copy(entry.path) if entry is not None else nullcontext(None)


class UpdateIndexes(beam.PTransform[beam.PCollection[bytes], beam.PCollection[bytes]]):  # type: ignore[misc]
    """Brings all indexes up to date with a draft, and yields (name, index entry); each shard is an element of work."""

    def __init__(self, plan: PlanRef) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, draft: beam.PCollection[bytes]) -> beam.PCollection[bytes]:
        """Add the steps."""
        built = (
            draft
            | "PlanIndexes" >> PlanIndexes(self._plan)
            | "SpreadShards" >> beam.Reshuffle()
            | "BuildIndexShard" >> BuildIndexShard(self._plan.store)
        )
        return draft | "FinishIndexes" >> FinishIndexes(self._plan, beam.pvalue.AsList(built))
