"""Queries of several parts, filters, pages, groups, facets and moments, against brute force over known vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from stores import SmallStore
from vector_store import VectorStore, vector_project

from cliploom.schemas.errors import SpecError
from cliploom.transforms.index import kept
from cliploom.transforms.search.query_model import Query, QueryPart
from cliploom.transforms.search.searching import Store, open_store

DIM = 8
ITEMS = [f"v{number:02d}" for number in range(40)]
STRIDE_S = 16 / 30


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {uid: rng.normal(size=(6, DIM)).astype(np.float32) for uid in ITEMS}


@pytest.fixture(scope="module", params=["flat", "ivf_sq8", "ivf_rabitq", "hnsw"])
def project(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, vectors: dict[str, np.ndarray]
) -> VectorStore:
    made = vector_project(tmp_path_factory.mktemp(request.param), vectors, f"kind: {request.param}")
    made.run()
    return made


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory, vectors: dict[str, np.ndarray]) -> Store:
    made = vector_project(tmp_path_factory.mktemp("only-flat"), vectors, "kind: flat")
    made.run()
    return made.open()


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def ranking(vectors: dict[str, np.ndarray], query: np.ndarray, uids: list[str]) -> list[str]:
    scores = {uid: float((unit(vectors[uid]) @ unit(query)).max()) for uid in uids}
    return sorted(uids, key=lambda uid: -scores[uid])


@pytest.mark.parametrize("exact_rows", [0, kept.EXACT_ROWS])
@pytest.mark.parametrize(
    ("where", "uids"),
    [
        ("uid IN ('v01', 'v05', 'v17', 'v30', 'v31')", ["v01", "v05", "v17", "v30", "v31"]),
        ("uid LIKE 'v1%' AND NOT uid = 'v11'", [uid for uid in ITEMS if uid[1] == "1" and uid != "v11"]),
        ("uid >= 'v20' OR uid = 'v03'", ["v03", *ITEMS[20:]]),
        ("uid = 'v07' AND start_s >= 0", ["v07"]),
    ],
)
def test_a_filter_gives_all_hits_that_there_are_in_the_order_of_brute_force(
    project: VectorStore,
    vectors: dict[str, np.ndarray],
    where: str,
    uids: list[str],
    exact_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept, "EXACT_ROWS", exact_rows)
    query = np.random.default_rng(9).normal(size=DIM).astype(np.float32)
    store = project.open()
    hits = store.search(vector=query, where=where, top=100)
    expected = ranking(vectors, query, uids)
    if store.release.indexes["f"].kind.startswith("ivf_"):
        # Quantised scores may swap neighbours, and which ones differs between processors.
        assert {hit.uid for hit in hits} == set(expected)
        first, best = ((unit(vectors[uid]) @ unit(query)).max() for uid in (hits[0].uid, expected[0]))
        assert first == pytest.approx(best, abs=0.02)
    else:
        assert [hit.uid for hit in hits] == expected
    asked = store.ask(Query((QueryPart("vector", query),), where, top=3))
    assert (list(asked.hits), asked.total) == (hits[:3], len(uids))


def test_rows_outside_the_filter_do_not_count(flat: Store, vectors: dict[str, np.ndarray]) -> None:
    query = vectors["v03"][5]
    assert flat.search(vector=query)[0].uid == "v03"
    late, early = "start_s > 2.5", "end_s <= 2.5 AND uid = 'v03'"
    assert flat.search(vector=query, where=late)[0].start_s == pytest.approx(5 * STRIDE_S)
    (hit,) = flat.search(vector=query, where=early)
    rows = [number for number in range(6) if number * STRIDE_S + 32 / 30 <= 2.5]
    assert hit.score == pytest.approx(float((unit(vectors["v03"][rows]) @ unit(query)).max()), abs=1e-6)
    for rank in ("mean", "bimatch"):
        (ranked,) = flat.search(vector=query, where=early, rank=rank)
        if rank == "mean":
            assert ranked.score == pytest.approx(float((unit(vectors["v03"][rows]) @ unit(query)).mean()), abs=1e-6)


@pytest.mark.parametrize("rank", ["max", "mean", "bimatch"])
def test_pages_are_the_pieces_of_one_list(flat: Store, vectors: dict[str, np.ndarray], rank: str) -> None:
    query = vectors["v09"][:2]
    everything = flat.search(vector=query, rank=rank, top=100)
    pages = [flat.search(vector=query, rank=rank, top=7, offset=at) for at in range(0, 49, 7)]
    assert [hit for page in pages for hit in page] == everything
    assert len(everything) == len(ITEMS)


def test_parts_are_weighed_and_negative_ones_taken_off(flat: Store, vectors: dict[str, np.ndarray]) -> None:
    one, two, three = (vectors[uid][0] for uid in ("v01", "v02", "v03"))
    parts = (
        QueryPart("vector", one, weight=2.0),
        QueryPart("vector", two),
        QueryPart("vector", three, weight=0.5, negative=True),
    )
    mixed = 2 * unit(one) + unit(two) - 0.5 * unit(three)
    hits = flat.ask(Query(parts, top=100)).hits
    assert [hit.uid for hit in hits] == ranking(vectors, mixed, ITEMS)
    named = flat.search(like=["v01@0s", "v02@0s"], not_like="v03@0s", weights=[2, 1, 0.5], top=100)
    assert [hit.uid for hit in named] == [hit.uid for hit in hits if hit.uid not in ("v01", "v02", "v03")]
    with pytest.raises(SpecError, match="cancel each other out"):
        flat.search(vector=one, not_like="v01@0s")
    with pytest.raises(SpecError, match="2 weights are given for 1 parts"):
        flat.search(vector=one, weights=[1, 2])


def test_only_one_item_is_searched_with_in(flat: Store, vectors: dict[str, np.ndarray]) -> None:
    (hit,) = flat.search(like="v04@0s", in_uid="v04")
    assert (hit.uid, hit.score) == ("v04", pytest.approx(1, abs=1e-6))
    with pytest.raises(SpecError, match="no item 'v4'"):
        flat.search(like="v04", in_uid="v4")


def test_moments_are_the_best_stretches_and_the_curve_has_all_rows(tmp_path: Path) -> None:
    looks = {"cat": [1.0, 0, 0], "dog": [0, 1.0, 0], "cup": [0, 0, 1.0]}
    scenes = ["cup"] * 6 + ["cat"] * 4 + ["cup"] * 6 + ["dog"] + ["cup"] * 6 + ["cat"] * 2
    long = np.array([looks[scene] for scene in scenes], np.float32)
    project = vector_project(tmp_path, {"long": long, "short": long[:1]}, "kind: flat")
    project.run()
    store = project.open()
    hit = store.search(vector=[1, 0, 0], moments=5, top=1)[0]
    assert [(moment.start_s, moment.end_s) for moment in hit.moments] == [
        (pytest.approx(6 * STRIDE_S), pytest.approx(9 * STRIDE_S + 32 / 30)),
        (pytest.approx(23 * STRIDE_S), pytest.approx(24 * STRIDE_S + 32 / 30)),
    ]
    assert (hit.moments[0].score, hit.moments[0].row_id) == (pytest.approx(hit.score), hit.row_id)
    curve = store.curve("long", Query((QueryPart("vector", (1, 0, 0)),)))
    assert [score for _, _, score in curve] == pytest.approx(long[:, 0].tolist())
    assert curve[1][:2] == (pytest.approx(STRIDE_S), pytest.approx(STRIDE_S + 32 / 30))
    filtered = store.search(vector=[1, 0, 0], moments=5, where="start_s > 10")[0]
    assert [moment.start_s for moment in filtered.moments] == [pytest.approx(23 * STRIDE_S)]


@pytest.fixture(scope="module")
def listed(built_store: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The small store with columns of metadata."""
    import shutil

    folder = tmp_path_factory.mktemp("listed") / "project"
    shutil.copytree(built_store.folder, folder, symlinks=True)
    rows = {
        "uri": [f"media/{name}" for name in ("videos/cat.mp4", "videos/coffee.mp4", "page.png", "page-again.png")],
        "uid": ["cat", "coffee", "page", "again"],
        "year": ["2019", "2021", "2023", None],
        "place": ["home", "home", "office", "office"],
    }
    pl.DataFrame(rows).write_csv(folder / "list.csv")
    store = SmallStore(folder)
    store.run(["sources.clips={kind: media, table: list.csv}"])
    return open_store(str(store.store))


@pytest.mark.parametrize(
    ("where", "uids"),
    [
        ("year > 2020", {"coffee", "page"}),
        ("year >= '2021'", {"coffee", "page"}),
        ("NOT year > 2020", {"cat"}),
        ("year IS NULL", {"again"}),
        ("place = 'home' OR year = 2023", {"cat", "coffee", "page"}),
        ("place ILIKE 'OFF%' AND year BETWEEN 2020 AND 2024", {"page"}),
        ("PLACE <> 'home'", {"page", "again"}),
        ("duration >= 2 AND source = 'clips'", {"cat", "coffee"}),
        ("2 < duration", {"cat"}),
        ("year > 2020 AND start_s >= 1", {"coffee"}),
        ("label = 'x' OR NOT labels = 'x'", {"cat", "coffee", "page", "again"}),
        ("year > 3000", set()),
    ],
)
def test_columns_of_metadata_filter(listed: Store, where: str, uids: set[str]) -> None:
    answer = listed.ask(Query((QueryPart("text", "a cat"),), where, index=("frames",), facets=("place",)))
    assert {hit.uid for hit in answer.hits} == uids
    assert answer.total == len(uids)
    assert sum(count for _, count in answer.facets["place"]) == len(uids)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("yeer > 2020", "did you mean 'year'?"),
        ("year > abc", "in place of 'abc'"),
        ("duration > 'long'", "'duration' has numbers; 'long' is not a number"),
        ("read_csv('/etc/passwd') = 1", "functions such as 'read_csv' are not allowed"),
        ("uid = 'a'; DROP TABLE items", "';' is not part of a filter"),
        ("SELECT uid FROM items", "a comparison such as = is expected"),
        ("uid = (SELECT 1)", "is expected in place of '('"),
        ("uid", "a comparison such as = is expected at the end"),
        ("(uid = 'a'", ") is expected at the end"),
        ("uid = 'a", "is not closed"),
        ("(" * 60 + "uid = 'a'" + ")" * 60, "nested more than 50 deep"),
        ("uid IN ()", "a number or a string"),
        ("  ", "empty"),
    ],
)
def test_a_filter_that_cannot_be_read_is_one_sentence(listed: Store, where: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        listed.search("a cat", index=["frames"], where=where)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_groups_keep_the_best_hit_of_each_value(listed: Store) -> None:
    hits = listed.search("a cat", index=["frames"])
    grouped = listed.search("a cat", index=["frames"], group="place")
    first = {hit.metadata["place"]: hit for hit in reversed(hits)}
    assert grouped == [hit for hit in hits if hit in first.values()]
    with pytest.raises(SpecError, match="There is no column 'plase' to group by; did you mean 'place'"):
        listed.search("a cat", group="plase")


def test_a_text_and_a_picture_are_one_query(listed: Store) -> None:
    both = listed.search("a cup of coffee", like="cat", not_text="a page", weights=[1, 0.5, 0.2], index=["frames"])
    assert both[0].uid == "coffee"
    assert "cat" not in {hit.uid for hit in both}


def test_bytes_of_a_file_find_its_item(built_store: SmallStore) -> None:
    store = open_store(str(built_store.store))
    data = (built_store.media / "videos" / "rocket.mp4").read_bytes()
    hit = store.ask(Query((QueryPart("bytes", data, 1.2),), index=("frames",))).hits[0]
    assert (hit.uid, hit.start_s) == ("videos/rocket", 1.0)


def test_a_query_is_the_same_after_json() -> None:
    query = Query(
        (
            QueryPart("text", "a cat"),
            QueryPart("bytes", b"\0\xff", 1.5, 0.5, negative=True),
            QueryPart("vector", [1, 2]),
        ),
        where="year > 2020",
        index=("frames",),
        facets=("year",),
        moments=2,
    )
    assert Query.from_dict(json.loads(json.dumps(query.to_dict()))) == query


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "'parts' is missing"),
        ({"parts": []}, "none is given"),
        ({"parts": "cat"}, "not a list"),
        ({"parts": [{"kind": "txt", "value": "a"}]}, "did you mean 'text'?"),
        ({"parts": [{"kind": "text", "value": "a", "wait": 1}]}, "did you mean 'weight'?"),
        ({"parts": [{"kind": "text", "value": "a", "weight": 0}]}, "weight"),
        ({"parts": [{"kind": "text", "value": "a", "negative": True}]}, "only has negative parts"),
        ({"parts": [{"kind": "bytes", "value": "?"}]}, "base64"),
        ({"parts": [{"kind": "text", "value": "a"}], "topp": 3}, "did you mean 'top'?"),
        ({"parts": [{"kind": "text", "value": "a"}], "top": "3"}, "top is '3'"),
        ({"parts": [{"kind": "text", "value": "a"}], "offset": -1}, "offset is -1"),
        ({"parts": [{"kind": "text", "value": "a"}], "index": 3}, "a list of names"),
        ([], "give an object"),
    ],
)
def test_json_that_is_no_query_is_one_sentence(value: object, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        Query.from_dict(value)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
