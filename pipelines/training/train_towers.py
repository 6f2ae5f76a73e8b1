"""``cliploom train`` for a head of kind two_tower: from the pairs of a release to two towers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cliploom.pipelines.training.vector_training import (
    GOLDEN_ROWS,
    PREVIOUS,
    VectorTraining,
    items_read,
    tower_input,
    write_vector_head,
)
from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.exports import PairsExport, SplitSpec
from cliploom.schemas.head_references import tower_inputs
from cliploom.schemas.release import Release
from cliploom.schemas.spec import Spec
from cliploom.schemas.vector_heads import CLIP, TEXT, TRAIN, VALIDATION, TwoTowerSpec, VectorHeadCard
from cliploom.transforms.heads.recall import KEY, recall_metrics
from cliploom.transforms.heads.sketches import sketch_of
from cliploom.transforms.heads.towers import Tower
from cliploom.transforms.narrations.pair_files import PairsTask
from cliploom.transforms.narrations.pairs_export import PairsExporter, with_stored_lists
from cliploom.transforms.pair_training.pair_data import PairSet, exported_pairs, joined_pairs
from cliploom.transforms.store.object_store import ObjectStore


def prepare_towers(spec: Spec, base: Path, name: str, objects: ObjectStore, release: Release) -> VectorTraining:
    """Find the features, the pairs and the text encoder.

    Raises:
        StoreError: the release lacks a feature or the export.
    """
    head = spec.heads[name]
    if not isinstance(head, TwoTowerSpec):
        raise TypeError(f"head {name} is of kind {head.kind}")
    inputs = {}
    for side, given in zip((CLIP, TEXT), tower_inputs(spec, head), strict=True):
        if given.feature not in release.features:
            raise StoreError(f"The store has no feature {given.feature!r}, which the head reads; `cliploom run SPEC`.")
        inputs[side] = tower_input(release, given.feature, given.output)
    if head.pairs is not None:
        entry = release.exports.get(head.pairs)
        if entry is None:
            raise StoreError(
                f"Release {release.release} has no export {head.pairs!r}, which the head reads; `cliploom run SPEC` "
                "makes it."
            )
        made_from: object = entry.recipe
    else:
        made_from = [task.path for task in _tasks(spec, base, name, head, objects, release)]
    text = inputs[TEXT]
    asked = bool(text.model) and release.features[text.feature].outputs[text.output].text
    return VectorTraining(
        name=name,
        spec=head,
        release=release,
        inputs=inputs,
        made_from={"pairs": made_from},
        sketch=sketch_of(items_read(objects, release, inputs)),
        text_model=text.model if asked else "",
    )


def _tasks(
    spec: Spec, base: Path, name: str, head: TwoTowerSpec, objects: ObjectStore, release: Release
) -> list[PairsTask]:
    """Return the tasks by which an export of pairs would join the features that the head names itself."""
    clip, text = tower_inputs(spec, head)
    export = PairsExport(
        kind="pairs",
        feature=clip.feature,
        text=text.feature,
        output=clip.output,
        text_output=text.output,
        splits=head.splits or SplitSpec.model_validate({"shares": {TRAIN: "100%"}}),
        format="hdf5",
    ).model_copy(update={"around": head.around, "keep": head.keep})
    stored = with_stored_lists(export, base, objects, f"heads.{name}")
    return PairsExporter(None, release, objects, f"head-{name}", stored).parts()


def pairs_of(
    training: VectorTraining,
    spec: Spec,
    base: Path,
    objects: ObjectStore,
    folder: Path,
    on_stage: Callable[[str], None],
) -> dict[str, PairSet]:
    """Return the pairs for training and for validation.

    Args:
        training: the preparation.
        spec: the whole spec.
        base: the folder that its relative paths are resolved against.
        objects: the store.
        folder: the folder for joined pairs of features that the head names itself.
        on_stage: a callback that receives progress messages.

    Raises:
        SpecError: there are no pairs for training or for validation.
    """
    head = training.spec
    if not isinstance(head, TwoTowerSpec):
        raise TypeError(f"head {training.name} is of kind {head.kind}")
    if head.pairs is not None:
        found = exported_pairs(objects, training.release, head)
    else:
        tasks: dict[str, list[PairsTask]] = {}
        for task in _tasks(spec, base, training.name, head, objects, training.release):
            tasks.setdefault(task.split, []).append(task)
        found = joined_pairs(tasks, objects, head, folder, on_stage)
    counts = {role: len(found[role]) if role in found else 0 for role in (TRAIN, VALIDATION)}
    for role, count in counts.items():
        if count < 2:
            raise SpecError(
                f"heads.{training.name}: {count} pairs are left for {role} ({counts[TRAIN]} for training, "
                f"{counts[VALIDATION]} for validation); narrate more videos, or change holdout, seed or the splits."
            )
    return {TRAIN: found[TRAIN], VALIDATION: found[VALIDATION].chosen(head.most_validation, head.seed)}


def learn_towers(
    training: VectorTraining,
    pairs: dict[str, PairSet],
    work: Path,
    on_stage: Callable[[str], None],
    last: dict[str, Tower] | None = None,
) -> VectorHeadCard:
    """Train, measure, and write everything to publish into ``work/model``.

    Args:
        training: the preparation.
        pairs: the pairs for training and for validation.
        work: the folder for the state.
        on_stage: a callback that receives progress messages.
        last: the current towers, measured on the same pairs for comparison.
    """
    head = training.spec
    if not isinstance(head, TwoTowerSpec):
        raise TypeError(f"head {training.name} is of kind {head.kind}")
    on_stage("loading TensorFlow")
    from cliploom.transforms.heads.tower_training import golden_rows, train_epochs
    from cliploom.transforms.pair_training.two_tower import TwoTowerLearner, measure_towers, projected, towers_of

    began = time.perf_counter()
    learner = TwoTowerLearner(head, pairs[TRAIN], pairs[VALIDATION])
    state = train_epochs(learner, head.epochs, head.patience, work, on_stage)
    towers = towers_of(state.weights, head)
    some = pairs[VALIDATION].batch(np.arange(min(GOLDEN_ROWS, len(pairs[VALIDATION])), dtype=np.int64))
    golden = {side: golden_rows(towers[side], rows) for side, rows in zip((CLIP, TEXT), some, strict=True)}
    counts = {f"{role} pairs": len(each) for role, each in pairs.items()}
    counts |= {f"{role} videos": len(np.unique(each.videos)) for role, each in pairs.items()}
    return write_vector_head(
        training,
        work / "model",
        towers,
        golden,
        work / "logs",
        {
            "counts": counts,
            "metrics": state.epochs[state.best - 1].figures
            | ({PREVIOUS: measure_towers(last, pairs[VALIDATION])[KEY]} if last else {})
            | {
                "scale": round(float(state.weights["scale"][0]), 6),
                "chance@10": round(min(1.0, 10 / len(pairs[VALIDATION])), 6),
            },
            "key": KEY,
            "epochs": tuple(state.epochs),
            "best": state.best,
            "figures": {
                name: part.to_dict()
                for name, part in recall_metrics(
                    *projected(towers, pairs[VALIDATION]), pairs[VALIDATION].videos, head.seed
                ).items()
            },
            "seconds": round(time.perf_counter() - began, 1),
        },
    )
