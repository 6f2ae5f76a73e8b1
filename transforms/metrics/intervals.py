"""Bootstrap intervals: what a figure would be on other videos of the same kind.

Queries of one video say much the same, so whole videos are drawn, with repetition. The draws depend on the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPEATS = 1000
LEVEL = 0.95
_WEIGHTS = 1 << 22


@dataclass(frozen=True)
class Figure:
    """One figure with what is needed to judge it.

    Attributes:
        value: of all queries.
        low, high: the 95% bootstrap interval.
        chance: what random scores would come to; None where it is not known.
    """

    value: float
    low: float
    high: float
    chance: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def resamples(groups: int, seed: int, repeats: int = REPEATS) -> Iterator[NDArray[np.float64]]:
    """Yield how often each group is drawn: float64 [some repeats, groups], ``repeats`` rows in all."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _WEIGHTS // max(1, groups))
    for begin in range(0, repeats, at_once):
        count = min(at_once, repeats - begin)
        yield rng.multinomial(groups, np.full(groups, 1 / groups), size=count).astype(np.float64)


def mean_figures(
    values: NDArray[np.float64], group_of: NDArray[np.int64], seed: int, chance: NDArray[np.float64] | None = None
) -> list[Figure]:
    """Return the mean of each column with its interval.

    Args:
        values: float64 [n, figures], at least one row.
        group_of: int64 [n], the video of each row, numbered from 0 without gaps.
        seed: of the draws.
        chance: float64 [figures].
    """
    groups = int(group_of.max()) + 1
    sums = np.zeros((groups, values.shape[1]))
    np.add.at(sums, group_of, values)
    counts = np.bincount(group_of, minlength=groups).astype(np.float64)
    drawn = np.concatenate([(w @ sums) / (w @ counts)[:, None] for w in resamples(groups, seed)])
    known: list[float | None] = [None] * values.shape[1] if chance is None else chance.tolist()
    return [
        Figure(float(value), *_bounds(column), at_random)
        for value, column, at_random in zip(values.mean(axis=0), drawn.T, known, strict=True)
    ]


def median_figure(
    values: NDArray[np.float64], group_of: NDArray[np.int64], seed: int, chance: float | None = None
) -> Figure:
    """Return the median with its interval; of an even number the mean of the middle two."""
    order = np.argsort(values, kind="stable")
    rising, groups = values[order], group_of[order]
    drawn = [_median(rising, w[groups]) for some in resamples(int(group_of.max()) + 1, seed) for w in some]
    return Figure(float(np.median(values)), *_bounds(np.array(drawn)), chance)


def statistic_figure(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    groups: int,
    seed: int,
    chance: float | None = None,
    repeats: int = REPEATS,
) -> Figure:
    """Return any statistic with its interval.

    Args:
        statistic: from weights float64 [repeats, groups] to float64 [repeats]; NaN where it is not defined.
        groups: how many there are.
        seed: of the draws.
        chance: of random scores.
        repeats: draws.
    """
    drawn = np.concatenate([statistic(w) for w in resamples(groups, seed, repeats)])
    value = float(statistic(np.ones((1, groups)))[0])
    return Figure(value, *_bounds(drawn[~np.isnan(drawn)]), chance)


def _median(rising: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    ends = np.cumsum(weights)
    half = ends[-1] / 2
    low = int(np.searchsorted(ends, half, "left"))
    high = int(np.searchsorted(ends, half, "right"))
    return float((rising[low] + rising[min(high, len(rising) - 1)]) / 2)


def _bounds(drawn: NDArray[np.float64]) -> tuple[float, float]:
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
