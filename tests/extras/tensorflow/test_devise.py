"""DeViSE and ConSE: losses, and pictures found by words that training never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cliploom.pipelines.demo.corpus import class_corpus
from cliploom.pipelines.demo.make import write_files
from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.pipelines.training.train import Trained, train_head
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec_file import load_document, load_spec, parse_document
from cliploom.schemas.vector_heads import DeviseSpec, VectorHeadCard
from cliploom.transforms.heads.devise import DeviseLearner, LabelledItems, devise_loss, measure_words, tower_of
from cliploom.transforms.heads.tower_training import train_epochs
from cliploom.transforms.search.searching import open_store

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (40, 60, 220),
    "yellow": (240, 220, 40),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "cross", "star")
UNSEEN = ("red square", "blue star")
SPEC = """\
version: 1
name: shapes
store: ./store
sources:
  pictures: {kind: media, glob: "media/*/*.png", labels: folder}
encoders:
  minilm: {kind: minilm}
  lite0: {kind: efficientnet_lite0}
  worded: {kind: head, head: words}
features:
  frames: {source: pictures, sample: {every: 1s}, encoder: lite0, outputs: [pooled]}
  words: {source: pictures, encoder: worded}
indexes:
  words: {feature: words, kind: flat}
heads:
  words: {kind: devise, inputs: [{feature: frames}], text_encoder: minilm, unseen: [red square, blue star]}
"""


def draw(colour: str, shape: str, random: np.random.Generator) -> Image.Image:
    grey = int(random.integers(60, 130))
    image = Image.new("RGB", (128, 128), (grey, grey, grey))
    pen = ImageDraw.Draw(image)
    x, y, size = (int(value) for value in random.integers((48, 48, 28), (80, 80, 44)))
    ink = COLOURS[colour]
    if shape == "circle":
        pen.ellipse([x - size, y - size, x + size, y + size], ink)
    elif shape == "square":
        pen.rectangle([x - size, y - size, x + size, y + size], ink)
    elif shape == "cross":
        pen.rectangle([x - size, y - size // 4, x + size, y + size // 4], ink)
        pen.rectangle([x - size // 4, y - size, x + size // 4, y + size], ink)
    else:
        points = 3 if shape == "triangle" else 5
        angles = -np.pi / 2 + np.arange(points) * 2 * np.pi / points
        if shape == "star":
            turned = -np.pi / 2 + np.arange(10) * np.pi / 5
            radii = np.where(np.arange(10) % 2 == 0, size, size * 0.4)
            corners = [(x + r * np.cos(a), y + r * np.sin(a)) for r, a in zip(radii, turned, strict=True)]
        else:
            corners = [(x + size * np.cos(a), y + size * np.sin(a)) for a in angles]
        pen.polygon(corners, ink)
    return image


class Project:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    def run(self, *overrides: str) -> RunResult:
        document = load_document(self.folder / "spec.yaml", overrides)
        return run_spec(parse_document(document), document, self.folder, RunOptions(), lambda text: None)

    def train(self, *overrides: str) -> Trained:
        return train_head(load_spec(self.folder / "spec.yaml", overrides), self.folder, "words", lambda text: None)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Pictures of five shapes in five colours, a folder each."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "spec.yaml").write_text(SPEC)
    random = np.random.default_rng(0)
    for colour in COLOURS:
        for shape in SHAPES:
            place = folder / "media" / f"{colour} {shape}"
            place.mkdir(parents=True)
            for number in range(5):
                draw(colour, shape, random).save(place / f"{number}.png")
    project = Project(folder)
    project.run()
    return project


def test_words_find_pictures_of_classes_that_training_never_saw(shapes: Project) -> None:
    card = shapes.train("heads.words.method=auto").card
    assert isinstance(card, VectorHeadCard)
    assert card.counts["unseen labels"] == 2
    assert card.counts["unseen items"] == 10
    assert card.method in ("head", "ridge", "conse")
    rivals = {"head", "ridge", "conse"} - {card.method}
    assert {f"{split}_hit@{k}" for split in ("seen", "unseen", "both") for k in (1, 5, 10)} <= card.metrics.keys()
    assert {f"{rival}_unseen_hit@1" for rival in rivals} <= card.metrics.keys()
    assert card.metrics["unseen_mAP"] >= max(card.metrics[f"{rival}_unseen_mAP"] for rival in rivals)

    card = shapes.train().card
    assert isinstance(card, VectorHeadCard)
    assert card.method == "head"
    assert card.metrics["unseen_hit@1"] == 1
    assert card.metrics["both_hit@5"] > 0.5  # 5 of 25 classes by chance
    result = shapes.run()
    minilm = result.release.features["words"].outputs["embedding"]
    assert minilm.text
    assert minilm.dim == 384
    for label in UNSEEN:
        hits = open_store(shapes.store).search(label, top=5)
        assert sum(hit.uid.startswith(label) for hit in hits) >= 2  # of 125 pictures, 5 are of the class


def test_the_word_of_a_subject_of_the_demo_that_was_left_out_finds_its_clips(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    write_files(tmp_path / "demo", class_corpus(0), "labels.yaml")
    project = Project(tmp_path / "demo")
    text = SPEC.replace("media/*/*.png", "media/*/*.mp4").replace(
        "unseen: [red square, blue star]", "method: auto, epochs: 10, prompt: 'a photo of a {label}', unseen: [cat]"
    )
    (project.folder / "spec.yaml").write_text(text)
    project.run()
    card = project.train().card
    assert isinstance(card, VectorHeadCard)
    # Nine labels are too few for an MLP and for ConSE; the closed form finds the tenth.
    assert card.method == "ridge"
    assert card.metrics["unseen_mAP"] > 0.8 > 0.5 > card.metrics["conse_unseen_mAP"]
    found = card.figures["label to item, unseen"]
    assert (found["queries"], found["candidates"]) == (1, 90)
    assert found["figures"]["mAP"]["chance"] < 0.15
    project.run()
    hits = open_store(project.store).search("a photo of a cat", top=9)
    assert sum(hit.uid.startswith("cat/") for hit in hits) >= 7


def test_word_vectors_find_them_too(shapes: Project) -> None:
    random = np.random.default_rng(5)
    lines = [f"{word} {' '.join(f'{x:.4f}' for x in random.normal(size=16))}" for word in (*COLOURS, *SHAPES)]
    (shapes.folder / "words.vec").write_text("\n".join([f"{len(lines)} 16", *lines]) + "\n")
    card = shapes.train("encoders.vec={kind: word_vectors, model: words.vec}", "heads.words.text_encoder=vec").card
    assert isinstance(card, VectorHeadCard)
    assert card.dim == 16
    assert card.metrics["unseen_hit@1"] == 1
    assert card.metrics["both_hit@5"] > 0.5


def test_a_label_that_is_not_there_is_an_error_with_the_nearest(shapes: Project) -> None:
    with pytest.raises(SpecError, match=r"heads.words.unseen: no item has the label 'red squares'; did you mean"):
        shapes.train("heads.words.unseen=[red squares]")


def spec_of(**settings: object) -> DeviseSpec:
    plain = {"kind": "devise", "inputs": [{"feature": "frames"}], "text_encoder": "minilm", "hidden": [64]}
    return DeviseSpec.model_validate(plain | settings)


def made(seed: int = 0, classes: int = 60, each: int = 8) -> tuple[NDArray[np.float32], NDArray[np.bool_], np.ndarray]:
    """Items whose vectors are a turned copy of their class's text vector, with noise."""
    random = np.random.default_rng(seed)
    texts = random.normal(size=(classes, 12)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    number = np.repeat(np.arange(classes), each)
    vectors = texts[number] @ random.normal(size=(12, 20)) + 0.1 * random.normal(size=(len(number), 20))
    return vectors.astype(np.float32), number[:, None] == np.arange(classes), texts


@pytest.mark.parametrize(("method", "loss"), [("head", "cosine"), ("head", "hinge"), ("conse", "cosine")])
def test_both_methods_and_losses_find_unseen_classes(tmp_path: Path, method: str, loss: str) -> None:
    vectors, labels, texts = made()
    seen = np.arange(60) < 50
    of_seen = labels[:, seen].any(axis=1)
    valid = np.arange(len(labels)) % 8 == 7

    def items(chosen: NDArray[np.bool_], columns: NDArray[np.bool_]) -> LabelledItems:
        places = np.flatnonzero(chosen)
        return LabelledItems(vectors, places, labels[places][:, columns])

    spec = spec_of(loss=loss, epochs=60, patience=60, batch=32, learning_rate=0.005)
    learner = DeviseLearner(spec, method, items(of_seen & ~valid, seen), items(of_seen & valid, seen), texts[seen])
    state = train_epochs(learner, spec.epochs, spec.patience, tmp_path, lambda text: None)
    tower = tower_of(state.weights, method, texts[seen])
    found = measure_words(tower, items(~of_seen, ~seen), texts[~seen], "unseen")
    assert found["unseen_hit@1"] > 0.5  # one of ten by chance
    assert state.epochs[state.best - 1].figures["seen_hit@1"] > 0.8


def test_the_hinge_loss_is_that_of_the_paper() -> None:
    random = np.random.default_rng(2)
    found, classes = random.normal(size=(3, 4)).astype(np.float32), random.normal(size=(5, 4)).astype(np.float32)
    own = [1, 4, 0]
    wanted = [
        sum(max(0.0, 0.1 - float(classes[y] @ v) + float(classes[j] @ v)) for j in range(5) if j != y)
        for v, y in zip(found, own, strict=True)
    ]
    labels = tf.constant(np.eye(5, dtype=np.float32)[own])
    loss = devise_loss(tf.constant(found), labels, tf.constant(classes), spec_of(loss="hinge"))
    assert float(loss) == pytest.approx(np.mean(wanted), rel=1e-5)
