"""Item-to-item retrieval by shared label or caption: mean reciprocal rank and precision among the nearest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError
from cliploom.schemas.evaluations import SimilarEvaluation
from cliploom.schemas.release import Release
from cliploom.transforms.evaluation.gallery import FeatureRows, chosen_similarity, find_output, read_feature_rows
from cliploom.transforms.evaluation.results import Evaluated
from cliploom.transforms.evaluation.truths import described_things, shared_labels
from cliploom.transforms.index.vectors import prepare
from cliploom.transforms.metrics.ranks import Gallery, Relevance, Similarity, exact_ranks
from cliploom.transforms.metrics.retrieval import KS, RankAccumulator, RankedQueries, hashed_uids
from cliploom.transforms.narrations.select import seeded_place
from cliploom.transforms.store.object_store import ObjectStore

MOST_PAIRS = 4_000_000
_ITEMS_AT_ONCE = 4096


def evaluate_similar(objects: ObjectStore, release: Release, node: SimilarEvaluation, folder: Path) -> Evaluated:
    """Measure how highly items that share a label with a query rank among all others.

    Args:
        objects: the store.
        release: a published release, or the draft of one.
        node: the evaluation with its files in the store.
        folder: the folder for temporary files, which are as large as the feature.

    Raises:
        SpecError: no two items share a label.
    """
    entry, output = find_output(release, node.feature, node.output)
    similarity = chosen_similarity(release, node.feature, output, node.similarity)
    rows = read_feature_rows(objects, release, node.feature, output, folder, unit=False)
    notes: tuple[str, ...] = ()
    if node.texts is None and node.truth is None:
        labels = shared_labels(objects, release, entry.source, rows.uids)
    else:
        found = described_things(objects, release, node, rows, entry.source)
        said: list[set[str]] = [set() for _ in rows.uids]
        for text, thing in zip(found.texts, found.things.tolist(), strict=True):
            said[thing].add(text)
        labels, notes = [tuple(sorted(each)) for each in said], found.notes
    queries, relevance, more = chosen_queries(labels, node.most, node.seed, rows.uids)
    vectors = item_vectors(rows, folder, similarity)
    asked = np.ascontiguousarray(vectors[queries])
    ranks, _ = exact_ranks(asked, Gallery.of_rows(vectors, similarity), relevance, itself=queries)
    hits = right_among_nearest(asked, vectors, relevance, queries, similarity)
    accumulator = RankAccumulator(KS, KS, node.seed)
    count = len(ranks.queries)
    accumulator.add(
        RankedQueries(
            hashed_uids(rows.uids)[queries[ranks.queries]],
            ranks.ranks,
            ranks.relevant,
            np.full(count, ranks.candidates, np.int64),
            hits[ranks.queries],
        )
    )
    by = "labels" if node.texts is None and node.truth is None else "captions"
    return Evaluated(
        node.kind,
        f"{node.feature}.{output}",
        {"item to item": accumulator.result()},
        {"right": f"shared {by}", "similarity": similarity},
        (*notes, *more),
    )


def chosen_queries(
    labels: Sequence[tuple[str, ...]], most: int, seed: int, uids: Sequence[str]
) -> tuple[NDArray[np.int64], Relevance, tuple[str, ...]]:
    """Choose the items used as queries, and find the other items that share a label with each.

    Returns:
        The items int64 [queries], the correct answers of each, and notes.

    Raises:
        SpecError: no two items share a label.
    """
    sharing: dict[str, list[int]] = {}
    for item, mine in enumerate(labels):
        for label in mine:
            sharing.setdefault(label, []).append(item)
    able = [item for item, mine in enumerate(labels) if any(len(sharing[label]) > 1 for label in mine)]
    if not able:
        raise SpecError("No two items share a label or a caption; there is nothing to measure.")
    order = sorted(able, key=lambda item: (seeded_place(uids[item], seed), item))
    chosen: list[int] = []
    pairs: list[NDArray[np.int64]] = []
    held = 0
    for item in order[:most]:
        others = np.unique(np.concatenate([np.array(sharing[label], np.int64) for label in labels[item]]))
        others = others[others != item]
        held += len(others)
        if held > MOST_PAIRS and chosen:
            break
        pairs.append(np.stack([np.full(len(others), len(chosen), np.int64), others]))
        chosen.append(item)
    notes = (
        [f"{len(chosen)} of {len(able)} items, chosen by a seeded hash, are queries"] if len(chosen) < len(able) else []
    )
    if len(able) < len(labels):
        notes.append(
            f"{len(labels) - len(able)} items share no label with another one; they are ranked, but not used as queries"
        )
    together = np.concatenate(pairs, axis=1)
    return np.array(chosen, np.int64), Relevance.of_pairs(together[0], together[1]), tuple(notes)


def item_vectors(rows: FeatureRows, folder: Path, similarity: Similarity) -> NDArray[np.float32]:
    """Return the average of each item's rows: float32 [items, dim], a memory map."""
    count, dim = len(rows.uids), rows.vectors.shape[1]
    means = np.memmap(folder / "items.f32", np.float32, "w+", shape=(count, dim))
    for begin in range(0, count, _ITEMS_AT_ONCE):
        end = min(begin + _ITEMS_AT_ONCE, count)
        block = np.stack(
            [
                rows.vectors[rows.starts[item] : rows.starts[item + 1]].mean(axis=0, dtype=np.float64)
                for item in range(begin, end)
            ]
        )
        means[begin:end] = prepare(block.astype(np.float32), similarity)
    return means


def right_among_nearest(
    asked: NDArray[np.float32],
    vectors: NDArray[np.float32],
    relevance: Relevance,
    itself: NDArray[np.int64],
    similarity: Similarity,
) -> NDArray[np.int64]:
    """Count the correct answers among the nearest k of each query, the query itself excluded: int64 [queries, ks]."""
    metric = faiss.METRIC_L2 if similarity == "l2" else faiss.METRIC_INNER_PRODUCT
    k = min(max(KS) + 1, len(vectors))
    _, nearest = faiss.knn(asked, vectors, k, metric=metric)
    keys = relevance.queries * len(vectors) + relevance.things
    hits = np.zeros((len(asked), len(KS)), np.int64)
    for query, found in enumerate(nearest):
        others = found[found != itself[query]][: max(KS)]
        wanted = query * len(vectors) + others
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        right = np.cumsum(keys[places] == wanted)
        hits[query] = [right[min(k, len(right)) - 1] if len(right) else 0 for k in KS]
    return hits
