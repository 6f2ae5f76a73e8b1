"""Measure for how much of the time the threads of a process hold its interpreter (CPython 3.11), from outside.

The process says where its runtime state lies. This one reads, through ``/proc/<pid>/mem``, the pointer to the thread
that holds the interpreter, which is null while none does. So the process is not disturbed, and a thread that waits for
the interpreter is not taken for one that holds it.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

_STATE_BYTES = 4096
_POINTER = struct.Struct("P")
_PATIENCE_S = 120.0


class Runtime(ctypes.Structure):
    """CPython's global state, as far as it is searched."""

    _fields_ = (("bytes", ctypes.c_char * _STATE_BYTES),)


def announce(path: Path) -> None:
    """Write the addresses at which the calling thread is named in the runtime state, for ``held_share``."""
    if sys.version_info[:2] != (3, 11):
        raise SystemExit("How long threads hold the interpreter can only be measured with CPython 3.11.")
    state = Runtime.in_dll(ctypes.pythonapi, "_PyRuntime")
    get = ctypes.pythonapi.PyThreadState_Get
    get.restype = ctypes.c_void_p
    me = get()
    start = ctypes.addressof(state)
    words = struct.unpack(f"{_STATE_BYTES // _POINTER.size}P", ctypes.string_at(start, _STATE_BYTES))
    found = [start + place * _POINTER.size for place, word in enumerate(words) if word == me]
    partial = path.with_suffix(".partial")
    partial.write_text(" ".join(map(str, [os.getpid(), *found])))
    partial.rename(path)
    # The reader now looks which of them is null while nobody holds the interpreter.
    time.sleep(0.5)


def holder_address(announced: Path) -> tuple[int, int]:
    """Return process and address of the pointer to the thread that holds the interpreter.

    Args:
        announced: file that ``announce`` writes; the process sleeps just after.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while not announced.exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"No process has announced itself in {announced}.")
        time.sleep(0.01)
    pid, *addresses = map(int, announced.read_text().split())
    time.sleep(0.2)
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        nulls = [address for address in addresses if _read(memory.fileno(), address) == 0]
    if len(nulls) != 1:
        raise SystemExit(f"The pointer to the interpreter's holder was not found among {len(addresses)} places.")
    return pid, nulls[0]


def held_share(pid: int, address: int, going: Callable[[], bool], every_s: float = 0.0005) -> tuple[float, int]:
    """Sample until ``going`` is false or the process has ended; returns the share held, and the number of samples."""
    held = samples = 0
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        while going():
            try:
                held += _read(memory.fileno(), address) != 0
            except (OSError, struct.error):
                break
            samples += 1
            time.sleep(every_s)
    return held / max(1, samples), samples


def _read(handle: int, address: int) -> int:
    return int(_POINTER.unpack(os.pread(handle, _POINTER.size, address))[0])
