"""Figures of ranked retrieval: recall at k, median and mean rank, mean reciprocal rank, precision at k.

Sources: R@k, MedR and MeanR as in MIL-NCE's and CLIP's evaluations (docs/formats.md section 2). Ranks count from 1. A
query with several right answers counts by the best of them. The same figures serve classification: acc@k and flat
hit@k are R@k of classes for an item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliploom.transforms.metrics.chance import chance_of_ranks
from cliploom.transforms.metrics.intervals import Figure, mean_figures, median_figure

KS = (1, 5, 10)
HIT_KS = (1, 5, 10, 20)
"""Of flat hit@k."""


@dataclass(frozen=True)
class RankedQueries:
    """Some queries and where their right answers stand.

    Attributes:
        groups: uint64 [n], a hash of the video that a query belongs to.
        ranks: float64 [n], of the best right answer.
        relevant, candidates: int64 [n], right answers and things ranked.
        hits: int64 [n, ks], right answers among the first k, for precision; no columns where it is not asked for.
    """

    groups: NDArray[np.uint64]
    ranks: NDArray[np.float64]
    relevant: NDArray[np.int64]
    candidates: NDArray[np.int64]
    hits: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.ranks)


@dataclass(frozen=True)
class RetrievalMetrics:
    """The figures of one direction.

    Attributes:
        queries: with a right answer.
        videos: that the queries belong to; the intervals draw videos.
        candidates: the most that a query ranked.
        figures: by name, such as ``R@1``, ``MedR``; none for no queries.
    """

    queries: int
    videos: int
    candidates: int
    figures: dict[str, Figure]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        figures = {name: figure.to_dict() for name, figure in self.figures.items()}
        return {
            "queries": self.queries,
            "videos": self.videos,
            "candidates": self.candidates,
            "figures": figures,
        }


def hashed_uids(uids: Sequence[str]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each uid, the same on every machine."""
    digests = (hashlib.blake2b(uid.encode(), digest_size=8).digest() for uid in uids)
    return np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)


def ranked_labels(keys: NDArray[np.uint64], scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> RankedQueries:
    """Return where the best right class of each video stands among all classes.

    Args:
        keys: uint64 [n], hashes of the uids.
        scores: float32 [n, classes].
        labels: bool [n, classes], one or more a video.
    """
    best = np.where(labels, scores, -np.inf).max(axis=1, keepdims=True)
    better = (scores > best).sum(axis=1)
    equal = ((scores == best) & ~labels).sum(axis=1)
    count, classes = scores.shape
    return RankedQueries(
        keys,
        1 + better + equal / 2,
        labels.sum(axis=1).astype(np.int64),
        np.full(count, classes, np.int64),
        np.empty((count, 0), np.int64),
    )


class RankAccumulator:
    """Gathers ranked queries part by part; parts merge in any order to the same figures.

    Memory: 32 bytes a query, and 8 for each k of the precision.
    """

    def __init__(self, ks: Sequence[int] = KS, precision: Sequence[int] = (), seed: int = 0) -> None:
        """Start empty.

        Args:
            ks: of R@k.
            precision: of P@k.
            seed: of the intervals.
        """
        self.ks, self.precision, self.seed = tuple(ks), tuple(precision), seed
        self._parts: list[RankedQueries] = []

    def add(self, queries: RankedQueries) -> None:
        """Add queries.

        Raises:
            ValueError: for ranks outside of 1 to the number of candidates, or hits of other widths.
        """
        if queries.hits.shape != (len(queries), len(self.precision)):
            raise ValueError(f"hits are {queries.hits.shape}, not {(len(queries), len(self.precision))}")
        if len(queries) and not ((queries.ranks >= 1) & (queries.ranks <= queries.candidates)).all():
            raise ValueError("a rank lies outside of 1 to the number of candidates")
        if len(queries):
            self._parts.append(queries)

    def merge(self, other: RankAccumulator) -> None:
        """Add what ``other`` gathered."""
        self._parts += other._parts

    def result(self) -> RetrievalMetrics:
        """Return all figures."""
        if not self._parts:
            return RetrievalMetrics(0, 0, 0, {})
        names = ("groups", "ranks", "relevant", "candidates", "hits")
        groups, ranks, relevant, candidates, hits = (
            np.concatenate([getattr(part, name) for part in self._parts]) for name in names
        )
        # One order, however the parts came.
        order = np.lexsort((*hits.T, candidates, relevant, ranks, groups))
        groups, ranks, relevant, candidates, hits = (
            each[order] for each in (groups, ranks, relevant, candidates, hits)
        )
        known, group_of = np.unique(groups, return_inverse=True)
        group_of = group_of.astype(np.int64)
        chance = chance_of_ranks(candidates, relevant, self.ks)
        columns = {f"R@{k}": (ranks <= k).astype(np.float64) for k in self.ks}
        columns |= {"MeanR": ranks, "MRR": 1 / ranks}
        columns |= {f"P@{k}": hits[:, place] / k for place, k in enumerate(self.precision)}
        # A query with fewer right answers than k can't have a precision of 1, by chance or otherwise.
        chance |= {
            f"P@{k}": float((relevant / candidates * np.minimum(1, candidates / k)).mean()) for k in self.precision
        }
        at_random = np.array([chance[name] for name in columns])
        means = mean_figures(np.stack(list(columns.values()), axis=1), group_of, self.seed, at_random)
        figures = dict(zip(columns, means, strict=True))
        figures["MedR"] = median_figure(ranks, group_of, self.seed, chance["MedR"])
        shown = [f"R@{k}" for k in self.ks] + ["MedR", "MeanR", "MRR"] + [f"P@{k}" for k in self.precision]
        return RetrievalMetrics(len(ranks), len(known), int(candidates.max()), {name: figures[name] for name in shown})
