"""Renders GIFs whose canvas is cleared between pictures like browsers do: cleared parts are transparent.

libav, following GIF89a literally, fills them with the header's background colour. Here each picture is decoded
separately and composed onto the canvas.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliploom.transforms.media.lzw import unpacked
from cliploom.transforms.watchdog import alive

_CLEARED, _RESTORED = 2, 3
_HEAD = 13
_MOST_BITS = 11


@dataclass(frozen=True)
class _Piece:
    """One picture: its disposal method, its position, and a GIF that contains only it."""

    disposal: int
    transparent: int
    left: int
    top: int
    data: bytes


def clears_otherwise(path: Path) -> bool:
    """Return whether a picture other than the last is cleared differently by browsers and libav."""
    with _mapped(path) as data:
        pieces = [(piece.disposal, piece.transparent) for piece in _pieces(data)]
        return any(disposal == _CLEARED and transparent != data[11] for disposal, transparent in pieces[:-1])


def damaged_pictures(path: Path) -> str:
    """Describe pictures whose data decompress to a wrong size, as the end of a sentence; empty if there are none."""
    with _mapped(path) as data:
        sizes = [_matches(data, *found) for found in _images(data)]
    damaged = sizes.count(False)
    verb = "is" if damaged == 1 else "are"
    return f"{damaged:,} of {len(sizes):,} pictures {verb} damaged: their data do not fit their size" if damaged else ""


def _images(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Yield the number of pixels of each complete picture, and the offset of its data."""
    at = _HEAD + _palette(data[10]) if len(data) > _HEAD and data[:4] == b"GIF8" else len(data)
    while at < len(data) and data[at] != 0x3B:
        if data[at] == 0x21:
            at = _after_blocks(data, at + 2)
        elif data[at] == 0x2C and at + 10 < len(data):
            width, height, flags = struct.unpack("<HHB", data[at + 5 : at + 10])
            start = at + 10 + _palette(flags)
            at = _after_blocks(data, start + 1)
            if at <= len(data):
                yield width * height, start
        else:
            at += 1


def _matches(data: mmap.mmap, pixels: int, at: int) -> bool:
    """Return whether the data of a picture decompress to its size."""
    alive()
    bits, blocks, at = data[at], [], at + 1
    while at < len(data) and data[at]:
        blocks.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    if not 1 <= bits <= _MOST_BITS:
        return False
    found = unpacked(b"".join(blocks), bits)
    return found.length == pixels or (found.length > pixels and not found.valid)


def draw(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the canvas after each picture: uint8 [H, W, 4]; stops before a damaged picture."""
    with _mapped(path) as data:
        width, height = struct.unpack("<HH", data[6:10])
        canvas = np.zeros((height, width, 4), np.uint8)
        for piece in _pieces(data):
            try:
                with Image.open(BytesIO(piece.data), formats=("GIF",)) as image:
                    pixels = np.asarray(image.convert("RGBA"))
            except (OSError, ValueError, SyntaxError, EOFError):
                return
            before = canvas.copy() if piece.disposal == _RESTORED else canvas
            place = canvas[piece.top : piece.top + pixels.shape[0], piece.left : piece.left + pixels.shape[1]]
            pixels = pixels[: place.shape[0], : place.shape[1]]
            np.copyto(place, pixels, where=pixels[:, :, 3:] > 0)
            yield canvas.copy()
            if piece.disposal == _CLEARED:
                place[:] = 0
            canvas = before


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _pieces(data: mmap.mmap) -> Iterator[_Piece]:
    """Yield the pictures of a GIF, each as a GIF of its own size; stops at the last block."""
    if data[:4] != b"GIF8" or len(data) < _HEAD:
        return
    at = _HEAD + _palette(data[10])
    palette, control = data[_HEAD:at], b""
    while at < len(data) and data[at] != 0x3B:
        if data[at] == 0x21:
            end = _after_blocks(data, at + 2)
            control = data[at:end] if data[at + 1 : at + 2] == b"\xf9" else control
        elif data[at] == 0x2C:
            if at + 10 > len(data):
                return
            left, top, width, height, flags = struct.unpack("<HHHHB", data[at + 1 : at + 10])
            end = _after_blocks(data, at + 11 + _palette(flags))
            head = data[:6] + struct.pack("<HH", width, height) + data[10:_HEAD] + palette
            image = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, flags) + data[at + 10 : end]
            packed = control[3] if len(control) > 6 else 0
            transparent = control[6] if packed & 1 else -1
            yield _Piece((packed >> 2) & 7, transparent, left, top, head + control + image + b"\x3b")
            control = b""
        else:
            end = at + 1
        at = end


def _palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: mmap.mmap, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1
