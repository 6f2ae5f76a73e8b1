"""``cliploom train`` of a head of kind devise: from a feature and labels to vectors that words find."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliploom.pipelines.planning.compile_jobs import prepared_text_encoder
from cliploom.pipelines.planning.head_jobs import input_columns
from cliploom.pipelines.training.vector_training import (
    GOLDEN_ROWS,
    PREVIOUS,
    VectorTraining,
    items_read,
    tower_input,
    write_vector_head,
)
from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.heads import HeadClass
from cliploom.schemas.release import Release
from cliploom.schemas.spec import Spec
from cliploom.schemas.vector_heads import CLIP, TRAIN, VALIDATION, DeviseSpec, VectorHeadCard
from cliploom.transforms.heads.dataset import Reading, Videos, gather, reading_facts, split_of_video
from cliploom.transforms.heads.pooling import input_groups
from cliploom.transforms.heads.sketches import sketch_of
from cliploom.transforms.heads.towers import Tower
from cliploom.transforms.heads.truths import classes_of, hot_rows, read_truths
from cliploom.transforms.heads.word_hits import class_vectors
from cliploom.transforms.store.object_store import ObjectStore


@dataclass(frozen=True)
class DeviseData:
    """What a training of this kind reads beside the head's node.

    Attributes:
        reading: features and labels; the validation share of the items is held out.
        classes: all; ``unseen`` says which of them are kept from training.
        vectors: unit text vectors, float32 [classes, dim].
    """

    training: VectorTraining
    reading: Reading
    classes: tuple[HeadClass, ...]
    unseen: NDArray[np.bool_]
    vectors: NDArray[np.float32]


def prepare_devise(spec: Spec, base: Path, name: str, objects: ObjectStore, release: Release) -> DeviseData:
    """Find the feature, the labels and the text vectors of the classes.

    Raises:
        SpecError: for labels that can't be trained on.
        StoreError: when the release lacks the feature.
    """
    head = spec.heads[name]
    if not isinstance(head, DeviseSpec):
        raise TypeError(f"head {name} is of kind {head.kind}")
    given = head.inputs[0]
    if given.feature not in release.features:
        raise StoreError(f"The store has no feature {given.feature!r}, which the head reads; `cliploom run SPEC`.")
    inputs = {CLIP: tower_input(release, given.feature, given.output)}
    columns = input_columns(
        [given.model_copy(update={"output": inputs[CLIP].output})],
        {feature: entry.columns for feature, entry in release.features.items()},
    )
    truths = read_truths(objects, release, inputs[CLIP].source)
    classes = classes_of([truths], {})
    unseen = _unseen(name, head, classes)
    model, text = prepared_text_encoder(spec, base, head.text_encoder, objects)
    reading = Reading(columns, truths, head.validation)
    parts = [p for group in input_groups(objects, release, columns) for each in group.values() for p in each.parts]
    labels = sorted([uid, *labels] for uid, labels in truths.given.items())
    items = [(*item, *map(str, truths.given.get(item[1], ()))) for item in items_read(objects, release, inputs)]
    training = VectorTraining(
        name=name,
        spec=head,
        release=release,
        inputs=inputs,
        made_from={
            "reading": [*reading_facts(release, parts, columns), labels],
            "classes": [[each.label, each.name] for each in classes],
        },
        sketch=sketch_of(items),
        text_model=model,
        space=text.output.space,
    )
    vectors = class_vectors([each.name for each in classes], head.prompt, text.encode)
    if not vectors.any():
        raise SpecError(
            f"heads.{name}.text_encoder: {head.text_encoder!r} knows no word of any label "
            f"(such as {classes[0].name!r}); "
            "name another encoder, or labels by words."
        )
    return DeviseData(training, reading, classes, unseen, vectors)


def _unseen(name: str, head: DeviseSpec, classes: tuple[HeadClass, ...]) -> NDArray[np.bool_]:
    """Which classes are kept from training."""
    names = [each.name for each in classes]
    if head.unseen is not None:
        missing = [each for each in head.unseen if each not in names]
        if missing:
            from cliploom.schemas.errors import nearest

            raise SpecError(f"heads.{name}.unseen: no item has the label {missing[0]!r}{nearest(missing[0], names)}")
        found = np.array([each in head.unseen for each in names], np.bool_)
    else:
        found = np.array([split_of_video(each, head.held_out, head.seed) == VALIDATION for each in names], np.bool_)
    if int((~found).sum()) < 2:
        raise SpecError(
            f"heads.{name}: {int((~found).sum())} of {len(names)} labels are left to train on; label more items, or "
            "keep fewer labels back (holdout, unseen)."
        )
    return found


def learn_devise(
    data: DeviseData,
    objects: ObjectStore,
    work: Path,
    on_stage: Callable[[str], None],
    last: dict[str, Tower] | None = None,
) -> VectorHeadCard:
    """Train, measure, and write everything that is published into ``work/model``.

    Args:
        data: what was decided before.
        objects: the store.
        work: folder for the state.
        on_stage: called with what is being done.
        last: the tower in use, measured on the same items for comparison.
    """
    training = data.training
    head = training.spec
    if not isinstance(head, DeviseSpec):
        raise TypeError(f"head {training.name} is of kind {head.kind}")
    readings = {TRAIN: data.reading}
    videos = gather(objects, training.release, readings, head.seed, work / "videos", on_stage)
    on_stage("loading TensorFlow")
    from cliploom.transforms.heads.devise import DeviseLearner, LabelledItems, measure_words, tower_of
    from cliploom.transforms.heads.tower_training import golden_rows, train_epochs

    began = time.perf_counter()

    def items(split: str, *, unseen: bool) -> LabelledItems:
        held: Videos = videos[split]
        labels = hot_rows(held.labels, data.classes) if len(held) else np.zeros((0, len(data.classes)), np.bool_)
        places = np.flatnonzero(labels[:, data.unseen].any(axis=1) == unseen)
        return LabelledItems(held.vectors, places, labels[places])

    def narrowed(found: LabelledItems, columns: NDArray[np.bool_]) -> LabelledItems:
        return LabelledItems(found.vectors, found.places, found.labels[:, columns])

    seen = ~data.unseen
    trained, held_out = items(TRAIN, unseen=False), items(VALIDATION, unseen=False)
    strangers = [items(split, unseen=True) for split in (TRAIN, VALIDATION)]
    if not len(trained):
        raise SpecError(f"heads.{training.name}: no item is left to train on; label more items, or keep fewer back.")
    classes = data.vectors[seen]
    methods = ("head", "conse") if head.method == "auto" or data.unseen.any() else (head.method,)
    figures: dict[str, dict[str, float]] = {}
    made = {}
    for method in methods:
        on_stage(f"training {method}")
        learner = DeviseLearner(head, method, narrowed(trained, seen), narrowed(held_out, seen), classes)
        (work / method).mkdir(exist_ok=True)
        state = train_epochs(learner, head.epochs, head.patience, work / method, on_stage)
        tower = tower_of(state.weights, method, classes)
        made[method] = state, tower, learner.key
        figures[method] = {}
        if len(held_out):
            figures[method] |= measure_words(tower, narrowed(held_out, seen), classes, "seen")
        some = [each for each in strangers if len(each)]
        if some:
            others = [
                measure_words(tower, narrowed(each, data.unseen), data.vectors[data.unseen], "unseen") for each in some
            ]
            figures[method] |= _weighted(others, [len(each) for each in some])
        both = [each for each in (held_out, *strangers) if len(each)]
        if both:
            all_of_them = [measure_words(tower, each, data.vectors, "both") for each in both]
            figures[method] |= _weighted(all_of_them, [len(each) for each in both])
    chosen = head.method if head.method != "auto" else better_method(figures)
    state, tower, key = made[chosen]
    rows = np.array(videos[TRAIN].vectors[trained.places[:GOLDEN_ROWS]], np.float32)
    metrics = dict(figures[chosen]) or dict(state.epochs[state.best - 1].figures)
    for method in methods:
        if method != chosen:
            metrics |= {f"{method}_{figure}": value for figure, value in figures[method].items()}
    # A model of another text space can't be compared with this one.
    if last and len(held_out) and last[CLIP].apply(rows).shape[1] == classes.shape[1]:
        metrics[PREVIOUS] = measure_words(last[CLIP], narrowed(held_out, seen), classes, "seen")[key]
    counts = {
        "trained items": len(trained),
        "validation items": len(held_out),
        "unseen items": sum(map(len, strangers)),
        "trained labels": int(seen.sum()),
        "unseen labels": int(data.unseen.sum()),
        "labels without a known word": int((~data.vectors.any(axis=1)).sum()),
    }
    return write_vector_head(
        training,
        work / "model",
        {CLIP: tower},
        {CLIP: golden_rows(tower, rows)},
        work / chosen / "logs",
        {
            "counts": counts,
            "metrics": metrics,
            "key": key,
            "epochs": tuple(state.epochs),
            "best": state.best,
            "method": chosen,
            "seconds": round(time.perf_counter() - began, 1),
        },
    )


def better_method(figures: dict[str, dict[str, float]]) -> str:
    """The method that finds unseen labels better: by hit@1 and hit@5 together, else among trained ones."""

    def quality(method: str) -> float:
        found = figures[method]
        for name in ("unseen", "seen"):
            if f"{name}_hit@1" in found:
                return found[f"{name}_hit@1"] + found[f"{name}_hit@5"]
        return 0.0

    return max(("head", "conse"), key=quality)


def _weighted(figures: list[dict[str, float]], sizes: list[int]) -> dict[str, float]:
    """Means of figures, each as heavy as the items that it is of."""
    total = sum(sizes)
    return {
        name: round(sum(each[name] * size for each, size in zip(figures, sizes, strict=True)) / total, 6)
        for name in figures[0]
    }
