"""Packing: everything once, equal bytes once, long items split where that is allowed, shards of a bounded size."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cliploom.pipelines.planning.pack import (
    ITEMS_IN_SLICE,
    MOST_ITEMS,
    SHARDS_IN_ROW_GROUP,
    TARGET_BYTES,
    CostModel,
    estimated_rows,
    layout_shards,
    pack,
    total_cost,
)
from cliploom.schemas.records import Shard, ShardItem
from cliploom.schemas.sampling import Sampling

SHARD = TypeAdapter(Shard)
SAMPLING: TypeAdapter[Sampling] = TypeAdapter(Sampling)
EVERY = SAMPLING.validate_python({"every": "1s"})
FRAMES = SAMPLING.validate_python({"every_frames": 2})


def model(name: str, sampling: Sampling | None = EVERY, row_bytes: int = 100) -> CostModel:
    return CostModel(name, sampling, row_bytes, 1)


def work(rows: list[tuple[str, int, str, float, int]]) -> pl.DataFrame:
    """(feature, item_no, digest, seconds, attempt)."""
    facts = [
        json.dumps({"width": 100, "height": 100, "frames": int(s * 25), "start_s": 0.0, "end_s": s})
        for *_, s, _ in rows
    ]
    return pl.DataFrame(
        {
            "feature": [row[0] for row in rows],
            "item_no": [row[1] for row in rows],
            "uid": [f'u"{row[1]}' for row in rows],
            "uri": [f"/in/{row[1]}.mp4" for row in rows],
            "signature": ["1:1"] * len(rows),
            "digest": [row[2] for row in rows],
            "facts": facts,
            "attempt": [row[4] for row in rows],
        }
    )


def shards_of(
    rows: list[tuple[str, int, str, float, int]], *cost_models: CostModel, segment_s: float = 600.0
) -> list[Shard]:
    packed = pack(work(rows), {model.name: model for model in cost_models or (model("f"),)}, segment_s)
    assert packed["cost_s"].is_sorted(descending=True)
    found = [SHARD.validate_json(text) for text in packed["shard"]]
    assert packed["items"].to_list() == [len(shard.items) for shard in found]
    return found


def items_of(shards: list[Shard]) -> list[ShardItem]:
    return [item for shard in shards for item in shard.items]


def test_no_work_gives_no_shards() -> None:
    assert pack(work([]), {}, 600.0).is_empty()
    assert total_cost(pack(work([]), {}, 600.0)) == 0.0


def test_an_item_that_two_features_want_is_read_once() -> None:
    (item,) = items_of(shards := shards_of([("f", 1, "a", 2, 0), ("g", 1, "a", 2, 3)], model("f"), model("g")))
    assert shards[0].features == ("f", "g")
    assert (item.uri, item.attempt) == ("/in/1.mp4", 3)


def test_items_that_want_different_features_are_in_different_shards() -> None:
    rows: list[tuple[str, int, str, float, int]] = [("f", 1, "a", 2, 0), ("g", 1, "a", 2, 0), ("f", 2, "b", 2, 0)]
    found = {shard.features: [item.digest for item in shard.items] for shard in shards_of(rows, model("f"), model("g"))}
    assert found == {("f", "g"): ["a"], ("f",): ["b"]}


def test_equal_bytes_are_computed_once_for_all_their_items() -> None:
    (item,) = items_of(shards_of([("f", 2, "a", 2, 0), ("f", 1, "a", 2, 0)]))
    assert [(twin.item_no, twin.uid) for twin in item.duplicates] == [(1, 'u"1'), (2, 'u"2')]


def test_a_long_item_is_split_in_time_and_its_last_segment_is_open() -> None:
    items = items_of(shards_of([("f", 1, "a", 1500, 0)]))
    segments = sorted((i.segment.number, i.segment.of, i.segment.start_s, i.segment.end_s) for i in items)
    assert segments == [(0, 3, 0.0, 600.0), (1, 3, 600.0, 1200.0), (2, 3, 1200.0, 1e12)]


def test_an_item_is_whole_when_one_of_its_features_can_not_be_split() -> None:
    rows: list[tuple[str, int, str, float, int]] = [("f", 1, "a", 1500, 0), ("g", 1, "a", 1500, 0)]
    (item,) = items_of(shards_of(rows, model("f"), model("g", FRAMES)))
    assert item.segment.whole


def test_an_item_of_unknown_length_is_one_segment() -> None:
    frame = work([("f", 1, "a", 2, 0)]).with_columns(pl.lit("{}").alias("facts"))
    (shard,) = pack(frame, {"f": model("f")}, 600.0)["shard"]
    assert SHARD.validate_json(shard).items[0].segment.whole


def test_the_plan_does_not_depend_on_the_order_of_the_work() -> None:
    rows: list[tuple[str, int, str, float, int]] = [("f", n, f"d{n % 7}", 1.0 + n, 0) for n in range(1, 30)]
    assert shards_of(rows) == shards_of(rows[::-1])


def test_a_shard_holds_at_most_so_many_items() -> None:
    rows: list[tuple[str, int, str, float, int]] = [("f", n, f"d{n}", 0.0, 0) for n in range(60 * MOST_ITEMS)]
    assert max(len(shard.items) for shard in shards_of(rows)) <= MOST_ITEMS + 1


def test_shards_are_written_in_stretches_of_whole_row_groups() -> None:
    rows: list[tuple[str, int, str, float, int]] = [("f", n, f"d{n}", 0.0, 0) for n in range(ITEMS_IN_SLICE * 5 // 4)]
    stretches = list(layout_shards(work(rows), {"f": model("f")}, 600.0).written())
    assert len(stretches) == 2
    assert stretches[0].height % SHARDS_IN_ROW_GROUP == 0
    assert sorted(item.digest for some in stretches for item in items_of(parsed(some))) == sorted(
        row[2] for row in rows
    )


def parsed(packed: pl.DataFrame) -> list[Shard]:
    return [SHARD.validate_json(text) for text in packed["shard"]]


def test_a_long_item_shares_its_shard_with_few() -> None:
    rows: list[tuple[str, int, str, float, int]] = [("f", n, f"d{n}", 1.0, 0) for n in range(1, 200)]
    shards = shards_of([*rows, ("f", 500, "long", 590.0, 0)])
    (heavy,) = [shard for shard in shards if any(item.digest == "long" for item in shard.items)]
    assert len(heavy.items) < 20


def test_equal_work_is_spread_over_fifty_shards() -> None:
    rows: list[tuple[str, int, str, float, int]] = [("f", n, f"d{n}", 1.0, 0) for n in range(1000)]
    assert {len(shard.items) for shard in shards_of(rows)} <= {19, 20, 21}


def test_a_shard_fills_to_about_the_target_of_bytes() -> None:
    rows: list[tuple[str, int, str, float, int]] = [("f", n, f"d{n}", 100.0, 0) for n in range(2000)]
    shards = shards_of(rows, model("f", row_bytes=TARGET_BYTES // 1000))
    assert max(len(shard.items) for shard in shards) <= 11


@pytest.mark.parametrize(
    ("sampling", "rows"),
    [
        ({"every": "2s"}, 15),
        ({"every_frames": 10}, 75),
        ({"uniform": 8}, 8),
        ({"first": {"frames": 16}}, 1),
        ({"window": {"frames": 32, "stride": 16}}, 46),
        ({"window": {"frames": 30, "stride": 30, "fps": 10}}, 10),
        ("yt8m", 30),
        ("keyframes", 8),
    ],
)
def test_rows_are_estimated_from_length_and_frames(sampling: Any, rows: int) -> None:
    parsed = SAMPLING.validate_python(sampling)
    frame = pl.select(estimated_rows(parsed, pl.lit(30.0), pl.lit(750.0)).alias("rows"))
    assert frame["rows"][0] == rows


ITEMS = st.tuples(
    st.sampled_from(["f", "g"]), st.integers(1, 12), st.floats(0, 4000, allow_nan=False), st.integers(0, 2)
)


@given(st.lists(ITEMS, min_size=1, max_size=25, unique_by=lambda row: row[:2]))
@settings(max_examples=80, deadline=None)
def test_every_item_and_feature_is_packed_once_and_shards_are_bounded(
    rows: list[tuple[str, int, float, int]],
) -> None:
    seconds = {no: s for _, no, s, _ in rows}
    full = [(feature, no, f"d{no % 5}", seconds.get(no % 5, 7.0), a) for feature, no, _, a in rows]
    cost_models = {"f": model("f", row_bytes=100_000), "g": model("g", FRAMES, row_bytes=10)}
    packed = pack(work(full), cost_models, 600.0)
    shards = [SHARD.validate_json(text) for text in packed["shard"]]
    seen: list[tuple[str, int, int]] = []
    for shard in shards:
        for item in shard.items:
            seen += [
                (feature, twin.item_no, item.segment.number) for feature in shard.features for twin in item.duplicates
            ]
            if item.segment.of > 1:
                assert item.segment.end_s - item.segment.start_s >= 600.0
    assert len(seen) == len(set(seen))
    assert {(feature, no) for feature, no, _ in seen} == {(feature, no) for feature, no, *_ in full}


def test_many_workers_get_several_shards_each_of_work_that_is_worth_it() -> None:
    rows: list[tuple[str, int, str, float, int]] = [("f", n, f"d{n}", 300.0, 0) for n in range(3000)]
    models = {"f": model("f")}
    heights = {
        workers: layout_shards(work(rows), models, 600.0, workers=workers).shards.height for workers in (1, 8, 64)
    }
    assert heights[1] == heights[8] < 64
    assert 5 * 64 <= heights[64] <= 8 * 64
    short: list[tuple[str, int, str, float, int]] = [("f", n, f"d{n}", 0.1, 0) for n in range(1000)]
    assert (
        layout_shards(work(short), models, 600.0, workers=64).shards.height
        == layout_shards(work(short), models, 600.0).shards.height
    )
