"""Heads trained with Keras: losses, early stopping, going on after a kill, the SavedModel, and a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from commands import command
from heads import card_of
from PIL import Image

from cliploom.pipelines.demo.corpus import class_corpus
from cliploom.pipelines.demo.make import write_files
from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.pipelines.training.evaluate import evaluate_head
from cliploom.pipelines.training.train import Trained, train_head
from cliploom.schemas.errors import CliploomError, SpecError, StoreError
from cliploom.schemas.heads import HeadClass, HeadSpec, InputColumn
from cliploom.schemas.spec_file import load_document, load_spec, parse_document
from cliploom.schemas.tfrecords import Yt8mVideo
from cliploom.transforms.heads.dataset import Videos
from cliploom.transforms.heads.plain import PlainHead, read_head, sigmoid, transformed
from cliploom.transforms.heads.saved_model import EXAMPLES, TENSORS, write_saved_model
from cliploom.transforms.heads.training import (
    TrainingState,
    class_weights,
    loss_of,
    regression,
    train,
    weights_of_counts,
)
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.vocabulary import LabelClass, Vocabulary
from cliploom.transforms.tfrecords.write import encode_video

CLASSES = tuple(HeadClass(label, f"class {label}") for label in (2, 5, 9))
RANDOM = np.random.default_rng(3)


def spec_of(**settings: object) -> HeadSpec:
    return HeadSpec.model_validate({"inputs": [{"feature": "yt", "output": "rgb"}]} | settings)


def videos_of(count: int, seed: int, dim: int = 4) -> Videos:
    """Videos whose label is which of three directions their vector points to most, now and then with a second one."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, dim)).astype(np.float32)
    best = vectors[:, :3].argmax(axis=1)
    numbers = [each.label for each in CLASSES]
    labels = [tuple(sorted({numbers[place], numbers[(place * row) % 3]})) for row, place in enumerate(best)]
    return Videos(vectors, labels)


def softplus_terms(truth: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Binary cross-entropy of each class, float64."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return np.asarray(-(truth * np.log(p) + (1 - truth) * np.log(1 - p)))


@pytest.mark.parametrize("loss", ["cross_entropy", "hamming", "weighted_hamming"])
def test_losses_are_those_of_the_formulas(loss: str) -> None:
    truth = RANDOM.integers(0, 2, (5, 3)).astype(np.float32)
    logits = RANDOM.normal(size=(5, 3)).astype(np.float32) * 3
    weights = np.array([0.5, 1.0, 3.0])
    terms = softplus_terms(truth, logits)
    if loss == "weighted_hamming":
        terms = terms * weights**2
    wanted = terms.mean() if loss == "cross_entropy" else terms.sum(axis=1).mean()
    assert float(loss_of(spec_of(loss=loss, weight_scale=2), weights)(truth, logits)) == pytest.approx(wanted, rel=1e-5)


def test_a_loss_stays_finite_where_the_model_is_sure_and_wrong() -> None:
    found = loss_of(spec_of(), np.ones(1))(np.array([[1.0]], np.float32), np.array([[-300.0]], np.float32))
    assert float(found) == pytest.approx(300)


def test_class_weights_are_those_of_the_data_set() -> None:
    # sum(count) / (classes * count), counts 3, 1 and, for a class without a video, 1
    weights = class_weights([(2,), (2,), (2, 5), (77,)], CLASSES)
    np.testing.assert_allclose(weights, [5 / 9, 5 / 3, 5 / 3])
    np.testing.assert_allclose(
        weights_of_counts([788288, 539945, 123]),
        Vocabulary({n: LabelClass(n, "", count) for n, count in enumerate([788288, 539945, 123])}).weights(),
    )


@pytest.mark.parametrize(("dim", "parameters"), [(1024, 3_958_550), (1152, 4_452_886)])
def test_the_model_has_as_many_parameters_as_the_published_one(dim: int, parameters: int) -> None:
    assert regression(dim, 3862, spec_of(), loss_of(spec_of(), np.ones(3862))).count_params() == parameters


def run_training(folder: Path, spec: HeadSpec, on_stage: object = None) -> TrainingState:
    folder.mkdir(parents=True, exist_ok=True)
    said = on_stage if callable(on_stage) else lambda text: None
    return train(videos_of(200, 1), videos_of(80, 2), CLASSES, spec, lambda vectors, texts: vectors, folder, said)


def test_a_head_learns_and_the_best_epoch_is_kept(tmp_path: Path) -> None:
    state = run_training(tmp_path, spec_of(epochs=12, learning_rate=0.1, batch=64))
    assert state.epochs[-1].hit_at_1 > 0.9
    assert state.epochs[0].validation_loss > state.epochs[-1].validation_loss
    assert state.epochs[state.best - 1].validation_loss == min(each.validation_loss for each in state.epochs)
    # One positive weight a class, on its own direction.
    assert state.kernel[:3].argmax(axis=0).tolist() == [0, 1, 2]
    (log,) = (tmp_path / "logs").iterdir()
    tags = [value.tag for event in tf.compat.v1.train.summary_iterator(str(log)) for value in event.summary.value]
    assert tags == ["loss", "validation_loss", "hit_at_1"] * 12


def test_training_stops_early(tmp_path: Path) -> None:
    state = run_training(tmp_path, spec_of(epochs=50, learning_rate=30.0, batch=50, patience=2))
    assert len(state.epochs) == state.best + 2 < 50


def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    spec = spec_of(epochs=6, batch=64, seed=4)
    whole = run_training(tmp_path / "whole", spec)
    told: list[str] = []

    def on_stage(text: str) -> None:
        told.append(text)
        if len(told) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "killed", spec, on_stage)
    assert len(TrainingState.read(tmp_path / "killed" / "state.npz").epochs) == 1
    resumed = run_training(tmp_path / "killed", spec, on_stage)
    assert told[1] == "resuming after epoch 1"
    np.testing.assert_array_equal(resumed.kernel, whole.kernel)
    np.testing.assert_array_equal(resumed.bias, whole.bias)
    figures = [(each.epoch, each.loss, each.validation_loss, each.hit_at_1) for each in resumed.epochs]
    assert figures == [(each.epoch, each.loss, each.validation_loss, each.hit_at_1) for each in whole.epochs]


def test_a_loss_that_explodes_is_reported_with_the_fix(tmp_path: Path) -> None:
    videos = Videos(np.full((8, 4), 3e38, np.float32), [(2,)] * 8)
    with pytest.raises(CliploomError, match="learning_rate below"):
        train(videos, videos, CLASSES, spec_of(), lambda vectors, texts: vectors, tmp_path, lambda text: None)


@pytest.mark.parametrize("unit", [False, True])
def test_the_saved_model_says_what_the_plain_form_says(tmp_path: Path, unit: bool) -> None:
    inputs = (InputColumn("yt", "rgb", "mean_rgb", 6, ""), InputColumn("yt", "audio", "mean_audio", 3, ""))
    kernel, bias = RANDOM.normal(size=(9, 3)).astype(np.float32), RANDOM.normal(size=3).astype(np.float32)
    head = PlainHead(card_of(inputs, CLASSES, transform={"unit": unit}), kernel, bias)
    write_saved_model(head, tmp_path / "saved")
    vectors = RANDOM.normal(size=(5, 9)).astype(np.float32)
    vectors[0, :6] = 0
    wanted = head.probabilities(vectors)
    np.testing.assert_allclose(wanted, sigmoid(transformed(head.card, vectors) @ kernel + bias))
    model = tf.saved_model.load(str(tmp_path / "saved"))
    tensors = {"mean_rgb": tf.constant(vectors[:, :6]), "mean_audio": tf.constant(vectors[:, 6:])}
    found = model.signatures[TENSORS](**tensors)["probabilities"]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    records = [encode_video(Yt8mVideo("id", (), row[:6].copy(), row[6:].copy())) for row in vectors]
    served = model.signatures[EXAMPLES](examples_bytes=tf.constant(records))["probabilities"]
    np.testing.assert_allclose(served, wanted, atol=1e-6)


def test_unit_inputs_have_length_one_each() -> None:
    inputs = (InputColumn("yt", "rgb", "a", 2, ""), InputColumn("yt", "audio", "b", 1, ""))
    card = card_of(inputs, CLASSES, transform={"unit": True})
    found = transformed(card, np.float32([[3, 4, -2], [0, 0, 0]]))
    np.testing.assert_allclose(found, [[0.6, 0.8, -1], [0, 0, 0]], atol=1e-7)


SPEC = """\
version: 1
name: shards
store: ./store
sources:
  train: {kind: tfrecord, format: yt8m_video, glob: "in/train*.tfrecord", rgb: 4, audio: 2, vocabulary: classes.csv}
  valid: {kind: tfrecord, format: yt8m_video, glob: "in/valid*.tfrecord", rgb: 4, audio: 2, vocabulary: classes.csv}
features:
  train: {source: train}
  valid: {source: valid}
heads:
  labels:
    inputs: [{feature: train, output: rgb}, {feature: train, output: audio}]
    validation: [{feature: valid, output: rgb}, {feature: valid, output: audio}]
    epochs: 5
    learning_rate: 0.1
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec with a training and a validation source, and its store."""
    folder = tmp_path_factory.mktemp("shards")
    (folder / "in").mkdir()
    (folder / "classes.csv").write_text("Index,Name\n5,Five\n2,Two\n9,Nine\n11,Never\n")
    for name, count, seed in (("train", 90, 1), ("valid", 40, 2)):
        videos = videos_of(count, seed, 6)
        records = [
            encode_video(Yt8mVideo(f"{name}{row}", labels, vector[:4].copy(), vector[4:].copy()))
            for row, (vector, labels) in enumerate(zip(videos.vectors, videos.labels, strict=True))
        ]
        with (folder / "in" / f"{name}.tfrecord").open("wb") as stream:
            write_records(stream, records)
    (folder / "spec.yaml").write_text(SPEC)
    document = load_document(folder / "spec.yaml")
    run_spec(parse_document(document), document, folder, RunOptions(), lambda text: None)
    return folder


def trained(folder: Path, *overrides: str) -> Trained:
    return train_head(load_spec(folder / "spec.yaml", overrides), folder, "labels", lambda text: None)


def test_a_head_is_published_whole_with_what_it_was_made_from(shards: Path) -> None:
    found = trained(shards)
    folder = shards / "store" / found.model
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "card.json",
        "curves.png",
        "logs",
        "saved_model",
        "weights.npz",
    }
    card = read_head(ObjectStore(shards / "store"), found.model).card
    assert card == found.card
    assert (card.release, card.source, card.validation_source) == (1, "train", "valid")
    assert card.videos == {"train": 90, "validation": 40}
    assert [(each.label, each.name) for each in card.classes] == [(2, "Two"), (5, "Five"), (9, "Nine"), (11, "Never")]
    assert card.metrics["hit_at_1"] > card.majority
    assert not (shards / "store" / "training").exists() or not list((shards / "store" / "training").iterdir())
    page = (folder / "README.md").read_text()
    assert "| data | release 1" in page
    assert "train.rgb [4], train.audio [2]" in page
    assert Image.open(folder / "curves.png").size == (640, 360)
    measured = evaluate_head(str(shards / "store"), "labels")
    assert measured.labels.hit_at_1 == pytest.approx(card.metrics["hit_at_1"])
    assert measured.source == "valid"


def test_the_same_data_is_not_learned_twice_and_the_choice_can_go_back(shards: Path) -> None:
    first, again = trained(shards), trained(shards)
    assert not again.fresh
    assert again.model == first.model
    other = trained(shards, "heads.labels.l2=0.1", "heads.labels.epochs=1")
    assert other.fresh
    assert other.model != first.model
    current = shards / "store" / "models" / "head-labels" / "current.json"
    assert json.loads(current.read_text())["digest"] in other.model
    trained(shards)
    assert json.loads(current.read_text())["digest"] in first.model


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["store=./nothing"], StoreError, "has no release to train on"),
        (
            ["heads.labels.validation=[{feature: valid, output: rgb}, {feature: valid, output: rgb}]"],
            SpecError,
            "widths",
        ),
    ],
)
def test_what_can_not_be_learned_is_reported(shards: Path, overrides: list[str], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        trained(shards, *overrides)


def test_an_unknown_head_is_reported(shards: Path) -> None:
    with pytest.raises(SpecError, match="There is no head 'label'; did you mean 'labels'"):
        train_head(load_spec(shards / "spec.yaml"), shards, "label", lambda text: None)


@pytest.mark.slow
def test_clips_in_class_folders_are_learned_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = command(capsys)
    jobs = [job for job in class_corpus(0) if job.item.scenes[0].subject in ("cat", "coffee", "motorcycle", "flower")]
    spec, store = write_files(tmp_path / "demo", jobs, "labels.yaml").spec, tmp_path / "demo" / "store"
    unseen = tmp_path / "unseen.mp4"
    (tmp_path / "demo" / "media" / "coffee" / "coffee-8.mp4").rename(unseen)
    assert call("run", spec).code == 0
    ended = call("train", spec, "--head", "labels", "--set", "heads.labels.epochs=30", "--json")
    card = json.loads(ended.out)["card"]
    assert card["videos"]["train"] + card["videos"]["validation"] == 35
    assert card["metrics"]["hit_at_1"] >= card["majority"] + 0.5
    before = open_store(str(store)).release
    ended = call("run", spec)
    assert "tags: 35 new; labels by head labels" in ended.out
    after = open_store(str(store)).release
    assert after.features == before.features
    hits = json.loads(call("search", store, "a cup of coffee", "--top", "1", "--json").out)
    assert [label["name"] for label in hits[0]["labels"][:2]] == ["coffee", "coffee"]
    assert [label["origin"] for label in hits[0]["labels"][:2]] == ["given", "predicted:tags"]
    assert "[coffee; tags: coffee" in call("search", store, "a cup of coffee", "--top", "1").out
    assert call("predict", store, unseen, "--head", "labels").out.startswith("coffee: ")
    shards = sorted(str(store / file.path) for file in after.exports["shards"].files)
    assert sum(1 for _ in tf.data.TFRecordDataset(shards)) == 35
