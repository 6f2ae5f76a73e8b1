"""Fits of hits: how well a hit matches its query, from 0 to 1, and whether anything in a store matches at all.

It uses the calibration that was measured when the index was built (``cliploom.transforms.index.fit``), and for text
queries the vectors of known nouns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.release import FitEntry
from cliploom.transforms.index.fit import above_known, logistic, unit
from cliploom.transforms.store.cache import cached_file
from cliploom.transforms.store.object_store import ObjectStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cliploom.schemas.index import MediaHit
    from cliploom.transforms.search.searching import Hit

QueryKind = Literal["text", "rows"]
FitWord = Literal["good", "weak", "none"]

GOOD, WEAK = 0.65, 0.35
_BYTES = 2  # bytes per number of the stored vectors


@dataclass(frozen=True)
class IndexFit:
    """The calibration of one index.

    Attributes:
        entry: the index's entry in the release.
        known: the unit vectors of the known nouns, float32 [n, dim]; empty if the index does not support text.
    """

    entry: FitEntry
    known: NDArray[np.float32]

    def of(self, kind: QueryKind, query: NDArray[np.float32], scores: Sequence[float]) -> list[float | None]:
        """Return the fit of each hit.

        Args:
            kind: ``text`` for a text query, ``rows`` for a file or an item.
            query: float32 [rows, dim].
            scores: the cosine of each hit's best row.
        """
        entry, found = self.entry, np.asarray(scores, np.float64)
        if kind == "rows":
            return [None] * len(found) if entry.rows is None else [*map(float, logistic(found, entry.rows))]
        if entry.nouns is None or entry.noise is None or len(query) != 1:
            return [None] * len(found)
        above = found - above_known(unit(query), self.known)
        fits = np.minimum(logistic(above, entry.nouns), logistic(found, entry.noise))
        return [*map(float, fits)]


def open_fit(objects: ObjectStore, entry: FitEntry, dim: int) -> IndexFit:
    """Open the calibration of an index.

    Raises:
        StoreError: the file of vectors is missing or damaged.
    """
    if entry.words is None:
        return IndexFit(entry, np.empty((0, dim), np.float32))
    path = cached_file(objects, entry.words)
    wanted = entry.known * dim * _BYTES
    if not 0 < wanted <= path.stat().st_size == entry.words.size:
        raise StoreError(f"{objects.uri_of(entry.words.path)} is damaged; `cliploom verify` lists all damage.")
    stored = np.fromfile(path, "<f2", entry.known * dim).astype(np.float32).reshape(entry.known, dim)
    return IndexFit(entry, unit(stored))


def fits_of_items(
    fits: dict[str, IndexFit],
    kind: QueryKind,
    queries: dict[str, NDArray[np.float32]],
    lists: dict[str, list[MediaHit]],
) -> dict[int, float]:
    """Return the best fit of each item over the calibrated indexes.

    Args:
        fits: the calibrations by index.
        kind: the kind of the query.
        queries: the query rows by index, float32 [rows, dim].
        lists: the ranked items by index.
    """
    best: dict[int, float] = {}
    for name, ranked in lists.items():
        if name not in fits:
            continue
        found = fits[name].of(kind, queries[name], [media.best.score for media in ranked])
        for media, fit in zip(ranked, found, strict=True):
            if fit is not None:
                best[media.item_no] = max(fit, best.get(media.item_no, 0.0))
    return best


def with_fit(hits: Sequence[Hit], least: float) -> list[Hit]:
    """Return the hits with at least a given fit.

    Raises:
        SpecError: ``least`` is not between 0 and 1, or no hit has a fit.
    """
    if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1:
        raise SpecError(f"The minimum fit is {least!r}; give a number from 0 to 1, such as {GOOD}.")
    if hits and all(hit.fit is None for hit in hits):
        raise SpecError(
            "No fit is known for these hits: the query is a vector, or the index is not calibrated. One with metric "
            "cosine is calibrated when it is built next. Remove the minimum fit until then."
        )
    return [hit for hit in hits if hit.fit is not None and hit.fit >= least]


def fit_word(fits: Sequence[float | None]) -> FitWord | None:
    """Return a word for the best fit of a result; None if no hit has a fit.

    >>> fit_word([0.1, 0.9]), fit_word([0.4]), fit_word([0.1, None]), fit_word([None])
    ('good', 'weak', 'none', None)
    """
    known = [fit for fit in fits if fit is not None]
    if not known:
        return None
    best = max(known)
    return "good" if best >= GOOD else "weak" if best >= WEAK else "none"


def fit_message(word: FitWord | None, query: str) -> str:
    """Return the sentence that introduces a result; empty if something fits or nothing is known.

    >>> fit_message("none", "a zebra")
    "Nothing in this store fits 'a zebra'; these are the nearest."
    """
    if word == "none":
        return f"Nothing in this store fits {query!r}; these are the nearest."
    return f"Nothing in this store fits {query!r} well; these are the nearest." if word == "weak" else ""
