"""Zero-shot heads: class names against a feature that texts can be compared with, without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import command
from heads import card_of
from numpy.typing import NDArray
from stores import SmallStore

from cliploom.pipelines.training.measuring import evaluate_given
from cliploom.schemas.errors import SpecError
from cliploom.schemas.heads import InputColumn, ZeroShotSpec
from cliploom.schemas.spec_file import load_spec
from cliploom.transforms.encoders.registry import load_text_tower
from cliploom.transforms.heads.plain import PlainHead, compared
from cliploom.transforms.heads.zero_shot import name_vectors
from cliploom.transforms.search.searching import open_store

NAMES = ["cat", "cup of coffee", "rocket", "page of a book"]
TEMPLATES = ["{label}", "a photo of a {label}"]
NODES = """\
heads:
  names: {kind: zero_shot, feature: frames, output: semantic, labels: things, scores: softmax, temperature: 0.01}
evaluations:
  names: {kind: labels, feature: tags}
"""


def unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def with_names(project: SmallStore) -> SmallStore:
    """The project with a zero-shot head and given labels."""
    (project.folder / "labels.csv").write_text(
        "uid,labels\nvideos/cat,cat\nvideos/coffee,cup of coffee\nvideos/rocket,rocket\npage,page of a book\n"
    )
    text = project.spec.read_text()
    text = text.replace(
        '"media/**/*.*"}\n',
        '"media/**/*.*", labels: {csv: labels.csv}}\n'
        f"  things: {{kind: labels, labels: {NAMES}, templates: {TEMPLATES}}}\n",
    )
    text = text.replace("encoders:\n", "encoders:\n  namer: {kind: head, head: names, top: 4, segments: 1s}\n")
    text = text.replace("features:\n", "features:\n  tags: {source: clips, encoder: namer}\n")
    project.spec.write_text(text + NODES)
    return project


def test_names_are_predicted_measured_and_published(
    small_store: SmallStore, capsys: pytest.CaptureFixture[str]
) -> None:
    project = with_names(small_store)
    result = project.run()
    release = result.release
    assert release.release == 2

    store = open_store(str(project.store))
    labels = store.labels(["videos/cat", "videos/coffee"])
    predicted = [each for each in labels["clips", "videos/cat"] if each.origin == "predicted:tags"]
    assert predicted[0].name == "cat"
    assert sum(each.score or 0 for each in predicted) == pytest.approx(1, abs=1e-5)

    # By hand: each template's vector by its own length, their mean by its length; the mean of the rows by its length.
    tower = load_text_tower(project.store / store.features["frames"].model)
    vectors = np.stack([unit(unit(tower([t.format(label=n) for t in TEMPLATES])).mean(axis=0)) for n in NAMES])
    rows = store.table("frames").select("uid", "semantic").collect()
    mean = np.mean(rows.filter(rows["uid"] == "videos/cat")["semantic"].to_list(), axis=0)
    powers = np.exp(vectors @ unit(mean) / 0.01)
    scores = {each.name: each.score for each in predicted}
    assert [scores[name] for name in NAMES] == pytest.approx(powers / powers.sum(), abs=1e-3)

    part = release.figures["names"]["parts"]["labels"]
    assert (part["queries"], part["candidates"]) == (4, 4)
    assert part["figures"]["acc@1"]["value"] >= 0.75
    assert part["figures"]["acc@1"]["chance"] == pytest.approx(1 / 4)
    given = evaluate_given(str(project.store), {"kind": "labels", "feature": "tags"}, None, lambda text: None)
    assert given.to_dict() == release.figures["names"]

    # Nothing is computed or published again; the head asks for no training, and is measured by names.
    assert project.run().release.release == 2
    call = command(capsys)
    assert "needs no training" in call("train", project.spec, "--head", "names").err
    assert "has no head to train" in call("train", project.spec).err
    assert "--kind labels" in call("evaluate", project.store, "--head", "names").err
    assert call("predict", project.store, project.media / "videos" / "cat.mp4", "--head", "names").out.startswith("cat")

    # Other names make other vectors, and no frame is decoded for them.
    project.spec.write_text(project.spec.read_text().replace("'rocket'", "'space rocket'"))
    changed = project.run().release
    assert changed.release == 3
    assert changed.features["frames"].version == release.features["frames"].version
    assert {each.name for each in open_store(str(project.store)).labels(["page"])["clips", "page"]} >= {"space rocket"}


def test_each_vector_is_scaled_by_its_own_length() -> None:
    table = {"a": [3.0, 4.0], "x a": [0.0, 2.0], "b": [1.0, 0.0], "x b": [1.0, 0.0]}

    def tower(texts: list[str]) -> NDArray[np.float32]:
        return np.array([table[text] for text in texts], np.float32)

    found = name_vectors(tower, ["a", "b"], ["{label}", "x {label}"], unit=True)
    assert found == pytest.approx(np.stack([unit(np.array([0.3, 0.9])), [1.0, 0.0]]), abs=1e-6)
    plain = name_vectors(tower, ["a", "b"], ["{label}", "x {label}"], unit=False)
    assert plain.tolist() == [[1.5, 3.0], [1.0, 0.0]]


def node(**settings: object) -> ZeroShotSpec:
    return ZeroShotSpec.model_validate({"kind": "zero_shot", "feature": "f", "labels": "l"} | settings)


def test_similarity_after_pooling_is_the_mean_of_the_rows_similarities() -> None:
    rng = np.random.default_rng(0)
    rows, names = rng.normal(size=(5, 8)).astype(np.float32), unit(rng.normal(size=(8, 3))).astype(np.float32)
    mean_of_units = unit(rows).mean(axis=0, keepdims=True)
    after = compared(node(pool="after"), mean_of_units.astype(np.float32), names)
    assert after[0] == pytest.approx((unit(rows) @ names).mean(axis=0), abs=1e-6)
    before = compared(node(), rows.mean(axis=0, keepdims=True), names)
    assert before[0] == pytest.approx(unit(rows.mean(axis=0)) @ names, abs=1e-6)
    dot = compared(node(similarity="dot"), rows[:1], names)
    assert dot[0] == pytest.approx(rows[0] @ names, abs=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("labels: things, scores", "labels: clips, scores", "heads.names.labels: source 'clips' is of kind media"),
        ("labels: things, scores", "labels: thing, scores", "did you mean 'things'"),
        ("feature: frames, output: semantic, labels", "feature: frame, labels", "did you mean 'frames'"),
        ("scores: softmax, temperature", "temperature", "'temperature' is for scores: softmax"),
        ("kind: zero_shot, ", "kind: zero_shoot, ", "zero_shoot"),
    ],
)
def test_a_wrong_node_says_what_to_correct(tmp_path: Path, old: str, new: str, message: str) -> None:
    from stores import SPEC

    project = SmallStore(tmp_path)
    project.spec.write_text(SPEC)
    with_names(project)
    text = project.spec.read_text()
    assert old in text
    project.spec.write_text(text.replace(old, new))
    with pytest.raises(SpecError, match=message):
        load_spec(project.spec)


def test_an_output_without_texts_can_not_be_compared(small_store: SmallStore) -> None:
    project = with_names(small_store)
    project.spec.write_text(project.spec.read_text().replace("output: semantic, labels", "output: pooled, labels"))
    with pytest.raises(SpecError, match=r"frames\.pooled can't be compared with class names"):
        project.run()


@pytest.mark.parametrize("count", [1, 3, 7, 9])
def test_the_best_of_equal_scores_are_the_first(count: int) -> None:
    scores = np.random.default_rng(0).integers(0, 4, (200, 7)).astype(np.float32)
    head = PlainHead(
        card_of([InputColumn("f", "o", "o", 1, "")], []), np.empty((0, 0), np.float32), np.empty(0, np.float32)
    )
    places, ranked = head.best(scores, count)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    assert places.tolist() == expected.tolist()
    assert ranked.tolist() == np.take_along_axis(scores, expected, axis=1).tolist()
