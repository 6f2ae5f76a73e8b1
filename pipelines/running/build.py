"""From a plan to Beam graphs. Their size does not depend on the number of files: plans are read by workers."""

from __future__ import annotations

import apache_beam as beam

from cliploom.schemas.jobs import RunJob
from cliploom.transforms.publish.exporting import FinishExports, PlanExportFiles, PlanExports, WriteExportFile
from cliploom.transforms.publish.final import Assemble, CommitTables, Publish
from cliploom.transforms.publish.indexing import BuildIndexShard, FinishIndexes, PlanIndexes
from cliploom.transforms.publish.labels import CommitLabels, PlanLabels, WriteLabels
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work.gather import GatherRecords
from cliploom.transforms.work.models import memory_of
from cliploom.transforms.work.plan_ref import PlanRef
from cliploom.transforms.work.probing import ProbeItems
from cliploom.transforms.work.shards import ComputeShard, ReadPlan, RewriteParts


def build_probe(pipeline: beam.Pipeline, job: RunJob, listing: str) -> None:
    """Probe every input in the listing file ``listing`` (a path in the store)."""
    _ = pipeline | "Listing" >> beam.Create([listing]) | "ProbeItems" >> ProbeItems(job)


def build_run(pipeline: beam.Pipeline, plan: PlanRef, job: RunJob, *, hints: bool = False) -> None:
    """Compute the shards of a plan, bring tables, indexes and exports up to date, publish.

    Args:
        pipeline: gets the transforms.
        plan: where it is.
        job: of the plan.
        hints: tell the runner how much memory encoding needs.
    """
    compute = beam.ParDo(ComputeShard(job))
    if hints:
        compute = compute.with_resource_hints(min_ram=f"{memory_of(ObjectStore(plan.store), job) / 2**30:.1f}GiB")
    begin = pipeline | "Plan" >> beam.Create([f"{plan.folder}/shards.parquet"])
    computed = (
        begin | "ReadPlan" >> ReadPlan(plan.store) | "ComputeShard" >> compute | "GatherParts" >> GatherRecords(plan)
    )
    rewritten = (
        begin
        | "Assemble" >> beam.ParDo(Assemble(plan), beam.pvalue.AsList(computed))
        | "SpreadRewrites" >> beam.Reshuffle()
        | "RewriteParts" >> beam.ParDo(RewriteParts(job))
        | "GatherRewrites" >> GatherRecords(plan)
    )
    tables = begin | "CommitTables" >> beam.ParDo(
        CommitTables(plan), beam.pvalue.AsList(computed), beam.pvalue.AsList(rewritten)
    )
    labels = (
        tables
        | "PlanLabels" >> beam.ParDo(PlanLabels(plan))
        | "SpreadLabels" >> beam.Reshuffle()
        | "WriteLabels" >> beam.ParDo(WriteLabels(plan))
    )
    draft = tables | "CommitLabels" >> beam.ParDo(CommitLabels(plan), after(labels, "LabelsMade"))
    indexes = draft | "Indexes" >> UpdateIndexes(plan)
    exports = draft | "Exports" >> UpdateExports(plan)
    _ = draft | "Publish" >> beam.ParDo(Publish(plan), beam.pvalue.AsList(indexes), beam.pvalue.AsList(exports))


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
            | "PlanIndexes" >> beam.ParDo(PlanIndexes(self._plan))
            | "SpreadShards" >> beam.Reshuffle()
            | "BuildIndexShard" >> beam.ParDo(BuildIndexShard(self._plan.store))
        )
        return draft | "FinishIndexes" >> beam.ParDo(FinishIndexes(self._plan), beam.pvalue.AsList(built))


class UpdateExports(beam.PTransform[beam.PCollection, beam.PCollection]):  # type: ignore[misc]
    """The draft in, (name, export entry) out; one element of work a file."""

    def __init__(self, plan: PlanRef) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, draft: beam.PCollection) -> beam.PCollection:
        """Plan, write, finish."""
        parts = (
            draft
            | "PlanExports" >> beam.ParDo(PlanExports(self._plan))
            | "SpreadParts" >> beam.Reshuffle()
            | "WriteParts" >> beam.ParDo(WriteExportFile(self._plan.store))
        )
        written = (
            draft
            | "PlanExportFiles" >> beam.ParDo(PlanExportFiles(self._plan), after(parts, "PartsMade"))
            | "SpreadFiles" >> beam.Reshuffle()
            | "WriteFiles" >> beam.ParDo(WriteExportFile(self._plan.store))
        )
        return draft | "FinishExports" >> beam.ParDo(FinishExports(self._plan), after(written, "FilesMade"))
