"""Input files as local paths: themselves on disk, or one spooled copy of an object in a bucket.

A spooled file is kept for the next step on the same machine (probe, then decode) in a cache of bounded size, so a
first run reads each remote file once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.digests import digest_of
from schemas.errors import StoreError, UnreadableError
from transforms.store.objects import Objects
from transforms.store.uris import is_remote, uri_to_path

SPOOL_BYTES = 4_000_000_000


@contextmanager
def open_input(uri: str, signature: str, stage: str) -> Iterator[Path]:
    """A local path with the bytes that were listed.

    Raises:
        UnreadableError: when the file is gone, can't be read, or is not the one that was listed any more.
    """
    if is_remote(uri):
        with _spooled(uri, signature, stage) as path:
            yield path
        return
    path = uri_to_path(uri)
    _check_unchanged(path, signature, stage)
    try:
        yield path
    except Exception:
        # A file that changed meanwhile is no damaged file: what the reader made of the mixture is of no interest.
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


@contextmanager
def _spooled(uri: str, signature: str, stage: str) -> Iterator[Path]:
    folder = Path(tempfile.gettempdir()) / f"cliploom-spool-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    suffix = Path(uri).suffix[:10]
    path = folder / f"{digest_of([uri, signature])}{suffix}"
    if not path.exists():
        bucket, _, key = uri.rpartition("/")
        handle, name = tempfile.mkstemp(dir=folder, prefix=".fetching-")
        os.close(handle)
        try:
            Objects(bucket).download(key, Path(name))
            os.replace(name, path)
        except FileNotFoundError:
            raise UnreadableError(stage, f"{uri} is not there (any more).", transient=True) from None
        except StoreError as error:
            raise UnreadableError(stage, str(error), transient=True) from None
        finally:
            Path(name).unlink(missing_ok=True)
        _evict(folder, keep=path)
    with path.open("rb"):
        os.utime(path)
        yield path


def _evict(folder: Path, keep: Path) -> None:
    """Remove the files used longest ago until the spool fits; open files stay readable to who has them open."""
    files = sorted((path for path in folder.iterdir() if path != keep), key=lambda path: path.stat().st_mtime)
    total = keep.stat().st_size + sum(path.stat().st_size for path in files)
    for path in files:
        if total <= SPOOL_BYTES:
            return
        total -= path.stat().st_size
        path.unlink(missing_ok=True)
