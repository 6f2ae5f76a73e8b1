"""The watchdog of a worker process: work that makes no progress ends the process, as a crash would.

Whoever works through an item calls ``alive`` now and then: for each packet, picture, block of bytes and row. A call
that never returns can't be stopped from within Python, so the process ends itself; the notes of its items stay behind
(``cliploom.transforms.work.inflight``), and the next process tries these alone.
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

STALLED = 86
"""Exit code of a process that the watchdog has ended."""
_LONGEST_LOOK_S = 5.0


@dataclass
class _Work:
    """What a thread is working on: how long it may be silent, and when it was last heard of (monotonic seconds)."""

    stall_s: float
    heard: float


_working: dict[int, _Work] = {}
_starting = threading.Lock()
_watching = False


def alive() -> None:
    """Say that this thread's work makes progress; does nothing where none is watched."""
    work = _working.get(threading.get_ident())
    if work is not None:
        work.heard = time.monotonic()


@contextmanager
def watched(stall_s: float, log: IO[str] | None = None) -> Iterator[None]:
    """End this process when the block makes no progress for so long.

    Args:
        stall_s: seconds without a call of ``alive`` in this thread.
        log: where the threads' stacks are written before the process ends; standard error by default. A call that
            holds the interpreter lets no thread of Python run: then the process ends with code 1.
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
        # Written by C: it also fires when a library never gives the interpreter back.
        faulthandler.dump_traceback_later(shortest + look_s, exit=True, file=file)
        began = time.monotonic()
        time.sleep(look_s)
        now = time.monotonic()
        late = max(0.0, now - began - 2 * look_s)
        for work in list(_working.values()):
            work.heard += late  # this process was stopped meanwhile, and nothing in it could move
            if now - work.heard > work.stall_s:
                faulthandler.dump_traceback(file)
                os._exit(STALLED)
