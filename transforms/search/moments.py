"""Moments: the stretches of an item that match a query, found from the scores of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cliploom.transforms.search.query_model import Moment

# A row belongs to a stretch if its score is above this fraction of the way from the item's median to its best score.
LEAST_SHARE = 0.5
# Rows are adjacent if the gap between them is at most this, or half of a typical row.
LEAST_GAP_S = 1e-3


@dataclass(frozen=True)
class ScoredRow:
    """A row of an item with its score for a query.

    Attributes:
        score: larger is better.
        start_s, end_s: seconds from the item's start.
    """

    row_id: int
    score: float
    start_s: float
    end_s: float


def curve_of(rows: Sequence[ScoredRow]) -> list[tuple[float, float, float]]:
    """Return (start_s, end_s, score) of each row, ordered by time."""
    return [(row.start_s, row.end_s, row.score) for row in sorted(rows, key=_by_time)]


def best_stretches(rows: Sequence[ScoredRow], most: int) -> list[Moment]:
    """Return the stretches of an item that score best, best first.

    Rows that score at least halfway between the item's median and its best row are good. Adjacent or overlapping good
    rows form one stretch, so stretches never overlap. If all rows score alike, the whole item is one stretch.

    >>> rows = [ScoredRow(n, score, n, n + 1.0) for n, score in enumerate([0.1, 0.9, 0.8, 0.1, 0.1, 0.1, 0.7])]
    >>> [(moment.start_s, moment.end_s, moment.best_s) for moment in best_stretches(rows, 2)]
    [(1, 3.0, 1), (6, 7.0, 6)]

    Args:
        rows: the rows of one item, in any order.
        most: the maximum number of stretches.
    """
    if not rows or most < 1:
        return []
    scores = sorted(row.score for row in rows)
    median = scores[len(scores) // 2] if len(scores) > 2 else scores[0]
    floor = median + LEAST_SHARE * (scores[-1] - median)
    lengths = sorted(row.end_s - row.start_s for row in rows)
    gap_s = max(LEAST_GAP_S, lengths[len(lengths) // 2] / 2)
    stretches: list[list[ScoredRow]] = []
    ends_s = float("-inf")
    for row in sorted((row for row in rows if row.score >= floor), key=_by_time):
        if row.start_s <= ends_s + gap_s:
            stretches[-1].append(row)
        else:
            stretches.append([row])
        ends_s = max(ends_s, row.end_s)
    moments = [_moment(stretch) for stretch in stretches]
    return sorted(moments, key=lambda moment: (-moment.score, moment.row_id))[:most]


def merge_moments(moments: Sequence[Moment], most: int) -> list[Moment]:
    """Merge overlapping moments of several lists.

    Args:
        moments: the moments of one item, best first; of overlapping ones the first gives the best row.
        most: the maximum number of moments.

    Returns:
        At most this many moments that do not overlap, ordered by the best of each.
    """
    merged: list[tuple[int, Moment]] = []
    for place, moment in sorted(enumerate(moments), key=lambda entry: (entry[1].start_s, entry[0])):
        if merged and moment.start_s < max(merged[-1][1].end_s, merged[-1][1].start_s + LEAST_GAP_S):
            first, last = sorted([merged[-1], (place, moment)], key=lambda entry: entry[0])
            ends_s = max(first[1].end_s, last[1].end_s)
            starts_s = min(first[1].start_s, last[1].start_s)
            text = first[1].text or last[1].text
            merged[-1] = first[0], replace(first[1], start_s=starts_s, end_s=ends_s, text=text)
        else:
            merged.append((place, moment))
    return [moment for _, moment in sorted(merged, key=lambda entry: entry[0])][:most]


def _by_time(row: ScoredRow) -> tuple[float, float, int]:
    return row.start_s, row.end_s, row.row_id


def _moment(rows: Sequence[ScoredRow]) -> Moment:
    best = max(rows, key=lambda row: (row.score, -row.row_id))
    starts, ends = min(row.start_s for row in rows), max(row.end_s for row in rows)
    return Moment(starts, ends, best.start_s, best.score, best.row_id)
