"""Input files as local paths: in place if on disk, else a spooled copy of the object or web file.

A spooled file is kept for the next step on the same machine (probe, then decode) in a cache of bounded size, so a first
run reads each remote file once. Incomplete web downloads are kept and resumed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from cliploom.schemas.digests import bytes_digest, digest_file, digest_of
from cliploom.schemas.errors import DiskFullError, StoreError, UnreadableError
from cliploom.schemas.faults import machine_fault
from cliploom.schemas.sources import HttpSpec
from cliploom.transforms.inputs.addresses import Validators, is_web, shown
from cliploom.transforms.inputs.pace import take_bytes
from cliploom.transforms.store.local_folder import arriving, evict, private_folder
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.uris import is_remote, uri_to_path
from cliploom.transforms.watchdog import alive

_LOOK_S = 1.0
SPOOL_BYTES = 4_000_000_000
PART = ".part-"
# A hidden file that has not been written to for this long is not an active download.


@contextmanager
def open_input(uri: str, signature: str, stage: str, http: HttpSpec | None = None, digest: str = "") -> Iterator[Path]:
    """Provide a local path with the bytes that were listed.

    Args:
        uri: the path, object or URL.
        signature: the signature from the listing.
        stage: the stage, for failures.
        http: the settings for web downloads.
        digest: the digest of the item if it was probed; web files that are downloaded again are compared with it.

    Raises:
        UnreadableError: the file was deleted, has changed since it was listed, or cannot be read.
        TooLargeError: a web file exceeds ``http.max_size``.
    """
    if is_remote(uri):
        with _spooled(uri, signature, stage, http or HttpSpec(), digest) as path:
            yield path
        return
    path = uri_to_path(uri)
    _check_unchanged(path, signature, stage)
    try:
        yield path
    except Exception:
        # The file changed while it was read, so the reader's error is meaningless; report the change instead.
        _check_unchanged(path, signature, stage)
        raise
    _check_unchanged(path, signature, stage)


def _check_unchanged(path: Path, signature: str, stage: str) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        broken = path.is_symlink()
        what = "is a link to a file that is not there" if broken else "is not there (any more)"
        raise UnreadableError(stage, f"{path} {what}.", transient=not broken) from None
    except OSError as error:
        raise UnreadableError(stage, f"{path} can't be read: {error.strerror}.") from None
    if signature != f"{status.st_size}:{status.st_mtime_ns}":
        raise UnreadableError(
            stage, f"{path} changed while the run was reading it; the next run takes it.", transient=True
        )


def spool_folder() -> Path:
    """Return the folder of fetched files on this machine."""
    return private_folder("spool")


@contextmanager
def _spooled(uri: str, signature: str, stage: str, http: HttpSpec, digest: str) -> Iterator[Path]:
    folder = spool_folder()
    suffix = PurePosixPath(urlsplit(uri).path if is_web(uri) else uri).suffix[:10]
    path = folder / f"{digest_of([uri, signature])}{suffix}"
    if not path.exists():
        if is_web(uri):
            _fetch_address(uri, signature, path, stage, http, digest)
        else:
            _fetch_object(uri, path, stage)
        if http.bandwidth:
            _keep_bandwidth(folder, uri, path.stat().st_size, http.bandwidth)
        evict(folder, path, SPOOL_BYTES)
    with path.open("rb"):
        os.utime(path)
        yield path


def _keep_bandwidth(folder: Path, uri: str, size: int, bandwidth: int) -> None:
    """Wait until the bytes that were fetched from this host or bucket are within its bandwidth."""
    parts = urlsplit(uri)
    ends = time.monotonic() + take_bytes(folder, f"{parts.scheme}://{parts.netloc}", size, bandwidth)
    while (left := ends - time.monotonic()) > 0:
        alive()  # waiting is not a stall
        time.sleep(min(_LOOK_S, left))


def _fetch_object(uri: str, path: Path, stage: str) -> None:
    bucket, _, key = uri.rpartition("/")
    try:
        with arriving(path) as local:
            ObjectStore(bucket).download(key, local)
    except FileNotFoundError:
        raise UnreadableError(stage, f"{uri} is not there (any more).", transient=True) from None
    except DiskFullError:
        raise
    except StoreError as error:
        raise UnreadableError(stage, str(error), transient=True) from None


def _fetch_address(uri: str, signature: str, path: Path, stage: str, http: HttpSpec, digest: str) -> None:
    """Download to a file that one process at a time may write; keep its content after a transient failure."""
    from cliploom.transforms.inputs.http import Fetcher

    part = path.with_name(f"{PART}{path.name}")
    with part.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        stay = False
        try:
            if path.exists():  # another process has fetched it meanwhile
                return
            Fetcher(uri, http, path.parent, stage).download(part, Validators.read(signature))
            if digest and digest_file(part) != bytes_digest(digest):
                reason = f"{shown(uri)} changed since it was probed; the next run takes it."
                part.unlink()
                raise UnreadableError(stage, reason, transient=True)
            os.replace(part, path)
        except UnreadableError as error:
            stay = error.transient
            raise
        except OSError as error:
            fault = machine_fault(error)
            if fault is not None:
                raise fault from error
            reason = f"the folder {path.parent} can't be written to: {error.strerror}; check its permissions"
            raise UnreadableError(stage, f"{shown(uri)}: {reason}.", transient=True) from None
        finally:
            if not stay:
                part.unlink(missing_ok=True)
