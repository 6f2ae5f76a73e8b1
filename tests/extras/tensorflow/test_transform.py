"""A head's learned steps: tf.Transform's graph, the numpy form and the SavedModel give the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from heads import card_of
from numpy.typing import NDArray

from pipelines.run import RunOptions, run_spec
from pipelines.runner import run_graph
from pipelines.train import train_head
from schemas.errors import SpecError
from schemas.heads import HeadClass, HeadSpec, InputColumn
from schemas.spec import Target
from schemas.spec_file import load_document, parse_document
from schemas.tfrecords import Yt8mVideo
from transforms.heads.plain import PlainHead, transformed
from transforms.heads.saved_model import EXAMPLES, TENSORS, write_saved_model
from transforms.heads.transform import LearnedStep
from transforms.heads.transform_fit import StepsTask, TransformGraph, learn
from transforms.tfrecords.framing import write_records
from transforms.tfrecords.write import encode_example, encode_video

INPUTS = (
    InputColumn("yt", "rgb", "mean_rgb", 6, ""),
    InputColumn("yt", "age", "age", 2, ""),
    InputColumn("yt", "channel", "channel", 1, ""),
)
STEPS = [
    {"kind": "zscore", "input": "mean_rgb"},
    {"kind": "pca", "input": "mean_rgb", "components": 3},
    {"kind": "range", "input": "mean_rgb", "low": -1, "high": 1},
    {"kind": "buckets", "input": "age", "count": 4},
    {"kind": "vocabulary", "input": "channel", "size": 3},
]
CLASSES = tuple(HeadClass(label, f"class {label}") for label in (2, 5))
ROWS = 500


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    rgb = rng.normal(size=(ROWS, 6)) @ rng.normal(size=(6, 6)) + 2
    rgb[:, 4] = 7.0  # A number that is always the same has no spread.
    channel = rng.choice([-3, 8, 12, 40], size=(ROWS, 1), p=[0.1, 0.2, 0.3, 0.4])
    return np.concatenate([rgb, rng.exponential(size=(ROWS, 2)), channel], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def task(vectors: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> StepsTask:
    folder = tmp_path_factory.mktemp("transform")
    (folder / "train.f32").write_bytes(vectors.tobytes())
    spec = HeadSpec.model_validate({"inputs": [{"feature": "yt"}], "transform": {"steps": STEPS}})
    return StepsTask(str(folder / "train.f32"), ROWS, tuple(spec.transform.steps), INPUTS, str(folder / "made"))


@pytest.fixture(scope="module")
def steps(task: StepsTask) -> tuple[LearnedStep, ...]:
    return learn(task, lambda build: run_graph(build, Target()))


def test_steps_learn_from_all_rows(steps: tuple[LearnedStep, ...], vectors: NDArray[np.float32]) -> None:
    zscore, pca, scale, buckets, vocabulary = steps
    rgb = vectors[:, :6].astype(np.float64)
    np.testing.assert_allclose(zscore.constants["mean"], rgb.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(zscore.constants["deviation"], rgb.std(axis=0), rtol=1e-4, atol=1e-5)
    projected = pca.apply(zscore.apply(vectors[:, :6]))
    covariance = np.cov(projected.T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-3)
    assert (np.diff(np.diag(covariance)) <= 0).all()
    found = scale.apply(projected)
    np.testing.assert_allclose(found.min(axis=0), -1, atol=1e-5)
    np.testing.assert_allclose(found.max(axis=0), 1, atol=1e-5)
    filled = buckets.apply(vectors[:, 6:8]).reshape(ROWS, 2, 4).sum(axis=0)
    np.testing.assert_allclose(filled, ROWS / 4, atol=ROWS * 0.05)
    assert vocabulary.constants["values"].tolist() == [40, 12, 8]
    assert vocabulary.apply(np.float32([[12], [-3]])).tolist() == [[0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("unit", [False, True])
def test_graph_numpy_and_saved_model_give_the_same_numbers(
    task: StepsTask, steps: tuple[LearnedStep, ...], vectors: NDArray[np.float32], tmp_path: Path, unit: bool
) -> None:
    card = card_of(INPUTS, CLASSES, transform={"steps": STEPS, "unit": unit})
    # Rows that nothing was learned from, far out ones among them.
    asked = vectors[:40] * np.float32(1.7)
    asked[:, 8] = np.resize([40, 8, -3, 99], 40)
    plain = transformed(card, asked, steps)
    assert plain.shape == (40, 3 + 8 + 3)
    columns = np.split(asked, [6, 8], axis=1)
    if not unit:
        found = TransformGraph(Path(task.folder), 3).blocks([tf.constant(each) for each in columns])
        graph = np.concatenate(found, axis=1)
        np.testing.assert_allclose(plain, graph, rtol=1e-5, atol=1e-5)
    rng = np.random.default_rng(1)
    head = PlainHead(card, rng.normal(size=(14, 2)).astype(np.float32), np.float32([0.1, -0.2]), steps)
    write_saved_model(head, tmp_path / "saved", Path(task.folder))
    model = tf.saved_model.load(str(tmp_path / "saved"))
    wanted = head.probabilities(asked)
    named = dict(zip((each.name for each in INPUTS), columns, strict=True))
    tensors = model.signatures[TENSORS](**{name: tf.constant(value) for name, value in named.items()})
    np.testing.assert_allclose(tensors["probabilities"], wanted, atol=1e-5)
    examples = [encode_example({name: value[row] for name, value in named.items()}) for row in range(len(asked))]
    served = model.signatures[EXAMPLES](examples_bytes=tf.constant(examples))
    np.testing.assert_allclose(served["probabilities"], wanted, atol=1e-5)


SPEC = """\
version: 1
name: steps
store: ./store
sources:
  yt: {kind: tfrecord, format: yt8m_video, glob: "*.tfrecord", rgb: 5, audio: 2}
encoders:
  tagger: {kind: head, head: labels, top: 3}
features:
  yt: {source: yt}
  tags: {source: yt, encoder: tagger}
heads:
  labels:
    inputs: [{feature: yt, output: rgb}, {feature: yt, output: audio}]
    holdout: 25%
    epochs: 8
    learning_rate: 0.1
    transform:
      unit: true
      steps:
        - {kind: zscore, input: mean_rgb}
        - {kind: pca, input: mean_rgb, components: 3}
        - {kind: buckets, input: mean_audio, count: 5}
"""


@pytest.mark.slow
def test_a_run_predicts_what_the_saved_model_alone_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    records: dict[str, bytes] = {}
    for row in range(120):
        rgb, audio = rng.normal(size=5).astype(np.float32) * 50 + 7, rng.normal(size=2).astype(np.float32)
        labels = (int(rgb[:3].argmax()),)
        records[f"v{row}"] = encode_video(Yt8mVideo(f"v{row}", labels, rgb, audio))
    with (tmp_path / "a.tfrecord").open("wb") as stream:
        write_records(stream, records.values())
    (tmp_path / "spec.yaml").write_text(SPEC)
    document = load_document(tmp_path / "spec.yaml")
    spec = parse_document(document)
    run_spec(spec, document, tmp_path, RunOptions(), lambda text: None)
    found = train_head(spec, tmp_path, "labels", lambda text: None)
    folder = tmp_path / "store" / found.model
    assert {"transform", "transform.npz", "saved_model"} <= {path.name for path in folder.iterdir()}
    assert found.card.metrics["hit_at_1"] > found.card.majority
    release = run_spec(spec, document, tmp_path, RunOptions(), lambda text: None).release
    assert release is not None
    labels = pl.scan_delta(str(tmp_path / "store/labels"), version=release.tables["labels"]).collect()
    predicted = labels.filter(pl.col("origin") == "predicted:tags").sort("uid", "label")
    assert predicted.height == 3 * len(records)
    model = tf.saved_model.load(str(folder / "saved_model"))
    names = sorted(records)
    served = model.signatures[EXAMPLES](examples_bytes=tf.constant([records[name] for name in names]))
    scores = predicted["score"].to_numpy().reshape(len(names), 3)
    np.testing.assert_allclose(scores, served["probabilities"], atol=1e-5)


def test_a_step_for_an_input_that_is_not_there_is_told_before_anything_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.tfrecord").open("wb") as stream:
        video = Yt8mVideo("v", (1,), np.ones(5, np.float32), np.ones(2, np.float32))
        write_records(stream, [encode_video(video)])
    (tmp_path / "spec.yaml").write_text(SPEC.replace("input: mean_audio", "input: mean_adio"))
    document = load_document(tmp_path / "spec.yaml")
    run_spec(parse_document(document), document, tmp_path, RunOptions(), lambda text: None)
    with pytest.raises(SpecError, match=r"heads\.labels\.transform\.steps\.2\.input: .*mean_audio"):
        train_head(parse_document(document), tmp_path, "labels", lambda text: None)
