"""Detects loss from the packets, where no header shows it: incomplete packets, gaps in the clock."""

from __future__ import annotations

import numpy as np

from cliploom.transforms.media.clock import NO_TIME
from cliploom.transforms.media.packets import INDEXED, PacketTable

# Containers whose indexes and frame durations state explicitly how long a picture lasts.
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
    """Explain why frames must be missing, as the end of a sentence; empty if there is no sign of it.

    Args:
        table: the table of the whole file.
        container: libav's name of the format.
    """
    holes = "" if container in _STATES_DURATIONS else _holes(table)
    damaged = _damaged(table)
    return holes or (f"{damaged:,} of {len(table):,} packets are damaged" if damaged else "")


def repeats(table: PacketTable, claimed: int) -> int:
    """Return the number of empty chunks of an AVI, which repeat the previous picture; clock and header count them.

    Args:
        table: the table of the whole file.
        claimed: the number of chunks by the header. Those after the last picture leave no trace in the clock; as many
            as between the others are assumed.
    """
    known = np.sort(table.dts[table.dts != NO_TIME])
    if not len(known):
        return 0
    chunks = int(known[-1]) + 1
    usual = int(np.median(np.diff(known))) if len(known) > 1 else 1
    behind = min(max(0, usual - 1), max(0, claimed - chunks))
    return max(0, chunks - len(known)) + behind


def _damaged(table: PacketTable) -> int:
    """Count incomplete packets, except where parts of a recording were joined and counters restart.

    Such a part starts with a key frame, and libav marks a packet up to two before it. If the clock also leaps ahead
    there, pictures are missing between the parts.
    """
    steps = np.diff(table.dts, prepend=table.dts[:1])
    known = steps[(table.dts != NO_TIME) & (steps > 0)]
    leaps = steps > _LEAP * np.median(known) if len(known) else np.zeros(len(table), np.bool_)
    ahead = np.concatenate([table.key & ~leaps, np.zeros(_MARKED_BEFORE, np.bool_)])
    joined = np.logical_or.reduce([ahead[table.damaged + step] for step in range(_MARKED_BEFORE + 1)])
    return int(np.count_nonzero(~joined))


def _holes(table: PacketTable) -> str:
    """Describe gaps of half a second or more in an otherwise regular clock; irregular clocks may have pauses."""
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
