"""Searching while a store changes, and in stores of older versions."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from golden_store import GOLDEN
from PIL import Image
from stores import SmallStore
from vector_store import VectorStore, vector_project
from web_server import Page, web_server

from cliploom.pipelines.running.publish import rollback
from cliploom.schemas.errors import SpecError
from cliploom.transforms.search.query_model import Answer, Query, QueryPart
from cliploom.transforms.search.searching import Store, open_store

DIM = 8
WHERE = "uid LIKE 'v0%' AND start_s < 2"


def rows_of(count: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"v{number:02d}": rng.normal(size=(5, DIM)).astype(np.float32) for number in range(count)}


def ask(store: Store, moments: int = 2) -> Answer:
    query = Query((QueryPart("vector", tuple(range(1, DIM + 1))),), WHERE, top=100, moments=moments, facets=("source",))
    return store.ask(query)


def uids(answer: Answer) -> set[str]:
    return {hit.uid for hit in answer.hits}


def plain(answer: Answer) -> list[tuple[str, float]]:
    return [(hit.uid, hit.score) for hit in answer.hits]


@pytest.fixture(params=["flat", "ivf_sq8", "hnsw"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> VectorStore:
    made = vector_project(tmp_path, rows_of(12, 1), f"kind: {request.param}")
    made.run()
    return made


def test_filters_follow_the_release_that_is_open(project: VectorStore) -> None:
    first = project.open()
    before = ask(first)
    assert (uids(before), before.total) == ({f"v{number:02d}" for number in range(10)}, 10)
    assert before.facets == {"source": [("s", 10)]}
    project.delete("v03", "v04")
    project.write({"v09": -100 * np.ones((5, DIM), np.float32)})
    project.run()
    # The reader that is open answers as before, also for what it was not asked yet.
    assert ask(first).hits == before.hits
    after = ask(project.open())
    assert (after.release, after.total) == (2, 8)
    assert uids(after) == uids(before) - {"v03", "v04"}
    assert after.hits[-1].uid == "v09"
    rollback(str(project.store), 1)
    again = ask(project.open())
    assert (again.release, plain(again)) == (3, plain(before))


def test_bytes_beside_floats_find_the_same_moments(tmp_path: Path) -> None:
    project = vector_project(tmp_path, rows_of(12, 2), "kind: flat")
    project.run(["indexes.small={feature: f, kind: ivf_sq8}"])
    store = project.open()
    by_index = {
        name: store.ask(Query((QueryPart("vector", tuple(range(1, DIM + 1))),), WHERE, index=(name,), moments=1, top=3))
        for name in ("f", "small")
    }
    assert uids(by_index["f"]) == uids(by_index["small"])
    both = ask(store)
    assert both.total == 10
    assert len(both.hits) == 10
    for hit in both.hits:
        starts = sorted((moment.start_s, moment.end_s) for moment in hit.moments)
        assert all(one[1] <= two[0] + 1e-3 for one, two in pairwise(starts))


def test_a_store_of_the_first_format_answers_new_queries(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "v1" / "store", tmp_path / "store")
    store = open_store(str(tmp_path / "store"))
    query = Query(
        (QueryPart("uid", "videos/clip-a"),), "duration > 0 AND uid LIKE 'videos/%'", index=("exact",), moments=2
    )
    answer = store.ask(query)
    assert answer.hits
    assert all(hit.uid.startswith("videos/") and hit.row_id is not None for hit in answer.hits)
    assert all(hit.moments for hit in answer.hits)


def test_narrations_and_frames_of_a_moment_are_one(small_store: SmallStore) -> None:
    lines = ["uid,start_s,end_s,text", "videos/coffee,0.2,0.8,a cup of coffee", "videos/cat,1.2,1.6,a cup of coffee"]
    (small_store.folder / "told.csv").write_text("\n".join(lines))
    small_store.run(
        [
            "sources.told={kind: narrations, format: csv, path: told.csv, columns: {end: end_s}}",
            "features.speech={source: told, encoder: minilm}",
            "indexes.speech={feature: speech, kind: flat}",
        ]
    )
    store = open_store(str(small_store.store))
    asked = {"index": ["frames", "speech"], "top": 10}
    apart = store.search("a cup of coffee", **asked)
    assert len([hit for hit in apart if hit.uid == "videos/coffee"]) == 2
    hits = store.search("a cup of coffee", moments=3, **asked)
    assert len({hit.uid for hit in hits}) == len(hits)
    assert (hits[0].uid, hits[0].source) == ("videos/coffee", "clips")
    told = [moment for moment in hits[0].moments if moment.text]
    assert [moment.text for moment in told] == ["a cup of coffee"]
    # The frame on screen and what is said over it are one moment, as long as both.
    assert told[0].start_s == 0
    assert told[0].end_s >= 1


def test_a_narration_named_without_the_extension_of_its_file_is_the_same_hit(tmp_path: Path) -> None:
    """As in EPIC-KITCHENS: texts of ``P01_03``, an item ``P01_03.png``."""
    (tmp_path / "media").mkdir()
    for name, colour in (("P01_03", (200, 0, 0)), ("P01_04", (0, 0, 200))):
        Image.new("RGB", (16, 16), colour).save(tmp_path / "media" / f"{name}.png")
    (tmp_path / "told.csv").write_text("uid,start_s,text\nP01_03,0,a cup of coffee\nP01_09,0,a cup of tea\n")
    spec = VectorStore(tmp_path)
    spec.spec.write_text(
        "version: 1\nname: kitchens\nstore: ./store\nsources:\n"
        '  clips: {kind: media, glob: "media/*", uid: file}\n'
        "  told: {kind: narrations, format: csv, path: told.csv}\n"
        "encoders: {minilm: {kind: minilm}, lite0: {kind: efficientnet_lite0, text_encoder: minilm}}\n"
        "features:\n  frames: {source: clips, sample: {every: 1s}, encoder: lite0, outputs: [semantic]}\n"
        "  speech: {source: told, encoder: minilm}\n"
        "indexes: {frames: {feature: frames, kind: flat}, speech: {feature: speech, kind: flat}}\n"
    )
    spec.run()
    hits = spec.open().search("a cup of coffee", moments=3)
    assert (hits[0].uid, hits[0].source) == ("P01_03.png", "clips")
    assert [moment.text for moment in hits[0].moments] == ["a cup of coffee"]
    # Texts without an item stay hits of their own.
    assert sorted(hit.uid for hit in hits) == ["P01_03.png", "P01_04.png", "P01_09"]


def test_a_store_that_opens_no_files_takes_uids_and_bytes(built_store: SmallStore) -> None:
    store = open_store(str(built_store.store))
    store.opens_files = False
    file = built_store.media / "videos" / "rocket.mp4"
    asked = {"index": ["frames"], "top": 1}
    assert store.search(like="page", **asked)[0].uid == "page-again"
    assert store.ask(Query((QueryPart("bytes", file.read_bytes()),), index=("frames",))).hits[0].uid == "videos/rocket"
    for name in (str(file), file.as_uri(), f"{file}@1s", "s3://bucket/cat.mp4"):
        with pytest.raises(SpecError, match=r"neither a file nor a uid|cannot name files"):
            store.search(like=name, **asked)
    with pytest.raises(SpecError, match="cannot name files"):
        store.ask(Query((QueryPart("file", str(file)),)))


def test_an_address_is_fetched_and_asked_as_a_file(built_store: SmallStore) -> None:
    store = open_store(str(built_store.store))
    with web_server() as server:
        server.pages["/rocket.mp4"] = Page((built_store.media / "videos" / "rocket.mp4").read_bytes())
        hit = store.search(like=server.url("/rocket.mp4"), index=["frames"], top=1)[0]
        assert (hit.uid, hit.score) == ("videos/rocket", pytest.approx(1, abs=1e-5))
        moment = store.search(like=server.url("/rocket.mp4") + "@1.2s", index=["frames"], top=1)[0]
        assert (moment.uid, moment.start_s) == ("videos/rocket", 1.0)
        with pytest.raises(SpecError, match=r"nothing\.mp4' can't be used as a query: "):
            store.search(like=server.url("/nothing.mp4"))
