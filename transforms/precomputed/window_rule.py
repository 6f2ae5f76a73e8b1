"""Start and end of each row of a feature file, from the windows that it was computed on."""

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
        fps: the frame rate that the windows are counted in.
        window: the number of frames in a window.
        stride: the number of frames from one window's start to the next.
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
        """The number of rows per second.

        >>> OMNIVORE.rate
        1.875
        """
        return self.fps / self.stride


OMNIVORE = WindowRule(30.0, 32, 16)
"""Ego4D's Omnivore features: windows of 32 frames each 16, at 30 frames a second."""


def row_times(rule: WindowRule, n: int, frames: int | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return start and end of each row in seconds from the video's start, rounded to 1 us.

    Args:
        rule: the windows of the rows.
        n: the number of rows.
        frames: the length of the video in frames at ``rule.fps``, if known: the last window then ends at its last
            frame, since Ego4D's extractor moves it back, and no window ends later.

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
