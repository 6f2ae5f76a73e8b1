"""``cliploom train``: trains a head on a release's features and labels, and publishes it in the store.

Packages that only training needs (Keras, TensorFlow) are imported by ``train_head``, after all checks.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cliploom.pipelines.launching.runner import run_graph
from cliploom.pipelines.launching.target import open_store
from cliploom.pipelines.planning.check import check_encoders
from cliploom.pipelines.planning.head_jobs import input_columns
from cliploom.pipelines.training.train_devise import DeviseData, learn_devise, prepare_devise
from cliploom.pipelines.training.train_towers import learn_towers, pairs_of, prepare_towers
from cliploom.pipelines.training.vector_training import PREVIOUS, VectorTraining
from cliploom.pipelines.version import program_version
from cliploom.schemas.digests import SHORT, digest_of
from cliploom.schemas.errors import LimitError, MissingExtraError, SpecError, StoreError, UnknownNameError, nearest
from cliploom.schemas.heads import HeadCard, HeadClass, HeadSpec, ZeroShotSpec
from cliploom.schemas.models import CARD_FILE
from cliploom.schemas.release import Release
from cliploom.schemas.spec import Spec, Target
from cliploom.schemas.vector_heads import DeviseSpec, VectorHeadCard
from cliploom.transforms.heads.dataset import (
    REVISION,
    TEXTS_FILE,
    TRAIN,
    VALIDATION,
    Reading,
    Videos,
    gather,
    reading_facts,
)
from cliploom.transforms.heads.plain import STEPS_FILE, PlainHead, read_head, transformed, write_plain
from cliploom.transforms.heads.pooling import input_groups
from cliploom.transforms.heads.published import (
    current_model,
    head_folder,
    is_published,
    put_head_files,
    use_head,
)
from cliploom.transforms.heads.sketches import sketch_of
from cliploom.transforms.heads.towers import Tower, is_vector_head, read_towers, read_vector_card
from cliploom.transforms.heads.transform import LearnedStep, read_steps, steps_of_inputs, write_steps
from cliploom.transforms.heads.truths import classes_of, hot_rows, read_truths
from cliploom.transforms.metrics.average_precision import AveragePrecisionAccumulator
from cliploom.transforms.metrics.labels import LabelAccumulator
from cliploom.transforms.metrics.retrieval import HIT_KS, RankAccumulator, RetrievalMetrics, ranked_labels
from cliploom.transforms.store.local_folder import private_folder
from cliploom.transforms.store.lock import store_lock
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import contents_of
from cliploom.transforms.tfrecords.vocabulary import LabelClass

SAVED_MODEL, TRANSFORM = "saved_model", "transform"
_LIBRARIES = ("keras", "numpy", "tensorflow")
_BATCH = 1024


@dataclass(frozen=True)
class Training:
    """All decisions made before the training.

    Attributes:
        digest: the digest of the head, the vectors and the labels; names the result.
        readings: the origin of the videos, by split.
        sources: the sources by split.
        counts: the training videos of each class, from the vocabulary; None to count the labels.
        sketch: the sketch of the data, see ``cliploom.transforms.heads.sketches``.
    """

    name: str
    digest: str
    spec: HeadSpec
    release: Release
    readings: dict[str, Reading]
    sources: dict[str, str]
    classes: tuple[HeadClass, ...]
    counts: tuple[int, ...] | None = None
    sketch: tuple[int, tuple[int, ...]] = (0, ())

    @property
    def training(self) -> Training:
        """This object; a common attribute of all kinds of preparations."""
        return self

    @property
    def model(self) -> str:
        """The folder of the head in the store."""
        return f"{head_folder(self.name)}/{self.digest}"


@dataclass(frozen=True)
class Trained:
    """A trained head in the store; ``fresh`` if it was trained now and did not exist before."""

    store: str
    model: str
    card: HeadCard | VectorHeadCard
    fresh: bool


def only_head(spec: Spec) -> str:
    """Name of the one head of a spec that is trained.

    Raises:
        SpecError: when it has none or several.
    """
    names = [name for name, head in spec.heads.items() if not isinstance(head, ZeroShotSpec)]
    if len(names) == 1:
        return names[0]
    if names:
        raise SpecError(f"The spec has the heads {', '.join(sorted(names))}; choose one with --head.")
    raise SpecError("The spec has no head to train; docs/heads.md shows how to write one.")


def train_head(
    spec: Spec, base: Path, name: str, on_stage: Callable[[str], None], *, accept_worse: bool = False
) -> Trained:
    """Train a head on the newest release, and make it the current one.

    The same head on the same data is not trained again. An interrupted training resumes after its last epoch.

    Args:
        spec: the checked spec.
        base: the folder that its relative paths are resolved against.
        name: the name of the head.
        on_stage: a callback that receives progress messages.
        accept_worse: whether to use the model even if it is worse than the previous one by more than
            ``retrain.margin``.

    Raises:
        LimitError: the model is worse and that is not accepted; the previous one stays in use.
        SpecError: the head is unknown, or the data are unsuitable for training.
        MissingExtraError: TensorFlow is not installed.
        StoreError: the store has no release with the features, or another process is training this head.
    """
    if name not in spec.heads:
        raise UnknownNameError(f"There is no head {name!r}{nearest(name, spec.heads)}")
    if isinstance(spec.heads[name], ZeroShotSpec):
        raise SpecError(f"Head {name!r} is of kind zero_shot and needs no training; `cliploom run SPEC` applies it.")
    check_encoders(spec, base)
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtraError("tensorflow", "cliploom train")
    objects = open_store(spec, base)
    if not isinstance(spec.heads[name], HeadSpec):
        return train_vector_head(spec, base, name, objects, on_stage, accept_worse=accept_worse)
    training = prepare_training(spec, base, name, objects)
    if is_published(objects, training.model):
        card = read_head(objects, training.model).card
        take_over(objects, training, card, accept_worse=accept_worse)
        return Trained(objects.uri, training.model, card, fresh=False)
    work = working_folder(objects, name, training.digest)
    with store_lock(ObjectStore(work), f"cliploom train --head {name}"):
        on_stage(f"reading release {training.release.release}")
        videos = gather(objects, training.release, training.readings, training.spec.seed, work / "videos", on_stage)
        check_videos(training, videos)
        card = learn(training, videos, work, on_stage, last_head(objects, training))
        on_stage("publishing")
        put_head_files(objects, work / "model", training.model)
    shutil.rmtree(work, ignore_errors=True)
    take_over(objects, training, card, accept_worse=accept_worse)
    return Trained(objects.uri, training.model, card, fresh=True)


def train_vector_head(
    spec: Spec,
    base: Path,
    name: str,
    objects: ObjectStore,
    on_stage: Callable[[str], None],
    *,
    accept_worse: bool = False,
) -> Trained:
    """Train a head that returns vectors; see ``train_head``."""
    prepared = prepare_vectors(spec, base, name, objects)
    training = prepared.training
    if is_published(objects, training.model):
        card = read_vector_card(objects, training.model)
        take_over(objects, training, card, accept_worse=accept_worse)
        return Trained(objects.uri, training.model, card, fresh=False)
    work = working_folder(objects, name, training.digest)
    with store_lock(ObjectStore(work), f"cliploom train --head {name}"):
        card = learn_vectors(prepared, spec, base, objects, work, on_stage)
        on_stage("publishing")
        put_head_files(objects, work / "model", training.model)
    shutil.rmtree(work, ignore_errors=True)
    take_over(objects, training, card, accept_worse=accept_worse)
    return Trained(objects.uri, training.model, card, fresh=True)


def take_over(
    objects: ObjectStore, training: Training | VectorTraining, card: HeadCard | VectorHeadCard, *, accept_worse: bool
) -> None:
    """Make a published head the current one, unless it is worse than the previous one by more than the spec allows.

    Raises:
        LimitError: it is worse; the message has both figures and the next steps.
    """
    retrain, was, now = training.spec.retrain, card.metrics.get(PREVIOUS), card.metrics.get(card.key)
    in_use = current_model(objects, training.name)
    replaces = in_use is not None and in_use != training.model
    judged = retrain is not None and not accept_worse and replaces
    if judged and retrain is not None and was is not None and now is not None and was - now > retrain.margin:
        raise LimitError(
            f"Head {training.name} became worse: {card.key} {now:.4f}, the previous model has {was:.4f} on the same "
            f"data, more than retrain.margin ({retrain.margin:g}) allows. The previous model stays in use. Check the "
            "new data, or use the new model: --accept-worse."
        )
    use_head(objects, training.name, training.digest)


def prepare_vectors(spec: Spec, base: Path, name: str, objects: ObjectStore) -> VectorTraining | DeviseData:
    """Prepare the training of a head that returns vectors."""
    release = read_releases(objects).latest
    if release is None:
        raise StoreError(f"{objects.uri} has no release to train on; create one with `cliploom run SPEC`.")
    if isinstance(spec.heads[name], DeviseSpec):
        return prepare_devise(spec, base, name, objects, release)
    return prepare_towers(spec, base, name, objects, release)


def learn_vectors(
    training: VectorTraining | DeviseData,
    spec: Spec,
    base: Path,
    objects: ObjectStore,
    work: Path,
    on_stage: Callable[[str], None],
) -> VectorHeadCard:
    """Train, measure, and write everything to publish into ``work/model``."""
    if isinstance(training, DeviseData):
        on_stage(f"reading release {training.training.release.release}")
        return learn_devise(training, objects, work, on_stage, last_towers(objects, training.training))
    on_stage(f"reading release {training.release.release}")
    pairs = pairs_of(training, spec, base, objects, work / "pairs", on_stage)
    return learn_towers(training, pairs, work, on_stage, last_towers(objects, training))


def last_towers(objects: ObjectStore, training: VectorTraining) -> dict[str, Tower] | None:
    """Return the current towers if they have the same input, to measure them on the same data."""
    model = current_model(objects, training.name)
    if model is None or not is_vector_head(objects, model):
        return None
    card, towers = read_towers(objects, model)
    same = card.kind == training.spec.kind and card.inputs.keys() == training.inputs.keys()
    if not same or any(card.inputs[side].space != each.space for side, each in training.inputs.items()):
        return None
    return towers


def last_head(objects: ObjectStore, training: Training) -> PlainHead | None:
    """Return the current logistic head if it has the same input, to measure it on the same data."""
    model = current_model(objects, training.name)
    if model is None or is_vector_head(objects, model):
        return None
    found = read_head(objects, model)
    inputs = training.readings[TRAIN].inputs
    if found.card.zero_shot is not None or [(each.dim, each.space) for each in found.card.inputs] != [
        (each.dim, each.space) for each in inputs
    ]:
        return None
    return found


def prepare_training(spec: Spec, base: Path, name: str, objects: ObjectStore) -> Training:
    """Find the release, the inputs, the labels and the classes."""
    head = spec.heads[name]
    if not isinstance(head, HeadSpec):
        raise TypeError(f"head {name} is of kind {head.kind}")
    release = read_releases(objects).latest
    if release is None:
        raise StoreError(f"{objects.uri} has no release to train on; create one with `cliploom run SPEC`.")
    nodes = {TRAIN: head.inputs} | ({VALIDATION: head.validation} if head.validation else {})
    outputs = {feature: entry.columns for feature, entry in release.features.items()}
    columns = {split: input_columns(inputs, outputs) for split, inputs in nodes.items()}
    dims = {split: [each.dim for each in found] for split, found in columns.items()}
    if dims.get(VALIDATION, dims[TRAIN]) != dims[TRAIN]:
        raise SpecError(
            f"heads.{name}.validation: widths {dims[VALIDATION]} are not those of the inputs, {dims[TRAIN]}."
        )
    steps_of_inputs(head.transform.steps, columns[TRAIN], f"heads.{name}.transform.steps")
    sources = {split: release.features[found[0].feature].source for split, found in columns.items()}
    truths = {split: read_truths(objects, release, source) for split, source in sources.items()}
    classes = classes_of(list(truths.values()), vocabulary_of(spec, base, sources))
    readings = {
        split: Reading(columns[split], truths[split], head.held_out if split == TRAIN else 0.0) for split in nodes
    }
    counts = vocabulary_counts(spec, base, name, sources, classes) if head.class_weights == "vocabulary" else None
    digest = digest_of(
        {
            "revision": REVISION,
            "head": head.recipe,
            "classes": [asdict(each) for each in classes],
            "readings": [reading_recipe(objects, release, readings[split]) for split in sorted(readings)],
        }
        | ({} if counts is None else {"counts": list(counts)})
    )
    sketch = sketch_of(labelled_items(objects, release, readings))
    return Training(name, digest, head, release, readings, sources, classes, counts, sketch)


def labelled_items(objects: ObjectStore, release: Release, readings: Mapping[str, Reading]) -> list[tuple[str, ...]]:
    """Return split, feature, uid, digest and labels of all items that a training reads."""
    found: list[tuple[str, ...]] = []
    for split, reading in readings.items():
        for each in reading.inputs:
            contents = contents_of(objects, release, each.feature, ["uid", "digest", "rows"]).filter(pl.col("rows") > 0)
            found += [
                (split, each.feature, uid, digest, *map(str, reading.truths.given.get(uid, ())))
                for uid, digest in contents.select("uid", "digest").unique().iter_rows()
            ]
    return found


def reading_recipe(objects: ObjectStore, release: Release, reading: Reading) -> list[object]:
    """Return what a split depends on in the store: columns, configs, parts, labels."""
    groups = input_groups(objects, release, reading.inputs)
    parts = [part for group in groups for each in group.values() for part in each.parts]
    labels = digest_of([[uid, *labels] for uid, labels in sorted(reading.truths.given.items())])
    return [*reading_facts(release, parts, reading.inputs), labels]


def vocabulary_of(spec: Spec, base: Path, sources: Mapping[str, str]) -> dict[int, str]:
    """Return the classes in the training source's vocabulary, including those without a video."""
    return {index: each.title for index, each in _vocabulary(spec, base, sources).items()}


def _vocabulary(spec: Spec, base: Path, sources: Mapping[str, str]) -> Mapping[int, LabelClass]:
    from cliploom.transforms.tfrecords.settings import read_vocabulary_file

    source = spec.sources[sources[TRAIN]]
    vocabulary = getattr(source, "vocabulary", None)
    if vocabulary is None:
        return {}
    return read_vocabulary_file(vocabulary, base, f"sources.{sources[TRAIN]}").classes


def vocabulary_counts(
    spec: Spec, base: Path, name: str, sources: Mapping[str, str], classes: Sequence[HeadClass]
) -> tuple[int, ...]:
    """Return the number of training videos of each class, from the training source's vocabulary.

    Raises:
        SpecError: there is no vocabulary, or it has no TrainVideoCount above 0 for a class.
    """
    known = _vocabulary(spec, base, sources)
    place = f"heads.{name}.class_weights"
    if not known:
        raise SpecError(
            f"{place}: source {sources[TRAIN]!r} has no vocabulary to take TrainVideoCount from; add vocabulary: "
            "vocabulary.csv to it, or remove class_weights."
        )
    counts = [known[each.label].count if each.label in known else 0 for each in classes]
    bad = [each for each, count in zip(classes, counts, strict=True) if count <= 0]
    if bad:
        raise SpecError(
            f"{place}: the vocabulary has no TrainVideoCount above 0 for {len(bad)} of {len(classes)} classes, such as "
            f"{bad[0].label} ({bad[0].name!r}); fill them in, or remove class_weights."
        )
    return tuple(counts)


def check_videos(training: Training, videos: Mapping[str, Videos]) -> None:
    """Require videos both for training and for validation.

    Raises:
        SpecError: something is missing; the message names it.
    """
    for split in (TRAIN, VALIDATION):
        if not len(videos[split]):
            other = {TRAIN: VALIDATION, VALIDATION: TRAIN}[split]
            raise SpecError(
                f"heads.{training.name}: no labelled video is left for {split} ({len(videos[other])} for {other}); "
                "label more of them, or change holdout or seed."
            )
    if len(training.classes) < 2:
        raise SpecError(
            f"heads.{training.name}: the labels name one class, {training.classes[0].name!r}; there is nothing to tell "
            "apart."
        )


def working_folder(objects: ObjectStore, head: str, digest: str) -> Path:
    """Return the folder of a training's state: beside the models, or for a bucket in the machine's temporary folder."""
    name = f"{head}-{digest[:SHORT]}"
    if objects.root is not None:
        return objects.root / "training" / name
    return private_folder("training") / name


def learn(
    training: Training,
    videos: Mapping[str, Videos],
    work: Path,
    on_stage: Callable[[str], None],
    last: PlainHead | None = None,
) -> HeadCard:
    """Train, measure, and write everything to publish into ``work/model``; ``last`` is the current head."""
    from cliploom.transforms.heads.report import write_report

    on_stage("loading TensorFlow")
    from cliploom.transforms.heads.saved_model import write_saved_model
    from cliploom.transforms.heads.training import train

    began = time.perf_counter()
    draft = card_of(training, videos)
    steps = learn_steps(training, videos, work, on_stage)
    state = train(
        videos[TRAIN],
        videos[VALIDATION],
        training.classes,
        training.spec,
        lambda vectors, texts: transformed(draft, vectors, steps, texts),
        work,
        on_stage,
        counts=training.counts,
    )
    on_stage("measuring")
    head = PlainHead(draft, state.kernel, state.bias, steps)
    metrics, figures = measure_labels(head, videos[VALIDATION], training, last)
    items, sketch = training.sketch
    card = HeadCard(
        **vars(draft)
        | {
            "metrics": metrics,
            "figures": figures,
            "items": items,
            "sketch": sketch,
            "seconds": round(time.perf_counter() - began, 1),
            "epochs": tuple(state.epochs),
            "best": state.best,
        }
    )
    folder = work / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_plain(folder, state.kernel, state.bias, steps)
    graph = work / TRANSFORM
    write_saved_model(PlainHead(card, state.kernel, state.bias, steps), folder / SAVED_MODEL, graph)
    if steps:
        shutil.copytree(graph, folder / TRANSFORM)
    write_report(card, folder)
    shutil.copytree(work / "logs", folder / "logs")
    (folder / CARD_FILE).write_text(json.dumps(card.to_dict(), indent=1) + "\n", encoding="utf-8")
    return card


def measure_labels(
    head: PlainHead, videos: Videos, training: Training, last: PlainHead | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the metrics and figures of a card, on the validation videos.

    Args:
        head: the trained head.
        videos: the videos to measure on.
        training: the preparation, which has the classes.
        last: the current head, whose Hit@1 is measured for comparison.
    """
    classes = training.classes
    accumulator = LabelAccumulator(len(classes))
    ranks = RankAccumulator(HIT_KS, seed=training.spec.seed)
    precision = AveragePrecisionAccumulator(len(classes), training.spec.seed)
    column = {each.label: place for place, each in enumerate(classes)}
    hits = done = 0
    for vectors, texts, labels in videos.batches(classes, _BATCH):
        scores = head.probabilities(vectors, texts)
        keys = np.arange(done, done + len(scores), dtype=np.uint64)
        done += len(scores)
        accumulator.add(scores, labels)
        ranks.add(ranked_labels(keys, scores, labels))
        precision.add(keys, scores, labels)
        if last is not None:
            best = last.probabilities(vectors, texts).argmax(axis=1).tolist()
            named = [column.get(last.card.classes[place].label) for place in best]
            hits += sum(place is not None and bool(labels[row, place]) for row, place in enumerate(named))
    metrics = {name: round(float(value), 6) for name, value in asdict(accumulator.result()).items()}
    if last is not None:
        metrics[PREVIOUS] = round(hits / done, 6)
    found = ranks.result()
    figures = {name.replace("R@", "hit@"): each for name, each in found.figures.items() if name.startswith("R@")}
    figures["mAP"], _, _ = precision.result()
    part = RetrievalMetrics(found.queries, found.videos, found.candidates, figures)
    return metrics, {"item to label": part.to_dict()}


def learn_steps(
    training: Training, videos: Mapping[str, Videos], work: Path, on_stage: Callable[[str], None]
) -> tuple[LearnedStep, ...]:
    """Return the learned steps of a head, from all training videos, by tf.Transform on Beam; cached per training."""
    declared, inputs = training.spec.transform.steps, training.readings[TRAIN].inputs
    done = work / STEPS_FILE
    if not declared:
        return ()
    if not done.exists():
        from cliploom.transforms.heads.transform_fit import StepsTask
        from cliploom.transforms.heads.transform_fit import learn as learn_transform

        on_stage("analyzing the training videos with tf.Transform")
        shutil.rmtree(work / TRANSFORM, ignore_errors=True)
        vectors = str(work / "videos" / f"{TRAIN}.f32")
        texts = "" if videos[TRAIN].texts is None else str(work / "videos" / f"{TRAIN}.{TEXTS_FILE}")
        task = StepsTask(vectors, len(videos[TRAIN]), tuple(declared), inputs, str(work / TRANSFORM), texts)
        staged = done.with_name(f"writing-{STEPS_FILE}")
        write_steps(staged, learn_transform(task, lambda build: run_graph(build, Target())))
        staged.replace(done)
    return read_steps(done, declared, inputs)


def card_of(training: Training, videos: Mapping[str, Videos]) -> HeadCard:
    """Return the card before training: without metrics and epochs."""
    counts = Counter(label for labels in videos[TRAIN].labels for label in labels)
    frequent = min((-count, label) for label, count in counts.items())[1]
    column = [each.label for each in training.classes].index(frequent)
    majority = float(np.mean(hot_rows(videos[VALIDATION].labels, training.classes)[:, column]))
    libraries = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    return HeadCard(
        name=training.name,
        digest=training.digest,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        program=program_version(),
        release=training.release.release,
        run=training.release.run,
        source=training.sources[TRAIN],
        validation_source=training.sources.get(VALIDATION, training.sources[TRAIN]),
        inputs=training.readings[TRAIN].inputs,
        classes=training.classes,
        settings=training.spec.model_dump(mode="json"),
        videos={split: len(held) for split, held in videos.items()},
        majority=round(majority, 6),
        metrics={},
        epochs=(),
        best=0,
        libraries=libraries,
    )


def trained_text(trained: Trained) -> str:
    """Return the result of a training as text."""
    card = trained.card
    if isinstance(card, VectorHeadCard):
        return vector_text(trained, card)
    lines = [
        f"Head {card.name} is {'trained' if trained.fresh else 'already trained on exactly this data'}: "
        f"{trained.store}/{trained.model}",
        f"  {card.videos['train']} videos, {len(card.classes)} classes, {len(card.epochs)} epochs (best: {card.best})",
        f"  on {card.videos['validation']} other videos: Hit@1 {card.metrics['hit_at_1']:.3f} (most frequent class: "
        f"{card.majority:.3f}), GAP@20 {card.metrics['gap']:.3f}, MAP {card.metrics['map']:.3f}, "
        f"PERR {card.metrics['perr']:.3f}",
    ]
    return "\n".join(lines)


def vector_text(trained: Trained, card: VectorHeadCard) -> str:
    """Return the result of training a head that returns vectors as text."""
    from cliploom.transforms.heads.report import figure_lines

    method = f" ({card.method})" if card.method else ""
    lines = [
        f"Head {card.name}{method} is {'trained' if trained.fresh else 'already trained on exactly this data'}: "
        f"{trained.store}/{trained.model}",
        f"  {', '.join(f'{name}: {count}' for name, count in card.counts.items())}; {len(card.epochs)} epochs (best: "
        f"{card.best}) in {card.seconds:.0f} s",
        f"  on held-out data: {card.key} {card.metrics.get(card.key, 0):.3f}",
        *(f"    {line}" for line in figure_lines(card.figures)),
    ]
    return "\n".join(lines)
