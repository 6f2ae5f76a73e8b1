"""Retrieval metrics: recall at k, median and mean rank, mean reciprocal rank, precision at k.

Sources: R@k, MedR and MeanR as in MIL-NCE's and CLIP's evaluations (docs/formats.md section 2). Ranks count from 1. A
query with several correct answers counts by the best of them. The same metrics serve classification: acc@k and flat
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
"""The values of k for flat hit@k."""


@dataclass(frozen=True)
class RankedQueries:
    """Queries and the ranks of their correct answers.

    Attributes:
        groups: a hash of the video that each query belongs to, uint64 [n].
        ranks: the rank of the best correct answer, float64 [n].
        relevant, candidates: the numbers of correct answers and of ranked things, int64 [n].
        hits: the correct answers among the first k, for precision, int64 [n, ks]; no columns if it is not requested.
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
        queries: the number of queries with a correct answer.
        videos: the number of videos that the queries belong to; the intervals resample videos.
        candidates: the largest number of things that a query ranked.
        figures: the figures by name, such as ``R@1``, ``MedR``; empty without queries.
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
    """Return a 64-bit hash of each uid that is the same on every machine."""
    digests = (hashlib.blake2b(uid.encode(), digest_size=8).digest() for uid in uids)
    return np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)


def ranked_labels(keys: NDArray[np.uint64], scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> RankedQueries:
    """Return the rank of each video's best correct class among all classes.

    Args:
        keys: the hashes of the uids, uint64 [n].
        scores: float32 [n, classes].
        labels: bool [n, classes], at least one per video.
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
    """Accumulates ranked queries; partial results merge in any order to the same figures.

    Memory: 32 bytes per query, and 8 for each k of the precision.
    """

    def __init__(self, ks: Sequence[int] = KS, precision: Sequence[int] = (), seed: int = 0) -> None:
        """Create an empty accumulator.

        Args:
            ks: the values of k for R@k.
            precision: the values of k for P@k.
            seed: the seed of the intervals.
        """
        self.ks, self.precision, self.seed = tuple(ks), tuple(precision), seed
        self._parts: list[RankedQueries] = []

    def add(self, queries: RankedQueries) -> None:
        """Add queries.

        Raises:
            ValueError: a rank is outside 1 to the number of candidates, or hits have another width.
        """
        if queries.hits.shape != (len(queries), len(self.precision)):
            raise ValueError(f"hits are {queries.hits.shape}, not {(len(queries), len(self.precision))}")
        if len(queries) and not ((queries.ranks >= 1) & (queries.ranks <= queries.candidates)).all():
            raise ValueError("a rank is outside 1 to the number of candidates")
        if len(queries):
            self._parts.append(queries)

    def merge(self, other: RankAccumulator) -> None:
        """Add the content of another accumulator."""
        self._parts += other._parts

    def result(self) -> RetrievalMetrics:
        """Return all figures."""
        if not self._parts:
            return RetrievalMetrics(0, 0, 0, {})
        names = ("groups", "ranks", "relevant", "candidates", "hits")
        groups, ranks, relevant, candidates, hits = (
            np.concatenate([getattr(part, name) for part in self._parts]) for name in names
        )
        # Sort, so that the result does not depend on the order of the parts.
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
        # A query with fewer correct answers than k cannot reach a precision of 1, by chance or otherwise.
        chance |= {
            f"P@{k}": float((relevant / candidates * np.minimum(1, candidates / k)).mean()) for k in self.precision
        }
        at_random = np.array([chance[name] for name in columns])
        means = mean_figures(np.stack(list(columns.values()), axis=1), group_of, self.seed, at_random)
        figures = dict(zip(columns, means, strict=True))
        figures["MedR"] = median_figure(ranks, group_of, self.seed, chance["MedR"])
        shown = [f"R@{k}" for k in self.ks] + ["MedR", "MeanR", "MRR"] + [f"P@{k}" for k in self.precision]
        return RetrievalMetrics(len(ranks), len(known), int(candidates.max()), {name: figures[name] for name in shown})
