"""When each row of a feature file starts and ends, from the windows it was computed in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError


@dataclass(frozen=True)
class WindowRule:
    """Sliding windows over a video.

    Attributes:
        fps: frames a second that the windows are counted in.
        window: frames in one.
        stride: frames from one's start to the next one's.
    """

    fps: float
    window: int
    stride: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0 and self.window > 0 and self.stride > 0):
            raise SpecError(
                f"fps {self.fps}, window {self.window}, stride {self.stride} is not a window rule; "
                "all three must be positive, such as fps 30, window 32, stride 16."
            )

    @property
    def rate(self) -> float:
        """Rows a second.

        >>> OMNIVORE.rate
        1.875
        """
        return self.fps / self.stride


OMNIVORE = WindowRule(30.0, 32, 16)
"""Ego4D's Omnivore features: windows of 32 frames each 16, at 30 frames a second."""


def row_times(rule: WindowRule, n: int, frames: int | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and end of each row in seconds from the video's start, rounded to 1 us.

    Args:
        rule: how the rows were made.
        n: rows.
        frames: length of the video in frames at ``law.fps``, where known: the last window then ends on its last
            frame, as Ego4D's extractor moves it back, and none ends after it.

    Returns:
        ``start_s`` and ``end_s``, float64 [n].

    >>> [times.tolist() for times in row_times(OMNIVORE, 2, frames=39)]
    [[0.0, 0.233333], [1.066667, 1.3]]
    """
    starts = np.arange(n, dtype=np.int64) * rule.stride
    if frames is not None:
        starts = np.minimum(starts, max(0, frames - rule.window))
    ends = starts + rule.window if frames is None else np.minimum(starts + rule.window, frames)
    return np.round(starts / rule.fps, 6), np.round(ends / rule.fps, 6)
