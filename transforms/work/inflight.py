"""Poison-item detection: a worker writes a marker before it starts an item, so a crash leaves the marker behind.

An item whose marker exists before it starts was in progress when a worker died. It is then run in a separate process.
If that dies too, the item becomes a failure ``Crashed`` and no other item is affected. Markers of harmless items that
were in progress at the same time are removed in the same way, because these items succeed.
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
    """Run an item that was in progress when a worker died in a separate process, and wait for it.

    Args:
        target: function to call in the process.
        arguments: arguments of ``target``; picklable.
        stage: stage of a failure.
        stall_s: seconds without progress after which the process ends itself.
        stacks: file that the process's watchdog writes stack traces to.

    Returns:
        The item's failure if the process died or stalled, else None.
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
    # SIGKILL usually means out of memory, which may pass; other deaths are caused by the file and are permanent.
    transient = code == -signal.SIGKILL
    return CrashedError(stage, f"the worker process died twice on this item ({how})", transient=transient)


def _alone(target: Callable[..., None], arguments: Sequence[object], stall_s: float, stacks: Path, parent: int) -> None:
    die_with(parent)
    with stacks.open("w", encoding="utf-8") as log, watched(stall_s, log):
        target(*arguments)


class Inflight:
    """Markers of one bundle of work under ``runs/<run>/inflight/``.

    A context manager: leaving it, also by an exception, removes the remaining markers. Only a crash leaves them.

    Attributes:
        suspects: keys that were marked when the work began.
    """

    def __init__(self, objects: ObjectStore, run: str) -> None:
        self._objects = objects
        self._folder = f"runs/{run}/inflight"
        self._marked: set[str] = set()
        self.suspects = frozenset(entry.path.rsplit("/", 1)[-1] for entry in objects.list(self._folder))

    def __enter__(self) -> Inflight:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in tuple(self._marked):
            self.clear(key)

    def mark(self, key: str) -> None:
        """Write the marker of ``key``, before work on it starts."""
        self._marked.add(key)
        self._objects.put(f"{self._folder}/{key}", b"")

    def clear(self, key: str) -> None:
        """Remove the marker of ``key``, after it succeeded or failed."""
        self._marked.discard(key)
        self._objects.delete([f"{self._folder}/{key}"])


def die_with(parent: int) -> None:
    """Make this process end when its parent ends, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    watch_parent(parent)


def watch_parent(parent: int) -> None:
    """End this process within a second after its parent.

    Linux itself is faster (see ``die_with``), but it takes the end of the thread that started this process for the
    end of the parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def item_key(stage: str, uri: str, digest: str, segment: int = 0) -> str:
    """Return the name of an item's marker."""
    return digest_of([stage, uri, digest, segment])
