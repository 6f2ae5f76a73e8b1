"""HDF5 exports: a file per group of whole parts and a master that links them, or a single file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import polars as pl
import pyarrow as pa

from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import SpecError
from cliploom.schemas.exports import Hdf5Export
from cliploom.schemas.plan import RunPlan
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.schemas.release import ExportEntry, FeatureEntry, Release
from cliploom.transforms.exports.base import Exporter, entries_of, feature_contents, groups_of_parts
from cliploom.transforms.store.hdf5 import ItemVectors, write_hdf5_part, write_master, write_single
from cliploom.transforms.store.hdf5_names import folder_clash
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import arrow_to_vectors, part_path
from cliploom.transforms.store.ranges import RowRanges
from cliploom.transforms.store.rates import rows_per_second


@dataclass(frozen=True)
class Hdf5Task:
    """One HDF5 part to create.

    Attributes:
        table: the folder of the feature's table.
        parts: the feature parts whose items it contains; no other part has rows of these items.
        outputs: the names and widths of the exported outputs.
        fps: the number of rows per second, 0 if they are not evenly spaced.
    """

    export: str
    table: str
    parts: tuple[str, ...]
    outputs: tuple[tuple[str, int], ...]
    fps: float
    encoder: str

    @property
    def path(self) -> str:
        """The path of the file relative to the store, which is named by its inputs."""
        recipe = [self.table, self.parts, self.outputs, self.fps, self.encoder]
        return f"hdf5/{self.export}/part-{digest_of(recipe)}.h5"

    def write(self, objects: ObjectStore) -> None:
        """Create the file; memory is bounded by its longest item and a row group of each part."""
        with objects.create_file(self.path) as local:
            write_hdf5_part(local, _items(objects, self), tuple(name for name, _ in self.outputs))


def tasks_of(name: str, export: Hdf5Export, feature: FeatureEntry, contents: pl.DataFrame) -> list[Hdf5Task]:
    """Return the parts of one export."""
    wanted = [export.output] if export.output else sorted(feature.outputs)
    outputs = tuple((output, feature.outputs[output].dim) for output in wanted)
    groups = groups_of_parts(contents.select("part", "item_no"))
    fps = rows_per_second(feature.recipe)
    return [Hdf5Task(name, feature.table, parts, outputs, fps, feature.encoder) for parts in groups]


def _items(objects: ObjectStore, task: Hdf5Task) -> Iterator[ItemVectors]:
    columns = ["start_s", "item_digest", *(name for name, _ in task.outputs)]
    with ExitStack() as files:
        paths = [files.enter_context(objects.local_copy(part_path(task.table, part))) for part in task.parts]
        readers = [RowRanges(path, columns) for path in paths]
        for uid, stretches in places_of_uids(paths):
            mine = pa.concat_tables(readers[file].rows(first, count) for file, first, count in stretches)
            yield ItemVectors(
                uid=uid,
                fps=task.fps,
                start=float(mine["start_s"][0].as_py() or 0.0),
                encoder=task.encoder,
                digest=mine["item_digest"][0].as_py(),
                outputs={name: arrow_to_vectors(mine[name], dim) for name, dim in task.outputs},
            )


def places_of_uids(paths: Sequence[Path]) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
    """Return the positions of each uid's rows, ordered by id, without reading vectors.

    Args:
        paths: the paths of local parts that share items.

    Yields:
        uid, [(index of the part, first row, rows)]; uids in the order of their first rows in the parts.
    """
    frames = [
        pl.read_parquet(path, columns=["row_id", "uid"])
        .with_row_index("row")
        .with_columns(pl.lit(number).alias("file"), (pl.col("row_id") // (1 << ORDINAL_BITS)).alias("item"))
        for number, path in enumerate(paths)
    ]
    rows = (
        pl.concat(frames)
        .sort("row_id")
        .with_columns((pl.col("row").cast(pl.Int64) - pl.int_range(pl.len())).alias("step"))
    )
    # Consecutive rows have a common step.
    broken = pl.any_horizontal(pl.col(name) != pl.col(name).shift() for name in ("file", "item", "uid", "step"))
    runs = rows.with_columns(broken.fill_null(value=False).cum_sum().alias("run")).group_by("run", maintain_order=True)
    stretches = runs.agg(pl.first("item", "uid", "file", "row"), pl.len().alias("count"))
    items = stretches.group_by("item", "uid", maintain_order=True).agg("file", "row", "count")
    items = items.sort(pl.col("file").list.first(), pl.col("row").list.first())
    for uid, files, firsts, counts in items.select("uid", "file", "row", "count").iter_rows():
        yield uid, list(zip(files, firsts, counts, strict=True))


class Hdf5Exporter(Exporter):
    """The exporter of HDF5; see ``cliploom.transforms.exports.base``."""

    def __init__(self, plan: RunPlan, draft: Release, objects: ObjectStore, name: str, export: Hdf5Export) -> None:
        self._plan, self._objects, self._name, self._export = plan, objects, name, export
        self._contents = feature_contents(objects, draft, export.feature)
        self._tasks = tasks_of(name, export, draft.features[export.feature], self._contents)

    @property
    def recipe(self) -> str:
        """Return the digest of the parts, and of the master's naming scheme if there is one."""
        made_from: list[object] = [self._export.single, [task.path for task in self._tasks]]
        opened = self._export.single or self._objects.root is not None
        if self._tasks and opened and self._export.names == "readable":
            made_from.append("readable")
        return digest_of(made_from)

    def parts(self) -> list[Hdf5Task]:
        """Return one for each group of feature parts that share items."""
        return self._tasks

    def finish(self) -> ExportEntry:
        """Link the parts and list all files with their digests."""
        opened = link_parts(self._objects, self._name, self._export, self._tasks, self._contents, self.recipe)
        paths = [*opened, *(task.path for task in self._tasks)]
        files = entries_of(self._objects, paths, self._plan.base, self._name)
        return ExportEntry(kind=self._export.kind, feature=self._export.feature, recipe=self.recipe, files=files)


def link_parts(
    objects: ObjectStore, name: str, export: Hdf5Export, tasks: list[Hdf5Task], contents: pl.DataFrame, recipe: str
) -> list[str]:
    """Write the file that readers open, and return its path.

    There is no master in a bucket, since external links are file names; readers open the parts.
    """
    outputs = tuple(output for output, _ in tasks[0].outputs) if tasks else ()
    file_of = {part: task.path for task in tasks for part in task.parts}
    path_of = {uid: file_of[part] for part, uid in contents.select("part", "uid").unique().rows()}
    opened: list[str] = []
    is_readable = export.names == "readable"
    if is_readable and (export.single or objects.root is not None):
        refuse_clash(name, pl.Series([*path_of], dtype=pl.String))
    if outputs and export.single:
        opened = [f"hdf5/{name}/single-{recipe}.h5"]
        with ExitStack() as files, objects.create_file(opened[0]) as local:
            copies = {path: files.enter_context(objects.local_copy(path)) for path in sorted(set(path_of.values()))}
            write_single(local, {uid: copies[path] for uid, path in path_of.items()}, outputs, is_readable=is_readable)
    elif outputs and objects.root is not None:
        opened = [f"hdf5/{name}/master-{recipe}.h5"]
        with objects.create_file(opened[0]) as local:
            names = {uid: PurePosixPath(path).name for uid, path in path_of.items()}
            write_master(local, names, outputs, is_readable=is_readable)
    return opened


def refuse_clash(name: str, uids: pl.Series) -> None:
    """Raise an error if readable names cannot represent all uids.

    Args:
        name: the name of the export.
        uids: the uids of the items in it.

    Raises:
        SpecError: a uid is also a folder of another; the message has the line of the spec that fixes it.
    """
    clash = folder_clash(uids)
    if clash is not None:
        raise SpecError(
            f"exports.{name}: '{clash[0]}' is the uid of an item and a folder of the uid '{clash[1]}', so HDF5 can't "
            f"hold both by their names; rename one, or write names: escaped in exports.{name}."
        )
