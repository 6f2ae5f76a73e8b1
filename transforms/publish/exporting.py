"""Beam steps of exports: one element per file, in two rounds, then the release's entry. Each kind has a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pkgutil import resolve_name

import apache_beam as beam

from cliploom.schemas.plan import RunPlan
from cliploom.schemas.release import ExportEntry, Release
from cliploom.transforms.exports.base import Exporter, FileTask
from cliploom.transforms.publish.release_state import check_gathered
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.wire import Step
from cliploom.transforms.work.counters import count
from cliploom.transforms.work.plan_dofn import PlanDoFn
from cliploom.transforms.work.plan_ref import PlanRef

_EXPORTERS = {
    "hdf5": "cliploom.transforms.exports.hdf5:Hdf5Exporter",
    "pairs": "cliploom.transforms.narrations.pairs_export:PairsExporter",
    "tfrecord": "cliploom.transforms.tfrecords.export:TfrecordExporter",
}


def exporter_of(plan: RunPlan, draft: Release, objects: ObjectStore, name: str) -> Exporter:
    """Return the exporter of an export of the spec, by its kind."""
    export = plan.exports[name]
    made: Exporter = resolve_name(_EXPORTERS[export.kind])(plan, draft, objects, name, export)
    return made


def unchanged_entry(plan: RunPlan, exporter: Exporter, name: str) -> ExportEntry | None:
    """Return the last release's entry if the export's inputs are unchanged and its files exist, else None."""
    previous = plan.base.exports.get(name) if plan.base else None
    if previous is None or previous.recipe != exporter.recipe:
        return None
    return previous if not {file.path for file in previous.files} & set(plan.lost_files) else None


class _PlanExportsFn(PlanDoFn):
    def process(self, draft: Release) -> Iterator[FileTask]:
        """Look at every export of the spec."""
        objects = ObjectStore(self._plan.job.store)
        for name in self._plan.exports:
            exporter = exporter_of(self._plan, draft, objects, name)
            files = exporter.files()
            made = bool(files) and all(objects.size(task.path) is not None for task in files)
            if unchanged_entry(self._plan, exporter, name) is None and not made:
                yield from (task for task in exporter.parts() if objects.size(task.path) is None)


class PlanExports(Step):
    """Yields a task for each missing file that is made from parts, for a draft."""

    do_fn = _PlanExportsFn


class _PlanExportFilesFn(PlanDoFn):
    def process(self, draft: Release) -> Iterator[FileTask]:
        """Look at every export of the spec, when the first round is complete."""
        objects = ObjectStore(self._plan.job.store)
        for name in self._plan.exports:
            exporter = exporter_of(self._plan, draft, objects, name)
            if unchanged_entry(self._plan, exporter, name) is None:
                todo = [task for task in exporter.files() if objects.size(task.path) is None]
                if todo:
                    check_written(objects, exporter.parts())
                yield from todo


class PlanExportFiles(Step):
    """Yields a task for each missing file that is made from the files of the first round, for a draft."""

    do_fn = _PlanExportFilesFn


class _WriteExportFileFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, store: str) -> None:
        super().__init__()
        self._store = store

    def process(self, task: FileTask) -> Iterator[str]:
        """Write the file unless it exists."""
        objects = ObjectStore(self._store)
        if objects.size(task.path) is None:
            task.write(objects)
            count("export_files_written", 1)
        yield task.path


class WriteExportFile(Step):
    """Makes the file of a task and yields its path."""

    do_fn = _WriteExportFileFn


class _FinishExportsFn(PlanDoFn):
    def process(self, draft: Release) -> Iterator[tuple[str, ExportEntry]]:
        """Assemble the entries; an export with unchanged inputs keeps its last entry."""
        objects = ObjectStore(self._plan.job.store)
        for name in self._plan.exports:
            exporter = exporter_of(self._plan, draft, objects, name)
            entry = unchanged_entry(self._plan, exporter, name)
            if entry is None:
                check_written(objects, exporter.files() or exporter.parts())
            yield name, entry or exporter.finish()


class FinishExports(Step):
    """Yields the entry of every export, for a draft."""

    do_fn = _FinishExportsFn


def check_written(objects: ObjectStore, tasks: Sequence[FileTask]) -> None:
    """Check that the files of an export exist, so that a lost task does not go unnoticed.

    Raises:
        StoreError: with the number of missing files.
    """
    check_gathered("export files", len(tasks), sum(objects.size(task.path) is not None for task in tasks))


class UpdateExports(beam.PTransform[beam.PCollection[bytes], beam.PCollection[bytes]]):  # type: ignore[misc]
    """Brings all exports up to date with a draft, and yields (name, export entry); each file is an element of work."""

    def __init__(self, plan: PlanRef) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, draft: beam.PCollection[bytes]) -> beam.PCollection[bytes]:
        """Add the steps."""
        parts = (
            draft
            | "PlanExports" >> PlanExports(self._plan)
            | "SpreadParts" >> beam.Reshuffle()
            | "WriteParts" >> WriteExportFile(self._plan.store)
        )
        written = (
            draft
            | "PartsMade" >> beam.WaitOn(parts)
            | "PlanExportFiles" >> PlanExportFiles(self._plan)
            | "SpreadFiles" >> beam.Reshuffle()
            | "WriteFiles" >> WriteExportFile(self._plan.store)
        )
        return draft | "FilesMade" >> beam.WaitOn(written) | "FinishExports" >> FinishExports(self._plan)
