"""Read FAISS files with damage told apart from everything else."""

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
MEND = "run the pipeline again with --full-refresh, or go back with rollback."
INNER = {"flat": faiss.IndexFlat, "hnsw": faiss.IndexHNSWFlat}

_limiting = threading.Lock()


def read_index(path: Path, recipe: IndexRecipe, shard: IndexShard | None = None, *, mapped: bool = False) -> Any:
    """Read an index file and check that it is what it should be, as far as its header and size tell.

    The digest is not computed here; ``verify`` does that.

    Args:
        path: of the file.
        recipe: what the file should be; its ``nprobe`` does not matter.
        shard: what the release says of the file, when there is one.
        mapped: map inverted lists into memory instead of reading them; the index can't be changed then.

    Raises:
        StoreError: naming the file, when it is missing, damaged, or made by another recipe.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise StoreError(f"The index file {path} can't be read ({error.strerror}); {MEND}") from error
    if shard is not None and size != shard.size:
        raise StoreError(f"The index file {path} has {size} bytes instead of {shard.size}; {MEND}")
    try:
        with vectors_limited(size):
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP if mapped else 0)
    except (RuntimeError, MemoryError) as error:
        raise StoreError(f"The index file {path} is damaged or no index; {MEND}") from error
    metric = faiss.METRIC_L2 if recipe.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    found = (type(index).__name__, index.d, index.metric_type)
    if found != (CLASSES[recipe.kind], recipe.dim, metric) or not _inner_fits(index, recipe):
        raise StoreError(
            f"The index file {path} is a {found[0]} of width {index.d}, not a {recipe.kind} index for {recipe.metric} "
            f"of width {recipe.dim}; {MEND}"
        )
    if shard is not None and index.ntotal != shard.rows:
        raise StoreError(f"The index file {path} holds {index.ntotal} rows instead of {shard.rows}; {MEND}")
    return index


def _inner_fits(index: Any, recipe: IndexRecipe) -> bool:
    """An ``IndexIDMap2`` says little of what it maps."""
    if recipe.inverted:
        return True
    inner = faiss.downcast_index(index.index)
    fits = isinstance(inner, INNER[recipe.kind]) and inner.d == index.d and inner.metric_type == index.metric_type
    return fits and inner.ntotal == index.ntotal == index.id_map.size()


@contextmanager
def vectors_limited(size: int) -> Iterator[None]:
    """No vector of a file is larger than the file: keeps a flipped length from claiming all memory.

    FAISS has one limit for the whole process, hence the lock.
    """
    with _limiting:
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(max(size, 1))
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before)
