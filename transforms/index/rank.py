"""Ranks media by their row hits, and merges several ranked lists.

A query is one sentence or picture (one row) or a whole item (one row per frame). Each query row has found rows of
items; a ranker gives each item one score. ``rank`` scores the found rows and counts all others as missed, as Jina's
rankers do; searches use it for ``max`` only, and ``cliploom.transforms.index.rank_items`` for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from cliploom.schemas.index import MediaHit, Metric, RowHit
from cliploom.schemas.records import ORDINAL_BITS

Ranker = Literal["max", "mean", "bimatch"]
Key = TypeVar("Key", bound=Hashable)

# Distance of a row without a match: the maximum for cosine, Jina's default elsewhere.
D_MISS: Mapping[Metric, float] = {"cosine": 2.0, "dot": 2000.0, "l2": 2000.0}


@dataclass(frozen=True)
class _Match:
    """A match between one query row and one row of an item."""

    query_row: int
    hit: RowHit


def rank(
    found: Sequence[Sequence[RowHit]],
    ranker: Ranker,
    *,
    metric: Metric = "cosine",
    rows_of: Mapping[int, int] | None = None,
    d_miss: float | None = None,
) -> list[MediaHit]:
    """Rank items by the rows that a query found.

    - ``max``: the best score of any row.
    - ``mean``: the mean score of the item's row hits. Only found rows are averaged, so an item with one good row may
      rank before one with that row and worse ones.
    - ``bimatch``: how well the item covers the query and the query covers the item; see ``bimatch``.

    Args:
        found: the row hits of each query row.
        ranker: one of the above.
        metric: the metric of the index; required for ``bimatch``.
        rows_of: maps item_no to the item's number of rows in the index; required for ``bimatch``.
        d_miss: the cost of a row without a match in ``bimatch``; by default ``default_d_miss``.

    Returns:
        One hit per item, best first, equal scores by item_no.

    Raises:
        ValueError: ``bimatch`` lacks ``rows_of`` or an item in it, or ``d_miss`` is not above 0.
    """
    matches: dict[int, list[_Match]] = {}
    for query_row, hits in enumerate(found):
        for hit in hits:
            matches.setdefault(hit.row_id >> ORDINAL_BITS, []).append(_Match(query_row, hit))
    score: Callable[[int, list[_Match]], float]
    if ranker == "bimatch":
        score = _bimatch_scorer(found, metric, rows_of, d_miss)
    elif ranker == "max":
        score = _best_score
    else:
        score = _mean_score
    ranked = [
        MediaHit(item_no, score(item_no, those), max((m.hit for m in those), key=_merit), len(those))
        for item_no, those in matches.items()
    ]
    return sorted(ranked, key=lambda media: (-media.score, media.item_no))


def default_d_miss(metric: Metric) -> float:
    """Return the default cost of a row without a match in ``bimatch``.

    Cosine distances are at most 2. The others are unbounded; for them it is 2000, the default of Jina's ranker.

    >>> default_d_miss("cosine"), default_d_miss("l2")
    (2.0, 2000.0)
    """
    return D_MISS[metric]


def bimatch(
    query: Mapping[int, float], query_rows: int, item: Mapping[int, float], item_rows: int, d_miss: float
) -> float:
    """Return the score of Jina's BiMatchRanker: the mean coverage of each side by the other.

    A side with c rows, h of which matched a row of the other side at smallest distances d, has the coverage
    ``1 - (sum(d) + d_miss * (c - h)) / (d_miss * c)``.

    >>> round(bimatch({1: 0.1, 2: 0.5}, 3, {11: 0.1}, 4, d_miss=1), 6)
    0.345833

    Args:
        query: maps each matched query row to its smallest distance to a row of the item.
        query_rows: the number of query rows.
        item: maps each matched row of the item to its smallest distance to a query row.
        item_rows: the number of rows of the item.
        d_miss: the distance assumed for a row without a match.

    Returns:
        1 if all rows match at distance 0, 0 if none does; between 0 and 1 unless a distance exceeds ``d_miss``.

    Raises:
        ValueError: a side has fewer rows than matches, or ``d_miss`` is not above 0.
    """
    if not d_miss > 0:
        raise ValueError(f"d_miss is {d_miss}; it must be above 0")
    return (_covered(item, item_rows, d_miss) + _covered(query, query_rows, d_miss)) / 2


def reciprocal_rank_fusion(lists: Sequence[Sequence[Key]], k: int = 60) -> list[tuple[Key, float]]:
    """Merge ranked lists whose scores are not comparable: rank r contributes ``1 / (k + r)``.

    Source: Cormack, Clarke, Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
    methods", SIGIR 2009, with its k = 60.

    >>> reciprocal_rank_fusion([["a", "b"], ["b"]], k=1)
    [('b', 0.8333333333333333), ('a', 0.5)]

    Args:
        lists: lists of hashable keys, best first; a key counts once per list, at its best rank.
        k: the constant; the larger, the smaller the advantage of the first ranks.

    Returns:
        All keys with their scores, best first; equal scores by best rank, then by the order of the lists.
    """
    places: dict[Key, list[int]] = {}
    for ranked in lists:
        for place, key in enumerate(dict.fromkeys(ranked), 1):
            places.setdefault(key, []).append(place)
    fused = [(key, math.fsum(1 / (k + place) for place in those)) for key, those in places.items()]
    return sorted(fused, key=lambda entry: (-entry[1], min(places[entry[0]])))


def _bimatch_scorer(
    found: Sequence[Sequence[RowHit]], metric: Metric, rows_of: Mapping[int, int] | None, d_miss: float | None
) -> Callable[[int, list[_Match]], float]:
    if rows_of is None:
        raise ValueError("bimatch needs the number of rows of each item; give rows_of")
    rows = rows_of
    miss = default_d_miss(metric) if d_miss is None else d_miss

    def score(item_no: int, matches: list[_Match]) -> float:
        if item_no not in rows:
            raise ValueError(f"item {item_no} was found but rows_of does not have it")
        query: dict[int, float] = {}
        item: dict[int, float] = {}
        for match in matches:
            distance = match.hit.distance
            query[match.query_row] = min(distance, query.get(match.query_row, math.inf))
            item[match.hit.row_id] = min(distance, item.get(match.hit.row_id, math.inf))
        return bimatch(query, len(found), item, rows[item_no], miss)

    return score


def _covered(smallest: Mapping[int, float], rows: int, d_miss: float) -> float:
    if rows < max(1, len(smallest)):
        raise ValueError(f"{len(smallest)} rows were matched of {rows}; the counts of rows are out of date")
    return 1 - (math.fsum(smallest.values()) + d_miss * (rows - len(smallest))) / (d_miss * rows)


def _best_score(_item_no: int, matches: list[_Match]) -> float:
    return max(match.hit.score for match in matches)


def _mean_score(_item_no: int, matches: list[_Match]) -> float:
    return math.fsum(match.hit.score for match in matches) / len(matches)


def _merit(hit: RowHit) -> tuple[float, int]:
    return hit.score, -hit.row_id
