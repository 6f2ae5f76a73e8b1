"""Ridge regression to words, and how well words find items: against brute force and hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError
from cliploom.transforms.heads.ridge import MOST_WIDTH, fits_ridge, ridge_map
from cliploom.transforms.heads.word_figures import BOTH, FOUND, SEEN, UNSEEN, NamedItems, word_figures
from cliploom.transforms.metrics.chance import chance_of_precision


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def test_hits_and_found_items_are_those_counted_by_hand() -> None:
    classes = np.eye(4, dtype=np.float32)
    # Labels 2 and 3 are unseen. The vectors say which label an item looks like most, second most, ...
    vectors = unit(
        np.float32(
            [
                [9, 5, 1, 0],  # label 0, learned
                [9, 5, 1, 0],  # label 0: first of two, first of four
                [9, 5, 1, 0],  # label 1: second of two, second of four
                [9, 5, 1, 0],  # label 2: first of two, third of four
                [0, 1, 5, 9],  # label 2: second of two, second of four
                [1, 0, 5, 9],  # label 3: first of two, first of four
            ]
        )
    )
    items = NamedItems(vectors, [(0,), (0,), (1,), (2,), (2,), (3,)], np.arange(6, dtype=np.uint64), np.arange(6) == 0)
    found = word_figures(items, classes, np.array([False, False, True, True]), 0)
    assert found[SEEN].figures["hit@1"].value == 0.5
    assert found[SEEN].figures["hit@1"].chance == pytest.approx(0.5)
    assert (found[SEEN].queries, found[SEEN].candidates) == (2, 2)
    assert found[UNSEEN].figures["hit@1"].value == pytest.approx(2 / 3)
    assert found[BOTH].figures["hit@1"].value == pytest.approx(2 / 5)
    assert found[BOTH].figures["hit@1"].chance == pytest.approx(1 / 4)
    assert (found[BOTH].queries, found[BOTH].candidates) == (5, 4)
    # Both words put items 4 and 5 first, which are equal for them; after these the four others are equal.
    words = found[FOUND]
    assert (words.queries, words.candidates) == (2, 6)
    assert words.figures["MedR"].value == 1.5
    assert words.figures["mAP"].value == pytest.approx(((1 / 2 + 2 / 6) / 2 + 1 / 2) / 2)
    assert words.figures["mAP"].low <= words.figures["mAP"].value <= words.figures["mAP"].high


def test_found_items_are_those_of_brute_force_and_chance_is_exact() -> None:
    random = np.random.default_rng(1)
    classes, vectors = unit(random.normal(size=(9, 5))), unit(random.normal(size=(40, 5)))
    labels = [tuple(sorted({int(a), int(b)})) for a, b in random.integers(0, 9, (40, 2))]
    unseen = np.arange(9) >= 6
    items = NamedItems(vectors, labels, np.arange(40, dtype=np.uint64), random.random(40) < 0.3)
    found = word_figures(items, classes, unseen, 0)[FOUND]
    precisions, ranks = [], []
    for label in range(6, 9):
        order = np.argsort(-(vectors @ classes[label]))
        right = np.array([label in labels[place] for place in order])
        places = np.flatnonzero(right) + 1
        precisions.append(np.mean(np.arange(1, len(places) + 1) / places))
        ranks.append(places[0])
    assert found.figures["mAP"].value == pytest.approx(np.mean(precisions))
    assert found.figures["MedR"].value == np.median(ranks)
    drawn = []
    for _ in range(4000):
        places = np.flatnonzero(random.permutation(12) < 4) + 1
        drawn.append(np.mean(np.arange(1, 5) / places))
    assert chance_of_precision(12, 4) == pytest.approx(np.mean(drawn), abs=0.01)


def test_nothing_held_back_gives_no_figures() -> None:
    items = NamedItems(np.eye(2, dtype=np.float32), [(0,), (1,)], np.arange(2, dtype=np.uint64), np.ones(2, np.bool_))
    assert word_figures(items, np.eye(2, dtype=np.float32), np.zeros(2, np.bool_), 0) == {}


def made(classes: int, each: int, noise: float, seed: int = 0) -> tuple[NDArray[np.float32], ...]:
    """Items whose vectors are a linear map of their label's text vector, with noise."""
    random = np.random.default_rng(seed)
    texts = unit(random.normal(size=(classes, 6)))
    labels = np.repeat(np.arange(classes), each)
    vectors = texts[labels] @ random.normal(size=(6, 10)) + noise * random.normal(size=(len(labels), 10))
    return vectors.astype(np.float32), (labels[:, None] == np.arange(classes)), texts


def test_the_map_is_that_of_the_normal_equations() -> None:
    vectors, labels, texts = made(7, 5, 0.1)
    (kernel, bias), penalty = ridge_map(35, lambda places: (vectors[places], labels[places]), texts, 0, (0.3,))
    assert penalty == 0.3
    x, y = vectors.astype(np.float64), texts[labels.argmax(axis=1)].astype(np.float64)
    mean, target = x.mean(axis=0), y.mean(axis=0)
    x, y = x - mean, y - target
    wanted = np.linalg.solve(x.T @ x + 0.3 * (x**2).sum(axis=1).mean() * np.eye(10), x.T @ y)
    np.testing.assert_allclose(kernel, wanted, atol=1e-5)
    np.testing.assert_allclose(bias, target - mean @ wanted, atol=1e-5)


def test_words_of_labels_left_out_find_their_items() -> None:
    vectors, labels, texts = made(30, 6, 0.4)
    seen = np.arange(30) < 24
    mine = np.flatnonzero(labels[:, seen].any(axis=1))
    (kernel, bias), _ = ridge_map(
        len(mine), lambda places: (vectors[mine[places]], labels[mine[places]][:, seen]), texts[seen], 0
    )
    items = NamedItems(
        unit(vectors @ kernel + bias),
        [(int(row.argmax()),) for row in labels],
        np.arange(len(labels), dtype=np.uint64),
        labels[:, seen].any(axis=1),
    )
    found = word_figures(items, texts, ~seen, 0)[FOUND].figures["mAP"]
    assert found.chance is not None
    assert found.value > 3 * found.chance


def test_wide_inputs_are_refused_before_memory_is_taken() -> None:
    def batch(places: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        return np.zeros((len(places), MOST_WIDTH + 1), np.float32), np.ones((len(places), 2), np.bool_)

    # Few items span a small space, whatever the width of their vectors; the published DeViSE has 25,088 numbers.
    assert fits_ridge(60, 25_088)
    assert not fits_ridge(100_000, 25_088)
    with pytest.raises(SpecError, match="Use method: head"):
        ridge_map(100_000, batch, np.eye(2, dtype=np.float32), 0)
