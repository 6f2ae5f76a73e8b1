"""``cliploom models bench``: which encoders are measured with which items, and what is printed of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Command, assert_one_sentence, command
from stores import SPEC

from cliploom.pipelines.running import model_bench
from cliploom.schemas.precision import OutputFigures, PrecisionFigures
from cliploom.transforms.work.model_bench import BenchRow

cliploom = pytest.fixture(command)

FIGURES = PrecisionFigures({"pooled": OutputFigures(0.98, 0.91, 0.8, 0.7)}, 2.1, 300, 200, 41)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    for name in "abc":
        (tmp_path / "media" / f"{name}.png").write_bytes(name.encode())
    (tmp_path / "cliploom.yaml").write_text(SPEC, encoding="utf-8")
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the process that measures is asked; here it answers at once."""
    found: list[dict[str, Any]] = []

    def answer(function: str, what: str, **values: Any) -> list[dict[str, Any]]:
        found.append(values)
        rows = [
            BenchRow(values["name"], "f32", 180.0, None, 20.1),
            BenchRow(values["name"], "int8", 378.0, FIGURES, 5.2, "pooled: p5 0.910, below 0.95."),
        ]
        return [row.to_dict() for row in rows]

    monkeypatch.setattr(model_bench, "run_isolated", answer)
    return found


def test_each_encoder_of_a_feature_is_measured_on_the_spec_s_items(
    cliploom: Command, project: Path, asked: list[dict[str, Any]]
) -> None:
    ended = cliploom("models", "bench", project / "cliploom.yaml")
    assert ended.code == 0, ended
    assert [values["name"] for values in asked] == ["minilm", "lite0"]
    drawn = asked[1]["drawing"]["items"]
    assert {Path(item["uri"]).name for item in drawn} == {"a.png", "b.png", "c.png"}
    assert asked[1]["text"]["kind"] == "minilm"
    assert asked[0]["text"] is None
    assert ended.out.count("378.0") == 2
    assert "lite0 int8: pooled: p5 0.910, below 0.95." in ended.out
    assert "measuring lite0" in ended.err
    assert not (project / "store").exists(), "nothing is written into the store"


def test_one_encoder_as_json(cliploom: Command, project: Path, asked: list[dict[str, Any]]) -> None:
    ended = cliploom("models", "bench", project / "cliploom.yaml", "--encoder", "lite0", "--json")
    rows = json.loads(ended.out)
    assert [(row["encoder"], row["precision"]) for row in rows] == [("lite0", "f32"), ("lite0", "int8")]
    assert [BenchRow.from_dict(row).figures for row in rows] == [None, FIGURES]
    assert len(asked) == 1


def test_an_encoder_that_no_feature_uses_is_refused(
    cliploom: Command, project: Path, asked: list[dict[str, Any]]
) -> None:
    ended = cliploom("models", "bench", project / "cliploom.yaml", "--encoder", "lite")
    assert_one_sentence(ended, 2, ("No feature uses an encoder 'lite'", "did you mean 'lite0'?"))
    assert asked == []
