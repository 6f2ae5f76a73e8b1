"""Samplings: which frames form the rows of a feature, computed from presentation times.

All grids are computed with integers (ticks of the container's time base, microseconds), so that a frame rate of
30000/1001 or ten hours of video move no sample by a frame. The frame *on screen* at time t is the last one whose
presentation time is at or before t, and the first frame for a t before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from cliploom.schemas.sampling import Every, EveryFrames, First, Keyframes, Sampling, Uniform, Window, Yt8m

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cliploom.schemas.media import MediaFacts

REVISION = 1
"""Increase it when a sampling chooses other frames; part of every feature's config digest."""

BLACK = -1
"""Frame index of the black frames with which ``pad: zero`` fills a window."""

MICRO = 1_000_000
_YT8M_STEP_S = 1
_YT8M_FRAMES = 300
_SAFE = 2**62


@dataclass(frozen=True)
class Timeline:
    """The presentation times of the frames of a video, or of a part of it.

    Attributes:
        ticks: int64 [N], presentation times in units of ``time_base``, ascending.
        time_base: seconds per tick.
        end_tick: the tick at which the video's last frame ends.
        key: bool [N], true for frames that can be decoded independently.
        origin: the tick of the whole video's start, from which samples are timed; None: the first of ``ticks``.
        first_frame: the index in the whole file of the first of ``ticks``.
    """

    ticks: NDArray[np.int64]
    time_base: Fraction
    end_tick: int
    key: NDArray[np.bool_]
    origin: int | None = None
    first_frame: int = 0

    @property
    def start_tick(self) -> int:
        """The tick of the video's start."""
        return int(self.ticks[0]) if self.origin is None else self.origin

    @property
    def duration_us(self) -> int:
        """The whole microseconds from the start to the end."""
        return int(Fraction(self.end_tick - self.start_tick) * self.time_base * MICRO)


@dataclass(frozen=True)
class Samples:
    """The rows of a feature: R samples of T frames each, in order.

    Attributes:
        ordinals: int64 [R], the number of each row in the whole item.
        start_us, end_us: int64 [R], the time range of each row, relative to the video's start.
        frames: int64 [R, T], indices in the file in presentation order; ``BLACK`` for a black frame.
    """

    ordinals: NDArray[np.int64]
    start_us: NDArray[np.int64]
    end_us: NDArray[np.int64]
    frames: NDArray[np.int64]
    wanted: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Collect the distinct frames, ascending."""
        found = np.unique(self.frames)
        object.__setattr__(self, "wanted", found[found >= 0])

    def __len__(self) -> int:
        return len(self.ordinals)


def choose(sampling: Sampling, timeline: Timeline, ordinals: range | None = None) -> Samples:
    """Return the rows of ``sampling`` on ``timeline``.

    Args:
        sampling: the sampling from the spec.
        timeline: the timeline of the whole video; of a stretch that covers the rows' times when ``ordinals`` is given.
        ordinals: only these rows, as far as they exist; for splittable samplings.

    Returns:
        The rows; none for a video without frames.

    Raises:
        ValueError: ``ordinals`` is given for a sampling that cannot be split.

    >>> second = Timeline(np.arange(50), Fraction(1, 25), 50, np.zeros(50, bool))
    >>> choose(Every(every="500ms"), second).frames.ravel().tolist()
    [0, 12, 25, 37]
    """
    if ordinals is not None and not sampling.splittable:
        raise ValueError(f"{sampling!r} can't be split: its ordinals aren't known without decoding from the start")
    if len(timeline.ticks) == 0:
        return _samples(np.empty((0, 1), np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
    match sampling:
        case Every():
            return _every(sampling, timeline, ordinals)
        case EveryFrames(every_frames=step, max_frames=limit):
            count = len(timeline.ticks) if limit is None else min(limit, len(timeline.ticks))
            return _frames(timeline, np.arange(0, count, step), np.arange(step, count + step, step))
        case Uniform(uniform=count):
            return _uniform(timeline, count)
        case Keyframes():
            keys = np.flatnonzero(timeline.key)
            return _frames(timeline, keys, np.append(keys[1:], len(timeline.ticks)) if len(keys) else keys)
        case Yt8m():
            picked = _yt8m(timeline)
            return _frames(timeline, picked, np.append(picked[1:], len(timeline.ticks)))
        case First():
            return _first(timeline, sampling.first.frames)
        case Window():
            return _window(sampling, timeline)


def planned(sampling: Sampling, facts: MediaFacts) -> int:
    """Return the number of rows that ``choose`` will return, from a probe's facts only.

    Exact, except for ``yt8m`` on a video with a variable frame rate.
    """
    duration_us = round(facts.duration_s * MICRO)
    match sampling:
        case Every():
            return _every_count(sampling, duration_us)
        case EveryFrames(every_frames=step, max_frames=limit):
            return -(-(facts.frames if limit is None else min(limit, facts.frames)) // step)
        case Uniform(uniform=count):
            return count
        case Keyframes():
            return facts.keyframes
        case First():
            return 1
        case Window(window=shape):
            frames = facts.frames if shape.fps is None else _resampled_count(duration_us, _rate(shape.fps))
            return _window_count(frames, shape.frames, shape.stride, sampling.pad)
        case Yt8m():
            tick = Fraction(facts.duration_s).limit_denominator(MICRO) / facts.frames
            even = Timeline(np.arange(facts.frames), tick, facts.frames, np.zeros(facts.frames, np.bool_))
            return len(_yt8m(even)) if tick else 1


def segment_ordinals(sampling: Sampling, start_s: float, end_s: float) -> range:
    """Return the ordinals of the rows that start in [start_s, end_s), seconds relative to the video's start.

    >>> segment_ordinals(Every(every="2s"), 3.0, 8.0)
    range(2, 4)

    Raises:
        ValueError: the sampling cannot be split.
    """
    if not isinstance(sampling, Every):
        raise ValueError(f"{sampling!r} can't be split: its ordinals aren't known without decoding from the start")
    step = _every_us(sampling)
    limit = sampling.max_frames
    first, last = (-(-round(max(t, 0.0) * MICRO) // step) for t in (start_s, end_s))
    return range(first, last) if limit is None else range(min(first, limit), min(last, limit))


def _every_us(sampling: Every) -> int:
    return max(1, round(sampling.every * MICRO))


def _every_count(sampling: Every, duration_us: int) -> int:
    count = max(1, -(-duration_us // _every_us(sampling)))
    return count if sampling.max_frames is None else min(count, sampling.max_frames)


def _every(sampling: Every, timeline: Timeline, ordinals: range | None) -> Samples:
    step = _every_us(sampling)
    count = _every_count(sampling, timeline.duration_us)
    rows = range(count) if ordinals is None else range(min(ordinals.start, count), min(ordinals.stop, count))
    numbers = np.arange(rows.start, rows.stop, dtype=np.int64)
    base = timeline.time_base
    frames = _on_screen(timeline, _scaled(numbers, step * base.denominator, MICRO * base.numerator))
    start = numbers * step
    end = np.maximum(np.minimum(start + step, timeline.duration_us), start)
    return _samples(frames[:, None], start, end, numbers)


def _uniform(timeline: Timeline, count: int) -> Samples:
    odd = np.arange(1, 2 * count, 2, dtype=np.int64)
    ticks = timeline.end_tick - timeline.start_tick
    frames = _on_screen(timeline, _scaled(odd, ticks, 2 * count))
    start = _micros(timeline, odd * ticks, 2 * count)
    return _samples(frames[:, None], start, np.append(start[1:], max(timeline.duration_us, int(start[-1]))))


def _yt8m(timeline: Timeline) -> NDArray[np.int64]:
    """Frame 0, then the frame after the first whose position is at least the last position + 1000 ms.

    The position is that of the frame read before the chosen one: at 25 fps frames 0, 26, 51, ... (by reading of
    ``youtube-8m/feature_extractor/extract_tfrecords_main.py``).
    """
    ticks = timeline.ticks - timeline.start_tick
    step = Fraction(_YT8M_STEP_S) / timeline.time_base
    picked = [0]
    last = 0
    while len(picked) < _YT8M_FRAMES:
        due = int(np.searchsorted(ticks, -((-last * step.denominator - step.numerator) // step.denominator)))
        before = max(picked[-1], due)
        if before + 1 >= len(ticks):
            break
        last = int(ticks[before])
        picked.append(before + 1)
    return np.array(picked, np.int64)


def _first(timeline: Timeline, length: int) -> Samples:
    """Return the S3D tutorial's clip: a short video's frames are repeated ``ceil(length / n)`` times, then cut."""
    available = min(length, len(timeline.ticks))
    frames = np.arange(length, dtype=np.int64) // -(-length // available)
    return _extent(timeline, frames[None, :])


def _window(sampling: Window, timeline: Timeline) -> Samples:
    shape = sampling.window
    if shape.fps is None:
        source = np.arange(len(timeline.ticks), dtype=np.int64)
    else:
        rate, base = _rate(shape.fps), timeline.time_base
        grid = np.arange(_resampled_count(timeline.duration_us, rate), dtype=np.int64)
        ticks = _scaled(grid, rate.denominator * base.denominator, rate.numerator * base.numerator)
        source = _on_screen(timeline, ticks)
    count = _window_count(len(source), shape.frames, shape.stride, sampling.pad)
    starts = np.arange(count, dtype=np.int64) * shape.stride
    if sampling.pad == "shift":
        starts = np.minimum(starts, max(0, len(source) - shape.frames))
    slots = starts[:, None] + np.arange(shape.frames, dtype=np.int64)
    frames = source[np.minimum(slots, len(source) - 1)]
    if sampling.pad == "zero":
        frames[slots >= len(source)] = BLACK
    if shape.fps is None:
        return _extent(timeline, frames)
    start = _scaled(starts, MICRO * rate.denominator, rate.numerator, nearest=True)
    end = _scaled(starts + shape.frames, MICRO * rate.denominator, rate.numerator, nearest=True)
    return _samples(frames, start, np.minimum(end, timeline.duration_us))


def _window_count(frames: int, length: int, stride: int, pad: str) -> int:
    """Return the windows that cover ``frames``: one, plus one for each started stride of what it leaves.

    The published counts for windows of 32 by 16: 31 -> 1, 32 -> 1, 33 -> 2, 48 -> 2, 49 -> 3, 300 -> 18, 900 -> 56.
    """
    count = 1 + max(0, -(-(frames - length) // stride))
    # A stride longer than the window may step past the end; only ``shift`` can move such a window back.
    return count if pad == "shift" else min(count, 1 + (frames - 1) // stride)


def _rate(fps: float) -> Fraction:
    return Fraction(str(fps))


def _resampled_count(duration_us: int, rate: Fraction) -> int:
    return max(1, -(-duration_us * rate.numerator // (MICRO * rate.denominator)))


def _on_screen(timeline: Timeline, ticks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return file indices of the frames on screen at ``ticks`` (int64 [R], from the start, ascending), int64 [R]."""
    found = np.searchsorted(timeline.ticks, ticks + timeline.start_tick, side="right") - 1
    return timeline.first_frame + np.maximum(found, 0)


def _frames(timeline: Timeline, picked: NDArray[np.int64], ends: NDArray[np.int64]) -> Samples:
    """Return rows of single frames, each lasting until frame ``ends`` (or the video's end)."""
    start, end = _frame_start(timeline, picked), _frame_start(timeline, ends)
    return _samples(picked[:, None].astype(np.int64), start, end)


def _extent(timeline: Timeline, frames: NDArray[np.int64]) -> Samples:
    """Return windows that last from the start of their first frame to the end of their last one."""
    return _samples(frames, _frame_start(timeline, frames[:, 0]), _frame_start(timeline, frames.max(axis=1) + 1))


def _frame_start(timeline: Timeline, frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the microseconds at which ``frames`` start, int64 [R]; the video's end for indices beyond it."""
    inside = np.minimum(frames, len(timeline.ticks) - 1)
    shown = _micros(timeline, timeline.ticks[inside] - timeline.start_tick, 1)
    return np.where(frames < len(timeline.ticks), shown, timeline.duration_us)


def _micros(timeline: Timeline, ticks: NDArray[np.int64], divisor: int) -> NDArray[np.int64]:
    base = timeline.time_base
    return _scaled(ticks, base.numerator * MICRO, base.denominator * divisor, nearest=True)


def _scaled(values: NDArray[np.int64], factor: int, divisor: int, *, nearest: bool = False) -> NDArray[np.int64]:
    """Return ``values * factor / divisor``, floored or rounded to nearest (halves up), without overflow."""
    if nearest:
        factor, half, divisor = 2 * factor, divisor, 2 * divisor
    else:
        half = 0
    largest = int(np.abs(values).max(initial=0))
    if (largest + 1) * factor + half < _SAFE and divisor < _SAFE:
        return (values * factor + half) // divisor
    return np.array([(value * factor + half) // divisor for value in values.tolist()], np.int64)


def _samples(
    frames: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    ordinals: NDArray[np.int64] | None = None,
) -> Samples:
    return Samples(np.arange(len(frames), dtype=np.int64) if ordinals is None else ordinals, start, end, frames)
