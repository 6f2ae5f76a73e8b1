"""The ``labels`` table of a release: labels by source and uid, in one Delta table.

Labels of records come from the column ``labels`` of feature parts, one file per part, made by any worker. Labels of
media come from the items' metadata, where the listing stored them. Labels predicted by trained heads are files as well,
see ``cliploom.transforms.heads.tagging``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
import pyarrow.parquet as pq

from cliploom.schemas.digests import digest_bytes, digest_of
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.plan import RunPlan
from cliploom.schemas.records import LABELS_KEY
from cliploom.schemas.release import Release
from cliploom.schemas.tables import LABELS
from cliploom.transforms.heads.tagging import TagTask, head_entries, tag_tasks
from cliploom.transforms.publish.dataframes import empty_frame
from cliploom.transforms.publish.release_state import check_gathered
from cliploom.transforms.sources.registry import source_kind
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import part_path, read_rows
from cliploom.transforms.store.tables import TableFile, commit_files, read_table
from cliploom.transforms.wire import Step
from cliploom.transforms.work.counters import count
from cliploom.transforms.work.plan_dofn import PlanDoFn

TABLE = "labels"


@dataclass(frozen=True)
class LabelTask:
    """The labels of one part's records; ``names`` is the digest of the classes' names."""

    feature: str
    source: str
    table: str
    part: str
    names: str

    @property
    def path(self) -> str:
        """Path of the file, relative to the store; named by the digest of its inputs."""
        return f"{TABLE}/part-{digest_of([self.source, self.table, self.part, self.names])}.parquet"

    def write(self, objects: ObjectStore, plan: RunPlan) -> None:
        """Write the file."""
        names = _names_of(plan.feature(self.feature))
        with objects.local_copy(part_path(self.table, self.part)) as local:
            frames = [
                labels_of_rows(pl.DataFrame(rows), self.source, names) for rows in read_rows(local, ["uid", "labels"])
            ]
        objects.put_new(self.path, file_of(pl.concat([empty_frame(LABELS), *frames])))


def _names_of(job: FeatureJob) -> dict[int, str]:
    return source_kind(job.kind).class_names(job.settings)


def labels_of_rows(rows: pl.DataFrame, source: str, names: dict[int, str]) -> pl.DataFrame:
    """Return rows of ``LABELS`` for feature rows with uid and labels.

    Args:
        rows: uid, labels (list of struct; empty except on a record's first row).
        source: name of the source.
        names: class index -> name; null for classes without a name.
    """
    long = rows.filter(pl.col("labels").list.len() > 0).explode("labels").unnest("labels").unique(maintain_order=True)
    return long.select(
        pl.lit(source).alias("source"),
        "uid",
        "label",
        pl.col("label").replace_strict(names, default=None, return_dtype=pl.String).alias("name"),
        "score",
        "start_s",
        "end_s",
        pl.when(pl.col("start_s").is_null()).then(pl.lit("given")).otherwise(pl.lit("rated")).alias("origin"),
    )


def labels_of_items(items: pl.DataFrame) -> pl.DataFrame:
    """Return rows of ``LABELS`` for items with labels in their metadata.

    Args:
        items: source, uid, metadata (JSON).
    """
    labelled = items.filter(pl.col("metadata").str.contains(f'"{LABELS_KEY}"', literal=True))
    rows = []
    for source, uid, metadata in labelled.select("source", "uid", "metadata").sort("source", "uid").iter_rows():
        for label, name in dict.fromkeys(_pairs(json.loads(metadata).get(LABELS_KEY))):
            rows.append((source, uid, label, name, None, None, None, "given"))
    return pl.DataFrame(rows, schema=empty_frame(LABELS).schema, orient="row")


def _pairs(value: object) -> list[tuple[int | None, str]]:
    """Parse the labels that the listing wrote; a user's column that happens to have this name is ignored."""
    if not isinstance(value, list):
        return []
    return [(pair[0], pair[1]) for pair in value if isinstance(pair, list) and len(pair) == 2]


def file_of(frame: pl.DataFrame) -> bytes:
    """Return the bytes of a table file."""
    buffer = io.BytesIO()
    pq.write_table(frame.select(LABELS.names).to_arrow().cast(LABELS), buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


def label_tasks(objects: ObjectStore, plan: RunPlan, draft: Release) -> list[LabelTask | TagTask]:
    """Return the files with the labels of records and the predicted labels.

    If a source of records has several features, the labels are taken from the first one.
    """
    tasks: list[LabelTask | TagTask] = [*tag_tasks(objects, plan, draft)]
    jobs: dict[str, FeatureJob] = {}
    for job in plan.job.features.values():
        if job.records:
            jobs.setdefault(job.source, job)
    if not jobs:
        return tasks
    parts = read_table(objects, "parts", draft.tables["parts"]).filter(pl.col("rows") > 0)
    for source, job in jobs.items():
        names = digest_of(sorted(_names_of(job).items()))
        mine = parts.filter(pl.col("feature") == job.name)["part"].sort().to_list()
        tasks += [LabelTask(job.name, source, job.table, part, names) for part in mine]
    return tasks


class _PlanLabelsFn(PlanDoFn):
    def process(self, draft: Release) -> Iterator[LabelTask | TagTask]:
        """Find the missing files."""
        objects = ObjectStore(self._plan.job.store)
        yield from (task for task in label_tasks(objects, self._plan, draft) if objects.size(task.path) is None)


class PlanLabels(Step):
    """Yields a task for each missing label file, for a draft."""

    do_fn = _PlanLabelsFn


class _WriteLabelsFn(PlanDoFn):
    def process(self, task: LabelTask | TagTask) -> Iterator[str]:
        """Write one file."""
        task.write(ObjectStore(self._plan.job.store), self._plan)
        count("label_files_written", 1)
        yield task.path


class WriteLabels(Step):
    """Makes the file of a task and yields its path."""

    do_fn = _WriteLabelsFn


class _CommitLabelsFn(PlanDoFn):
    def process(self, draft: Release) -> Iterator[Release]:
        """Commit the complete list of files."""
        objects = ObjectStore(self._plan.job.store)
        draft = draft.model_copy(update={"heads": head_entries(objects, self._plan)})
        paths = [task.path for task in label_tasks(objects, self._plan, draft)]
        check_gathered("files of labels", len(paths), sum(objects.size(path) is not None for path in paths))
        given = labels_of_items(read_table(objects, "items", draft.tables["items"]))
        if given.height:
            data = file_of(given)
            paths.append(f"{TABLE}/rows-{digest_bytes(data)}.parquet")
            objects.put_new(paths[-1], data)
        had = self._plan.base is not None and TABLE in self._plan.base.tables
        if not paths and not had:
            yield draft
            return
        files = []
        for path in paths:
            with objects.local_copy(path) as local:
                rows = pq.read_metadata(local).num_rows
                size = local.stat().st_size
            if rows:
                files.append(TableFile(path.removeprefix(f"{TABLE}/"), size, rows))
        version = commit_files(objects, TABLE, LABELS, files)
        yield draft.model_copy(update={"tables": draft.tables | {TABLE: version}})


class CommitLabels(Step):
    """Adds heads and the table ``labels`` to a draft, if anything has labels or had some in the last release."""

    do_fn = _CommitLabelsFn
