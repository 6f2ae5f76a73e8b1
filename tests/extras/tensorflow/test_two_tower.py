"""Two towers trained on pairs of a store, and the whole way to a feature that narrations find."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.pipelines.training.train import Trained, train_head, trained_text
from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.schemas.spec_file import load_document, load_spec, parse_document
from cliploom.schemas.vector_heads import TwoTowerSpec, VectorHeadCard
from cliploom.transforms.heads.recall import KEY
from cliploom.transforms.heads.tower_training import TowerState, train_epochs
from cliploom.transforms.heads.towers import read_towers
from cliploom.transforms.pair_training.pair_data import PairSet
from cliploom.transforms.pair_training.two_tower import TwoTowerLearner, contrastive_loss
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.store.object_store import ObjectStore

DIM = 24
VERBS = ("opens", "cuts", "washes", "lifts", "paints", "throws")
NOUNS = ("a door", "an onion", "the car", "a heavy box", "the fence", "a ball", "a guitar", "the bread")
SPEC = """\
version: 1
name: ego
store: ./store
sources:
  spoken: {kind: narrations, format: ego4d, path: narration.json}
  omni: {kind: precomputed, glob: "feats/*", window: {fps: 30, window: 32, stride: 16}, dim: 24}
encoders:
  minilm: {kind: minilm}
  joint: {kind: head, head: joint}
features:
  speech: {source: spoken, encoder: minilm}
  clips: {source: omni}
  moments: {source: omni, encoder: joint}
  sentences: {source: spoken, encoder: joint}
indexes:
  moments: {feature: moments, metric: dot, kind: flat}
exports:
  pairs: {kind: pairs, feature: clips, text: speech, format: hdf5, splits: {shares: {train: 75%, validation: 25%}}}
heads:
  joint: {kind: two_tower, pairs: pairs, dims: [64, 32], batch: 32, epochs: 12, learning_rate: 2e-3, patience: 12}
limits: {max_failed: 50%, max_deleted: 100%}
"""


def write_videos(folder: Path, videos: int = 16, each: int = 12, dim: int = DIM) -> None:
    """Narrations, and clip features that carry their meaning: a code of the verb and one of the noun, and noise."""
    random = np.random.default_rng(0)
    verbs, nouns = random.normal(size=(len(VERBS), dim)), random.normal(size=(len(NOUNS), dim))
    (folder / "feats").mkdir()
    narrations = {}
    for number in range(videos):
        clip = random.normal(scale=0.2, size=(each * 8, dim))
        rows = []
        for place in range(each):
            verb, noun = random.integers(len(VERBS)), random.integers(len(NOUNS))
            t = 4.0 * place + 2.0
            first, end = int((t - 2) * 1.875), int((t + 2) * 1.875) + 1
            clip[first:end] += verbs[verb] + nouns[noun]
            text = f"#C C {VERBS[verb]} {NOUNS[noun]}"
            rows.append(
                {"timestamp_sec": t, "timestamp_frame": 30 * t, "narration_text": text, "annotation_uid": f"a{number}"}
            )
        np.save(folder / "feats" / f"v{number:02}.npy", clip.astype(np.float32))
        narrations[f"v{number:02}"] = {"narration_pass_1": {"narrations": rows, "summaries": []}}
    (folder / "narration.json").write_text(json.dumps(narrations))


class Project:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    def run(self, *overrides: str) -> RunResult:
        document = load_document(self.folder / "spec.yaml", overrides)
        return run_spec(parse_document(document), document, self.folder, RunOptions(), self.notes.append)

    def train(self, *overrides: str) -> Trained:
        return train_head(load_spec(self.folder / "spec.yaml", overrides), self.folder, "joint", self.notes.append)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("towers")
    (folder / "spec.yaml").write_text(SPEC)
    write_videos(folder)
    found = Project(folder)
    found.run()
    return found


def rows(project: Project, feature: str, output: str) -> tuple[list[int], NDArray[np.float32]]:
    found = open_store(project.store).table(feature).select("row_id", output).collect().sort("row_id")
    return found["row_id"].to_list(), np.array(found[output].to_list(), np.float32)


def test_two_towers_are_trained_applied_and_asked(project: Project) -> None:
    assert any("head 'joint' is not trained yet" in note for note in project.notes)
    trained = project.train()
    card = trained.card
    assert isinstance(card, VectorHeadCard)
    assert card.metrics[KEY] > 3 * card.metrics["chance@10"]
    assert card.metrics[KEY] == max(each.figures[KEY] for each in card.epochs)
    assert "recall@10" in trained_text(trained)
    assert not project.train().fresh

    result = project.run()
    entry = result.release.features["moments"]
    assert entry.outputs["embedding"].text
    assert result.release.features["sentences"].outputs["embedding"].space == entry.outputs["embedding"].space
    _, towers = read_towers(ObjectStore(project.store), trained.model)
    for feature, base, side in (("moments", "clips", "clip"), ("sentences", "speech", "text")):
        output = result.release.features[base].outputs
        (ids, given), (made_ids, made) = rows(project, base, next(iter(output))), rows(project, feature, "embedding")
        assert ids == made_ids
        wanted = towers[side].apply(given)
        cosines = (made * wanted).sum(axis=1) / np.linalg.norm(made, axis=1) / np.linalg.norm(wanted, axis=1)
        assert cosines.min() > 0.99999
    # Words find the moments that they narrate.
    narrations = json.loads((project.folder / "narration.json").read_text())
    store = open_store(project.store)
    found = []
    for text in {f"{verb} {noun}" for verb in VERBS for noun in NOUNS}:
        (hit,) = store.search(f"Camera wearer {text}", top=1)
        middle = ((hit.start_s or 0) + (hit.end_s or 0)) / 2
        said = narrations[hit.uid]["narration_pass_1"]["narrations"]
        near = min(said, key=lambda each: abs(each["timestamp_sec"] - middle))
        found.append(text in near["narration_text"])
    assert np.mean(found) > 0.2  # one of 48 sentences by chance


def test_features_can_be_named_instead_of_an_export(project: Project) -> None:
    override = (
        "heads.joint={kind: two_tower, clip: {feature: clips}, text: {feature: speech}, dims: [32], epochs: 2, "
        "splits: {shares: {train: 75%, validation: 25%}}}"
    )
    card = project.train(override).card
    same = project.train("heads.joint.epochs=2", "heads.joint.dims=[32]", "heads.joint.batch=128").card
    assert isinstance(card, VectorHeadCard)
    assert isinstance(same, VectorHeadCard)
    assert card.counts == same.counts
    assert card.counts["validation pairs"] > 0


def test_a_split_of_its_own_is_not_needed(project: Project) -> None:
    card = project.train("heads.joint.validation=none", "heads.joint.epochs=1").card
    assert isinstance(card, VectorHeadCard)
    assert card.counts["validation videos"] > 0


class Arrays:
    def __init__(self, clips: NDArray[np.float32], texts: NDArray[np.float32]) -> None:
        self._clips, self._texts = clips, texts

    def batch(self, indices: object) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        places = np.asarray(indices)
        return self._clips[places], self._texts[places]


def pairs(seed: int = 0, count: int = 600) -> tuple[PairSet, PairSet]:
    random = np.random.default_rng(seed)
    meaning = random.normal(size=(count, 8)).astype(np.float32)
    clips = meaning @ random.normal(size=(8, 20)).astype(np.float32)
    texts = meaning @ random.normal(size=(8, 12)).astype(np.float32)
    vectors, numbers = Arrays(clips, texts), np.arange(count)
    train = slice(0, count * 3 // 4)
    rest = slice(count * 3 // 4, count)
    return (
        PairSet(vectors, numbers[train], numbers[train] // 10, numbers[train]),
        PairSet(vectors, numbers[rest], numbers[rest] // 10, numbers[rest]),
    )


def spec_of(**settings: object) -> TwoTowerSpec:
    plain = {"kind": "two_tower", "pairs": "pairs", "dims": [16, 8], "epochs": 4, "batch": 64, "learning_rate": 1e-3}
    return TwoTowerSpec.model_validate(plain | settings)


def run_training(folder: Path, spec: TwoTowerSpec, on_stage: object = None) -> TowerState:
    folder.mkdir(parents=True, exist_ok=True)
    said = on_stage if callable(on_stage) else lambda text: None
    return train_epochs(TwoTowerLearner(spec, *pairs()), spec.epochs, spec.patience, folder, said)


def test_the_loss_is_the_symmetric_cross_entropy_of_the_formula() -> None:
    random = np.random.default_rng(1)
    clips, texts = random.normal(size=(2, 5, 3)).astype(np.float32)
    ignored = np.zeros((5, 5), np.bool_)
    ignored[0, 3] = True
    logits = 2.5 * clips.astype(np.float64) @ texts.T
    logits[0, 3] = -np.inf
    wanted = 0.0
    for table in (logits, logits.T):
        p = np.exp(table - table.max(axis=1, keepdims=True))
        wanted -= np.log(np.diag(p / p.sum(axis=1, keepdims=True))).mean() / 2
    found = contrastive_loss(tf.constant(clips), tf.constant(texts), 2.5, tf.constant(ignored))
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_the_first_step_is_that_of_adamw_with_decay_on_every_number() -> None:
    learner = TwoTowerLearner(spec_of(learning_rate=0.01, weight_decay=0.1), *pairs())
    assert float(learner.scale.numpy()) == pytest.approx(math.log(1 / 0.07))
    before = [np.array(each.numpy()) for each in learner._trainable]
    clips, texts, ignored = next(iter(learner.batches(1)))
    with tf.GradientTape() as tape:
        loss = contrastive_loss(learner.clip(clips), learner.text(texts), learner.scale.value, ignored)
    gradients = tape.gradient(loss, [each.value for each in learner._trainable])
    learner._step(clips, texts, ignored)
    for old, gradient, variable in zip(before, gradients, learner._trainable, strict=True):
        moved = 0.01 * np.asarray(gradient) / (np.abs(np.asarray(gradient)) + 1e-6)
        np.testing.assert_allclose(variable.numpy(), old * (1 - 0.01 * 0.1) - moved, atol=2e-4)


@pytest.mark.parametrize(
    "settings",
    [{"dropout": 0.2}, {"normalize": True, "scale": "exp"}, {"negatives": {"same_video": 3}, "equal_texts": "ignore"}],
)
def test_a_killed_training_goes_on_bit_for_bit(tmp_path: Path, settings: dict[str, object]) -> None:
    spec = spec_of(epochs=3, **settings)
    whole = run_training(tmp_path / "whole", spec)
    told: list[str] = []

    def on_stage(text: str) -> None:
        told.append(text)
        if len(told) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "killed", spec, on_stage)
    resumed = run_training(tmp_path / "killed", spec)
    assert [each.figures for each in resumed.epochs] == [each.figures for each in whole.epochs]
    for name, value in whole.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], value)


def test_training_stops_early_by_recall(tmp_path: Path) -> None:
    state = run_training(tmp_path, spec_of(epochs=60, learning_rate=0.02, patience=2))
    assert len(state.epochs) == state.best + 2 < 60


def test_the_scale_stays_between_its_bounds(tmp_path: Path) -> None:
    state = run_training(tmp_path, spec_of(learning_rate=5.0, weight_decay=0))
    assert 0 <= float(state.weights["scale"][0]) <= math.log(100) + 1e-6


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CliploomError, match="smaller learning_rate"):
        run_training(tmp_path, spec_of(learning_rate=1e30, epochs=3))


def test_no_pairs_for_validation_is_an_error_with_counts(project: Project) -> None:
    with pytest.raises(SpecError, match=r"0 pairs are left for validation \(.* for training, 0 for validation\)"):
        project.train("heads.joint={kind: two_tower, clip: {feature: clips}, text: {feature: speech}, holdout: 0.1%}")


def test_a_night_trains_again_when_enough_has_changed(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "night"
    shutil.copytree(project.folder, folder, symlinks=True)
    night = Project(folder)
    fast = ("heads.joint.epochs=2", "heads.joint.retrain={after: 20%, margin: 1}")
    # Trained for the first time, by the run itself, in a process of its own.
    (folder / "store" / "models" / "head-joint" / "current.json").unlink(missing_ok=True)
    first = night.run(*fast)
    assert "head joint is trained for the first time" in night.notes
    model = first.release.features["moments"].recipe["head"]
    again = night.run(*fast)
    assert not again.changed
    for number in range(8):
        more = folder / "feats" / f"v{number:02}.npy"
        np.save(more, np.load(more) + np.float32(0.01))
    night.run(*fast)
    night.notes.clear()
    third = night.run(*fast)
    assert any(note.startswith("head joint is trained again: ") for note in night.notes)
    assert third.release.features["moments"].recipe["head"] != model
    # Which model made the rows stands in the release; the last one was measured on the same pairs.
    card, _ = read_towers(ObjectStore(night.store), third.release.features["moments"].recipe["head"])
    assert "previous_model" in card.metrics
