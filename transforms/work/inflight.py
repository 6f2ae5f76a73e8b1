"""Poisoned items: a worker notes each item before it starts, so that a death leaves the note behind.

An item whose note is found at its start was being worked on when a worker died. It is then run in a process of its
own; when that dies too, the item is a failure (``crashed``) and nobody else is harmed. Notes of innocent neighbours
are cleared the same way, by running through.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from types import TracebackType

from cliploom.schemas.digests import digest_of
from cliploom.transforms.store.object_store import ObjectStore

_PR_SET_PDEATHSIG = 1


class Inflight:
    """Notes of one bundle of work under ``runs/<run>/inflight/``.

    A context manager: leaving it, also by an exception, clears the notes still held. Only a death leaves them.

    Attributes:
        suspects: keys that were noted when the work began.
    """

    def __init__(self, objects: ObjectStore, run: str) -> None:
        self._objects = objects
        self._folder = f"runs/{run}/inflight"
        self._held: set[str] = set()
        self.suspects = frozenset(entry.path.rsplit("/", 1)[-1] for entry in objects.list(self._folder))

    def __enter__(self) -> Inflight:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in tuple(self._held):
            self.clear(key)

    def mark(self, key: str) -> None:
        """Say that work on ``key`` begins."""
        self._held.add(key)
        self._objects.put(f"{self._folder}/{key}", b"")

    def clear(self, key: str) -> None:
        """Say that work on ``key`` has ended, well or not."""
        self._held.discard(key)
        self._objects.delete([f"{self._folder}/{key}"])


def die_with(parent: int) -> None:
    """See to it that this process ends when its parent does, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    watch_parent(parent)


def watch_parent(parent: int) -> None:
    """End this process within a second of its parent's end.

    Linux itself is quicker (``die_with``), but takes the end of the thread that started this process for the parent's.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def item_key(stage: str, uri: str, digest: str, segment: int = 0) -> str:
    """Name of an item's note."""
    return digest_of([stage, uri, digest, segment])
