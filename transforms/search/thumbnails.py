"""Thumbnails: the frame of an item at a given moment, as WebP, in a disk cache of bounded size.

Opens only files listed in the release's items table, and only while they are unchanged.
"""

from __future__ import annotations

import io
import json
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliploom.schemas.digests import digest_file, digest_of
from cliploom.schemas.errors import CliploomError, ItemError, NoVideoError, SpecError, UnknownNameError
from cliploom.schemas.media import MediaFacts, Preprocess
from cliploom.schemas.sampling import Every
from cliploom.schemas.sources import BUILT_IN, HttpSpec
from cliploom.transforms.sources.registry import source_kind
from cliploom.transforms.store.local_folder import arriving, evict, private_folder
from cliploom.transforms.store.uris import is_remote, uri_to_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cliploom.transforms.readers.release_tables import ReleaseReader

CACHE_BYTES = 500_000_000
REVISION = 1
"""Increase it when thumbnails change; part of their names in the cache."""

MIN_WIDTH, MAX_WIDTH = 16, 1920
_TALLEST = 2  # Maximum ratio of a thumbnail's height to the requested width.
_QUALITY = 80
_WIDEST_PIXEL = 8.0
_LATEST_S = 1.0  # A moment this close to the end means the last frame: durations are rounded.
_MICRO = 1_000_000
_RECOUNT = 256  # Files written before the size of the cache is measured again, since other processes write to it too.


class MissingMediaError(CliploomError):
    """There is no picture to show: the file was deleted, has changed, or has no picture."""


@dataclass(frozen=True)
class MediaItem:
    """A media item of a release, from the items table."""

    source: str
    uid: str
    uri: str
    size: int
    signature: str
    digest: str
    facts: MediaFacts


def thumbnail(
    store: ReleaseReader, uid: str, at_s: float | None = None, width: int = 320, source: str | None = None
) -> bytes:
    """Return the frame of an item at a moment, as WebP.

    Args:
        store: an open release.
        uid: the uid of the item; the uid of a narrated video means the video with the same uid.
        at_s: the time in seconds from the item's start; None for the start.
        width: the width of the thumbnail in pixels, 16 to 1920; small pictures are not enlarged, tall ones are
            narrower.
        source: the source of the item, if several sources have this uid.

    Raises:
        SpecError: the uid or source is unknown, or the width or time is invalid.
        MissingMediaError: there is no picture; the message says why.
    """
    media = find_media(store, uid, source)
    return _encoded(_picture(store, media, _checked(at_s), _checked_width(width)))


class ThumbnailCache:
    """Thumbnails on disk, keyed by content; the least recently used are deleted first.

    Several threads and processes may share a folder.

    Args:
        folder: the folder of the files; by default the user's thumbnail folder in the machine's temporary folder.
        max_bytes: the maximum size of the folder's files.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = CACHE_BYTES) -> None:
        """Write nothing before the first thumbnail."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._bytes = 0
        self._until_recount = 0

    def get(
        self,
        store: ReleaseReader,
        uid: str,
        at_s: float | None = None,
        width: int = 320,
        source: str | None = None,
    ) -> bytes:
        """Return a thumbnail; see ``thumbnail`` for the arguments and errors.

        Checks that a local file exists even if its thumbnail is cached, so that deleted files are never shown.
        """
        media = find_media(store, uid, source)
        moment, width = _checked(at_s), _checked_width(width)
        if is_local_file(store, media):
            check_local(store, media)
        folder = self._ready_folder()
        path = folder / f"{digest_of([REVISION, media.digest, round(moment * _MICRO), width])}.webp"
        try:
            data = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            data = _encoded(_picture(store, media, moment, width))
            with arriving(path) as local:
                local.write_bytes(data)
            self._keep_within(folder, path, len(data))
        return data

    def _ready_folder(self) -> Path:
        if self._folder is None:
            return private_folder("thumbnails")
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def _keep_within(self, folder: Path, newest: Path, size: int) -> None:
        with self._lock:
            self._bytes += size
            self._until_recount -= 1
            if self._bytes <= self._max_bytes and self._until_recount > 0:
                return
            # Free a tenth at once, so that a full cache is not measured again for every file.
            found = sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
            if found > self._max_bytes:
                evict(folder, newest, self._max_bytes * 9 // 10)
                found = sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
            self._bytes, self._until_recount = found, _RECOUNT


def _checked(at_s: float | None) -> float:
    if at_s is None:
        return 0.0
    if isinstance(at_s, bool) or not isinstance(at_s, int | float) or not math.isfinite(at_s):
        raise SpecError(f"The time of a thumbnail is {at_s!r}; give seconds from the item's start, such as 12.5.")
    return max(0.0, float(at_s))


def _checked_width(width: int) -> int:
    if isinstance(width, bool) or not isinstance(width, int) or not MIN_WIDTH <= width <= MAX_WIDTH:
        raise SpecError(f"The width of a thumbnail is {width!r}; give {MIN_WIDTH} to {MAX_WIDTH} pixels.")
    return width


def find_media(store: ReleaseReader, uid: str, source: str | None) -> MediaItem:
    """Return the item to show: that of the given source if it has pictures, else one with the same uid that has.

    Raises:
        SpecError: the uid or source is unknown.
        MissingMediaError: no item with this uid has pictures.
    """
    rows = store.items_with(uid=uid).sort("source").to_dicts()
    if not rows:
        raise SpecError(f"No item of release {store.release.release} has the uid {uid!r}.")
    if source is not None and source not in {row["source"] for row in rows}:
        known = ", ".join(row["source"] for row in rows)
        raise SpecError(f"The source {source!r} has no item with the uid {uid!r}; these have: {known}.")
    for row in sorted(rows, key=lambda row: row["source"] != source):
        facts = media_facts(row["facts"])
        if facts is not None and row["uri"]:
            place = row["source"], row["uid"], row["uri"], row["size"] or 0
            return MediaItem(*place, row["signature"] or "", row["digest"] or "", facts)
    raise MissingMediaError(f"{uid!r} has no picture: it is not an image or video that could be read.")


def media_facts(text: str | None) -> MediaFacts | None:
    """Return the facts of a media item from the items table; None for other kinds of items and for failed ones."""
    try:
        found: Any = json.loads(text or "null")
        return MediaFacts(**found) if isinstance(found, dict) else None
    except (ValueError, TypeError):
        return None  # facts of another kind of item, such as a narration file


def check_local(store: ReleaseReader, media: MediaItem) -> None:
    """Reject a local file that was deleted or has changed since the release was made."""
    path = uri_to_path(media.uri)
    try:
        status = path.stat()
    except OSError as error:
        why = "does not exist any more" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
        raise MissingMediaError(f"{media.uid!r} has no picture: {path} {why}.") from None
    if media.signature == f"{status.st_size}:{status.st_mtime_ns}":
        return
    same = status.st_size == media.size and _digest_at(str(path), status.st_mtime_ns, media.digest) == media.digest
    if not same:
        release = store.release.release
        raise MissingMediaError(f"{media.uid!r} has no picture: {path} has changed since release {release} was made.")


@lru_cache(maxsize=4096)
def _digest_at(path: str, _mtime_ns: int, like: str) -> str:
    """Return the digest of a file at a modification time; files that were only touched or copied are read once."""
    try:
        return digest_file(Path(path), like=like)
    except OSError:
        return ""


def _picture(store: ReleaseReader, media: MediaItem, at_s: float, width: int) -> NDArray[np.uint8]:
    """Pixels uint8 [height, width, 3] of the frame on screen at ``at_s``, upright, with square pixels."""
    try:
        if not is_local_file(store, media):
            with local_copy(store, media, "decode") as path:
                return frame_at(path, media.facts, at_s, width)
        check_local(store, media)
        return frame_at(uri_to_path(media.uri), media.facts, at_s, width)
    except ItemError as error:
        raise MissingMediaError(f"{media.uid!r} has no picture at {at_s:g} s: {error}") from None


def is_local_file(store: ReleaseReader, media: MediaItem) -> bool:
    """Return whether an item is a file of this machine; kinds of other packages may have items inside files."""
    return not is_remote(media.uri) and _declared(store, media.source)["kind"] in BUILT_IN


@contextmanager
def local_copy(store: ReleaseReader, media: MediaItem, stage: str) -> Iterator[Path]:
    """Give a local file with the bytes of an item that is not a local file.

    Args:
        store: an open release.
        media: the item.
        stage: word for failures.

    Raises:
        MissingMediaError: if the package that offers the kind of its source is not installed.
        ItemError: if the item is gone or has changed.
    """
    declared = _declared(store, media.source)
    try:
        kind = source_kind(declared["kind"])
    except UnknownNameError as error:
        raise MissingMediaError(f"{media.uid!r} can't be opened: {error}") from None
    with kind.open_item(media.uri, media.signature, stage, json.dumps(declared), media.digest) as path:
        yield path


def _declared(store: ReleaseReader, source: str) -> dict[str, Any]:
    """Return the node of a source in the spec of the release; without settings for downloads that are not valid."""
    declared = store.release.spec.get("sources", {}).get(source, {})
    found = {"kind": "media"} | (declared if isinstance(declared, dict) else {})
    try:
        HttpSpec.model_validate(found.get("http", {}))
    except ValueError:
        del found["http"]
    return found


def frame_at(path: Path, facts: MediaFacts, at_s: float, width: int) -> NDArray[np.uint8]:
    """Decode the frame on screen at a given moment.

    Args:
        path: the path of a local file.
        facts: the facts that its probe found.
        at_s: the time in seconds from its start.
        width: the width in pixels of the box to fit the picture into; the box is twice as high.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        MediaError: nothing can be decoded there.
    """
    from cliploom.transforms.media.decode import Request, decode

    still = facts.type == "image" or facts.duration_s <= 0
    if not still and at_s > facts.duration_s + _LATEST_S:
        raise NoVideoError("decode", f"'{path.name}' lasts {facts.duration_s:g} s.")
    moment_us = 0 if still else max(0, min(round(at_s * _MICRO), round(facts.duration_s * _MICRO) - 1))
    across, down = thumbnail_size(facts, _pixel_aspect(path, facts), width)
    want = Preprocess(width=across, height=down, fit="squash", filter="area")
    # In a grid with this step, ordinal 1 is the frame on screen at this moment; ordinal 0 is the first frame.
    step_s = moment_us / _MICRO if moment_us else 1.0
    segment = (moment_us / _MICRO, moment_us / _MICRO + step_s / 2)
    request = Request(Every.model_validate({"every": f"{step_s:.6f}s"}), want)
    for sampled in decode(path, facts, [request], segment):
        pixels: NDArray[np.uint8] = sampled.pixels  # type: ignore[assignment]
        return pixels
    raise NoVideoError("decode", f"'{path.name}' has no frame there.")


def thumbnail_size(facts: MediaFacts, pixel_aspect: float, width: int) -> tuple[int, int]:
    """Return width and height of a thumbnail: the display aspect ratio of the picture, never enlarged.

    Args:
        facts: the facts of the file.
        pixel_aspect: the width of a stored pixel divided by its height.
        width: the width of the box, in pixels.

    >>> facts = MediaFacts("video", "mp4", "h264", 720, 576, 90, 1, 1, 0.0, 1.0, 1.0)
    >>> thumbnail_size(facts, 16 / 15, 288)
    (288, 384)
    """
    across, down = facts.width * max(1.0, pixel_aspect), facts.height / min(1.0, pixel_aspect)
    if facts.rotation in (90, 270):
        across, down = down, across
    scale = min(1.0, width / across, _TALLEST * width / down)
    return max(1, round(across * scale)), max(1, round(down * scale))


def _pixel_aspect(path: Path, facts: MediaFacts) -> float:
    """Return the width of a stored pixel divided by its height, from the container or stream; 1 if unknown."""
    if facts.type == "image" or facts.container == "webp":
        return 1.0
    from cliploom.transforms.media.container import open_container, video_stream

    with open_container(path, "decode") as container:
        ratio = video_stream(container, path, "decode").sample_aspect_ratio
    aspect = float(ratio) if ratio else 1.0
    return aspect if 1 / _WIDEST_PIXEL <= aspect <= _WIDEST_PIXEL else 1.0


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=_QUALITY, method=4)
    return buffer.getvalue()
