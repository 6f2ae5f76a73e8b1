"""The Beam side of exports: one element a file, in two rounds, then the entry of the release. Kinds have modules."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence

import apache_beam as beam

from cliploom.schemas.plan import RunPlan
from cliploom.schemas.release import ExportEntry, Release
from cliploom.transforms.exports.base import Exporter, FileTask
from cliploom.transforms.publish.release_state import check_gathered
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work.counters import count
from cliploom.transforms.work.plan_dofn import PlanDoFn

_EXPORTERS = {
    "hdf5": "cliploom.transforms.exports.hdf5:Hdf5Exporter",
    "pairs": "cliploom.transforms.narrations.pairs_export:PairsExporter",
    "tfrecord": "cliploom.transforms.tfrecords.export:TfrecordExporter",
}


def exporter_of(plan: RunPlan, draft: Release, objects: ObjectStore, name: str) -> Exporter:
    """The exporter of an export of the spec, by its kind."""
    export = plan.exports[name]
    module, _, kind = _EXPORTERS[export.kind].partition(":")
    made: Exporter = getattr(importlib.import_module(module), kind)(plan, draft, objects, name, export)
    return made


def standing(plan: RunPlan, exporter: Exporter, name: str) -> ExportEntry | None:
    """The last release's entry, when the export would be made from the same again."""
    previous = plan.base.exports.get(name) if plan.base else None
    if previous is None or previous.recipe != exporter.recipe:
        return None
    return previous if not {file.path for file in previous.files} & set(plan.lost_files) else None


class PlanExports(PlanDoFn):
    """The draft in, the files to make from parts out; what is there already is not made again."""

    def process(self, draft: Release) -> Iterator[FileTask]:
        """Look at every export of the spec."""
        objects = ObjectStore(self._plan.job.store)
        for name in self._plan.exports:
            exporter = exporter_of(self._plan, draft, objects, name)
            files = exporter.files()
            made = bool(files) and all(objects.size(task.path) is not None for task in files)
            if standing(self._plan, exporter, name) is None and not made:
                yield from (task for task in exporter.parts() if objects.size(task.path) is None)


class PlanExportFiles(PlanDoFn):
    """The draft in, the files to make from what the first round made out."""

    def process(self, draft: Release, made: list[str]) -> Iterator[FileTask]:
        """Look at every export of the spec; ``made`` only says that the first round is over."""
        objects = ObjectStore(self._plan.job.store)
        for name in self._plan.exports:
            exporter = exporter_of(self._plan, draft, objects, name)
            if standing(self._plan, exporter, name) is None:
                todo = [task for task in exporter.files() if objects.size(task.path) is None]
                if todo:
                    check_written(objects, exporter.parts())
                yield from todo


class WriteExportFile(beam.DoFn):  # type: ignore[misc]
    """A task in, the path of its file out."""

    def __init__(self, store: str) -> None:
        super().__init__()
        self._store = store

    def process(self, task: FileTask) -> Iterator[str]:
        """Write it, unless it is there."""
        objects = ObjectStore(self._store)
        if objects.size(task.path) is None:
            task.write(objects)
            count("export_files_written", 1)
        yield task.path


class FinishExports(PlanDoFn):
    """The draft in, every export entry out."""

    def process(self, draft: Release, made: list[str]) -> Iterator[tuple[str, ExportEntry]]:
        """Assemble the entries; an export made from what the last release's was made from is taken over."""
        objects = ObjectStore(self._plan.job.store)
        for name in self._plan.exports:
            exporter = exporter_of(self._plan, draft, objects, name)
            entry = standing(self._plan, exporter, name)
            if entry is None:
                check_written(objects, exporter.files() or exporter.parts())
            yield name, entry or exporter.finish()


def check_written(objects: ObjectStore, tasks: Sequence[FileTask]) -> None:
    """Check that the files of an export are there; one that no worker was told of must not go unnoticed.

    Raises:
        StoreError: saying how many are missing.
    """
    check_gathered("export files", len(tasks), sum(objects.size(task.path) is not None for task in tasks))
