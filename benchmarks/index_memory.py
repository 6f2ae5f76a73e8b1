"""An index of millions of rows in little memory: ``python -m benchmarks index_memory [--rows 5000000]``.

Rows are drawn around seeded centres in a space of 48 dimensions laid into 384, with noise over all of them, and come in
blocks, so that the corpus is never in memory. Shards of kind ``ivf_rabitq`` are built as a run builds them; queries are
rows with noise. A rival is FAISS by hand with the whole ``IVF,SQ8`` index in memory, of the same shards.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.index import clock
from benchmarks.measure import memory_mb, table
from cliploom.schemas.index import IndexRecipe
from cliploom.transforms.index.build import SHARD_ROWS, build_shard, train, training_rows, write_index
from cliploom.transforms.index.opened import open_shard
from cliploom.transforms.index.recall import exact_top_k, recall_at, tune_nprobe
from cliploom.transforms.index.search import search

DIM, INTRINSIC, CENTRES, BLOCK, K = 384, 48, 5000, 50_000, 10
Batch = tuple[NDArray[np.int64], NDArray[np.float32]]


class Rows:
    """A corpus that is drawn again whenever it is read."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        rng = np.random.default_rng(0)
        self._centres = rng.normal(size=(CENTRES, DIM)).astype(np.float32)
        self._basis = (0.5 * rng.normal(size=(INTRINSIC, DIM)) / np.sqrt(INTRINSIC)).astype(np.float32)

    def blocks(self, first: int, last: int) -> Iterator[Batch]:
        """Ids and unit vectors of the rows of some blocks."""
        for start in range(first, last, BLOCK):
            rng = np.random.default_rng([1, start])
            count = min(BLOCK, self.rows - start)
            vectors = self._centres[rng.integers(0, CENTRES, count)]
            vectors += rng.normal(size=(count, INTRINSIC)).astype(np.float32) @ self._basis
            vectors += np.float32(0.1) * rng.normal(size=(count, DIM)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            yield np.arange(start, start + count), vectors[: last - start]


def anonymous_mb() -> float:
    """Memory of this process that no file stands behind, in MB, without what the allocator only keeps."""
    ctypes.CDLL(None).malloc_trim(0)
    return memory_mb("RssAnon")


def make_centroids(rows: Rows, wanted: int, shard_rows: int, path: Path) -> None:
    """Train on the first rows, which are drawn as all are."""
    sample = np.concatenate([vectors for _, vectors in rows.blocks(0, wanted)])
    write_index(train(sample, shard_rows, "cosine", 0), path)


def main(argv: list[str]) -> int:
    """Build, search, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks index_memory", description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--queries", type=int, default=400)
    options = parser.parse_args(argv)
    rows, recipe = Rows(options.rows), IndexRecipe("cosine", "ivf_rabitq", DIM)
    firsts = range(0, options.rows, SHARD_ROWS)
    shard_rows = min(options.rows, SHARD_ROWS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = next(rows.blocks(0, BLOCK))[1]
        wanted = -(-training_rows(shard_rows) // BLOCK) * BLOCK
        _, train_s = clock(lambda: make_centroids(rows, min(wanted, options.rows), shard_rows, folder / "trained"))
        build_s = 0.0
        for first in firsts:
            blocks = rows.blocks(first, min(first + SHARD_ROWS, options.rows))
            none = np.empty(0, np.int64)
            path = folder / str(first)
            build_s += clock(lambda: build_shard(recipe, folder / "trained", None, none, blocks, path))[1]  # noqa: B023
        noise = np.random.default_rng(2).normal(size=(2 * options.queries, DIM)).astype(np.float32)
        queries = sample[: 2 * options.queries] + np.float32(0.02) * noise
        exact = exact_top_k(rows.blocks(0, options.rows), queries, K, "cosine")
        before = anonymous_mb()
        opened = [open_shard(folder / str(first), recipe) for first in firsts]
        held, asked = options.queries, queries[options.queries :]
        nobody = np.full(held, -1)
        nprobe, _ = tune_nprobe(opened, nobody, queries[:held], exact[:held])
        opened = [replace(shard, recipe=replace(recipe, nprobe=nprobe)) for shard in opened]
        hits, batch_s = clock(lambda: search(opened, asked, K))
        _, one_s = clock(lambda: [search(opened, query[np.newaxis], K) for query in asked])
        memory = anonymous_mb() - before
        recall = recall_at(K, [[hit.row_id for hit in row] for row in hits], exact[held:])
        ours = ("ivf_rabitq", recall, memory, len(asked) / batch_s, len(asked) / one_s)
        before = anonymous_mb()
        plain = [faiss.read_index(str(shard.path)) for shard in opened]
        for index in plain:
            index.nprobe = nprobe
        _, batch_s = clock(lambda: [index.search(asked, K) for index in plain])
        _, one_s = clock(lambda: [[index.search(query[np.newaxis], K) for index in plain] for query in asked])
        theirs = ("IVF,SQ8 by hand", None, anonymous_mb() - before, len(asked) / batch_s, len(asked) / one_s)
    print(
        f"{options.rows} x {DIM}, intrinsic dimension {INTRINSIC}, {CENTRES} centres; nprobe {nprobe}, {len(firsts)} "
        f"shards; trained in {train_s:.0f} CPU s, built in {build_s:.0f}"
    )
    lines = [
        (
            kind,
            "" if found is None else f"{found:.3f}",
            f"{mb:.0f}",
            f"{mb * 1e6 / options.rows:.0f}",
            f"{batch:.0f}",
            f"{one:.0f}",
        )
        for kind, found, mb, batch, one in (ours, theirs)
    ]
    table(["", "recall@10", "MB", "bytes a row", "batch, queries a CPU s", "one by one"], lines)
    return 0
