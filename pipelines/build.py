"""From a plan to Beam graphs. Their size does not depend on the number of files: plans are read by workers."""

from __future__ import annotations

import apache_beam as beam

from schemas.jobs import RunJob
from schemas.plan import RunPlan
from transforms.publish.exporting import FinishExports, PlanExportFiles, PlanExports, WriteExportFile
from transforms.publish.final import Assemble, CommitTables, Publish
from transforms.publish.indexing import BuildIndexShard, FinishIndexes, PlanIndexes
from transforms.publish.labels import CommitLabels, PlanLabels, WriteLabels
from transforms.work.probing import ProbeItems
from transforms.work.shards import ComputeShard, ReadPlan, RewriteParts


def build_probe(pipeline: beam.Pipeline, job: RunJob, listing: str) -> None:
    """Probe every input in the listing file ``listing`` (a path in the store)."""
    _ = pipeline | "Listing" >> beam.Create([listing]) | "ProbeItems" >> ProbeItems(job)


def build_run(pipeline: beam.Pipeline, plan: RunPlan) -> None:
    """Compute the shards of a plan, bring tables, indexes and exports up to date, publish."""
    store = plan.job.store
    computed = (
        pipeline
        | "Plan" >> beam.Create([f"{plan.folder}/shards.parquet"])
        | "ReadPlan" >> ReadPlan(store)
        | "ComputeShard" >> beam.ParDo(ComputeShard(plan.job))
        | "GatherParts" >> beam.combiners.ToList()
    )
    rewritten = (
        computed
        | "Assemble" >> beam.ParDo(Assemble(plan))
        | "SpreadRewrites" >> beam.Reshuffle()
        | "RewriteParts" >> beam.ParDo(RewriteParts(plan.job))
        | "GatherRewrites" >> beam.combiners.ToList()
    )
    tables = rewritten | "CommitTables" >> beam.ParDo(CommitTables(plan), beam.pvalue.AsSingleton(computed))
    labels = (
        tables
        | "PlanLabels" >> beam.ParDo(PlanLabels(plan))
        | "SpreadLabels" >> beam.Reshuffle()
        | "WriteLabels" >> beam.ParDo(WriteLabels(plan))
    )
    draft = tables | "CommitLabels" >> beam.ParDo(CommitLabels(plan), beam.pvalue.AsList(labels))
    indexes = draft | "Indexes" >> UpdateIndexes(plan)
    exports = draft | "Exports" >> UpdateExports(plan)
    _ = draft | "Publish" >> beam.ParDo(Publish(plan), beam.pvalue.AsList(indexes), beam.pvalue.AsList(exports))


class UpdateIndexes(beam.PTransform[beam.PCollection, beam.PCollection]):  # type: ignore[misc]
    """The draft in, (name, index entry) out; one element of work a shard."""

    def __init__(self, plan: RunPlan) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, draft: beam.PCollection) -> beam.PCollection:
        """Plan, build, finish."""
        built = (
            draft
            | "PlanIndexes" >> beam.ParDo(PlanIndexes(self._plan))
            | "SpreadShards" >> beam.Reshuffle()
            | "BuildIndexShard" >> beam.ParDo(BuildIndexShard(self._plan.job.store))
        )
        return draft | "FinishIndexes" >> beam.ParDo(FinishIndexes(self._plan), beam.pvalue.AsList(built))


class UpdateExports(beam.PTransform[beam.PCollection, beam.PCollection]):  # type: ignore[misc]
    """The draft in, (name, export entry) out; one element of work a file."""

    def __init__(self, plan: RunPlan) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, draft: beam.PCollection) -> beam.PCollection:
        """Plan, write, finish."""
        parts = (
            draft
            | "PlanExports" >> beam.ParDo(PlanExports(self._plan))
            | "SpreadParts" >> beam.Reshuffle()
            | "WriteParts" >> beam.ParDo(WriteExportFile(self._plan.job.store))
        )
        written = (
            draft
            | "PlanExportFiles" >> beam.ParDo(PlanExportFiles(self._plan), beam.pvalue.AsList(parts))
            | "SpreadFiles" >> beam.Reshuffle()
            | "WriteFiles" >> beam.ParDo(WriteExportFile(self._plan.job.store))
        )
        return draft | "FinishExports" >> beam.ParDo(FinishExports(self._plan), beam.pvalue.AsList(written))
