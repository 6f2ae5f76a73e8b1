"""HDF5 exports: one file for whole parts, then a master that links them, or one file that holds all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePosixPath

import polars as pl
import pyarrow as pa

from schemas.digests import digest_of
from schemas.exports import Hdf5Export
from schemas.plan import RunPlan
from schemas.release import ExportEntry, FeatureEntry, FileEntry, Release
from transforms.publish.export_base import Exporter, feature_contents, groups_of_parts
from transforms.store.hdf5 import ItemVectors, write_hdf5_part, write_master, write_single
from transforms.store.objects import Objects
from transforms.store.parts import arrow_to_vectors, part_path, read_rows
from transforms.work.rates import rows_per_second


@dataclass(frozen=True)
class Hdf5Task:
    """One HDF5 part to make.

    Attributes:
        table: folder of the feature's table.
        parts: feature parts whose items it holds; no other part holds rows of these items.
        outputs: name and width of what is exported.
        fps: rows a second, 0 when they are not on a grid.
    """

    export: str
    table: str
    parts: tuple[str, ...]
    outputs: tuple[tuple[str, int], ...]
    fps: float
    encoder: str

    @property
    def path(self) -> str:
        """The file, relative to the store, named by what it is made from."""
        recipe = [self.table, self.parts, self.outputs, self.fps, self.encoder]
        return f"hdf5/{self.export}/part-{digest_of(recipe)}.h5"

    def write(self, objects: Objects) -> None:
        """Make the file; memory is that of its feature parts."""
        with objects.create_file(self.path) as local:
            write_hdf5_part(local, _items(objects, self), tuple(name for name, _ in self.outputs))


def tasks_of(name: str, export: Hdf5Export, feature: FeatureEntry, contents: pl.DataFrame) -> list[Hdf5Task]:
    """The parts of one export."""
    wanted = [export.output] if export.output else sorted(feature.outputs)
    outputs = tuple((output, feature.outputs[output].dim) for output in wanted)
    groups = groups_of_parts(contents.select("part", "item_no"))
    fps = rows_per_second(feature.recipe)
    return [Hdf5Task(name, feature.table, parts, outputs, fps, feature.encoder) for parts in groups]


def _items(objects: Objects, task: Hdf5Task) -> Iterator[ItemVectors]:
    columns = ["row_id", "uid", "start_s", "item_digest", *(name for name, _ in task.outputs)]
    tables = []
    for part in task.parts:
        with objects.local_copy(part_path(task.table, part)) as local:
            tables += list(read_rows(local, columns))
    rows = pa.concat_tables(tables).combine_chunks().sort_by("row_id")
    uids = pl.from_arrow(rows.select(["uid"])).to_series().rle()  # type: ignore[union-attr]
    start = 0
    for length, uid in zip(uids.struct.field("len").to_list(), uids.struct.field("value").to_list(), strict=True):
        mine = rows.slice(start, length)
        start += length
        yield ItemVectors(
            uid=uid,
            fps=task.fps,
            start=float(mine["start_s"][0].as_py() or 0.0),
            encoder=task.encoder,
            digest=mine["item_digest"][0].as_py(),
            outputs={name: arrow_to_vectors(mine[name], dim) for name, dim in task.outputs},
        )


class Hdf5Exporter(Exporter):
    """See ``transforms.publish.export_base``."""

    def __init__(self, plan: RunPlan, draft: Release, objects: Objects, name: str, export: Hdf5Export) -> None:
        self._plan, self._objects, self._name, self._export = plan, objects, name, export
        self._contents = feature_contents(objects, draft, export.feature)
        self._tasks = tasks_of(name, export, draft.features[export.feature], self._contents)

    @property
    def recipe(self) -> str:
        """Digest of the parts."""
        return digest_of([self._export.single, [task.path for task in self._tasks]])

    def parts(self) -> list[Hdf5Task]:
        """One for each group of feature parts that share items."""
        return self._tasks

    def finish(self) -> ExportEntry:
        """Link the parts."""
        return finish_export(self._objects, self._name, self._export, self._tasks, self._contents, self.recipe)


def finish_export(
    objects: Objects, name: str, export: Hdf5Export, tasks: list[Hdf5Task], contents: pl.DataFrame, recipe: str
) -> ExportEntry:
    """Write the file that readers open and list all files with their digests.

    On a bucket there is no master, since external links are file names; readers open the parts.
    """
    outputs = tuple(output for output, _ in tasks[0].outputs) if tasks else ()
    file_of = {part: task.path for task in tasks for part in task.parts}
    path_of = {uid: file_of[part] for part, uid in contents.select("part", "uid").unique().rows()}
    opened: list[str] = []
    if outputs and export.single:
        opened = [f"hdf5/{name}/single-{recipe}.h5"]
        with ExitStack() as files, objects.create_file(opened[0]) as local:
            copies = {path: files.enter_context(objects.local_copy(path)) for path in sorted(set(path_of.values()))}
            write_single(local, {uid: copies[path] for uid, path in path_of.items()}, outputs)
    elif outputs and objects.root is not None:
        opened = [f"hdf5/{name}/master-{recipe}.h5"]
        with objects.create_file(opened[0]) as local:
            write_master(local, {uid: PurePosixPath(path).name for uid, path in path_of.items()}, outputs)
    paths = [*opened, *(task.path for task in tasks)]
    entries = [FileEntry(path=path, size=objects.size(path) or 0, digest=objects.digest(path)) for path in paths]
    return ExportEntry(kind=export.kind, feature=export.feature, recipe=recipe, files=entries)
