"""Readers of a store that was moved, or of a release that a vacuum removed: one sentence, a ``StoreError``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from stores import SmallStore

import cliploom
from cliploom import ClipWindows, Store, StoreError
from cliploom.pipelines.cli.main import main


def asked_of(store: Store) -> dict[str, Callable[[], object]]:
    """What can be asked of an open store."""
    return {
        "table": lambda: store.table("frames").collect(),
        "items": lambda: store.items.collect(),
        "rows_of": lambda: store.rows_of("looks", 1, "pooled"),
        "search": lambda: store.search(like="videos/cat"),
    }


def test_a_release_that_was_removed_by_a_vacuum_is_named(small_store: SmallStore) -> None:
    read, unread = cliploom.open(small_store.store), cliploom.open(small_store.store)
    for ask in asked_of(read).values():
        ask()
    windows = ClipWindows(str(small_store.store), "frames", output="semantic", hdf5=False)
    for path in (small_store.media / "videos").iterdir():
        path.unlink()
    small_store.run()
    with pytest.raises(SystemExit) as ended:
        main(["vacuum", str(small_store.store), "--keep-releases", "1", "--older-than", "0s"])
    assert not ended.value.code
    said = f"Release 1 of {small_store.store} was removed by a vacuum since it was opened; open the store again"
    for ask in asked_of(unread).values():
        with pytest.raises(StoreError, match=said):
            ask()
    with pytest.raises(StoreError, match=said):
        asked_of(read)["table"]()
    with pytest.raises(StoreError, match="a vacuum removed the release that was opened; open it again"):
        windows["videos/cat", 0.0, 2.0]


def test_a_store_that_was_moved_is_named(small_store: SmallStore, tmp_path: Path) -> None:
    read, unread = cliploom.open(small_store.store), cliploom.open(small_store.store)
    for ask in asked_of(read).values():
        ask()
    windows = ClipWindows(str(small_store.store), "frames", output="semantic", hdf5=False)
    small_store.store.rename(tmp_path / "moved")
    said = f"There is no store at {small_store.store} any more; it was moved or deleted since it was opened"
    for ask in asked_of(unread).values():
        with pytest.raises(StoreError, match=said):
            ask()
    for name in ("table", "items", "rows_of"):
        with pytest.raises(StoreError, match=said):
            asked_of(read)[name]()
    with pytest.raises(StoreError, match="does not exist: the store was moved"):
        windows["videos/cat", 0.0, 2.0]
