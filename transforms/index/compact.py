"""Compact codes of an inverted file: a bit a number for finding candidates, beside the bytes that then score them.

An index of kind ``ivf_rabitq`` is an ``ivf_sq8`` file with two things behind it: RaBitQ codes of the same rows in the
same lists, as a FAISS file of its own, and a trailer with their place. FAISS reads the first file and ignores what
follows. A search holds the codes in memory, ``dim / 8 + 16`` bytes a row, and reads the bytes of candidates from the
mapped lists. Codes are of vectors that a seeded rotation has mixed, as the method asks: Gao and Long, "RaBitQ:
Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate Nearest Neighbor Search" (2024).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import StoreError
from cliploom.transforms.index.files import FIX, vectors_limited
from cliploom.transforms.index.inverted_lists import list_codes
from cliploom.transforms.index.threads import one_thread

ROTATION_SEED = 2024
QUERY_BITS = 8
"""Bits a number of a query in the comparison with codes; FAISS's most exact but for 0, which is slow."""
_TRAILER = struct.Struct("<8sQ")
_MAGIC = b"cliprbq1"


@dataclass(frozen=True)
class CompactCodes:
    """Codes that are open for searching.

    Attributes:
        index: a ``faiss.IndexIVFRaBitQ``; its ids are positions, inverted lists one after the other.
        rotation: what vectors and queries go through before.
    """

    index: Any
    rotation: Any

    def search(self, queries: NDArray[np.float32], wanted: int, nprobe: int, selector: Any = None) -> NDArray[np.int64]:
        """Positions of likely rows for each prepared query, int64 [q, wanted]; -1 where the lists hold too few.

        Args:
            queries: float32 [q, dim].
            wanted: candidates a query.
            nprobe: inverted lists that are visited.
            selector: a FAISS selector of positions; all rows by default.
        """
        chosen = {} if selector is None else {"sel": selector}
        parameters = faiss.IVFRaBitQSearchParameters(nprobe=nprobe, qb=QUERY_BITS, **chosen)  # type: ignore[call-arg]
        # For one query, waking threads takes longer than the search.
        with one_thread() if len(queries) == 1 else nullcontext():
            _, positions = self.index.search(self.rotation.apply(queries), wanted, params=parameters)
        return np.asarray(positions, np.int64)


def compact_codes(lists: Any) -> CompactCodes:
    """Compute the codes of the rows of an inverted file from its decoded bytes.

    Args:
        lists: a ``faiss.IndexIVFScalarQuantizer`` in memory.
    """
    rotation = _rotation(lists.d)
    centroids = rotation.apply(lists.quantizer.reconstruct_n(0, lists.nlist))
    quantizer: Any = faiss.IndexFlat(lists.d, lists.metric_type)
    quantizer.add(centroids)
    codes: Any = faiss.IndexIVFRaBitQ(quantizer, lists.d, lists.nlist, lists.metric_type)
    quantizer.this.disown()
    codes.own_fields = True
    codes.train(centroids)
    for start, numbers, vectors in _decoded(lists):
        positions = np.arange(start, start + len(numbers))
        rotated = rotation.apply(vectors)
        codes.add_core(len(numbers), faiss.swig_ptr(rotated), faiss.swig_ptr(positions), faiss.swig_ptr(numbers))
    return CompactCodes(codes, rotation)


def append_codes(path: Path, lists: Any) -> None:
    """Append the codes of an inverted file to it.

    Args:
        path: of the file of ``lists``, which nobody reads yet.
        lists: as for ``compact_codes``.

    Raises:
        OSError: when the file can't be written whole.
    """
    codes = compact_codes(lists)
    with path.open("ab") as file:
        place = file.tell()
        faiss.write_index(codes.index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
        file.write(_TRAILER.pack(_MAGIC, place))


def read_codes(path: Path, lists: Any) -> CompactCodes:
    """Read the codes that follow an inverted file.

    Args:
        path: of the file.
        lists: the inverted file, whose rows they must be.

    Raises:
        StoreError: naming the file, when they are missing, damaged or of other rows.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _TRAILER.size))
        trailer = file.read()
        magic, place = _TRAILER.unpack(trailer) if len(trailer) == _TRAILER.size else (b"", 0)
        if magic != _MAGIC or place >= size:
            raise StoreError(f"The index file {path} has no compact codes; {FIX}")
        file.seek(place)
        try:
            with vectors_limited(size):
                codes: Any = faiss.read_index(faiss.PyCallbackIOReader(file.read))  # type: ignore[attr-defined]
        except (RuntimeError, MemoryError) as error:
            raise StoreError(f"The compact codes of the index file {path} are damaged; {FIX}") from error
    found = (type(codes).__name__, codes.d, codes.nlist, codes.metric_type, codes.ntotal)
    if found != ("IndexIVFRaBitQ", lists.d, lists.nlist, lists.metric_type, lists.ntotal):
        raise StoreError(f"The compact codes of the index file {path} are not of its rows; {FIX}")
    return CompactCodes(codes, _rotation(lists.d))


@lru_cache(maxsize=8)
def _rotation(dim: int) -> Any:
    """The rotation of all indexes of a width; the seed makes it the same on every machine."""
    rotation = faiss.RandomRotationMatrix(dim, dim)
    rotation.init(ROTATION_SEED)
    return rotation


def _decoded(lists: Any) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
    """First position, number of the list for each row, and vectors float32 [n, dim] of each inverted list."""
    start = 0
    for number in range(lists.nlist):
        size = lists.invlists.list_size(number)
        if size:
            yield start, np.full(size, number, np.int64), lists.sa_decode(list_codes(lists, number))
            start += size
