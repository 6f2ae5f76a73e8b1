"""Evaluates heads of kind devise: labels of items by their words, and items by words, with ConSE for comparison."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError
from cliploom.schemas.evaluations import WordsEvaluation
from cliploom.schemas.release import FeatureEntry, Release
from cliploom.schemas.vector_heads import CLIP, DEVISE, EMBEDDING, TRAIN, DeviseSpec, VectorHeadCard
from cliploom.transforms.evaluation.gallery import FeatureRows, find_output, read_feature_rows
from cliploom.transforms.evaluation.index_answers import index_over, index_ranks
from cliploom.transforms.evaluation.results import Evaluated
from cliploom.transforms.evaluation.truths import shared_labels
from cliploom.transforms.heads.dataset import split_of_video
from cliploom.transforms.heads.pooling import unit_rows
from cliploom.transforms.heads.towers import Tower, read_towers
from cliploom.transforms.heads.word_figures import FOUND, NamedItems, word_figures
from cliploom.transforms.heads.word_hits import class_vectors
from cliploom.transforms.metrics.ranks import Relevance
from cliploom.transforms.metrics.retrieval import RankAccumulator, RankedQueries, RetrievalMetrics, hashed_uids
from cliploom.transforms.narrations.uids import read_uid_list
from cliploom.transforms.store.object_store import ObjectStore

_BLOCK = 4096


@dataclass(frozen=True)
class _Labelled:
    """The labelled items of a feature, and their labels.

    Attributes:
        things: int64 [n], the positions of the items among the feature's.
        labels: the positions of each item's labels in ``names``.
        learned: bool [n], whether the head was trained on the item.
        names: the names of all labels.
        unseen: bool [names], whether the head was not trained on the label.
        classes: the unit text vectors of the labels, float32 [names, dim].
    """

    things: NDArray[np.int64]
    labels: list[tuple[int, ...]]
    learned: NDArray[np.bool_]
    names: list[str]
    unseen: NDArray[np.bool_]
    classes: NDArray[np.float32]


def evaluate_words(
    objects: ObjectStore, release: Release, node: WordsEvaluation, folder: Path, spec_name: str = ""
) -> Evaluated:
    """Measure flat hit@k of labels for items, and how well words of unseen labels retrieve items.

    Args:
        objects: the store.
        release: a published release, or the draft of one with its indexes.
        node: the evaluation of the spec.
        folder: the folder for temporary files, which are as large as the feature.
        spec_name: the name of the evaluation, for messages.

    Raises:
        SpecError: the feature is not made by a head of kind devise, or its source has no labels.
    """
    known = release.features.get(node.feature)
    model = "" if known is None else str(known.recipe.get("head", ""))
    if known is not None and not model:
        raise SpecError(
            f"evaluations.{spec_name}: feature {node.feature!r} is not made by a head; words are measured on a feature "
            "of an encoder {kind: head} whose head is of kind devise."
        )
    entry, _ = find_output(release, node.feature, EMBEDDING)
    card, towers = read_towers(objects, model)
    if card.kind != DEVISE:
        raise SpecError(
            f"evaluations.{spec_name}: head {card.name!r} is of kind {card.kind}; use kind: retrieval to measure it."
        )
    if not card.labels:
        raise SpecError(
            f"evaluations.{spec_name}: head {card.name!r} was trained by an earlier version, which did not keep the "
            f"names of its labels; `cliploom train SPEC --head {card.name}` trains it again."
        )
    (own, base) = (folder / "own", folder / "base")
    own.mkdir()
    base.mkdir()
    rows = read_feature_rows(objects, release, node.feature, EMBEDDING, own, unit=False)
    only = None if node.only is None else read_uid_list(io.BytesIO(objects.get(node.only)))
    found = _labelled(objects, release, entry, card, rows, only)
    parts = dict(_parts(_means(rows, own / "items.f32"), found, rows.uids, node.seed))
    index = index_over(release, node.feature, EMBEDDING, "cosine")
    if index is not None and FOUND in parts:
        parts[f"{FOUND}, as index {index} answers"] = _asked(objects, release, index, rows, found, node.seed)
    rivals = {side: tower for side, tower in towers.items() if side != CLIP}
    if rivals:
        feature, output = entry.recipe["input"][:2]
        given = read_feature_rows(objects, release, feature, output, base, unit=False)
        if given.uids == rows.uids:
            for method, tower in rivals.items():
                vectors = _means(given, base / f"{method}.f32", tower)
                parts |= {
                    f"{method}: {name}": part for name, part in _parts(vectors, found, rows.uids, node.seed).items()
                }
    notes = []
    if len(found.things) < len(rows.uids):
        notes.append(f"{len(rows.uids) - len(found.things)} of {len(rows.uids)} items have no label, or are left out")
    unknown = [name for name, vector in zip(found.names, found.classes, strict=True) if not vector.any()]
    if unknown:
        notes.append(f"the text encoder knows no word of {len(unknown)} labels, such as {unknown[0]!r}")
    settings = {"head": card.name, "method": card.method, "unseen labels": int(found.unseen.sum())}
    return Evaluated(node.kind, f"{node.feature}.{EMBEDDING}", parts, settings, tuple(notes))


def _labelled(
    objects: ObjectStore,
    release: Release,
    entry: FeatureEntry,
    card: VectorHeadCard,
    rows: FeatureRows,
    only: Collection[str] | None,
) -> _Labelled:
    """Return the labels by name, which of them the head has not seen, and which items it was trained on."""
    from cliploom.transforms.encoders.registry import load_text_tower
    from cliploom.transforms.work.models import local_model

    spec = DeviseSpec.model_validate(card.settings)
    given = shared_labels(objects, release, entry.source, rows.uids)
    names = sorted({name for labels in given for name in labels})
    place = {name: number for number, name in enumerate(names)}
    things = [number for number, labels in enumerate(given) if labels and (only is None or rows.uids[number] in only)]
    if not things:
        raise SpecError("No item with a label is among the uids of the list; correct 'only'.")
    known = set(card.labels)
    unseen = np.array([name not in known for name in names], np.bool_)
    mine = entry.source == card.inputs[CLIP].source
    labels = [tuple(place[name] for name in given[thing]) for thing in things]
    learned = [
        mine
        and not any(unseen[label] for label in own)
        and split_of_video(rows.uids[thing], spec.validation, spec.seed) == TRAIN
        for thing, own in zip(things, labels, strict=True)
    ]
    tower = load_text_tower(local_model(objects, entry.model))
    return _Labelled(
        np.array(things, np.int64),
        labels,
        np.array(learned, np.bool_),
        names,
        unseen,
        class_vectors(names, spec.prompt, tower),
    )


def _means(rows: FeatureRows, path: Path, tower: Tower | None = None) -> NDArray[np.float32]:
    """Write the mean vector of each item's rows, scaled to length 1, to a file: float32 [items, dim].

    Args:
        rows: the rows of a feature.
        path: the path of the file.
        tower: a function to apply to the rows first; None for the rows themselves.
    """
    dim = rows.vectors.shape[1] if tower is None else tower.dim
    found = np.memmap(path, np.float32, "w+", shape=(len(rows.uids), dim))
    first = 0
    while first < len(rows.uids):
        end = max(first + 1, int(np.searchsorted(rows.starts, rows.starts[first] + _BLOCK, "right")) - 1)
        block = np.array(rows.vectors[rows.starts[first] : rows.starts[end]], np.float32)
        if tower is not None:
            block = tower.apply(block)
        starts = rows.starts[first:end] - rows.starts[first]
        sums = np.add.reduceat(block.astype(np.float64), starts, axis=0)
        found[first:end] = unit_rows((sums / np.diff(rows.starts[first : end + 1])[:, None]).astype(np.float32))
        first = end
    return found


def _parts(
    vectors: NDArray[np.float32], found: _Labelled, uids: Sequence[str], seed: int
) -> Mapping[str, RetrievalMetrics]:
    everything = len(found.things) == len(vectors)
    items = NamedItems(
        vectors=vectors if everything else vectors[found.things],
        labels=found.labels,
        keys=hashed_uids([uids[thing] for thing in found.things.tolist()]),
        learned=found.learned,
    )
    return word_figures(items, found.classes, found.unseen, seed)


def _asked(
    objects: ObjectStore, release: Release, index: str, rows: FeatureRows, found: _Labelled, seed: int
) -> RetrievalMetrics:
    """Measure the words of unseen labels as queries to the release's index."""
    labels = np.flatnonzero(found.unseen)
    query = {label: number for number, label in enumerate(labels.tolist())}
    pairs = [
        (query[label], thing)
        for thing, own in zip(found.things.tolist(), found.labels, strict=True)
        for label in own
        if label in query
    ]
    queries, things = (np.array(side, np.int64) for side in zip(*pairs, strict=True))
    relevance = Relevance.of_pairs(queries, things)
    ranks = index_ranks(objects, release, index, found.classes[labels], rows, relevance, items=True)
    accumulator = RankAccumulator(seed=seed)
    count = len(ranks.queries)
    accumulator.add(
        RankedQueries(
            ranks.queries.astype(np.uint64),
            ranks.ranks,
            ranks.relevant,
            np.full(count, ranks.candidates, np.int64),
            np.empty((count, 0), np.int64),
        )
    )
    whole = accumulator.result()
    recalls = {name: figure for name, figure in whole.figures.items() if name.startswith("R@")}
    return RetrievalMetrics(whole.queries, whole.videos, whole.candidates, recalls)
