"""A head's learned steps: tf.Transform's graph, the numpy form and the SavedModel give the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from heads import card_of
from numpy.typing import NDArray

from cliploom.pipelines.launching.runner import run_graph
from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.pipelines.training.evaluate import evaluate_head
from cliploom.pipelines.training.train import train_head
from cliploom.schemas.errors import SpecError
from cliploom.schemas.heads import HeadClass, HeadSpec, InputColumn
from cliploom.schemas.spec import Target
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.schemas.tfrecords import Yt8mVideo
from cliploom.transforms.heads.dataset import write_texts
from cliploom.transforms.heads.plain import PlainHead, transformed
from cliploom.transforms.heads.saved_model import EXAMPLES, TENSORS, write_saved_model
from cliploom.transforms.heads.transform import LearnedStep
from cliploom.transforms.heads.transform_fit import StepsTask, TransformGraph, learn
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.write import encode_example, encode_video

INPUTS = (
    InputColumn("yt", "rgb", "mean_rgb", 6, ""),
    InputColumn("yt", "age", "age", 2, ""),
    InputColumn("yt", "channel", "channel", 1, ""),
    InputColumn("yt", "place", "place", 0, "", "text"),
)
STEPS = [
    {"kind": "zscore", "input": "mean_rgb"},
    {"kind": "pca", "input": "mean_rgb", "components": 3},
    {"kind": "range", "input": "mean_rgb", "low": -1, "high": 1},
    {"kind": "buckets", "input": "age", "count": 4},
    {"kind": "vocabulary", "input": "channel", "size": 3},
    {"kind": "vocabulary", "input": "place", "size": 3},
    {"kind": "zscore", "input": "place"},
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


PLACES = ("Zürich", " a b ", "one\nmore", "", "rare")


@pytest.fixture(scope="module")
def places() -> NDArray[np.object_]:
    """Texts [n, 1]; tf.Transform never takes up empty ones and those of several lines."""
    drawn = np.random.default_rng(1).choice(len(PLACES), size=(ROWS, 1), p=[0.3, 0.2, 0.2, 0.2, 0.1])
    return np.array(PLACES, object)[drawn]


@pytest.fixture(scope="module")
def task(
    vectors: NDArray[np.float32], places: NDArray[np.object_], tmp_path_factory: pytest.TempPathFactory
) -> StepsTask:
    folder = tmp_path_factory.mktemp("transform")
    (folder / "train.f32").write_bytes(vectors.tobytes())
    write_texts(folder / "texts", ["place"], [tuple(row) for row in places])
    spec = HeadSpec.model_validate({"inputs": [{"feature": "yt"}], "transform": {"steps": STEPS}})
    steps, files = tuple(spec.transform.steps), (str(folder / name) for name in ("train.f32", "made", "texts"))
    vectors_file, made, texts_file = files
    return StepsTask(vectors_file, ROWS, steps, INPUTS, made, texts_file)


@pytest.fixture(scope="module")
def steps(task: StepsTask) -> tuple[LearnedStep, ...]:
    return learn(task, lambda build: run_graph(build, Target()))


def test_steps_learn_from_all_rows(
    steps: tuple[LearnedStep, ...], vectors: NDArray[np.float32], places: NDArray[np.object_]
) -> None:
    zscore, pca, scale, buckets, vocabulary, words, scaled = steps
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
    assert words.words == ("Zürich", " a b ", "rare")
    shares = [(places == word).mean() for word in words.words]
    np.testing.assert_allclose(scaled.constants["mean"], shares, rtol=1e-5)


@pytest.mark.parametrize("unit", [False, True])
def test_graph_numpy_and_saved_model_give_the_same_numbers(
    task: StepsTask,
    steps: tuple[LearnedStep, ...],
    vectors: NDArray[np.float32],
    places: NDArray[np.object_],
    tmp_path: Path,
    unit: bool,
) -> None:
    card = card_of(INPUTS, CLASSES, transform={"steps": STEPS, "unit": unit})
    # Rows that nothing was learned from, far out ones among them.
    asked = vectors[:40] * np.float32(1.7)
    asked[:, 8] = np.resize([40, 8, -3, 99], 40)
    texts = np.concatenate([places[:39], np.array([["never seen"]], object)])
    plain = transformed(card, asked, steps, texts)
    assert plain.shape == (40, 3 + 8 + 3 + 3)
    columns = [*np.split(asked, [6, 8], axis=1), texts]
    if not unit:
        found = TransformGraph(Path(task.folder), 3).blocks([tf.constant(each) for each in columns])
        graph = np.concatenate(found, axis=1)
        np.testing.assert_allclose(plain, graph, rtol=1e-5, atol=1e-5)
    rng = np.random.default_rng(1)
    head = PlainHead(card, rng.normal(size=(17, 2)).astype(np.float32), np.float32([0.1, -0.2]), steps)
    write_saved_model(head, tmp_path / "saved", Path(task.folder))
    model = tf.saved_model.load(str(tmp_path / "saved"))
    wanted = head.probabilities(asked, texts)
    named = dict(zip((each.name for each in INPUTS), columns, strict=True))
    tensors = model.signatures[TENSORS](**{name: tf.constant(value) for name, value in named.items()})
    np.testing.assert_allclose(tensors["probabilities"], wanted, atol=1e-5)
    values = {name: value[:, 0] if name == "place" else value for name, value in named.items()}
    examples = [encode_example({name: value[row] for name, value in values.items()}) for row in range(len(asked))]
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


EXAMPLES_SPEC = """\
version: 1
name: columns
store: ./store
sources:
  mine:
    kind: tfrecord
    format: example
    glob: "*.tfrecord"
    id: key
    labels: classes
    fields: {embedding: {width: 4}, age: {width: 1, type: int64}, codes: {width: 2, type: uint8}, channel: {type: text}}
encoders:
  tagger: {kind: head, head: labels, top: 3}
features:
  mine: {source: mine}
  tags: {source: mine, encoder: tagger}
heads:
  labels:
    inputs:
      - {feature: mine, output: embedding, name: embedding}
      - {feature: mine, output: age, name: age}
      - {feature: mine, output: codes, name: codes}
      - {feature: mine, output: channel}
    holdout: 25%
    epochs: 20
    learning_rate: 0.1
    transform:
      steps:
        - {kind: zscore, input: embedding}
        - {kind: buckets, input: age, count: 3}
        - {kind: vocabulary, input: channel, size: 4}
"""


@pytest.mark.slow
def test_columns_of_examples_are_learned_from_and_served_from_the_records_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    channels = ["news", "Fußball", "music", ""]
    records: dict[str, bytes] = {}
    for row in range(160):
        # The label is the channel's: only the text tells.
        channel = int(rng.integers(4))
        values = {
            "key": f"v{row:03}",
            "embedding": rng.normal(size=4).astype(np.float32),
            "age": np.array([rng.integers(90)]),
            "codes": rng.integers(0, 256, 2, np.uint8),
            "channel": channels[channel] if row else "seen once",
            "classes": np.array([channel]),
        }
        records[f"v{row:03}"] = encode_example(values)
    for name, some in (("a", list(records)[:70]), ("b", list(records)[70:])):
        with (tmp_path / f"{name}.tfrecord").open("wb") as stream:
            write_records(stream, [records[key] for key in some])
    (tmp_path / "spec.yaml").write_text(EXAMPLES_SPEC)
    document = load_document(tmp_path / "spec.yaml")
    spec = parse_document(document)
    run_spec(spec, document, tmp_path, RunOptions(), lambda text: None)
    found = train_head(spec, tmp_path, "labels", lambda text: None)
    assert found.card.metrics["hit_at_1"] > 0.9
    assert evaluate_head(str(tmp_path / "store"), "labels").labels.hit_at_1 == pytest.approx(
        found.card.metrics["hit_at_1"]
    )
    folder = tmp_path / "store" / found.model
    assert "mine.channel (text)" in (folder / "README.md").read_text()
    release = run_spec(spec, document, tmp_path, RunOptions(), lambda text: None).release
    assert release is not None
    labels = pl.scan_delta(str(tmp_path / "store/labels"), version=release.tables["labels"]).collect()
    predicted = labels.filter(pl.col("origin") == "predicted:tags").sort("uid", "score", descending=[False, True])
    model = tf.saved_model.load(str(folder / "saved_model"))
    names = sorted(records)
    served = model.signatures[EXAMPLES](examples_bytes=tf.constant([records[name] for name in names]))
    best = np.sort(served["probabilities"].numpy(), axis=1)[:, ::-1][:, :3]
    np.testing.assert_allclose(predicted["score"].to_numpy().reshape(len(names), 3), best, atol=1e-5)


def test_a_step_for_an_input_that_is_not_there_is_reported_before_anything_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.tfrecord").open("wb") as stream:
        video = Yt8mVideo("v", (1,), np.ones(5, np.float32), np.ones(2, np.float32))
        write_records(stream, [encode_video(video)])
    (tmp_path / "spec.yaml").write_text(SPEC.replace("input: mean_audio", "input: mean_adio"))
    document = load_document(tmp_path / "spec.yaml")
    run_spec(parse_document(document), document, tmp_path, RunOptions(), lambda text: None)
    with pytest.raises(SpecError, match=r"heads\.labels\.transform\.steps\.2\.input: .*mean_audio"):
        train_head(parse_document(document), tmp_path, "labels", lambda text: None)
