"""Search among the rows that a filter keeps: as brute force among them, however few they are."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from cliploom.schemas.index import IndexRecipe, Kind, Metric
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.transforms.index import kept
from cliploom.transforms.index.build import build_shard, train, write_index
from cliploom.transforms.index.kept import RowFilter, kept_rows
from cliploom.transforms.index.opened import OpenShard, open_shard
from cliploom.transforms.index.search import search
from cliploom.transforms.index.vectors import prepare

ROWS, DIM, K, QUERIES = 6000, 32, 10, 20
ROWS_AN_ITEM = 4
IDS = (np.arange(ROWS) // ROWS_AN_ITEM + 1 << ORDINAL_BITS) + np.arange(ROWS) % ROWS_AN_ITEM
KEEP = [3000, 300, 6, 5]


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, DIM))
    return (centres[rng.integers(0, 60, ROWS)] + 0.7 * rng.normal(size=(ROWS, DIM))).astype(np.float32)


@pytest.fixture(scope="module")
def queries(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    chosen = vectors[rng.integers(0, ROWS, QUERIES)]
    return (chosen + 0.5 * rng.normal(size=(QUERIES, DIM))).astype(np.float32)


@pytest.fixture(scope="module")
def opened(vectors: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], OpenShard]:
    folder = tmp_path_factory.mktemp("shards")
    shards: dict[tuple[str, str], OpenShard] = {}
    kinds: list[tuple[Kind, int]] = [("flat", 0), ("ivf_sq8", 12), ("ivf_rabitq", 12), ("hnsw", 64)]
    metrics: list[Metric] = ["cosine", "l2"]
    for metric in metrics:
        for kind, nprobe in kinds:
            recipe = IndexRecipe(metric, kind, DIM, nprobe)
            trained = folder / f"trained-{metric}"
            if kind in ("ivf_sq8", "ivf_rabitq"):
                write_index(train(vectors, ROWS, metric, seed=0), trained)
            build_shard(recipe, trained, None, np.empty(0, np.int64), [(IDS, vectors)], folder / f"{kind}-{metric}")
            shards[kind, metric] = open_shard(folder / f"{kind}-{metric}", recipe)
    return shards


def brute_force(
    vectors: NDArray[np.float32], query: NDArray[np.float32], allowed: NDArray[np.int64], metric: str
) -> list[int]:
    mine = vectors[allowed].astype(np.float64)
    scores = -np.linalg.norm(mine - query, axis=1) if metric == "l2" else mine @ query
    return IDS[allowed[np.argsort(-scores)[:K]]].tolist()


def decoded(shard: OpenShard, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """What an index holds of all rows, in the order of their ids; for cosine of about unit length."""
    if not shard.recipe.inverted:
        return prepare(vectors, shard.recipe.metric)
    return shard.vectors_at(np.arange(ROWS))[np.argsort(shard.row_ids)]


@pytest.mark.parametrize("exact_rows", [0, kept.EXACT_ROWS])
@pytest.mark.parametrize("rows", KEEP)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("kind", ["flat", "ivf_sq8", "ivf_rabitq", "hnsw"])
def test_hits_among_random_rows_are_those_of_brute_force(
    opened: dict[tuple[str, str], OpenShard],
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    kind: str,
    metric: str,
    rows: int,
    exact_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept, "EXACT_ROWS", exact_rows)
    shard = opened[kind, metric]
    allowed = np.sort(np.random.default_rng(rows).choice(ROWS, rows, replace=False))
    row_filter = RowFilter(np.unique(IDS[allowed] >> ORDINAL_BITS), IDS[allowed])
    found = search([shard], queries, K, kept_rows([shard], row_filter))
    assert [len(hits) for hits in found] == [min(K, rows)] * QUERIES
    held = decoded(shard, vectors)
    shares = []
    for query, hits in zip(queries, found, strict=True):
        ids = [hit.row_id for hit in hits]
        assert set(ids) <= set(IDS[allowed].tolist())
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        right = brute_force(held, query, allowed, metric)
        shares.append(len(set(ids) & set(right)) / len(right))
        if kind == "flat" or rows <= exact_rows:
            assert ids == right
    assert np.mean(shares) >= 0.95


@pytest.mark.parametrize("kind", ["flat", "ivf_sq8", "ivf_rabitq", "hnsw"])
def test_items_far_from_the_query_are_found(
    opened: dict[tuple[str, str], OpenShard], queries: NDArray[np.float32], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter that keeps nothing of what is near the query: the index is searched until it has k rows."""
    monkeypatch.setattr(kept, "EXACT_ROWS", 0)
    monkeypatch.setattr(kept, "LEAST_SHARE_OF_GRAPH", 0.0)
    shard = opened[kind, "cosine"]
    ranked = [hit.row_id for hit in search([shard], queries[:1], ROWS)[0]]
    far = np.unique(np.array(ranked[-100:]) >> ORDINAL_BITS)
    found = search([shard], queries[:1], K, kept_rows([shard], RowFilter(far)))[0]
    assert len(found) == K
    assert {hit.row_id >> ORDINAL_BITS for hit in found} <= set(far.tolist())


def test_equal_rows_come_by_row_id_also_among_kept_rows(tmp_path: Path) -> None:
    vectors = np.ones((100, 4), np.float32)
    ids = np.arange(100, dtype=np.int64)
    recipe = IndexRecipe("cosine", "flat", 4)
    build_shard(recipe, None, None, np.empty(0, np.int64), [(ids, vectors)], tmp_path / "flat")
    shard = open_shard(tmp_path / "flat", recipe)
    rows = RowFilter(np.array([0]), np.arange(1, 100, 2))
    for exact_rows in (0, 8192):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kept, "EXACT_ROWS", exact_rows)
            found = search([shard], vectors[:1], 3, kept_rows([shard], rows))[0]
        assert [hit.row_id for hit in found] == [1, 3, 5]


def test_a_filter_that_keeps_nothing_finds_nothing(opened: dict[tuple[str, str], OpenShard]) -> None:
    for (_, metric), shard in opened.items():
        nothing = kept_rows([shard], RowFilter(np.empty(0, np.int64)))
        assert search([shard], np.ones((2, DIM), np.float32), K, nothing) in ([[], []], [])
        assert metric == shard.recipe.metric


def test_inverted_lists_give_back_the_vectors_that_faiss_scores(opened: dict[tuple[str, str], OpenShard]) -> None:
    shard = opened["ivf_sq8", "l2"]
    positions = np.array([0, 1, 77, 4000, ROWS - 1])
    vectors = shard.vectors_at(positions)
    everything = faiss.SearchParametersIVF(nprobe=shard.index.nlist)  # type: ignore[call-arg]
    distances, ids = shard.index.search(vectors, 1, params=everything)
    assert distances[:, 0] == pytest.approx(0, abs=1e-6)
    assert ids[:, 0].tolist() == shard.row_ids[positions].tolist()
