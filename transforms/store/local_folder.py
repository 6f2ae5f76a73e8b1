"""Local folders of bounded size for copies that can be fetched again."""

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
"""Seconds after which an untouched hidden file (a download in progress, or a lock) is considered abandoned."""


def private_folder(kind: str) -> Path:
    """Return this user's folder for one kind of copies, in the temporary folder of the machine.

    Raises:
        StoreError: if another user owns it and could place files in it.
    """
    folder = Path(tempfile.gettempdir()) / f"cliploom-{kind}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{folder} is another user's; set TMPDIR to a folder of yours.")
    return folder


@contextmanager
def arriving(target: Path) -> Iterator[Path]:
    """Give a hidden file to write beside ``target``; it becomes ``target`` on success and is removed otherwise."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".fetching-")
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def evict(folder: Path, keep: Path, limit: int) -> None:
    """Remove least recently used files until the folder fits; files that are open stay readable.

    Args:
        folder: folder with copies.
        keep: the file that must not be removed.
        limit: maximum bytes of all files, besides hidden files in use.
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
