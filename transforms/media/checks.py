"""Checks a file's content against checksums and sizes in its format: damage that decoders do not notice.

Matroska and WebM (RFC 9559, CRC-32 elements), Ogg (RFC 3533, page checksums), GIF (sizes of pictures).
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path

from cliploom.transforms.media.gifs import damaged_pictures
from cliploom.transforms.watchdog import alive

_EBML_CRC = b"\xbf\x84"
_SEGMENT = 0x18538067
_BLOCKS = frozenset({0x1F43B675, 0x1654AE6B})
"""Clusters, which contain the pictures, and tracks, which contain the codec headers."""
_MOST_BLOCKS = 1_000_000
_OGG_HEAD = 27
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def damaged_content(path: Path, container: str) -> str:
    """Describe damage that checksums or sizes show, as the end of a sentence; empty if they show none.

    Args:
        path: a local file.
        container: libav's name of the format.
    """
    if container == "gif":
        return damaged_pictures(path)
    checks = {"matroska,webm": _matroska, "ogg": _ogg}
    if container not in checks:
        return ""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = list(checks[container](data))
    damaged = found.count(False)
    unit = "clusters" if container == "matroska,webm" else "pages"
    return f"{damaged:,} of {len(found):,} {unit} are damaged, by their checksums" if damaged else ""


def has_checksums(path: Path) -> bool:
    """Return whether a Matroska file has checksums, as FFmpeg writes them unless it writes to a stream."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return next(_matroska(data), None) is not None


def _matroska(data: mmap.mmap) -> Iterator[bool]:
    """Yield whether the checksum matches, for each cluster that has one."""
    _, length, at = _element(data, 0)
    kind, length, at = _element(data, at + max(0, length))
    if kind != _SEGMENT:
        return
    end = len(data) if length < 0 else min(len(data), at + length)
    for _ in range(_MOST_BLOCKS):
        kind, length, content = _element(data, at)
        if at >= end or not kind or length < 0:
            return
        after = content + length
        if kind in _BLOCKS and after <= len(data) and data[content : content + 2] == _EBML_CRC:
            alive()
            stated = int.from_bytes(data[content + 2 : content + 6], "little")
            yield zlib.crc32(memoryview(data)[content + 6 : after]) == stated
        at = after


def _element(data: mmap.mmap, at: int) -> tuple[int, int, int]:
    """Return id, length (-1 if unknown) and content offset of an EBML element; id 0 for none."""
    if at >= len(data) or data[at] < 0x10:
        return 0, 0, at
    used = 9 - data[at].bit_length()
    kind, at = int.from_bytes(data[at : at + used], "big"), at + used
    if at >= len(data) or not data[at]:
        return 0, 0, at
    width = 9 - data[at].bit_length()
    unknown = (1 << 7 * width) - 1
    length = int.from_bytes(data[at : at + width], "big") & unknown
    return kind, -1 if length == unknown else length, at + width


def _ogg(data: mmap.mmap) -> Iterator[bool]:
    """Yield whether the checksum matches, for each page."""
    at = 0
    while at + _OGG_HEAD <= len(data):
        if data[at : at + 4] != b"OggS":
            at = data.find(b"OggS", at + 1)
            if at < 0:
                return
            continue
        segments = data[at + 26]
        end = at + _OGG_HEAD + segments + sum(data[at + _OGG_HEAD : at + _OGG_HEAD + segments])
        if end > len(data):
            return
        alive()
        page = bytearray(data[at:end])
        stated = int.from_bytes(page[22:26], "little")
        page[22:26] = bytes(4)
        fits = crc32_from_the_top(bytes(page)) == stated
        yield fits
        # The length of a damaged page may be damaged too.
        at = end if fits else at + 4


def crc32_from_the_top(data: bytes) -> int:
    """Return the CRC-32 with the polynomial 0x04C11DB7, most significant bit first, start value 0, as in Ogg and FFV1.

    It equals zlib's CRC of the bit-reversed bytes, bit-reversed.

    >>> hex(crc32_from_the_top(b"123456789"))
    '0x89a1897f'
    """
    mirrored = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
