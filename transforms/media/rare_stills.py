"""Valid stills that Pillow rejects: BMPs of unusual depths and masks, TIFFs of RGB as floating-point numbers.

BMP: 2 bits per pixel (Windows CE), 16 and 32 bits with any masks, 64 bits of linear light (GDI+, 13 fractional bits).
TIFF 6.0 with SampleFormat 3, which libav decodes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

_HEAD = 14
_INFO = 40
_BITFIELDS = frozenset({3, 6})
_WITH_ALPHA_MASK = 56
_ONE = 1 << 13
_TIFF_TAGS = 4096
_SHORT = 3
_WIDTH, _HEIGHT, _SAMPLES, _FORMAT = 256, 257, 277, 339
_FLOAT_FORMATS = frozenset({"rgbf32le", "rgbf32be", "rgbaf32le", "rgbaf32be"})


@dataclass(frozen=True)
class RareStill:
    """The header of such a picture.

    Attributes:
        name: the name of the format.
        bits: the number of bits per pixel.
        top_down: whether the first row stored is the top one.
        start: the offset of the pixels.
        masks: the bit masks of red, green, blue and alpha; empty if there are none.
        palette: uint8 [N, 3], or empty.
        deep: whether values are floating-point numbers.
    """

    name: str
    width: int
    height: int
    bits: int = 0
    top_down: bool = False
    start: int = 0
    masks: tuple[int, ...] = ()
    palette: bytes = b""
    deep: bool = False


def rare_still(path: Path) -> RareStill | None:
    """Return the header of a picture that ``read_rare`` supports; None for any other."""
    with open(path, "rb") as file:
        head = file.read(1 << 12)
        try:
            if head.startswith(b"BM"):
                return _bmp(head)
            if head.startswith((b"II*\0", b"MM\0*")):
                order = "<" if head.startswith(b"II") else ">"
                file.seek(struct.unpack(f"{order}I", head[4:8])[0])
                return _tiff(file.read(_TIFF_TAGS), order)
        except (struct.error, IndexError, OverflowError):
            return None
    return None


def read_rare(path: Path, still: RareStill) -> NDArray[np.uint8] | NDArray[np.float64]:
    """Return the pixels: uint8 [H, W, 3 or 4], or float64 [H, W, 3] if it is deep.

    Raises:
        ValueError: they are incomplete.
    """
    return _float_pixels(path) if still.deep else _bmp_pixels(path, still)


def _bmp(head: bytes) -> RareStill | None:
    (start,) = struct.unpack("<I", head[10:14])
    length, width, height, _, bits, compression = struct.unpack("<IiiHHI", head[_HEAD : _HEAD + 20])
    if length < _INFO or width <= 0 or not height:
        return None
    masks: tuple[int, ...] = ()
    palette = b""
    if bits in (16, 32) and compression in _BITFIELDS:
        count = 4 if length >= _WITH_ALPHA_MASK or compression != min(_BITFIELDS) else 3
        masks = struct.unpack(f"<{count}I", head[_HEAD + _INFO : _HEAD + _INFO + 4 * count])
        if not all(masks[:3]):
            return None
    elif bits == 2 and not compression:
        palette = head[_HEAD + length : _HEAD + length + 16]
        if len(palette) < 16:
            return None
    elif bits != 64 or compression not in (0, *_BITFIELDS):
        return None
    return RareStill("bmp", width, abs(height), bits, height < 0, start, masks, palette)


def _bmp_pixels(path: Path, still: RareStill) -> NDArray[np.uint8]:
    stride = -(-still.width * still.bits // 32) * 4
    with open(path, "rb") as file:
        file.seek(still.start)
        data = file.read(stride * still.height)
    if len(data) < stride * still.height:
        raise ValueError("its pixels are cut off")
    rows = np.frombuffer(data, np.uint8).reshape(still.height, stride)
    if not still.top_down:
        rows = rows[::-1]
    if still.bits == 2:
        places = np.stack([rows >> shift & 3 for shift in (6, 4, 2, 0)], axis=2).reshape(still.height, -1)
        colours = np.frombuffer(still.palette, np.uint8).reshape(4, 4)[:, 2::-1]
        return colours[places[:, : still.width]]
    if still.bits == 64:
        return _from_linear(np.ascontiguousarray(rows[:, : 8 * still.width]).view("<i2"), still)
    values = np.ascontiguousarray(rows[:, : still.width * still.bits // 8]).view(f"<u{still.bits // 8}")
    masks = still.masks if len(still.masks) > 3 and still.masks[3] else still.masks[:3]
    return np.stack([_masked(values, mask) for mask in masks], axis=2)


def _masked(values: NDArray[np.unsignedinteger], mask: int) -> NDArray[np.uint8]:
    """Return the bits of a mask as 0 to 255."""
    lowest = (mask & -mask).bit_length() - 1
    largest = mask >> lowest
    levels = (values.astype(np.uint32) & np.uint32(mask)) >> np.uint32(lowest)
    return np.round(levels * (255.0 / largest)).astype(np.uint8)


def _from_linear(values: NDArray[np.int16], still: RareStill) -> NDArray[np.uint8]:
    """Convert linear light with 13 fractional bits, blue first, to sRGB (IEC 61966-2-1) with alpha."""
    shares = np.clip(values.reshape(still.height, still.width, 4)[:, :, [2, 1, 0, 3]] / _ONE, 0, 1)
    light = shares[:, :, :3]
    shares[:, :, :3] = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    return np.round(shares * 255).astype(np.uint8)


def _tiff(directory: bytes, order: str) -> RareStill | None:
    (count,) = struct.unpack(f"{order}H", directory[:2])
    tags: dict[int, tuple[int, int]] = {}
    for number in range(min(count, (len(directory) - 2) // 12)):
        tag, kind, length = struct.unpack(f"{order}HHI", directory[2 + 12 * number :][:8])
        value = directory[10 + 12 * number :][:4]
        tags[tag] = (
            struct.unpack(f"{order}H", value[:2])[0] if kind == _SHORT else struct.unpack(f"{order}I", value)[0],
            length,
        )
    # Three-channel formats do not fit into the directory entry; libav identifies them.
    if {_WIDTH, _HEIGHT, _SAMPLES, _FORMAT} - tags.keys() or tags[_SAMPLES][0] not in (3, 4) or tags[_FORMAT][1] < 3:
        return None
    return RareStill("tiff", tags[_WIDTH][0], tags[_HEIGHT][0], deep=True)


def _float_pixels(path: Path) -> NDArray[np.float64]:
    try:
        with av.open(str(path), format="tiff_pipe") as container:
            frame = next(container.decode(video=0))
    except (av.FFmpegError, OSError, StopIteration, IndexError):
        raise ValueError("its values are damaged, or not 32-bit floating-point numbers") from None
    if frame.format.name not in _FLOAT_FORMATS:
        raise ValueError(f"its values are not 32-bit floating-point numbers ({frame.format.name})")
    return np.asarray(frame.to_ndarray()[:, :, :3], np.float64)
