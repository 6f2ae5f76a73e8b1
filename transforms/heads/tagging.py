"""Predicted labels of a source's videos: applies a trained head to existing feature rows, one file per group of parts.

A file is named by its inputs, so that a new part or a retrained head gives new files without decoding anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from cliploom.schemas.digests import digest_of
from cliploom.schemas.heads import HeadJob, InputColumn
from cliploom.schemas.plan import RunPlan
from cliploom.schemas.release import HeadEntry, Release
from cliploom.schemas.tables import LABELS, empty_table
from cliploom.transforms.exports.base import feature_contents
from cliploom.transforms.heads.plain import PlainHead, read_head
from cliploom.transforms.heads.pooling import PartsToRead, PooledVideo, input_groups, pool_group, texts_of
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import folder_entries
from cliploom.transforms.store.tables import rows_file

REVISION = 1
"""Increase it when the same head gives other labels."""

_BATCH = 256


@dataclass(frozen=True)
class TagTask:
    """The predicted labels of the videos in a group of parts.

    Attributes:
        feature: the feature of predicted labels; its job has the settings.
        config: the config digest of the feature.
        group: the parts of its inputs.
    """

    feature: str
    config: str
    group: tuple[PartsToRead, ...]

    @property
    def path(self) -> str:
        """The path of the file relative to the store, named by its inputs."""
        parts = [[each.feature, each.table, *each.parts] for each in self.group]
        return f"labels/part-{digest_of([self.feature, self.config, parts])}.parquet"

    def write(self, objects: ObjectStore, plan: RunPlan) -> None:
        """Compute the labels and write the file."""
        job = plan.heads[self.feature]
        head = read_head(objects, job.model)
        group = {each.feature: each for each in self.group}
        videos = pool_group(objects, group, job.inputs, job.segment_s, unit=head.unit_rows)
        batches = [labels_table(head, some, job) for some in _batches(videos)]
        rows = pa.concat_tables([empty_table(LABELS), *batches])
        _, data = rows_file(rows)
        objects.put_new(self.path, data)


def tag_tasks(objects: ObjectStore, plan: RunPlan, draft: Release) -> list[TagTask]:
    """Return all files of predicted labels of a release, given its tables."""
    return [
        TagTask(job.name, job.config, tuple(group.values()))
        for job in plan.heads.values()
        for group in input_groups(objects, draft, job.inputs)
    ]


def tag_files(objects: ObjectStore, release: Release) -> pl.DataFrame:
    """Yield the files of predicted labels of a release with their items: path (relative to the store) and item_no."""
    frames = [pl.DataFrame(schema={"path": pl.String, "item_no": pl.Int64})]
    for name, entry in release.heads.items():
        inputs = [InputColumn(feature, output, output, 0, "") for feature, output in entry.inputs]
        first = inputs[0].feature
        paths = {
            part: TagTask(name, entry.config, tuple(group.values())).path
            for group in input_groups(objects, release, inputs)
            for part in group[first].parts
        }
        contents = feature_contents(objects, release, first).select("part", "item_no").unique()
        frames.append(contents.select(pl.col("part").replace_strict(paths).alias("path"), "item_no"))
    return pl.concat(frames)


def head_entries(objects: ObjectStore, plan: RunPlan) -> dict[str, HeadEntry]:
    """Return the release entries of features of predicted labels."""
    known = {entry.model: entry.model_files for entry in plan.base.heads.values()} if plan.base else {}
    return {
        name: HeadEntry(
            source=job.source,
            head=job.head,
            config=job.config,
            model=job.model,
            model_files=known.get(job.model) or folder_entries(objects, job.model),
            inputs=[(each.feature, each.output) for each in job.inputs],
            recipe=job.recipe,
        )
        for name, job in plan.heads.items()
    }


def _batches(videos: Sequence[PooledVideo]) -> Iterator[Sequence[PooledVideo]]:
    for begin in range(0, len(videos), _BATCH):
        yield videos[begin : begin + _BATCH]


def labels_table(head: PlainHead, videos: Sequence[PooledVideo], job: HeadJob) -> pa.Table:
    """Return the rows of ``LABELS``: for each video, then for each of its segments, the ``top`` labels, best first.

    Args:
        head: the head to apply.
        videos: the videos; at least one.
        job: the job, which has the source and the number of labels.
    """
    stretches = [
        (video, *stretch)
        for video in videos
        for stretch in (
            (None, None, video.vector),
            *((each.start_s, each.end_s, each.vector) for each in video.segments),
        )
    ]
    vectors, texts = np.stack([vector for *_, vector in stretches]), texts_of([video for video, *_ in stretches])
    places, scores = head.best(head.probabilities(vectors, texts), job.top)
    stretch = pa.array(np.repeat(np.arange(len(stretches)), places.shape[1]))
    place = pa.array(places.ravel())
    classes = head.card.classes
    columns = {
        "source": pa.array([job.source] * len(place)),
        "uid": pa.array([video.key.uid for video, *_ in stretches]).take(stretch),
        "label": pa.array([each.label for each in classes], pa.int64()).take(place),
        "name": pa.array([each.name for each in classes], pa.string()).take(place),
        "score": pa.array(scores.ravel().astype(np.float32)),
        "start_s": pa.array([start_s for _, start_s, _, _ in stretches], pa.float64()).take(stretch),
        "end_s": pa.array([end_s for _, _, end_s, _ in stretches], pa.float64()).take(stretch),
        "origin": pa.array([job.origin] * len(place)),
    }
    return pa.table([columns[name] for name in LABELS.names], schema=LABELS)
