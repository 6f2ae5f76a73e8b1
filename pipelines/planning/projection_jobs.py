"""Plans features that trained heads project from the rows of other features."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from cliploom.pipelines.planning.head_jobs import changed_verdicts
from cliploom.schemas.digests import SHORT, digest_of
from cliploom.schemas.head_references import head_encoder, projected_input
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.release import Release
from cliploom.schemas.spec import Spec
from cliploom.schemas.vector_heads import ProjectionJob
from cliploom.transforms.heads.published import current_model
from cliploom.transforms.heads.towers import is_vector_head, read_vector_card
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work.models import MODELS, local_model, model_cache, upload_model

KEPT_KEYS = ("sample", "window", "stereo", "key")
"""Keys of the base feature's recipe that determine the times of its rows, which projected rows share."""


def projection_jobs(
    spec: Spec, jobs: Mapping[str, FeatureJob], recipes: Mapping[str, Mapping[str, object]], objects: ObjectStore
) -> tuple[dict[str, ProjectionJob], tuple[str, ...]]:
    """Return the jobs of the features that heads make, and messages about those that have to wait.

    Args:
        spec: the checked spec.
        jobs: jobs of the features with rows of their own.
        recipes: inputs of the config digest, by feature.
        objects: the store, which contains the trained heads.
    """
    made: dict[str, ProjectionJob] = {}
    notes = []
    for name, feature in spec.projections.items():
        node = head_encoder(spec.encoders[str(feature.encoder)])
        model = current_model(objects, node.head)
        if model is None:
            notes.append(f"{name} waits: head {node.head!r} is not trained yet, see `cliploom train`")
            continue
        if not is_vector_head(objects, model):
            notes.append(f"{name} waits: head {node.head!r} was trained as another kind, see `cliploom train`")
            continue
        side, given = projected_input(spec, feature)
        base = jobs[given.feature]
        output = given.output or next(iter(base.outputs))
        entry = base.entry_of(output)
        trained = read_vector_card(objects, model).inputs.get(side)
        # Inputs named by the encoder are trusted to be compatible; the head's own inputs must be unchanged.
        was = trained and (trained.dim, "" if node.inputs else trained.space)
        if was != (entry.dim, "" if node.inputs else entry.space):
            notes.append(f"{name} waits: head {node.head!r} was trained on other vectors, see `cliploom train`")
            continue
        made[name] = _job(objects, name, feature.source, node.head, model, side, base, output, recipes[base.name])
    return made, tuple(notes)


def _job(
    objects: ObjectStore,
    name: str,
    source: str,
    head: str,
    trained: str,
    side: str,
    base: FeatureJob,
    output: str,
    recipe: Mapping[str, object],
) -> ProjectionJob:
    from cliploom.transforms.heads.projection import prepare_projection  # imports OpenVINO, which is slow

    card = read_vector_card(objects, trained)
    if objects.root is not None:
        models = objects.root / MODELS
    else:
        models = model_cache()
        if card.text_model:
            local_model(objects, card.text_model)
    prepared = prepare_projection(objects, trained, side, models)
    if objects.root is None:
        upload_model(objects, models / prepared.digest)
    made_from = {
        "head": trained,
        "side": side,
        "model": prepared.digest,
        "input": [base.name, output, base.config],
    } | {key: recipe[key] for key in KEPT_KEYS if key in recipe}
    config = digest_of({key: value for key, value in made_from.items() if key != "head"})
    return ProjectionJob(
        name=name,
        source=source,
        head=head,
        trained=trained,
        base=base.name,
        output=output,
        dim=base.outputs[output],
        config=config,
        table=f"features/{name}/{config[:SHORT]}",
        model=f"{MODELS}/{prepared.digest}",
        card=prepared,
        recipe=made_from,
    )


def projection_verdicts(
    jobs: Mapping[str, ProjectionJob], verdicts: pl.DataFrame, previous: Release | None
) -> pl.DataFrame:
    """Return the verdicts of features that heads make: those of their input rows, or that the head has changed."""
    frames = [verdicts.clear()]
    for name, job in jobs.items():
        mine = verdicts.filter(pl.col("feature") == job.base).with_columns(pl.lit(name).alias("feature"))
        old = previous.features.get(name) if previous is not None else None
        if old is None or old.config != job.config:
            reason = "" if old is None else _change(old.recipe, job)
            mine = changed_verdicts(mine, reason, new=old is None)
        frames.append(mine)
    return pl.concat(frames)


def _change(old: Mapping[str, object], job: ProjectionJob) -> str:
    """Return why all rows of a feature are projected again."""
    if old.get("head") != job.trained:
        return f"head {job.head} was trained again"
    if old.get("input") != job.recipe["input"]:
        return f"{job.base} changed"
    return "the projection's revision changed"
