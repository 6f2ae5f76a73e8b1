"""Folders on this machine for copies that can be fetched again, each of a bounded size."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cliploom.schemas.errors import StoreError

ABANDONED_S = 3600.0
"""A hidden file (one that is being fetched, or a lock) which nobody has touched for so long is of no use."""


def private_folder(kind: str) -> Path:
    """This user's folder for copies of a kind, in the machine's temporary folder.

    Raises:
        StoreError: when somebody else has made it, who could put anything there.
    """
    folder = Path(tempfile.gettempdir()) / f"cliploom-{kind}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{folder} is another user's; set TMPDIR to a folder of yours.")
    return folder


@contextmanager
def arriving(target: Path) -> Iterator[Path]:
    """A hidden file beside ``target`` to write; it becomes ``target`` when the block ends well, else it is removed."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".fetching-")
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def evict(folder: Path, keep: Path, limit: int) -> None:
    """Remove the files used longest ago until the folder fits; open files stay readable to who has them open.

    Args:
        folder: with copies.
        keep: the one that stays.
        limit: bytes for all, beside hidden files in use.
    """
    found = []
    for path in folder.iterdir():
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # another process was quicker
        in_use = path.name.startswith(".") and time.time() - status.st_mtime < ABANDONED_S
        if path != keep and not in_use:
            found.append((status.st_mtime, status.st_size, path))
    total = keep.stat().st_size + sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        total -= size
        path.unlink(missing_ok=True)
