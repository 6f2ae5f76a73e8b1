"""The ConSE formula and the measure of agreement."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cliploom.transforms.encoders.agreement import smallest_cosine
from cliploom.transforms.encoders.conse import class_prompt, conse

CLASSES = np.random.default_rng(5).standard_normal((30, 8)).astype(np.float32)


def brute_force(probabilities: np.ndarray, top: int) -> np.ndarray:
    order = sorted(range(len(probabilities)), key=lambda k: (-probabilities[k], k))[:top]
    mixed = sum(float(probabilities[k]) * CLASSES[k].astype(np.float64) for k in order)
    mixed /= sum(float(probabilities[k]) for k in order)
    return mixed / np.linalg.norm(mixed)


@given(arrays(np.float32, 30, elements=st.floats(2**-7, 1, width=32)), st.integers(1, 30))
def test_equals_the_formula(scores: np.ndarray, top: int) -> None:
    np.testing.assert_allclose(conse(scores[None], CLASSES, top)[0], brute_force(scores, top), atol=1e-5)


def test_a_certain_class_gives_its_own_vector() -> None:
    found = conse(np.eye(30, dtype=np.float32)[[3]], CLASSES)[0]
    np.testing.assert_allclose(found, CLASSES[3] / np.linalg.norm(CLASSES[3]), atol=1e-6)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    scores = np.random.default_rng(0).random((5, 30), np.float32)
    np.testing.assert_array_equal(conse(scores, CLASSES)[2:3], conse(scores[2:3], CLASSES))


def test_the_prompt_names_all_synonyms() -> None:
    assert class_prompt(["tench"]) == "a photo of a tench"


def test_agreement_of_zero_rows_and_of_nan() -> None:
    zero, one = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert smallest_cosine(zero, zero) == 1
    assert smallest_cosine(zero, one) == 0
    assert smallest_cosine(one * np.nan, one) == -1
    assert smallest_cosine(-2 * one, one) < -0.999
