"""python -m benchmarks search: what a query costs, alone and with a filter, against FAISS by hand and LanceDB.

One index of kind ivf_sq8 over random vectors about random centres, 384 wide, a hundred rows an item. "by hand" is the
same FAISS index in memory with the same nprobe. Filters are on uid, which has nothing to do with the vectors, so they
keep a random share of the rows; the truth is brute force among the rows that are kept. LanceDB gets the same vectors
and filters, and the least of its settings that reaches the recall of cliploom. It needs an interpreter with lancedb
(``--env``). Times are CPU time in this process, one query at a time, after the first one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import cliploom
from benchmarks.index import DIM, Corpus, K, by_hand, clock, make_corpus
from benchmarks.measure import table
from benchmarks.peers_vectors import FPS, ROWS_A_FILE, STRIDE, build
from benchmarks.process_tree import run_tree
from cliploom.transforms.index.search import search
from cliploom.transforms.search.searching import Store

RIVALS = Path(__file__).parent / "rivals"
SHARES = (1.0, 0.5, 0.05, 0.001)
OPENING = """\
import sys, time
start = time.perf_counter()
import cliploom, numpy
store = cliploom.open(sys.argv[1])
store.search(vector=numpy.load(sys.argv[2], mmap_mode="r")[0])
print(time.perf_counter() - start)
"""


def uid_of(row: int) -> str:
    """Return the uid of the item that has a row."""
    return f"v{row // ROWS_A_FILE:05d}"


def kept_rows(rows: int, share: float) -> int:
    """Return the rows of the first items, about that share of all."""
    return min(rows, max(1, round(rows / ROWS_A_FILE * share)) * ROWS_A_FILE)


def truth(corpus: Corpus, share: float) -> list[set[int]]:
    """Return the ten best items' best rows of each query among the rows that a filter keeps."""
    vectors = corpus.vectors[: kept_rows(len(corpus.vectors), share)]
    scores = corpus.queries @ vectors.T
    chosen = []
    for mine in scores:
        by_item = mine.reshape(-1, ROWS_A_FILE)
        items = np.argsort(-by_item.max(axis=1))[:K]
        chosen.append({int(item) * ROWS_A_FILE + int(by_item[item].argmax()) for item in items})
    return chosen


def ask_store(store: Store, corpus: Corpus, share: float) -> tuple[float, float, float]:
    """recall@10, milliseconds of CPU a query, and milliseconds of the first query with the filter."""
    where = None if share == 1 else f"uid < '{uid_of(kept_rows(len(corpus.vectors), share))}'"
    _, first_s = clock(lambda: store.search(vector=corpus.queries[0], where=where))
    answers, cpu_s = clock(lambda: [store.search(vector=query, where=where, top=K) for query in corpus.queries])
    shares = []
    for hits, right in zip(answers, truth(corpus, share), strict=True):
        rows = {int(hit.uid[1:]) * ROWS_A_FILE + round((hit.start_s or 0) * FPS / STRIDE) for hit in hits}
        shares.append(len(rows & right) / len(right))
    return float(np.mean(shares)), cpu_s / len(corpus.queries) * 1e3, first_s * 1e3


def against_faiss(store: Store, corpus: Corpus) -> None:
    """Print what merging, ties and exact scores add to FAISS by hand."""
    shards = store._open("vectors")
    recipe = shards[0].recipe
    ask, _ = by_hand("ivf_sq8", corpus, recipe.nprobe, shards[0].index.nlist)
    few = corpus.queries[:100]
    lines = []
    for name, ours, theirs in (
        (
            "one query",
            lambda: [search(shards, query[np.newaxis], K) for query in few],
            lambda: [ask(query[np.newaxis]) for query in few],
        ),
        ("batch", lambda: search(shards, corpus.queries, K), lambda: ask(corpus.queries)),
    ):
        count = len(few) if name == "one query" else len(corpus.queries)
        ours(), theirs()
        # In turn, since the machine's speed changes while others work on it.
        pairs = [[clock(work)[1] / count * 1e3 for work in (ours, theirs)] for _ in range(15)]
        ours_ms, theirs_ms = np.median(pairs, axis=0)
        ratio = float(np.median([mine / other for mine, other in pairs]))
        lines.append((name, f"{ours_ms:.3f}", f"{theirs_ms:.3f}", f"{ratio:.2f}", f"{1 / ratio:.2f}"))
    print(f"\nIndex: {len(corpus.vectors)} x {DIM}, nprobe {recipe.nprobe}")
    table(["", "ms CPU a query", "by hand", "times", "rate"], lines)


def rival_lines(python: str, root: Path, reached: dict[float, float]) -> list[tuple[str, ...]]:
    """LanceDB's lines, one a share."""
    environment = {"PYTHONPATH": str(RIVALS), "RUST_LOG": "error", "PYTHONWARNINGS": "ignore"}
    wanted = ",".join(f"{share}:{recall}" for share, recall in reached.items())
    usage = run_tree([python, str(RIVALS / "lance_filters.py"), str(root), str(ROWS_A_FILE), wanted], environment)
    found = (json.loads(text) for text in usage.output.splitlines() if text.startswith("{"))
    return [
        (f"LanceDB {line['share']:g}", f"{line['recall']:.3f}", f"{line['cpu_ms']:.2f}", "", line["setting"])
        for line in found
    ]


def project(root: Path, options: argparse.Namespace) -> Corpus:
    """Return the corpus, with a store of it in ``root``; one that is there already is used again."""
    corpus = make_corpus(options.rows, options.queries)
    if not (root / "store").exists():
        build(root, corpus.vectors, "ivf_sq8")
    values: dict[str, NDArray[np.float32]] = {"vectors": corpus.vectors, "queries": corpus.queries}
    for name, some in values.items():
        np.save(root / f"{name}.npy", some)
    return replace(corpus, exact=[])


def main(argv: list[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks search", description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--root", type=Path, help="folder that keeps the store for the next run")
    parser.add_argument("--env", help="Python interpreter with lancedb")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        root = options.root or Path(scratch)
        root.mkdir(parents=True, exist_ok=True)
        corpus = project(root, options)
        asked = [sys.executable, "-c", OPENING, str(root / "store"), str(root / "queries.npy")]
        opened = [float(run_tree(asked).output.split()[-1]) for _ in range(3)]
        print(f"Opening a store and its first answer: {min(opened):.2f} s, imports included")
        store = cliploom.open(root / "store")
        against_faiss(store, corpus)
        lines, reached = [], {}
        for share in SHARES:
            start = time.perf_counter()
            recall, cpu, first = ask_store(store, corpus, share)
            reached[share] = recall
            lines.append((f"cliploom {share:g}", f"{recall:.3f}", f"{cpu:.2f}", f"{first:.1f}", ""))
            print(f"{share:g}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
        if options.env:
            lines += rival_lines(options.env, root, reached)
        print(f"\nQueries with a filter that keeps a share of {options.rows} rows, one at a time")
        table(["share kept", "recall@10", "ms CPU a query", "first query, ms", "setting"], lines)
    return 0
