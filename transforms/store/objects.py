"""The store's bytes, on disk or in a bucket, through obstore.

Paths are relative to the store, with ``/``. Immutable files are created only if absent, so that two workers that
finish the same work can't disturb each other: the first one wins, the second is told.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PermissionDeniedError
from obstore.store import LocalStore, ObjectStore, from_url

from schemas.digests import digest_stream
from schemas.errors import SpecError, StoreError
from transforms.store.uris import absolute

_CHUNK = 4 << 20
_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "memory")
TEMPORARY = ".writing-"


@dataclass(frozen=True)
class Entry:
    """One listed object: path relative to the store, bytes, and a tag that changes with the content."""

    path: str
    size: int
    modified_s: float
    tag: str = ""


class Objects:
    """A folder or bucket prefix.

    Cheap to make and to pickle; connections are opened when first used.

    Attributes:
        uri: absolute, without a trailing slash.
        root: the folder on disk, or None for a bucket.
    """

    def __init__(self, uri: str | Path) -> None:
        text = str(uri)
        if not text.strip():
            raise SpecError("The store is an empty text; name a folder, s3://bucket/prefix or gs://bucket/prefix.")
        scheme = urlsplit(text).scheme if "://" in text else ""
        if scheme in ("", "file"):
            self.root: Path | None = absolute(Path(text.removeprefix("file://")).expanduser())
            self.uri = str(self.root)
        elif scheme in _SCHEMES:
            self.root = None
            self.uri = text.rstrip("/")
        else:
            raise SpecError(f"{text!r}: no store can be opened for {scheme}://; use a folder, s3:// or gs://.")
        self._store: ObjectStore | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "root": self.root, "_store": None}

    @property
    def store(self) -> ObjectStore:
        """The opened store.

        Raises:
            FileNotFoundError: for a local folder that is not there.
        """
        if self._store is None:
            if self.root is not None:
                with self.errors(""):
                    os.scandir(self.root).close()
                self._store = LocalStore(self.root)
            else:
                insecure = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
                self._store = from_url(self.uri, client_options={"allow_http": True} if insecure else None)
        return self._store

    def uri_of(self, path: str) -> str:
        """Absolute URI of ``path``."""
        return f"{self.uri}/{path}" if path else self.uri

    def _make_root(self) -> None:
        if self._store is None and self.root is not None:
            with self.errors(""):
                self.root.mkdir(parents=True, exist_ok=True)

    def put_new(self, path: str, data: bytes) -> bool:
        """Create ``path``; False when it is there already, which is left as it is."""
        self._make_root()
        with self.errors(path):
            try:
                obstore.put(self.store, path, data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def put(self, path: str, data: bytes) -> None:
        """Create or replace ``path`` in one step."""
        self._make_root()
        with self.errors(path):
            obstore.put(self.store, path, data)

    @contextmanager
    def create_file(self, path: str) -> Iterator[Path]:
        """Give a local file to write; when the block ends well it becomes ``path``, unless that is there already.

        On disk the file is written beside its final name and linked to it; a bucket gets a conditional put.
        """
        folder = Path(tempfile.mkdtemp(prefix="cliploom-")) if self.root is None else (self.root / path).parent
        with self.errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=PurePosixPath(path).suffix, dir=folder)
            os.close(handle)
        local = Path(name)
        try:
            with self.errors(path):
                yield local
                if self.root is None:
                    try:
                        obstore.put(self.store, path, local, mode="create")
                    except AlreadyExistsError:
                        return
                else:
                    local.chmod(0o666 & ~_umask())
                    with local.open("rb+") as file:
                        os.fsync(file.fileno())
                    try:
                        os.link(local, self.root / path)
                    except FileExistsError:
                        return
        finally:
            local.unlink(missing_ok=True)
            if self.root is None:
                shutil.rmtree(folder, ignore_errors=True)

    def get(self, path: str) -> bytes:
        """All bytes of ``path``.

        Raises:
            FileNotFoundError: when it is not there.
        """
        with self.errors(path):
            return bytes(obstore.get(self.store, path).bytes())

    def size(self, path: str) -> int | None:
        """Bytes of ``path``, or None when it is not there."""
        try:
            with self.errors(path):
                return int(obstore.head(self.store, path)["size"])
        except FileNotFoundError:
            return None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Objects below a folder, in no order; files that are still being written are left out."""
        with self.errors(prefix):
            if self.root is not None and not (self.root / prefix).is_dir():
                if self.root.is_file():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.uri)
                return
            for batch in obstore.list(self.store, prefix=f"{prefix.rstrip('/')}/" if prefix else None):
                for meta in batch:
                    if TEMPORARY not in meta["path"]:
                        modified = meta["last_modified"].timestamp()
                        yield Entry(meta["path"], int(meta["size"]), modified, str(meta.get("e_tag") or ""))

    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects; what is gone already is no error."""
        for path in paths:
            with self.errors(path):
                try:
                    obstore.delete(self.store, path)
                except (NotFoundError, FileNotFoundError):
                    continue

    def digest(self, path: str) -> str:
        """Digest of the bytes of ``path``."""
        with self.errors(path):
            return digest_stream(bytes(chunk) for chunk in obstore.get(self.store, path).stream(min_chunk_size=_CHUNK))

    @contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """A local file with the bytes of ``path``: itself on disk, else fetched and removed afterwards."""
        if self.root is not None:
            found = self.root / path
            if not found.exists():
                raise FileNotFoundError(self.uri_of(path))
            yield found
            return
        with tempfile.TemporaryDirectory(prefix="cliploom-") as folder:
            local = Path(folder) / PurePosixPath(path).name
            self.download(path, local)
            yield local

    def download(self, path: str, target: Path) -> None:
        """Write the bytes of ``path`` to a local file."""
        with self.errors(path), target.open("wb") as file:
            for chunk in obstore.get(self.store, path).stream(min_chunk_size=_CHUNK):
                file.write(chunk)

    @property
    def table_options(self) -> dict[str, str]:
        """Storage options for deltalake and polars; credentials stay in the environment."""
        options = {"allow_http": "true"} if os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true") else {}
        return options if self.root is None else {}

    @contextmanager
    def errors(self, path: str) -> Iterator[None]:
        """Turn the store's errors into ours: one sentence, no credentials, the mend."""
        try:
            yield
        except (NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(self.uri_of(path)) from error
        except (BaseError, OSError) as error:
            place, number = self.uri_of(path), _error_number(error)
            if isinstance(error, PermissionDeniedError) or number in (errno.EACCES, errno.EPERM):
                reason = "no permission; check the rights of this user on the store"
            elif number in (errno.ENOSPC, errno.EDQUOT):
                reason = "the disk is full; free some space and run again"
            elif number == errno.EROFS:
                reason = "the store is read-only; choose another or remount it"
            elif number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
                place = self.uri
                reason = "a file stands where the store needs a folder; move it or choose another store"
            else:
                reason = f"the store can't be used ({type(error).__name__}: {_first_line(str(error))})"
            raise StoreError(f"{place}: {reason}.") from error


def existing_store(uri: str) -> Objects:
    """The store at ``uri``, for commands that only make sense when there is one.

    Raises:
        StoreError: when a local folder is not there.
    """
    objects = Objects(uri)
    if objects.root is not None and not objects.root.exists():
        raise StoreError(f"There is no store at {objects.uri}; `cliploom run SPEC` makes one.")
    return objects


def _error_number(error: Exception) -> int | None:
    """The system's number of an error; the object store only writes it into its message."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else "no further reason"
