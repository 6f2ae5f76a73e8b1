"""Sampling: published numbers, then every sampling against a slow, literal reading of its definition."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cliploom.schemas.media import MediaFacts
from cliploom.schemas.sampling import Sampling
from cliploom.transforms.media.sampling import BLACK, Samples, Timeline, choose, planned, segment_ordinals

SAMPLING: TypeAdapter[Sampling] = TypeAdapter(Sampling)


def sampling(value: object) -> Sampling:
    return SAMPLING.validate_python(value)


def even(frames: int, fps: Fraction | int = 25, start: int = 0) -> Timeline:
    """Frames at a constant rate, one tick each."""
    key = np.zeros(frames, np.bool_)
    key[::12] = True
    return Timeline(np.arange(start, start + frames), 1 / Fraction(fps), start + frames, key)


def facts_of(timeline: Timeline) -> MediaFacts:
    start_s = round(float(timeline.start_tick * timeline.time_base), 6)
    duration_s = timeline.duration_us / 1e6
    frames = len(timeline.ticks)
    fps = frames / duration_s if frames > 1 and duration_s else 0.0
    end_s = round(start_s + duration_s, 6)
    keys = int(timeline.key.sum())
    return MediaFacts("video", "mov", "h264", 64, 48, 0, frames, frames, start_s, end_s, fps, "", keys)


def indices(samples: Samples) -> list[list[int]]:
    return samples.frames.tolist()


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Any clock: rates of film and television, variable durations, starts before and after zero."""
    base = draw(
        st.sampled_from(
            [Fraction(1, 1000), Fraction(1, 90000), Fraction(1001, 30000), Fraction(1, 15360), Fraction(1, 10**9)]
        )
    )
    scale = max(1, int(Fraction(1, 200) / base))
    steps = draw(st.lists(st.integers(1, 60), min_size=0, max_size=40))
    start = draw(st.integers(-500, 500)) * scale
    ticks = start + np.concatenate([[0], np.cumsum(np.array(steps, np.int64) * scale)]).astype(np.int64)
    end = int(ticks[-1]) + draw(st.integers(1, 60)) * scale
    key = np.array(draw(st.lists(st.booleans(), min_size=len(ticks), max_size=len(ticks))), np.bool_)
    return Timeline(ticks, base, end, key)


def shown_at(timeline: Timeline, seconds: Fraction) -> int:
    """The last frame at or before a time after the start; the first for earlier times."""
    found = 0
    for index, tick in enumerate(timeline.ticks.tolist()):
        if (tick - timeline.start_tick) * timeline.time_base <= seconds:
            found = index
    return found


def starts_s(timeline: Timeline) -> list[Fraction]:
    return [(tick - timeline.start_tick) * timeline.time_base for tick in timeline.ticks.tolist()]


@pytest.mark.parametrize(
    ("frames", "windows"),
    [(1, 1), (31, 1), (32, 1), (33, 2), (39, 2), (48, 2), (49, 3), (300, 18), (301, 18), (900, 56)],
)
def test_windows_of_32_by_16_have_the_published_number(frames: int, windows: int) -> None:
    wanted = sampling({"window": {"frames": 32, "stride": 16}})
    assert len(choose(wanted, even(frames, 30))) == windows
    assert planned(wanted, facts_of(even(frames, 30))) == windows


def test_the_last_window_is_moved_back_to_end_on_the_last_frame() -> None:
    rows = indices(choose(sampling({"window": {"frames": 32, "stride": 16}}), even(39, 30)))
    assert [(row[0], row[-1]) for row in rows] == [(0, 31), (7, 38)]


def test_a_window_longer_than_the_video_repeats_the_last_frame() -> None:
    assert indices(choose(sampling({"window": {"frames": 5, "stride": 2}}), even(3)))[0] == [0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("pad", "last"), [("repeat", [4, 5, 6, 6]), ("zero", [4, 5, 6, BLACK]), ("shift", [3, 4, 5, 6])]
)
def test_the_last_window_is_padded_as_declared(pad: str, last: list[int]) -> None:
    assert indices(choose(sampling({"window": {"frames": 4, "stride": 4}, "pad": pad}), even(7)))[-1] == last


def test_strides_longer_than_a_window_never_make_an_empty_one() -> None:
    for pad in ("repeat", "zero"):
        rows = indices(choose(sampling({"window": {"frames": 2, "stride": 8}, "pad": pad}), even(4)))
        assert rows == [[0, 1]]


def test_windows_at_a_declared_rate_are_resampled_by_what_is_on_screen() -> None:
    rows = choose(sampling({"window": {"frames": 4, "stride": 2, "fps": 10}}), even(25, 25))
    assert indices(rows)[0] == [0, 2, 5, 7]
    assert rows.start_us.tolist() == [0, 200_000, 400_000, 600_000]
    assert rows.end_us.tolist() == [400_000, 600_000, 800_000, 1_000_000]


def test_first_frames_of_a_short_video_are_repeated_then_cut() -> None:
    """docs/formats.md section 2: 20 frames give frames 0 to 15, each twice."""
    rows = choose(sampling({"first": {"frames": 32}}), even(20))
    assert indices(rows) == [[index for index in range(16) for _ in range(2)]]
    assert rows.end_us.tolist() == [640_000]


def test_first_frames_of_a_long_video_are_its_first() -> None:
    assert indices(choose(sampling({"first": {"frames": 32}}), even(100))) == [list(range(32))]


def test_yt8m_takes_the_frame_after_the_first_at_least_a_second_on() -> None:
    rows = indices(choose(sampling("yt8m"), even(110, 25)))
    assert [row[0] for row in rows] == [0, 26, 51, 76, 101]


def test_yt8m_stops_at_300_frames() -> None:
    assert len(choose(sampling("yt8m"), even(400 * 5, 5))) == 300


def test_every_frames_keeps_multiples_below_the_limit() -> None:
    rows = choose(sampling({"every_frames": 2, "max_frames": 7}), even(50))
    assert [row[0] for row in indices(rows)] == [0, 2, 4, 6]
    assert rows.end_us.tolist() == [80_000, 160_000, 240_000, 320_000]


def test_keyframes_last_until_the_next_key_frame() -> None:
    rows = choose(sampling("keyframes"), even(30))
    assert [row[0] for row in indices(rows)] == [0, 12, 24]
    assert rows.end_us.tolist() == [480_000, 960_000, 1_200_000]


def test_every_second_of_ntsc_video_does_not_drift_in_ten_hours() -> None:
    rate = Fraction(30000, 1001)
    timeline = even(int(36_000 * rate), rate)
    rows = choose(sampling({"every": "1s"}), timeline)
    expected = [int(second * rate) for second in range(36_000)]
    assert rows.frames.ravel().tolist() == expected


def test_a_frame_exactly_on_the_grid_is_the_one_on_screen() -> None:
    rate = Fraction(30000, 1001)
    rows = choose(sampling({"every": "1.001s"}), even(300, rate))
    assert rows.frames.ravel().tolist() == list(range(0, 300, 30))


def test_a_still_image_is_one_row_for_every_sampling() -> None:
    still = Timeline(np.zeros(1, np.int64), Fraction(1, 1000), 0, np.ones(1, np.bool_))
    for value in ({"every": "1s"}, {"every_frames": 3}, {"first": {"frames": 1}}, "keyframes", "yt8m", {"uniform": 1}):
        rows = choose(sampling(value), still)
        assert indices(rows) == [[0]]
        assert (rows.start_us.tolist(), rows.end_us.tolist()) == ([0], [0])
        assert planned(sampling(value), facts_of(still)) == 1


def test_a_video_without_frames_has_no_rows() -> None:
    empty = Timeline(np.empty(0, np.int64), Fraction(1, 25), 0, np.empty(0, np.bool_))
    assert len(choose(sampling({"every": "1s"}), empty)) == 0


def test_only_time_grids_can_be_split() -> None:
    with pytest.raises(ValueError, match="can't be split"):
        segment_ordinals(sampling({"uniform": 4}), 0, 1)
    with pytest.raises(ValueError, match="can't be split"):
        choose(sampling("yt8m"), even(5), range(1))


@given(timelines(), st.integers(1, 3_000_000), st.none() | st.integers(1, 5))
def test_every_is_the_frame_on_screen_at_each_multiple(timeline: Timeline, step_us: int, limit: int | None) -> None:
    # Many rows make the literal reading slow, not more telling.
    step_us = max(step_us, timeline.duration_us // 50 + 1)
    wanted = sampling({"every": f"{step_us}us", "max_frames": limit})
    rows = choose(wanted, timeline)
    grid = [k * step_us for k in range(max(1, math.ceil(Fraction(timeline.duration_us, step_us))))][:limit]
    assert rows.start_us.tolist() == grid
    assert rows.frames.ravel().tolist() == [shown_at(timeline, Fraction(t, 10**6)) for t in grid]
    assert (rows.end_us >= rows.start_us).all()
    assert planned(wanted, facts_of(timeline)) == len(grid)


@given(timelines(), st.integers(1, 20))
def test_uniform_is_the_frame_in_the_middle_of_equal_stretches(timeline: Timeline, count: int) -> None:
    rows = choose(sampling({"uniform": count}), timeline)
    whole = (timeline.end_tick - timeline.start_tick) * timeline.time_base
    middles = [whole * (2 * k + 1) / (2 * count) for k in range(count)]
    assert rows.frames.ravel().tolist() == [shown_at(timeline, t) for t in middles]
    assert all(abs(us - t * 10**6) <= Fraction(1, 2) for us, t in zip(rows.start_us.tolist(), middles, strict=True))
    assert planned(sampling({"uniform": count}), facts_of(timeline)) == count


@given(timelines(), st.integers(1, 12), st.integers(1, 12), st.sampled_from(["shift", "repeat", "zero"]))
def test_windows_cover_every_frame_and_leave_the_video_only_to_pad(
    timeline: Timeline, length: int, stride: int, pad: str
) -> None:
    stride = min(stride, length)
    wanted = sampling({"window": {"frames": length, "stride": stride}, "pad": pad})
    rows = indices(choose(wanted, timeline))
    frames = len(timeline.ticks)
    assert {index for row in rows for index in row} - {BLACK} == set(range(frames))
    for number, row in enumerate(rows):
        begin = number * stride if pad != "shift" else min(number * stride, max(0, frames - length))
        filler = BLACK if pad == "zero" else frames - 1
        assert row == [begin + slot if begin + slot < frames else filler for slot in range(length)]
    assert planned(wanted, facts_of(timeline)) == len(rows)


@given(timelines(), st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 7.5, 15, 23.976, 29.97, 30, 60]))
@settings(max_examples=60)
def test_resampled_windows_show_what_is_on_screen_at_the_declared_rate(
    timeline: Timeline, length: int, stride: int, fps: float
) -> None:
    stride = min(stride, length)
    wanted = sampling({"window": {"frames": length, "stride": stride, "fps": fps}})
    rows = choose(wanted, timeline)
    rate = Fraction(str(fps))
    grid = [j / rate for j in range(max(1, math.ceil(Fraction(timeline.duration_us, 10**6) * rate)))]
    source = [shown_at(timeline, t) for t in grid[:200]]
    for start, row in zip(rows.start_us.tolist(), indices(rows), strict=True):
        first = round(Fraction(start, 10**6) * rate)
        if first + length <= len(source):
            assert row == source[first : first + length]
    assert planned(wanted, facts_of(timeline)) == len(rows)


@given(timelines())
def test_yt8m_steps_as_its_extractor_reads(timeline: Timeline) -> None:
    """The extractor's loop, frame by frame."""
    times = starts_s(timeline)
    chosen: list[int] = []
    position, read, last = Fraction(0), 0, Fraction(-1)
    while len(chosen) < 300:
        while position < last + 1 and read < len(times):
            position = times[read]
            read += 1
        if position < last + 1:
            break
        last = position
        if read >= len(times):
            break
        position = times[read]
        chosen.append(read)
        read += 1
    assert choose(sampling("yt8m"), timeline).frames.ravel().tolist() == chosen


@given(timelines(), st.integers(1, 9), st.none() | st.integers(1, 30))
def test_every_frames_is_each_kth_frame(timeline: Timeline, step: int, limit: int | None) -> None:
    wanted = sampling({"every_frames": step, "max_frames": limit})
    rows = choose(wanted, timeline)
    kept = [i for i in range(len(timeline.ticks)) if i % step == 0 and (limit is None or i < limit)]
    assert rows.frames.ravel().tolist() == kept
    times = [*starts_s(timeline), (timeline.end_tick - timeline.start_tick) * timeline.time_base]
    for row, index in enumerate(kept):
        assert abs(rows.start_us[row] - times[index] * 10**6) <= Fraction(1, 2)
        assert abs(rows.end_us[row] - times[min(index + step, len(times) - 1)] * 10**6) <= 1
    assert planned(wanted, facts_of(timeline)) == len(kept)


@given(timelines(), st.integers(1, 12))
def test_first_frames_follow_the_repetition_rule(timeline: Timeline, length: int) -> None:
    available = list(range(min(length, len(timeline.ticks))))
    repeated = [index for index in available for _ in range(math.ceil(length / len(available)))]
    assert indices(choose(sampling({"first": {"frames": length}}), timeline)) == [repeated[:length]]


@given(
    timelines(),
    st.integers(10_000, 2_000_000),
    st.lists(st.floats(0, 20), min_size=0, max_size=4),
    st.none() | st.integers(1, 6),
)
def test_segments_together_are_the_whole(
    timeline: Timeline, step_us: int, cuts: list[float], limit: int | None
) -> None:
    wanted = sampling({"every": f"{step_us}us", "max_frames": limit})
    whole = choose(wanted, timeline)
    borders = [0.0, *sorted(cuts), 1e6]
    parts = [choose(wanted, timeline, segment_ordinals(wanted, *pair)) for pair in pairwise(borders)]
    for name in ("ordinals", "start_us", "end_us", "frames"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert joined.tolist() == getattr(whole, name).tolist()


@given(timelines(), st.integers(10_000, 500_000), st.integers(0, 40))
def test_a_stretch_of_the_timeline_gives_the_same_rows(timeline: Timeline, step_us: int, skip: int) -> None:
    """Rows whose frames lie in the stretch don't need what comes before it."""
    skip = min(skip, len(timeline.ticks) - 1)
    stretch = Timeline(
        timeline.ticks[skip:], timeline.time_base, timeline.end_tick, timeline.key[skip:], timeline.start_tick, skip
    )
    wanted = sampling({"every": f"{step_us}us"})
    whole = choose(wanted, timeline)
    late = np.flatnonzero(whole.frames[:, 0] >= skip)
    if len(late):
        rows = choose(wanted, stretch, range(int(late[0]), len(whole)))
        assert rows.frames.tolist() == whole.frames[late[0] :].tolist()
        assert rows.end_us.tolist() == whole.end_us[late[0] :].tolist()
