"""``cliploom train`` for a head of kind devise: from a feature and labels to vectors searchable by words."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
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
from cliploom.transforms.heads.ridge import fits_ridge
from cliploom.transforms.heads.sketches import sketch_of
from cliploom.transforms.heads.towers import Tower
from cliploom.transforms.heads.truths import classes_of, hot_rows, read_truths
from cliploom.transforms.heads.word_figures import BOTH, FOUND, SEEN, UNSEEN, NamedItems, word_figures
from cliploom.transforms.heads.word_hits import class_vectors
from cliploom.transforms.metrics.retrieval import RetrievalMetrics
from cliploom.transforms.store.object_store import ObjectStore

_MOST_LEARNED, _BLOCK = 4096, 4096
"""Maximum number of training items among which words of unseen labels are searched."""


@dataclass(frozen=True)
class DeviseData:
    """The data of a training of this kind, besides the head's node.

    Attributes:
        reading: the features and labels; the validation share of the items is held out.
        classes: all classes; ``unseen`` marks those excluded from training.
        vectors: the unit text vectors of the classes, float32 [classes, dim].
    """

    training: VectorTraining
    reading: Reading
    classes: tuple[HeadClass, ...]
    unseen: NDArray[np.bool_]
    vectors: NDArray[np.float32]


def prepare_devise(spec: Spec, base: Path, name: str, objects: ObjectStore, release: Release) -> DeviseData:
    """Find the feature, the labels and the text vectors of the classes.

    Raises:
        SpecError: the labels are unsuitable for training.
        StoreError: the release lacks the feature.
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
    """Return which classes are excluded from training."""
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
    """Train, measure, and write everything to publish into ``work/model``.

    Args:
        data: the preparation.
        objects: the store.
        work: the folder for the state.
        on_stage: a callback that receives progress messages.
        last: the current tower, measured on the same items for comparison.
    """
    training = data.training
    head = training.spec
    if not isinstance(head, DeviseSpec):
        raise TypeError(f"head {training.name} is of kind {head.kind}")
    readings = {TRAIN: data.reading}
    videos = gather(objects, training.release, readings, head.seed, work / "videos", on_stage)
    on_stage("loading TensorFlow")
    from cliploom.transforms.heads.devise import LabelledItems, learn_method, measure_words
    from cliploom.transforms.heads.tower_training import golden_rows

    began = time.perf_counter()
    hot = {
        split: hot_rows(held.labels, data.classes) if len(held) else np.zeros((0, len(data.classes)), np.bool_)
        for split, held in videos.items()
    }
    seen = ~data.unseen

    def of_seen(split: str) -> LabelledItems:
        places = np.flatnonzero(~hot[split][:, data.unseen].any(axis=1))
        return LabelledItems(videos[split].vectors, places, hot[split][places][:, seen])

    trained, held_out = of_seen(TRAIN), of_seen(VALIDATION)
    if not len(trained):
        raise SpecError(f"heads.{training.name}: no item is left to train on; label more items, or keep fewer back.")
    classes = data.vectors[seen]
    figures: dict[str, dict[str, RetrievalMetrics]] = {}
    made = {}
    width = int(trained.batch(np.zeros(1, np.int64))[0].shape[1])
    for method in methods_of(head, unseen=bool(data.unseen.any())):
        if method == "ridge" and head.method == "auto" and not fits_ridge(len(trained), width):
            on_stage(f"ridge is skipped: {len(trained)} items of {width} numbers are too many for a closed form")
            continue
        on_stage(f"training {method}")
        (work / method).mkdir(exist_ok=True)
        made[method] = learn_method(head, method, trained, held_out, classes, work / method, on_stage)
        items = _measured(videos, hot, made[method].tower, data.unseen, work / method / "measured.f32")
        figures[method] = word_figures(items, data.vectors, data.unseen, head.seed)
    chosen = head.method if head.method != "auto" else better_method(figures)
    state, tower, key = made[chosen].state, made[chosen].tower, made[chosen].key
    rows = np.array(videos[TRAIN].vectors[trained.places[:GOLDEN_ROWS]], np.float32)
    metrics = short_figures(figures[chosen]) or dict(state.epochs[state.best - 1].figures)
    for method in made:
        if method != chosen:
            metrics |= {f"{method}_{name}": value for name, value in short_figures(figures[method]).items()}
    # A model in another text space cannot be compared with this one.
    if last and len(held_out) and last[CLIP].apply(rows).shape[1] == classes.shape[1]:
        metrics[PREVIOUS] = measure_words(last[CLIP], held_out, classes, "seen")[key]
    counts = {
        "trained items": len(trained),
        "validation items": len(held_out),
        "unseen items": sum(int(each[:, data.unseen].any(axis=1).sum()) for each in hot.values()),
        "trained labels": int(seen.sum()),
        "unseen labels": int(data.unseen.sum()),
        "labels without a known word": int((~data.vectors.any(axis=1)).sum()),
    }
    towers = {CLIP: tower} | {method: each.tower for method, each in made.items() if method != chosen}
    return write_vector_head(
        training,
        work / "model",
        towers,
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
            "figures": {
                name if method == chosen else f"{method}: {name}": part.to_dict()
                for method in (chosen, *(other for other in made if other != chosen))
                for name, part in figures[method].items()
            },
            "labels": tuple(each.name for each, new in zip(data.classes, data.unseen, strict=True) if not new),
        },
    )


def methods_of(head: DeviseSpec, *, unseen: bool) -> tuple[str, ...]:
    """Return the methods to train: the requested one, and ConSE for comparison if labels were held out."""
    if head.method == "auto":
        return "head", "ridge", "conse"
    return tuple(dict.fromkeys([head.method, "conse"] if unseen else [head.method]))


def _measured(
    videos: Mapping[str, Videos],
    hot: Mapping[str, NDArray[np.bool_]],
    tower: Tower,
    unseen: NDArray[np.bool_],
    path: Path,
) -> NamedItems:
    """Return all held-out items, and some training items, mapped by the tower; in a file."""
    chosen: list[tuple[str, int, bool]] = []
    learned = 0
    for split, labels in hot.items():
        strange = np.asarray(labels[:, unseen].any(axis=1), np.bool_)
        for place in range(len(labels)):
            known = split == TRAIN and not strange[place]
            learned += known
            if labels[place].any() and (not known or learned <= _MOST_LEARNED):
                chosen.append((split, place, known))
    vectors = np.memmap(path, np.float32, "w+", shape=(max(1, len(chosen)), tower.dim))
    at = 0
    for split in hot:
        places = np.array([place for name, place, _ in chosen if name == split], np.int64)
        for begin in range(0, len(places), _BLOCK):
            some = places[begin : begin + _BLOCK]
            vectors[at : at + len(some)] = tower.apply(np.array(videos[split].vectors[some], np.float32))
            at += len(some)
    return NamedItems(
        vectors=vectors[: len(chosen)],
        labels=[tuple(np.flatnonzero(hot[split][place]).tolist()) for split, place, _ in chosen],
        keys=np.arange(len(chosen), dtype=np.uint64),
        learned=np.array([known for _, _, known in chosen], np.bool_),
    )


def short_figures(parts: Mapping[str, RetrievalMetrics]) -> dict[str, float]:
    """Return the values of the parts under short names, such as ``unseen_hit@1`` and ``unseen_mAP``."""
    short = {SEEN: "seen", UNSEEN: "unseen", BOTH: "both"}
    found = {
        f"{short[name]}_{key}": round(figure.value, 6)
        for name, part in parts.items()
        if name in short
        for key, figure in part.figures.items()
    }
    if FOUND in parts:
        found["unseen_mAP"] = round(parts[FOUND].figures["mAP"].value, 6)
    return found


def better_method(figures: Mapping[str, Mapping[str, RetrievalMetrics]]) -> str:
    """Return the method by which words of unseen labels rank their items best; without them, the best on seen ones.

    A single unseen label is always the best among the unseen ones, so the ranking of all items counts.
    """

    def quality(method: str) -> float:
        found = figures[method]
        if FOUND in found:
            return found[FOUND].figures["mAP"].value
        return sum(found[SEEN].figures[f"hit@{k}"].value for k in (1, 5)) if SEEN in found else 0.0

    return max(figures, key=quality)
