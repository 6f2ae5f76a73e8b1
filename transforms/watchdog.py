"""The watchdog of a worker process: ends the process if its work makes no progress, like a crash.

Code that processes an item calls ``alive`` regularly: for each packet, picture, block of bytes and row. A call that
never returns cannot be stopped from within Python, so the process exits; the markers of its items remain
(``cliploom.transforms.work.inflight``), and the next process tries these items in isolation.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

WORKER_LOST = 85
"""Exit code of a run's process after one of its worker processes died."""
STALLED = 86
"""Exit code of a process ended by the watchdog."""
_LONGEST_LOOK_S = 5.0


@dataclass
class _Work:
    """A thread's work: the allowed silence, and the time of the last sign of progress (monotonic seconds)."""

    stall_s: float
    heard: float


_working: dict[int, _Work] = {}
_starting = threading.Lock()
_watching = False


def alive() -> None:
    """Report that this thread's work makes progress; does nothing if it is not watched."""
    work = _working.get(threading.get_ident())
    if work is not None:
        work.heard = time.monotonic()


@contextmanager
def watched(stall_s: float, log: IO[str] | None = None) -> Iterator[None]:
    """End this process if the block makes no progress for ``stall_s`` seconds.

    Args:
        stall_s: the seconds without a call of ``alive`` in this thread.
        log: the file for the threads' stack traces before the process ends; standard error by default. If a call holds
            the interpreter lock, no Python thread can run: then the process ends with code 1.
    """
    thread = threading.get_ident()
    outer = _working.get(thread)
    _working[thread] = _Work(stall_s, time.monotonic())
    _start(log)
    try:
        yield
    finally:
        if outer is None:
            del _working[thread]
        else:
            _working[thread] = outer
            alive()


def _start(log: IO[str] | None) -> None:
    global _watching
    with _starting:
        if not _watching:
            _watching = True
            threading.Thread(target=_watch, args=(log,), daemon=True).start()


def _watch(log: IO[str] | None) -> None:
    global _watching
    file = log or sys.__stderr__ or sys.stderr
    while True:
        with _starting:
            shortest = min((work.stall_s for work in list(_working.values())), default=None)
            if shortest is None:
                faulthandler.cancel_dump_traceback_later()
                _watching = False
                return
        look_s = min(shortest / 4, _LONGEST_LOOK_S)
        # Implemented in C: it also fires if a library never releases the interpreter lock.
        faulthandler.dump_traceback_later(shortest + look_s, exit=True, file=file)
        began = time.monotonic()
        time.sleep(look_s)
        now = time.monotonic()
        late = max(0.0, now - began - 2 * look_s)
        for work in list(_working.values()):
            work.heard += late  # this process was suspended meanwhile, so no progress was possible
            if now - work.heard > work.stall_s:
                faulthandler.dump_traceback(file)
                os._exit(STALLED)
