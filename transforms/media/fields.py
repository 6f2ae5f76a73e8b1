"""Fields of H.264 pictures in separate packets (ITU-T H.264, 7.3 and 7.4.1.2.4).

Interlaced recordings (AVCHD, broadcast) may code the two fields of a frame one after the other. Demuxers then return a
packet for each, and the decoder one frame for both. Only headers are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

_SLICES = frozenset({1, 5})
_SPS, _PPS = 7, 8
_HEAD = 1 << 16
_START = b"\0\0\1"
_WITH_CHROMA_FORMAT = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_SEPARATE_PLANES = 3
_LONGEST_CODE = 32
_MOST_MISSING = 1


@dataclass(frozen=True)
class Field:
    """Contents of the first slice header of a picture: the frame number, whether it is a field, and which."""

    frame: int
    single: bool
    bottom: bool


@dataclass
class FieldPairs:
    """Identifies the packets of an H.264 stream that contain the second field of the previous picture.

    Args:
        header: the decoder's configuration (Annex B or ISO 14496-15).

    Attributes:
        lone: the packet before the last one has a field without its partner, which decoders do not show; after two in a
            row they show each field separately.
    """

    header: bytes
    lone: bool = False
    _sequences: dict[int, _Sequence] = field(default_factory=dict)
    _pictures: dict[int, int] = field(default_factory=dict)
    _first: Field | None = None
    _missing: int = 0
    _length: int = 0

    def __post_init__(self) -> None:
        """Read the parameter sets of the header."""
        if self.header[:1] == b"\1" and len(self.header) > 6:
            self._length = (self.header[4] & 3) + 1
            for unit in _listed_units(self.header):
                self._take(unit)
        else:
            for unit in _marked_units(self.header):
                self._take(unit)

    @property
    def possible(self) -> bool:
        """Whether the parameter sets seen so far allow fields, or none were seen yet."""
        return not self._sequences or any(not each.frames_only for each in self._sequences.values())

    def is_second(self, packet: bytes | memoryview, *, key: bool) -> bool:
        """Return whether a packet, the next in decoding order, completes the picture of the previous one."""
        if not self.possible and not (key and not self._length):
            return False
        found = self._picture(bytes(packet[:_HEAD]))
        first, self._first, self.lone = self._first, None, False
        self._first = found if found is not None and found.single else None
        if first is None:
            return False
        if self._first is None or self._first.bottom == first.bottom:
            self._missing += 1
            self.lone = self._missing <= _MOST_MISSING
            return False
        self._missing = 0
        self.lone = self._first.frame != first.frame
        if not self.lone:
            self._first = None
        return not self.lone

    @property
    def ends_alone(self) -> bool:
        """Whether the last packet has a field without its partner."""
        return self._first is not None and self._missing < _MOST_MISSING

    def _picture(self, data: bytes) -> Field | None:
        units = _sized_units(data, self._length) if self._length else _marked_units(data)
        for unit in units:
            kind = unit[0] & 31 if unit else 0
            if kind in (_SPS, _PPS):
                self._take(unit)
            elif kind in _SLICES:
                return self._slice(unit)
        return None

    def _take(self, unit: bytes) -> None:
        """Store a parameter set; ignore a damaged one."""
        try:
            bits = _Bits(unit[1:])
            if unit[0] & 31 == _SPS:
                number, sequence = _sequence(bits)
                self._sequences[number] = sequence
            elif unit[0] & 31 == _PPS:
                number = bits.golomb()
                self._pictures[number] = bits.golomb()
        except IndexError:
            return

    def _slice(self, unit: bytes) -> Field | None:
        try:
            bits = _Bits(unit[1:64])
            bits.golomb()
            bits.golomb()
            sequence = self._sequences.get(self._pictures.get(bits.golomb(), -1))
            if sequence is None or sequence.frames_only:
                return None
            if sequence.planes:
                bits.read(2)
            frame = bits.read(sequence.frame_bits)
            single = bool(bits.read(1))
            return Field(frame, single, single and bool(bits.read(1)))
        except IndexError:
            return None


@dataclass(frozen=True)
class _Sequence:
    """The values of a sequence parameter set that are needed to parse slice headers."""

    frames_only: bool
    frame_bits: int
    planes: bool


class _Bits:
    """The bits of a NAL unit's payload, without emulation prevention bytes."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        """Return the next bits as a number; raise IndexError at the end."""
        self._left -= count
        if self._left < 0:
            raise IndexError
        return (self._value >> self._left) & ((1 << count) - 1)

    def golomb(self) -> int:
        """Return an unsigned Exp-Golomb code."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > _LONGEST_CODE:
                raise IndexError
        return (1 << zeros) - 1 + self.read(zeros)


def _sequence(bits: _Bits) -> tuple[int, _Sequence]:
    profile = bits.read(8)
    bits.read(16)
    number, planes = bits.golomb(), False
    if profile in _WITH_CHROMA_FORMAT:
        chroma = bits.golomb()
        planes = chroma == _SEPARATE_PLANES and bool(bits.read(1))
        bits.golomb()
        bits.golomb()
        bits.read(1)
        if bits.read(1):
            for place in range(12 if chroma == _SEPARATE_PLANES else 8):
                if bits.read(1):
                    _skip_scaling(bits, 16 if place < 6 else 64)
    frame_bits = bits.golomb() + 4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.read(1)
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()
    bits.read(1)
    bits.golomb()
    bits.golomb()
    return number, _Sequence(bool(bits.read(1)), frame_bits, planes)


def _skip_scaling(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.golomb()
            following = (last + ((code + 1) // 2 if code % 2 else -(code // 2))) % 256
        last = following or last


def _marked_units(data: bytes) -> Iterator[bytes]:
    """Return the NAL units between start codes."""
    at = data.find(_START)
    while at >= 0:
        following = data.find(_START, at + 3)
        yield data[at + 3 : following if following >= 0 else len(data)]
        at = following


def _sized_units(data: bytes, length: int) -> Iterator[bytes]:
    """Return the NAL units after their sizes."""
    at = 0
    while at + length < len(data):
        size = int.from_bytes(data[at : at + length], "big")
        yield data[at + length : at + length + size]
        at += length + size


def _listed_units(header: bytes) -> Iterator[bytes]:
    """Return the parameter sets of an AVCDecoderConfigurationRecord (ISO 14496-15)."""
    at = 5
    for mask in (31, 255):
        if at >= len(header):
            return
        count, at = header[at] & mask, at + 1
        for _ in range(count):
            size = int.from_bytes(header[at : at + 2], "big")
            yield header[at + 2 : at + 2 + size]
            at += 2 + size
