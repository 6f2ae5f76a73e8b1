"""``plan --measure``: a sample of the work is done for the clock and thrown away; the whole is told from it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from cliploom.pipelines.launching.runner import is_local, workers_of
from cliploom.pipelines.planning.pack import cost_model_of, pack, total_cost
from cliploom.pipelines.planning.plan import with_addresses
from cliploom.pipelines.running.run import RunContext
from cliploom.schemas.exports import Hdf5Export
from cliploom.schemas.index import INVERTED
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.records import PartRecord
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work.shard_text import SHARD
from cliploom.transforms.work.shards import compute_aside

_SEED = 0


@dataclass(frozen=True)
class Measured:
    """What a sample of the work took, and what the whole will take by it.

    Attributes:
        items, rows, cpu_seconds, bytes: of the sample; bytes are those of its Parquet parts.
        hours: of the whole on the target's workers, a local target taken to be this machine.
        rows_expected, store_bytes: of the whole; the store with its indexes and HDF5 exports.
    """

    items: int
    rows: int
    cpu_seconds: float
    bytes: int
    hours: float
    rows_expected: int
    store_bytes: int


def measure(ready: RunContext, count: int) -> Measured | None:
    """Compute ``count`` items aside; None when there is nothing to compute.

    Args:
        ready: the plan, with models prepared.
        count: items to try, at the most.
    """
    work, jobs = ready.planned.work, ready.compiled.jobs
    if work.is_empty():
        return None
    numbers = work["item_no"].unique().sort()
    sample = numbers.sample(min(count, len(numbers)), seed=_SEED)
    cost_models = {name: cost_model_of(job) for name, job in jobs.items()}
    mine = with_addresses(work.filter(pl.col("item_no").is_in(sample.implode())), ready.planned.numbered)
    packed = pack(mine, cost_models, ready.spec.limits.segment)
    records: list[PartRecord] = []
    spent = 0.0
    for text in packed["shard"]:
        shard = SHARD.validate_json(text)
        with tempfile.TemporaryDirectory(prefix="cliploom-measure-") as folder:
            began = time.process_time()
            records += compute_aside(ready.job, shard, [jobs[name] for name in shard.features], ObjectStore(folder))
            spent += time.process_time() - began
    share = total_cost(packed) / total_cost(ready.planned.layout.shards)
    rows, size = sum(record.rows for record in records), sum(record.size for record in records)
    extra = sum(record.rows * _extra_bytes(ready, jobs[record.feature]) for record in records)
    workers = workers_of(ready.target) if is_local(ready.target) else (ready.target.workers or 1)
    return Measured(
        items=len(sample),
        rows=rows,
        cpu_seconds=round(spent, 3),
        bytes=size,
        hours=round(spent / share / workers / 3600, 4),
        rows_expected=round(rows / share),
        store_bytes=round((size + extra) / share),
    )


def _extra_bytes(ready: RunContext, job: FeatureJob) -> int:
    """Bytes a row of the feature's HDF5 exports and indexes."""
    extra = 0
    for export in ready.spec.exports.values():
        if isinstance(export, Hdf5Export) and export.feature == job.name:
            extra += 4 * _width(job.outputs, export.output)
    for index in ready.compiled.indexes.values():
        if index.feature == job.name:
            extra += (1 if index.kind in INVERTED else 4) * _width(job.outputs, index.output)
    return extra


def _width(outputs: Mapping[str, int], output: str | None) -> int:
    return outputs[output] if output is not None else sum(outputs.values())
