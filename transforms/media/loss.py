"""What a walk of the packets shows to be lost, where no header tells: packets in part, a clock with holes."""

from __future__ import annotations

import numpy as np

from cliploom.transforms.media.clock import NO_TIME
from cliploom.transforms.media.packets import INDEXED, PacketTable

# Their indexes and frame durations say outright how long a picture stays.
_STATES_DURATIONS = frozenset({INDEXED, "avi", "gif", "apng"})
_FEWEST = 20
_SLOWEST_S = 0.2
_HOLE_S = 0.5
_UNEVEN_SHARE = 0.01
_UNEVEN_LEAST = 2
_ROUNDING_TICKS = 2
_MARKED_BEFORE = 2
_ROUNDING = 0.1
_LEAP = 2.5


def signs_of_loss(table: PacketTable, container: str) -> str:
    """Why the file must have held more, as the end of a sentence; empty when nothing shows it.

    Args:
        table: of the whole file.
        container: libav's name of its format.
    """
    holes = "" if container in _STATES_DURATIONS else _holes(table)
    damaged = _damaged(table)
    return holes or (f"{damaged:,} of {len(table):,} packets are damaged" if damaged else "")


def repeats(table: PacketTable, claimed: int) -> int:
    """Chunks of an AVI without bytes: the picture before stays. Its clock counts them, as its header does.

    Args:
        table: of the whole file.
        claimed: chunks by the header. Those behind the last picture leave no trace in the clock; as many as between
            the others are taken to be there.
    """
    known = np.sort(table.dts[table.dts != NO_TIME])
    if not len(known):
        return 0
    chunks = int(known[-1]) + 1
    usual = int(np.median(np.diff(known))) if len(known) > 1 else 1
    behind = min(max(0, usual - 1), max(0, claimed - chunks))
    return max(0, chunks - len(known)) + behind


def _damaged(table: PacketTable) -> int:
    """Packets that came in part; not those where parts of a recording were joined, whose counters begin anew.

    Such a part begins with a key frame, and libav marks a packet that is up to two before it. Where the clock leaps
    ahead there too, pictures are gone between the two.
    """
    steps = np.diff(table.dts, prepend=table.dts[:1])
    known = steps[(table.dts != NO_TIME) & (steps > 0)]
    leaps = steps > _LEAP * np.median(known) if len(known) else np.zeros(len(table), np.bool_)
    ahead = np.concatenate([table.key & ~leaps, np.zeros(_MARKED_BEFORE, np.bool_)])
    joined = np.logical_or.reduce([ahead[table.damaged + step] for step in range(_MARKED_BEFORE + 1)])
    return int(np.count_nonzero(~joined))


def _holes(table: PacketTable) -> str:
    """Half a second or more without a picture, in a clock that is even but for that; uneven clocks may have pauses."""
    clock = np.sort(table.pts[table.shown] if table.in_order else table.dts)
    if len(clock) < _FEWEST or clock[0] == NO_TIME:
        return ""
    steps = np.diff(clock)
    usual = int(np.median(steps))
    uneven = np.abs(steps - usual) > max(_ROUNDING_TICKS, _ROUNDING * usual)
    tick = float(table.time_base)
    holes = np.flatnonzero(steps * tick > max(_HOLE_S, 3 * usual * tick))
    if not len(holes) or usual * tick > _SLOWEST_S or uneven.sum() > max(_UNEVEN_LEAST, _UNEVEN_SHARE * len(steps)):
        return ""
    first = holes[0]
    start, end = (float(clock[place] - clock[0]) * tick for place in (first, first + 1))
    more = f" and in {len(holes) - 1:,} other stretches" if len(holes) > 1 else ""
    frames = int((steps[holes] / usual - 1).round().sum())
    return f"no pictures come from {start:.2f} s to {end:.2f} s{more}, where about {frames:,} are due"
