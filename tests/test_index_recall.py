"""Exact neighbours in blocks, recall, and the search for nprobe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.schemas.index import IndexRecipe
from cliploom.transforms.index import recall
from cliploom.transforms.index.build import build_shard, train, write_index
from cliploom.transforms.index.opened import open_shard
from cliploom.transforms.index.recall import exact_top_k, measure, recall_at, tune_nprobe

NONE = np.empty(0, np.int64)


def chunks(ids, vectors, size):
    return [(ids[at : at + size], vectors[at : at + size]) for at in range(0, len(ids), size)]


@pytest.mark.parametrize("block", [7, 8192])
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_exact_neighbours_are_those_of_one_big_product(metric, block, monkeypatch):
    monkeypatch.setattr(recall, "BLOCK", block)
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(300, 16)).astype(np.float32)
    queries = rng.normal(size=(20, 16)).astype(np.float32)
    ids = rng.permutation(300).astype(np.int64)
    wide, asked = vectors.astype(float), queries.astype(float)
    scores = asked @ wide.T
    if metric == "cosine":
        scores = scores / np.linalg.norm(wide, axis=1)
    if metric == "l2":
        scores = -np.linalg.norm(asked[:, None] - wide, axis=2)
    right = ids[np.argsort(-scores, axis=1)[:, :5]]
    for size in (1, 64, 300):
        found = exact_top_k(chunks(ids, vectors, size), queries, 5, metric)
        assert [row.tolist() for row in found] == right.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 80), st.integers(1, 12), st.integers(1, 90), st.integers(0, 10**6))
def test_all_that_tie_with_the_last_place_are_given(rows, k, size, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(0, 3, size=(rows, 2)).astype(np.float32)
    ids = rng.permutation(1000)[:rows].astype(np.int64)
    query = rng.integers(0, 3, size=(1, 2)).astype(np.float32)
    (found,) = exact_top_k(chunks(ids, vectors, size), query, k, "dot")
    scores = vectors @ query[0]
    least = np.sort(scores)[::-1][min(k, rows) - 1]
    assert sorted(found.tolist()) == sorted(ids[scores >= least].tolist())
    score_of = dict(zip(ids.tolist(), scores.tolist(), strict=True))
    got = [score_of[row] for row in found[:k].tolist()]
    assert got == sorted(got, reverse=True)


def test_ties_are_kept_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(recall, "TIES", 5)
    same = np.ones((100, 4), np.float32)
    (found,) = exact_top_k(chunks(np.arange(100), same, 30), same[:1], 3, "cosine")
    assert found.tolist() == list(range(8))


def test_a_row_can_be_left_out_of_its_own_neighbours():
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    ids = np.arange(100, 150)
    found = exact_top_k([(ids, vectors)], vectors[:5], 3, "l2", own=ids[:5])
    assert all(own not in row for own, row in zip(ids, found, strict=False))
    assert {len(row) for row in found} == {3}


def test_an_empty_corpus_has_no_neighbours():
    assert [row.tolist() for row in exact_top_k([], np.ones((2, 3), np.float32), 3, "dot")] == [[], []]


def test_recall_counts_places_and_forgives_ties():
    exact = [np.array([1, 2, 3]), np.array([4, 5, 6, 7])]
    assert recall_at(3, [[1, 2, 3], [4, 5, 7]], exact) == 1
    assert recall_at(3, [[3, 9, 1], [8, 9, 0]], exact) == pytest.approx(1 / 3)
    assert recall_at(3, [[1, 1, 1], []], exact) == pytest.approx(1 / 6)
    assert recall_at(1, [[2, 1], [4]], [np.array([1]), np.array([4])]) == 0.5
    assert recall_at(10, [[1]], [np.array([1])]) == 1
    assert recall_at(10, [], []) == recall_at(10, [[]], [NONE]) == 1
    with pytest.raises(ValueError, match="approx has 1 queries, exact has 0"):
        recall_at(1, [[1]], [])


@given(
    st.lists(st.integers(0, 20), unique=True, max_size=15), st.lists(st.integers(0, 20), unique=True), st.integers(1, 9)
)
def test_recall_is_a_share_and_whole_for_the_exact_answer(exact, approx, k):
    right = [np.array(exact[:k], np.int64)]
    assert 0 <= recall_at(k, [approx], right) <= 1
    assert recall_at(k, [exact], right) == 1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A clustered corpus with its rows' exact neighbours; the sample is held back from training."""
    rng = np.random.default_rng(9)
    centres = rng.normal(size=(60, 32))
    vectors = (centres[rng.integers(0, 60, 6000)] + 0.9 * rng.normal(size=(6000, 32))).astype(np.float32)
    ids = np.arange(6000) + 10**9
    folder = tmp_path_factory.mktemp("corpus")
    write_index(train(vectors[200:], 6000, "cosine", 0), folder / "trained")
    exact = exact_top_k(chunks(ids, vectors, 1000), vectors[:200], 10, "cosine", own=ids[:200])
    return ids, vectors, exact, folder


def shards_of(corpus, kind):
    ids, vectors, _, folder = corpus
    recipe = IndexRecipe("cosine", kind, 32)
    opened = []
    for number in range(2):
        path = folder / f"{kind}-{number}"
        build_shard(recipe, folder / "trained", None, NONE, [(ids[number::2], vectors[number::2])], path)
        opened.append(open_shard(path, recipe))
    return opened


def test_nprobe_is_the_least_that_reaches_the_target(corpus):
    ids, vectors, exact, _ = corpus
    opened = shards_of(corpus, "ivf_sq8")
    nprobe, got = tune_nprobe(opened, ids[:200], vectors[:200], exact)
    assert got >= 0.95
    assert 1 < nprobe < opened[0].index.nlist

    def with_nprobe(value):
        return measure(
            [replace(s, recipe=replace(s.recipe, nprobe=value)) for s in opened], ids[:200], vectors[:200], exact
        )

    assert with_nprobe(nprobe) == got
    assert with_nprobe(nprobe // 2) < 0.95


def test_a_target_out_of_reach_gives_the_best_there_is(corpus):
    ids, vectors, exact, _ = corpus
    opened = shards_of(corpus, "ivf_sq8")
    nprobe, got = tune_nprobe(opened, ids[:200], vectors[:200], exact, target=1.01)
    assert nprobe <= opened[0].index.nlist
    assert 0.97 < got < 1


def test_hnsw_is_tuned_by_the_width_of_its_search(corpus):
    ids, vectors, exact, _ = corpus
    nprobe, got = tune_nprobe(shards_of(corpus, "hnsw"), ids[:200], vectors[:200], exact, target=0.99)
    assert got >= 0.99
    assert 16 <= nprobe <= 2048


def test_flat_needs_no_tuning(corpus):
    ids, vectors, exact, _ = corpus
    assert tune_nprobe(shards_of(corpus, "flat"), ids[:200], vectors[:200], exact) == (0, 1.0)
    assert tune_nprobe([], ids[:0], vectors[:0], []) == (0, 1.0)


def test_repeated_frames_do_not_spoil_the_measured_recall(tmp_path):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(800, 16)).astype(np.float32)
    vectors[100:500] = vectors[100]
    ids = rng.permutation(800).astype(np.int64)
    write_index(train(vectors, 800, "l2", 0), tmp_path / "trained")
    recipe = IndexRecipe("l2", "ivf_sq8", 16, 1)
    build_shard(recipe, tmp_path / "trained", None, NONE, [(ids, vectors)], tmp_path / "x")
    exact = exact_top_k([(ids, vectors)], vectors[100:160], 10, "l2", own=ids[100:160])
    assert measure([open_shard(tmp_path / "x", recipe)], ids[100:160], vectors[100:160], exact) == 1
