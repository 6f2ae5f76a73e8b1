"""The unpacked length of an LZW stream, without unpacking it; a wrong length reveals damage.

GIF (GIF89a, appendix F) and TIFF (TIFF 6.0, section 13) have no checksums, but a picture's size is known. The width of
each code depends only on its position after the last clear code, so all codes between two clear codes are read at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

_WIDEST = 12
_FULL = 1 << _WIDEST
_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Unpacked:
    """The length and validity of a stream.

    Attributes:
        length: the number of values until the end code, or until the data end or become invalid.
        valid: whether every code is defined.
    """

    length: int
    valid: bool


def unpacked(data: bytes, bits: int, *, tiff: bool = False) -> Unpacked:
    """Return the unpacked length of an LZW stream.

    Args:
        data: the data of one GIF picture with its blocks joined, or of one TIFF strip.
        bits: the number of bits per value: GIF's minimum code size; 8 in TIFF.
        tiff: whether codes start at most significant bit and become wider one code earlier.
    """
    padded = np.frombuffer(data + b"\0\0\0", np.uint8).astype(np.uint32)
    offsets, widths = _codes_behind_clear(bits, tiff)
    end_code = (1 << bits) + 1
    at, length, total = 0, 0, 8 * len(data)
    while at < total:
        codes, begins = _read(padded, at + offsets, widths, total, tiff)
        last = _first((codes == end_code) | (codes == end_code - 1))
        while last == len(codes) and len(codes) and begins[-1] + 2 * _WIDEST <= total:
            # Once the table is full, codes keep their width until the next clear code.
            more = begins[-1] + _WIDEST * (1 + np.arange(_AT_ONCE))
            some, places = _read(padded, more, np.full(_AT_ONCE, _WIDEST), total, tiff)
            codes, begins = np.concatenate([codes, some]), np.concatenate([begins, places])
            last = _first((codes == end_code) | (codes == end_code - 1))
        lengths = _lengths(codes[:last], end_code)
        if lengths is None:
            return Unpacked(length, valid=False)
        length += int(lengths.sum())
        if last == len(codes) or codes[last] == end_code:
            break
        at = int(begins[last]) + int(widths[min(last, len(widths) - 1)])
    return Unpacked(length, valid=True)


@cache
def _codes_behind_clear(bits: int, tiff: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the bit offset from the clear code's end to each code until the table is full, and the code widths."""
    end_code = (1 << bits) + 1
    places = np.arange(_FULL - end_code + 1)
    # Number of entries when a code is read: the first code after a clear code adds none.
    entries = end_code + np.maximum(places, 1) + int(tiff)
    widths = np.array([min(max(bits + 1, int(count).bit_length()), _WIDEST) for count in entries], np.int64)
    return np.concatenate([[0], np.cumsum(widths)[:-1]]), widths


def _read(
    data: NDArray[np.uint32], places: NDArray[np.int64], widths: NDArray[np.int64], total: int, tiff: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the complete codes, and their bit offsets."""
    count = int(np.searchsorted(places + widths, total, side="right"))
    places, widths = places[:count], widths[:count].astype(np.uint32)
    first, shift = places >> 3, (places & 7).astype(np.uint32)
    if tiff:
        word = data[first] << 16 | data[first + 1] << 8 | data[first + 2]
        word >>= 24 - shift - widths
    else:
        word = data[first] | data[first + 1] << 8 | data[first + 2] << 16
        word >>= shift
    return (word & ((np.uint32(1) << widths) - 1)).astype(np.int64), places


def _first(found: NDArray[np.bool_]) -> int:
    """Return the position of the first True, or the length."""
    return int(found.argmax()) if found.any() else len(found)


def _lengths(codes: NDArray[np.int64], end_code: int) -> NDArray[np.int64] | None:
    """Return the number of values of each code after a clear code; None if a code is undefined.

    An entry is the string of the code before the one that added it, plus one value: a chain of codes whose length is
    found by pointer doubling.
    """
    places = np.arange(len(codes))
    entry = codes - end_code
    strings = entry > 0
    if (entry > places).any():
        return None
    before = np.where(strings, entry - 1, places)
    steps = strings.astype(np.int64)
    while steps[before].any():
        steps += steps[before]
        before = before[before]
    return steps + 1
