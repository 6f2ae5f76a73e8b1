"""Measures retrieval by words with a head's vectors: flat hit@k of labels for items, and of items for unseen labels.

``cliploom train`` measures them on held-out data, ``cliploom evaluate`` on a release.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cliploom.transforms.metrics.average_precision import precision_of_ranking
from cliploom.transforms.metrics.chance import chance_of_precision
from cliploom.transforms.metrics.intervals import Figure, mean_figures
from cliploom.transforms.metrics.retrieval import RankAccumulator, RankedQueries, RetrievalMetrics, ranked_labels

SEEN, UNSEEN, BOTH = "item to label, seen", "item to label, unseen", "item to label, both"
FOUND = "label to item, unseen"
_SCORES = 1 << 22


@dataclass(frozen=True)
class NamedItems:
    """Items with vectors in the text space, and their labels.

    Attributes:
        vectors: float32 [n, dim], of length 1; may be a memory map.
        labels: the positions of each item's labels among the classes, one or more.
        keys: the hashes of the uids, uint64 [n].
        learned: whether the head was trained on each item, bool [n].
    """

    vectors: NDArray[np.float32]
    labels: Sequence[tuple[int, ...]]
    keys: NDArray[np.uint64]
    learned: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    def hot(self, places: NDArray[np.int64], classes: int) -> NDArray[np.bool_]:
        """Return the labels of some items, bool [places, classes]."""
        found = np.zeros((len(places), classes), np.bool_)
        for row, place in enumerate(places.tolist()):
            found[row, list(self.labels[place])] = True
        return found


def word_figures(
    items: NamedItems, classes: NDArray[np.float32], unseen: NDArray[np.bool_], seed: int
) -> dict[str, RetrievalMetrics]:
    """Measure up to four retrieval tasks.

    *Item to label, seen*: items outside the training data, among the trained labels. *Unseen*: items of other labels,
    among these. *Both*: all of them among all labels. *Label to item, unseen*: the words of labels outside the training
    data, among all items, as in a search.

    Args:
        items: the items with their labels.
        classes: unit text vectors float32 [C, dim]; zero if no word is known.
        unseen: whether each class is outside the training data, bool [C].
        seed: the seed of the intervals.

    Returns:
        The tasks that have queries. Chance levels are those of random scores.
    """
    strange = np.array([any(unseen[place] for place in labels) for labels in items.labels], np.bool_)
    fresh = ~items.learned
    parts = {}
    for name, chosen, columns in (
        (SEEN, fresh & ~strange, ~unseen),
        (UNSEEN, strange, unseen),
        (BOTH, fresh | strange, np.ones(len(classes), np.bool_)),
    ):
        if chosen.any() and columns.any():
            parts[name] = _hits(items, np.flatnonzero(chosen), classes, columns, seed)
    if strange.any():
        parts[FOUND] = _found(items, classes, unseen, seed)
    return parts


def _hits(
    items: NamedItems, places: NDArray[np.int64], classes: NDArray[np.float32], columns: NDArray[np.bool_], seed: int
) -> RetrievalMetrics:
    accumulator = RankAccumulator(seed=seed)
    step = max(1, _SCORES // len(classes))
    for begin in range(0, len(places), step):
        some = places[begin : begin + step]
        labels = items.hot(some, len(classes))[:, columns]
        accumulator.add(ranked_labels(items.keys[some], items.vectors[some] @ classes[columns].T, labels))
    found = accumulator.result()
    figures = {name.replace("R@", "hit@"): each for name, each in found.figures.items() if name.startswith("R@")}
    return RetrievalMetrics(found.queries, found.videos, found.candidates, figures)


def _found(items: NamedItems, classes: NDArray[np.float32], unseen: NDArray[np.bool_], seed: int) -> RetrievalMetrics:
    ranks, relevant, precision = [], [], []
    for scores, right in _columns(items, classes, np.flatnonzero(unseen)):
        best = scores[right].max()
        ranks.append(1 + (scores > best).sum() + ((scores == best) & ~right).sum() / 2)
        relevant.append(int(right.sum()))
        precision.append(precision_of_ranking(scores, right))
    count = len(ranks)
    accumulator = RankAccumulator(seed=seed)
    accumulator.add(
        RankedQueries(
            np.arange(count, dtype=np.uint64),
            np.array(ranks, np.float64),
            np.array(relevant, np.int64),
            np.full(count, len(items), np.int64),
            np.empty((count, 0), np.int64),
        )
    )
    found = accumulator.result()
    chance = np.mean([chance_of_precision(len(items), each) for each in relevant])
    mean = mean_figures(np.array(precision)[:, None], np.arange(count, dtype=np.int64), seed, np.array([chance]))[0]
    kept: dict[str, Figure] = {name: found.figures[name] for name in ("R@1", "R@5", "R@10", "MedR")}
    return RetrievalMetrics(count, count, len(items), kept | {"mAP": mean})


def _columns(
    items: NamedItems, classes: NDArray[np.float32], chosen: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield, for each class with items, the scores of all items and which of them have its label."""
    owners: dict[int, list[int]] = {}
    for place, labels in enumerate(items.labels):
        for label in labels:
            owners.setdefault(label, []).append(place)
    known = np.array([place for place in chosen.tolist() if place in owners], np.int64)
    step = max(1, _SCORES // max(1, len(items)))
    for begin in range(0, len(known), step):
        some = known[begin : begin + step]
        scores = np.asarray(items.vectors @ classes[some].T, np.float32)
        for column, label in enumerate(some.tolist()):
            right = np.zeros(len(items), np.bool_)
            right[owners[label]] = True
            yield scores[:, column], right
