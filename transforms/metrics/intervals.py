"""Bootstrap confidence intervals: how a figure would vary on other videos of the same kind.

Queries of one video are correlated, so whole videos are resampled. The draws depend on the seed only.
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
    """A figure with its interval and chance level.

    Attributes:
        value: the value over all queries.
        low, high: the bounds of the 95% bootstrap interval.
        chance: the expected value for random scores; None if unknown.
    """

    value: float
    low: float
    high: float
    chance: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def resamples(groups: int, seed: int, repeats: int = REPEATS) -> Iterator[NDArray[np.float64]]:
    """Yield how often each group is drawn, in blocks float64 [n, groups], ``repeats`` rows in total."""
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
        seed: the seed of the draws.
        chance: the chance level of each column, float64 [figures].
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
    """Return the median with its interval; for an even number of values the mean of the middle two."""
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
        statistic: a function from weights float64 [repeats, groups] to float64 [repeats]; NaN where it is undefined.
        groups: the number of groups.
        seed: the seed of the draws.
        chance: the expected value for random scores.
        repeats: the number of draws.
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
