"""Searching shards compared with brute force, ties, and damaged or foreign files."""

from __future__ import annotations

from dataclasses import replace

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.schemas.errors import StoreError
from cliploom.schemas.index import IndexRecipe
from cliploom.transforms.index.build import build_shard, train, write_index
from cliploom.transforms.index.opened import open_shard
from cliploom.transforms.index.search import search
from cliploom.transforms.index.verify import check_finds_itself, shard_ids

NONE = np.empty(0, np.int64)
KINDS = ["flat", "ivf_sq8", "ivf_rabitq", "hnsw"]
METRICS = ["cosine", "dot", "l2"]


def make(folder, kind, metric, ids, vectors, shards=1, nprobe=1000, name="shard"):
    """Open shards with these rows dealt out to them."""
    recipe = IndexRecipe(metric, kind, vectors.shape[1], nprobe)
    trained = None
    if kind in ("ivf_sq8", "ivf_rabitq"):
        trained = folder / f"{name}-trained"
        write_index(train(vectors, len(vectors), metric, 0), trained)
    opened = []
    for number in range(shards):
        path = folder / f"{name}-{number}.faiss"
        rows = build_shard(recipe, trained, None, NONE, [(ids[number::shards], vectors[number::shards])], path)
        opened.append(open_shard(path, recipe, rows))
    return opened


def brute_force(ids, vectors, query, metric):
    """All rows with their scores in float64, best first, equal scores by id."""
    vectors, query = vectors.astype(float), query.astype(float)
    if metric == "l2":
        scores = -np.sqrt(((vectors - query) ** 2).sum(axis=1))
    else:
        scores = vectors @ query
        if metric == "cosine":
            lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
            scores = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
    order = np.lexsort((ids, -scores))
    return ids[order], scores[order]


@pytest.fixture(scope="module")
def cloud():
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(600, 24)).astype(np.float32) * rng.uniform(0.5, 3, size=(600, 1)).astype(np.float32)
    return rng.permutation(600).astype(np.int64) * 1000, vectors, rng.normal(size=(25, 24)).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shards", [1, 3])
def test_flat_is_brute_force(metric, shards, cloud, tmp_path):
    ids, vectors, queries = cloud
    opened = make(tmp_path, "flat", metric, ids, vectors, shards)
    for k in (1, 7, 599, 600, 5000):
        for query, hits in zip(queries, search(opened, queries, k), strict=True):
            right_ids, right_scores = brute_force(ids, vectors, query, metric)
            assert [hit.row_id for hit in hits] == right_ids[:k].tolist()
            assert np.allclose([hit.score for hit in hits], right_scores[:k], atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["ivf_sq8", "ivf_rabitq", "hnsw"])
def test_approximate_kinds_looking_everywhere_find_almost_all(kind, metric, cloud, tmp_path):
    ids, vectors, queries = cloud
    opened = make(tmp_path, kind, metric, ids, vectors, 2)
    shares = []
    for query, hits in zip(queries, search(opened, queries, 10), strict=True):
        right_ids, right_scores = brute_force(ids, vectors, query, metric)
        shares.append(len({hit.row_id for hit in hits} & set(right_ids[:10].tolist())) / 10)
        # A bit a number may miss a candidate among so few; the scores of what it finds are those of the bytes.
        right = dict(zip(right_ids.tolist(), right_scores, strict=True))
        assert np.allclose([hit.score for hit in hits], [right[hit.row_id] for hit in hits], rtol=0.02, atol=0.1)
    assert np.mean(shares) > 0.9


@pytest.mark.parametrize("metric", METRICS)
def test_distance_and_score_go_opposite_ways(metric, cloud, tmp_path):
    ids, vectors, queries = cloud
    for hits in search(make(tmp_path, "flat", metric, ids, vectors), queries, 20):
        scores, distances = [h.score for h in hits], [h.distance for h in hits]
        assert scores == sorted(scores, reverse=True)
        assert distances == sorted(distances)
        if metric == "cosine":
            assert np.allclose(np.add(scores, distances), 1)
            assert 0 <= min(distances) <= max(distances) <= 2.000001
        else:
            assert np.allclose(scores, np.negative(distances))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_flat_breaks_ties_by_row_id_also_at_the_last_place(data, tmp_path_factory):
    """Few distinct small integers: float32 sums are exact, so brute force has the same ties."""
    metric = data.draw(st.sampled_from(["dot", "l2"]))
    rows = data.draw(st.integers(1, 60))
    seed = data.draw(st.integers(0, 2**32))
    k = data.draw(st.integers(1, 70))
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, size=(rows, 3)).astype(np.float32)
    ids = rng.permutation(1000)[:rows].astype(np.int64)
    queries = rng.integers(-1, 2, size=(data.draw(st.sampled_from([1, 30])), 3)).astype(np.float32)
    opened = make(tmp_path_factory.mktemp("ties"), "flat", metric, ids, vectors, data.draw(st.integers(1, 3)))
    for query, hits in zip(queries, search(opened, queries, k), strict=True):
        assert [hit.row_id for hit in hits] == brute_force(ids, vectors, query, metric)[0][:k].tolist()


@pytest.mark.parametrize("kind", ["flat", "ivf_sq8"])
@pytest.mark.parametrize("metric", METRICS)
def test_repeated_frames_come_by_row_id(kind, metric, tmp_path):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(300, 20)).astype(np.float32)
    vectors[50:250] = vectors[50] * 3
    ids = rng.permutation(300).astype(np.int64)
    opened = make(tmp_path, kind, metric, ids, vectors)
    for queries in (vectors[50:51], np.repeat(vectors[50:51], 40, axis=0)):
        for hits in search(opened, queries, 12):
            assert [hit.row_id for hit in hits] == sorted(ids[50:250].tolist())[:12]
            assert len({hit.score for hit in hits}) == 1


def test_answers_do_not_depend_on_what_is_asked_together(cloud, tmp_path):
    ids, vectors, queries = cloud
    opened = make(tmp_path, "flat", "cosine", ids, vectors)
    assert search(opened, queries, 9) == [search(opened, query[np.newaxis], 9)[0] for query in queries]


@pytest.mark.parametrize("kind", KINDS)
def test_zero_vectors_score_zero_under_cosine_and_never_nan(kind, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    vectors[7] = 0
    opened = make(tmp_path, kind, "cosine", np.arange(60), vectors)
    both = np.stack([np.zeros(8, np.float32), vectors[3]])
    nothing, something = search(opened, both, 60)
    assert {hit.score for hit in nothing} == {0.0}
    assert np.isfinite([hit.score for hit in something]).all()
    assert abs(next(hit.score for hit in something if hit.row_id == 7)) < 0.02


def test_a_query_for_more_than_the_lists_visited_hold_looks_further(cloud, tmp_path):
    ids, vectors, queries = cloud
    opened = make(tmp_path, "ivf_sq8", "cosine", ids, vectors, nprobe=1)
    assert opened[0].index.nlist > 4
    for k in (10, 100, 600, 900):
        assert {len(hits) for hits in search(opened, queries, k)} == {min(k, 600)}


def test_nothing_to_search_gives_no_hits(tmp_path):
    recipe = IndexRecipe("cosine", "flat", 4)
    facts = build_shard(recipe, None, None, NONE, [], tmp_path / "empty")
    empty = open_shard(tmp_path / "empty", recipe, facts)
    query = np.ones((2, 4), np.float32)
    assert search([empty], query, 3) == [[], []]
    assert search([], query, 3) == [[], []]
    assert search([empty], query[:0], 3) == []


def test_wrong_queries_are_refused_with_their_values(cloud, tmp_path):
    ids, vectors, queries = cloud
    opened = make(tmp_path, "flat", "cosine", ids, vectors)
    with pytest.raises(ValueError, match="k is 0"):
        search(opened, queries, 0)
    with pytest.raises(ValueError, match=r"shape \(25, 5\); expected \[q, 24\]"):
        search(opened, queries[:, :5], 3)
    with pytest.raises(ValueError, match="row 1 has a value that is not finite"):
        search(opened, np.stack([queries[0], np.full(24, np.nan, np.float32)]), 3)
    other = replace(opened[0], recipe=replace(opened[0].recipe, metric="dot"))
    with pytest.raises(ValueError, match="one index at a time"):
        search([opened[0], other], queries, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_named(kind, cloud, tmp_path):
    ids, vectors, _ = cloud
    (shard,) = make(tmp_path, kind, "cosine", ids, vectors)
    whole = shard.path.read_bytes()
    for size in (0, 3, 20, 100, len(whole) // 2, len(whole) - 1):
        cut = tmp_path / f"cut-{size}"
        cut.write_bytes(whole[:size])
        with pytest.raises(StoreError, match=cut.name):
            open_shard(cut, shard.recipe)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_header_is_an_error_or_harmless_but_never_a_crash(kind, cloud, tmp_path):
    ids, vectors, queries = cloud
    (shard,) = make(tmp_path, kind, "l2", ids, vectors)
    whole = shard.path.read_bytes()
    messages = []
    for at in range(120):
        # A new file each time: the one before may still be mapped.
        flipped = tmp_path / f"flipped-{at}"
        flipped.write_bytes(whole[:at] + bytes([whole[at] ^ 0x81]) + whole[at + 1 :])
        try:
            opened = open_shard(flipped, shard.recipe)
        except StoreError as error:
            messages.append((flipped.name, str(error)))
        else:
            search([opened], queries, 3)
    assert len(messages) >= 30
    assert all(name in message for name, message in messages)


def test_a_file_that_does_not_fit_the_record_or_recipe_is_named(cloud, tmp_path):
    ids, vectors, _ = cloud
    (shard,) = make(tmp_path, "flat", "cosine", ids, vectors)
    path, recipe = shard.path, shard.recipe
    facts = build_shard(recipe, None, path, NONE, [], path)
    for wrong in (replace(recipe, metric="l2"), replace(recipe, kind="hnsw"), replace(recipe, dim=7)):
        with pytest.raises(StoreError, match=r"shard-0.faiss is a .* of width 24, not a"):
            open_shard(path, wrong)
    with pytest.raises(StoreError, match=f"has {facts.size} bytes instead of {facts.size + 1}"):
        open_shard(path, recipe, replace(facts, size=facts.size + 1))
    with pytest.raises(StoreError, match="has 600 rows instead of 5"):
        open_shard(path, recipe, replace(facts, rows=5))
    with pytest.raises(StoreError, match=r"nowhere can't be read \(No such file"):
        open_shard(tmp_path / "nowhere", recipe)


def test_reading_damage_leaves_the_limit_of_faiss_alone(tmp_path):
    before = faiss.get_deserialization_vector_byte_limit()
    (tmp_path / "x").write_bytes(b"IxM2" + b"\xff" * 50)
    with pytest.raises(StoreError):
        shard_ids(tmp_path / "x", IndexRecipe("dot", "flat", 3))
    assert faiss.get_deserialization_vector_byte_limit() == before


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_find_themselves_unless_their_vectors_are_others(kind, metric, cloud, tmp_path):
    ids, vectors, _ = cloud
    vectors = np.concatenate([vectors, np.repeat(vectors[:1], 50, axis=0), np.zeros((1, 24), np.float32)])
    ids = np.concatenate([ids, np.arange(600_000, 600_051)])
    opened = make(tmp_path, kind, metric, ids, vectors, 2)
    assert check_finds_itself(opened, ids, vectors) == []
    if metric != "dot":
        swapped = vectors[[11, 10]]
        assert check_finds_itself(opened, ids[[10, 11]], swapped) == ids[[10, 11]].tolist()


def test_rows_that_are_not_there_do_not_find_themselves(cloud, tmp_path):
    ids, vectors, _ = cloud
    opened = make(tmp_path, "flat", "cosine", ids[1:], vectors[1:])
    assert check_finds_itself(opened, ids[:2], vectors[:2]) == [int(ids[0])]
    assert check_finds_itself([], ids[:1], vectors[:1]) == [int(ids[0])]
    assert check_finds_itself(opened, ids[:0], vectors[:0]) == []
