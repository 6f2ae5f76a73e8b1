"""A new release replaces the old one while requests go on: none fails, none mixes two, none needs the old files."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import pytest
from page_server import PageServer, page_server
from stores import SmallStore, still

from cliploom.pipelines.demo.corpus import ROCKET
from cliploom.pipelines.running.publish import rollback
from cliploom.transforms.upkeep.vacuuming import vacuum_store

SWAP_S = 5.0


class Asking:
    """Threads that ask without pause, and what went wrong."""

    def __init__(self, server: PageServer) -> None:
        self._server = server
        self._stop = threading.Event()
        self.problems: list[str] = []
        self.answers: dict[int, int] = {}
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(4)]

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        paths = (
            f"/api/search?q=a+cup+of+coffee+{number}",
            "/api/search?like=videos/cat&index=frames",
            "/api/items/videos/cat",
            "/api/curve/videos/cat?q=cat",
            "/api/failures",
            "/?q=a+rocket",
            "/store",
        )
        with httpx.Client(base_url=self._server.url, timeout=60) as client:
            turn = number
            while not self._stop.is_set():
                self._check(client, paths[turn % len(paths)])
                turn += 1

    def _check(self, client: httpx.Client, path: str) -> None:
        answer = client.get(path)
        if answer.status_code != 200:
            self.problems.append(f"{path}: {answer.status_code} {answer.text[:300]}")
        elif path.startswith("/api/"):
            found = answer.json()
            release = found["release"]
            self.answers[release] = self.answers.get(release, 0) + 1
            mixed = {hit["release"] for hit in found.get("hits", ())} - {release}
            # Only the second release has the new picture, and it has it always.
            uids = {hit["uid"] for hit in found.get("hits", ())}
            if mixed or (path.startswith("/api/search?q") and ("new" in uids) != (release in (2, 4))):
                self.problems.append(f"{path}: mixed {release} with {mixed} {uids}")


def wait_for(server: PageServer, release: int) -> float:
    """Seconds until the server answers from a release."""
    begun = time.monotonic()
    while server.get("/healthz").json()["stores"]["project"] != release:
        assert time.monotonic() - begun < 60
        time.sleep(0.05)
    return time.monotonic() - begun


@pytest.mark.slow
def test_releases_are_swapped_under_load(small_store: SmallStore) -> None:
    with page_server(small_store.store) as server, Asking(server) as asking:
        still(ROCKET, small_store.media / "new.png")
        small_store.run()
        took = [wait_for(server, 2)]
        rollback(str(small_store.store), 1)
        took.append(wait_for(server, 3))
        rollback(str(small_store.store), 2)
        took.append(wait_for(server, 4))
        vacuum_now(small_store.store)
        time.sleep(0.5)  # some more answers without the old files
    assert asking.problems == []
    assert set(asking.answers) >= {1, 2}
    assert max(took) < 10 * SWAP_S  # the machine may be busy; the look itself comes every 0.2 s


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
