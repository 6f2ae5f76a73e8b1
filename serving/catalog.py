"""The stores that are served, each at its newest release; a new release replaces the old one between requests.

A request takes the opened release once and answers from it alone; the old one is closed when the last request that
uses it ends. An answer that a vacuum made impossible is made again, whole, from the newest release.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from deltalake.exceptions import DeltaError

from cliploom.schemas.errors import SpecError, StoreError, UnknownNameError, nearest
from cliploom.serving.served_store import ServedStore, open_served
from cliploom.transforms.store.releases import TABLE, read_releases
from cliploom.transforms.store.tables import reason_of, table_at

T = TypeVar("T")
_LOG = logging.getLogger("cliploom.serve")


class ServedRelease:
    """A store's slot in the catalog: the release that requests get now.

    Attributes:
        name: by which addresses name the store.
        swapped_at: seconds since 1970, when the present release was put in place.
        trouble: why the last look for a new release failed; empty when it did not.
    """

    def __init__(self, name: str, uri: str) -> None:
        self.name = name
        self.trouble = ""
        self._lock = threading.Lock()
        self._store = open_served(uri)
        self._version = self._newest_version()
        self.swapped_at = time.time()

    @property
    def store(self) -> ServedStore:
        """The opened release; keep the reference for all of one answer."""
        return self._store

    def answer(self, ask: Callable[[ServedStore], T]) -> T:
        """Answer from one release; from a newer one when files of the present one are gone.

        Raises:
            StoreError: when the newest release is damaged.
        """
        store = self._store
        try:
            return ask(store)
        except (StoreError, FileNotFoundError):
            self.refresh(force=True)
            if self._store is store:
                raise
            return ask(self._store)

    def refresh(self, *, force: bool = False) -> bool:
        """Open the newest release when it is another one; returns whether it was."""
        with self._lock:
            version = self._newest_version()
            if version == self._version and not force:
                return False
            releases = read_releases(self._store.objects)
            latest = releases.get(None)
            if latest.release == self._store.release.release and latest == self._store.release:
                self._store.know_releases(releases)
                self._version = version
                return False
            fresh = ServedStore(self._store.objects, releases)
            fresh.load()
            self._store, self._version, self.swapped_at = fresh, version, time.time()
            return True

    def _newest_version(self) -> int:
        try:
            return int(table_at(self._store.objects, TABLE).version())
        except (DeltaError, OSError) as error:
            raise StoreError(f"{self._store.uri} can't be read ({reason_of(error)}).") from None


class Catalog:
    """All served stores by name, and the thread that looks for new releases."""

    def __init__(self, uris: Sequence[str], refresh_s: float) -> None:
        """Open every store.

        Raises:
            SpecError: when no store is named.
            StoreError: when one can't be opened.
        """
        if not uris:
            raise SpecError("Name a store to serve: cliploom serve STORE.")
        self.slots: dict[str, ServedRelease] = {}
        for uri in dict.fromkeys(uris):
            name = _name_of(uri, self.slots)
            self.slots[name] = ServedRelease(name, uri)
        self._refresh_s = refresh_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="releases", daemon=True)

    def get(self, name: str | None) -> ServedRelease:
        """The slot of a store, the first one by default.

        Raises:
            SpecError: naming the stores that there are.
        """
        if not name:
            return next(iter(self.slots.values()))
        if name not in self.slots:
            raise UnknownNameError(f"No store {name[:60]!r} is served{nearest(name[:60], self.slots)}")
        return self.slots[name]

    def start(self) -> None:
        """Begin to look for new releases."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _watch(self) -> None:
        while not self._stop.wait(self._refresh_s):
            for slot in self.slots.values():
                self._look(slot)

    def _look(self, slot: ServedRelease) -> None:
        try:
            if slot.refresh():
                _LOG.info("release", extra={"fields": {"store": slot.name, "release": slot.store.release.release}})
            slot.trouble = ""
        except Exception as error:
            # Whatever it is, the release that is open stays, and the next look tries again.
            if not slot.trouble:
                _LOG.warning("refresh", extra={"fields": {"store": slot.name, "error": str(error)}})
            slot.trouble = str(error)


def _name_of(uri: str, taken: Sequence[str] | dict[str, ServedRelease]) -> str:
    """A short name for addresses: the folder's, or its parent's where the folder is called ``store``.

    >>> _name_of("/data/demo/store", {}), _name_of("s3://bucket/films", {}), _name_of("b/films", {"films": 1})
    ('demo', 'films', 'films-2')
    """
    from cliploom.transforms.store.object_store import ObjectStore

    parts = PurePosixPath(ObjectStore(uri).uri.partition("://")[2] or ObjectStore(uri).uri).parts
    base = parts[-2] if parts[-1] == "store" and len(parts) > 1 else parts[-1]
    base = "".join(c if c.isalnum() or c in "-_." else "-" for c in base).strip(".-") or "store"
    number = 2
    name = base
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name
