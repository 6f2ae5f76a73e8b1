"""Detects truncated files without decoding, by comparing the outermost structure with the file's size.

Demuxers treat the end of a truncated file as the end of the video. These readers follow only lengths and markers: ISO
base media boxes (ISO 14496-12), RIFF, GIF blocks (GIF89a), PNG chunks, JPEG markers, and those of ``chains``.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from cliploom.transforms.media.chains import CHECKS, missing

_BOX_LIMIT = 100_000
_FRAGMENT_HEAD = 24
_NUMBERED = 0.8
_JPEGS_OF_A_VIDEO = 3
_JPEG_WITHIN = 1 << 28
# A graphic control extension and the picture after it.
_GIF_PICTURE = re.compile(rb"\0!\xf9\x04[\0-\x1f].{3}\0,", re.DOTALL)
_STRAY_LIMIT = 1 << 16
_NAME_WITHIN = 1 << 20
_CODEC_NAME = re.compile(rb"stsd.{12}([0-9A-Za-z]{4})|(V_[A-Z0-9/]+)", re.DOTALL)
_PICTURE_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif"})
_GRID_ITEM = re.compile(rb"infe[\x02\x03].{7,9}grid", re.DOTALL)
_FRAME_CONTROL = 26
_PNG = b"\x89PNG\r\n\x1a\n"
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof", b"meta", b"sidx", b"mfra", b"uuid")


def cut_short(path: Path) -> str:
    """Explain why the file must be truncated, as the end of a sentence; empty if there is no sign of it.

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
    """Return the number of pictures with a header in a GIF, complete or not."""
    with open(path, "rb") as file:
        return _walk_gif(file)[0]


def apng_delays(path: Path) -> list[tuple[int, int]]:
    """Return numerator and denominator, as stored, of each picture's delay in an animated PNG (``fcTL`` chunks)."""
    found = []
    with open(path, "rb") as file:
        at, size = 8, file.seek(0, 2)
        while at + 8 <= size:
            file.seek(at)
            length, kind = struct.unpack(">I4s", file.read(8))
            body = file.read(_FRAME_CONTROL) if kind == b"fcTL" else b""
            if len(body) == _FRAME_CONTROL:
                found.append(struct.unpack(">HH", body[20:24]))
            at += 12 + length
    return found


def is_animated_png(path: Path) -> bool:
    """Return whether an animation control chunk for more than one picture precedes the picture data."""
    with open(path, "rb") as file:
        head, at, size = file.read(8), 8, file.seek(0, 2)
        while head == _PNG and at + 8 <= size:
            file.seek(at)
            length, kind = struct.unpack(">I4s", file.read(8))
            if kind == b"acTL":
                return int.from_bytes(file.read(4), "big") > 1
            if kind == b"IDAT" or not kind.isalpha():
                return False
            at += 12 + length
    return False


def codec_name(path: Path) -> str:
    """Return a video's codec (ISO sample entry, Matroska codec id), or empty; for codecs unknown to libav."""
    with open(path, "rb") as file:
        data = file.read(_NAME_WITHIN)
        file.seek(max(0, file.seek(0, 2) - _NAME_WITHIN))
        data += file.read()
    names = _CODEC_NAME.search(data)
    return (names[1] or names[2]).decode("ascii") if names else ""


def is_motion_jpeg(path: Path) -> bool:
    """Return whether the file is a sequence of JPEGs without a directory of them (CIPA DC-007), unlike photographs."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 0
        # A photograph may have one more picture after it, a preview, without a directory.
        for _ in range(_JPEGS_OF_A_VIDEO):
            scan = _jpeg_scan(data, at)
            if data[at : at + 3] != b"\xff\xd8\xff" or not _is_scan(data, scan) or data.find(b"MPF\0", at, scan) >= 0:
                return False
            at = data.find(b"\xff\xd9", scan, scan + _JPEG_WITHIN) + 2
            if at < 2:
                return False
    return True


def is_jpeg_without_picture(path: Path) -> bool:
    """Return whether a file starts like a JPEG but has no picture data, which readers would search for byte by byte."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:3] != b"\xff\xd8\xff":
            return False
        return not _is_scan(data, _jpeg_scan(data))


def is_tiled(path: Path) -> bool:
    """Return whether an HEIF picture consists of tiles (ISO 23008-12, item type ``grid``)."""
    with open(path, "rb") as file:
        head = file.read(12)
        is_heif = head[4:8] == b"ftyp" and head[8:] in _PICTURE_BRANDS
        return is_heif and _GRID_ITEM.search(file.read(_NAME_WITHIN)) is not None


def has_film(path: Path) -> bool:
    """Return whether it is a motion photo: a JPEG followed by an MP4, or HEIF with one in its box ``mpvd``."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[4:8] == b"ftyp":
            return next(_inside(data, 0, len(data), b"mpvd"), None) is not None
        film = data.rfind(b"ftyp") - 4
        return data[:3] == b"\xff\xd8\xff" and film > 0 and data.rfind(b"\xff\xd9", 0, film) > 0


def in_fragments(path: Path) -> bool:
    """Return whether an ISO media file has its samples in fragments, each with its own times."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return next(_inside(data, 0, len(data), b"moof"), None) is not None


def track_matrix(path: Path) -> bytes | None:
    """Return the display matrix of the first video track of an ISO file: nine int32, little-endian as from libav."""
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
    """Yield (start, end) of the content of each box of a kind between two offsets."""
    while start + 8 <= end:
        length, header = int.from_bytes(data[start : start + 4], "big"), 8
        if length == 1:
            length, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        if length < header:
            return
        if data[start + 4 : start + 8] == kind:
            yield start + header, min(start + length, end)
        start += length


def _boxes(file: BinaryIO, size: int) -> str:
    at = 0
    seen = set()
    numbers = []
    for _ in range(_BOX_LIMIT):
        file.seek(at)
        header = file.read(_FRAGMENT_HEAD)
        if len(header) < 8:
            break
        length = int.from_bytes(header[:4], "big")
        if length == 1 and len(header) >= 16:
            length = int.from_bytes(header[8:16], "big")
        if not header[4:8].isalnum() or (at + length > size and header[4:8] not in _BOXES):
            # Bytes after the last box.
            break
        if length == 0:
            # The last box may declare that it extends to the end of the file.
            at = size
            break
        seen.add(header[4:8])
        if header[4:8] == b"moof" and header[12:16] == b"mfhd":
            numbers.append(int.from_bytes(header[20:24], "big"))
        if length < 8:
            return "it is damaged: a box has no length" if b"moov" not in seen else ""
        at += length
    else:
        # Boxes beyond this number are ignored.
        at = size
    if not seen & {b"moov", b"meta"}:
        return "it is cut off or was never finished: its index (moov) is missing"
    return missing(at, size) or _fragments_lost(numbers, 0 if b"mfra" in seen else size - at)


def _fragments_lost(numbers: list[int], unread: int) -> str:
    """Explain what a fragmented recording, which has no index, lacks: missing fragment numbers, or a broken chain.

    Args:
        numbers: the numbers of the fragments, in the order of the file.
        unread: the number of bytes after the last box; an index at the end (mfra) is followed by nothing.
    """
    if numbers and unread > 0:
        return f"it is damaged: no fragment begins where the last one ends, {unread:,} bytes before the end"
    steps = [later - earlier for earlier, later in pairwise(numbers)]
    gone = sum(step - 1 for step in steps if step > 1)
    # Some writers do not number fragments consecutively.
    if gone and steps.count(1) >= _NUMBERED * len(steps):
        return f"{gone:,} fragments are not there, by the numbers of those that are"
    return ""


def _riff(file: BinaryIO, size: int) -> str:
    # OpenDML files have several RIFF chunks; only the length of the first can be checked.
    head = file.read(12)
    promised = 8 + int.from_bytes(head[4:8], "little")
    if promised > size or head[8:] != b"WEBP":
        return missing(promised, size)
    whole = max((end for _, end in webp_chunks(file)), default=12)
    return f"it is damaged after byte {whole:,}" if whole < promised - 1 else ""


def webp_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield the kind and end of each complete chunk; the file is positioned at its content."""
    size = file.seek(0, 2)
    at = 12
    while at + 8 <= size:
        file.seek(at)
        header = file.read(8)
        at += 8 + int.from_bytes(header[4:], "little")
        if at > size or not header[:4].strip(b"\0"):
            return
        at += at % 2
        yield header[:4], min(at, size)


def _gif(file: BinaryIO, size: int) -> str:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _, end = _walk_gif_bytes(data)
        if not end:
            return f"it is cut off: its {size:,} bytes end before the GIF trailer"
        # With damaged block lengths the walk, like a player, may reach a byte that looks like a trailer by chance.
        behind = _GIF_PICTURE.search(data, end)
        if behind is not None and data[end : end + 4] != b"GIF8":
            return f"it is damaged: pictures follow after byte {end:,}, where it ends"
    return ""


def _walk_gif(file: BinaryIO) -> tuple[int, int]:
    """Return the number of pictures started, and the end of the trailer; 0 if there is none."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _walk_gif_bytes(data)


def has_picture(blocks: bytes) -> bool:
    """Return whether some blocks of a GIF, with or without the header before them, contain an image."""
    return _walk_gif_bytes(blocks)[0] > 0


def _walk_gif_bytes(data: mmap.mmap | bytes) -> tuple[int, int]:
    frames = stray = 0
    at = 13 + _palette(data[10] if len(data) > 10 else 0) if data[:4] == b"GIF8" else 0
    while at < len(data) and stray < _STRAY_LIMIT:
        block = data[at]
        if block == 0x3B:
            return frames, at + 1
        if block == 0x2C:
            frames += 1
            at += 11 + _palette(data[at + 9] if at + 9 < len(data) else 0)
        elif block == 0x21:
            at += 2
        else:
            # Bytes between blocks: players skip to the next known block.
            at += 1
            stray += 1
            continue
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return frames, 0


def _palette(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _png(file: BinaryIO, size: int) -> str:
    at = 8
    while True:
        file.seek(at)
        header = file.read(8)
        if len(header) < 8:
            return f"it is cut off: its {size:,} bytes end before the PNG end chunk"
        if not header[4:].isalpha():
            return f"it is damaged: no PNG chunk begins at byte {at:,}"
        at += 12 + int.from_bytes(header[:4], "big")
        if header[4:] == b"IEND":
            return ""
        if at > size:
            return missing(at, size)


def _jpeg(file: BinaryIO, size: int) -> str:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        scan = _jpeg_scan(data)
        ended = _is_scan(data, scan) and data.find(b"\xff\xd9", scan) >= 0
    return "" if ended else f"it is cut off: its {size:,} bytes end before the JPEG end marker"


def _jpeg_scan(data: mmap.mmap, start: int = 0) -> int:
    """Return the offset of the picture data of a JPEG at ``start``.

    Markers with a length come first; the thumbnails in them have end markers too.
    """
    at = start + 2
    while at + 4 <= len(data) and data[at : at + 2] != b"\xff\xda":
        if data[at] != 0xFF or data[at + 1] in (0, 0xFF):
            # Stray bytes between markers are skipped, as by other readers.
            at = data.find(b"\xff", at + 1, at + _STRAY_LIMIT)
            if at < 0:
                return len(data)
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return min(at, len(data))


def _is_scan(data: mmap.mmap, at: int) -> bool:
    return data[at : at + 2] == b"\xff\xda"


_CHECKS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], str]], ...] = (
    (lambda head: head[4:8] in _BOXES, _boxes),
    (lambda head: head.startswith(b"RIFF"), _riff),
    (lambda head: head.startswith(b"GIF8"), _gif),
    (lambda head: head.startswith(_PNG), _png),
    (lambda head: head.startswith(b"\xff\xd8\xff"), _jpeg),
    *CHECKS,
)
