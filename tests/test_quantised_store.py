"""A store whose vectors are of an int8 model: samples, gate, nights, another precision, and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from media_factory import write_video
from numpy.typing import NDArray
from stores import SmallStore

from cliploom.pipelines.demo.corpus import CAT, COFFEE, PAGE, ROCKET
from cliploom.pipelines.listings import release_rows
from cliploom.pipelines.running.preview import plan_preview
from cliploom.pipelines.running.publish import rollback
from cliploom.pipelines.running.run import RunOptions
from cliploom.schemas.errors import CliploomError
from cliploom.schemas.precision import Calibration
from cliploom.transforms.encoders.quantised_options import check_quantisable
from cliploom.transforms.encoders.registry import family, read_card
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import processors_of
from cliploom.transforms.upkeep.recompute import recompute_rows
from cliploom.transforms.upkeep.verifying import verify_release

pytest.importorskip("nncf")

MODELS = Path(__file__).with_name("saved_models")
# What small models with random weights reach says nothing; that figures are measured and heeded does.
LAX = {"p5": 0.2, "recall": 0.05, "faster": 0}
SPEC: dict[str, Any] = {
    "version": 1,
    "name": "small",
    "store": "./store",
    "sources": {"clips": {"kind": "media", "glob": "media/*.*"}},
    "encoders": {
        "towers": {
            "kind": "saved_model",
            "model": str(MODELS / "two_towers.tar.gz"),
            "signature": "image",
            "input": {"layout": "nhwc", "width": 32, "height": 24, "fit": "squash"},
            "outputs": {"picture": {"node": "embedding"}},
            "text": {"output": "picture"},
            "golden": str(MODELS / "two_towers.npz"),
            "precision": "int8",
            "agreement": LAX,
        }
    },
    "features": {"frames": {"source": "clips", "sample": {"every": "200ms"}, "encoder": "towers"}},
    "indexes": {"frames": {"feature": "frames", "output": "picture", "metric": "cosine", "kind": "flat"}},
    "limits": {"max_recompute": "100%", "max_deleted": "100%"},
}


def pan(photo: Any, path: Path, frames: int) -> None:
    picture = np.asarray(photo.load().convert("RGB").resize((96, 72)))

    def draw(index: int, width: int, height: int) -> NDArray[np.uint8]:
        return np.roll(picture, 3 * index, axis=1)[:height, :width]

    write_video(path, frames, fps=5, size=(64, 48), draw=draw)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """Two releases: the store as it was made, with 120 samples."""
    folder = tmp_path_factory.mktemp("quantised")
    (folder / "media").mkdir()
    for name, photo in (("cat", CAT), ("coffee", COFFEE), ("page", PAGE), ("rocket", ROCKET)):
        pan(photo, folder / "media" / f"{name}.mp4", 30)
    (folder / "cliploom.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")
    small = SmallStore(folder)
    small.run()
    return small


@pytest.fixture
def copied(project: SmallStore, tmp_path: Path) -> SmallStore:
    shutil.copytree(project.folder, tmp_path / "p")
    return SmallStore(tmp_path / "p")


def preview(small: SmallStore, *overrides: str) -> dict[str, Any]:
    return plan_preview(small.spec, overrides, RunOptions())


def calibration_of(small: SmallStore) -> Calibration:
    (path,) = (small.store / "calibrations").iterdir()
    return Calibration.from_dict(json.loads(path.read_text()))


def test_figures_and_samples_are_in_the_card_and_the_release(project: SmallStore) -> None:
    release = open_store(str(project.store)).release
    entry = release.features["frames"]
    card = read_card(project.store / entry.model)
    assert card.figures is not None
    assert (card.precision, entry.precision) == ("int8", "int8")
    assert entry.outputs["picture"].space.endswith("@int8")
    assert card.figures.calibrated + card.figures.held_back == 120
    assert 0 < card.figures.held_back < card.figures.calibrated
    assert card.figures.faster > 0
    assert entry.figures == card.figures.to_dict()
    found = calibration_of(project)
    assert found.digest == card.calibration
    assert len(found.samples) == 120
    assert (
        release_rows(str(project.store))[-1]["precision"]["frames"]["figures"]["calibrated"] == card.figures.calibrated
    )
    assert card.figures.bytes_after < card.figures.bytes_before
    assert verify_release(str(project.store)) == []


def test_the_processor_is_in_every_part_and_rows_computed_again_are_the_same(project: SmallStore) -> None:
    entry = open_store(str(project.store)).release.features["frames"]
    parts = list((project.store / entry.table).glob("part-*.parquet"))
    assert parts
    (processor,) = {each for part in parts for each in processors_of(part)}
    assert processor.agreement == pytest.approx(1, abs=1e-4)
    assert entry.processors == {processor.features: processor.agreement}
    (drift,) = recompute_rows(str(project.store), 20)
    assert drift.processor == drift.here == processor.features
    assert drift.rows >= 12
    assert drift.least == pytest.approx(1, abs=1e-4)
    assert drift.acceptable


def test_new_media_change_no_samples_until_they_are_asked_to(copied: SmallStore) -> None:
    before = calibration_of(copied)
    pan(COFFEE, copied.media / "late.mp4", 33)
    (copied.media / "cat.mp4").unlink()
    copied.run()
    release = open_store(str(copied.store)).release
    assert calibration_of(copied) == before
    assert preview(copied)["compute_items"] == 0
    copied.run(recalibrate=True)
    again = open_store(str(copied.store)).release
    assert calibration_of(copied).digest != before.digest
    assert again.features["frames"].config != release.features["frames"].config
    assert preview(copied)["compute_items"] == 0


def test_another_precision_is_another_table_and_goes_back(copied: SmallStore) -> None:
    int8 = open_store(str(copied.store))
    said = preview(copied, "encoders.towers.precision=f32")
    assert [reason["reason"] for reason in said["reasons"]] == ["encoder towers: precision int8 -> f32"]
    assert said["estimated_cpu_seconds"] > 0
    copied.run(["encoders.towers.precision=f32"])
    f32 = open_store(str(copied.store))
    entries = [opened.release.features["frames"] for opened in (int8, f32)]
    assert len({entry.table for entry in entries}) == 2
    assert len({entry.outputs["picture"].space for entry in entries}) == 2
    assert f32.release.indexes["frames"].shards != int8.release.indexes["frames"].shards
    rollback(str(copied.store), int8.release.release)
    back = open_store(str(copied.store))
    assert back.release.features["frames"].table == entries[0].table
    # A stored picture finds itself only when the query is encoded as the index's rows were.
    still = copied.folder / "query.mp4"
    pan(CAT, still, 1)
    for opened in (back, f32):
        hits = opened.ask(query(str(still))).hits
        assert hits[0].uid.startswith("cat")
        assert hits[0].score > 0.99


def query(path: str) -> Any:
    from cliploom.transforms.search.query_model import read_query

    return read_query(json.dumps({"parts": [{"kind": "file", "value": path}], "top": 3}))


def test_limits_that_are_raised_later_refuse_a_model_that_is_there(copied: SmallStore) -> None:
    with pytest.raises(CliploomError, match=r"encoders\.towers: int8 does not agree with f32: .*faster") as told:
        copied.run(["encoders.towers.agreement={faster: 90}"])
    assert "held-back samples" in str(told.value)


def test_too_few_samples_are_refused(copied: SmallStore) -> None:
    for name in ("cat", "page"):
        (copied.media / f"{name}.mp4").unlink()
    shutil.rmtree(copied.store)
    with pytest.raises(CliploomError, match="of which there are 60, fewer than 100"):
        copied.run()
    assert not (copied.store / "releases").exists()


def test_a_model_that_was_removed_is_made_again_of_the_same_samples(copied: SmallStore) -> None:
    entry = open_store(str(copied.store)).release.features["frames"]
    before = calibration_of(copied)
    shutil.rmtree(copied.store / "models")
    assert preview(copied)["compute_items"] == 0
    assert calibration_of(copied) == before
    assert ObjectStore(str(copied.store)).size(f"{entry.model}/model.xml")


def test_what_can_not_be_quantised_is_said_before_anything_is_loaded() -> None:
    minilm = family("minilm")
    assert "int8_weights" in check_quantisable(minilm, minilm.Options(precision="int8"))
    assert check_quantisable(minilm, minilm.Options(precision="int8_weights")) == ""
    words = family("word_vectors")
    assert "table" in check_quantisable(words, words.Options(model="w.vec", precision="int8_weights"))  # type: ignore[call-arg]


def test_projected_encoders_take_the_precision_of_the_whole() -> None:
    options = family("pca").Options
    values = {"encoder": {"kind": "efficientnet_lite0"}, "output": "pooled", "path": "p.npz", "precision": "int8"}
    chosen = options.model_validate(values)
    assert chosen.inner.precision == "int8"  # type: ignore[attr-defined]
    assert chosen.model_copy(update={"precision": "f32"}).inner.precision == "f32"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="write precision beside encoder"):
        options.model_validate(values | {"encoder": {"kind": "efficientnet_lite0", "precision": "int8"}})
