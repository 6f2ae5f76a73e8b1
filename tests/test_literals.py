"""Literals and NumPy's files in several threads at once."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cliploom.transforms.inputs.numpy_files import read_npy
from cliploom.transforms.literals import load_arrays, map_array, parse_literal

HEADER = {"descr": "<f4", "fortran_order": False, "shape": (5, 4), "deep": [[[[[1, 2, 3]]]]]}


class Cycle:
    """Garbage whose end runs code of Python, so that threads take turns in the middle of parsing."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        sum(range(50))


@pytest.fixture
def eager() -> Iterator[None]:
    """Threads and the garbage collector come in at every opportunity."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(5)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)


def test_threads_that_parse_at_once_get_their_values(eager: None, tmp_path: Path) -> None:
    rows = np.arange(20, dtype=np.float32).reshape(5, 4)
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "rows.npz", rows=rows)
    wrong: list[object] = []

    def work() -> None:
        try:
            for number in range(300):
                Cycle()
                if parse_literal(repr(HEADER)) != HEADER:
                    wrong.append("literal")
                if number % 30 == 0:
                    found = load_arrays(tmp_path / "rows.npz")["rows"]
                    others = (read_npy(tmp_path / "rows.npy"), map_array(tmp_path / "rows.npy"))
                    if not all(np.array_equal(each, rows) for each in (found, *others)):
                        wrong.append("array")
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
