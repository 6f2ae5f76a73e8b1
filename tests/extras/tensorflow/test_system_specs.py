"""The packaged specs whose heads are trained with Keras, from files to a search answer, with stand-ins for models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from media_factory import write_video
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from system_project import SystemProject
from tensorflow_models import write_frozen
from test_two_tower import NOUNS, VERBS, write_videos

from cliploom.pipelines.training.predict import predict_file
from cliploom.schemas.tfrecords import Yt8mFrames
from cliploom.transforms.store.quantize import encode
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.write import encode_frames

ACTIONS = ("opening a door", "playing a guitar", "cutting an onion", "washing the car")


def test_ego4d_narrations_find_moments_and_actions_name_videos(tmp_path: Path) -> None:
    smaller = "heads.joint={kind: two_tower, pairs: pairs, dims: [64, 32], batch: 32, epochs: 12, learning_rate: 2e-3}"
    shares = "exports.pairs.splits={shares: {train: 75%, validation: 25%}}"
    project = SystemProject(tmp_path, "ego4d", [smaller, shares])
    (tmp_path / "actions.txt").write_text("\n".join(ACTIONS) + "\n")
    for folder in ("v1/annotations", "v1/omnivore_video_swinl", "made"):
        (tmp_path / folder).mkdir(parents=True)
    write_videos(tmp_path / "made", dim=1536)
    (tmp_path / "made" / "narration.json").rename(tmp_path / "v1" / "annotations" / "narration.json")
    for path in (tmp_path / "made" / "feats").iterdir():
        path.rename(tmp_path / "v1" / "omnivore_video_swinl" / path.name)
    project.run()
    assert any("tags waits: moments, which head 'actions' reads" in line for line in project.said)
    card = project.train("joint").card
    assert card.metrics["recall@10"] > 2 * card.metrics["chance@10"]  # type: ignore[union-attr]
    result = project.run()
    assert result.release.features["moments"].outputs["embedding"].text
    narrations = json.loads((tmp_path / "v1" / "annotations" / "narration.json").read_text())
    store, found = project.store(), []
    for verb in VERBS:
        for noun in NOUNS:
            (hit,) = store.search(f"Camera wearer {verb} {noun}", index=["moments"], top=1)
            said = [each["narration_text"] for each in narrations[hit.uid]["narration_pass_1"]["narrations"]]
            found.append(any(f"{verb} {noun}" in text for text in said))
    assert np.mean(found) > 0.3  # a video has 12 of 48 sentences
    labels = store.labels([f"v{number:02}" for number in range(16)])
    assert len(labels) == 16
    assert {label.name for each in labels.values() for label in each} <= set(ACTIONS)
    assert not project.run().changed


def write_shard(path: Path, count: int, seed: int) -> None:
    """Records of the data set's shape: 1,024 codes of RGB and 128 of audio a second; the label is a direction."""
    random = np.random.default_rng(seed)
    directions = np.random.default_rng(9).normal(size=(3, 1024))
    records = []
    for number in range(count):
        label = number % 3
        rgb = 0.5 * random.normal(size=(3, 1024)) + 0.8 * directions[label]
        audio = random.integers(0, 256, (3, 128), np.uint8)
        records.append(Yt8mFrames(f"{path.stem}-{number:03}", (label,), encode(rgb.astype(np.float32)), audio))
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as stream:
        write_records(stream, (encode_frames(record) for record in records))


def test_youtube8m_labels_are_learned_and_predicted_for_own_videos(tmp_path: Path) -> None:
    project = SystemProject(tmp_path, "youtube8m", ["heads.labels.epochs=20"])
    write_shard(tmp_path / "frame" / "train00.tfrecord", 30, 0)
    write_shard(tmp_path / "frame" / "train01.tfrecord", 30, 1)
    write_shard(tmp_path / "frame" / "validate00.tfrecord", 18, 2)
    names = ("Game", "Vehicle", "Concert")
    rows = "".join(f"{index},20,/m/{index},{name},,,,,\n" for index, name in enumerate(names))
    columns = "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,Vertical1,Vertical2,Vertical3,WikiDescription\n"
    (tmp_path / "vocabulary.csv").write_text(columns + rows)
    write_frozen(tmp_path / "classify_image_graph_def.pb", features=2048)
    random = np.random.default_rng(3)
    (tmp_path / "yt8m_pca").mkdir()
    for name, values in (
        ("mean", random.normal(size=2048)),
        ("eigenvals", np.linspace(2, 1, 1024)),
        ("eigenvecs", np.linalg.qr(random.normal(size=(2048, 1024)))[0].T),
    ):
        np.save(tmp_path / "yt8m_pca" / f"{name}.npy", values.astype(np.float32))
    (tmp_path / "clips").mkdir()
    for number in range(2):
        write_video(tmp_path / "clips" / f"{number}.mp4", 60, size=(64 + 32 * number, 64))
    project.run()
    assert any("tags waits: head 'labels' is not trained yet" in line for line in project.said)
    card = project.train("labels").card
    assert card.metrics["hit_at_1"] > 0.8
    result = project.run()
    assert result.release.features["frames"].outputs["pool"].dim == 1024
    store = project.store()
    assert set(store.labels(["0.mp4", "1.mp4"])) == {("clips", "0.mp4"), ("clips", "1.mp4")}
    predicted = predict_file(str(tmp_path / "store"), "labels", str(tmp_path / "clips" / "0.mp4"), print)
    assert {label.name for label in predicted} == set(names)
    (hit,) = store.search(like="0.mp4", index=["frames"], top=1)
    assert hit.uid == "1.mp4"


COLOURS = {
    "red": (230, 20, 20),
    "green": (20, 230, 20),
    "blue": (20, 20, 230),
    "yellow": (230, 230, 20),
    "cyan": (20, 230, 230),
    "magenta": (230, 20, 230),
    "white": (235, 235, 235),
    "orange": (235, 125, 20),
}


def write_vgg(path: Path) -> None:
    """An ONNX file of the signature of VGG16's features: [1, 3, 224, 224] to [1, 512, 7, 7]."""
    kernel = np.random.default_rng(1).normal(size=(512, 3, 32, 32)).astype(np.float32) / 32
    kernel = np.repeat(np.repeat(kernel.mean((2, 3), keepdims=True), 32, 2), 32, 3)
    taken = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 224, 224])
    given = helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 512, 7, 7])
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["maps"], strides=[32, 32]),
        helper.make_node("Relu", ["maps"], ["features"]),
    ]
    graph = helper.make_graph(nodes, "vgg", [taken], [given], [numpy_helper.from_array(kernel, "kernel")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_image_search_finds_a_class_that_training_never_saw_by_its_word(tmp_path: Path) -> None:
    vgg: dict[str, Any] = {
        "kind": "onnx",
        "model": "vgg16.onnx",
        "input": {"layout": "nchw", "width": 224, "height": 224, "fit": "squash", "offset": 127.5, "scale": 127.5},
        "outputs": {"conv": {"node": "features", "pool": "flatten"}},
    }
    project = SystemProject(
        tmp_path,
        "image-search-by-word",
        [
            f"encoders.vgg16={json.dumps(vgg)}",
            "heads.words.unseen=[orange]",
            "heads.words.hidden=[64]",
            "heads.words.epochs=30",
        ],
    )
    write_vgg(tmp_path / "vgg16.onnx")
    random = np.random.default_rng(4)
    lines = [f"{len(COLOURS) + 1} 300", "picture " + " ".join(["0.1"] * 300)]
    for name, colour in COLOURS.items():
        vector = np.resize((np.array(colour) - 127.5) / 127.5, 300)
        lines.append(f"{name} " + " ".join(f"{value:.4f}" for value in vector))
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(6):
            pixels = np.clip(np.array(colour) + random.normal(0, 12, (64, 64, 3)) + random.normal(0, 8, 3), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "wiki.en.vec").write_text("\n".join(lines) + "\n")
    project.run()
    card = project.train("words").card
    assert card.metrics["unseen_hit@1"] == 1.0
    result = project.run()
    assert result.release.features["looks"].outputs["conv"].dim == 25_088
    assert result.release.features["words"].outputs["embedding"].dim == 300
    hits = project.store().search("orange", index=["words"], top=6)
    assert sum(hit.uid.startswith("orange/") for hit in hits) >= 4


@pytest.fixture(autouse=True)
def in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
