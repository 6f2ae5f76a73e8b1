"""Containers that are sequences of blocks without a global index: signs that they are truncated or damaged.

Reads only lengths, markers and positions, never the pictures: Matroska and WebM (RFC 9559), Ogg (RFC 3533), FLV and
SWF (Adobe's specifications), ASF, MPEG transport streams (ISO 13818-1), DV.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

EBML = b"\x1a\x45\xdf\xa3"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_HEADER_LIMIT = 1 << 20
_ASF_DATA_HEAD = 50
_ASF_CORRECTED = 0x80
_SEGMENT = 0x18538067
_CLUSTER = 0x1F43B675
# EBML, SeekHead, Info, Tracks, Cues, Chapters, Attachments, Tags; Void, CRC-32 and the elements in a cluster.
_ELEMENTS = frozenset(
    {_SEGMENT, _CLUSTER, 0x1A45DFA3, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1043A770, 0x1941A469, 0x1254C367}
)
_SMALL_ELEMENTS = frozenset({0xEC, 0xBF, 0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854, 0xAF})
_ELEMENT_LIMIT = 1_000_000
_ELEMENT_HEAD = 12
_OGG_TAIL = 1 << 17
_OGG_HEAD = 27
_OGG_LAST = 4
_TAG_HEAD = 11
_TAGS = frozenset({8, 9, 18})
_TS_SYNC = 0x47
# Packet length, and offset of the sync byte in it: plain, after a timestamp (Blu-ray), before parity bytes.
_TS_LAYOUTS = ((188, 0), (192, 4), (204, 0))

_DV = b"\x1f\x07\x00"
# Frame sizes in bytes for 525 and for 625 lines (IEC 61834-2).
_DV_FRAMES = (120_000, 144_000)


def missing(expected: int, size: int) -> str:
    """Return the reason if a file is shorter than its header says, else an empty string."""
    return f"it is cut off: {size:,} of {expected:,} bytes are there" if expected > size else ""


def damaged_within(path: Path) -> str:
    """Return where the blocks of a Matroska file stop forming a chain, as the end of a sentence; empty if nowhere."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        return _matroska(file, size, enter=True)


def _matroska(file: BinaryIO, size: int, *, enter: bool = False) -> str:
    _, length, at = _element(file, 0)
    kind, length, at = _element(file, at + max(0, length))
    if kind != _SEGMENT:
        return ""
    if length >= 0 and at + length > size:
        return missing(at + length, size)
    end = size if length < 0 else at + length
    strange = 0
    for _ in range(_ELEMENT_LIMIT):
        if at >= end:
            break
        kind, length, content = _element(file, at)
        # One element of an unknown kind may be skipped; two in a row are not elements.
        strange = 0 if kind in _ELEMENTS or kind in _SMALL_ELEMENTS else strange + 1
        if not kind or strange > 1:
            return f"it is damaged before byte {at:,}"
        # A cluster of unknown length, from a live recording, is entered; its blocks follow like other elements.
        at = content if enter and kind == _CLUSTER else content + max(0, length)
    return f"it is cut off within its last block, {at - end:,} bytes before that ends" if at > end else ""


def _element(file: BinaryIO, at: int) -> tuple[int, int, int]:
    """Return id, length (-1 if unknown) and content offset of an EBML element; id 0 for none."""
    file.seek(at)
    head = file.read(_ELEMENT_HEAD)
    if not head or head[0] < 0x10:
        return 0, 0, at
    used = 9 - head[0].bit_length()
    kind = int.from_bytes(head[:used], "big")
    if len(head) <= used or not head[used]:
        return 0, 0, at
    width = 9 - head[used].bit_length()
    unknown = (1 << 7 * width) - 1
    length = int.from_bytes(head[used : used + width], "big") & unknown
    return kind, -1 if length == unknown else length, at + used + width


def _ogg(file: BinaryIO, size: int) -> str:
    file.seek(max(0, size - _OGG_TAIL))
    tail = file.read()
    page = tail.rfind(b"OggS\0")
    if page < 0 or len(tail) < page + _OGG_HEAD:
        return "it is damaged: its end is not an Ogg page"
    segments = tail[page + _OGG_HEAD :][: tail[page + 26]]
    end = page + _OGG_HEAD + tail[page + 26] + sum(segments)
    if end > len(tail) or not tail[page + 5] & _OGG_LAST:
        return "it is cut off before the page that is marked as its last"
    return ""


def _flv(file: BinaryIO, size: int) -> str:
    file.seek(size - 4)
    length = int.from_bytes(file.read(4), "big")
    start = size - 4 - length
    file.seek(max(0, start))
    tag = file.read(_TAG_HEAD)
    if tag[0] & 0x1F in _TAGS and int.from_bytes(tag[1:4], "big") + _TAG_HEAD == length:
        return ""
    # Some writers store wrong lengths after tags, or none after the last; those before the tags are correct.
    file.seek(5)
    at = int.from_bytes(file.read(4), "big") + 4
    while at + _TAG_HEAD <= size:
        file.seek(at)
        tag = file.read(_TAG_HEAD)
        if tag[0] & 0x1F not in _TAGS:
            return f"it is damaged before byte {at:,}"
        at += _TAG_HEAD + int.from_bytes(tag[1:4], "big") + 4
    return "" if at - 4 <= size <= at else "it is cut off within its last tag"


def _asf(file: BinaryIO, size: int) -> str:
    file.seek(16)
    data = int.from_bytes(file.read(8), "little")
    file.seek(0)
    header = file.read(min(data, _ASF_HEADER_LIMIT))
    file.seek(data)
    head = file.read(_ASF_DATA_HEAD + 1)
    if not head.startswith(_ASF_DATA):
        return ""
    # A live recording does not state the length of its data.
    end = data + int.from_bytes(head[16:24], "little")
    properties = header.find(_ASF_PROPERTIES)
    length = int.from_bytes(header[properties + 92 :][:4], "little") if properties >= 0 else 0
    steady = properties >= 0 and header[properties + 92 :][:4] == header[properties + 96 :][:4]
    if end > size or not length or not steady or not head[-1] & _ASF_CORRECTED:
        return missing(end, size)
    # All packets with error correction data start with the same flags.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        others = sum(mapped[at] != head[-1] for at in range(data + _ASF_DATA_HEAD, end, length))
    return f"{others:,} of its data packets are damaged" if others else ""


def _transport(file: BinaryIO, size: int) -> str:
    head = file.read(5 * _TS_LAYOUTS[-1][0])
    for length, mark in _TS_LAYOUTS:
        if size > 2 * length and all(byte == _TS_SYNC for byte in head[mark::length]):
            rest = size % length
            file.seek(size - rest + mark)
            # Bytes after the video need not belong to a packet.
            cut = rest > mark and file.read(1)[0] == _TS_SYNC
            return f"it is cut off within its last packet, after {rest} of {length} bytes" if cut else ""
    return ""


def _dv(file: BinaryIO, size: int) -> str:
    length = _DV_FRAMES[bool(file.read(4)[3] & 0x80)]
    return f"its last frame is cut off: {size % length:,} of {length:,} bytes are there" if size % length else ""


def _flash(file: BinaryIO, size: int) -> str:
    return missing(int.from_bytes(file.read(8)[4:], "little"), size)


CHECKS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], str]], ...] = (
    (lambda head: head.startswith(EBML), _matroska),
    (lambda head: head.startswith(b"OggS"), _ogg),
    (lambda head: head.startswith(b"FLV\x01"), _flv),
    (lambda head: head.startswith(_ASF), _asf),
    (lambda head: head.startswith(b"FWS"), _flash),
    (lambda head: head.startswith(_DV), _dv),
    (lambda head: head[0] == _TS_SYNC or head[4:5] == b"\x47", _transport),
)
"""Pattern of a container's first 16 bytes, and the function that explains from file and size what is missing."""
