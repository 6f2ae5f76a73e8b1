"""Combines the parts of a query into one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cliploom.schemas.errors import SpecError
from cliploom.transforms.search.query_model import QueryPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def mixture(parts: Sequence[tuple[QueryPart, NDArray[np.float32]]], metric: str) -> NDArray[np.float32]:
    """Return one query vector, float32 [1, dim]: the weighted sum of the parts' mean vectors, negative ones subtracted.

    For cosine each mean is normalised before it is weighted. For Euclidean distance the sum is divided by the sum of
    the weights, which keeps it in the range of the vectors.

    Raises:
        SpecError: the parts cancel each other out.
    """
    import numpy as np

    total = np.zeros(parts[0][1].shape[1])
    weights = 0.0
    for part, rows in parts:
        weight = -part.weight if part.negative else part.weight
        ready = rows.astype(np.float64)
        if metric == "cosine":
            ready = _unit(_unit(ready).mean(axis=0, keepdims=True))
        total += weight * ready.mean(axis=0)
        weights += weight
    if metric == "l2":
        if weights <= 0:
            raise SpecError("The negative parts of the query weigh more than the others; give them smaller weights.")
        total /= weights
    if metric != "l2" and not np.abs(total).max() > 1e-6:
        raise SpecError("The parts of the query cancel each other out; give them other weights.")
    return total[np.newaxis].astype(np.float32)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = rows / np.where(lengths > 0, lengths, 1)
    return unit
