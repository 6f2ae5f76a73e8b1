"""Vector search: ``cliploom.open(store).search(vector=...)`` against LanceDB on the same vectors.

Each is asked one query at a time through its Python API for the ten best with uid and time, and builds its index as
its documentation proposes. Building includes taking in the vectors; cliploom's start-up is taken off by a run on 100
vectors. cliploom answers with items (its best row of each), so its truth is the ten best items.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import cliploom
from benchmarks.index import DIM, Corpus, K, make_corpus
from benchmarks.measure import table
from benchmarks.process_tree import run_tree
from cliploom.transforms.index.recall import exact_top_k

ROWS_A_FILE = 100
FPS, STRIDE = 30, 16
SPEC = f"""\
version: 1
name: benchmark
store: ./store
sources:
  vectors:
    kind: precomputed
    glob: "feats/*.npy"
    window: {{{{fps: {FPS}, window: 32, stride: {STRIDE}}}}}
    dim: {DIM}
features: {{{{vectors: {{{{source: vectors}}}}}}}}
indexes: {{{{vectors: {{{{feature: vectors, metric: cosine, kind: {{kind}}}}}}}}}}
targets: {{{{local: {{{{workers: 2}}}}}}}}
"""
RIVALS = Path(__file__).parent / "rivals"


def truth(corpus: Corpus, depth: int = 50) -> list[NDArray[np.int64]]:
    """Return the ten best items of each query: rows, best first, one of each item."""
    deep = exact_top_k(corpus.batches(), corpus.queries, depth, "cosine")
    chosen = []
    for rows in deep:
        _, first = np.unique(rows // ROWS_A_FILE, return_index=True)
        chosen.append(rows[np.sort(first)][:K])
    return chosen


def build(root: Path, vectors: NDArray[np.float32], kind: str) -> tuple[float, float]:
    """Make a store; CPU seconds of the run, megabytes of features and index."""
    (root / "feats").mkdir(parents=True, exist_ok=True)
    for at in range(0, len(vectors), ROWS_A_FILE):
        np.save(root / "feats" / f"v{at // ROWS_A_FILE:05d}.npy", vectors[at : at + ROWS_A_FILE])
    (root / "spec.yaml").write_text(SPEC.format(kind=kind))
    usage = run_tree([sys.executable, "-m", "cliploom", "run", str(root / "spec.yaml")])
    size = sum(path.stat().st_size for path in (root / "store").rglob("*") if path.is_file())
    return usage.cpu_s, size / 1e6


def ask(
    store: cliploom.Store, queries: NDArray[np.float32], exact: list[NDArray[np.int64]]
) -> tuple[float, float, float]:
    """recall@10, CPU and wall milliseconds of a query."""
    store.search(vector=queries[0])
    cpu, wall = time.process_time(), time.perf_counter()
    answers = [store.search(vector=query, top=K) for query in queries]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    shares = []
    for hits, right in zip(answers, exact, strict=True):
        rows = {int(hit.uid[1:]) * ROWS_A_FILE + round((hit.start_s or 0) * FPS / STRIDE) for hit in hits}
        shares.append(len(rows & set(right.tolist())) / K)
    return float(np.mean(shares)), cpu / len(queries) * 1e3, wall / len(queries) * 1e3


def measure(python: str, root: Path, rows: int, present: dict[str, str], kinds: str) -> None:
    """Print the table."""
    corpus = make_corpus(rows, 200)
    right = truth(corpus)
    exact = np.stack([found[:K] for found in corpus.exact])
    for name, values in (("vectors", corpus.vectors), ("queries", corpus.queries), ("exact", exact)):
        np.save(root / f"{name}.npy", values)
    start_s, _ = build(root / "small", corpus.vectors[:ROWS_A_FILE], "flat")
    lines = []
    for kind in ("flat", "ivf_sq8"):
        seconds, size = build(root / kind, corpus.vectors, kind)
        store = cliploom.open(root / kind / "store")
        nprobe = store.release.indexes["vectors"].nprobe
        recall, cpu, wall = ask(store, corpus.queries, right)
        lines.append(
            _line(f"cliploom {kind}", f"nprobe {nprobe}" if nprobe else "", recall, cpu, wall, seconds - start_s, size)
        )
    environment = {"PYTHONPATH": str(RIVALS), "RUST_LOG": "error", "PYTHONWARNINGS": "ignore"}
    if "LanceDB" in present:
        usage = run_tree([python, str(RIVALS / "lance_vectors.py"), str(root), kinds], environment)
        told = (json.loads(text) for text in usage.output.splitlines() if text.startswith("{"))
        columns = ("name", "setting", "recall", "cpu_ms", "wall_ms", "build_s", "mb")
        lines += [_line(*(values[column] for column in columns)) for values in told]
    else:
        print("LanceDB: not asked for, or not installed in the rivals' environment")
    print(f"\nVectors: {rows} x {DIM}, {len(corpus.queries)} queries, one at a time; load {os.getloadavg()[0]:.0f}")
    table(["", "setting", "recall@10", "queries/CPU s", "CPU ms", "wall ms", "build CPU s", "MB on disk"], lines)


def _line(
    name: str, setting: str, recall: float, cpu: float, wall: float, build_s: float, mb: float
) -> tuple[str, ...]:
    rate = f"{1e3 / cpu:.0f}"
    return name, setting, f"{recall:.3f}", rate, f"{cpu:.2f}", f"{wall:.2f}", f"{build_s:.1f}", f"{mb:.0f}"
