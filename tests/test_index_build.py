"""Building shards: kinds, training, adding and removing against a plain set of rows."""

from __future__ import annotations

import json
from dataclasses import replace

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.schemas.digests import digest_bytes
from cliploom.schemas.index import IndexRecipe, IndexShard, MediaHit, RowHit
from cliploom.transforms.index.build import (
    build_shard,
    choose_kind,
    lists_for,
    must_rebuild,
    train,
    training_rows,
    write_index,
)
from cliploom.transforms.index.opened import open_shard
from cliploom.transforms.index.search import search
from cliploom.transforms.index.vectors import prepare
from cliploom.transforms.index.verify import shard_ids

DIM = 12
NONE = np.empty(0, np.int64)
KINDS = ["flat", "ivf_sq8", "ivf_rabitq", "hnsw"]
METRICS = ["cosine", "dot", "l2"]


def vectors_of(ids, seed=0):
    """One vector a row id, the same whenever it is asked for."""
    return np.stack([np.random.default_rng([seed, int(i)]).normal(size=DIM) for i in ids]).astype(np.float32)


def batch(ids):
    ids = np.array(ids, np.int64)
    return ids, vectors_of(ids) if ids.size else np.empty((0, DIM), np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trained centroids for each metric."""
    folder = tmp_path_factory.mktemp("trained")
    paths = {}
    for metric in METRICS:
        paths[metric] = folder / f"{metric}.faiss"
        write_index(train(vectors_of(range(400)), 1000, metric, seed=3), paths[metric])
    return paths


def test_auto_is_exact_up_to_twenty_thousand_rows():
    assert choose_kind(0, "auto") == "flat"
    assert choose_kind(20_000, "auto") == "flat"
    assert choose_kind(20_001, "auto") == "ivf_sq8"
    assert choose_kind(3, "ivf_sq8") == "ivf_sq8"


def test_the_number_of_lists_follows_the_square_root_of_the_rows():
    assert lists_for(40_000) == 2 * lists_for(10_000) == 400
    assert lists_for(0) == 1
    assert training_rows(100) == 100
    assert training_rows(1_000_000) == 64 * 2000


@pytest.mark.parametrize("metric", METRICS)
def test_training_twice_gives_the_same_bytes(metric, tmp_path):
    sample = vectors_of(range(300))
    for name in ("a", "b"):
        write_index(train(sample, 5000, metric, seed=1), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write_index(train(sample, 5000, metric, seed=2), tmp_path / "c")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_training_works_on_a_single_vector_and_refuses_none():
    assert train(vectors_of([1]), 10, "cosine", 0).nlist == 1
    with pytest.raises(ValueError, match="0 vectors"):
        train(np.empty((0, DIM), np.float32), 10, "cosine", 0)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_holds_the_rows_it_was_given(kind, metric, trained, tmp_path):
    recipe = IndexRecipe(metric, kind, DIM)
    out = tmp_path / "shard.faiss"
    facts = build_shard(recipe, trained[metric], None, NONE, [batch([5, 1, 9]), batch([]), batch([7])], out, ("p1",))
    assert facts == IndexShard("shard.faiss", out.stat().st_size, digest_bytes(out.read_bytes()), 4, ("p1",))
    assert shard_ids(out, recipe).tolist() == [1, 5, 7, 9]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_batches_give_the_same_bytes(kind, trained, tmp_path):
    recipe = IndexRecipe("cosine", kind, DIM)
    facts = [
        build_shard(recipe, trained["cosine"], None, NONE, [batch(range(500)), batch(range(500, 900))], tmp_path / name)
        for name in ("a", "b")
    ]
    assert facts[0].digest == facts[1].digest


@pytest.mark.parametrize("kind", ["flat", "ivf_sq8", "ivf_rabitq"])
@settings(max_examples=15, deadline=None)
@given(steps=st.lists(st.tuples(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30))), max_size=5))
def test_any_sequence_of_changes_leaves_the_rows_of_a_plain_set(kind, steps, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    recipe = IndexRecipe("l2", kind, DIM)
    model: set[int] = set()
    shard = None
    for number, (removed, added) in enumerate(steps):
        model -= removed
        new = sorted(added - model)
        model |= added
        out = folder / f"{number}.faiss"
        facts = build_shard(recipe, trained["l2"], shard, np.array(sorted(removed), np.int64), [batch(new)], out)
        shard = out
        assert facts.rows == len(model)
        assert shard_ids(shard, recipe).tolist() == sorted(model)
    if shard and model:
        opened = [open_shard(shard, replace(recipe, nprobe=1000))]
        hits = search(opened, vectors_of(sorted(model)), 1)
        assert [row[0].row_id for row in hits] == sorted(model)


def test_removing_and_adding_an_id_replaces_its_vector(tmp_path):
    recipe = IndexRecipe("l2", "flat", DIM)
    path = tmp_path / "x.faiss"
    build_shard(recipe, None, None, NONE, [batch([1, 2, 3])], path)
    moved = np.full((1, DIM), 50, np.float32)
    build_shard(recipe, None, path, np.array([2]), [(np.array([2]), moved)], path)
    (hits,) = search([open_shard(path, recipe)], moved, 1)
    assert (hits[0].row_id, hits[0].distance) == (2, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_can_not_be_added_twice(kind, trained, tmp_path):
    recipe = IndexRecipe("cosine", kind, DIM)
    path = tmp_path / "x.faiss"
    build_shard(recipe, trained["cosine"], None, NONE, [batch([1, 2, 3])], path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="row 2 would be in the index twice"):
        build_shard(recipe, None, path, NONE, [batch([2])], path)
    with pytest.raises(ValueError, match="row 4 would be in the index twice"):
        build_shard(recipe, trained["cosine"], None, NONE, [batch([4]), batch([4])], path)
    assert path.read_bytes() == before


def test_hnsw_grows_but_does_not_shrink(tmp_path):
    recipe = IndexRecipe("cosine", "hnsw", DIM)
    path = tmp_path / "x.faiss"
    build_shard(recipe, None, None, NONE, [batch(range(50))], path)
    assert build_shard(recipe, None, path, NONE, [batch(range(50, 80))], path).rows == 80
    assert must_rebuild("hnsw", 1)
    assert not must_rebuild("hnsw", 0)
    assert not must_rebuild("flat", 1)
    with pytest.raises(ValueError, match="cannot remove 1 rows"):
        build_shard(recipe, None, path, np.array([3]), [], path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_a_vector_that_is_not_finite_is_named_by_its_row(metric, bad, tmp_path):
    ids, vectors = batch([10, 77])
    vectors[1, 3] = bad
    with pytest.raises(ValueError, match="row 77 has a value that is not finite"):
        build_shard(IndexRecipe(metric, "flat", DIM), None, None, NONE, [(ids, vectors)], tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_vectors_whose_distances_overflow_are_refused_except_for_cosine():
    huge = np.full((1, DIM), 1e30, np.float32)
    for metric in ("dot", "l2"):
        with pytest.raises(ValueError, match="row 0 has a value that is too large"):
            prepare(huge, metric)
    assert np.allclose(prepare(huge, "cosine"), DIM**-0.5)


def test_cosine_vectors_have_unit_length_and_zero_stays_zero():
    ready = prepare(np.array([[3, 4], [0, 0], [1e-42, 0]], np.float32), "cosine")
    assert ready.dtype == np.float32
    assert np.allclose(ready, [[0.6, 0.8], [0, 0], [1, 0]])


def test_equal_vectors_stay_equal_wherever_they_stand():
    rows = np.tile(vectors_of([1]), (9001, 1))
    assert np.unique(prepare(rows, "cosine"), axis=0).shape == (1, DIM)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_vectors_of_another_rank_are_refused(shape):
    with pytest.raises(ValueError, match=r"\[n, dim\] is needed"):
        prepare(np.zeros(shape, np.float32), "cosine")


def test_vectors_of_another_width_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"shape \(1, 5\) for 1 ids; the index has dim 12"):
        build_shard(
            IndexRecipe("dot", "flat", DIM),
            None,
            None,
            NONE,
            [(np.array([1]), np.zeros((1, 5), np.float32))],
            tmp_path / "x",
        )


def test_a_first_inverted_file_needs_centroids(tmp_path):
    with pytest.raises(ValueError, match="needs trained centroids"):
        build_shard(IndexRecipe("dot", "ivf_sq8", DIM), None, None, NONE, [], tmp_path / "x")


def test_building_leaves_the_number_of_threads_alone(tmp_path):
    before = faiss.omp_get_max_threads()
    build_shard(IndexRecipe("dot", "flat", DIM), None, None, NONE, [batch([1])], tmp_path / "x")
    assert faiss.omp_get_max_threads() == before


def test_records_survive_json():
    shard = IndexShard("a.faiss", 10, "ff", 2, ("p", "q"))
    recipe = IndexRecipe("dot", "hnsw", 4, 32)
    assert IndexShard.from_dict(json.loads(json.dumps(shard.to_dict()))) == shard
    assert IndexRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    row = {"row_id": 5, "score": 0.5, "distance": 0.5}
    assert RowHit(5, 0.5, 0.5).to_dict() == row
    assert MediaHit(1, 0.5, RowHit(5, 0.5, 0.5), 2).to_dict() == {"item_no": 1, "score": 0.5, "best": row, "hits": 2}
