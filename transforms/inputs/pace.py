"""A rate limiter per host, shared by all processes on a machine."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

from cliploom.schemas.digests import digest_of

PREFIX = ".pace-"
MOST_AHEAD_S = 3600.0


def take_bytes(folder: Path, host: str, size: int, bandwidth: int) -> float:
    """Charge bytes that were fetched from a host or bucket.

    Args:
        folder: shared by the processes that should keep the pace together.
        host: name and port, or the bucket's address.
        size: bytes fetched.
        bandwidth: most bytes a second, over several files.

    Returns:
        Seconds to wait before the next file, until what was fetched before is paid for.
    """
    return take_turn(folder, f"bytes of {host}", bandwidth / max(1, size))


def take_turn(folder: Path, host: str, rate: float) -> float:
    """Reserve the host's next free time slot.

    The time of the following slot is stored in a file that one process at a time may change.

    Args:
        folder: the folder shared by the processes that share the limit.
        host: the host name and port.
        rate: the number of requests per second.

    Returns:
        Seconds from now until the slot.
    """
    with (folder / f"{PREFIX}{digest_of(host)}").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        now = time.time()
        try:
            free = float(file.read() or 0)
        except ValueError:
            free = now
        # If the clock was set back, do not make every process wait.
        turn = free if now < free < now + MOST_AHEAD_S else now
        file.truncate(0)
        file.write(repr(turn + 1 / rate).encode())
    return turn - now
