"""Cached hashes of model files, so that gigabytes of weights are read once and not for every plan.

The file ``models/.known-hashes.json`` of a store (of this machine's cache, for a store in a bucket) has two tables:

* ``files``: by absolute path, the ``stat`` values of a file and a hash of its content. A file whose size, modification
  or change time, inode or device differ is read again. A file that was changed less than two seconds before it was read
  is not cached: a change right afterwards might leave all of these values unchanged (as in git's index).
* ``models``: by kind and options, the fingerprint of an encoder and the files that it came from. If all of these are
  deleted, a store that has the prepared model keeps using it.

If the file is damaged, hashes are computed again; it is never required.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from cliploom.schemas.digests import digest_of

KNOWN_FILE = ".known-hashes.json"
RACY_S = 2.0
"""Coarsest resolution of file system clocks."""
MOST_FILES = 20_000
_MOST_BYTES = 64 << 20
_VERSION = 1


class KnownHashes:
    """Cached hashes of model files. Not thread-safe.

    Args:
        folder: the folder of the file; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / KNOWN_FILE
        self._files, self._models = _read(self._path)
        self._changed = False
        self._used: list[str] = []

    def get(self, path: Path, what: str, compute: Callable[[], Any]) -> Any:
        """Return a JSON value computed from a file's content; from the cache if the file did not change.

        Args:
            path: the path of the file; if it is inaccessible, ``compute`` raises the error.
            what: the name of the value; a file may have several.
            compute: a function that reads the file.
        """
        key = f"{what}:{os.path.abspath(path)}"
        self._used.append(os.path.abspath(path))
        state = _state(path)
        known = self._files.get(key)
        if state is not None and known is not None and known[0] == state:
            return known[1]
        value = compute()
        if state is not None and state == _state(path) and time.time() - max(state[1:3]) / 1e9 > RACY_S:
            self._files.pop(key, None)
            self._files[key] = [state, value]
            self._changed = True
        return value

    def fingerprint(
        self, kind: str, options: Mapping[str, Any], compute: Callable[[], dict[str, str]]
    ) -> dict[str, str]:
        """Return the fingerprint of an encoder, and store its files with it."""
        self._used.clear()
        found = compute()
        entry = {"fingerprint": found, "files": sorted(set(self._used))}
        key = _key(kind, options)
        if entry["files"] and self._models.get(key) != entry:
            self._models[key] = entry
            self._changed = True
        return found

    def of_vanished(self, kind: str, options: Mapping[str, Any]) -> tuple[dict[str, str], list[str]] | None:
        """Return the stored fingerprint and files of an encoder if none of its files exists any more; else None."""
        entry = self._models.get(_key(kind, options))
        if entry is None or any(os.path.lexists(name) for name in entry["files"]):
            return None
        return dict(entry["fingerprint"]), list(entry["files"])

    def save(self) -> None:
        """Write the file if there is something new; a folder that is not writable is ignored."""
        if not self._changed:
            return
        files = dict(list(self._files.items())[-MOST_FILES:])
        text = json.dumps({"version": _VERSION, "files": files, "models": self._models}, indent=0)
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f"{KNOWN_FILE}-")
            try:
                with open(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                os.replace(name, self._path)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
        self._changed = False


_KNOWN: ContextVar[KnownHashes | None] = ContextVar("known_hashes", default=None)


@contextlib.contextmanager
def known_hashes(folder: Path) -> Iterator[KnownHashes]:
    """Use the cache of a folder for all hashes of model files within the context.

    Args:
        folder: the folder of prepared models.
    """
    known = KnownHashes(folder)
    token = _KNOWN.set(known)
    try:
        yield known
    finally:
        _KNOWN.reset(token)
        known.save()


def known(path: Path, what: str, compute: Callable[[], Any]) -> Any:
    """Return a cached value; see ``KnownHashes.get``. Outside ``known_hashes`` it is computed each time."""
    found = _KNOWN.get()
    return compute() if found is None else found.get(path, what, compute)


def _key(kind: str, options: Mapping[str, Any]) -> str:
    return digest_of([kind, dict(options)])


def _state(path: Path) -> list[int] | None:
    """Return size, modification and change time, inode and device; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both tables of the file; empty if it is missing, damaged or of another format."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return {}, {}
        found = json.loads(path.read_text(encoding="utf-8"))
        files, models = found["files"], found["models"]
        whole = found["version"] == _VERSION and all(
            len(state) == 5 and all(isinstance(each, int) for each in state) for state, _ in files.values()
        )
        whole = whole and all(
            all(isinstance(each, str) for each in [*entry["fingerprint"].values(), *entry["files"]])
            for entry in models.values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, {}
    return (dict(files), dict(models)) if whole else ({}, {})
