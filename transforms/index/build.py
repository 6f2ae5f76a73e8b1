"""Build index shards with FAISS: choose a kind, train centroids, remove and add rows.

A vector's id in an index is its row_id. Files are plain FAISS files: ``flat`` and ``hnsw`` are ``IndexIDMap2``
over the full vectors, ``ivf_sq8`` is an inverted file with one byte per dimension, and ``ivf_rabitq`` is the same
followed by compact codes. Cosine indexes are inner-product indexes of unit vectors. FAISS builds in one thread: only
then is a graph reproducible, and shards are built in parallel anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.digests import digest_stream
from cliploom.schemas.index import IndexRecipe, IndexShard, Kind, Metric
from cliploom.transforms.index.compact import append_codes
from cliploom.transforms.index.files import read_index
from cliploom.transforms.index.inverted_lists import list_ids
from cliploom.transforms.index.threads import one_thread
from cliploom.transforms.index.vectors import prepare

if TYPE_CHECKING:
    Batch = tuple[NDArray[np.int64], NDArray[np.float32]]

FLAT_ROWS = 20_000
SHARD_ROWS = 2_000_000
POINTS_PER_CENTROID = 64
ITERATIONS = 10
HNSW_NEIGHBOURS = 32
HNSW_EF_CONSTRUCTION = 80


def choose_kind(rows: int, kind: Literal["auto"] | Kind, mapped_rows: int | None = None) -> Kind:
    """Return the kind of index for this many rows: ``auto`` is exact while that is cheap.

    >>> choose_kind(20_000, "auto"), choose_kind(20_001, "auto"), choose_kind(5, "hnsw")
    ('flat', 'ivf_sq8', 'hnsw')
    >>> choose_kind(3_000_000, "auto", mapped_rows=2_000_000)
    'ivf_rabitq'

    Args:
        rows: of the index.
        kind: from the spec.
        mapped_rows: rows of an ``ivf_sq8`` that fit in the memory that the spec allows; None for any number.
    """
    if kind != "auto":
        return kind
    if rows <= FLAT_ROWS:
        return "flat"
    return "ivf_sq8" if mapped_rows is None or rows <= mapped_rows else "ivf_rabitq"


def rows_within(memory: int | None, dim: int) -> int | None:
    """Rows of an ``ivf_sq8`` that fit in some bytes of memory, with their ids; None without a limit.

    >>> rows_within(392_000, 384), rows_within(None, 384)
    (1000, None)
    """
    return None if memory is None else memory // (dim + 8)


def lists_for(shard_rows: int) -> int:
    """Return the number of inverted lists of a shard by the square-root rule, ``2 sqrt(rows)``.

    With it, ranking centroids and scanning one list cost about the same.

    >>> lists_for(20_001), lists_for(2_000_000)
    (283, 2828)
    """
    return max(1, round(2 * math.sqrt(shard_rows)))


def training_rows(shard_rows: int) -> int:
    """Return the number of vectors that ``train`` uses; FAISS subsamples larger samples.

    >>> training_rows(2_000_000)
    180992
    """
    return min(shard_rows, POINTS_PER_CENTROID * lists_for(shard_rows))


def train(sample: NDArray[np.float32], shard_rows: int, metric: Metric, seed: int) -> Any:
    """Train an empty inverted file of one byte a number: centroids by k-means, then the range of each dimension.

    The same sample and seed give the same bytes.

    Args:
        sample: float32 [n, dim], a random sample of the rows; ``training_rows`` gives the useful number.
        shard_rows: the number of rows that a shard will have, which determines the number of lists.
        metric: the metric of the index.
        seed: the seed of k-means.

    Returns:
        A trained ``faiss.IndexIVFScalarQuantizer`` without rows; save it with ``write_index``.

    Raises:
        ValueError: the sample is empty, or has vectors that are not finite.
    """
    vectors = prepare(sample, metric)
    rows, dim = vectors.shape
    if rows == 0:
        raise ValueError("an index can't be trained on 0 vectors; give it at least one")
    # FAISS recommends 39 vectors per centroid; fewer lead to empty lists.
    lists = max(1, min(lists_for(shard_rows), rows // 39))
    index: Any = faiss.index_factory(dim, f"IVF{lists},SQ8", _faiss_metric(metric))
    index.cp.seed = seed
    index.cp.niter = ITERATIONS
    index.cp.max_points_per_centroid = POINTS_PER_CENTROID
    index.cp.min_points_per_centroid = 1
    with one_thread():
        index.train(vectors)
    return index


def build_shard(
    recipe: IndexRecipe,
    trained: Path | None,
    previous: Path | None,
    remove_ids: NDArray[np.int64],
    batches: Iterable[Batch],
    out: Path,
    parts: tuple[str, ...] = (),
) -> IndexShard:
    """Write a shard: the previous one, minus some rows, plus new ones.

    Rows are removed before any are added, because an inverted file accepts an id twice. To change a row, remove its id
    and add it again. The same files and batches give identical bytes; the same rows in another order, or added over
    several runs, give equal results from different bytes.

    Args:
        recipe: the recipe of the index.
        trained: the result of ``train``; required for the first shard of an inverted file, otherwise ignored.
        previous: the shard to start from, or None for an empty one.
        remove_ids: int64 [r]; unknown ids are ignored.
        batches: (ids int64 [n], vectors float32 [n, dim]).
        out: the file to write, atomically. May be ``previous``.
        parts: the feature parts whose rows the shard contains, for its record.

    Returns:
        The facts of the shard; ``file`` is the name of ``out``.

    Raises:
        ValueError: an id would occur twice, vectors are not finite or have another width, or rows are removed from
            ``hnsw``, which must be rebuilt from all rows instead (see ``must_rebuild``).
        StoreError: ``trained`` or ``previous`` is damaged or belongs to another recipe.
    """
    if previous is not None and must_rebuild(recipe.kind, remove_ids.size):
        raise ValueError(f"cannot remove {remove_ids.size} rows from an hnsw index; rebuild it with previous=None")
    with one_thread():
        index = _start(recipe, trained, previous)
        if remove_ids.size and index.ntotal:
            index.remove_ids(np.ascontiguousarray(remove_ids, np.int64))
        ids = [faiss.vector_to_array(index.id_map)] if not recipe.inverted else list(list_ids(index))
        for new_ids, vectors in batches:
            if vectors.ndim != 2 or vectors.shape != (new_ids.size, recipe.dim):
                raise ValueError(
                    f"vectors of shape {vectors.shape} for {new_ids.size} ids; the index has dim {recipe.dim}"
                )
            if new_ids.size:
                ids.append(np.array(new_ids, np.int64))
                index.add_with_ids(prepare(vectors, recipe.metric, new_ids), ids[-1])
        _refuse_twice(np.concatenate([np.empty(0, np.int64), *ids]))
        write_index(index, out, compact=recipe.kind == "ivf_rabitq")
    with out.open("rb") as file:
        digest = digest_stream(iter(lambda: file.read(1 << 20), b""))
    return IndexShard(out.name, out.stat().st_size, digest, int(index.ntotal), parts)


def must_rebuild(kind: Kind, removed: int) -> bool:
    """Return whether a shard must be rebuilt to remove rows: HNSW does not support removal."""
    return kind == "hnsw" and removed > 0


def write_index(index: Any, out: Path, *, compact: bool = False) -> None:
    """Write a FAISS index atomically.

    Args:
        index: the index.
        out: the file.
        compact: write compact codes behind it (see ``cliploom.transforms.index.compact``).

    Raises:
        OSError: the file cannot be written completely.
    """
    partial = out.with_name(out.name + ".partial")
    try:
        write_faiss_file(index, partial)
        if compact:
            append_codes(partial, index)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def write_faiss_file(index: Any, path: Path) -> None:
    """Write a FAISS index to a file that nobody reads yet.

    Raises:
        OSError: the file cannot be written completely. FAISS's own writer only prints a warning if the disk is full
            when it flushes the last bytes.
    """
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]


def _start(recipe: IndexRecipe, trained: Path | None, previous: Path | None) -> Any:
    if previous is not None:
        return read_index(previous, recipe)
    if recipe.inverted:
        if trained is None:
            raise ValueError(f"a first {recipe.kind} shard needs trained centroids; give it what train() made")
        return read_index(trained, recipe)
    metric = _faiss_metric(recipe.metric)
    if recipe.kind == "flat":
        return faiss.IndexIDMap2(faiss.IndexFlat(recipe.dim, metric))
    graph = faiss.IndexHNSWFlat(recipe.dim, HNSW_NEIGHBOURS, metric)
    graph.hnsw.efConstruction = HNSW_EF_CONSTRUCTION
    return faiss.IndexIDMap2(graph)


def _refuse_twice(ids: NDArray[np.int64]) -> None:
    ids.sort()
    twice = ids[1:][ids[1:] == ids[:-1]]
    if twice.size:
        raise ValueError(f"row {twice[0]} would be in the index twice; remove its id before adding it again")


def _faiss_metric(metric: Metric) -> int:
    return int(faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
