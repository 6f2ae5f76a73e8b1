"""Selects the rows of a video's clip features that belong to a text, and pools them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.narrations import Dropped, FilterTally, Narration, Pair, PairRules, Pool
from cliploom.transforms.narrations.select import kept
from cliploom.transforms.narrations.splits import split_of

REVISION = 1
_NOISE = 1e-6
"""Tolerance in rows for t * rate, since both factors may lack an exact binary representation."""


def time_to_index(t1: float, t2: float, rate: float, n: int) -> tuple[int, int]:
    """Return the feature rows ``[start, end)`` of the seconds [t1, t2]; at least one, none beyond the last.

    ``start = min(max(0, floor(t1 * rate)), n - 1)``, ``end = min(floor(t2 * rate), n - 1) + 1``, as in Ego4D's
    research code.

    Args:
        t1: the start in seconds from the video's start; may be negative.
        t2: the end in seconds; not before ``t1``.
        rate: the number of feature rows per second, such as 1.875.
        n: the number of rows of the video.

    >>> time_to_index(8, 12, 1.875, 100)
    (15, 23)
    >>> time_to_index(60, 64, 1.875, 100)
    (99, 100)

    Raises:
        ValueError: ``t2`` is negative or before ``t1``, a number is not finite, or there is no row.
    """
    if n < 1:
        raise ValueError(f"there are {n} feature rows to choose from")
    if not rate > 0 or not math.isfinite(rate):
        raise ValueError(f"{rate} is not a number of feature rows a second")
    if not (math.isfinite(t1) and math.isfinite(t2)):
        raise ValueError(f"[{t1}, {t2}] is not a time range")
    if t2 < 0:
        raise ValueError(f"the range [{t1}, {t2}] s ends before the video starts")
    if t2 < t1:
        raise ValueError(f"the range [{t1}, {t2}] s ends before it starts")
    start = min(max(0, math.floor(t1 * rate + _NOISE)), n - 1)
    end = min(math.floor(t2 * rate + _NOISE), n - 1) + 1
    return start, end


def span_of(narration: Narration, around_s: float) -> tuple[float, float] | None:
    """Return the time range of a narration: ``around_s`` on both sides of a moment, a range unchanged.

    Returns:
        (t1, t2), or None for the whole video.
    """
    if narration.start_s is None:
        return None
    if narration.end_s is None:
        return narration.start_s - around_s, narration.start_s + around_s
    return narration.start_s, narration.end_s


def pool_rows(rows: NDArray[np.float32], pool: Pool) -> NDArray[np.float32]:
    """Pool the rows of a window.

    Args:
        rows: float32 [n, D], n at least 1.
        pool: ``mean``, or ``Take(k)``; a window with fewer rows repeats them.

    Returns:
        float32 [D] (summed in float64), or float32 [k, D].
    """
    if pool == "mean":
        mean: NDArray[np.float64] = rows.mean(axis=0, dtype=np.float64)
        return mean.astype(np.float32)
    middles = (2 * np.arange(pool.n) + 1) * len(rows) // (2 * pool.n)
    return rows[middles]


def select_window(
    features: NDArray[np.float32], t: float, around_s: float, rate: float, pool: Pool = "mean"
) -> NDArray[np.float32]:
    """Return the features of ``[t - around_s, t + around_s]``, pooled.

    Args:
        features: float32 [N, D] of one video.
        t: the time in seconds from the video's start.
        around_s: the seconds on each side.
        rate: the number of feature rows per second.
        pool: how to pool the rows.

    Returns:
        float32 [D] for ``mean``, float32 [k, D] for ``Take(k)``.

    Raises:
        ValueError: the range ends before the video starts.
    """
    start, end = time_to_index(t - around_s, t + around_s, rate, len(features))
    return pool_rows(features[start:end], pool)


def plan_pairs(uid: str, narrations: Sequence[Narration], n: int, rules: PairRules) -> tuple[list[Pair], FilterTally]:
    """Pair one video's narrations with rows of its features.

    Args:
        uid: the uid of the video.
        narrations: all narrations of the video, at least one, in the desired order.
        n: the number of feature rows; 0 without features.
        rules: the filters, the window and the splits.

    Returns:
        The pairs in the given order, and the counts of kept and dropped narrations, with reasons.
    """
    if n < 1:
        return [], FilterTally(dropped=(Dropped("video without features", len(narrations), 1),))
    split = split_of(uid, rules.split)
    if split is None:
        return [], FilterTally(dropped=(Dropped("video in no split", len(narrations), 1),))
    stay, tally = kept(uid, narrations, rules.keep)
    pairs = []
    for narration in stay:
        span = span_of(narration, rules.around_s)
        if span is None:
            pairs.append(Pair(narration, 0, n, split))
        elif span[1] >= 0:
            pairs.append(Pair(narration, *time_to_index(*span, rules.rate, n), split))
    early = len(stay) - len(pairs)
    if early:
        dropped = (*tally.dropped, Dropped("ends before the video starts", early, int(not pairs)))
        tally = FilterTally(len(pairs), int(bool(pairs)), dropped)
    return pairs, tally
