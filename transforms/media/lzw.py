"""How much an LZW stream unpacks to, without unpacking it: a damaged one gives too much or too little.

GIF (GIF89a, appendix F) and TIFF (TIFF 6.0, section 13) have no checksums, but a picture's size is known. The width of
each code depends only on its place behind the last clear code, so that all codes between two of them are read at once.
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
    """What a stream gives.

    Attributes:
        length: values until the end code, or until the data end or make no sense.
        valid: every code stands for something.
    """

    length: int
    valid: bool


def unpacked(data: bytes, bits: int, *, tiff: bool = False) -> Unpacked:
    """Return the length of what an LZW stream unpacks to.

    Args:
        data: of one GIF picture with its blocks joined, or of one TIFF strip.
        bits: of a value: GIF's minimum code size; 8 in TIFF.
        tiff: codes begin at the highest bit, and get wider one code earlier.
    """
    padded = np.frombuffer(data + b"\0\0\0", np.uint8).astype(np.uint32)
    offsets, widths = _codes_behind_clear(bits, tiff)
    end_code = (1 << bits) + 1
    at, length, total = 0, 0, 8 * len(data)
    while at < total:
        codes, begins = _read(padded, at + offsets, widths, total, tiff)
        last = _first((codes == end_code) | (codes == end_code - 1))
        while last == len(codes) and len(codes) and begins[-1] + 2 * _WIDEST <= total:
            # The table is full, and codes keep their width until the next clear code.
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
    """Bits from the clear code's end to each code until the table is full, and each code's width."""
    end_code = (1 << bits) + 1
    places = np.arange(_FULL - end_code + 1)
    # Entries there are when a code is read: the first code behind a clear code makes none.
    entries = end_code + np.maximum(places, 1) + int(tiff)
    widths = np.array([min(max(bits + 1, int(count).bit_length()), _WIDEST) for count in entries], np.int64)
    return np.concatenate([[0], np.cumsum(widths)[:-1]]), widths


def _read(
    data: NDArray[np.uint32], places: NDArray[np.int64], widths: NDArray[np.int64], total: int, tiff: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The codes that are whole, and where they begin, in bits."""
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
    """Place of the first True; the length without one."""
    return int(found.argmax()) if found.any() else len(found)


def _lengths(codes: NDArray[np.int64], end_code: int) -> NDArray[np.int64] | None:
    """Values that each code behind a clear code stands for; None where one stands for nothing.

    An entry is the string of the code before the one that made it, and one value more: a chain of codes whose length
    is found by doubling.
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
