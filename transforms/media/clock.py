"""Repairs the clock of a stream, which may restart, be damaged, or jump: monotonic presentation times."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

NO_TIME = -(2**63)
"""libav's value for a missing timestamp."""

MOST_HELD_S = 60
"""Seconds that a frame may last beyond the period of a regular clock; a longer time counts as a jump."""

_BACKWARD_JUMP_S = 10
_BACKWARD_KEY_JUMP_S = Fraction(1, 2)
_MOST_WAITING = 16
"""Maximum number of pictures decoded before one that is shown first (decoded picture buffer of H.264, H.265)."""

_LEAP_S = 13 * 3600
"""Half the range of MPEG clocks before they wrap; neighbouring frames are never this far apart."""
_FEWEST = 20
_UNEVEN_SHARE = 0.01
_UNEVEN_LEAST = 2
_ROUNDING_TICKS = 2
_ROUNDING = 0.1
_RHYTHMS = 10


def without_jumps(
    pts: NDArray[np.int64], duration: NDArray[np.int64], time_base: Fraction
) -> tuple[NDArray[np.int64], tuple[tuple[float, float], ...]]:
    """Return presentation times without jumps ahead of an otherwise regular clock; irregular clocks may have pauses.

    Args:
        pts: int64 [N], presentation times of the shown frames in decoding order.
        duration: int64 [N] ticks, 0 where unknown; a frame may last as long as its container says.
        time_base: seconds per tick.

    Returns:
        The times, and (seconds from the start, seconds) of each removed jump.
    """
    if len(pts) < _FEWEST:
        return pts, ()
    order = np.argsort(pts, kind="stable")
    steps = np.diff(pts[order])
    usual = int(np.median(steps))
    stated = max(usual, int(duration.max()))
    jumps = (steps - stated > MOST_HELD_S / time_base) & (steps > _RHYTHMS * usual)
    uneven = (np.abs(steps - usual) > max(_ROUNDING_TICKS, _ROUNDING * usual)) & ~jumps
    if not usual or not jumps.any() or uneven.sum() > max(_UNEVEN_LEAST, _UNEVEN_SHARE * len(steps)):
        return pts, ()
    moved = np.cumsum(np.where(jumps, steps - usual, 0))
    result = pts.copy()
    result[order[1:]] -= moved
    places = np.flatnonzero(jumps)
    times = (result[order[places + 1]] - result[order[0]]).tolist()
    sizes = (steps[places] - usual).tolist()
    closed = ((float(at * time_base), float(size * time_base)) for at, size in zip(times, sizes, strict=True))
    return result, tuple(closed)


def follows_keys(pts: NDArray[np.int64], key: NDArray[np.bool_]) -> bool:
    """Return whether no key frame is shown before a frame decoded before it, which only broken clocks violate.

    Args:
        pts: int64 [N], presentation times of the shown frames in decoding order.
        key: bool [N].
    """
    return not (key[1:] & (pts[1:] < np.maximum.accumulate(pts)[:-1])).any()


def references_last(pts: NDArray[np.int64], dts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return presentation times of MPEG-1 and MPEG-2 pictures such that none precedes the pictures it depends on.

    Program streams do not time every picture, and libav then gives some reference pictures the time of a picture that
    is shown before them. A reference picture is shown when the next one is decoded (ISO 13818-2, 6.1.1.11).
    """
    references = np.flatnonzero(pts > dts)
    if len(references) < 2 or (dts == NO_TIME).any():
        return pts
    others = pts.copy()
    others[references] = NO_TIME
    before = np.maximum.reduceat(others, references)[:-1]
    here, shown = references[:-1], dts[references[1:]]
    wrong = (before >= pts[here]) & (shown > before)
    result = pts.copy()
    result[here[wrong]] = shown[wrong]
    return result


def joined(
    pts: NDArray[np.int64],
    dts: NDArray[np.int64],
    duration: NDArray[np.int64],
    time_base: Fraction,
    key: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return continuous presentation times for a stream whose clock restarts, as in joined recordings, or is damaged.

    A decoding time that falls by more than 10 s, or at a key frame (``key``) by half a second, starts a new part; it is
    moved to the end of the previous part. So does a leap of 13 hours: libav reports one when a clock wraps (every 26.5
    h in MPEG streams), and a flipped bit in a timestamp causes one forward and one back.
    """
    leap, back, back_at_key = (int(s / time_base) for s in (_LEAP_S, _BACKWARD_JUMP_S, _BACKWARD_KEY_JUMP_S))
    # Frames are reordered by a few seconds at most; a presentation time far from its decoding time is damaged.
    stray = (dts != NO_TIME) & (np.abs(pts - dts) > leap)
    pts = np.where(stray, dts, pts)
    clock = np.where(dts != NO_TIME, dts, pts)
    steps = np.diff(clock)
    # Without explicit decoding times, those of reordered pictures fall, by much in slow recordings.
    usual = int(np.median(np.abs(steps))) if len(steps) else 0
    fell = (steps < -max(back, _MOST_WAITING * usual)) | (steps > leap)
    if key is not None:
        fell |= (steps < -back_at_key) & key[1:]
    breaks = np.flatnonzero(fell) + 1
    if not len(breaks):
        return pts
    result = pts.copy()
    for first, last in zip(breaks, [*breaks[1:], len(pts)], strict=True):
        end = int((result[:first] + duration[:first]).max())
        result[first:last] += end - int(pts[first:last].min())
    return result
