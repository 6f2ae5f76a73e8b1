"""A new release replaces the old one while requests go on: none fails, none mixes two, none needs the old files."""

from __future__ import annotations

import time
from pathlib import Path

from page_server import page_server
from stores import SmallStore

from cliploom.transforms.upkeep.vacuuming import vacuum_store


def vacuum_now(store: Path) -> None:
    """Remove everything that the newest release does not name."""
    vacuum_store(str(store), 1, older_than=0.0)


def test_an_answer_that_a_vacuum_made_impossible_comes_from_the_newest_release(small_store: SmallStore) -> None:
    with page_server(small_store.store) as server:
        slot = server.catalog.get(None)
        server.catalog.close()  # nobody looks for releases; the request itself has to
        old = slot.store
        small_store.run(full_refresh=True, overrides=["features.frames.sample.every=500ms"])
        vacuum_now(small_store.store)
        assert slot.store is old
        found = server.get("/api/search", params={"like": "videos/cat", "index": "frames"})
        assert found.status_code == 200, found.text
        assert found.json()["release"] == 2
        assert slot.store.release.release == 2


def test_words_are_answered_from_a_release_whose_files_are_gone(small_store: SmallStore) -> None:
    with page_server(small_store.store) as server:
        server.catalog.close()
        small_store.run(full_refresh=True, overrides=["features.frames.sample.every=500ms"])
        vacuum_now(small_store.store)
        found = server.get("/api/search", params={"q": "a cat never asked before", "index": ["frames", "lists"]}).json()
        assert found["release"] == 1
        assert found["hits"][0]["uid"] in ("videos/cat", "both")


def test_a_store_that_can_not_be_read_keeps_its_open_release(small_store: SmallStore) -> None:
    with page_server(small_store.store) as server:
        away = small_store.store.with_name("away")
        small_store.store.rename(away)
        begun = time.monotonic()
        while not server.catalog.get(None).trouble and time.monotonic() - begun < 30:
            time.sleep(0.05)
        assert server.get("/api/search?q=cat").status_code == 200
        assert 'cliploom_serve_refresh_ok{store="project"} 0' in server.get("/metrics").text
        away.rename(small_store.store)
