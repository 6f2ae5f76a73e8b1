"""Read ids and codes of FAISS's inverted lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray


def list_ids(index: Any) -> Iterator[NDArray[np.int64]]:
    """Yield the ids in each inverted list of an IVF index."""
    lists = index.invlists
    for number in range(index.nlist):
        size = lists.list_size(number)
        if size:
            ids = lists.get_ids(number)
            yield faiss.rev_swig_ptr(ids, size).copy()
            lists.release_ids(number, ids)


def list_codes(index: Any, number: int, places: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
    """Return codes of an inverted list as ``sa_decode`` takes them, uint8 [n, bytes]: the list, then the code.

    Args:
        index: an inverted file.
        number: the list, which is not empty.
        places: the rows of the list to read; all by default.
    """
    prefix, size = index.coarse_code_size(), index.code_size
    pointer = index.invlists.get_codes(number)
    stored = faiss.rev_swig_ptr(pointer, index.invlists.list_size(number) * size).reshape(-1, size)
    chosen = stored if places is None else stored[places]
    codes = np.empty((len(chosen), prefix + size), np.uint8)
    for byte in range(prefix):
        codes[:, byte] = (number >> (8 * byte)) & 255
    codes[:, prefix:] = chosen
    index.invlists.release_codes(number, pointer)
    return codes
