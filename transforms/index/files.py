"""Reads FAISS files and distinguishes damage from other errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss

from cliploom.schemas.errors import StoreError
from cliploom.schemas.index import IndexRecipe, IndexShard

CLASSES = {"flat": "IndexIDMap2", "hnsw": "IndexIDMap2", "ivf_sq8": "IndexIVFScalarQuantizer"}
CLASSES["ivf_rabitq"] = CLASSES["ivf_sq8"]  # FAISS does not see the compact codes behind it.
FIX = "run the pipeline again with --full-refresh, or roll back."
INNER = {"flat": faiss.IndexFlat, "hnsw": faiss.IndexHNSWFlat}

_limiting = threading.Lock()


def read_index(path: Path, recipe: IndexRecipe, shard: IndexShard | None = None, *, mapped: bool = False) -> Any:
    """Read an index file and check it against its recipe and record, as far as its header and size allow.

    The digest is not computed here; ``verify`` does that.

    Args:
        path: the path of the file.
        recipe: the expected properties of the file; its ``nprobe`` is ignored.
        shard: the record of the file in the release, if there is one.
        mapped: whether to memory-map inverted lists instead of reading them; the index is then read-only.

    Raises:
        StoreError: the file is missing, damaged, or made by another recipe; the message names it.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise StoreError(f"The index file {path} can't be read ({error.strerror}); {FIX}") from error
    if shard is not None and size != shard.size:
        raise StoreError(f"The index file {path} has {size} bytes instead of {shard.size}; {FIX}")
    try:
        with vectors_limited(size):
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP if mapped else 0)
    except (RuntimeError, MemoryError) as error:
        raise StoreError(f"The index file {path} is damaged or not an index; {FIX}") from error
    metric = faiss.METRIC_L2 if recipe.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    found = (type(index).__name__, index.d, index.metric_type)
    if found != (CLASSES[recipe.kind], recipe.dim, metric) or not _inner_fits(index, recipe):
        raise StoreError(
            f"The index file {path} is a {found[0]} of width {index.d}, not a {recipe.kind} index for {recipe.metric} "
            f"of width {recipe.dim}; {FIX}"
        )
    if shard is not None and index.ntotal != shard.rows:
        raise StoreError(f"The index file {path} has {index.ntotal} rows instead of {shard.rows}; {FIX}")
    return index


def _inner_fits(index: Any, recipe: IndexRecipe) -> bool:
    """Return whether the index inside an ``IndexIDMap2`` matches the recipe."""
    if recipe.inverted:
        return True
    inner = faiss.downcast_index(index.index)
    fits = isinstance(inner, INNER[recipe.kind]) and inner.d == index.d and inner.metric_type == index.metric_type
    return fits and inner.ntotal == index.ntotal == index.id_map.size()


@contextmanager
def vectors_limited(size: int) -> Iterator[None]:
    """Limit the memory of vectors to the file's size, so that a flipped length byte cannot claim all memory.

    FAISS has one limit per process, hence the lock.
    """
    with _limiting:
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(max(size, 1))
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before)
