"""Fields of MPEG-2 pictures in separate packets (ISO 13818-2, 6.2.3).

Parsers of MPEG streams join them; MXF, Matroska, MP4 and AVI may have a packet for each, and the decoder returns one
frame for both. Only headers are read here.
"""

from __future__ import annotations

from dataclasses import dataclass

_PICTURE, _EXTENSION = b"\0\0\1\0", b"\0\0\1\xb5"
_CODING_EXTENSION = 8
_FRAME = 3


@dataclass(frozen=True)
class MpegField:
    """The single field in a packet: the temporal reference of its frame, and which field it is."""

    frame: int
    structure: int


@dataclass
class MpegFieldPairs:
    """Identifies the packets of an MPEG-2 stream with the second field of a picture; see ``FieldPairs``."""

    lone: bool = False
    ends_alone: bool = False
    _first: MpegField | None = None

    def is_second(self, packet: bytes | memoryview, *, key: bool) -> bool:
        """Return whether a packet, the next in decoding order, completes the picture of the previous one."""
        found, first = single_field(bytes(packet)), self._first
        second = (
            found is not None
            and first is not None
            and found.frame == first.frame
            and found.structure != first.structure
        )
        self._first = None if second else found
        return second


def single_field(data: bytes) -> MpegField | None:
    """Return the field in a packet that has only one; None for frames, pairs of fields and anything else."""
    at = data.find(_PICTURE)
    coding = data.find(_EXTENSION, at)
    if at < 0 or coding < 0 or len(data) < coding + 9 or data[coding + 4] >> 4 != _CODING_EXTENSION:
        return None
    structure = data[coding + 6] & 3
    if structure in (0, _FRAME) or data.find(_PICTURE, coding) >= 0:
        return None
    return MpegField(data[at + 4] << 2 | data[at + 5] >> 6, structure)
