"""From a plan to Beam graphs. Their size does not depend on the number of files: plans are read by workers."""

from __future__ import annotations

import apache_beam as beam

from cliploom.schemas.devices import DEFAULT_ACCELERATOR
from cliploom.schemas.jobs import RunJob
from cliploom.transforms.publish.exporting import UpdateExports
from cliploom.transforms.publish.final import Assemble, CommitTables, Publish
from cliploom.transforms.publish.indexing import UpdateIndexes
from cliploom.transforms.publish.labels import CommitLabels, PlanLabels, WriteLabels
from cliploom.transforms.publish.measuring import MeasureRelease
from cliploom.transforms.publish.projecting import CommitProjections, PlanProjections, WriteProjection
from cliploom.transforms.publish.wording import BuildWords, CommitWords, PlanWords, WordTasks
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.wire import encode_element, encoded
from cliploom.transforms.work.gather import GatherRecords
from cliploom.transforms.work.models import memory_of
from cliploom.transforms.work.plan_ref import PlanRef
from cliploom.transforms.work.probing import ProbeItems
from cliploom.transforms.work.shards import ComputeShard, ReadPlan, RewriteParts


def build_probe(pipeline: beam.Pipeline, job: RunJob, listing: str) -> None:
    """Probe every input in the listing file ``listing`` (a path in the store)."""
    begin = pipeline | "Listing" >> beam.Create([encode_element(listing)]).with_output_types(encoded(str))
    _ = begin | "ProbeItems" >> ProbeItems(job)


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
    compute = ComputeShard(job)
    if hints:
        wanted = {"min_ram": f"{memory_of(ObjectStore(plan.store), job) / 2**30:.1f}GiB"}
        if any(each.device is not None and each.device.required for each in job.features.values()):
            wanted["accelerator"] = accelerator
        compute = compute.with_resource_hints(**wanted)
    path = encode_element(f"{plan.folder}/shards.parquet")
    begin = pipeline | "Plan" >> beam.Create([path]).with_output_types(encoded(str))
    computed = (
        begin | "ReadPlan" >> ReadPlan(plan.store) | "ComputeShard" >> compute | "GatherParts" >> GatherRecords(plan)
    )
    rewritten = (
        begin
        | "Assemble" >> Assemble(plan, beam.pvalue.AsList(computed))
        | "SpreadRewrites" >> beam.Reshuffle()
        | "RewriteParts" >> RewriteParts(job)
        | "GatherRewrites" >> GatherRecords(plan)
    )
    tables = begin | "CommitTables" >> CommitTables(plan, beam.pvalue.AsList(computed), beam.pvalue.AsList(rewritten))
    projected = (
        tables
        | "PlanProjections" >> PlanProjections(plan)
        | "SpreadProjections" >> beam.Reshuffle()
        | "WriteProjection" >> WriteProjection(plan)
    )
    tables = tables | "PartsProjected" >> beam.WaitOn(projected) | "CommitProjections" >> CommitProjections(plan)
    labels = (
        tables
        | "PlanLabels" >> PlanLabels(plan)
        | "SpreadLabels" >> beam.Reshuffle()
        | "WriteLabels" >> WriteLabels(plan)
    )
    draft = tables | "LabelsMade" >> beam.WaitOn(labels) | "CommitLabels" >> CommitLabels(plan)
    indexes = draft | "Indexes" >> UpdateIndexes(plan)
    exports = draft | "Exports" >> UpdateExports(plan)
    figures = draft | "MeasureRelease" >> MeasureRelease(plan, beam.pvalue.AsList(indexes))
    planned = draft | "PlanWords" >> PlanWords(plan.store)
    words = (
        planned
        | "WordTasks" >> WordTasks()
        | "SpreadWords" >> beam.Reshuffle()
        | "BuildWords" >> BuildWords(plan.store)
    )
    worded = planned | "CommitWords" >> CommitWords(beam.pvalue.AsList(words))
    _ = worded | "Publish" >> Publish(
        plan, beam.pvalue.AsList(indexes), beam.pvalue.AsList(exports), beam.pvalue.AsList(figures)
    )
