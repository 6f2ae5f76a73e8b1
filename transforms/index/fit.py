"""Calibration of scores: how well a hit fits its query, measured against queries unrelated to the rows.

Every search finds something, and a raw cosine does not say whether it is relevant: it depends on the query, the encoder
and the number of rows. Three scales are measured on a seeded sample of an index's rows:

- ``nouns``: the score of a noun, minus its mean similarity to the ``NEAREST`` known nouns (so that a noun that is close
  to many others does not fit everything), over the rows that do not rank the noun among their best;
- ``noise``: the score of meaningless strings;
- ``rows``: the score between rows of different items, for queries by a file or an item.

A fit is the logistic function on these scales; one half is the score that the best 5% of unrelated queries reach. The
smaller fit of the first two counts. Best scores grow with the number of rows, so the sample's are extrapolated with its
logarithm.
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
"""Increase it when the measured words or the file format change; part of the file's name."""

SAMPLE_ROWS = 4096
SAMPLE_SEED = 2
PROBES = 300
"""Number of nouns that are used as queries."""
NEAREST = 10
NOISE = 64

_SEED = 0
# A row is related to a noun that is among this share of its best; such rows are excluded for that noun.
_RELATED = 0.02
_UNRELATED_BEST = 0.95
_NOISE_SDS = 2.0
_SAMPLE_PAIRS = 1024
_MOST_DEVIATIONS = 2.5
_LEAST_SCALE = 1e-3


@dataclass(frozen=True)
class FitVectors:
    """Unit vectors of the texts used for calibration, float32 [n, dim] each.

    Attributes:
        known: the vectors of the known nouns, each in a sentence.
        probes: the vectors of the first ``PROBES`` chosen nouns as a user would type them; ``chosen`` has their
            positions in ``known``.
        noise: the vectors of meaningless strings.
    """

    known: NDArray[np.float32]
    probes: NDArray[np.float32]
    noise: NDArray[np.float32]

    @property
    def chosen(self) -> NDArray[np.int64]:
        """The positions of the probes among the known nouns."""
        return chosen_nouns(len(self.known))


def chosen_nouns(known: int) -> NDArray[np.int64]:
    """Return the positions of the nouns used for calibration: a seeded choice, ascending."""
    return np.sort(np.random.default_rng(_SEED).choice(known, min(PROBES, known), replace=False))


def noise_strings(count: int = NOISE, seed: int = _SEED) -> list[str]:
    """Return seeded meaningless strings: letters, several words of letters, digits and signs.

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
    """Return the vectors scaled to length 1; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


def text_scales(words: FitVectors, rows: NDArray[np.float32], total: int) -> tuple[FitScale, FitScale]:
    """Measure the scales ``nouns`` and ``noise``.

    Args:
        words: the vectors of the texts to search with.
        rows: a sample of the index's rows in random order, float32 [n, dim].
        total: the number of rows in the index.
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
    """Measure the scale ``rows``; None if all rows belong to one item.

    Most pairs are unrelated but some are not, so median and median absolute deviation are used.

    Args:
        ids: int64 [n], row ids.
        rows: float32 [n, dim].
        total: the number of rows in the index.
    """
    items, rows = ids[:_SAMPLE_PAIRS] >> ORDINAL_BITS, unit(rows[:_SAMPLE_PAIRS])
    pairs = (rows @ rows.T)[items[:, None] < items[None, :]]
    if not len(pairs):
        return None
    middle = float(np.median(pairs))
    deviation = 1.4826 * float(np.median(np.abs(pairs - middle)))
    # The expected maximum of n normal values is about this many deviations above the mean; a similarity is at most 1,
    # so # its tail is bounded.
    reach = min(_MOST_DEVIATIONS, float(np.sqrt(2 * np.log(max(2, total)))))
    return FitScale(center=middle + reach * deviation, scale=max(_LEAST_SCALE, deviation / 2))


def above_known(queries: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean similarity of each query [q, dim] to its nearest known nouns, float64 [q]."""
    nearest = min(NEAREST, len(known))
    likeness = queries @ known.T
    found = np.partition(likeness, -nearest, axis=1)[:, -nearest:]
    return np.asarray(found.mean(axis=1, dtype=np.float64), np.float64)


def logistic(scores: NDArray[np.float64], scale: FitScale) -> NDArray[np.float64]:
    """Return the fits, 0 to 1, of scores [n].

    >>> logistic(np.array([0.3, 0.5]), FitScale(center=0.3, scale=0.05)).round(2).tolist()
    [0.5, 0.98]
    """
    return np.asarray(1 / (1 + np.exp(-np.clip((scores - scale.center) / scale.scale, -50, 50))), np.float64)


def _upper(values: NDArray[np.float32]) -> float:
    return float(values.mean() + _NOISE_SDS * values.std())


def _scale(measure: Callable[[slice], float | np.floating], sampled: int, total: int) -> float:
    """Extrapolate ``measure`` to all rows from its results for a sample and for quarters of it."""
    whole = float(measure(slice(None)))
    if total <= sampled or sampled < 8:
        return whole
    quarters = float(np.mean([float(measure(slice(start, None, 4))) for start in range(4)]))
    growth = max(0.0, whole - quarters) / np.log(4)
    return whole + float(growth * np.log(total / sampled))
