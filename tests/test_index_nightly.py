"""Indexes over several runs: the number of files, and remains of deleted rows."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from vector_store import Vectors, VectorStore, vector_project

from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.upkeep.vacuuming import vacuum_store
from cliploom.transforms.upkeep.verifying import verify_release

DIM = 32


def items(count: int, rows: int = 5, seed: int = 0, name: str = "v") -> dict[str, Vectors]:
    rng = np.random.default_rng(seed)
    return {f"{name}{number:03}": rng.normal(size=(rows, DIM)).astype(np.float32) for number in range(count)}


def shard_sizes(project: VectorStore) -> list[int]:
    return sorted(shard.rows for shard in project.open().release.indexes["f"].shards)


@pytest.mark.parametrize(("kind", "shards"), [("flat", 2), ("flat", 4), ("ivf_sq8", 3), ("ivf_rabitq", 3), ("hnsw", 7)])
def test_a_number_of_shards_gives_so_many_files_of_nearly_equal_rows(tmp_path: Path, kind: str, shards: int) -> None:
    project = vector_project(tmp_path, items(23), f"kind: {kind}, shards: {shards}")
    project.run()
    for change in ("", "grow", "shrink"):
        if change == "grow":
            project.write(items(9, rows=3, seed=1, name="w"))
        elif change == "shrink":
            project.delete(*(f"v{number:03}" for number in range(15)))
        project.run()
        sizes = shard_sizes(project)
        assert len(sizes) == shards
        assert sizes[-1] - sizes[0] <= max(1, 0.1 * sum(sizes) / shards)
        assert verify_release(str(project.store)) == []
    wanted = items(23)["v020"][2]
    [hit] = project.open().search(vector=wanted, top=1)
    assert hit.uid == "v020"


def needles_of(vectors: Vectors) -> list[bytes]:
    """Every run of eight numbers of each vector, as it is and of unit length."""
    rows = [*vectors, *(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))]
    runs = [row[at : at + 8] for row in rows for at in range(DIM - 7)]
    return [run.astype(dtype).tobytes() for run in runs for dtype in ("<f4", "<f8")]


def found_in(store: Path, needles: list[bytes]) -> set[str]:
    held = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    return {path for path, data in held.items() if any(needle in data for needle in needles)}


@pytest.mark.parametrize("metric", ["l2", "dot", "cosine"])
@pytest.mark.parametrize("what", ["delete", "change"])
def test_no_bytes_of_a_deleted_vector_are_left_in_any_file(tmp_path: Path, metric: str, what: str) -> None:
    vectors = items(80)
    far = np.random.default_rng(7).normal(size=(3, DIM)).astype(np.float32) * np.float32([[1000], [900], [50]])
    project = vector_project(tmp_path, vectors | {"far": far}, f"kind: ivf_sq8, metric: {metric}")
    project.run()
    needles = needles_of(far)
    assert found_in(project.store, needles)
    if what == "delete":
        project.delete("far")
    else:
        project.write({"far": np.ones((2, DIM), np.float32)})
    project.run()
    vacuum_store(str(project.store), 1, older_than=0)
    assert found_in(project.store, needles) == set()
    assert verify_release(str(project.store)) == []


def test_centroids_are_kept_when_an_ordinary_row_leaves(tmp_path: Path) -> None:
    project = vector_project(tmp_path, items(80), "kind: ivf_sq8, metric: l2")
    first = project.run().release.indexes["f"]
    project.delete("v003")
    second = project.run().release.indexes["f"]
    assert (second.trained, second.rows) == (first.trained, first.rows - 5)


def test_centroids_go_with_the_lists_of_an_index_that_became_exact(tmp_path: Path) -> None:
    project = vector_project(tmp_path, items(10), "kind: ivf_sq8, metric: l2")
    assert project.run().release.indexes["f"].trained is not None
    exact = project.run(["indexes.f.kind=flat"]).release.indexes["f"]
    assert (exact.kind, exact.trained) == ("flat", None)


def test_every_deleted_still_is_out_of_the_centroids_of_all_shards(tmp_path: Path) -> None:
    still = np.repeat(np.random.default_rng(3).normal(size=(1, DIM)), 60, axis=0).astype(np.float32)
    project = vector_project(tmp_path, items(80) | {"still": still}, "kind: ivf_sq8, metric: cosine, shards: 2")
    project.run()
    project.delete("still")
    entry = project.run().release.indexes["f"]
    unit = still[0] / np.linalg.norm(still[0])
    for shard in entry.shards:
        with ObjectStore(project.store).local_copy(shard.file.path) as path:
            index = faiss.read_index(str(path))
        centroids = faiss.downcast_index(index.quantizer).reconstruct_n(0, index.nlist)
        assert np.linalg.norm(centroids - unit, axis=1).min() > 0.05
