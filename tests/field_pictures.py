"""Writes H.264 whose two fields come one after the other (PAFF), as camcorders and broadcasters do.

No free encoder writes such streams, so this one does. Every macroblock is stored as its pixels (I_PCM): a decode
gives exactly what was drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

_MACROBLOCK = 16
_FRAME_NUMBERS = 16


class _Writer:
    """Bits of a NAL unit."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def u(self, value: int, count: int) -> _Writer:
        self._bits.append(f"{value:0{count}b}")
        return self

    def ue(self, *values: int) -> _Writer:
        for value in values:
            code = f"{value + 1:b}"
            self._bits.append("0" * (len(code) - 1) + code)
        return self

    def align(self) -> _Writer:
        self._bits = ["".join(self._bits)]
        return self.u(0, -len(self._bits[0]) % 8) if len(self._bits[0]) % 8 else self

    def raw(self, data: bytes) -> _Writer:
        return self.u(int.from_bytes(data, "big"), 8 * len(data))

    def unit(self, head: int) -> bytes:
        """The unit with start code, head, stop bit and the bytes that keep start codes out of it."""
        bits = "".join(self._bits) + "1"
        bits += "0" * (-len(bits) % 8)
        data = int(bits, 2).to_bytes(len(bits) // 8, "big")
        safe, zeros = bytearray(), 0
        for byte in data:
            if zeros >= 2 and byte <= 3:
                safe.append(3)
                zeros = 0
            safe.append(byte)
            zeros = 0 if byte else zeros + 1
        return b"\0\0\0\1" + bytes([head]) + bytes(safe)


def _parameters(width: int, height: int) -> bytes:
    sequence = _Writer().u(77, 8).u(0, 8).u(30, 8).ue(0, 0, 2, 1).u(0, 1)
    sequence.ue(width // _MACROBLOCK - 1, height // (2 * _MACROBLOCK) - 1).u(0, 1).u(0, 1).u(1, 1).u(0, 1).u(0, 1)
    picture = _Writer().ue(0, 0).u(0, 2).ue(0, 0, 0).u(0, 3).ue(0, 0, 0).u(1, 1).u(0, 2)
    return sequence.unit(0x67) + picture.unit(0x68)


def _field(planes: list[NDArray[np.uint8]], frame: int, *, bottom: bool, idr: bool) -> bytes:
    """One field; of a frame that can be decoded by itself the first field is an IDR picture."""
    slice_ = _Writer().ue(0, 7, 0).u(frame % _FRAME_NUMBERS, 4).u(1, 1).u(bottom, 1)
    slice_ = slice_.ue(0).u(0, 2) if idr else slice_.u(0, 1)
    slice_.ue(0, 1)
    rows, columns = (side // _MACROBLOCK for side in planes[0].shape)
    for y in range(rows):
        for x in range(columns):
            slice_.ue(25).align()
            for plane, size in zip(planes, (16, 8, 8), strict=True):
                slice_.raw(plane[y * size : (y + 1) * size, x * size : (x + 1) * size].tobytes())
    return slice_.unit(0x65 if idr else 0x61)


def write_field_pictures(
    path: Path,
    frames: int,
    draw: Callable[[int, int, int], NDArray[np.uint8]],
    *,
    size: tuple[int, int] = (96, 64),
    gop: int = 5,
    without: frozenset[int] = frozenset(),
) -> list[NDArray[np.uint8]]:
    """A video whose every frame is two fields in packets of their own, 25 frames a second.

    Args:
        path: the suffix names the container.
        frames: number of frames.
        draw: makes the pixels of frame i, given (i, width, height).
        size: both a multiple of 32.
        gop: every so many frames one begins that needs no other.
        without: numbers of fields that are left out.

    Returns:
        The luma of each frame, uint8 [height, width].
    """
    stored, packets = [], []
    for index in range(frames):
        frame = av.VideoFrame.from_ndarray(draw(index, *size), format="rgb24").reformat(format="yuv420p")
        planes = [
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:, : plane.width]
            for plane in frame.planes
        ]
        stored.append(planes[0].copy())
        number, key = index % gop, index % gop == 0
        for parity in (0, 1):
            lines = [np.ascontiguousarray(plane[parity::2]) for plane in planes]
            data = _field(lines, number, bottom=bool(parity), idr=key and not parity)
            packets.append((_parameters(*size) if key and not parity else b"") + data)
    raw = path.with_suffix(".264.tmp")
    raw.write_bytes(b"".join(packets[:2]))
    with av.open(str(raw), format="h264") as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, data in enumerate(packets):
            if number in without:
                continue
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 50)
            packet.pts = packet.dts = number
            packet.duration = 1
            packet.is_keyframe = number % (2 * gop) == 0
            output.mux(packet)
    raw.unlink()
    return stored


def write_mpeg2_fields(
    path: Path,
    frames: int,
    draw: Callable[[int, int, int], NDArray[np.uint8]],
    *,
    size: tuple[int, int] = (96, 64),
    joined: bool = True,
) -> None:
    """An MPEG-2 video of field pictures (ISO 13818-2, picture_structure), all of them intra, 25 frames a second.

    An encoder of frames makes each field as a picture of half the height, whose macroblocks are those of a field
    picture; the headers are rewritten.

    Args:
        path: the suffix names the container.
        frames: number of frames.
        draw: makes the pixels of frame i, given (i, width, height).
        size: the height a multiple of 32.
        joined: the two fields of a frame are in one packet, as multiplexers of MPEG containers write them.
    """
    width, height = size
    raw = path.with_suffix(".m2v.tmp")
    fields = []
    with av.open(str(raw), "w", format="mpeg2video") as output:
        encoder = output.add_stream("mpeg2video", rate=50)
        encoder.width, encoder.height, encoder.pix_fmt, encoder.bit_rate = width, height // 2, "yuv420p", 4_000_000
        encoder.gop_size, encoder.max_b_frames = 1, 0
        for index in range(frames):
            pixels = draw(index, width, height)
            for parity in (0, 1):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[parity::2]), format="rgb24")
                frame = frame.reformat(format="yuv420p")
                frame.pts, frame.time_base = 2 * index + parity, Fraction(1, 50)
                fields += [bytes(packet) for packet in encoder.encode(frame)]
        fields += [bytes(packet) for packet in encoder.encode()]
    fields = [_as_field(data, number, height) for number, data in enumerate(fields)]
    raw.write_bytes(b"".join(fields))
    pieces = [a + b for a, b in zip(fields[::2], fields[1::2], strict=True)] if joined else fields
    with av.open(str(raw), format="mpegvideo") as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, data in enumerate(pieces):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 25 if joined else 50)
            packet.pts = packet.dts = number
            packet.duration = 1
            packet.is_keyframe = joined or number % 2 == 0
            output.mux(packet)
    raw.unlink()


def _as_field(data: bytes, number: int, height: int) -> bytes:
    """An intra picture of half the height as a top (even number) or bottom field."""
    found = bytearray(data)
    sequence = found.find(b"\0\0\1\xb3")
    found[sequence + 5] = found[sequence + 5] & 0xF0 | height >> 8
    found[sequence + 6] = height & 0xFF
    extension = found.find(b"\0\0\1\xb5", sequence)
    found[extension + 5] &= ~0x08  # progressive_sequence
    picture = found.find(b"\0\0\1\0")
    found[picture + 4], found[picture + 5] = 0, found[picture + 5] & 0x3F  # temporal_reference
    coding = found.find(b"\0\0\1\xb5", picture)
    found[coding + 6] = found[coding + 6] & ~0x03 | 1 + number % 2  # picture_structure
    found[coding + 7] &= ~0xC1  # top_field_first, frame_pred_frame_dct, chroma_420_type
    found[coding + 8] &= ~0x80  # progressive_frame
    return bytes(found if number % 2 == 0 else found[picture:])
