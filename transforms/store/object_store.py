"""The store's bytes, on disk or in a bucket, through obstore.

Paths are relative to the store, with ``/``. Immutable files are created only if absent, so that two workers that
finish the same work cannot disturb each other: the first one wins, and the second one is informed.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import LocalStore
from obstore.store import ObjectStore as Backend

from cliploom.schemas.digests import digest_stream
from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.faults import system_fault
from cliploom.schemas.secrets import masked, refuse_secret
from cliploom.transforms.store.bucket_errors import ask_what_is_wrong
from cliploom.transforms.store.buckets import (
    BusyError,
    Result,
    connect,
    is_transient,
    refusal,
    retries_exhausted_message,
    table_options,
    with_retries,
)
from cliploom.transforms.store.uris import absolute, check_bucket

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

_CHUNK = 4 << 20
# A larger request could exceed its time limit; only the failed range is requested again.
_RANGE = 32 << 20
# The size limit of a single put; only a single put can be conditional.
_LARGEST_PUT = 4_000_000_000
_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "memory")
TEMPORARY = ".writing-"


@dataclass(frozen=True)
class Entry:
    """A listed object: path relative to the store, size in bytes, and a tag that changes with the content."""

    path: str
    size: int
    modified_s: float
    tag: str = ""


class ObjectStore:
    """A folder or bucket prefix.

    Cheap to make and to pickle; connections are opened when first used.

    Attributes:
        uri: absolute, without a trailing slash.
        root: the folder on disk, or None for a bucket.
        lost_races: paths for which ``create_file`` lost the race; the other writer's object was kept.
    """

    def __init__(self, uri: str | Path) -> None:
        text = str(uri)
        if not text.strip():
            raise SpecError("The store is an empty string; name a folder, s3://bucket/prefix or gs://bucket/prefix.")
        refuse_secret(text)
        scheme = urlsplit(text).scheme if "://" in text else ""
        check_bucket(text)
        if scheme in ("", "file"):
            self.root: Path | None = absolute(Path(text.removeprefix("file://")).expanduser())
            self.uri = str(self.root)
        elif scheme in _SCHEMES:
            self.root = None
            self.uri = text.rstrip("/")
        else:
            raise SpecError(f"{text!r}: no store can be opened for {scheme}://; use a folder, s3:// or gs://.")
        self.lost_races: set[str] = set()
        self._store: Backend | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "root": self.root, "beaten": set(), "_store": None}

    @property
    def store(self) -> Backend:
        """Return the opened store.

        Raises:
            FileNotFoundError: if a local folder does not exist.
        """
        if self._store is None:
            if self.root is not None:
                with self.errors(""):
                    os.scandir(self.root).close()
                self._store = LocalStore(self.root)
            else:
                self._store = connect(self.uri, _RANGE)
        return self._store

    def ask(self, request: Callable[[], Result]) -> Result:
        """Make a request; requests to a bucket are retried."""
        return request() if self.root is not None else with_retries(request)

    def uri_of(self, path: str) -> str:
        """Return the absolute URI of ``path``."""
        return f"{self.uri}/{path}" if path else self.uri

    def _make_root(self) -> None:
        if self._store is None and self.root is not None:
            with self.errors(""):
                self.root.mkdir(parents=True, exist_ok=True)

    def put_new(self, path: str, data: bytes) -> bool:
        """Create ``path``; return False if it exists, and leave it unchanged."""
        self._make_root()
        with self.errors(path):
            return self._create(self.store, path, data)

    def _create(self, store: Backend, path: str, data: bytes | Path) -> bool:
        """Put an object that does not exist; return False if it does.

        Servers answer 409 for an existing object, but also while another request changes the same object or folder.
        """

        def create() -> bool:
            try:
                obstore.put(store, path, data, mode="create")
            except AlreadyExistsError as error:
                if self.root is None and self.size(path) is None:
                    raise BusyError(str(error)) from None
                return False
            except (NotFoundError, FileNotFoundError):
                raise self._no_bucket(path) from None
            return True

        return self.ask(create)

    def put(self, path: str, data: bytes | Path) -> None:
        """Create or replace ``path`` atomically, with these bytes or those of a local file."""
        self._make_root()

        def replace() -> None:
            try:
                obstore.put(self.store, path, data)
            except AlreadyExistsError as error:
                raise BusyError(str(error)) from None
            except (NotFoundError, FileNotFoundError):
                raise self._no_bucket(path) from None

        with self.errors(path):
            self.ask(replace)

    def _no_bucket(self, path: str) -> StoreError:
        what = "the folder is gone" if self.root is not None else "there is no such bucket"
        return StoreError(f"{self.uri_of(path)}: {what}; make it, or correct the spec's store.")

    @contextmanager
    def create_file(self, path: str) -> Iterator[Path]:
        """Give a local file to write; on success it becomes ``path``, unless that exists already.

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
                    self._upload(path, local)
                else:
                    local.chmod(0o666 & ~_umask())
                    with local.open("rb+") as file:
                        os.fsync(file.fileno())
                    try:
                        os.link(local, self.root / path)
                    except FileExistsError:
                        self.lost_races.add(path)
        finally:
            local.unlink(missing_ok=True)
            if self.root is None:
                shutil.rmtree(folder, ignore_errors=True)

    def _upload(self, path: str, local: Path) -> None:
        """Create ``path`` in a bucket from a local file, unless it exists."""
        size = local.stat().st_size
        if size > _LARGEST_PUT:
            if self.size(path) is None:
                self.ask(lambda: obstore.put(self.store, path, local, use_multipart=True, chunk_size=_RANGE))
            return
        store = self.store if size <= _RANGE else connect(self.uri, size)
        if not self._create(store, path, local):
            self.lost_races.add(path)

    def get(self, path: str) -> bytes:
        """Return all bytes of ``path``.

        Raises:
            FileNotFoundError: if it does not exist.
        """
        with self.errors(path):
            return b"".join(self._blocks(path))

    def _blocks(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of ``path`` in order; from a bucket in ranges of one version of the object."""
        if self.root is not None:
            yield from map(bytes, obstore.get(self.store, path).stream(min_chunk_size=_CHUNK))
            return

        def first() -> tuple[int, str | None, bytes]:
            found = obstore.get(self.store, path)
            size = int(found.meta["size"])
            return size, found.meta.get("e_tag"), bytes(found.bytes()) if size <= _RANGE else b""

        size, tag, block = self.ask(first)
        if size <= _RANGE:
            yield block
            return
        for start in range(0, size, _RANGE):
            yield self._range(path, start, min(size, start + _RANGE), tag)

    def _range(self, path: str, start: int, end: int, tag: str | None) -> bytes:
        def read() -> bytes:
            options: GetOptions = {"range": (start, end)}
            if tag is not None:  # some servers give no entity tag for objects that were put beside them
                options["if_match"] = tag
            return bytes(obstore.get(self.store, path, options=options).bytes())

        return self.ask(read)

    @contextmanager
    def open_file(self, path: str) -> Iterator[BinaryIO]:
        """Open ``path`` for random access; from a bucket only the requested ranges are read.

        Raises:
            FileNotFoundError: if it does not exist.
        """
        with self.errors(path):
            if self.root is not None:
                with (self.root / path).open("rb") as local:
                    yield local
                return
            meta = self.ask(lambda: obstore.head(self.store, path))
            tag = meta.get("e_tag")
            with io.BufferedReader(_Ranges(meta["size"], lambda a, b: self._range(path, a, b, tag)), 1 << 16) as remote:
                yield remote

    def size(self, path: str) -> int | None:
        """Return the size of ``path`` in bytes, or None if it does not exist."""
        try:
            with self.errors(path):
                return int(self.ask(lambda: obstore.head(self.store, path))["size"])
        except FileNotFoundError:
            return None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield the objects below a folder in any order, without files that are still being written."""
        with self.errors(prefix):
            if self.root is not None and not (self.root / prefix).is_dir():
                if self.root.is_file():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.uri)
                return
            folder = f"{prefix.rstrip('/')}/" if prefix else None
            for meta in self._listed(folder):
                if TEMPORARY not in meta["path"]:
                    modified = meta["last_modified"].timestamp()
                    yield Entry(meta["path"], int(meta["size"]), modified, str(meta.get("e_tag") or ""))

    def _listed(self, folder: str | None) -> Iterator[ObjectMeta]:
        """List objects, resuming after the last key if a page request fails."""
        last: str | None = None
        pages = iter(obstore.list(self.store, prefix=folder))

        def next_page() -> Sequence[ObjectMeta] | None:
            nonlocal pages
            try:
                return next(pages, None)
            except BaseError:
                pages = iter(obstore.list(self.store, prefix=folder, offset=last))
                raise

        while (page := self.ask(next_page)) is not None:
            yield from page
            last = page[-1]["path"] if page else last

    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects; missing ones are ignored."""
        for path in paths:
            with self.errors(path):
                try:
                    self.ask(lambda path=path: obstore.delete(self.store, path))  # type: ignore[misc]
                except (NotFoundError, FileNotFoundError):
                    continue

    def digest(self, path: str, *, like: str = "") -> str:
        """Return the digest of the bytes of ``path``, of the same kind as ``like`` if given."""
        with self.errors(path):
            return digest_stream(self._blocks(path), like=like)

    @contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """Give a local file with the bytes of ``path``; a copy from a bucket is removed afterwards."""
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
            for block in self._blocks(path):
                file.write(block)

    @property
    def table_options(self) -> dict[str, str]:
        """Return the storage options for deltalake and polars; credentials stay in the environment."""
        return table_options() if self.root is None else {}

    @contextmanager
    def errors(self, path: str) -> Iterator[None]:
        """Translate the store's errors into one-sentence messages with a fix and without credentials."""
        try:
            yield
        except (NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(self.uri_of(path)) from error
        except (BaseError, OSError) as error:
            place, number = self.uri_of(path), _error_number(error)
            # For a bucket it is the disk with the local copies that is full.
            fault = system_fault(error, place if self.root is not None else "")
            if fault is not None:
                raise fault from error
            if isinstance(error, PreconditionError):
                reason = "it changed while it was read; run again"
            elif self.root is None and not is_transient(error) and (advice := ask_what_is_wrong(self.store, error)):
                refused = refusal(error)
                place, reason = self.uri, advice + (f" ({refused})" if refused else "")
            elif isinstance(error, UnauthenticatedError):
                reason = "the store does not know these credentials; check those of the environment"
            elif isinstance(error, PermissionDeniedError) or number in (errno.EACCES, errno.EPERM):
                reason = "no permission; check the rights of this user on the store"
            elif number == errno.EROFS:
                reason = "the store is read-only; choose another or remount it"
            elif number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
                place = self.uri
                reason = "a file exists where the store needs a folder; move it or choose another store"
            elif self.root is None and (refused := refusal(error)):
                reason = f"the bucket can't be used ({refused}); check its name, the region and the credentials"
            elif self.root is None and is_transient(error):
                reason = f"{retries_exhausted_message(error)}; finished parts are kept, run again later"
            else:
                reason = f"the store can't be used ({type(error).__name__}: {_first_line(masked(str(error)))})"
            raise StoreError(f"{place}: {reason}.") from error


class _Ranges(io.RawIOBase):
    """A read-only file of ``size`` bytes, backed by ``read(start, end)``."""

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        self._size, self._read, self._at = size, read, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._size, self._at + len(buffer))
        block = self._read(self._at, end) if end > self._at else b""
        buffer[: len(block)] = block
        self._at += len(block)
        return len(block)


def existing_store(uri: str) -> ObjectStore:
    """Open the store at ``uri``, for commands that need an existing one.

    Raises:
        StoreError: if there is none. For a folder it names a store inside it, for a bucket it says which of name,
            key id, secret and region is wrong.
    """
    objects = ObjectStore(uri)
    if objects.root is None:
        # Asked by listings: their answers say what is wrong, those to requests for one object don't.
        if next(objects.list("releases"), None) is None and next(objects.list("plans"), None) is None:
            raise StoreError(
                f"There is no store at {objects.uri}; correct the address, or `cliploom run SPEC` makes one."
            )
        return objects
    if not objects.root.exists():
        raise StoreError(f"There is no store at {objects.uri}; `cliploom run SPEC` makes one.")
    if objects.root.is_file():
        raise StoreError(f"{objects.uri} is a file; name the store's folder, or its spec (a .yaml file).")
    if not is_store(objects.root):
        inside = _stores_inside(objects.root)
        hint = f"name the store inside it, {inside[0]}" if inside else "`cliploom run SPEC` makes one"
        raise StoreError(f"{objects.uri} is not a store; {hint}.")
    return objects


def is_store(folder: Path) -> bool:
    """Return whether this local folder is a store; also True if permissions prevent looking."""
    marks = ("releases/_delta_log", "plans", "lock")
    try:
        os.scandir(folder).close()
        return any((folder / mark).exists() for mark in marks)
    except NotADirectoryError:
        return False
    except OSError:
        return True


def _stores_inside(folder: Path) -> list[Path]:
    """Return the stores directly below a folder."""
    try:
        return [path for path in sorted(folder.iterdir()) if path.is_dir() and is_store(path)]
    except OSError:
        return []


def _error_number(error: Exception) -> int | None:
    """Return the errno of an error, which the object store only writes into its message."""
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
