"""Quantised encoders of a spec: where samples are kept, which items they are drawn from, the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cliploom.pipelines.planning import calibrating
from cliploom.pipelines.planning.calibrating import (
    Models,
    calibration_path,
    check_gate,
    encoders_in_order,
    is_prepared,
    items_of,
    prepared_digest,
    quantised_model,
    stored_calibration,
    wants_samples,
)
from cliploom.pipelines.planning.check import check_encoders
from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.schemas.models import CARD_FILE, ModelCard, Output
from cliploom.schemas.precision import Calibration, OutputFigures, PrecisionFigures, SampleId
from cliploom.schemas.spec import Spec
from cliploom.schemas.spec_file import parse_document
from cliploom.transforms.store.object_store import ObjectStore

MEDIA = {"kind": "media", "glob": "*"}


def spec(precision: str = "int8", **changes: Any) -> Spec:
    document = {
        "version": 1,
        "name": "x",
        "store": "./store",
        "sources": {"clips": MEDIA, "more": MEDIA},
        "encoders": {
            "net": {"kind": "efficientnet_lite0", "precision": precision, "text_encoder": "words"},
            "words": {"kind": "minilm"},
            "spare": {"kind": "efficientnet_lite0"},
        },
        "features": {
            "frames": {"source": "clips", "sample": {"every": "1s"}, "encoder": "net", "outputs": ["pooled"]},
            "looks": {"source": "more", "sample": {"uniform": 2}, "encoder": "net", "outputs": ["semantic"]},
        },
    }
    return parse_document(document | changes)


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "store")


CHOSEN = Calibration((SampleId("aa", 0, False), SampleId("bb", 3, True)), overflow_fix=True)


def keep(objects: ObjectStore, path: str, calibration: Calibration) -> None:
    objects.put(path, json.dumps(calibration.to_dict()).encode())


def test_samples_are_kept_by_the_digest_of_the_f32_model(objects: ObjectStore) -> None:
    net, plain = (check_encoders(spec(precision))["net"] for precision in ("int8", "f32"))
    assert calibration_path(net, "text") == calibration_path(plain, "text") != calibration_path(net, "other")
    assert stored_calibration(objects, net, "text") is None
    keep(objects, calibration_path(net, "text"), CHOSEN)
    assert stored_calibration(objects, net, "text") == CHOSEN
    assert stored_calibration(objects, net, "other") is None


def test_a_quantised_model_has_no_digest_before_its_samples_are_chosen(objects: ObjectStore) -> None:
    net = check_encoders(spec())["net"]
    assert prepared_digest(objects, net, "text") is None
    digests = []
    for calibration in (CHOSEN, replace(CHOSEN, overflow_fix=False), CHOSEN):
        keep(objects, calibration_path(net, "text"), calibration)
        digests.append(prepared_digest(objects, net, "text"))
    assert digests[0] == digests[2] != digests[1]
    weights = check_encoders(spec("int8_weights"))["net"]
    assert prepared_digest(objects, weights, "text") not in (None, *digests), "weights alone need no samples"


def test_a_model_is_prepared_when_its_card_is_there(objects: ObjectStore) -> None:
    models = Models.of(objects)
    assert objects.root is not None
    assert models.folder == objects.root / "models"
    assert not is_prepared(models, None)
    assert not is_prepared(models, "d")
    objects.put(f"models/d/{CARD_FILE}", b"{}")
    assert is_prepared(models, "d")


def test_encoders_of_features_come_after_their_text_encoders() -> None:
    made = spec()
    assert encoders_in_order(made, check_encoders(made)) == ["words", "net"]


def listed(*rows: tuple[str, str | None]) -> pl.DataFrame:
    columns = [(source, f"{digest}.mp4", "", digest, "") for source, digest in rows]
    names = ["source", "uri", "signature", "digest", "facts"]
    return pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String), orient="row")


def test_samples_come_from_items_of_all_features_of_the_encoder_that_could_be_probed() -> None:
    made = spec()
    net, spare = (check_encoders(made)[name] for name in ("net", "spare"))
    items = listed(("clips", "b"), ("more", "a"), ("clips", None), ("elsewhere", "c"), ("clips", "b"))
    found = list(items_of(made, net, items))
    assert sorted((item.digest, item.uri) for item in found) == [("a", "a.mp4"), ("b", "b.mp4")]
    assert {item.digest: "uniform" in item.sampling for item in found} == {"a": True, "b": False}
    assert list(items_of(made, net, items.reverse())) == found, "whatever order they are listed in"
    assert list(items_of(made, spare, items)) == []


def test_of_very_many_items_a_bounded_number_is_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "MOST_ITEMS", 7)
    made = spec()
    items = listed(*((source, f"{number:03}") for number in range(50) for source in ("clips", "more")))
    assert len(list(items_of(made, check_encoders(made)["net"], items))) == 7


def card(pooled: float, semantic: float) -> ModelCard:
    outputs = {name: Output(dim=4, space=name) for name in ("pooled", "semantic", "unused")}
    figures = {"pooled": OutputFigures(1, pooled, 1, 1), "semantic": OutputFigures(1, semantic, 1, 1)}
    measured = PrecisionFigures(figures | {"unused": OutputFigures(0, 0, 0, 0)}, 2.0, 300, 200, 9)
    return ModelCard("efficientnet_lite0", "d", "frame", "int8", outputs, figures=measured)


@pytest.mark.parametrize(("pooled", "semantic", "refused"), [(1, 1, ""), (0.9, 1, "pooled"), (1, 0.9, "semantic")])
def test_the_gate_asks_of_the_outputs_that_some_feature_keeps(pooled: float, semantic: float, refused: str) -> None:
    made = spec()
    look: Callable[[], None] = lambda: check_gate(made, check_encoders(made)["net"], card(pooled, semantic))  # noqa: E731
    if not refused:
        look()
        return
    with pytest.raises(CliploomError, match=rf"encoders\.net: int8 does not agree with f32: {refused}: p5 0\.900"):
        look()


def test_a_model_of_samples_is_made_by_a_run_alone(objects: ObjectStore) -> None:
    made = spec()
    with pytest.raises(SpecError, match=r"encoders\.net: a model of precision int8 is prepared with samples"):
        quantised_model(made, check_encoders(made)["net"], Models.of(objects), None)


def test_int8_of_an_encoder_that_no_media_use_is_refused(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made = spec()
    monkeypatch.setattr(calibrating, "prepare_safely", lambda *_: (Path("models/d"), card(1, 1)))
    none = pl.DataFrame(schema=listed().schema)
    with pytest.raises(SpecError, match=r"encoders\.net: int8 is calibrated with samples of media"):
        calibrating.prepare_quantised_encoders(made, Path(), objects, none, print, recalibrate=False)


def test_a_spec_in_f32_wants_no_samples_and_prepares_nothing(objects: ObjectStore) -> None:
    assert not wants_samples(spec("f32"), Path(), objects, recalibrate=True)
    assert objects.root is not None
    assert not (objects.root / "models").exists()
