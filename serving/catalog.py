"""The served stores, each at its newest release; a new release replaces the old one between requests.

A request takes a reference to the open release and answers from it alone; the old release is closed when the last
request that uses it ends. If a vacuum deleted files during a request, it is answered again from the newest release.
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
        name: the store's name in URLs.
        swapped_at: seconds since 1970 at which the current release was opened.
        trouble: the reason why the last check for a new release failed; empty if it succeeded.
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
        """The open release; use one reference for a whole response."""
        return self._store

    def answer(self, ask: Callable[[ServedStore], T]) -> T:
        """Call ``ask`` with the open release; if its files were deleted, with a newer one.

        Raises:
            StoreError: the newest release is damaged.
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
        """Open the newest release unless it is open already; return whether it was opened."""
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
            raise StoreError(f"{self._store.uri} cannot be read ({reason_of(error)}).") from None


class Catalog:
    """All served stores by name, and the thread that checks for new releases."""

    def __init__(self, uris: Sequence[str], refresh_s: float) -> None:
        """Open every store.

        Raises:
            SpecError: no store was given.
            StoreError: a store cannot be opened.
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
        """Return the slot of a store, the first one by default.

        Raises:
            SpecError: there is no such store; the message names the served stores.
        """
        if not name:
            return next(iter(self.slots.values()))
        if name not in self.slots:
            raise UnknownNameError(f"No store {name[:60]!r} is served{nearest(name[:60], self.slots)}")
        return self.slots[name]

    def start(self) -> None:
        """Start checking for new releases."""
        self._thread.start()

    def close(self) -> None:
        """Stop checking."""
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
            # On any error the open release stays in use; the next check tries again.
            if not slot.trouble:
                _LOG.warning("refresh", extra={"fields": {"store": slot.name, "error": str(error)}})
            slot.trouble = str(error)


def _name_of(uri: str, taken: Sequence[str] | dict[str, ServedRelease]) -> str:
    """Return a short name for URLs: the folder's name, or its parent's if the folder is called ``store``.

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
