"""What commands say of quantised features: figures of a release, and how far processors differ, with the exit code."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from cliploom.pipelines.drift import precision_rows, precision_text, show_drift
from cliploom.schemas.precision import OutputFigures, PrecisionFigures
from cliploom.schemas.release import FeatureEntry, OutputEntry, Release
from cliploom.transforms.upkeep import recompute
from cliploom.transforms.upkeep.recompute import LEAST, Drift

FIGURES = PrecisionFigures(
    {
        "vector": OutputFigures(0.99, 0.971, 0.9, 0.812),
        "other": OutputFigures(0.8, 0.5, 0.1, 0.2),
        "scores": OutputFigures(0.7, 0.3, 0.1, None, 0.9),
    },
    faster=2.345,
    calibrated=300,
    held_back=200,
    items=41,
)


def release(**features: dict[str, Any]) -> Release:
    blank: dict[str, Any] = {"source": "s", "encoder": "e", "config": "c", "table": "t", "version": 1, "rows": 1}
    blank |= {"parts": 1, "size": 1, "model": "m", "recipe": {}, "outputs": {"vector": OutputEntry(dim=3, space="x")}}
    entries = {name: FeatureEntry(**(blank | values)) for name, values in features.items()}
    made: dict[str, Any] = {"run": "r", "created_at": datetime.now(UTC), "program": "1", "spec": {}, "tables": {}}
    return Release(release=1, features=entries, **made)


QUANTISED = {"precision": "int8", "figures": FIGURES.to_dict()}


def test_figures_are_those_of_the_outputs_that_the_feature_keeps() -> None:
    assert precision_text(release(f=QUANTISED)) == "f int8, p5 0.971, recall@10 0.812, 2.35 times as fast as f32"
    both = {name: OutputEntry(dim=3, space=name) for name in ("vector", "other", "scores")}
    assert ", p5 0.500, recall@10 0.200, " in precision_text(release(f=QUANTISED | {"outputs": both}))


def test_features_in_f32_are_not_named() -> None:
    assert precision_text(release(f={}, g={"precision": "bf16"})) == ""
    assert precision_rows(release(f={})) == {}
    made = release(a=QUANTISED, f={}, z=QUANTISED)
    assert precision_text(made).count("; z int8") == 1
    assert list(precision_rows(made)) == ["a", "z"]
    assert json.loads(json.dumps(precision_rows(made)))["z"]["figures"]["faster"] == 2.345


@pytest.mark.parametrize(
    ("processors", "said"),
    [
        ({"amd": 1.0}, ""),
        ({"amd": 1.0, "intel": 0.999999}, ""),
        ({"amd": 0.98}, ""),
        ({"amd": 1.0, "old": None}, ""),
        ({"amd": 1.0, "intel": 0.98}, "; rows come from processors that give other results: intel (cosine 0.9800)"),
    ],
)
def test_processors_that_give_others_are_named(processors: dict[str, float | None], said: str) -> None:
    text = precision_text(release(f=QUANTISED | {"processors": processors}))
    assert text.partition("f32")[2] == said


def drift(feature: str, least: float | None, lost: int = 0) -> Drift:
    return Drift(feature, "int8", "intel" if lost else "", "amd", 0 if least is None else 9, least, least, lost)


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([], 0, "No feature of this release is computed"),
        ([drift("f", 1.0)], 0, "this processor: amd."),
        ([drift("f", LEAST["int8"])], 0, "this processor: amd"),
        ([drift("f", None, lost=3)], 0, "this processor: amd"),
        ([drift("f", 1.0), drift("g", 0.5)], 4, "g: a row has a cosine of 0.5000"),
    ],
)
def test_rows_that_differ_too_much_end_with_code_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: list[Drift], code: int, said: str
) -> None:
    monkeypatch.setattr(recompute, "recompute_rows", lambda store, items, release: found)
    assert show_drift("store", 5, None, as_json=False) == code
    out, err = capsys.readouterr()
    assert said in " ".join(err.split())
    assert ("lost" in out) == any(each.lost for each in found)
    assert ("not known" in out) == any(not each.processor for each in found)
    assert show_drift("store", 5, None, as_json=True) == code
    rows = json.loads(capsys.readouterr().out)
    assert [(row["feature"], row["acceptable"]) for row in rows] == [(each.feature, each.acceptable) for each in found]
