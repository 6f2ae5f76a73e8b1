"""Features of predicted labels in a plan: the head that each applies, its inputs, and what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.head_references import head_encoder
from cliploom.schemas.heads import HeadInput, HeadJob, HeadSpec, InputColumn, ZeroShotSpec
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.plan import CONFIG_CHANGED, MOVED, NEW, UNCHANGED
from cliploom.schemas.release import HeadEntry, OutputEntry
from cliploom.schemas.sources import LabelsSource
from cliploom.schemas.spec import Spec
from cliploom.schemas.vector_heads import ProjectionJob
from cliploom.transforms.heads import tagging
from cliploom.transforms.heads.plain import read_head
from cliploom.transforms.heads.published import current_model
from cliploom.transforms.heads.towers import is_vector_head
from cliploom.transforms.store.object_store import ObjectStore


def input_columns(
    inputs: Sequence[HeadInput], features: Mapping[str, Mapping[str, OutputEntry]]
) -> tuple[InputColumn, ...]:
    """Return a head's inputs with outputs, names, widths and spaces filled in.

    Args:
        inputs: the inputs in the spec.
        features: the features' outputs and texts by name.

    Raises:
        StoreError: an output does not exist.
    """
    found = []
    for each in inputs:
        outputs = features.get(each.feature, {})
        output = each.output or next(iter(outputs), "")
        if output not in outputs:
            raise StoreError(
                f"The store has no {each.feature}.{output or '?'}, which the head reads; `cliploom run SPEC` makes it."
            )
        entry = outputs[output]
        name = each.name or (output if entry.type == "text" else f"mean_{output}")
        found.append(InputColumn(each.feature, output, name, entry.dim, entry.space, entry.type))
    return tuple(found)


def head_jobs(
    spec: Spec, jobs: Mapping[str, FeatureJob | ProjectionJob], objects: ObjectStore, base: Path = Path()
) -> tuple[dict[str, HeadJob], tuple[str, ...]]:
    """Return the jobs of features computed by trained heads, and messages about features without a trained head.

    Args:
        spec: the checked spec.
        jobs: the jobs of the features with rows, including those computed by heads; some of these may be missing.
        objects: the store, which has the trained heads.
        base: the folder that the spec's relative paths are resolved against.
    """
    made: dict[str, HeadJob] = {}
    notes = []
    outputs = {name: job.columns for name, job in jobs.items()}
    for name, feature in spec.tags.items():
        node = head_encoder(spec.encoders[str(feature.encoder)])
        head = spec.heads[node.head]
        if isinstance(head, ZeroShotSpec) and head.feature not in jobs:
            notes.append(f"{name} waits: {head.feature}, which head {node.head!r} reads, is not made yet")
            continue
        if isinstance(head, ZeroShotSpec):
            model: str | None = _zero_shot_model(spec, node.head, head, jobs, objects, base)
        else:
            model = current_model(objects, node.head)
        if model is None:
            notes.append(f"{name} waits: head {node.head!r} is not trained yet, see `cliploom train`")
            continue
        if not isinstance(head, HeadSpec | ZeroShotSpec):
            continue
        if is_vector_head(objects, model):
            notes.append(f"{name} waits: head {node.head!r} was trained as another kind, see `cliploom train`")
            continue
        card = read_head(objects, model).card
        inputs = input_columns(node.inputs or head.inputs, outputs)
        # Explicit inputs of the encoder are trusted; the head's own inputs must not have changed since the training.
        was = [(each.dim, "" if node.inputs else each.space) for each in card.inputs]
        now = [(each.dim, "" if node.inputs else each.space) for each in inputs]
        if was != now:
            notes.append(f"{name} waits: head {node.head!r} was trained on other vectors, see `cliploom train`")
            continue
        recipe = {
            "model": model,
            "inputs": [[each.feature, each.output, jobs[each.feature].config] for each in inputs],
            "top": node.top,
            "segments": node.segments,
            "revision": tagging.REVISION,
        }
        made[name] = HeadJob(
            name=name,
            source=feature.source,
            head=node.head,
            model=model,
            inputs=inputs,
            top=node.top,
            segment_s=node.segments,
            config=digest_of(recipe),
            recipe=recipe,
        )
    return made, tuple(notes)


def _zero_shot_model(
    spec: Spec,
    name: str,
    node: ZeroShotSpec,
    jobs: Mapping[str, FeatureJob | ProjectionJob],
    objects: ObjectStore,
    base: Path,
) -> str:
    """Compute the vectors of a head's class names, unless they exist; return their folder.

    Raises:
        SpecError: the feature does not support texts.
    """
    from cliploom.pipelines.version import program_version
    from cliploom.transforms.heads.zero_shot import publish_zero_shot
    from cliploom.transforms.narrations.listing import label_names

    (column,) = input_columns(node.inputs, {key: job.columns for key, job in jobs.items()})
    job = jobs[node.feature]
    if not job.columns[column.output].text:
        raise SpecError(
            f"heads.{name}: {node.feature}.{column.output} can't be compared with class names, since its encoder has "
            "no text tower for it; name another output, or give the encoder a text_encoder."
        )
    source = spec.sources[node.labels]
    if not isinstance(source, LabelsSource):
        raise SpecError(f"heads.{name}.labels: source {node.labels!r} is of kind {source.kind}, not labels.")
    labels, _ = label_names(node.labels, source, base)
    return publish_zero_shot(objects, name, node, column, job.model, labels, source.templates, program_version())


def tag_verdicts(heads: Mapping[str, HeadJob], verdicts: pl.DataFrame, before: Mapping[str, HeadEntry]) -> pl.DataFrame:
    """Return verdicts for features of predicted labels: those of their input rows, unless the head has changed.

    Args:
        heads: the jobs of these features.
        verdicts: the verdicts of the features with rows, from ``classify.classify``.
        before: the entries in the last release.
    """
    frames = [verdicts.clear()]
    for name, job in heads.items():
        mine = verdicts.filter(pl.col("feature") == job.inputs[0].feature).with_columns(pl.lit(name).alias("feature"))
        old = before.get(name)
        if old is None or old.config != job.config:
            reason = "" if old is None else describe_head_change(old, job)
            mine = changed_verdicts(mine, reason, new=old is None)
        frames.append(mine)
    return pl.concat(frames)


def changed_verdicts(verdicts: pl.DataFrame, reason: str, *, new: bool) -> pl.DataFrame:
    """Return verdicts of a feature computed from another one's rows, if all of it is new or computed again.

    Args:
        verdicts: the verdicts of the input feature.
        reason: the reason for computing it again.
        new: whether it was never computed.
    """
    changed = pl.col("verdict").is_in([UNCHANGED, MOVED, CONFIG_CHANGED])
    return verdicts.with_columns(
        pl.when(changed).then(pl.lit(NEW if new else CONFIG_CHANGED)).otherwise("verdict").alias("verdict"),
        pl.when(changed).then(pl.lit(reason)).otherwise("reason").alias("reason"),
    )


def describe_head_change(old: HeadEntry, job: HeadJob) -> str:
    """Return why all labels of a feature are predicted again."""
    if old.model != job.model:
        return f"head {job.head} was trained again"
    changed = [key for key in job.recipe if key != "model" and old.recipe.get(key) != job.recipe[key]]
    return f"{', '.join(changed)} changed"
