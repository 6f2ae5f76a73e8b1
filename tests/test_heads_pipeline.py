"""A trained head in whole runs: labels of every video, nothing decoded for them, figures equal to brute force."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from commands import command
from heads import card_of, put_head
from PIL import Image
from stores import SmallStore

from cliploom.pipelines.cli.inspecting import inspect, inspect_text
from cliploom.pipelines.listings import changes, hit_table
from cliploom.pipelines.planning.compile_jobs import compile_jobs
from cliploom.pipelines.planning.head_jobs import describe_head_change
from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.pipelines.training.evaluate import evaluate_head
from cliploom.pipelines.training.predict import file_inputs, predict_file
from cliploom.pipelines.training.retraining import due_heads
from cliploom.pipelines.training.train import (
    Training,
    check_videos,
    measure_labels,
    prepare_training,
    take_over,
    train_head,
)
from cliploom.schemas.errors import LimitError, MissingExtraError, SpecError, StoreError
from cliploom.schemas.heads import EpochFigures, HeadCard, HeadClass, InputColumn
from cliploom.schemas.spec_file import load_document, load_spec, parse_document
from cliploom.schemas.tfrecords import RatedSegment, Yt8mFrames
from cliploom.transforms.heads.dataset import Videos, gather, split_of_video
from cliploom.transforms.heads.plain import PlainHead, read_head, sigmoid
from cliploom.transforms.heads.published import current_model, trained_model
from cliploom.transforms.heads.report import curves, write_report
from cliploom.transforms.heads.tagging import tag_files
from cliploom.transforms.heads.truths import Truths, classes_of, read_truths
from cliploom.transforms.metrics.labels import LabelAccumulator
from cliploom.transforms.metrics.segments import SegmentAccumulator
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.store import quantize
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.write import encode_frames
from cliploom.transforms.upkeep.vacuuming import vacuum_store
from cliploom.transforms.upkeep.verifying import verify_release

pytestmark = pytest.mark.slow

RGB, AUDIO, CLASSES = 6, 3, 4
SPEC = """\
version: 1
name: shards
store: ./store
sources:
  yt: {kind: tfrecord, format: yt8m_frame, glob: "in/*.tfrecord", rgb: 6, audio: 3, quantized: keep}
encoders:
  tagger: {kind: head, head: labels, top: 2}
features:
  yt: {source: yt}
  tags: {source: yt, encoder: tagger}
heads:
  labels: {inputs: [{feature: yt, output: rgb}, {feature: yt, output: audio}], holdout: 50%}
limits: {max_failed: 100%, max_deleted: 100%}
"""
INPUTS = (
    InputColumn("yt", "rgb", "mean_rgb", RGB, "yt.rgb"),
    InputColumn("yt", "audio", "mean_audio", AUDIO, "yt.audio"),
)
KNOWN = tuple(HeadClass(label, f"class {label}") for label in range(CLASSES))
SEGMENTS = (RatedSegment(0, 5, 1, 1.0), RatedSegment(5, 10, 1, 0.0), RatedSegment(3, 8, 2, 1.0))


def video(number: int) -> Yt8mFrames:
    random = np.random.default_rng(number)
    count = 3 + number % 9
    rgb, audio = (random.integers(0, 256, (count, width), np.uint8) for width in (RGB, AUDIO))
    labels = tuple(sorted({number % CLASSES, (number * 7) % CLASSES}))
    return Yt8mFrames(f"id{number:03}", labels, rgb, audio, SEGMENTS if count >= 10 else ())


def mean_of(found: Yt8mFrames, start: int = 0, end: int = 300) -> np.ndarray:
    assert found.audio is not None
    rows = np.concatenate([quantize.decode(found.rgb), quantize.decode(found.audio)], axis=1)
    return rows[start:end].mean(axis=0, dtype=np.float64).astype(np.float32)


VIDEOS = [video(number) for number in range(60)]


class Project:
    """A folder with a spec, shards and a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def run(self, *overrides: str) -> RunResult:
        document = load_document(self.folder / "spec.yaml", overrides)
        return run_spec(parse_document(document), document, self.folder, RunOptions(), self.notes.append)

    notes: list[str] = []  # noqa: RUF012  of all runs, for tests of what they say

    def write(self, name: str, videos: list[Yt8mFrames]) -> None:
        with (self.folder / "in" / name).open("wb") as stream:
            write_records(stream, [encode_frames(each) for each in videos])

    def labels(self, result: RunResult) -> pl.DataFrame:
        version = result.release.tables["labels"]
        return pl.scan_delta(str(self.store / "labels"), version=version).collect()

    def put_head(self, seed: int, classes: tuple[HeadClass, ...] = KNOWN) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        kernel = random.normal(size=(RGB + AUDIO, len(classes))).astype(np.float32)
        bias = random.normal(size=len(classes)).astype(np.float32)
        card = card_of(INPUTS, classes, holdout="50%")
        put_head(self.store, card, kernel, bias, self.folder / f"head-{seed}-{len(classes)}")
        return kernel, bias


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A store with a release and a head that no run has applied yet. Shared: only read it."""
    folder = tmp_path_factory.mktemp("heads")
    (folder / "in").mkdir()
    (folder / "spec.yaml").write_text(SPEC)
    project = Project(folder)
    project.write("a.tfrecord", VIDEOS[:40])
    project.write("b.tfrecord", VIDEOS[40:])
    project.run()
    return project


def copy_of(project: Project, folder: Path) -> Project:
    shutil.copytree(project.folder, folder, symlinks=True)
    return Project(folder)


@pytest.fixture
def project(first: Project, tmp_path: Path) -> Project:
    """A copy of ``first``."""
    return copy_of(first, tmp_path / "project")


@dataclass(frozen=True)
class Tagged:
    """A store whose second release has predicted labels, and the head that made them."""

    project: Project
    result: RunResult
    kernel: np.ndarray
    bias: np.ndarray


@pytest.fixture(scope="module")
def tagged(first: Project, tmp_path_factory: pytest.TempPathFactory) -> Tagged:
    """Shared: only read it."""
    project = copy_of(first, tmp_path_factory.mktemp("tagged") / "project")
    kernel, bias = project.put_head(1)
    return Tagged(project, project.run(), kernel, bias)


@pytest.fixture
def applied(tagged: Tagged, tmp_path: Path) -> Project:
    """A copy of ``tagged``."""
    return copy_of(tagged.project, tmp_path / "project")


def test_an_untrained_head_waits_and_the_run_goes_on(first: Project) -> None:
    assert "tags waits: head 'labels' is not trained yet, see `cliploom train`" in first.notes
    release = open_store(str(first.store)).release
    assert list(release.features) == ["yt"]
    assert release.heads == {}


def test_every_video_and_segment_gets_its_most_probable_labels(tagged: Tagged) -> None:
    kernel, bias, result = tagged.kernel, tagged.bias, tagged.result
    assert result.verdicts["yt"] == {"unchanged": 2}
    assert result.verdicts["tags"] == {"new": 2}
    assert result.counters.get("items_done", 0) == 0
    labels = tagged.project.labels(result)
    assert labels.filter(pl.col("origin") == "given").height == sum(len(each.labels) for each in VIDEOS)
    predicted = labels.filter(pl.col("origin") == "predicted:tags")
    for each in VIDEOS:
        mine = predicted.filter(pl.col("uid") == each.id)
        stretches = [(None, None, mean_of(each))]
        count = len(each.rgb)
        stretches += [
            (float(start), float(min(start + 5, count)), mean_of(each, start, start + 5))
            for start in range(0, count, 5)
        ]
        assert mine.height == 2 * len(stretches)
        for start_s, end_s, vector in stretches:
            rows = mine.filter(pl.col("start_s").eq_missing(start_s)).sort("score", descending=True)
            scores = sigmoid(vector @ kernel + bias)
            best = np.argsort(-scores)[:2]
            assert rows["label"].to_list() == best.tolist()
            assert rows["name"].to_list() == [f"class {label}" for label in best]
            assert rows["end_s"].to_list() == [end_s] * 2
            np.testing.assert_allclose(rows["score"], scores[best], rtol=1e-5)


def test_it_is_known_whose_labels_a_file_has_without_reading_it(tagged: Tagged) -> None:
    store = open_store(str(tagged.project.store))
    files = tag_files(ObjectStore(tagged.project.store), store.release)
    items = store.items.select("item_no", "uid").collect()
    names = dict(files.join(items, on="item_no").select("uid", "path").rows())
    for shard, videos in (("a", VIDEOS[:40]), ("b", VIDEOS[40:])):
        held = pl.read_parquet(tagged.project.store / names[shard])
        assert set(held["uid"]) == {each.id for each in videos}
    assert len(set(names.values())) == 2
    found = store.labels([VIDEOS[0].id, VIDEOS[50].id])
    assert [len(labels) for labels in found.values()] == [
        len(set(VIDEOS[0].labels)) + 2,
        len(set(VIDEOS[50].labels)) + 2,
    ]
    # A shard has no labels of its own; nothing is read for it.
    assert store.item_labels([items["item_no"][0]], ["a"]) == {}


def test_a_retrained_head_changes_its_feature_alone(applied: Project, tagged: Tagged) -> None:
    applied.put_head(2)
    before, after = tagged.result, applied.run()
    assert after.verdicts == {"yt": {"unchanged": 2}, "tags": {"config_changed": 2}}
    assert after.counters.get("items_done", 0) == 0
    assert after.release.features == before.release.features
    old, new = applied.labels(before), applied.labels(after)
    given = pl.col("origin") == "given"
    assert new.filter(given).sort("uid", "label").equals(old.filter(given).sort("uid", "label"))
    assert new.filter(~given).height == old.filter(~given).height
    assert not new.sort(old.columns).equals(old.sort(old.columns))
    assert changes(before.release, after.release) == "labels of tags predicted again"
    assert not applied.run().changed
    assert verify_release(str(applied.store)) == []
    vacuum_store(str(applied.store), 1, older_than=0)
    assert verify_release(str(applied.store)) == []
    assert applied.labels(after).equals(new)
    assert len(list((applied.store / "models" / "head-labels").glob("*/weights.npz"))) == 2


def test_only_a_changed_shard_is_predicted_again(applied: Project) -> None:
    applied.write("b.tfrecord", VIDEOS[40:45])
    after = applied.run()
    for name in ("yt", "tags"):
        assert after.verdicts[name] == {"content_changed": 1, "unchanged": 1}
    assert after.counters["label_files_written"] == 2  # what shard b says of itself, and what is predicted of it
    predicted = applied.labels(after).filter(pl.col("origin") == "predicted:tags")
    assert predicted["uid"].n_unique() == 45


@pytest.mark.parametrize(
    ("override", "reason"),
    [("encoders.tagger.top=3", "top changed"), ("encoders.tagger.segments=2s", "segments changed")],
)
def test_how_labels_are_made_is_part_of_their_config(tagged: Tagged, override: str, reason: str) -> None:
    folder = tagged.project.folder
    spec = load_spec(folder / "spec.yaml", [override])
    job = compile_jobs(spec, ObjectStore(tagged.project.store), folder).heads["tags"]
    entry = tagged.result.release.heads["tags"]
    assert job.config != entry.config
    assert describe_head_change(entry, job) == reason


def test_labels_go_when_their_feature_does(applied: Project) -> None:
    (applied.folder / "spec.yaml").write_text(SPEC.replace("  tags: {source: yt, encoder: tagger}\n", ""))
    after = applied.run()
    assert after.changed
    assert after.release.heads == {}
    assert set(applied.labels(after)["origin"]) == {"given", "rated"}


def test_a_head_that_was_trained_on_other_vectors_waits(project: Project) -> None:
    project.put_head(1)
    result = project.run("sources.yt.audio=2")
    assert "tags waits: head 'labels' was trained on other vectors, see `cliploom train`" in project.notes
    assert "tags" not in result.verdicts


def test_exports_know_given_labels_only(project: Project) -> None:
    out = "exports.out={kind: tfrecord, format: yt8m_frame, feature: yt}"
    before = project.run(out).release.exports["out"]
    project.put_head(1)
    assert project.run(out).release.exports["out"].files == before.files


@pytest.mark.parametrize("everything", [False, True])
def test_figures_equal_those_of_a_plain_loop(project: Project, everything: bool) -> None:
    kernel, bias = project.put_head(1, KNOWN[:3])
    target = str(project.folder / "spec.yaml") if everything else str(project.store)
    found = evaluate_head(target, "labels", everything=everything)
    chosen = [each for each in VIDEOS if everything or split_of_video(each.id, 0.5, 0) == "validation"]
    labels, segments = LabelAccumulator(CLASSES), SegmentAccumulator()

    def scores_of(vector: np.ndarray) -> np.ndarray:
        return np.append(sigmoid(vector @ kernel + bias), np.float32(0))  # the fourth class is not known to the head

    for each in chosen:
        truth = np.zeros(CLASSES, np.bool_)
        truth[list(each.labels)] = True
        labels.add(scores_of(mean_of(each)), truth)
        for segment in each.segments:
            assert segment.label is not None
            score = scores_of(mean_of(each, segment.start_s, segment.end_s))[segment.label]
            segments.add([segment.label], [score], [bool(segment.score)])
    assert found.labels.videos == len(chosen)
    for name, value in vars(labels.result()).items():
        assert getattr(found.labels, name) == pytest.approx(value, abs=1e-6), name
    assert found.figures["hit@1"].value == pytest.approx(labels.result().hit_at_1, abs=1e-6)
    assert found.figures["hit@1"].chance == pytest.approx(
        np.mean([len(set(each.labels)) / CLASSES for each in chosen]), abs=1e-6
    )
    assert found.figures["hit@5"].value == 1
    # With four classes the first 20 are all of them.
    assert found.figures["mAP"].value == pytest.approx(labels.result().map, abs=1e-6)
    assert found.figures["mAP"].low < found.figures["mAP"].value < found.figures["mAP"].high
    assert found.sample == len(chosen)
    assert found.segments.rated == segments.rated
    assert found.segments.map == pytest.approx(segments.result().map, abs=1e-6)
    assert not list(project.store.glob("runs/*/figures.json"))


def test_evaluate_prints_figures_and_json(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.put_head(1)
    ended = command(capsys)("evaluate", project.store, "--head", "labels")
    assert ended.code == 0
    assert "Hit@1" in ended.out
    assert "segments: MAP@100,000" in ended.out
    ended = command(capsys)("evaluate", project.store, "--head", "labels", "--all", "--json")
    assert json.loads(ended.out)["labels"]["videos"] == len(VIDEOS)


def test_an_unknown_head_is_reported_with_the_nearest(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    ended = command(capsys)("evaluate", project.store, "--head", "labels")
    assert (ended.code, "`cliploom train SPEC --head labels` trains it" in ended.err) == (2, True)
    project.put_head(1)
    ended = command(capsys)("evaluate", project.store, "--head", "label")
    assert (ended.code, "did you mean 'labels'" in ended.err) == (2, True)


def prepared(project: Project, *overrides: str) -> Training:
    spec = load_spec(project.folder / "spec.yaml", overrides)
    return prepare_training(spec, project.folder, "labels", ObjectStore(project.store))


def test_gathered_videos_are_means_split_by_hash_and_read_once(first: Project, tmp_path: Path) -> None:
    training = prepared(first)
    told: list[str] = []
    arguments = (ObjectStore(first.store), training.release, training.readings, 0, tmp_path / "videos", told.append)
    for _ in range(2):
        videos = gather(*arguments)
        for split in ("train", "validation"):
            wanted = [each for each in VIDEOS if split_of_video(each.id, 0.5, 0) == split]
            found = {
                tuple(row): labels for row, labels in zip(videos[split].vectors, videos[split].labels, strict=True)
            }
            assert found == {tuple(mean_of(each)): each.labels for each in wanted}
    assert told == ["train: 1 of 2 groups of parts read", "train: 2 of 2 groups of parts read"]


def test_batches_come_in_the_asked_order(first: Project, tmp_path: Path) -> None:
    training = prepared(first)
    videos = gather(ObjectStore(first.store), training.release, training.readings, 0, tmp_path, first.notes.append)[
        "train"
    ]
    order = np.random.default_rng(1).permutation(len(videos))
    batches = list(videos.batches(training.classes, 7, order))
    np.testing.assert_array_equal(np.concatenate([vectors for vectors, _, _ in batches]), videos.vectors[order])
    hot = np.concatenate([labels for _, _, labels in batches])
    assert [tuple(np.flatnonzero(row)) for row in hot] == [videos.labels[place] for place in order]


def test_a_head_is_named_by_settings_vectors_and_labels(first: Project, project: Project) -> None:
    names = {prepared(first).digest, prepared(first, "heads.labels.l2=0.5").digest, prepared(first, "name=same").digest}
    assert len(names) == 2
    assert prepared(project).digest == prepared(first).digest


VOCABULARY = "Index,TrainVideoCount,Name\n0,10,zero\n1,20,one\n2,30,two\n3,{last},three\n"


def test_class_weights_come_from_the_vocabulary_when_asked(project: Project) -> None:
    def with_counts(last: str) -> Training:
        (project.folder / "classes.csv").write_text(VOCABULARY.format(last=last))
        project.run("sources.yt.vocabulary=classes.csv")
        weights = ("heads.labels.loss=weighted_hamming", "heads.labels.class_weights=vocabulary")
        return prepared(project, "sources.yt.vocabulary=classes.csv", *weights)

    found = with_counts("40")
    assert found.counts == (10, 20, 30, 40)
    assert with_counts("50").digest != found.digest
    with pytest.raises(SpecError, match=r"no TrainVideoCount above 0 for 1 of 4 classes, such as 3 \('three'\)"):
        with_counts("")


def test_class_weights_without_a_vocabulary_say_what_to_add(first: Project) -> None:
    weights = ("heads.labels.loss=weighted_hamming", "heads.labels.class_weights=vocabulary")
    with pytest.raises(SpecError, match=r"add vocabulary: vocabulary\.csv"):
        prepared(first, *weights)
    with pytest.raises(SpecError, match="is for loss: weighted_hamming"):
        prepared(first, weights[1])


def test_keys_that_came_later_leave_a_trained_heads_name_alone(first: Project) -> None:
    assert prepared(first).spec.recipe.keys().isdisjoint({"kind", "class_weights", "retrain"})


def test_a_head_of_labels_is_trained_again_when_enough_has_changed(project: Project) -> None:
    objects, retrain = ObjectStore(project.store), "heads.labels.retrain={after: 20%, margin: 0.05}"
    spec = load_spec(project.folder / "spec.yaml", [retrain])
    training = prepared(project, retrain)
    assert training.digest == prepared(project).digest
    assert [each.reason for each in due_heads(spec, project.folder, objects)] == [
        "head labels is trained for the first time"
    ]
    items, sketch = training.sketch
    assert items == 2  # shards
    card = replace(card_of(INPUTS, KNOWN, holdout="50%"), items=items, sketch=sketch, seconds=65.0)
    assert HeadCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card
    put_head(project.store, card, np.ones((9, 4), np.float32), np.zeros(4, np.float32), project.folder / "head")
    assert due_heads(spec, project.folder, objects) == []
    project.write("c.tfrecord", VIDEOS[:5])
    project.run()
    (due,) = due_heads(spec, project.folder, objects)
    assert due.reason == "head labels is trained again: 50% of its data changed; the last training took 65s"
    # A model that got worse by more than the margin is not taken over.
    before = current_model(objects, "labels")
    new = prepared(project, retrain)
    worse = replace(card, metrics={"hit_at_1": 0.5, "previous_model": 0.6})
    with pytest.raises(LimitError, match=r"hit_at_1 0.5000, the previous model has 0.6000 .*--accept-worse"):
        take_over(objects, new, worse, accept_worse=False)
    assert current_model(objects, "labels") == before
    take_over(objects, new, worse, accept_worse=True)
    assert current_model(objects, "labels") == new.model


def test_cards_have_figures_with_intervals_and_those_of_the_last_head(first: Project) -> None:
    random = np.random.default_rng(0)
    labels = [(int(number),) for number in random.integers(0, CLASSES, 50)]
    vectors = np.zeros((50, RGB + AUDIO), np.float32)
    vectors[np.arange(50), [label for (label,) in labels]] = 1
    training = prepared(first)
    right = np.zeros((RGB + AUDIO, CLASSES), np.float32)
    right[:CLASSES] = np.eye(CLASSES) * 9
    new = PlainHead(card_of(INPUTS, KNOWN), right, np.zeros(CLASSES, np.float32))
    # The last head names each class by the next one's number, but for class 0; it does not know class 1.
    other = tuple(HeadClass(label, f"class {label}") for label in (0, 3, 2, 7))
    last = PlainHead(card_of(INPUTS, other), right, np.zeros(CLASSES, np.float32))
    metrics, figures = measure_labels(new, Videos(vectors, labels), training, last)
    assert metrics["hit_at_1"] == 1
    assert metrics["previous_model"] == pytest.approx(np.mean([label in (0, 2) for (label,) in labels]))
    hit = figures["item to label"]["figures"]["hit@1"]
    assert (hit["value"], hit["low"], hit["high"], hit["chance"]) == (1, 1, 1, pytest.approx(1 / CLASSES))
    assert figures["item to label"]["queries"] == 50
    assert figures["item to label"]["figures"]["mAP"]["value"] == 1


def test_too_little_to_learn_from_is_reported(first: Project) -> None:
    training = prepared(first)
    none, some = Videos(np.empty((0, 2), np.float32), []), Videos(np.ones((1, 2), np.float32), [(1,)])
    with pytest.raises(SpecError, match=r"no labelled video is left for validation \(1 for train\)"):
        check_videos(training, {"train": some, "validation": none})
    with pytest.raises(SpecError, match="the labels name one class, 'class 0'"):
        check_videos(replace(training, classes=KNOWN[:1]), {"train": some, "validation": some})


def test_two_names_of_one_class_are_reported() -> None:
    one, other = (Truths({}, {}, {1: name}) for name in ("Cat", "Dog"))
    with pytest.raises(SpecError, match="The class 1 is 'Cat' in one source and 'Dog' in another"):
        classes_of([one, other], {})


def test_a_source_without_labels_is_reported(first: Project) -> None:
    release = open_store(str(first.store)).release
    with pytest.raises(SpecError, match="has no labels of source 'none'"):
        read_truths(ObjectStore(first.store), release, "none")


def test_the_page_and_the_curves_show_every_epoch(tmp_path: Path) -> None:
    epochs = tuple(EpochFigures(number, 1 / number, 2 / number, 0.5, 0.1) for number in range(1, 4))
    card = HeadCard(**vars(card_of(INPUTS, KNOWN)) | {"epochs": epochs, "best": 3, "libraries": {"keras": "3"}})
    write_report(card, tmp_path)
    assert "| epochs | 3, the best is 3 |" in (tmp_path / "README.md").read_text()
    with Image.open(tmp_path / "curves.png") as picture:
        colours = {colour for _, colour in picture.getcolors(1 << 16)}
    assert {(31, 119, 180), (214, 39, 40), (44, 160, 44)} <= colours
    assert curves(epochs[:1]).size == (640, 360)


def test_training_without_tensorflow_names_the_extra(first: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cliploom\[tensorflow\]'"):
        train_head(load_spec(first.folder / "spec.yaml"), first.folder, "labels", first.notes.append)


def test_a_head_over_records_can_not_predict_a_file(project: Project, tmp_path: Path) -> None:
    project.put_head(1)
    with pytest.raises(SpecError, match=r"reads yt\.rgb, yt\.audio, which release 1 does not make of media files"):
        predict_file(str(project.store), "labels", str(tmp_path), lambda text: None)


def _cut_card(folder: Path) -> None:
    (folder / "card.json").write_text("{}")


def _no_weights(folder: Path) -> None:
    (folder / "weights.npz").unlink()


def _cut_weights(folder: Path) -> None:
    data = (folder / "weights.npz").read_bytes()
    (folder / "weights.npz").write_bytes(data[: len(data) // 2])


def _other_weights(folder: Path) -> None:
    np.savez(folder / "weights.npz", kernel=np.zeros((2, 2), np.float32), bias=np.zeros(2, np.float32))


@pytest.mark.parametrize("damage", [_cut_card, _no_weights, _cut_weights, _other_weights])
def test_a_damaged_head_is_reported_with_the_fix(project: Project, damage: Callable[[Path], None]) -> None:
    project.put_head(1)
    model = trained_model(ObjectStore(project.store), "labels")
    damage(project.store / model)
    with pytest.raises(StoreError, match="train it again"):
        read_head(ObjectStore(project.store), model)


def test_a_damaged_note_of_the_head_in_use_is_reported(project: Project) -> None:
    project.put_head(1)
    (project.store / "models" / "head-labels" / "current.json").write_text("[]")
    with pytest.raises(StoreError, match="train the head again"):
        current_model(ObjectStore(project.store), "labels")


def test_media_are_tagged_and_labels_stand_beside_hits(
    small_store: SmallStore, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [
        "heads.labels={inputs: [{feature: frames, output: pooled}]}",
        "encoders.tagger={kind: head, head: labels}",
        "features.tags={source: clips, encoder: tagger}",
    ]
    store = open_store(str(small_store.store))
    rows = store.table("frames").select("uid", "pooled").collect()
    names = ("videos/cat", "videos/coffee", "page")
    means = np.stack([np.array(rows.filter(pl.col("uid") == uid)["pooled"].to_list()).mean(axis=0) for uid in names])
    # Weights that answer 4 for a class's own mean and -4 for the others', by least squares.
    kernel = np.linalg.lstsq(means, 8 * np.eye(3) - 4, rcond=None)[0].astype(np.float32)
    space = store.release.features["frames"].outputs["pooled"].space
    inputs = [InputColumn("frames", "pooled", "mean_pooled", 1280, space)]
    classes = tuple(HeadClass(label, name) for label, name in enumerate(("cat", "coffee", "page")))
    put_head(small_store.store, card_of(inputs, classes), kernel, np.zeros(3, np.float32), small_store.folder / "head")
    result = small_store.run(nodes)
    assert result.counters.get("items_done", 0) == 0
    store = open_store(str(small_store.store))
    hit = next(hit for hit in store.search("a cat", index=["frames"]) if hit.uid == "videos/cat")
    assert (hit.labels[0].name, hit.labels[0].origin) == ("cat", "predicted:tags")
    assert hit.labels[0].score == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-3)
    labels = pl.scan_delta(str(small_store.store / "labels"), version=store.release.tables["labels"])
    whole = labels.filter(pl.col("start_s").is_null()).collect()
    uids = store.items.select("uid").collect()["uid"].to_list()
    said = {(*key, label.name) for key, several in store.labels(uids).items() for label in several}
    assert said == set(whole.select("source", "uid", "name").rows())
    assert "[tags: cat 98%" in hit_table([hit])
    assert json.dumps(hit.to_dict())
    found = inspect(str(small_store.store))
    assert found["heads"]["tags"]["head"] == "labels"
    assert "labels of clips, predicted:tags: 6 items, 3 classes; " in inspect_text(found)
    ended = command(capsys)(
        "predict", small_store.store, small_store.media / "videos" / "coffee.mp4", "--head", "labels"
    )
    assert ended.out.splitlines()[0] == "coffee: 98.20% *"
    assert len(ended.out.splitlines()) == 3
    assert [line[:2] for line in ended.err.splitlines()] == ["• "] * 3
    # A head that was trained on records sees a file as the feature does that applies it to media.
    records = PlainHead(
        card_of([InputColumn("yt", "rgb", "mean_rgb", 1280, "")], classes), kernel, np.zeros(3, np.float32)
    )
    assert [(each.feature, each.output) for each in file_inputs(records, store.release)] == [("frames", "pooled")]
    for video_name, said in (
        ("none.mp4", "There is no file"),
        (small_store.media / "noise.mp4", "can't be labelled"),
        ("https://example.org/clip.mp4", "is on the web, and predict does not download files; download it first"),
    ):
        ended = command(capsys)("predict", small_store.store, video_name, "--head", "labels", "--json")
        assert (ended.code, ended.out) == (2, "")
        assert said in ended.err
