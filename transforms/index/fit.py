"""How well a hit fits its query, on one scale for all queries: measured against queries that are unrelated to the rows.

Every search finds something, and a raw cosine does not say whether it is any good: it depends on the query, the encoder
and the number of rows. Three scales are measured on a seeded sample of an index's rows:

- ``nouns``: the score of a noun, less its mean likeness to the ``NEAREST`` known nouns (so that a noun which is near to
  many others does not fit everything), over the rows that do not rank the noun among their best;
- ``noise``: the score of strings without meaning;
- ``rows``: the score between rows of different items, for queries by a file or an item.

A fit is logistic on these scales: one half is what the best twentieth of unrelated queries reach. Of the first two the
smaller counts. Best scores grow with the number of rows, so what a sample shows is extrapolated by the logarithm.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cliploom.schemas.records import ORDINAL_BITS
from cliploom.schemas.release import FitScale

if TYPE_CHECKING:
    from numpy.typing import NDArray

REVISION = 1
"""Raised when other words are measured with or vectors are kept in another way; part of the name of their file."""

SAMPLE_ROWS = 4096
SAMPLE_SEED = 2
PROBES = 300
"""Nouns that are searched for to measure with."""
NEAREST = 10
NOISE = 64

_SEED = 0
_RELATED = 0.02  # A row is about a noun that is among so many of its best; such rows are left out for it.
_UNRELATED_BEST = 0.95
_NOISE_SDS = 2.0
_SAMPLE_PAIRS = 1024
_MOST_DEVIATIONS = 2.5
_LEAST_SCALE = 1e-3


@dataclass(frozen=True)
class FitVectors:
    """Unit vectors of texts to measure with, float32 [n, dim] each.

    Attributes:
        known: of the known nouns, each in a sentence.
        probes: of the first ``PROBES`` chosen nouns as a person would type them; ``chosen`` are their places in
            ``known``.
        noise: of strings without meaning.
    """

    known: NDArray[np.float32]
    probes: NDArray[np.float32]
    noise: NDArray[np.float32]

    @property
    def chosen(self) -> NDArray[np.int64]:
        """Places of the probes among the known nouns."""
        return chosen_nouns(len(self.known))


def chosen_nouns(known: int) -> NDArray[np.int64]:
    """Return the places of the nouns that are measured with: a seeded choice, ascending."""
    return np.sort(np.random.default_rng(_SEED).choice(known, min(PROBES, known), replace=False))


def noise_strings(count: int = NOISE, seed: int = _SEED) -> list[str]:
    """Return seeded strings without meaning: letters, several words of letters, digits and signs.

    >>> noise_strings(3)
    ['ynbiqpmzjp', 'gqejey tz rwzt', '93@2=!(']
    """
    generator = random.Random(seed)  # noqa: S311

    def letters(least: int, most: int) -> str:
        return "".join(generator.choice(string.ascii_lowercase) for _ in range(generator.randint(least, most)))

    signs = string.digits + "!#$%&()*+-/=?@_"
    kinds = (
        lambda: letters(4, 12),
        lambda: " ".join(letters(2, 8) for _ in range(generator.randint(2, 4))),
        lambda: "".join(generator.choice(signs) for _ in range(generator.randint(5, 12))),
    )
    return [kinds[number % len(kinds)]() for number in range(count)]


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the vectors at length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


def text_scales(words: FitVectors, rows: NDArray[np.float32], total: int) -> tuple[FitScale, FitScale]:
    """Measure the scales ``nouns`` and ``noise``.

    Args:
        words: to search with.
        rows: float32 [n, dim], a sample of the index's rows, in random order.
        total: rows in the index.
    """
    rows = unit(rows)
    likeness = rows @ words.known.T
    related = max(1, round(_RELATED * len(words.known)))
    least = np.partition(likeness, -related, axis=1)[:, -related, None]
    about = (likeness >= least)[:, words.chosen]
    scores = np.where(about, -1.0, rows @ words.probes.T)
    above = above_known(words.probes, words.known)
    nouns = _scale(lambda part: np.quantile(scores[part].max(0) - above, _UNRELATED_BEST), len(rows), total)
    spread = float(np.std(scores.max(0) - above)) / 2
    strange = rows @ words.noise.T
    noise = _scale(lambda part: _upper(strange[part].max(0)), len(rows), total)
    return (
        FitScale(center=nouns, scale=max(_LEAST_SCALE, spread)),
        FitScale(center=noise, scale=max(_LEAST_SCALE, float(np.std(strange.max(0))) / 2)),
    )


def row_scale(ids: NDArray[np.int64], rows: NDArray[np.float32], total: int) -> FitScale | None:
    """Measure the scale ``rows``; None where all rows are of one item.

    Most pairs are unrelated, but some are not, so median and median deviation stand for the unrelated ones.

    Args:
        ids: int64 [n], row ids.
        rows: float32 [n, dim].
        total: rows in the index.
    """
    items, rows = ids[:_SAMPLE_PAIRS] >> ORDINAL_BITS, unit(rows[:_SAMPLE_PAIRS])
    pairs = (rows @ rows.T)[items[:, None] < items[None, :]]
    if not len(pairs):
        return None
    middle = float(np.median(pairs))
    deviation = 1.4826 * float(np.median(np.abs(pairs - middle)))
    # The largest of n values of a normal distribution lies about so many deviations above the middle; likeness ends at
    # 1, so its tail does not go on for ever.
    reach = min(_MOST_DEVIATIONS, float(np.sqrt(2 * np.log(max(2, total)))))
    return FitScale(center=middle + reach * deviation, scale=max(_LEAST_SCALE, deviation / 2))


def above_known(queries: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean likeness of each query [q, dim] to the known nouns that are nearest to it, float64 [q]."""
    nearest = min(NEAREST, len(known))
    likeness = queries @ known.T
    found = np.partition(likeness, -nearest, axis=1)[:, -nearest:]
    return np.asarray(found.mean(axis=1, dtype=np.float64), np.float64)


def logistic(scores: NDArray[np.float64], scale: FitScale) -> NDArray[np.float64]:
    """Return fits of 0 to 1 for scores [n].

    >>> logistic(np.array([0.3, 0.5]), FitScale(center=0.3, scale=0.05)).round(2).tolist()
    [0.5, 0.98]
    """
    return np.asarray(1 / (1 + np.exp(-np.clip((scores - scale.center) / scale.scale, -50, 50))), np.float64)


def _upper(values: NDArray[np.float32]) -> float:
    return float(values.mean() + _NOISE_SDS * values.std())


def _scale(measure: Callable[[slice], float | np.floating], sampled: int, total: int) -> float:
    """What ``measure`` gives for all rows, from what it gives for a sample and for quarters of it."""
    whole = float(measure(slice(None)))
    if total <= sampled or sampled < 8:
        return whole
    quarters = float(np.mean([float(measure(slice(start, None, 4))) for start in range(4)]))
    growth = max(0.0, whole - quarters) / np.log(4)
    return whole + float(growth * np.log(total / sampled))
