"""Rows to one vector a video: against plain loops."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.schemas.errors import StoreError
from cliploom.schemas.records import row_id
from cliploom.transforms.heads.pooling import (
    UNTIMED,
    VideoKey,
    Windows,
    WindowSum,
    add_rows,
    add_texts,
    joined,
    pooled_video,
    pooled_within,
    texts_of,
)
from cliploom.transforms.store import quantize
from cliploom.transforms.store.parts import codes_to_arrow, vectors_to_arrow


@dataclass(frozen=True)
class Row:
    item_no: int
    uid: str
    start_s: float | None
    end_s: float | None
    vector: tuple[float, ...]


def table_of(rows: Sequence[Row]) -> pa.Table:
    return pa.table(
        {
            "row_id": pa.array([row_id(row.item_no, place) for place, row in enumerate(rows)]),
            "uid": pa.array([row.uid for row in rows]),
            "start_s": pa.array([row.start_s for row in rows], pa.float64()),
            "end_s": pa.array([row.end_s for row in rows], pa.float64()),
            "v": vectors_to_arrow(np.array([row.vector for row in rows], np.float32).reshape(len(rows), 2)),
        }
    )


def summed(rows: Sequence[Row], window_s: float, cuts: Sequence[int] = ()) -> dict[VideoKey, Windows]:
    """The sums of rows that come in several tables."""
    sums: dict[str, dict[VideoKey, Windows]] = {"v": {}}
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(rows)]):
        add_rows(sums, table_of(rows[begin:end]), {"v": 2}, window_s)
    return sums["v"]


@st.composite
def videos(draw: st.DrawFn) -> list[Row]:
    rows = []
    for number in range(draw(st.integers(1, 4))):
        timed = draw(st.booleans())
        uid = draw(st.sampled_from(["a", "b", "c"])) + str(number)
        for second in range(draw(st.integers(1, 12))):
            vector = (draw(st.integers(-9, 9)) / 4, draw(st.integers(-9, 9)) / 4)
            rows.append(Row(number // 2, uid, float(second), second + 1.0 if timed else None, vector))
    return rows


@settings(max_examples=60, deadline=None)
@given(videos(), st.integers(1, 7), st.data())
def test_means_are_those_of_plain_loops_however_the_rows_come(
    rows: list[Row], window_s: int, data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=3))
    found = summed(rows, float(window_s), cuts)
    assert list(found) == list(dict.fromkeys(VideoKey(row.item_no, row.uid) for row in rows))
    for key, windows in found.items():
        mine = [row for row in rows if (row.item_no, row.uid) == (key.item_no, key.uid)]
        video = pooled_video(key, [windows], float(window_s))
        np.testing.assert_allclose(video.vector, np.mean([row.vector for row in mine], axis=0), atol=1e-6)
        timed = [row for row in mine if row.end_s is not None and row.start_s is not None]
        numbers = sorted({int(row.start_s or 0) // window_s for row in timed})
        assert [segment.start_s for segment in video.segments] == [number * window_s for number in numbers]
        for number, segment in zip(numbers, video.segments, strict=True):
            inside = [row for row in timed if int(row.start_s or 0) // window_s == number]
            np.testing.assert_allclose(segment.vector, np.mean([row.vector for row in inside], axis=0), atol=1e-6)
            assert segment.end_s == min((number + 1) * window_s, max(row.end_s or 0 for row in inside))


def test_rows_without_an_end_stand_for_the_whole_video() -> None:
    windows = summed([Row(1, "a", 0.0, None, (1, 2))], 5.0)[VideoKey(1, "a")]
    assert list(windows) == [UNTIMED]
    assert pooled_video(VideoKey(1, "a"), [windows], 5.0).segments == ()


def test_a_start_that_was_rounded_down_belongs_to_its_window() -> None:
    windows = summed([Row(1, "a", 4.9999995, 6.0, (1, 2))], 5.0)[VideoKey(1, "a")]
    assert list(windows) == [1]


def test_videos_of_one_name_in_two_shards_stay_apart() -> None:
    rows = [Row(1, "a", 0.0, 1.0, (1, 1)), Row(2, "a", 0.0, 1.0, (3, 3))]
    found = summed(rows, 5.0)
    assert [windows[0].total.tolist() for windows in found.values()] == [[1, 1], [3, 3]]


def test_inputs_are_joined_where_all_have_the_window() -> None:
    key = VideoKey(1, "a")
    first = summed([Row(1, "a", 0.0, 1.0, (1, 2)), Row(1, "a", 6.0, 7.0, (3, 4))], 5.0)[key]
    second = summed([Row(1, "a", 0.0, 2.0, (5, 6))], 5.0)[key]
    video = pooled_video(key, [first, second], 5.0)
    assert video.vector.tolist() == [2, 3, 5, 6]
    (segment,) = video.segments
    assert (segment.start_s, segment.end_s) == (0, 2)
    assert segment.vector.tolist() == [1, 2, 5, 6]


def test_codes_are_decoded_before_they_are_averaged() -> None:
    codes = np.array([[0, 255], [128, 128]], np.uint8)
    table = table_of([Row(1, "a", 0.0, 1.0, (0, 0)), Row(1, "a", 1.0, 2.0, (0, 0))])
    sums: dict[str, dict[VideoKey, Windows]] = {"v": {}}
    add_rows(sums, table.set_column(4, "v", codes_to_arrow(codes)), {"v": 2}, 5.0)
    video = pooled_video(VideoKey(1, "a"), [sums["v"][VideoKey(1, "a")]], 5.0)
    np.testing.assert_allclose(video.vector, quantize.decode(codes).mean(axis=0), rtol=1e-6)


def test_a_stretch_is_the_mean_of_its_seconds() -> None:
    rows = [Row(1, "a", float(second), second + 1.0, (second, 1)) for second in range(8)]
    video = pooled_video(VideoKey(1, "a"), [summed(rows, 1.0)[VideoKey(1, "a")]], 1.0)
    found = pooled_within(video, 2.0, 5.0)
    assert found is not None
    assert found.tolist() == [3, 1]
    assert pooled_within(video, 8.0, 9.0) is None


def test_a_video_has_the_text_of_its_first_row() -> None:
    rows = table_of([Row(1, "a", 0.0, 1.0, (0, 0)), Row(1, "a", 1.0, 2.0, (0, 0)), Row(2, "a", 0.0, 1.0, (0, 0))])
    texts: dict[str, dict[VideoKey, str]] = {"t": {}}
    add_texts(texts, rows.append_column("t", pa.array(["one", "two", "three"])))
    assert texts == {"t": {VideoKey(1, "a"): "one", VideoKey(2, "a"): "three"}}
    videos = [pooled_video(key, [], 5.0, (text,)) for key, text in texts["t"].items()]
    assert [video.vector.shape for video in videos] == [(0,), (0,)]
    found = texts_of(videos)
    assert found is not None
    assert found.tolist() == [["one"], ["three"]]
    assert texts_of([pooled_video(VideoKey(1, "a"), [], 5.0)]) is None


def test_values_that_are_not_finite_are_damage() -> None:
    with pytest.raises(StoreError, match="not finite"):
        joined([[WindowSum(np.array([np.nan, 1.0]), 1, 1.0)]])


def test_no_rows_add_nothing() -> None:
    assert summed([], 5.0) == {}
