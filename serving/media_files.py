"""Media of a release as byte ranges, read from an open file or with range requests from an object store."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

import anyio

from cliploom.schemas.media import MediaFacts
from cliploom.transforms.inputs.addresses import is_web
from cliploom.transforms.readers.release_tables import ReleaseReader
from cliploom.transforms.search.thumbnails import (
    MediaItem,
    MissingMediaError,
    check_local,
    is_local_file,
    local_copy,
)
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.uris import is_remote, uri_to_path

CHUNK = 256 << 10
_TYPES = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm", ".mkv": "video/x-matroska",
    ".ogv": "video/ogg", ".avi": "video/x-msvideo", ".mpg": "video/mpeg", ".mpeg": "video/mpeg", ".ts": "video/mp2t",
    ".gif": "image/gif", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp",
}  # fmt: skip
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True)
class ByteRange:
    """The bytes from ``start`` to ``end`` (excluded) of a file of ``size`` bytes."""

    start: int
    end: int
    size: int

    @property
    def header(self) -> str:
        """The value of ``Content-Range``."""
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


class UnsatisfiableError(Exception):
    """The range lies beyond the end of the file."""


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """Return the byte range of a ``Range`` header; None for the whole file.

    Headers with several ranges, other units or invalid syntax are ignored, as RFC 9110 allows, so that a request cannot
    ask for the same bytes many times.

    >>> parse_range("bytes=0-1", 10), parse_range("bytes=-3", 10).start, parse_range("bytes=0-1,0-1", 10)
    (ByteRange(start=0, end=2, size=10), 7, None)

    Raises:
        UnsatisfiableError: the range starts beyond the end.
    """
    match = _RANGE.fullmatch((header or "").strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        if not length:
            raise UnsatisfiableError
        return ByteRange(size - length, size, size)
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise UnsatisfiableError
    return ByteRange(int(first), min(size, int(last) + 1 if last else size), size)


def content_type(uri: str, facts: MediaFacts | None) -> str:
    """Return the media type to send; never one that a browser would render as a page."""
    name = urlsplit(uri).path if is_web(uri) else uri
    found = _TYPES.get(PurePosixPath(name).suffix.lower())
    if found is None and facts is not None:
        found = {"mov": "video/mp4", "mp4": "video/mp4", "webm": "video/webm"}.get(facts.container)
    return found or "application/octet-stream"


@dataclass(frozen=True)
class OpenMedia:
    """An item's content: an open file, or an object to be read by ranges."""

    size: int
    file: BinaryIO | None
    objects: ObjectStore | None = None
    key: str = ""

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` to ``end`` (excluded)."""
        if self.file is not None:
            return os.pread(self.file.fileno(), end - start, start)
        if self.objects is None:
            raise ValueError("neither a file nor an object")
        with self.objects.open_file(self.key) as remote:
            remote.seek(start)
            return remote.read(end - start)


def open_media(store: ReleaseReader, media: MediaItem) -> OpenMedia:
    """Open the file of an item as recorded in the release.

    Raises:
        MissingMediaError: the file was deleted, has changed since it was listed, or cannot be read.
    """
    if is_local_file(store, media):
        check_local(store, media)
        try:
            file = uri_to_path(media.uri).open("rb")
        except OSError as error:
            raise MissingMediaError(f"{media.uid!r} cannot be read: {error.strerror}.") from None
        size = os.fstat(file.fileno()).st_size
        if size != media.size:
            file.close()
            raise MissingMediaError(f"{media.uid!r} has changed since release {store.release.release} was made.")
        return OpenMedia(size, file)
    if is_web(media.uri) or not is_remote(media.uri):
        with local_copy(store, media, "decode") as path:
            return OpenMedia(path.stat().st_size, path.open("rb"))
    bucket, _, key = media.uri.rpartition("/")
    objects = ObjectStore(bucket)
    found = objects.size(key)
    if found is None or found != media.size:
        raise MissingMediaError(f"{media.uid!r} was deleted or has changed.")
    return OpenMedia(found, None, objects, key)


async def stream(media: OpenMedia, start: int, end: int, limiter: anyio.CapacityLimiter) -> AsyncIterator[bytes]:
    """Yield the bytes from ``start`` to ``end`` (excluded) in chunks, then close the file."""
    try:
        at = start
        while at < end:
            block = await anyio.to_thread.run_sync(media.read, at, min(end, at + CHUNK), limiter=limiter)
            if not block:
                return  # the file was truncated while it was being sent
            at += len(block)
            yield block
    finally:
        with suppress(OSError):
            media.close()


def moments_of(facts: MediaFacts, count: int) -> Iterator[float]:
    """Return ``count`` times spread evenly over an item, in seconds from its start."""
    for number in range(count):
        yield round(facts.duration_s * (number + 0.5) / count, 3)
