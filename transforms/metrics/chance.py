"""Expected figures of random rankings, exactly: the best of ``m`` correct answers among ``n`` candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def misses(candidates: int, relevant: int) -> NDArray[np.float64]:
    """Return the probability that no correct answer is among the first k, for k from 0 to ``candidates``.

    >>> misses(4, 1).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    place = np.arange(candidates)
    left = np.maximum(candidates - relevant - place, 0)
    return np.concatenate([[1.0], np.cumprod(left / (candidates - place))])


def chance_of_precision(candidates: int, relevant: int) -> float:
    """Return the expected average precision of ``relevant`` correct answers among ``candidates`` in random order.

    The correct answer at rank r has a precision of (1 + correct ones before it) / r, and each rank is equally likely.

    >>> round(chance_of_precision(2, 1), 4), chance_of_precision(3, 3)
    (0.75, 1.0)
    """
    harmonic = float((1 / np.arange(1, candidates + 1)).sum()) / candidates
    if candidates == 1:
        return 1.0
    return harmonic + (relevant - 1) / (candidates - 1) * (1 - harmonic)


def chance_of_ranks(candidates: NDArray[np.int64], relevant: NDArray[np.int64], ks: Sequence[int]) -> dict[str, float]:
    """Return the expected figures of queries with randomly ranked candidates.

    Args:
        candidates: the number of candidates of each query, int64 [n], n > 0.
        relevant: the number of correct answers of each query, int64 [n].
        ks: the values of k for R@k.

    Returns:
        ``R@k``, ``MedR``, ``MeanR`` and ``MRR``; the median is over the ranks of all queries together.
    """
    pairs, counts = np.unique(np.stack([candidates, relevant]), axis=1, return_counts=True)
    longest = int(candidates.max())
    still_missing = np.zeros(longest + 1)
    mean = reciprocal = 0.0
    share = counts / counts.sum()
    for (n, m), part in zip(pairs.T.tolist(), share.tolist(), strict=True):
        missed = misses(n, m)
        still_missing[: n + 1] += part * missed
        mean += part * (n + 1) / (m + 1)
        reciprocal += part * float((-np.diff(missed) / np.arange(1, n + 1)).sum())
    found = 1 - still_missing
    recalls = {f"R@{k}": float(found[min(k, longest)]) for k in ks}
    low, high = (int(np.argmax(found >= half)) for half in (0.5 - 1e-12, 0.5 + 1e-12))
    return recalls | {"MedR": (low + high) / 2, "MeanR": mean, "MRR": reciprocal}
