"""Releases published under a steady load: nothing fails, no answer mixes two, the new release answers soon.

The same load as ``python -m benchmarks serve``, for seconds on the small store instead of for minutes.
"""

from __future__ import annotations

from page_server import page_server
from stores import SmallStore, still

from benchmarks.serve_load import Load, Step
from cliploom.pipelines.demo.corpus import ROCKET
from cliploom.pipelines.running.publish import rollback
from cliploom.transforms.upkeep.vacuuming import vacuum_store

PATHS = [
    "/api/search?q=a+cup+of+coffee", "/api/search?like=videos/cat&index=frames", "/api/items/videos/cat",
    "/api/curve/videos/cat?q=cat", "/api/failures", "/?q=a+rocket", "/store", "/item/both?q=a+cat", "/api/releases",
    "/api/thumbnail/videos/cat?at=1", "/api/media/videos/cat", "/api/playback/videos/cat", "/metrics",
]  # fmt: skip


def test_three_nights_a_rollback_and_a_vacuum_under_load(small_store: SmallStore) -> None:
    store = str(small_store.store)

    def night(number: int) -> None:
        still(ROCKET, small_store.media / f"night-{number}.png")
        small_store.run()

    names = [f"night-{number}" for number in (1, 2, 3)]
    steps = [
        Step(name, lambda number=number: night(number), frozenset(names[:number]))  # type: ignore[misc]
        for number, name in enumerate(names, start=1)
    ]
    steps += [
        Step("rollback", lambda: rollback(store, 1), frozenset()),
        Step("vacuum", lambda: vacuum_store(store, 1, older_than=0.0) and None),
    ]
    with page_server(small_store.store) as server:
        found = Load(server.url, small_store.store, PATHS, steps).run(rate=20, seconds=10)
    assert found.problems == []
    assert set(found.releases) == {1, 2, 3, 4, 5}
    assert set(found.swaps) == {*names, "rollback"}
