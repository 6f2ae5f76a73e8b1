"""From a plan to Beam graphs. Their size does not depend on the number of files: plans are read by workers."""

from __future__ import annotations

import apache_beam as beam

from cliploom.schemas.devices import DEFAULT_ACCELERATOR
from cliploom.schemas.jobs import RunJob
from cliploom.transforms.publish.exporting import FinishExports, PlanExportFiles, PlanExports, WriteExportFile
from cliploom.transforms.publish.final import Assemble, CommitTables, Publish
from cliploom.transforms.publish.indexing import BuildIndexShard, FinishIndexes, PlanIndexes
from cliploom.transforms.publish.labels import CommitLabels, PlanLabels, WriteLabels
from cliploom.transforms.publish.measuring import MeasureRelease
from cliploom.transforms.publish.projecting import CommitProjections, PlanProjections, WriteProjection
from cliploom.transforms.publish.wording import BuildWords, CommitWords, PlanWords, WordTasks
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.wire import EncodedDoFn, encode_element
from cliploom.transforms.work.gather import GatherRecords
from cliploom.transforms.work.models import memory_of
from cliploom.transforms.work.plan_ref import PlanRef
from cliploom.transforms.work.probing import ProbeItems
from cliploom.transforms.work.shards import ComputeShard, ReadPlan, RewriteParts


def build_probe(pipeline: beam.Pipeline, job: RunJob, listing: str) -> None:
    """Probe every input in the listing file ``listing`` (a path in the store)."""
    _ = pipeline | "Listing" >> beam.Create([encode_element(listing)]) | "ProbeItems" >> ProbeItems(job)


def build_run(
    pipeline: beam.Pipeline, plan: PlanRef, job: RunJob, *, hints: bool = False, accelerator: str = DEFAULT_ACCELERATOR
) -> None:
    """Compute the shards of a plan, bring tables, indexes and exports up to date, publish.

    Args:
        pipeline: gets the transforms.
        plan: where it is.
        job: of the plan.
        hints: tell the runner how much memory encoding needs, and a device where a feature requires one.
        accelerator: which device, as Beam writes it.
    """
    compute = step(ComputeShard(job))
    if hints:
        wanted = {"min_ram": f"{memory_of(ObjectStore(plan.store), job) / 2**30:.1f}GiB"}
        if any(each.device is not None and each.device.required for each in job.features.values()):
            wanted["accelerator"] = accelerator
        compute = compute.with_resource_hints(**wanted)
    begin = pipeline | "Plan" >> beam.Create([encode_element(f"{plan.folder}/shards.parquet")])
    computed = (
        begin | "ReadPlan" >> ReadPlan(plan.store) | "ComputeShard" >> compute | "GatherParts" >> GatherRecords(plan)
    )
    rewritten = (
        begin
        | "Assemble" >> step(Assemble(plan), beam.pvalue.AsList(computed))
        | "SpreadRewrites" >> beam.Reshuffle()
        | "RewriteParts" >> step(RewriteParts(job))
        | "GatherRewrites" >> GatherRecords(plan)
    )
    tables = begin | "CommitTables" >> step(
        CommitTables(plan), beam.pvalue.AsList(computed), beam.pvalue.AsList(rewritten)
    )
    projected = (
        tables
        | "PlanProjections" >> step(PlanProjections(plan))
        | "SpreadProjections" >> beam.Reshuffle()
        | "WriteProjection" >> step(WriteProjection(plan))
    )
    tables = tables | "CommitProjections" >> step(CommitProjections(plan), after(projected, "PartsProjected"))
    labels = (
        tables
        | "PlanLabels" >> step(PlanLabels(plan))
        | "SpreadLabels" >> beam.Reshuffle()
        | "WriteLabels" >> step(WriteLabels(plan))
    )
    draft = tables | "CommitLabels" >> step(CommitLabels(plan), after(labels, "LabelsMade"))
    indexes = draft | "Indexes" >> UpdateIndexes(plan)
    exports = draft | "Exports" >> UpdateExports(plan)
    figures = draft | "MeasureRelease" >> step(MeasureRelease(plan), beam.pvalue.AsList(indexes))
    planned = draft | "PlanWords" >> step(PlanWords(plan.store))
    words = (
        planned
        | "WordTasks" >> step(WordTasks())
        | "SpreadWords" >> beam.Reshuffle()
        | "BuildWords" >> step(BuildWords(plan.store))
    )
    worded = planned | "CommitWords" >> step(CommitWords(), beam.pvalue.AsList(words))
    _ = worded | "Publish" >> step(
        Publish(plan), beam.pvalue.AsList(indexes), beam.pvalue.AsList(exports), beam.pvalue.AsList(figures)
    )


def step(do_fn: beam.DoFn, *sides: beam.pvalue.AsList) -> beam.ParDo:
    """A step of which elements and side inputs travel as bytes."""
    return beam.ParDo(EncodedDoFn(do_fn), *sides)


def after(made: beam.PCollection, label: str) -> beam.pvalue.AsList:
    """A side input, always empty, for who has to wait for these elements and needs none of them."""
    return beam.pvalue.AsList(made | label >> beam.Filter(lambda _: False))


class UpdateIndexes(beam.PTransform[beam.PCollection, beam.PCollection]):  # type: ignore[misc]
    """The draft in, (name, index entry) out; one element of work a shard."""

    def __init__(self, plan: PlanRef) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, draft: beam.PCollection) -> beam.PCollection:
        """Plan, build, finish."""
        built = (
            draft
            | "PlanIndexes" >> step(PlanIndexes(self._plan))
            | "SpreadShards" >> beam.Reshuffle()
            | "BuildIndexShard" >> step(BuildIndexShard(self._plan.store))
        )
        return draft | "FinishIndexes" >> step(FinishIndexes(self._plan), beam.pvalue.AsList(built))


class UpdateExports(beam.PTransform[beam.PCollection, beam.PCollection]):  # type: ignore[misc]
    """The draft in, (name, export entry) out; one element of work a file."""

    def __init__(self, plan: PlanRef) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, draft: beam.PCollection) -> beam.PCollection:
        """Plan, write, finish."""
        parts = (
            draft
            | "PlanExports" >> step(PlanExports(self._plan))
            | "SpreadParts" >> beam.Reshuffle()
            | "WriteParts" >> step(WriteExportFile(self._plan.store))
        )
        written = (
            draft
            | "PlanExportFiles" >> step(PlanExportFiles(self._plan), after(parts, "PartsMade"))
            | "SpreadFiles" >> beam.Reshuffle()
            | "WriteFiles" >> step(WriteExportFile(self._plan.store))
        )
        return draft | "FinishExports" >> step(FinishExports(self._plan), after(written, "FilesMade"))
