"""Heads that give vectors, without TensorFlow: their nodes in a spec, their pairs, when they are trained again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from vector_heads import put_towers, random_tower

from cliploom.pipelines.cli.scaffold import mermaid
from cliploom.pipelines.planning.check import check_encoders
from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.pipelines.training.retraining import due_heads
from cliploom.pipelines.training.train import only_head, take_over
from cliploom.pipelines.training.train_devise import better_method
from cliploom.pipelines.training.train_towers import pairs_of, prepare_towers
from cliploom.pipelines.training.vector_training import PREVIOUS, VectorTraining
from cliploom.schemas.errors import EncodeError, LimitError, SpecError, StoreError
from cliploom.schemas.heads import HeadSpec
from cliploom.schemas.spec_file import load_document, load_spec, parse_document
from cliploom.schemas.vector_heads import (
    CLIP,
    TEXT,
    TRAIN,
    VALIDATION,
    DeviseSpec,
    TowerInput,
    TwoTowerSpec,
    VectorHeadCard,
)
from cliploom.transforms.heads.plain import read_head
from cliploom.transforms.heads.published import current_model
from cliploom.transforms.heads.recall import ranks_of, recall_figures
from cliploom.transforms.heads.sketches import MOST, changed_share, sketch_of
from cliploom.transforms.heads.towers import TOWERS_FILE, mix_classes, read_towers
from cliploom.transforms.heads.word_figures import FOUND, SEEN
from cliploom.transforms.heads.word_hits import class_vectors, hit_figures, synonyms_of
from cliploom.transforms.metrics.intervals import Figure
from cliploom.transforms.metrics.retrieval import RetrievalMetrics
from cliploom.transforms.pair_training.pair_data import PairSet, order_of
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases

DIM = 6
SPEC = """\
version: 1
name: ego
store: ./store
sources:
  spoken: {kind: narrations, format: ego4d, path: narration.json}
  omni: {kind: precomputed, glob: "feats/*", window: {fps: 30, window: 32, stride: 16}, dim: 6}
  pictures: {kind: media, glob: "none/*.png", labels: folder}
encoders:
  minilm: {kind: minilm}
  lite0: {kind: efficientnet_lite0}
  joint: {kind: head, head: joint}
features:
  speech: {source: spoken, encoder: minilm}
  clips: {source: omni}
  looks: {source: pictures, sample: {every: 1s}, encoder: lite0, outputs: [pooled, probs]}
  moments: {source: omni, encoder: joint}
indexes:
  moments: {feature: moments, metric: dot}
exports:
  pairs: {kind: pairs, feature: clips, text: speech, splits: {shares: {train: 50%, validation: 50%}}}
  whole: {kind: pairs, feature: clips, text: speech, format: tutorial}
heads:
  joint: {kind: two_tower, pairs: pairs, retrain: {after: 10%}}
limits: {max_failed: 50%, max_deleted: 100%}
"""
DEVISE = "{kind: devise, inputs: [{feature: looks, output: pooled}], text_encoder: minilm"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path / "spec.yaml"


def test_a_spec_with_two_towers_is_valid(path: Path) -> None:
    spec = load_spec(path)
    check_encoders(spec)
    assert list(spec.projections) == ["moments"]
    assert list(spec.computed) == ["speech", "clips", "looks"]
    assert spec.tags == {}
    lines = mermaid(spec).splitlines()
    assert {"  feature_clips --> head_joint", "  feature_speech --> head_joint"} <= set(lines)


def test_the_only_head_needs_no_name(path: Path) -> None:
    spec = load_spec(path)
    (name,) = spec.heads
    assert only_head(spec) == name
    twice = spec.model_copy(update={"heads": {"first": spec.heads[name], "second": spec.heads[name]}})
    with pytest.raises(SpecError, match="has the heads first, second; choose one with --head"):
        only_head(twice)


def test_the_defaults_are_those_of_the_tutorial() -> None:
    head = TwoTowerSpec.model_validate({"kind": "two_tower", "pairs": "pairs"})
    assert (head.dims, head.batch, head.epochs, head.around) == ([1536, 1536], 128, 15, 2.0)
    assert (head.learning_rate, head.betas, head.epsilon, head.weight_decay) == (1e-4, [0.98, 0.9], 1e-6, 0.01)
    assert (head.normalize, head.scale) == (False, "plain")
    assert TwoTowerSpec.model_validate(head.model_dump(mode="json")) == head


def test_a_head_without_a_kind_is_logistic(path: Path) -> None:
    spec = load_spec(path, ["heads.old={inputs: [{feature: clips}]}"])
    assert isinstance(spec.heads["old"], HeadSpec)
    assert isinstance(load_spec(path, [f"heads.words={DEVISE}}}"]).heads["words"], DeviseSpec)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["heads.joint.kind=two_towers"], "heads.joint.kind: unknown 'two_towers'; did you mean 'two_tower'"),
        (["heads.joint.pairs=pair"], "heads.joint.pairs: export 'pair' is not there; did you mean 'pairs'"),
        (["heads.joint.pairs=whole"], "has the tutorial's format; use format: hdf5"),
        (["exports.pairs.pool={take: 3}"], "takes several rows a pair; use pool: mean"),
        (["heads.joint.clip={feature: clips}"], "give exactly one of 'pairs'"),
        (["heads.joint.around=3s"], "are set by the export of pairs; remove them"),
        (["heads.joint={kind: two_tower, clip: {feature: clips}}"], "'clip' and 'text' belong together"),
        (
            ["heads.joint={kind: two_tower, clip: {feature: clip}, text: {feature: speech}}"],
            "heads.joint.clip.feature: 'clip' is not there; did you mean 'clips'",
        ),
        (
            ["heads.joint={kind: two_tower, clip: {feature: looks, output: pooled}, text: {feature: clips}}"],
            "heads.joint.text: feature 'clips' is not of narrations",
        ),
        (
            ["heads.joint={kind: two_tower, clip: {feature: clips, output: x}, text: {feature: speech}}"],
            "heads.joint.clip.output: feature 'clips' has no output 'x'",
        ),
        (["heads.joint.negatives={same_video: 128}"], "negatives.same_video is 128, batch 128; it is smaller"),
        (["heads.joint.retrain={after: 10}"], "heads.joint.retrain.after"),
        (["features.moments.source=pictures"], "reads features of source 'omni' or 'spoken', not of 'pictures'"),
        (["features.moments.sample={every: 1s}"], "features.moments.sample: a head reads the rows of another feature"),
        (["exports.pairs.feature=moments"], "is of a feature that is made by a head"),
        (
            ["encoders.joint.inputs=[{feature: clips}, {feature: clips}]"],
            "2 inputs; a head of kind two_tower reads one",
        ),
        ([f"heads.words={DEVISE[:-6]}minilmm}}"], "heads.words.text_encoder: there is no encoder 'minilmm'; did you"),
        ([f"heads.words={DEVISE[:-6]}lite0}}"], "heads.words.text_encoder: 'lite0' does not encode text"),
        ([f"heads.words={DEVISE[:-6]}joint}}"], "heads.words.text_encoder: 'joint' is a head"),
        ([f"heads.words={DEVISE}, prompt: a photo}}"], "has no {label}; write, for example, 'a photo of a {label}'"),
        ([f"heads.words={DEVISE}, holdout: 10%, unseen: [a]}}"], "give one of 'unseen' .* not both"),
        (["heads.words={kind: devise, inputs: [{feature: looks}], text_encoder: minilm}"], "output is missing"),
        (["heads.words={kind: devise, inputs: [{feature: moments}], text_encoder: minilm}"], "is made by a head"),
    ],
)
def test_wrong_nodes_are_explained_with_the_fix(path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_encoders(load_spec(path, overrides))


def test_each_pair_is_once_in_an_epoch_and_stands_with_others_of_its_video() -> None:
    videos = np.repeat(np.arange(10), [4, 9, 1, 7, 12, 3, 6, 2, 8, 5])
    numbers = np.arange(len(videos))
    pairs = PairSet(Nothing(), numbers, videos, numbers)
    plain = order_of(pairs, 1, 0, 1)
    assert sorted(plain) == numbers.tolist()
    assert not np.array_equal(plain, order_of(pairs, 1, 0, 2))
    np.testing.assert_array_equal(plain, order_of(pairs, 1, 0, 1))
    grouped = order_of(pairs, 4, 0, 1)
    assert sorted(grouped) == numbers.tolist()
    runs = np.flatnonzero(np.diff(videos[grouped])) + 1
    lengths = np.diff([0, *runs, len(grouped)])
    # Blocks of four, and what is left of a video; neighbours by chance may join two.
    assert np.mean(lengths) > 2.5
    assert np.mean(np.diff([0, *(np.flatnonzero(np.diff(videos[plain])) + 1), len(plain)])) < 1.5


class Nothing:
    def batch(self, indices: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        raise AssertionError(indices)


def test_recall_is_that_of_brute_force() -> None:
    random = np.random.default_rng(4)
    clips = random.normal(size=(1500, 6)).astype(np.float32)
    texts = (clips + random.normal(scale=0.7, size=clips.shape)).astype(np.float32)
    scores = texts @ clips.T
    wanted = np.array([(row > row[number]).sum() for number, row in enumerate(scores)])
    np.testing.assert_array_equal(ranks_of(texts, clips), wanted)
    figures = recall_figures(clips, texts)
    assert figures["text_to_clip_r@5"] == pytest.approx((wanted < 5).mean(), abs=1e-6)
    assert figures["text_to_clip_median"] == np.median(wanted) + 1
    assert figures["recall@10"] == pytest.approx(
        (figures["text_to_clip_r@10"] + figures["clip_to_text_r@10"]) / 2, abs=1e-6
    )


def test_equal_vectors_are_no_perfect_answers() -> None:
    same = np.ones((101, 3), np.float32)
    assert recall_figures(same, same)["recall@10"] == 0


def test_conse_is_that_of_the_formula() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 30)).astype(np.float32) * 2
    classes = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    p = np.exp(logits.astype(np.float64))
    wanted = []
    for row in p / p.sum(axis=1, keepdims=True):
        best = np.argsort(-row)[:10]
        wanted.append(sum(row[k] * classes[k].astype(np.float64) for k in best) / row[best].sum())
    np.testing.assert_allclose(mix_classes(logits, classes), wanted, atol=1e-6)


def test_class_vectors_are_means_of_unit_synonyms() -> None:
    known = {"a tabby": [3.0, 0.0], "a cat": [0.0, 2.0], "a dog": [1.0, 0.0], "a xyzzy": [0.0, 0.0]}
    found = class_vectors(
        ["tabby, cat", "dog", "dog, xyzzy", "xyzzy"],
        "a {label}",
        lambda texts: np.array([known[text] for text in texts], np.float32),
    )
    half = math.sqrt(0.5)

    def strict(texts: list[str]) -> NDArray[np.float32]:
        """As word vectors do: what has no known word is an error."""
        if any("xyzzy" in text for text in texts):
            raise EncodeError("encode", "no word has a vector.")
        return np.array([known[text] for text in texts], np.float32)

    np.testing.assert_allclose(
        class_vectors(["dog, xyzzy", "xyzzy", "cat"], "a {label}", strict), [[1, 0], [0, 0], [0, 1]]
    )
    np.testing.assert_allclose(found, [[half, half], [1, 0], [1, 0], [0, 0]], atol=1e-6)
    assert synonyms_of("great_white shark,  white shark") == ["great white shark", "white shark"]


def test_a_class_with_several_labels_is_hit_by_any() -> None:
    labels = np.array([[True, False, True], [False, True, False]])
    scores = np.float32([[0, 2, 1], [0, 1, 2]])
    assert hit_figures(scores, labels) == {"hit@1": 0.0, "hit@5": 1.0, "hit@10": 1.0}


def test_auto_takes_what_finds_unseen_labels_better() -> None:
    def figures(part: str, **values: float) -> dict[str, RetrievalMetrics]:
        known = {name.replace("_", "@"): Figure(value, value, value) for name, value in values.items()}
        return {part: RetrievalMetrics(9, 9, 9, known)}

    head = figures(SEEN, hit_1=0.9, hit_5=1.0) | figures(FOUND, mAP=0.1)
    conse = figures(SEEN, hit_1=0.1, hit_5=0.2) | figures(FOUND, mAP=0.3)
    assert better_method({"head": head, "ridge": head, "conse": conse}) == "conse"
    del head[FOUND], conse[FOUND]
    assert better_method({"head": head, "conse": conse}) == "head"


def test_old_cards_without_figures_are_read() -> None:
    card = json.loads(json.dumps(put_card().to_dict()))
    assert VectorHeadCard.from_dict(card) == put_card()
    del card["figures"], card["labels"]
    assert VectorHeadCard.from_dict(card).labels == ()


def put_card() -> VectorHeadCard:
    tower = TowerInput("looks", "pooled", "pictures", 4, "space")
    return VectorHeadCard(
        "words", "devise", "0" * 16, "", "", 1, "run", {CLIP: tower}, 3, "text", {}, {}, 1, (1, 2), "", {}, "k", (), 1,
        labels=("cat", "dog"), figures={"item to label, seen": {}},
    )  # fmt: skip


@pytest.mark.parametrize("count", [300, 30_000])
def test_the_share_of_changed_items_is_known_from_a_sketch(count: int) -> None:
    before = [("clip", f"video {number}", "digest") for number in range(count)]
    changed = [("clip", f"video {number}", "other" if number < count // 20 else "digest") for number in range(count)]
    share = changed_share(sketch_of(before), sketch_of([*changed, *[("new", str(n), "") for n in range(count // 10)]]))
    # A twentieth gone, a twentieth and a tenth new.
    assert share == pytest.approx(0.2, abs=0.005 if count <= MOST else 0.03)
    assert changed_share(sketch_of(before), sketch_of(before)) == 0


def narrations(number: int, count: int = 6) -> dict[str, object]:
    rows = [
        {
            "timestamp_sec": 3.0 * i + 2,
            "timestamp_frame": 90 * i,
            "narration_text": f"#C C opens door {(i + number) % 7}",
            "annotation_uid": f"a{number}",
        }
        for i in range(count)
    ]
    return {"narration_pass_1": {"narrations": rows, "summaries": []}}


class Project:
    def __init__(self, folder: Path, videos: int = 6) -> None:
        self.folder = folder
        (folder / "feats").mkdir()
        self.write(videos)
        text = SPEC.replace('  pictures: {kind: media, glob: "none/*.png", labels: folder}\n', "")
        (folder / "spec.yaml").write_text("".join(line for line in text.splitlines(True) if "looks" not in line))

    def write(self, videos: int) -> None:
        for number in range(videos):
            rows = np.random.default_rng(number).normal(size=(40, DIM)).astype(np.float32)
            np.save(self.folder / "feats" / f"v{number}.npy", rows)
        (self.folder / "narration.json").write_text(json.dumps({f"v{n}": narrations(n) for n in range(videos)}))

    @property
    def objects(self) -> ObjectStore:
        return ObjectStore(str(self.folder / "store"))

    def run(self, *overrides: str) -> RunResult:
        document = load_document(self.folder / "spec.yaml", overrides)
        return run_spec(parse_document(document), document, self.folder, RunOptions(), lambda text: None)

    def prepared(self, *overrides: str) -> VectorTraining:
        release = read_releases(self.objects).get(None)
        spec = load_spec(self.folder / "spec.yaml", overrides)
        return prepare_towers(spec, self.folder, "joint", self.objects, release)

    def pairs(self, *overrides: str) -> dict[str, PairSet]:
        spec = load_spec(self.folder / "spec.yaml", overrides)
        work = self.folder / f"work-{len(overrides)}"
        return pairs_of(self.prepared(*overrides), spec, self.folder, self.objects, work, lambda text: None)


JOINED = (
    "heads.joint={kind: two_tower, clip: {feature: clips}, text: {feature: speech}, "
    "splits: {shares: {train: 50%, validation: 50%}}}"
)


def test_pairs_are_read_joined_and_watched_for_changes(tmp_path: Path) -> None:
    project = Project(tmp_path)
    without = "heads.joint.retrain=null"
    project.run(without)
    training = project.prepared()
    assert training.text_model
    exported, joined = project.pairs(), project.pairs(JOINED)
    for split in (TRAIN, VALIDATION):
        one, other = exported[split], joined[split]
        assert len(one) == len(other) > 0
        for mine, theirs in zip(one.batch(np.arange(len(one))), other.batch(np.arange(len(one))), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(one.videos, other.videos)
        np.testing.assert_array_equal(one.texts, other.texts)
    by_hash = project.pairs("heads.joint.validation=none")
    assert not set(by_hash[TRAIN].videos) & set(by_hash[VALIDATION].videos)

    spec = load_spec(project.folder / "spec.yaml")
    assert [each.reason for each in due_heads(spec, tmp_path, project.objects)] == [
        "head joint is trained for the first time"
    ]
    items, sketch = training.sketch
    towers = {CLIP: random_tower(1, DIM, 8, 5, unit=False), TEXT: random_tower(2, 384, 5, unit=False)}
    facts = {"text_model": training.text_model, "items": items, "sketch": sketch, "seconds": 65.0}
    settings = training.spec.model_dump(mode="json")
    put_towers(tmp_path / "store", tmp_path / "head", towers, training.inputs, settings, **facts)
    assert due_heads(spec, tmp_path, project.objects) == []

    result = project.run(without)
    entry = result.release.features["moments"]
    assert entry.outputs["embedding"].dim == 5
    # Queries go through the text encoder and the text tower.
    store = open_store(str(tmp_path / "store"))
    query = store.search("Camera wearer C opens door 3", top=1)[0]
    rows = store.table("moments").select("uid", "start_s", "embedding").collect()
    texts = store.table("speech").collect()
    assert texts.height
    assert query.uid in rows["uid"].to_list()
    with pytest.raises(SpecError, match="is of kind two_tower: it returns vectors, not labels"):
        read_head(project.objects, str(current_model(project.objects, "joint")))

    project.write(8)
    project.run(without)
    (due,) = due_heads(spec, tmp_path, project.objects)
    assert due.share == pytest.approx(1 / 3)
    assert due.reason == "head joint is trained again: 33% of its data changed; the last training took 65s"


def test_a_model_that_got_worse_is_not_taken_over(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.run("heads.joint.retrain=null")
    training = project.prepared()
    towers = {CLIP: random_tower(1, DIM, 5, unit=False), TEXT: random_tower(2, 384, 5, unit=False)}
    settings = training.spec.model_dump(mode="json")
    card = put_towers(tmp_path / "store", tmp_path / "head", towers, training.inputs, settings)
    before = current_model(project.objects, "joint")
    worse = type(card).from_dict(card.to_dict() | {"metrics": {"recall@10": 0.3, PREVIOUS: 0.5}})
    with pytest.raises(LimitError, match=r"recall@10 0.3000, the previous model has 0.5000 .*--accept-worse") as found:
        take_over(project.objects, training, worse, accept_worse=False)
    assert found.value.exit_code == 3
    assert current_model(project.objects, "joint") == before
    take_over(project.objects, training, worse, accept_worse=True)
    assert current_model(project.objects, "joint") == training.model


def test_a_damaged_head_is_an_error_that_names_it(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.run("heads.joint.retrain=null")
    training = project.prepared()
    towers = {CLIP: random_tower(1, DIM + 1, 5, unit=False), TEXT: random_tower(2, 384, 5, unit=False)}
    settings = training.spec.model_dump(mode="json")
    put_towers(tmp_path / "store", tmp_path / "head", towers, training.inputs, settings)
    model = str(current_model(project.objects, "joint"))
    with pytest.raises(StoreError, match="has no tower clip from 6 to 5; train it again"):
        read_towers(project.objects, model)
    (tmp_path / "store" / model / TOWERS_FILE).write_bytes(b"nothing")
    with pytest.raises(StoreError, match=r"is damaged .* train it again"):
        read_towers(project.objects, model)
