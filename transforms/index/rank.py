"""Make media hits of row hits, and one list of several.

A query is one sentence or picture (one row) or a whole item (one row a frame). Each of its rows has found rows of
items; a ranker gives each item one score. ``rank`` scores what was found and counts the rest as missed, as Jina's
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

# Distance at which a row that met nothing is counted: the largest of cosine, elsewhere Jina's default.
D_MISS: Mapping[Metric, float] = {"cosine": 2.0, "dot": 2000.0, "l2": 2000.0}


@dataclass(frozen=True)
class _Match:
    """One query row met one row of an item."""

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
    - ``mean``: the mean score of all row hits. Only what was found is averaged, so an item with one good row may
      come before one with that row and worse ones.
    - ``bimatch``: how well the item covers the query and the query covers the item; see ``bimatch``.

    Args:
        found: for each row of the query its row hits.
        ranker: which of the above.
        metric: of the index; ``bimatch`` needs it.
        rows_of: item_no -> rows that the item has in the index; ``bimatch`` needs it.
        d_miss: what a row without a match costs in ``bimatch``; by default ``default_d_miss``.

    Returns:
        One hit an item, best first, equal scores by item_no.

    Raises:
        ValueError: when ``bimatch`` lacks ``rows_of`` or an item in it, or ``d_miss`` is not above 0.
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
    """What a row without a match costs in ``bimatch`` when nothing is said.

    Cosine distances end at 2. The others have no end; there it is 2000, the default of Jina's ranker.

    >>> default_d_miss("cosine"), default_d_miss("l2")
    (2.0, 2000.0)
    """
    return D_MISS[metric]


def bimatch(
    query: Mapping[int, float], query_rows: int, item: Mapping[int, float], item_rows: int, d_miss: float
) -> float:
    """Jina's BiMatchRanker: the mean of how well each side is covered by the other.

    A side with c rows, h of which met a row of the other at smallest distances d, has
    ``1 - (sum(d) + d_miss * (c - h)) / (d_miss * c)``.

    >>> round(bimatch({1: 0.1, 2: 0.5}, 3, {11: 0.1}, 4, d_miss=1), 6)
    0.345833

    Args:
        query: query row -> its smallest distance to a row of the item, for the rows that met one.
        query_rows: rows of the query.
        item: row of the item -> its smallest distance to a row of the query, for the rows that were met.
        item_rows: rows of the item.
        d_miss: distance at which a row without a match is counted.

    Returns:
        1 when all rows match at distance 0, 0 when none does; within 0..1 when no distance is above ``d_miss``.

    Raises:
        ValueError: when a side has fewer rows than matches, or ``d_miss`` is not above 0.
    """
    if not d_miss > 0:
        raise ValueError(f"d_miss is {d_miss}; it must be above 0")
    return (_covered(item, item_rows, d_miss) + _covered(query, query_rows, d_miss)) / 2


def reciprocal_rank_fusion(lists: Sequence[Sequence[Key]], k: int = 60) -> list[tuple[Key, float]]:
    """Merge ranked lists whose scores can't be compared: each place r gives ``1 / (k + r)``.

    Source: Cormack, Clarke, Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
    methods", SIGIR 2009, with its k = 60.

    >>> reciprocal_rank_fusion([["a", "b"], ["b"]], k=1)
    [('b', 0.8333333333333333), ('a', 0.5)]

    Args:
        lists: of anything hashable, best first; a key counts once a list, at its best place.
        k: the larger, the less the first places stand out.

    Returns:
        All keys with their scores, best first; equal scores by best place, then by the order of the lists.
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
