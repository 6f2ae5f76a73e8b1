"""Parses Python literals in one thread at a time, including the headers of NumPy files.

CPython's parser counts the depth of its trees in a variable shared by all threads: concurrent parsing can end in
``SystemError: AST constructor recursion depth mismatch`` (seen with 3.11.7). Worker threads read all literals and NumPy
files through this module.
"""

from __future__ import annotations

import ast
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_PARSING = threading.Lock()


def parse_literal(text: str) -> Any:
    """Return the value of a literal, like ``ast.literal_eval``.

    >>> parse_literal("{'shape': (2, 3)}")
    {'shape': (2, 3)}
    """
    with _PARSING:
        return ast.literal_eval(text)


def load_arrays(file: Path | BinaryIO) -> dict[str, NDArray[Any]]:
    """Read all arrays of a trusted ``.npz`` file, by name.

    Raises:
        OSError, ValueError, EOFError, BadZipFile: the file cannot be read; as for ``numpy.load``.
    """
    with _PARSING, np.load(file, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def map_array(path: Path) -> NDArray[Any]:
    """Memory-map the array of an ``.npy`` file, read-only.

    Raises:
        OSError, ValueError: the file cannot be read; as for ``numpy.load``.
    """
    with _PARSING:
        mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped
