"""A head's learned steps in numpy: results, storage, and rejected declarations."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from heads import card_of, put_head
from pydantic import ValidationError

from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.head_steps import BucketsStep, PcaStep, RangeStep, VocabularyStep, ZscoreStep
from cliploom.schemas.heads import HeadClass, HeadSpec, InputColumn
from cliploom.transforms.heads.plain import STEPS_FILE, read_head, transformed, write_plain
from cliploom.transforms.heads.transform import (
    LearnedStep,
    apply_steps,
    read_steps,
    rounds_of,
    steps_of_inputs,
    width_after,
    write_steps,
)
from cliploom.transforms.store.object_store import ObjectStore

INPUTS = (InputColumn("yt", "rgb", "mean_rgb", 2, ""), InputColumn("yt", "age", "age", 1, ""))
NAN = float("nan")


def learned(step: object, name: str = "mean_rgb", **constants: object) -> LearnedStep:
    return LearnedStep(step, name, {key: np.float32(value) for key, value in constants.items()})  # type: ignore[arg-type]


ZSCORE = learned(ZscoreStep(kind="zscore"), mean=[1, 5], deviation=[2, 0])
RANGE = learned(RangeStep(kind="range", low=-1, high=1), low=[0, 3], high=[4, 3])
PCA = learned(PcaStep(kind="pca", components=1), mean=[1, 1], vectors=[[0.6], [0.8]])
BUCKETS = learned(BucketsStep(kind="buckets", count=3), bounds=[[1, 2], [10, 20]])
VOCABULARY = learned(VocabularyStep(kind="vocabulary", size=3), values=[40, -3, NAN])


@pytest.mark.parametrize(
    ("step", "rows", "wanted"),
    [
        (ZSCORE, [[5, 6], [-1, 5]], [[2, 1], [-1, 0]]),
        (RANGE, [[0, 3], [4, 4], [8, 3]], [[-1, -1], [1, 1], [3, -1]]),
        (PCA, [[1, 1], [2, 3]], [[0], [2.2]]),
        (BUCKETS, [[0.5, 10], [2, 99]], [[1, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 1]]),
        (VOCABULARY, [[40, 7], [-3.2, 0]], [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]),
    ],
)
def test_steps_compute_what_they_say(step: LearnedStep, rows: list[list[float]], wanted: list[list[float]]) -> None:
    found = step.apply(np.float32(rows))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert found.shape[1] == width_after(step.step, 2)


def test_a_vocabulary_of_texts_knows_its_words_alone() -> None:
    step = LearnedStep(VocabularyStep(kind="vocabulary", size=3), "channel", {}, ("Tänze", "news"))
    texts = np.array([["news"], ["new"], [""], ["Tänze"]], object)
    assert step.apply(texts).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
    with pytest.raises(TypeError, match="zscore is for numbers, but mean_rgb is a text"):
        ZSCORE.apply(texts)


def test_texts_are_taken_by_their_inputs_and_stay_until_a_vocabulary_comes() -> None:
    inputs = (InputColumn("yt", "a", "a", 0, "", "text"), INPUTS[1], InputColumn("yt", "b", "b", 0, "", "text"))
    step = LearnedStep(VocabularyStep(kind="vocabulary", size=2), "b", {}, ("x", "y"))
    texts = np.array([["q", "y"]], object)
    a, age, b = apply_steps([step], np.float32([[7]]), inputs, texts)
    assert (a.tolist(), age.tolist(), b.tolist()) == ([["q"]], [[7]], [[0, 1]])


def test_steps_change_their_own_input_in_order() -> None:
    vectors = np.float32([[5, 6, 9]])
    first, other = apply_steps(
        [ZSCORE, learned(PcaStep(kind="pca", components=1), mean=[0, 0], vectors=[[1], [1]])], vectors, INPUTS
    )
    assert first.tolist() == [[3]]
    assert other.tolist() == [[9]]


def test_a_step_without_input_stands_for_each() -> None:
    steps = HeadSpec.model_validate(
        {"inputs": [{"feature": "yt"}], "transform": {"steps": [{"kind": "zscore"}, {"kind": "range"}]}}
    ).transform.steps
    declared = steps_of_inputs(steps, INPUTS)
    assert [(step.kind, name) for step, name in declared] == [
        ("zscore", "mean_rgb"),
        ("zscore", "age"),
        ("range", "mean_rgb"),
        ("range", "age"),
    ]
    assert rounds_of(declared) == [[0, 1], [2, 3]]


TEXT = (*INPUTS, InputColumn("yt", "channel", "channel", 0, "", "text"))


def test_steps_for_numbers_leave_texts_alone_until_a_vocabulary_has_made_numbers_of_them() -> None:
    zscore, vocabulary = ZscoreStep(kind="zscore"), VocabularyStep(kind="vocabulary", size=4, input="channel")
    found = [(step.kind, name) for step, name in steps_of_inputs([zscore, vocabulary, zscore], TEXT)]
    first, then = [("zscore", "mean_rgb"), ("zscore", "age")], [("vocabulary", "channel")]
    assert found == [*first, *then, *first, ("zscore", "channel")]
    pca = PcaStep(kind="pca", components=4, input="channel")
    assert steps_of_inputs([vocabulary, pca], TEXT)[1] == (pca, "channel")


def test_texts_that_nothing_makes_numbers_of_are_reported() -> None:
    with pytest.raises(SpecError, match=r"heads\.a: the input channel is a text; add \{kind: vocabulary"):
        steps_of_inputs([], TEXT, "heads.a")
    with pytest.raises(SpecError, match=r"heads\.a\.0\.input: channel is a text; put a step \{kind: voc"):
        steps_of_inputs([RangeStep(kind="range", input="channel")], TEXT, "heads.a")


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (ZscoreStep(kind="zscore", input="mean_rbg"), r"heads\.a\.0\.input: there is no 'mean_rbg'.*mean_rgb"),
        (PcaStep(kind="pca", components=2), r"heads\.a\.0\.components: age has 1 numbers there, no 2"),
    ],
)
def test_steps_that_do_not_fit_the_inputs_are_reported(step: ZscoreStep | PcaStep, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        steps_of_inputs([step], INPUTS, "heads.a")


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ({"kind": "zscores"}, "zscore"),
        ({"kind": "range", "low": 1}, r"low \(1\) is not below high \(1\)"),
        ({"kind": "buckets", "count": 1}, "greater than or equal to 2"),
        ({"kind": "pca"}, "components"),
    ],
)
def test_steps_that_can_not_be_are_reported(step: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        HeadSpec.model_validate({"inputs": [{"feature": "yt"}], "transform": {"steps": [step]}})


def test_constants_come_back_as_they_were(tmp_path: Path) -> None:
    steps = [ZSCORE, BUCKETS, VOCABULARY]
    write_steps(tmp_path / "a.npz", steps)
    found = read_steps(
        tmp_path / "a.npz", [each.step.model_copy(update={"input": "mean_rgb"}) for each in steps], INPUTS
    )
    for before, after in zip(steps, found, strict=True):
        assert before.constants.keys() == after.constants.keys()
        for name, value in before.constants.items():
            np.testing.assert_array_equal(after.constants[name], value)
    step = LearnedStep(VocabularyStep(kind="vocabulary", size=3, input="channel"), "channel", {}, ("ü\0", "ß\r", " "))
    write_steps(tmp_path / "b.npz", [step])
    assert read_steps(tmp_path / "b.npz", [step.step], TEXT[2:]) == (step,)
    with pytest.raises(ValueError, match="a step 1, of 1"):
        read_steps(tmp_path / "a.npz", [ZscoreStep(kind="zscore", input="age")], INPUTS)


def test_a_worker_applies_a_published_head_without_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it fails
    steps = [{"kind": "pca", "components": 1, "input": "mean_rgb"}]
    classes = (HeadClass(1, "cat"), HeadClass(2, "dog"))
    card = card_of(INPUTS, classes, transform={"steps": steps, "unit": True})
    kernel, bias = np.float32([[1, 0], [0, 1]]), np.float32([0, 0])
    model = put_head(tmp_path / "store", card, kernel, bias, tmp_path / "without")
    with pytest.raises(StoreError, match="damaged"):
        read_head(ObjectStore(tmp_path / "store"), model)
    folder = tmp_path / "store" / model
    write_plain(folder, kernel, bias, [PCA])
    assert (folder / STEPS_FILE).is_file()
    head = read_head(ObjectStore(tmp_path / "store"), model)
    vectors = np.float32([[2, 3, 5], [1, 1, -5]])
    np.testing.assert_allclose(transformed(head.card, vectors, head.steps), [[1, 1], [0, -1]], atol=1e-6)
    assert head.probabilities(vectors)[0].tolist() == pytest.approx([0.7310586, 0.7310586])
    write_plain(folder, np.ones((3, 2), np.float32), bias)
    with pytest.raises(StoreError, match=r"weights \(3, 2\) instead of \(2, 2\)"):
        read_head(ObjectStore(tmp_path / "store"), model)
