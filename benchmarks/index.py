"""python -m benchmarks index: what an index finds and costs, against FAISS by hand and numpy, in one run.

Random vectors about random centres, 384 wide; queries are new vectors about the same centres. CPU seconds are those
of this process. "by hand" is the same FAISS index in memory, built and asked by hand with the same nprobe; the ratio is
what merging, exact scores, ties and memory mapping cost. Latency is that of one query at a time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.index import IndexRecipe, Kind
from cliploom.transforms.index.build import (
    HNSW_EF_CONSTRUCTION,
    HNSW_NEIGHBOURS,
    build_shard,
    train,
    training_rows,
    write_index,
)
from cliploom.transforms.index.opened import OpenShard, open_shard
from cliploom.transforms.index.recall import exact_top_k, recall_at, tune_nprobe
from cliploom.transforms.index.search import search

DIM = 384
K = 10
HELD_BACK = 500
BATCH = 20_000
KINDS: tuple[Kind, ...] = ("flat", "ivf_sq8", "ivf_rabitq", "hnsw")


@dataclass(frozen=True)
class Corpus:
    """Unit vectors float32 [rows, DIM] and [queries, DIM], and the queries' exact neighbours."""

    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]
    exact: list[NDArray[np.int64]]

    def batches(self) -> Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield all rows with their ids, in blocks."""
        for at in range(0, len(self.vectors), BATCH):
            block = self.vectors[at : at + BATCH]
            yield np.arange(at, at + len(block)), block


def make_corpus(rows: int, queries: int, seed: int = 0) -> Corpus:
    """Centres of centres, as scenes within subjects: nearest neighbours are neither trivial nor all alike."""
    rng = np.random.default_rng(seed)
    subjects = rng.normal(size=(100, DIM))
    scenes = subjects[rng.integers(0, 100, max(rows // 20, 1))] + 0.9 * rng.normal(size=(max(rows // 20, 1), DIM))

    def draw(count: int) -> NDArray[np.float32]:
        noise = rng.normal(size=(count, DIM)) * rng.uniform(0.3, 1.5, size=(count, 1))
        vectors = (scenes[rng.integers(0, len(scenes), count)] + noise).astype(np.float32)
        faiss.normalize_L2(vectors)
        return vectors

    corpus = Corpus(draw(rows), draw(queries), [])
    return replace(corpus, exact=exact_top_k(corpus.batches(), corpus.queries, K, "cosine"))


def clock(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and the CPU seconds of a call."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def by_hand(kind: Kind, corpus: Corpus, nprobe: int, lists: int) -> tuple[Callable[[NDArray[np.float32]], Any], float]:
    """Return a FAISS index as one would write it oneself; its search and the CPU seconds of building it."""
    sample = corpus.vectors[: training_rows(len(corpus.vectors))]
    index: Any
    if kind == "flat":
        index = faiss.IndexFlatIP(DIM)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(DIM, HNSW_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_EF_CONSTRUCTION
        index.hnsw.efSearch = nprobe
    else:
        index = faiss.index_factory(DIM, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.nprobe = nprobe
    _, seconds = clock(lambda: (index.train(sample), index.add(corpus.vectors)))
    return lambda queries: index.search(queries, K)[1], seconds


def build(kind: Kind, corpus: Corpus, folder: Path) -> tuple[OpenShard, float, float]:
    """Return a tuned, open shard of this project; CPU seconds of building and of tuning."""
    recipe = IndexRecipe("cosine", kind, DIM)
    rows = len(corpus.vectors)

    def make() -> None:
        if kind in ("ivf_sq8", "ivf_rabitq"):
            sample = corpus.vectors[HELD_BACK : HELD_BACK + training_rows(rows)]
            write_index(train(sample, rows, "cosine", seed=0), folder / "trained")
        build_shard(recipe, folder / "trained", None, np.empty(0, np.int64), corpus.batches(), folder / kind)

    _, build_s = clock(make)
    shard = open_shard(folder / kind, recipe)
    own, sample = np.arange(HELD_BACK), corpus.vectors[:HELD_BACK]
    exact = exact_top_k(corpus.batches(), sample, K, "cosine", own=own)
    (nprobe, _), tune_s = clock(lambda: tune_nprobe([shard], own, sample, exact))
    return replace(shard, recipe=replace(recipe, nprobe=nprobe)), build_s, tune_s


def numpy_search(corpus: Corpus) -> NDArray[np.int64]:
    """Brute force as one would write it with numpy alone."""
    scores = corpus.queries @ corpus.vectors.T
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    return np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1), axis=1)


def line(kind: Kind, corpus: Corpus, folder: Path, base: float) -> str:
    """Build both indexes of a kind and measure them; ``base`` is numpy's queries per CPU-second."""
    shard, build_s, tune_s = build(kind, corpus, folder)
    ask, hand_build_s = by_hand(kind, corpus, shard.recipe.nprobe, shard.index.nlist if shard.recipe.inverted else 0)
    queries, few = corpus.queries, corpus.queries[:100]
    # The first search pays for mapping the file.
    search([shard], queries, K)
    hits, ours_s = clock(lambda: search([shard], queries, K))
    _, hand_s = clock(lambda: ask(queries))
    _, one_s = clock(lambda: [search([shard], query[np.newaxis], K) for query in few])
    _, hand_one_s = clock(lambda: [ask(query[np.newaxis]) for query in few])
    recall = recall_at(K, [[hit.row_id for hit in row] for row in hits], corpus.exact)
    ours, theirs = len(queries) / ours_s, len(queries) / hand_s
    name = f"{kind} {shard.recipe.nprobe or ''}"
    return (
        f"{name:14}{recall:8.3f}{ours:9.0f}{ours / base:9.1f}{theirs:9.0f}{ours / theirs:7.2f}"
        f"{one_s / len(few) * 1e3:8.2f} ms{hand_one_s / len(few) * 1e3:6.2f} ms"
        f"  {build_s:.1f} / {hand_build_s:.1f} s, {tune_s:.1f} s"
    )


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks index", description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args(argv)
    corpus = make_corpus(options.rows, options.queries)
    found, numpy_s = clock(lambda: numpy_search(corpus))
    base = options.queries / numpy_s
    print(f"{options.rows} x {DIM}, {options.queries} queries, recall@{K}, queries per CPU-second")
    print(
        f"{'':14}{'recall':>8}{'q/CPU-s':>9}{'x numpy':>9}{'by hand':>9}{'ratio':>7}{'one query':>11}{'by hand':>9}"
        "  build / by hand, tuning"
    )
    print(f"{'numpy':14}{recall_at(K, found, corpus.exact):8.3f}{base:9.0f}{1:9.1f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            print(line(kind, corpus, Path(folder), base), flush=True)
    return 0
