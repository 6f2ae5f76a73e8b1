"""Media files of Beam pipelines as local paths: read in place on disk, copied for a moment from anywhere else."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from apache_beam.io.fileio import ReadableFile
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from cliploom.schemas.errors import CliploomError, TooLargeError, UnreadableError
from cliploom.schemas.faults import machine_fault
from cliploom.schemas.media import MediaLimits
from cliploom.schemas.sources import HttpSpec
from cliploom.transforms.beam.rows import MediaFile
from cliploom.transforms.inputs.addresses import is_web, shown
from cliploom.transforms.inputs.http import Fetcher
from cliploom.transforms.inputs.spool import open_input, spool_folder
from cliploom.transforms.store.uris import is_remote, path_to_uri, uri_to_path

_STAGE = "probe"
_BLOCK = 1 << 20


def as_media_file(element: Any) -> MediaFile:
    """Return what an element says of a file.

    Args:
        element: a path or URI, what ``fileio.MatchFiles`` or ``fileio.ReadMatches`` gives, or a row with a field
            ``uri`` or ``path``, and perhaps ``uid``. Without ``uid`` the URI is the uid.

    Raises:
        TypeError: for any other value.
    """
    named = element.metadata if isinstance(element, ReadableFile) else element
    if isinstance(named, str | FileMetadata):
        uri = encodable(named if isinstance(named, str) else named.path)
        return MediaFile(uri, uri)
    found = getattr(element, "uri", getattr(element, "path", None))
    if not isinstance(found, str):
        raise TypeError(f"{wanted_elements()}, not {type(element).__name__}: {element!r:.80}")
    uid = getattr(element, "uid", None)
    uri = encodable(found)
    return MediaFile(uri, uri if uid is None else str(uid))


def encodable(uri: str) -> str:
    """Return a path or URI as text that coders take: bytes of a name that are not Unicode become escapes."""
    try:
        uri.encode("utf-8")
    except UnicodeEncodeError:
        return path_to_uri(Path(uri))
    return uri


def wanted_elements() -> str:
    """Return the start of a message about elements that name no file."""
    return (
        "media files are given as paths (str), as elements of fileio.MatchFiles or fileio.ReadMatches, or as rows "
        "with a field 'uri' or 'path'"
    )


@contextmanager
def local_file(uri: str, limits: MediaLimits, http: HttpSpec) -> Iterator[Path]:
    """Give a local path of a file for the time of the block.

    Args:
        uri: path, ``file://`` URI, http(s) address, or a URI of any file system that Beam knows.
        limits: the largest size that is copied.
        http: how addresses are fetched.

    Raises:
        UnreadableError: if it is not there, cannot be read, or changes while it is read.
        TooLargeError: if it is beyond ``limits``.
        CliploomError: if Beam has no file system for the URI, which no other file of the kind would have either.
    """
    if is_web(uri):
        # Without a signature a copy must not be taken for the file of another time.
        signature = Fetcher(uri, http, spool_folder(), _STAGE).look().signature(uri) or f"unknown-{time.time_ns()}"
        with open_input(uri, signature, _STAGE, http) as path:
            yield path
    elif is_remote(uri):
        with _copied(uri, limits) as path:
            yield path
    else:
        try:
            status = os.stat(uri_to_path(uri))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UnreadableError(_STAGE, f"{uri} can't be read: {reason}.", transient=True) from None
        with open_input(uri, f"{status.st_size}:{status.st_mtime_ns}", _STAGE) as path:
            yield path


@contextmanager
def _copied(uri: str, limits: MediaLimits) -> Iterator[Path]:
    size = _size(uri)
    if size > limits.max_bytes:
        raise TooLargeError(
            _STAGE, f"{shown(uri)} has {size:,} bytes, more than {limits.max_bytes:,} (limits: max_bytes)."
        )
    with tempfile.TemporaryDirectory(dir=spool_folder(), prefix="beam-") as folder:
        path = Path(folder) / (PurePosixPath(uri).name[-100:] or "file")
        try:
            with FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as source, path.open("wb") as to:
                shutil.copyfileobj(source, to, _BLOCK)
        except (BeamIOError, OSError) as error:
            fault = machine_fault(error)
            if fault is not None:
                raise fault from error
            raise UnreadableError(_STAGE, f"{shown(uri)} can't be read: {_reason(error)}.", transient=True) from None
        yield path


def _size(uri: str) -> int:
    try:
        system = FileSystems.get_filesystem(uri)
    except ValueError as error:
        raise CliploomError(f"{shown(uri)}: {_reason(error)}.") from None
    try:
        return int(system.metadata(uri).size_in_bytes)
    except (BeamIOError, OSError) as error:
        raise UnreadableError(_STAGE, f"{shown(uri)} can't be read: {_reason(error)}.", transient=True) from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
