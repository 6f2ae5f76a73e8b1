"""Literals of Python, one thread at a time: headers of NumPy's files are such texts.

CPython's parser counts the depth of its trees in a place that all threads share: a thread that parses while another
does can end in ``SystemError: AST constructor recursion depth mismatch`` (seen with 3.11.7). Worker threads read all
literals and NumPy's files through this module.
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
    """Return the value of a literal, as ``ast.literal_eval`` does.

    >>> parse_literal("{'shape': (2, 3)}")
    {'shape': (2, 3)}
    """
    with _PARSING:
        return ast.literal_eval(text)


def load_arrays(file: Path | BinaryIO) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file of our own, by name.

    Raises:
        OSError, ValueError, EOFError, BadZipFile: as ``numpy.load`` does, for a file that can't be read.
    """
    with _PARSING, np.load(file, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def map_array(path: Path) -> NDArray[Any]:
    """Map the array of an ``.npy`` file into memory, to be read only.

    Raises:
        OSError, ValueError: as ``numpy.load`` does, for a file that can't be read.
    """
    with _PARSING:
        mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped
