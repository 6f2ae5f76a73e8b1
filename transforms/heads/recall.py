"""Recall of pairs in both directions, computed in blocks, so that memory does not grow quadratically."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cliploom.transforms.metrics.retrieval import RankAccumulator, RankedQueries, RetrievalMetrics

_BLOCK = 1024
DEPTHS = (1, 5, 10)
KEY = "recall@10"


def ranks_of(queries: NDArray[np.float32], answers: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the rank from 0 of answer ``i`` for query ``i`` by dot product; ties count one half.

    Args:
        queries: float32 [n, D].
        answers: float32 [n, D].

    >>> ranks_of(np.float32([[1, 0], [0, 1]]), np.float32([[2, 0], [3, 1]])).tolist()
    [1, 0]
    """
    found = []
    for begin in range(0, len(queries), _BLOCK):
        scores = queries[begin : begin + _BLOCK] @ answers.T
        own = scores[np.arange(len(scores)), begin + np.arange(len(scores))][:, None]
        found.append((scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) // 2)
    return np.concatenate([np.empty(0, np.int64), *found])


def recall_metrics(
    clips: NDArray[np.float32], texts: NDArray[np.float32], videos: NDArray[np.int64], seed: int
) -> dict[str, RetrievalMetrics]:
    """Return R@1, 5 and 10, median and mean rank in both directions, with intervals and chance levels.

    Args:
        clips: float32 [n, D], pair ``i`` is ``clips[i]`` and ``texts[i]``.
        texts: float32 [n, D].
        videos: int64 [n]; the intervals resample whole videos.
        seed: the seed of the draws.
    """
    parts = {}
    count = len(clips)
    for name, one, other in (("text to clip", texts, clips), ("clip to text", clips, texts)):
        accumulator = RankAccumulator(seed=seed)
        accumulator.add(
            RankedQueries(
                videos.astype(np.uint64),
                ranks_of(one, other).astype(np.float64) + 1,
                np.ones(count, np.int64),
                np.full(count, count, np.int64),
                np.empty((count, 0), np.int64),
            )
        )
        parts[name] = accumulator.result()
    return parts


def recall_figures(clips: NDArray[np.float32], texts: NDArray[np.float32]) -> dict[str, float]:
    """Return R@1, 5 and 10 and median rank (from 1) in both directions, and ``recall@10``, the mean of both R@10.

    Args:
        clips: float32 [n, D], pair ``i`` is ``clips[i]`` and ``texts[i]``.
        texts: float32 [n, D].
    """
    figures: dict[str, float] = {}
    for name, ranks in (("text_to_clip", ranks_of(texts, clips)), ("clip_to_text", ranks_of(clips, texts))):
        figures |= {f"{name}_r@{depth}": float((ranks < depth).mean()) for depth in DEPTHS}
        figures[f"{name}_median"] = float(np.median(ranks)) + 1
    figures[KEY] = (figures["text_to_clip_r@10"] + figures["clip_to_text_r@10"]) / 2
    return {name: round(value, 6) for name, value in figures.items()}
