"""The lock of a local store: only one run at a time.

The kernel releases the lock when the process ends, so a killed run leaves none behind. The lock file names the owner.
Stores in buckets have no lock; there the second run is refused when it publishes.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cliploom.schemas.errors import StoreError
from cliploom.transforms.store.object_store import ObjectStore

LOCK = "lock"
_TRIES, _PAUSE_S = 50, 0.1


@contextmanager
def store_lock(objects: ObjectStore, what: str) -> Iterator[None]:
    """Hold the store's lock during the block.

    Args:
        objects: the store.
        what: the command, for the message to other processes.

    Raises:
        StoreError: if another process holds the lock; names the process and its age.
    """
    if objects.root is None:
        yield
        return
    with objects.errors(LOCK):
        objects.root.mkdir(parents=True, exist_ok=True)
        handle = os.open(objects.root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not _taken_over(handle):
                raise StoreError(_refusal(objects, os.pread(handle, 4096, 0))) from None
        owner = {
            "what": what,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "user": _user(),
            "since": time.time(),
        }
        with objects.errors(LOCK):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(owner).encode(), 0)
        yield
    finally:
        os.close(handle)


def _taken_over(handle: int) -> bool:
    """Wait briefly for the lock of a process that was just killed and is still being cleaned up by the kernel."""
    for _ in range(_TRIES):
        try:
            owner = json.loads(os.pread(handle, 4096, 0))
            if owner["host"] != socket.gethostname() or not _gone(owner["pid"]):
                return False
        except (ValueError, KeyError, TypeError):
            return False
        time.sleep(_PAUSE_S)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def _gone(pid: int) -> bool:
    """Return whether a process of this machine has ended; False if the system does not provide it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return Path("/proc/self").exists()
    except OSError:
        return False
    return state in ("Z", "X")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _refusal(objects: ObjectStore, note: bytes) -> str:
    try:
        owner = json.loads(note)
        age = int(time.time() - owner["since"])
        who = f"`{owner['what']}` (process {owner['pid']} of {owner['user']} on {owner['host']}, for {age} s)"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return f"{objects.uri} is in use by {who}; wait until it ends, or stop it: finished parts are kept."
