"""Features that trained heads make: each part is projected from one part of the input feature.

A part is named by the head's config and its input part, so a run only makes new parts, or all parts after the head was
trained again. Nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from cliploom.schemas.digests import digest_of
from cliploom.schemas.plan import RunPlan
from cliploom.schemas.records import Content, PartRecord
from cliploom.schemas.release import FeatureEntry, Release
from cliploom.schemas.tables import CONTENTS, PARTS, feature_schema
from cliploom.schemas.vector_heads import EMBEDDING, ProjectionJob
from cliploom.transforms.heads.projection import open_projection
from cliploom.transforms.publish.final import commit_contents
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import PartWriter, arrow_to_vectors, part_path, read_rows, vectors_to_arrow
from cliploom.transforms.store.tables import TableFile, commit_files, commit_rows, contents_of, read_table
from cliploom.transforms.wire import Step
from cliploom.transforms.work.counters import count
from cliploom.transforms.work.models import local_model, model_files
from cliploom.transforms.work.plan_dofn import PlanDoFn

_PLAIN = ("row_id", "uid", "start_s", "end_s", "frame", "item_digest")


@dataclass(frozen=True)
class ProjectionTask:
    """One part to make.

    Attributes:
        feature: feature that the head makes.
        table: table of the input feature; ``part`` is one of its parts.
        contents: contents of that part.
    """

    feature: str
    config: str
    table: str
    part: str
    contents: tuple[Content, ...]

    @property
    def name(self) -> str:
        """Name of the part to make."""
        return projected_name(self.config, self.part)

    def write(self, objects: ObjectStore, job: ProjectionJob) -> None:
        """Write the part."""
        projection = open_projection(local_model(objects, job.model))
        path = part_path(job.table, self.name)
        schema = feature_schema(job.outputs)
        with (
            objects.local_copy(part_path(self.table, self.part)) as given,
            objects.create_file(path) as local,
            PartWriter(local, job.outputs) as writer,
        ):
            for rows in read_rows(given, [*_PLAIN, job.output]):
                vectors = projection.apply(arrow_to_vectors(rows[job.output], job.dim))
                columns = [rows[name].combine_chunks() for name in _PLAIN]
                writer.write_table(pa.table([*columns, vectors_to_arrow(vectors)], names=schema.names))
            record = PartRecord(job.name, job.config, self.name, writer.rows, 0, "", self.contents)
            writer.finish(record.to_dict())


def projected_name(config: str, part: str) -> str:
    """Return the name of the part that a head makes from another part."""
    return f"part-{digest_of(['project', config, part])}.parquet"


def projection_tasks(objects: ObjectStore, draft: Release, job: ProjectionJob) -> Iterator[ProjectionTask]:
    """Return a task for each part of the input feature, including parts without rows, which list failed items."""
    table = draft.features[job.base].table
    columns = [name for name in CONTENTS.names if name not in ("feature", "config")]
    contents = contents_of(objects, draft, job.base, columns).sort("part", "item_no", "segment")
    for (part,), rows in contents.group_by(["part"], maintain_order=True):
        held = tuple(Content(**row) for row in rows.drop("part").iter_rows(named=True))
        yield ProjectionTask(job.name, job.config, table, str(part), held)


class _PlanProjectionsFn(PlanDoFn):
    def process(self, draft: Release) -> Iterator[ProjectionTask]:
        """Look at every feature that a head makes."""
        objects = ObjectStore(self._plan.job.store)
        for job in self._plan.projections.values():
            for task in projection_tasks(objects, draft, job):
                if objects.size(part_path(job.table, task.name)) is None:
                    yield task


class PlanProjections(Step):
    """Yields a task for each missing part, for a draft."""

    do_fn = _PlanProjectionsFn


class _WriteProjectionFn(PlanDoFn):
    def process(self, task: ProjectionTask) -> Iterator[str]:
        """Make one part."""
        task.write(ObjectStore(self._plan.job.store), self._plan.projections[task.feature])
        count("parts_projected", 1)
        yield task.name


class WriteProjection(Step):
    """Makes the part of a task and yields its name."""

    do_fn = _WriteProjectionFn


class _CommitProjectionsFn(PlanDoFn):
    def process(self, draft: Release) -> Iterator[Release]:
        """Commit the complete list of parts of each, and add them to the tables ``parts`` and ``contents``."""
        plan = self._plan
        if not plan.projections:
            yield draft
            return
        objects = ObjectStore(plan.job.store)
        yield with_projections(objects, plan, draft)


class CommitProjections(Step):
    """Adds the tables of features that heads make to a draft."""

    do_fn = _CommitProjectionsFn


def with_projections(objects: ObjectStore, plan: RunPlan, draft: Release) -> Release:
    """Return the draft with the features that heads make; all their parts must exist."""
    parts = read_table(objects, "parts", draft.tables["parts"])
    contents = {name: contents_of(objects, draft, name, CONTENTS.names) for name in draft.features}
    known = _known_parts(objects, plan)
    features = dict(draft.features)
    frames = [parts]
    for name, job in plan.projections.items():
        base = contents[job.base]
        names = {part: projected_name(job.config, part) for part in base["part"].unique().to_list()}
        keys = pl.lit(name).alias("feature"), pl.lit(job.config).alias("config")
        contents[name] = base.with_columns(*keys, pl.col("part").replace_strict(names, return_dtype=pl.String))
        rows = dict(base.group_by("part").agg(pl.col("rows").sum()).iter_rows())
        mine = [
            (name, job.config, made, rows[part], *(known.get((job.config, made)) or _facts(objects, job, made)))
            for part, made in names.items()
        ]
        frame = pl.DataFrame(mine, schema=parts.schema, orient="row")
        frames.append(frame)
        features[name] = commit_projection(objects, plan, job, frame.filter(pl.col("rows") > 0).sort("part"))
    both = pl.concat(frames).sort("feature", "part")
    versions = {
        "parts": commit_rows(objects, "parts", both.select(PARTS.names).to_arrow().cast(PARTS)),
        "contents": commit_contents(objects, {name: frame.select(CONTENTS.names) for name, frame in contents.items()}),
    }
    return draft.model_copy(update={"features": features, "tables": draft.tables | versions})


def _known_parts(objects: ObjectStore, plan: RunPlan) -> dict[tuple[str, str], tuple[int, str]]:
    """Return size and digest of the last release's parts, by config and name, so that they are not read again."""
    if plan.base is None:
        return {}
    found = read_table(objects, "parts", plan.base.tables["parts"]).select("config", "part", "size", "digest")
    return {(config, part): (size, digest) for config, part, size, digest in found.iter_rows()}


def _facts(objects: ObjectStore, job: ProjectionJob, part: str) -> tuple[int, str]:
    path = part_path(job.table, part)
    return objects.size(path) or 0, objects.digest(path)


def commit_projection(objects: ObjectStore, plan: RunPlan, job: ProjectionJob, filled: pl.DataFrame) -> FeatureEntry:
    """Commit one feature's table, and return the release's entry."""
    files = [TableFile(part, size, rows) for part, size, rows in filled.select("part", "size", "rows").rows()]
    known = {entry.model: entry.model_files for entry in plan.base.features.values()} if plan.base else {}
    return FeatureEntry(
        source=job.source,
        encoder=job.card.kind,
        config=job.config,
        table=job.table,
        version=commit_files(objects, job.table, feature_schema(job.outputs), files),
        rows=int(filled["rows"].sum()),
        parts=filled.height,
        size=int(filled["size"].sum()),
        model=job.model,
        model_files=known.get(job.model) or model_files(objects, job.model),
        outputs={EMBEDDING: job.columns[EMBEDDING]},
        recipe=job.recipe,
    )
