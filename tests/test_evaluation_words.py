"""Evaluations of kind words: a head of kind devise, measured on a release, with another method beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from vector_heads import put_towers

from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.pipelines.training.comparing import compare_releases
from cliploom.pipelines.training.evaluate import evaluate_head
from cliploom.pipelines.training.measuring import evaluate_declared
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.schemas.vector_heads import CLIP, TowerInput
from cliploom.transforms.evaluation.results import Evaluated
from cliploom.transforms.heads.dataset import split_of_video
from cliploom.transforms.heads.towers import Tower
from cliploom.transforms.heads.word_figures import BOTH, FOUND, SEEN, UNSEEN
from cliploom.transforms.search.searching import open_store

COLOURS = {"red": (230, 20, 20), "green": (20, 200, 40), "blue": (20, 40, 230), "yellow": (240, 230, 30)}
EACH = 5
SPEC = """\
version: 1
name: colours
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
  words: {kind: devise, inputs: [{feature: frames}], text_encoder: minilm, unseen: [yellow], validation: 40%}
evaluations:
  words: {kind: words, feature: words}
"""


def run(folder: Path, *overrides: str) -> RunResult:
    document = load_document(folder / "spec.yaml", overrides)
    return run_spec(parse_document(document), document, folder, RunOptions(), lambda text: None)


def map_to(rows: NDArray[np.float32], targets: NDArray[np.float32]) -> Tower:
    kernel = np.linalg.lstsq(rows.astype(np.float64), targets.astype(np.float64), rcond=None)[0]
    return Tower(((kernel.astype(np.float32), np.zeros(targets.shape[1], np.float32)),), unit=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head that knows the text vector of each picture's colour, and a rival that knows that of the next colour."""
    folder = tmp_path_factory.mktemp("colours")
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / "media" / name).mkdir(parents=True)
        for number in range(EACH):
            picture = np.clip(np.array(colour) + random.integers(-25, 25, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / "media" / name / f"{number}.png")
    (folder / "spec.yaml").write_text(SPEC)
    first = run(folder, "evaluations={}")
    entry = first.release.features["frames"]
    from cliploom.pipelines.planning.compile_jobs import prepared_text_encoder
    from cliploom.transforms.store.object_store import ObjectStore

    spec = parse_document(load_document(folder / "spec.yaml", ()))
    text_model, minilm = prepared_text_encoder(spec, folder, "minilm", ObjectStore(str(folder / "store")))
    texts = dict(zip(COLOURS, minilm.encode(list(COLOURS)), strict=True))
    table = open_store(str(folder / "store")).table("frames").collect()
    rows = np.array(table["pooled"].to_list(), np.float32)
    colours = [uid.split("/")[-2] for uid in table["uid"].to_list()]
    after = dict(zip(COLOURS, [*list(COLOURS)[1:], next(iter(COLOURS))], strict=True))
    towers = {
        CLIP: map_to(rows, np.stack([texts[name] for name in colours])),
        "conse": map_to(rows, np.stack([texts[after[name]] for name in colours])),
    }
    put_towers(
        folder / "store",
        folder / "head",
        towers,
        {CLIP: TowerInput("frames", "pooled", "pictures", rows.shape[1], entry.outputs["pooled"].space, entry.model)},
        spec.heads["words"].model_dump(mode="json"),
        name="words",
        space=minilm.output.space,
        text_model=text_model,
        method="head",
        labels=("blue", "green", "red"),
    )
    return folder


def test_a_release_has_the_figures_of_seen_and_unseen_words(project: Path) -> None:
    release = run(project).release
    found = Evaluated.from_dict(release.figures["words"])
    assert found.settings == {"head": "words", "method": "head", "unseen labels": 1}
    uids = [f"{name}/{number}" for name in COLOURS for number in range(EACH)]
    known = open_store(str(project / "store")).table("frames").collect()["uid"].to_list()
    assert sorted(uid.split("media/")[-1] for uid in known) == sorted(uids)
    held = [uid for uid in known if "yellow" not in uid and split_of_video(uid, 0.4, 0) == "validation"]
    assert 0 < len(held) < 3 * EACH
    assert (found.parts[SEEN].queries, found.parts[SEEN].candidates) == (len(held), 3)
    assert (found.parts[UNSEEN].queries, found.parts[UNSEEN].candidates) == (EACH, 1)
    assert (found.parts[BOTH].queries, found.parts[BOTH].candidates) == (len(held) + EACH, 4)
    assert (found.parts[FOUND].queries, found.parts[FOUND].candidates) == (1, 4 * EACH)
    for part, name in ((SEEN, "hit@1"), (BOTH, "hit@1"), (FOUND, "mAP")):
        assert found.parts[part].figures[name].value == pytest.approx(1)
        assert found.parts[part].figures[name].chance < 0.5
    assert found.parts[f"{FOUND}, as index words answers"].figures["R@1"].value == 1
    # The rival calls each picture by the next colour.
    assert found.parts[f"conse: {BOTH}"].figures["hit@1"].value == 0
    assert found.parts[f"conse: {FOUND}"].figures["R@1"].value == 0
    # The figures stand beside the head's card, too.
    folder = project / "store" / str(release.features["words"].recipe["head"])
    assert json.loads((folder / "evaluations.json").read_text()) == {"release": 2, "figures": release.figures}
    page = (folder / "EVALUATIONS.md").read_text()
    assert f"| {FOUND} | mAP | 1.0000 | 1.0000 to 1.0000 |" in page
    again = evaluate_declared(str(project / "spec.yaml"), None, None, lambda text: None)["words"]
    assert again.to_dict() == release.figures["words"]
    rows = compare_releases(str(project / "store"), 1, release.release)
    assert any(row.name == f"words: {FOUND} mAP" and row.new == pytest.approx(1) for row in rows)
    assert any(row.name == "head words of words: recall@10" and (row.old, row.new) == (None, 0.5) for row in rows)


def test_a_head_of_vectors_is_measured_on_its_feature(project: Path) -> None:
    with pytest.raises(SpecError, match=r"of kind devise and returns vectors; measure a feature .* --kind words"):
        evaluate_head(str(project / "store"), "words")


def test_other_features_are_refused_with_the_kind_to_use(project: Path) -> None:
    figures = run(project, "evaluations={wrong: {kind: words, feature: frames}}").release.figures
    assert "evaluations.wrong: feature 'frames' is not made by a head; words are measured" in figures["wrong"]["error"]


def test_a_list_of_uids_without_labels_is_an_error(project: Path) -> None:
    (project / "none.txt").write_text("nothing\n")
    spec = project / "only.yaml"
    spec.write_text(SPEC.replace("feature: words}\n", "feature: words, only: none.txt}\n"))
    with pytest.raises(SpecError, match="correct 'only'"):
        evaluate_declared(str(spec), None, None, lambda text: None)
