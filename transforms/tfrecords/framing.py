"""TFRecord framing: length, masked CRC of the length, data, masked CRC of the data.

Layout of one record, little endian::

    uint64 length | uint32 masked_crc32c(length) | byte data[length] | uint32 masked_crc32c(data)

``masked(crc) = rotate_right(crc, 15) + 0xa282ead8 (mod 2^32)``. A whole shard may be compressed with gzip or zlib.
Source: tensorflow/core/lib/io/record_writer.h and tensorflow/core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Protocol

import google_crc32c

from cliploom.schemas.tfrecords import BadRecord, Record

MAX_LENGTH = 1 << 30
"""Longer records are treated as damage; the limit of a protocol buffer is 2 GiB."""

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_HEADER_BYTES = 12
_OVERHEAD = 16
_CHUNK = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS
_ANY = 32 + zlib.MAX_WBITS


class Readable(Protocol):
    """Any object with ``read``: files, object-store readers, Beam's file handles."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, empty at the end."""
        ...


def masked_crc(data: bytes) -> int:
    """Return the masked CRC-32C of ``data``, as stored.

    >>> hex(masked_crc(b"123456789"))
    '0xc78ab0e5'
    """
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """Return ``data`` with header and footer.

    >>> len(frame(b"clip"))
    20
    """
    return b"".join(_framed(data))


def write_records(stream: BinaryIO, payloads: Iterable[bytes], *, gzip: bool = False) -> int:
    """Write a shard and return its number of records; equal payloads give equal bytes.

    Args:
        stream: the stream to write to; it is left open.
        payloads: serialised messages.
        gzip: whether to compress the whole shard (without name and time in the header).
    """
    count = 0
    if not gzip:
        for payload in payloads:
            stream.writelines(_framed(payload))
            count += 1
        return count
    packer = zlib.compressobj(wbits=_GZIP)
    for payload in payloads:
        for piece in _framed(payload):
            stream.write(packer.compress(piece))
        count += 1
    stream.write(packer.flush())
    return count


def read_records(stream: Readable, file: str, *, max_length: int = MAX_LENGTH) -> Iterator[Record | BadRecord]:
    """Yield the records of a shard in order, read once from start to end; compression is detected automatically.

    A record whose data do not match their CRC is skipped. If the framing itself is broken (header CRC, absurd length, a
    record beyond the end), the next intact header is searched byte by byte, so one ``BadRecord`` may stand for several
    lost records. Memory: one record, twice that while searching.

    Args:
        stream: the stream; uncompressed, gzip (also of several members) or zlib.
        file: the file name for ``BadRecord``.
        max_length: the longest plausible record.
    """
    source = _Source(stream)
    if not _header_ok(source.peek(_HEADER_BYTES)) and _compressed(source.peek(2)):
        inflated = _Inflated(source)
        yield from _records(_Source(inflated), file, max_length)
        if inflated.trouble:
            yield BadRecord(file, inflated.produced, inflated.trouble)
        return
    yield from _records(source, file, max_length)


def compression_of(start: bytes) -> str:
    """Return ``gzip``, ``zlib`` or ``none``, by the first 12 bytes or more of a shard."""
    if _header_ok(start[:_HEADER_BYTES]) or not _compressed(start[:2]):
        return "none"
    return "gzip" if start[:2] == b"\x1f\x8b" else "zlib"


def _framed(data: bytes) -> tuple[bytes, bytes, bytes]:
    length = len(data).to_bytes(8, "little")
    return length + _CRC.pack(masked_crc(length)), data, _CRC.pack(masked_crc(data))


def _header_ok(header: bytes) -> bool:
    return len(header) == _HEADER_BYTES and _CRC.unpack_from(header, 8)[0] == masked_crc(header[:8])


def _compressed(magic: bytes) -> bool:
    return magic == b"\x1f\x8b" or (magic[:1] == b"\x78" and int.from_bytes(magic, "big") % 31 == 0)


def _records(source: _Source, file: str, max_length: int) -> Iterator[Record | BadRecord]:
    while header := source.read(_HEADER_BYTES):
        offset = source.offset - len(header)
        if len(header) < _HEADER_BYTES:
            yield BadRecord(file, offset, f"the shard ends in a record's header, after {len(header)} of 12 bytes")
            return
        if not _header_ok(header):
            source.push(header[1:])
            found = _resync(source, max_length)
            yield BadRecord(file, offset, f"wrong CRC of a record's length; {_go_on(found)}")
            continue
        length = _HEADER.unpack(header)[0]
        if length > max_length:
            found = _resync(source, max_length)
            yield BadRecord(file, offset, f"absurd record length {length} (limit {max_length}); {_go_on(found)}")
            continue
        data = source.read(length)
        footer = source.read(4)
        if len(footer) < 4:
            have = len(data) + len(footer)
            source.push(data + footer)
            found = _resync(source, max_length)
            yield BadRecord(file, offset, f"the record is cut: {have} of {length + 4} bytes; {_go_on(found)}")
            continue
        if _CRC.unpack(footer)[0] == masked_crc(data):
            yield Record(offset, data)
            continue
        following = source.peek(_HEADER_BYTES)
        if following and not _header_ok(following):
            # Bytes are missing or inserted: the record's end is not where its header says.
            source.push(data + footer)
            found = _resync(source, max_length)
            yield BadRecord(file, offset, f"wrong CRC of a record's data and no record behind it; {_go_on(found)}")
        else:
            yield BadRecord(file, offset, f"wrong CRC of a record's data ({length} bytes)")


def _go_on(offset: int | None) -> str:
    return "nothing readable behind it" if offset is None else f"reading goes on at byte {offset}"


def _resync(source: _Source, max_length: int) -> int | None:
    """Move ``source`` to the next header with valid CRC and plausible length; return its offset, or None."""
    window = b""
    while True:
        more = source.read(_CHUNK)
        window += more
        # A length below 4 GiB has four zero bytes, which bytes.find locates much faster than checking a CRC everywhere.
        at = window.find(b"\0\0\0\0", 4)
        while at >= 0 and at + 8 <= len(window):
            header = window[at - 4 : at + 8]
            if _header_ok(header) and _HEADER.unpack(header)[0] <= max_length:
                source.push(window[at - 4 :])
                return source.offset
            at = window.find(b"\0\0\0\0", at + 1)
        if not more:
            return None
        window = window[-(_HEADER_BYTES - 1) :]


class _Source:
    """A stream with exact reads and pushback that knows its offset."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._pushed = memoryview(b"")
        self.offset = 0

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes; fewer only at the end."""
        if self._pushed:
            data = bytes(self._pushed[:size])
            self._pushed = self._pushed[size:]
        else:
            data = bytes(self._stream.read(size))
        while len(data) < size:
            more = self._stream.read(min(size - len(data), 16 * _CHUNK))
            if not more:
                break
            data += more
        self.offset += len(data)
        return data

    def push(self, data: bytes) -> None:
        """Push back ``data``, the bytes read last."""
        self._pushed = memoryview(data + bytes(self._pushed))
        self.offset -= len(data)

    def peek(self, size: int) -> bytes:
        """Return what ``read`` would return."""
        data = self.read(size)
        self.push(data)
        return data


class _Inflated:
    """Decompresses on the fly; damage ends the stream and is reported in ``trouble``."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._unpacker = zlib.decompressobj(_ANY)
        self._ready = memoryview(b"")
        self.produced = 0
        self.trouble = ""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, empty at the end or at damage."""
        while not self._ready and not self.trouble:
            if self._unpacker.eof and not self._next_member():
                break
            packed = self._unpacker.unconsumed_tail or self._source.read(_CHUNK)
            if packed:
                self._inflate(packed)
            else:
                self._ready = memoryview(self._unpacker.flush())
                self.trouble = "the compressed shard is cut"
        data, self._ready = bytes(self._ready[:size]), self._ready[size:]
        self.produced += len(data)
        return data

    def _inflate(self, packed: bytes) -> None:
        before = self._unpacker.copy()
        try:
            # The limit prevents a decompression bomb from filling memory; the rest stays in unconsumed_tail.
            self._ready = memoryview(self._unpacker.decompress(packed, 4 * _CHUNK))
        except zlib.error as error:
            self._ready = memoryview(_until_damage(before, packed))
            self.trouble = f"the compressed shard is damaged ({error})"

    def _next_member(self) -> bool:
        """Start the next gzip member; zeros between members are padding."""
        rest = self._unpacker.unused_data.lstrip(b"\0")
        while not rest:
            more = self._source.read(_CHUNK)
            if not more:
                return False
            rest = more.lstrip(b"\0")
        self._source.push(rest)
        self._unpacker = zlib.decompressobj(_ANY)
        return True


def _until_damage(unpacker: zlib._Decompress, packed: bytes) -> bytes:
    """Return the output before the damage, which ``decompress`` drops when it raises."""
    pieces = []
    for byte in packed:
        try:
            pieces.append(unpacker.decompress(bytes((byte,))))
        except zlib.error:
            break
    return b"".join(pieces)
