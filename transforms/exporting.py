"""The Beam side of HDF5 exports: one element a file, made from whole parts, then a master that links them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePosixPath

import apache_beam as beam
import polars as pl
import pyarrow as pa

from schemas.digests import digest_of
from schemas.plan import RunPlan
from schemas.release import ExportEntry, FeatureEntry, FileEntry, Release
from schemas.sampling import Every, Sampling
from schemas.spec import Hdf5Export
from transforms.shards import count
from transforms.store.hdf5 import ItemVectors, write_hdf5_part, write_master, write_single
from transforms.store.objects import Objects
from transforms.store.parts import arrow_to_vectors, part_path, read_rows
from transforms.store.tables import read_table


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


def rows_per_second(sampling: Sampling | None) -> float:
    """Rate of a feature's rows where they lie on a grid, else 0."""
    return round(1 / sampling.every, 9) if isinstance(sampling, Every) else 0.0


def groups_of_parts(contents: pl.DataFrame) -> list[tuple[str, ...]]:
    """Parts that share an item belong into one file, so that no file splits a uid.

    Args:
        contents: part, item_no of the contents that have rows.
    """
    leader: dict[str, str] = {part: part for part in contents["part"].unique().to_list()}

    def find(part: str) -> str:
        while leader[part] != part:
            leader[part] = leader[leader[part]]
            part = leader[part]
        return part

    shared = contents.unique(["part", "item_no"]).group_by("item_no").agg("part").filter(pl.col("part").list.len() > 1)
    for parts in shared["part"].to_list():
        for part in parts[1:]:
            leader[find(part)] = find(parts[0])
    groups: dict[str, list[str]] = {}
    for part in leader:
        groups.setdefault(find(part), []).append(part)
    return sorted(tuple(sorted(group)) for group in groups.values())


def tasks_of(
    name: str, export: Hdf5Export, feature: FeatureEntry, sampling: Sampling | None, contents: pl.DataFrame
) -> list[Hdf5Task]:
    """The parts of one export."""
    wanted = [export.output] if export.output else sorted(feature.outputs)
    outputs = tuple((output, feature.outputs[output].dim) for output in wanted)
    groups = groups_of_parts(contents.select("part", "item_no"))
    fps = rows_per_second(sampling)
    return [Hdf5Task(name, feature.table, parts, outputs, fps, feature.encoder) for parts in groups]


def feature_contents(objects: Objects, draft: Release, feature: str) -> pl.DataFrame:
    """Contents with rows of one feature, from the tables of the draft."""
    contents = read_table(objects, "contents", draft.tables["contents"])
    return contents.filter((pl.col("feature") == feature) & (pl.col("rows") > 0))


class PlanExports(beam.DoFn):  # type: ignore[misc]
    """The draft in, the files to make out; what is there already is not made again."""

    def __init__(self, plan: RunPlan) -> None:
        super().__init__()
        self._plan = plan

    def process(self, draft: Release) -> Iterator[Hdf5Task]:
        """Look at every export of the spec."""
        objects = Objects(self._plan.job.store)
        for name, export in self._plan.exports.items():
            contents = feature_contents(objects, draft, export.feature)
            sampling = self._plan.feature(export.feature).sampling
            for task in tasks_of(name, export, draft.features[export.feature], sampling, contents):
                if objects.size(task.path) is None:
                    yield task


def write_part(objects: Objects, task: Hdf5Task) -> None:
    """Make one HDF5 part; memory is that of its feature parts."""
    with objects.create_file(task.path) as local:
        write_hdf5_part(local, _items(objects, task), tuple(name for name, _ in task.outputs))


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
            start=float(mine["start_s"][0].as_py()),
            encoder=task.encoder,
            digest=mine["item_digest"][0].as_py(),
            outputs={name: arrow_to_vectors(mine[name], dim) for name, dim in task.outputs},
        )


class WriteHdf5Part(beam.DoFn):  # type: ignore[misc]
    """A task in, the path of its file out."""

    def __init__(self, store: str) -> None:
        super().__init__()
        self._store = store

    def process(self, task: Hdf5Task) -> Iterator[str]:
        """Write it, unless it is there."""
        objects = Objects(self._store)
        if objects.size(task.path) is None:
            write_part(objects, task)
            count("hdf5_parts_written", 1)
        yield task.path


class FinishExports(beam.DoFn):  # type: ignore[misc]
    """The draft in, every export entry out: parts listed, master or single file written."""

    def __init__(self, plan: RunPlan) -> None:
        super().__init__()
        self._plan = plan

    def process(self, draft: Release, written: list[str]) -> Iterator[tuple[str, ExportEntry]]:
        """Assemble the entries; an export whose parts are those of the last release is taken over."""
        objects = Objects(self._plan.job.store)
        for name, export in self._plan.exports.items():
            feature = draft.features[export.feature]
            contents = feature_contents(objects, draft, export.feature)
            sampling = self._plan.feature(export.feature).sampling
            tasks = tasks_of(name, export, feature, sampling, contents)
            recipe = digest_of([export.single, [task.path for task in tasks]])
            previous = self._plan.base.exports.get(name) if self._plan.base else None
            if previous is not None and previous.recipe == recipe:
                yield name, previous
                continue
            yield name, finish_export(objects, name, export, tasks, contents, recipe)


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
