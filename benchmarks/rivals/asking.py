"""What the rivals of the vector search share: recall, and what a query costs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

K = 10
TARGET = 0.95
Ask = Callable[[NDArray[np.float32]], Sequence[int]]


def recall(ask: Ask, queries: NDArray[np.float32], exact: NDArray[np.int64]) -> float:
    """recall@10 of an asker of row numbers."""
    shares = [len(set(ask(query)) & set(right.tolist())) / K for query, right in zip(queries, exact, strict=True)]
    return float(np.mean(shares))


def report(
    name: str,
    setting: str,
    ask: Ask,
    queries: NDArray[np.float32],
    exact: NDArray[np.int64],
    build_s: float,
    folder: str,
) -> None:
    """One line of JSON: recall, CPU and wall milliseconds of a query, CPU seconds of building, megabytes."""
    ask(queries[0])
    cpu, wall = time.process_time(), time.perf_counter()
    found = recall(ask, queries, exact)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    values = {
        "name": name,
        "setting": setting,
        "recall": found,
        "cpu_ms": cpu / len(queries) * 1e3,
        "wall_ms": wall / len(queries) * 1e3,
        "build_s": build_s,
        "mb": size / 1e6,
    }
    print(json.dumps(values), flush=True)


def load(folder: str) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Vectors [rows, dim], queries [q, dim], the queries' exact neighbours [q, 10]."""
    vectors, queries, exact = (np.load(f"{folder}/{name}.npy") for name in ("vectors", "queries", "exact"))
    return vectors, queries, exact
