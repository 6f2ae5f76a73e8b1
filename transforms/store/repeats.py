"""Rows that repeat the last kept row of their item, by their vectors or by small copies of their pictures.

The rows of an item are shown in order, so what is kept depends on the item's bytes and the feature's config alone, not
on shards, batches or the moment when a run was killed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cliploom.schemas.sampling import Distinct

if TYPE_CHECKING:
    from numpy.typing import NDArray

REVISION = 1
"""Increase it when other rows are dropped; part of the config digest of features that drop repeats."""

BLOCKS = 16
"""Blocks that a picture is compared by, in each direction."""

_RANGE = 255.0
_PICTURE_DIMS = 3


class RepeatFilter:
    """Says of one item's rows, shown in order, which repeat the last kept one. Keeps one vector or small picture.

    Args:
        rule: the rule of the sampling; None drops nothing.
        output: whose vectors are compared.

    >>> rows = RepeatFilter(Distinct(vectors=0.9), "v")
    >>> [rows.drops_vectors({"v": np.float32(v)}) for v in ([1, 0], [2, 0.1], [0, 1], [0, 3], [1, 0])]
    [False, True, False, True, False]
    """

    def __init__(self, rule: Distinct | None, output: str) -> None:
        self._rule = rule
        self._output = rule.output or output if rule is not None else output
        self._last: NDArray[np.float64] | None = None

    def drops_picture(self, pixels: NDArray[np.uint8] | str) -> bool:
        """Whether a row's picture, uint8 [H, W, C] or [T, H, W, C], repeats the last kept one; a text never does."""
        if self._rule is None or self._rule.pictures is None or isinstance(pixels, str):
            return False
        small, last = block_means(pixels), self._last
        if last is not None and last.shape == small.shape:
            largest = float(np.abs(small - last).max(initial=0.0)) / _RANGE
            if largest <= 1 - self._rule.pictures:
                return True
        self._last = small
        return False

    def drops_vectors(self, vectors: Mapping[str, NDArray[np.float32]]) -> bool:
        """Return whether a row's vectors, float32 [dim] by output, repeat those of the last kept one."""
        if self._rule is None or self._rule.vectors is None:
            return False
        vector, last = np.asarray(vectors[self._output], np.float64), self._last
        if last is not None and cosine(last, vector) >= self._rule.vectors:
            return True
        self._last = vector
        return False


def cosine(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Cosine of two vectors, float64 [dim]; equal vectors have 1, also zeros, and zeros have 0 with others."""
    if np.array_equal(left, right):
        return 1.0
    scale = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / scale if scale > 0 else 0.0


def block_means(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean of each of 16 x 16 blocks of pictures; of each pixel where a side is shorter.

    Args:
        pixels: uint8 [..., H, W, C].

    Returns:
        float64 [..., h, w, C], h and w at most ``BLOCKS``.
    """
    small: NDArray[np.float64] = pixels.astype(np.float64)
    for axis in (pixels.ndim - _PICTURE_DIMS, pixels.ndim - _PICTURE_DIMS + 1):
        size = small.shape[axis]
        starts = np.arange(min(BLOCKS, size)) * size // min(BLOCKS, size)
        lengths = np.diff(starts, append=size).reshape([-1 if each == axis else 1 for each in range(small.ndim)])
        small = np.add.reduceat(small, starts, axis=axis) / lengths
    return small
