"""Rows of a table in memory with lookup by key."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray


class KeptRows:
    """A dataframe sorted by an integer column.

    >>> rows = KeptRows(pl.DataFrame({"row_id": [7, 3, 5], "text": ["c", "a", "b"]}), "row_id")
    >>> rows.find([3, 7, 8])["text"].to_list(), rows.between(3, 5)["text"].to_list()
    (['a', 'c'], ['a', 'b'])
    """

    def __init__(self, frame: pl.DataFrame, key: str) -> None:
        """Sort the rows.

        Args:
            frame: the rows.
            key: the key column, int64 without nulls.
        """
        self.frame = frame.sort(key).rechunk()
        self._keys: NDArray[np.int64] = self.frame[key].to_numpy()

    def find(self, numbers: Collection[int]) -> pl.DataFrame:
        """Return the rows with these keys, in table order; a key may have several rows."""
        wanted = np.unique(np.fromiter(numbers, np.int64, len(numbers)))
        first, end = (np.searchsorted(self._keys, wanted, side) for side in ("left", "right"))
        if (end - first <= 1).all():
            return self.frame[first[end > first]]
        return self.frame[np.concatenate([np.arange(a, b) for a, b in zip(first, end, strict=True)])]

    def between(self, least: int, most: int) -> pl.DataFrame:
        """Return the rows whose keys are between ``least`` and ``most``, both included."""
        first, end = np.searchsorted(self._keys, least, "left"), np.searchsorted(self._keys, most, "right")
        return self.frame[int(first) : int(end)]
