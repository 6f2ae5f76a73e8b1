"""Search: exact results for every kind of query, from a single release."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from commands import command
from stores import SmallStore, still

from cliploom.pipelines.demo.corpus import COFFEE
from cliploom.schemas.digests import digest_bytes
from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.release import FileEntry
from cliploom.transforms.readers import release_tables
from cliploom.transforms.readers.release_tables import ReleaseReader
from cliploom.transforms.search.query import parse_moment, split_moment
from cliploom.transforms.search.searching import Store, open_store
from cliploom.transforms.store.cache import cached_file
from cliploom.transforms.store.object_store import ObjectStore

CAT, COFFEE_UID, ROCKET = "videos/cat", "videos/coffee", "videos/rocket"


@pytest.fixture(scope="module")
def store(built_store: SmallStore) -> Store:
    return open_store(str(built_store.store))


def vectors_of(store: ReleaseReader, feature: str, output: str) -> pl.DataFrame:
    return store.table(feature).select("row_id", "uid", "start_s", pl.col(output).alias("vector")).collect()


def brute_force(store: ReleaseReader, query: np.ndarray) -> dict[str, float]:
    """Best cosine of any row of each item to any row of the query."""
    rows = vectors_of(store, "frames", "semantic")
    matrix = np.array(rows["vector"].to_list())
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    best = (query @ matrix.T).max(axis=0)
    frame = pl.DataFrame({"uid": rows["uid"], "score": best}).group_by("uid").agg(pl.col("score").max())
    return dict(frame.rows())


@pytest.mark.parametrize(("text", "uid"), [("a cat", CAT), ("a cup of coffee", COFFEE_UID)])
def test_words_find_what_they_name(store: Store, text: str, uid: str) -> None:
    assert uid in [hit.uid for hit in store.search(text, index=["frames"], top=2)]


def test_words_ask_all_indexes_that_take_text_and_no_other(store: Store) -> None:
    hits = store.search("a cup of coffee")
    assert {hit.index for hit in hits} <= {"frames", "lists"}
    # Both put the cup first: 1 / 61 from each.
    assert (hits[0].uid, hits[0].score) == (COFFEE_UID, pytest.approx(2 / 61))


def test_a_uid_finds_the_others_in_the_order_of_brute_force(store: Store) -> None:
    rows = vectors_of(store, "frames", "semantic").filter(pl.col("uid") == CAT)
    expected = brute_force(store, np.array(rows["vector"].to_list()))
    del expected[CAT]
    hits = store.search(like=CAT, index=["frames"], top=100)
    assert {hit.uid: hit.score for hit in hits} == pytest.approx(expected, abs=1e-6)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_vector_of_the_callers_finds_what_brute_force_finds(store: Store) -> None:
    rows = vectors_of(store, "frames", "semantic").filter(pl.col("uid") == CAT)
    query = np.array(rows["vector"].to_list(), np.float32)
    one = store.search(vector=query[0].tolist(), index=["frames"], top=100)
    assert {hit.uid: hit.score for hit in one} == pytest.approx(brute_force(store, query[:1]), abs=1e-6)
    many = store.search(vector=query, index=["frames"], top=100)
    assert {hit.uid: hit.score for hit in many} == pytest.approx(brute_force(store, query), abs=1e-6)


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        ([1.0, 2.0], "numbers; the given one has 2"),
        ([float("nan")] * 384, "not finite"),
        ([], "shape"),
        ("cat", "not a list of numbers"),
    ],
)
def test_a_vector_that_cannot_be_asked_is_one_sentence(store: Store, vector: object, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        store.search(vector=vector, index=["frames"])  # type: ignore[arg-type]


def test_asking_again_reads_no_table_again(built_store: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_store(str(built_store.store))
    first = opened.search(like=CAT, index=["frames"])
    logs: list[str] = []
    monkeypatch.setattr(release_tables, "table_files", lambda objects, table, version: logs.append(table) or [])
    assert opened.search(like=CAT, index=["frames"]) == first
    assert logs == []


def test_times_are_kept_of_the_parts_asked_for_last(built_store: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_tables, "_KEPT_TIMES", 1)
    monkeypatch.setattr(release_tables, "_KEPT_ROWS", 0)
    opened = open_store(str(built_store.store))
    assert opened.search(like=CAT, index=["frames"]) == open_store(str(built_store.store)).search(
        like=CAT, index=["frames"]
    )
    assert len(opened._times) == 1


def test_top_cuts_the_same_list(store: Store) -> None:
    everything = store.search(like=CAT, index=["frames"], top=100)
    assert store.search(like=CAT, index=["frames"], top=2) == everything[:2]


def test_a_moment_of_a_uid_is_the_row_on_screen_then(store: Store) -> None:
    rows = vectors_of(store, "frames", "semantic").filter((pl.col("uid") == CAT) & (pl.col("start_s") == 1.0))
    expected = brute_force(store, np.array(rows["vector"].to_list()))
    del expected[CAT]
    hits = store.search(like=f"{CAT}@1.5s", index=["frames"], top=100)
    assert {hit.uid: hit.score for hit in hits} == pytest.approx(expected, abs=1e-6)


def test_a_file_is_encoded_as_the_feature_says_and_finds_its_own_item_with_its_moment(
    store: Store, built_store: SmallStore
) -> None:
    hits = store.search(like=str(built_store.media / "videos" / "rocket.mp4"), index=["frames"])
    assert hits[0].uid == ROCKET
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    moment = store.search(like=f"{built_store.media / 'videos' / 'rocket.mp4'}@1.2", index=["frames"])
    assert (moment[0].uid, moment[0].start_s, moment[0].frame) == (ROCKET, 1.0, 5)
    assert moment[0].score == pytest.approx(1.0, abs=1e-5)


def test_a_file_that_is_not_in_the_store_finds_what_it_shows(store: Store, tmp_path: Path) -> None:
    picture = still(COFFEE, tmp_path / "cup.png")
    assert store.search(like=str(picture), index=["frames"])[0].uid == COFFEE_UID
    assert store.search(like=picture.as_uri(), index=["graph"])[0].uid == COFFEE_UID


def test_a_file_asks_every_index_and_the_lists_are_merged(store: Store, tmp_path: Path) -> None:
    hits = store.search(like=str(still(COFFEE, tmp_path / "cup.png")))
    assert hits[0].uid == COFFEE_UID
    assert hits[0].score == pytest.approx(3 / 61)


def test_equal_files_find_each_other_at_score_one(store: Store) -> None:
    hit = store.search(like="page", index=["frames"], top=1)[0]
    assert (hit.uid, hit.score) == ("page-again", pytest.approx(1.0, abs=1e-6))


def test_an_l2_index_scores_by_minus_the_distance(store: Store) -> None:
    rows = vectors_of(store, "looks", "pooled")
    mine = np.array(rows.filter(pl.col("uid") == CAT)["vector"].to_list())
    for hit in store.search(like=CAT, index=["graph"]):
        other = np.array(rows.filter(pl.col("uid") == hit.uid)["vector"].to_list())
        distance = np.linalg.norm(mine[:, None] - other[None], axis=2).min()
        assert hit.score == pytest.approx(-distance, rel=1e-5)


@pytest.mark.parametrize("ranker", ["max", "mean", "bimatch"])
def test_every_ranker_puts_the_gif_with_a_cat_in_it_next_to_the_cat(store: Store, ranker: str) -> None:
    hits = store.search(like=CAT, index=["frames"], rank=ranker, top=3)
    assert hits[0].uid == "both"
    assert len({hit.uid for hit in hits}) == 3


def test_hits_have_stable_keys_and_are_json(store: Store, built_store: SmallStore) -> None:
    hit = store.search("a rocket", top=1, index=["frames"])[0]
    plain = json.loads(json.dumps(hit.to_dict()))
    assert list(plain) == [
        "index",
        "source",
        "uid",
        "score",
        "start_s",
        "end_s",
        "frame",
        "uri",
        "metadata",
        "release",
        "text",
        "labels",
        "row_id",
        "fit",
        "moments",
    ]
    assert plain["uri"].startswith(str(built_store.media))
    assert plain["release"] == 1


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({}, "neither is given"),
        ({"text": "a", "like": CAT, "index": ["graph"]}, "without text queries"),
        ({"text": "  "}, "empty"),
        ({"text": "\ud800"}, "surrogate"),
        ({"like": ""}, "empty"),
        ({"text": "a", "top": 0}, "top is 0"),
        ({"text": "a", "top": float("nan")}, "top is nan"),
        ({"text": "a", "top": True}, "top is True"),
        ({"text": "a", "rank": "maxx"}, "did you mean 'max'?"),
        ({"text": "a", "index": ["frame"]}, "did you mean 'frames'?"),
        ({"text": "a", "index": ["graph"]}, "'pooled' of encoder 'efficientnet_lite0'"),
        ({"text": "a", "index": ["frames", "graph"]}, "ask the index frames or lists"),
        ({"like": "videos/cut"}, "did you mean 'videos/cat'?"),
        ({"like": "elsewhere/rocket.mp4"}, "did you mean 'videos/rocket'?"),
        ({"like": "no/such/file.mp4"}, "neither a file nor a uid"),
        ({"like": "nothing@3s"}, "neither a file nor a uid"),
        ({"like": f"{CAT}@99"}, "has no row at 99 s; its rows lie within 0 to 3 s"),
        ({"like": f"{CAT}@nan"}, "'nan' is not a time"),
        ({"like": f"{CAT}@-1s"}, "'-1s' is not a time"),
        ({"like": f"{CAT}@"}, "'' is not a time"),
        ({"like": "noise"}, "has no rows in the index"),
        ({"like": "nul\0byte"}, "neither a file nor a uid"),
        ({"like": "s4://bucket/cat.mp4"}, "s4://"),
    ],
)
def test_a_query_that_cannot_be_asked_is_one_sentence(store: Store, question: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        store.search(**question)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_decoded_says_why(store: Store, built_store: SmallStore) -> None:
    with pytest.raises(SpecError, match=r"noise\.mp4' can't be used as a query"):
        store.search(like=str(built_store.media / "noise.mp4"))
    with pytest.raises(SpecError, match="lasts 3 s, so nothing is on screen at 9 s"):
        store.search(like=f"{built_store.media / 'videos' / 'cat.mp4'}@9", index=["frames"])


def test_a_store_without_an_index_says_how_to_add_one(small_store: SmallStore) -> None:
    small_store.run(["indexes={}"])
    with pytest.raises(SpecError, match=r"add one to the spec, such as indexes: \{frames: \{feature: frames\}\}"):
        open_store(str(small_store.store)).search("a cat")


def test_there_must_be_a_store_and_looking_for_it_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no store at"):
        open_store(str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(StoreError, match="is not a store"):
        open_store(str(tmp_path))


def test_readers_keep_their_release_while_the_next_is_published(small_store: SmallStore) -> None:
    before = open_store(str(small_store.store))
    first = before.search(like="page", index=["frames"])
    (small_store.media / "page-again.png").unlink()
    small_store.run()
    assert before.search(like="page", index=["frames"]) == first
    assert open_store(str(small_store.store), 1).search(like="page", index=["frames"]) == first
    after = open_store(str(small_store.store))
    assert after.release.release == 2
    assert "page-again" not in {hit.uid for hit in after.search(like="page", index=["frames"], top=100)}
    with pytest.raises(StoreError, match="There is no release 7; the store has 1 to 2"):
        open_store(str(small_store.store), 7)


def test_a_store_rolled_back_answers_as_the_old_release(small_store: SmallStore) -> None:
    from cliploom.pipelines.running.publish import rollback

    first = open_store(str(small_store.store)).search(like="page", index=["frames"])
    (small_store.media / "page-again.png").unlink()
    small_store.run()
    rollback(str(small_store.store), 1)
    again = open_store(str(small_store.store)).search(like="page", index=["frames"])
    assert [(hit.uid, hit.score) for hit in again] == [(hit.uid, hit.score) for hit in first]
    assert {hit.release for hit in again} == {3}


def test_metadata_of_the_listing_table_comes_with_the_hit(small_store: SmallStore) -> None:
    rows = {"uri": ["media/videos/cat.mp4", "media/page.png"], "uid": ["c", "p"], "licence": ["CC0", "MIT"]}
    pl.DataFrame(rows).write_csv(small_store.folder / "list.csv")
    small_store.run(["sources.clips={kind: media, table: list.csv}"])
    (hit,) = open_store(str(small_store.store)).search(like="c", index=["frames"])
    assert (hit.uid, hit.metadata) == ("p", {"licence": "MIT"})


def test_a_missing_index_file_is_an_error_that_names_it(small_store: SmallStore) -> None:
    shutil.rmtree(small_store.store / "index" / "frames")
    with pytest.raises(StoreError, match=r"index/frames/shard-.* is missing; `cliploom verify`"):
        open_store(str(small_store.store)).search("a cat", index=["frames"])


def test_search_does_not_import_beam(built_store: SmallStore) -> None:
    code = (
        "import sys\nfrom cliploom.transforms.search.searching import open_store\n"
        "store = open_store(sys.argv[1])\nstore.search('a cat')\nstore.search(like=sys.argv[2])\n"
        "print([name for name in ('apache_beam', 'torch', 'tensorflow') if name in sys.modules])"
    )
    picture = str(built_store.media / "page.png")
    command = [sys.executable, "-c", code, str(built_store.store), picture]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12.5s", 12.5), ("12.5", 12.5), ("1m30s", 90.0), ("1h", 3600.0), ("2m", 120.0), (".5", 0.5), ("1h2m3.5", 3723.5)],
)
def test_moments_are_read(text: str, seconds: float) -> None:
    assert parse_moment(text) == seconds


@pytest.mark.parametrize("text", ["", "nan", "inf", "-1", "1e3", "1s2m", "abc", "1 s"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    assert parse_moment(text) is None


def test_only_the_last_at_sign_separates_a_moment() -> None:
    assert split_moment("me@home@2s").name == "me@home"


def test_a_bucket_file_is_fetched_once_checked_and_evicted_by_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    bucket = ObjectStore("memory:///")
    entries = []
    for number in range(3):
        data = bytes([number]) * 100
        entries.append(FileEntry(path=f"index/a/{number}.faiss", size=100, digest=digest_bytes(data)))
        bucket.put(entries[-1].path, data)
    first = cached_file(bucket, entries[0], limit=250)
    assert first.read_bytes() == bytes(100)
    bucket.delete([entries[0].path])
    assert cached_file(bucket, entries[0], limit=250) == first
    cached_file(bucket, entries[1], limit=250)
    last = cached_file(bucket, entries[2], limit=250)
    assert last.exists()
    assert not first.exists()
    with pytest.raises(StoreError, match="is missing"):
        cached_file(bucket, entries[0], limit=250)
    bucket.put(entries[0].path, b"other")
    with pytest.raises(StoreError, match="is damaged"):
        cached_file(bucket, entries[0], limit=250)
    assert not list(last.parent.glob(".fetching-*"))


def test_likeness_asks_the_index_over_what_no_text_can_ask(small_store: SmallStore) -> None:
    small_store.run(["indexes.pooled={feature: frames, output: pooled}"])
    store = open_store(str(small_store.store))
    assert store.indexes_for_likeness() == ["graph", "pooled"]
    [best] = store.search(like="videos/cat", index=["pooled"], top=1)
    assert store.search(like="videos/cat", top=1)[0].uid == best.uid
    assert {hit.index for hit in store.search(like=str(small_store.media / "page.png"))} <= {"graph", "pooled"}
    assert store.search("a cat", top=1)[0].index in ("frames", "lists")


def test_l2_results_are_positive_distances(built_store: SmallStore, capsys: pytest.CaptureFixture[str]) -> None:
    call = command(capsys)
    shown = call("search", built_store.store, "--like", "videos/cat", "--index", "graph", "--top", "3").out.splitlines()
    assert shown[0].split()[:2] == ["#", "distance"]
    distances = [float(line.split()[1]) for line in shown[1:]]
    assert distances == sorted(distances)
    assert distances[0] > 0
    hits = json.loads(call("search", built_store.store, "--like", "videos/cat", "--index", "graph", "--json").out)
    assert hits[0]["distance"] == pytest.approx(-hits[0]["score"])
    assert (
        "distance" not in json.loads(call("search", built_store.store, "a cat", "--index", "frames", "--json").out)[0]
    )
