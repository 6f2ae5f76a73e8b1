"""Poisoned items: a worker notes each item before it starts, so that a death leaves the note behind.

An item whose note is found at its start was being worked on when a worker died. It is then run in a process of its
own; when that dies too, the item is a failure (``crashed``) and nobody else is harmed. Notes of innocent neighbours
are cleared the same way, by running through.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import CrashedError, ItemError, StalledError
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.watchdog import STALLED, alive, watched

_PR_SET_PDEATHSIG = 1
_LOOK_S = 1.0


def run_alone(
    target: Callable[..., None], arguments: Sequence[object], stage: str, stall_s: float, stacks: Path
) -> ItemError | None:
    """Run an item that a worker died on in a process of its own, to its end.

    Args:
        target: what the process does; it takes the arguments.
        arguments: picklable.
        stage: of the failure.
        stall_s: seconds that the item may make no progress; the process watches itself.
        stacks: file that the process's watchdog writes to.

    Returns:
        The item's failure, when the process died or stalled.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_alone, args=(target, arguments, stall_s, stacks, os.getpid())
    )
    process.start()
    while process.is_alive():
        process.join(_LOOK_S)
        alive()
    code = process.exitcode or 0
    if not code:
        return None
    if code == STALLED or (stacks.exists() and stacks.stat().st_size):
        reason = f"it made no progress for {stall_s:g} s (limits.stall), alone in a process as well"
        return StalledError(stage, reason, transient=True)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    # The out-of-memory killer's victim may do better on another night; a fault of the file will not.
    transient = code == -signal.SIGKILL
    return CrashedError(stage, f"the worker process died twice on this item ({how})", transient=transient)


def _alone(target: Callable[..., None], arguments: Sequence[object], stall_s: float, stacks: Path, parent: int) -> None:
    die_with(parent)
    with stacks.open("w", encoding="utf-8") as log, watched(stall_s, log):
        target(*arguments)


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
