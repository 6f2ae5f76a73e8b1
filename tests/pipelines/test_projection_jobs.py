"""Verdicts of features that heads make of other features' rows: those of the rows, or that the head has changed."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from cliploom.pipelines.planning.projection_jobs import projection_verdicts
from cliploom.schemas.models import ModelCard, Output
from cliploom.schemas.plan import CONFIG_CHANGED, CONTENT_CHANGED, DELETED, FAILED, MOVED, NEW, UNCHANGED
from cliploom.schemas.vector_heads import ProjectionJob

CARD = ModelCard("head", "d", "vector", "f32", {"embedding": Output(dim=2, space="joint")})
RECIPE = {"head": "heads/joint/2", "side": "clip", "model": "d", "input": ["frames", "pooled", "base"]}
JOB = ProjectionJob(
    name="joint", source="s", head="joint", trained="heads/joint/2", base="frames", output="pooled", dim=3,
    config="now", table="features/joint/now", model="models/d", card=CARD, recipe=RECIPE,
)  # fmt: skip
VERDICTS = pl.DataFrame(
    [
        ("frames", 1, "a", UNCHANGED, ""),
        ("frames", 2, "b", MOVED, "renamed from x"),
        ("frames", 3, "c", CONFIG_CHANGED, "sample changed"),
        ("frames", 4, "d", NEW, ""),
        ("frames", 5, "e", CONTENT_CHANGED, ""),
        ("frames", 6, "f", FAILED, "no frame"),
        ("frames", 7, "g", DELETED, ""),
        ("other", 1, "a", NEW, ""),
    ],
    schema=["feature", "item_no", "uid", "verdict", "reason"],
    orient="row",
)


class Entry:
    """What is asked of the feature in the last release."""

    def __init__(self, config: str, **recipe: Any) -> None:
        self.config = config
        self.recipe = RECIPE | recipe


class Before:
    def __init__(self, **features: Entry) -> None:
        self.features = features


def verdicts(previous: Any) -> dict[int, tuple[str, str]]:
    found = projection_verdicts({"joint": JOB}, VERDICTS, previous)
    assert found.columns == VERDICTS.columns
    assert set(found["feature"]) == {"joint"}
    return {
        number: (verdict, reason) for number, verdict, reason in found.select("item_no", "verdict", "reason").rows()
    }


@pytest.mark.parametrize("previous", [None, Before(), Before(frames=Entry("base"))])
def test_a_first_projection_is_of_all_rows_that_there_are(previous: Any) -> None:
    found = verdicts(previous)
    assert {number for number, (verdict, _) in found.items() if verdict == NEW} == {1, 2, 3, 4}
    assert [found[number][0] for number in (5, 6, 7)] == [CONTENT_CHANGED, FAILED, DELETED]


def test_an_unchanged_head_does_what_its_rows_do() -> None:
    mine = VERDICTS.filter(pl.col("feature") == "frames").select("item_no", "verdict", "reason")
    assert verdicts(Before(joint=Entry("now"))) == {number: (verdict, why) for number, verdict, why in mine.rows()}


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"head": "heads/joint/1"}, "head joint was trained again"),
        ({"input": ["frames", "pooled", "older"]}, "frames changed"),
        ({}, "the projection's revision changed"),
    ],
)
def test_a_changed_projection_says_why(recipe: dict[str, Any], reason: str) -> None:
    found = verdicts(Before(joint=Entry("then", **recipe)))
    assert [found[number] for number in (1, 2, 3)] == [(CONFIG_CHANGED, reason)] * 3
    assert found[4][0] == NEW
    assert [found[number][0] for number in (5, 6, 7)] == [CONTENT_CHANGED, FAILED, DELETED]


def test_no_projections_no_verdicts() -> None:
    assert projection_verdicts({}, VERDICTS, None).is_empty()
