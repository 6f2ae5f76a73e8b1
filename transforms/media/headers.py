"""What a file's outermost structure promises, against what is there: silent truncation, found without decoding.

Demuxers stop at the end of a cut file as if it were the video's end. These readers follow only lengths and markers:
ISO base media boxes (ISO 14496-12), EBML (RFC 8794), RIFF, GIF blocks (GIF89a), PNG chunks and JPEG markers.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_BOX_LIMIT = 100_000
_JPEGS_OF_A_VIDEO = 3
_STRAY_LIMIT = 1 << 16
_NAME_WITHIN = 1 << 20
_CODEC_NAME = re.compile(rb"stsd.{12}([0-9A-Za-z]{4})|(V_[A-Z0-9/]+)", re.DOTALL)
_PICTURE_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif"})
_GRID_ITEM = re.compile(rb"infe[\x02\x03].{7,9}grid", re.DOTALL)
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_PNG = b"\x89PNG\r\n\x1a\n"
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof")


def cut_short(path: Path) -> str:
    """Why the file must have been longer once, as the end of a sentence; empty when nothing shows it.

    Args:
        path: a readable, regular file.
    """
    with open(path, "rb") as file:
        head = file.read(16)
        size = file.seek(0, 2)
        for matches, check in _CHECKS:
            if matches(head):
                file.seek(0)
                return check(file, size)
    return ""


def gif_frames(path: Path) -> int:
    """Number of pictures whose header stands in a GIF, whole or not."""
    with open(path, "rb") as file:
        return _walk_gif(file)[0]


def codec_name(path: Path) -> str:
    """What a video calls its codec (ISO sample entry, Matroska codec id), or empty; for codecs unknown to libav."""
    with open(path, "rb") as file:
        data = file.read(_NAME_WITHIN)
        file.seek(max(0, file.seek(0, 2) - _NAME_WITHIN))
        data += file.read()
    names = _CODEC_NAME.search(data)
    return (names[1] or names[2]).decode("ascii") if names else ""


def is_motion_jpeg(path: Path) -> bool:
    """JPEG pictures one right after the other and no directory of them (CIPA DC-007), which photographs have."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 0
        # A photograph may have one more picture, a preview, behind it without a directory.
        for _ in range(_JPEGS_OF_A_VIDEO):
            scan = _jpeg_scan(data, at)
            if data[at : at + 3] != b"\xff\xd8\xff" or data.find(b"MPF\0", at, scan) >= 0:
                return False
            at = data.find(b"\xff\xd9", scan) + 2
            if at < 2:
                return False
    return True


def is_tiled(path: Path) -> bool:
    """An HEIF picture that is put together from tiles (ISO 23008-12, item type ``grid``)."""
    with open(path, "rb") as file:
        head = file.read(12)
        is_heif = head[4:8] == b"ftyp" and head[8:] in _PICTURE_BRANDS
        return is_heif and _GRID_ITEM.search(file.read(_NAME_WITHIN)) is not None


def track_matrix(path: Path) -> bytes | None:
    """Display matrix of the first video track of an ISO media file: nine int32, little-endian as libav gives them."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for moov in _inside(data, 0, len(data), b"moov"):
            for trak in _inside(data, *moov, b"trak"):
                kinds = [
                    data[start + 8 : start + 12]
                    for mdia in _inside(data, *trak, b"mdia")
                    for start, _ in _inside(data, *mdia, b"hdlr")
                ]
                for start, end in _inside(data, *trak, b"tkhd"):
                    at = start + (52 if data[start] == 1 else 40)
                    if b"vide" in kinds and at + 36 <= end:
                        return struct.pack("<9i", *struct.unpack(">9i", data[at : at + 36]))
    return None


def _inside(data: mmap.mmap, start: int, end: int, kind: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of the content of each box of a kind between two places."""
    while start + 8 <= end:
        length, header = int.from_bytes(data[start : start + 4], "big"), 8
        if length == 1:
            length, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        if length < header:
            return
        if data[start + 4 : start + 8] == kind:
            yield start + header, min(start + length, end)
        start += length


def _missing(expected: int, size: int) -> str:
    return f"it is cut off: {size:,} of {expected:,} bytes are there" if expected > size else ""


def _boxes(file: BinaryIO, size: int) -> str:
    at = 0
    seen = set()
    for _ in range(_BOX_LIMIT):
        file.seek(at)
        header = file.read(16)
        if len(header) < 8:
            break
        length = int.from_bytes(header[:4], "big")
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:], "big")
        if length == 0 or not header[4:8].isalnum():
            break
        seen.add(header[4:8])
        if length < 8:
            return "it is damaged: a box has no length" if b"moov" not in seen else ""
        at += length
    if not seen & {b"moov", b"meta"}:
        return "it is cut off or was never finished: its index (moov) is missing"
    return _missing(at, size)


def _matroska(file: BinaryIO, size: int) -> str:
    data = file.read(4096)
    length, used = _vint(data, 4)
    at = 4 + used + length
    if data[at : at + 4] != _SEGMENT:
        return ""
    length, used = _vint(data, at + 4)
    # All ones: the length was not known when the file was written (a live recording).
    if used == 0 or length == (1 << 7 * used) - 1:
        return ""
    return _missing(at + 4 + used + length, size)


def _vint(data: bytes, at: int) -> tuple[int, int]:
    """Value and length in bytes of an EBML variable-size integer; length 0 when there is none."""
    if at >= len(data) or data[at] == 0:
        return 0, 0
    used = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + used], "big") & ((1 << 7 * used) - 1)
    return value, used


def _riff(file: BinaryIO, size: int) -> str:
    # OpenDML files have several RIFF chunks; the first one's length is the promise that can be checked.
    return _missing(8 + int.from_bytes(file.read(8)[4:], "little"), size)


def _gif(file: BinaryIO, size: int) -> str:
    return "" if _walk_gif(file)[1] else f"it is cut off: its {size:,} bytes end before the GIF trailer"


def _walk_gif(file: BinaryIO) -> tuple[int, bool]:
    """Pictures begun, and whether the trailer was reached."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _walk_gif_bytes(data)


def _walk_gif_bytes(data: mmap.mmap) -> tuple[int, bool]:
    frames = stray = 0
    at = 13 + _palette(data[10] if len(data) > 10 else 0)
    while at < len(data) and stray < _STRAY_LIMIT:
        block = data[at]
        if block == 0x3B:
            return frames, True
        if block == 0x2C:
            frames += 1
            at += 11 + _palette(data[at + 9] if at + 9 < len(data) else 0)
        elif block == 0x21:
            at += 2
        else:
            # Bytes between blocks: players skip to the next block they know.
            at += 1
            stray += 1
            continue
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return frames, False


def _palette(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _png(file: BinaryIO, size: int) -> str:
    at = 8
    while True:
        file.seek(at)
        header = file.read(8)
        if len(header) < 8:
            return f"it is cut off: its {size:,} bytes end before the PNG end chunk"
        at += 12 + int.from_bytes(header[:4], "big")
        if header[4:] == b"IEND":
            return ""
        if at > size:
            return _missing(at, size)


def _jpeg(file: BinaryIO, size: int) -> str:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        ended = data.find(b"\xff\xd9", _jpeg_scan(data)) >= 0
    return "" if ended else f"it is cut off: its {size:,} bytes end before the JPEG end marker"


def _jpeg_scan(data: mmap.mmap, start: int = 0) -> int:
    """Where the picture data begin of a JPEG at ``start``.

    Markers with a length come first; thumbnails there have end markers too.
    """
    at = start + 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


_CHECKS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], str]], ...] = (
    (lambda head: head[4:8] in _BOXES, _boxes),
    (lambda head: head.startswith(_EBML), _matroska),
    (lambda head: head.startswith(b"RIFF"), _riff),
    (lambda head: head.startswith(b"GIF8"), _gif),
    (lambda head: head.startswith(_PNG), _png),
    (lambda head: head.startswith(b"\xff\xd8\xff"), _jpeg),
)
