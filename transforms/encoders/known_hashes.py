"""Hashes of model files that were computed before, so that a plan reads gigabytes of weights once, not each night.

The file ``models/.known-hashes.json`` of a store (of this machine's cache, for a store in a bucket) holds two things:

* ``files``: by absolute path, what ``stat`` said of a file and what its content gave. A file whose size, times of
  change, inode or device are others is read again. A file that was changed less than two seconds before it was read is
  not kept: a change right afterwards might leave all of that as it was (as in git's index).
* ``models``: by kind and options, the fingerprint of an encoder and the files that it came from. When all of these are
  gone, a store that holds the prepared model goes on with it.

Whatever is wrong with the file, hashes are computed again; what it says is never needed.
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
"""Clocks of file systems tick this slowly."""
MOST_FILES = 20_000
_MOST_BYTES = 64 << 20
_VERSION = 1


class KnownHashes:
    """What is known of model files; for one thread.

    Args:
        folder: that holds the file; it may not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / KNOWN_FILE
        self._files, self._models = _read(self._path)
        self._changed = False
        self._used: list[str] = []

    def get(self, path: Path, what: str, compute: Callable[[], Any]) -> Any:
        """What a file's content gives, a JSON value, computed when the file may have changed.

        Args:
            path: of the file; what can't be looked at is left to ``compute``, which says why.
            what: is computed; several things may be kept of one file.
            compute: reads the file.
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
        """The fingerprint of an encoder, whose files are kept with it."""
        self._used.clear()
        found = compute()
        entry = {"fingerprint": found, "files": sorted(set(self._used))}
        key = _key(kind, options)
        if entry["files"] and self._models.get(key) != entry:
            self._models[key] = entry
            self._changed = True
        return found

    def of_vanished(self, kind: str, options: Mapping[str, Any]) -> tuple[dict[str, str], list[str]] | None:
        """The fingerprint that an encoder had, and its files, when none of these is there any more; else None."""
        entry = self._models.get(_key(kind, options))
        if entry is None or any(os.path.lexists(name) for name in entry["files"]):
            return None
        return dict(entry["fingerprint"]), list(entry["files"])

    def save(self) -> None:
        """Write the file, if there is something new; a folder that can't be written to is left alone."""
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
    """Within the context, hashes of model files come from, and go to, a folder's file.

    Args:
        folder: of prepared models.
    """
    known = KnownHashes(folder)
    token = _KNOWN.set(known)
    try:
        yield known
    finally:
        _KNOWN.reset(token)
        known.save()


def known(path: Path, what: str, compute: Callable[[], Any]) -> Any:
    """What a file's content gives; see ``KnownHashes.get``. Outside of ``known_hashes`` it is computed each time."""
    found = _KNOWN.get()
    return compute() if found is None else found.get(path, what, compute)


def _key(kind: str, options: Mapping[str, Any]) -> str:
    return digest_of([kind, dict(options)])


def _state(path: Path) -> list[int] | None:
    """Size, time of change of content and of the file, inode, device; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both tables of the file; empty ones where it is missing, damaged or another program's."""
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
