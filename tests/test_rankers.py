"""Rankers of searches: the order of brute force over all rows, whatever ``top`` is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from commands import command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import SmallStore
from vector_store import Vectors, VectorStore, vector_project

from cliploom.schemas.errors import SpecError
from cliploom.schemas.index import RowHit
from cliploom.schemas.records import row_id
from cliploom.transforms.index.rank import D_MISS, rank
from cliploom.transforms.index.rank_items import rank_items
from cliploom.transforms.index.vectors import distance_of
from cliploom.transforms.search import ranking, searching

DIM = 16
KINDS = ("flat", "hnsw", "ivf_sq8")
METRICS = ("cosine", "dot", "l2")


def pair_scores(query: Vectors, rows: Vectors, metric: str) -> np.ndarray:
    """Scores of [query rows, item rows], straight from their definitions."""
    asked, held = query.astype(float)[:, None], rows.astype(float)[None]
    if metric == "l2":
        return -np.sqrt(((asked - held) ** 2).sum(axis=2))
    dots = (asked * held).sum(axis=2)
    return dots if metric == "dot" else dots / np.linalg.norm(asked, axis=2) / np.linalg.norm(held, axis=2)


def brute_force(query: Vectors, rows: Vectors, ranker: str, metric: str, d_miss: float | None = None) -> float:
    scores = pair_scores(query, rows, metric)
    if ranker == "max":
        return float(scores.max())
    if ranker == "mean":
        return float(scores.mean())
    miss = d_miss or (2.0 if metric == "cosine" else 2000.0)
    distances = 1 - scores if metric == "cosine" else -scores
    sides = [distances.min(axis=0), distances.min(axis=1)]
    return float(np.mean([1 - side.sum() / (miss * len(side)) for side in sides]))


def ordered(vectors: dict[str, Vectors], query: Vectors, ranker: str, metric: str, d_miss: float | None = None):
    found = {uid: brute_force(query, rows, ranker, metric, d_miss) for uid, rows in vectors.items()}
    return sorted(found.items(), key=lambda entry: -entry[1])


def cloud(seed: int = 0) -> dict[str, Vectors]:
    """Items of 1 to 12 rows around centers of their own."""
    rng = np.random.default_rng(seed)
    return {
        f"v{number:02}": (rng.normal(size=DIM) + rng.normal(size=(rng.integers(1, 13), DIM))).astype(np.float32)
        for number in range(60)
    }


@pytest.fixture(scope="module", params=[(kind, metric) for kind in KINDS for metric in METRICS], ids=str)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[VectorStore, str, str]:
    kind, metric = request.param
    made = vector_project(tmp_path_factory.mktemp("ranked"), cloud(), f"kind: {kind}, metric: {metric}, shards: 2")
    made.run()
    return made, kind, metric


@pytest.mark.parametrize("ranker", ["mean", "bimatch"])
@pytest.mark.parametrize("rows", [1, 4])
def test_rankings_are_those_of_brute_force_over_all_rows(
    project: tuple[VectorStore, str, str], ranker: str, rows: int
) -> None:
    made, _, metric = project
    query = np.random.default_rng(9).normal(size=(rows, DIM)).astype(np.float32)
    expected = ordered(cloud(), query, ranker, metric)
    hits = made.open().search(vector=query, top=100, rank=ranker)
    assert [hit.uid for hit in hits] == [uid for uid, _ in expected]
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize("ranker", ["max", "mean", "bimatch"])
@pytest.mark.parametrize("small", [False, True])
def test_a_longer_list_begins_with_the_shorter_one(
    project: tuple[VectorStore, str, str], ranker: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _, _ = project
    if small:  # as if the index were large
        for name, value in (("ALL_ROWS", 0), ("CANDIDATES", 12), ("LEAST_CANDIDATES", 2), ("FIRST_ROWS", 6)):
            monkeypatch.setattr(ranking, name, value)
    store = made.open()
    for seed in range(4):
        query = np.random.default_rng(seed).normal(size=(1 + seed, DIM)).astype(np.float32)
        longest = [(hit.uid, hit.score) for hit in store.search(vector=query, top=60, rank=ranker)]
        assert len(longest) == 60
        for top in (1, 3, 10, 20, 45):
            found = store.search(vector=query, top=top, rank=ranker)
            assert [(hit.uid, hit.score) for hit in found] == longest[:top]


def test_merged_lists_of_several_indexes_keep_their_beginning(
    built_store: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "FUSED_DEPTH", 2)
    store = searching.open_store(str(built_store.store))
    for ranker in ("max", "mean", "bimatch"):
        longest = store.search("a cat", top=50, rank=ranker)
        assert len(longest) == 6
        for top in range(1, 6):
            assert store.search("a cat", top=top, rank=ranker) == longest[:top]


def test_items_of_equal_rows_come_by_their_number(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(7, DIM)).astype(np.float32)
    noise = {f"n{number}": np.random.default_rng(number).normal(size=(11, DIM)) for number in range(30)}
    project = vector_project(tmp_path, {f"c{number}": rows for number in range(9)} | noise, "kind: flat, metric: dot")
    project.run()
    store = project.open()
    numbers = dict(store.items.select("uid", "item_no").collect().rows())
    for ranker in ("mean", "bimatch"):
        hits = store.search(vector=rows[:3], top=100, rank=ranker)
        copies = [hit for hit in hits if hit.uid.startswith("c")]
        assert len({hit.score for hit in copies}) == 1
        assert [numbers[hit.uid] for hit in copies] == sorted(numbers[hit.uid] for hit in copies)


def test_d_miss_is_set_by_search_by_spec_and_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = vector_project(tmp_path, cloud(), "kind: flat")
    project.run()
    query = cloud()["v07"]
    default, mine, other = (dict(ordered(cloud(), query, "bimatch", "cosine", miss)) for miss in (2.0, 5.0, 0.5))
    del default["v07"], mine["v07"], other["v07"]

    def scores(**options: float) -> dict[str, float]:
        hits = project.open().search(like="v07", top=100, rank="bimatch", **options)
        return {hit.uid: hit.score for hit in hits}

    assert scores() == pytest.approx(default, abs=1e-6)
    assert scores(d_miss=5.0) == pytest.approx(mine, abs=1e-6)
    result = project.run(["indexes.f.d_miss=5"])
    assert result.changed
    assert result.verdicts["f"] == {"unchanged": 60}
    assert scores() == pytest.approx(mine, abs=1e-6)
    assert scores(d_miss=2) == pytest.approx(default, abs=1e-6)
    options = ["--rank", "bimatch", "--d-miss", "0.5", "--top", "100", "--json"]
    ended = command(capsys)("search", project.store, "--like", "v07", *options)
    assert {hit["uid"]: hit["score"] for hit in json.loads(ended.out)} == pytest.approx(other, abs=1e-6)


def test_a_store_of_before_d_miss_is_not_published_again(tmp_path: Path) -> None:
    project = vector_project(tmp_path, cloud(), "kind: flat")
    project.run()
    assert not project.run().changed
    assert project.run(["indexes.f.d_miss=1.5"]).changed
    assert not project.run(["indexes.f.d_miss=1.5"]).changed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": "bimatch", "d_miss": 0}, "d_miss is 0; it must be a number above 0"),
        ({"rank": "bimatch", "d_miss": float("nan")}, "d_miss is nan"),
        ({"rank": "bimatch", "d_miss": "2"}, "d_miss is '2'"),
        ({"rank": "mean", "d_miss": 2.0}, "d_miss applies to the ranker bimatch, not to 'mean'"),
    ],
)
def test_a_d_miss_that_means_nothing_is_refused(built_store: SmallStore, options: dict, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        searching.open_store(str(built_store.store)).search("a cat", **options)


def test_jinas_example_of_videos_that_answer_a_video() -> None:
    """Two rows against three: with every row compared, no row is missed."""
    query = np.float32([[1, 0], [0, 1]])
    item = np.float32([[1, 0], [0, 2], [3, 0]])
    ids = np.array([row_id(4, 0), row_id(4, 1), row_id(4, 2)])
    [hit] = rank_items([(ids, item)], np.array([4]), query, "bimatch", "l2", d_miss=10)
    assert hit.score == pytest.approx(((1 - (0 + 1 + 2) / 30) + (1 - (0 + 1) / 20)) / 2)
    assert (hit.best.row_id, hit.best.distance, hit.hits) == (row_id(4, 0), 0.0, 3)


rows_strategy = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(rows_strategy, st.sampled_from(METRICS), st.sampled_from(["mean", "bimatch"]), st.integers(1, 4))
def test_all_rows_give_what_the_ranker_of_found_rows_gives_when_all_were_found(rng, metric, ranker, asked) -> None:
    counts = {item: int(rng.integers(1, 6)) for item in range(1, 6)}
    held = {
        row_id(item, o): rng.integers(-3, 4, 3).astype(np.float32) + 0.5 for item in counts for o in range(counts[item])
    }
    query = (rng.integers(-3, 4, (asked, 3)) + 0.5).astype(np.float32)
    ids = np.array(list(held))
    vectors = np.stack(list(held.values())).astype(np.float32)
    order = rng.permutation(len(ids))
    halves = [(ids[some], vectors[some]) for some in np.array_split(order, 3)]
    found = []
    for row in query:
        scores = [pair_scores(row[None], vector[None], metric)[0, 0] for vector in vectors]
        found.append([RowHit(int(i), s, distance_of(s, metric)) for i, s in zip(ids, scores, strict=True)])
    right = rank(found, ranker, metric=metric, rows_of=counts, d_miss=D_MISS[metric])
    got = rank_items(halves, np.array(sorted(counts)), query, ranker, metric)
    by_item = {hit.item_no: hit.score for hit in right}
    assert {hit.item_no: hit.score for hit in got} == pytest.approx(by_item, abs=1e-6)
    assert [hit.score for hit in got] == sorted((hit.score for hit in got), reverse=True)
    assert pl.Series([hit.item_no for hit in got]).n_unique() == len(got) == len(counts)
