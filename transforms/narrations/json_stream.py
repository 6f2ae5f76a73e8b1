r"""Streams of JSON that a strict parser can read although some values in them are broken.

Real annotation files hold ``NaN`` (Python's ``json`` writes it) and texts whose bytes are not UTF-8. Either would end a
strict parse, and with it every narration after that place. ``RepairedJson`` replaces both while the bytes pass, each
by as many bytes, so that offsets stay true: a broken byte becomes ``BROKEN``, a number that JSON can't say becomes a
string of ``BROKEN`` and spaces. What is not JSON at all still ends the parse, and ``broken_byte`` says where.
"""

from __future__ import annotations

import codecs
import re
from typing import BinaryIO

import ijson

BROKEN = "\x7f"
"""DEL: allowed raw in JSON strings, one byte, in no real text."""

CHUNK = 1 << 16

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|-?(?:NaN|Infinity)', re.DOTALL)
_INSIDE = re.compile(rb'(?:[^"\\]|\\.)*+"?', re.DOTALL)
_CUT = re.compile(rb"-?(?:N|Na|I|In|Inf|Infi|Infin|Infini|Infinit)\Z|-\Z")


class RepairedJson:
    """A file of JSON text with its unreadable values made readable, byte for byte.

    Attributes:
        last_start: offset of what the latest ``read`` gave.
        offset: offset of what the next one gives.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = b""
        self._in_string = False
        self._ended = False
        self.last_start = 0
        self.offset = 0

    def read(self, size: int = -1) -> bytes:
        """About ``CHUNK`` bytes whatever the size asked for, or none at the end."""
        if size == 0:
            return b""
        chunk = b""
        while not chunk and not self._ended:
            chunk = self._next()
        self.last_start = self.offset
        self.offset += len(chunk)
        return chunk

    def _next(self) -> bytes:
        data = self._file.read(CHUNK)
        self._ended = not data
        chunk = self._rest + data
        if self.offset == 0 and chunk.startswith(codecs.BOM_UTF8):
            chunk = b"   " + chunk[3:]
        chunk, self._rest = self._whole_characters(chunk)
        if not self._ended:
            chunk, held = _whole_tokens(chunk)
            self._rest = held + self._rest
        return self._whole_numbers(chunk)

    def _whole_characters(self, chunk: bytes) -> tuple[bytes, bytes]:
        """Replace broken bytes; hold back a character that the next read may complete."""
        start, pieces = 0, []
        while True:
            try:
                used = codecs.utf_8_decode(chunk[start:] if start else chunk, "strict", self._ended)[1]
            except UnicodeDecodeError as error:
                broken = BROKEN.encode() * (error.end - error.start)
                pieces.append(chunk[start : start + error.start] + broken)
                start += error.end
                continue
            if not pieces:
                return chunk[:used], chunk[used:]
            return b"".join(pieces) + chunk[start : start + used], chunk[start + used :]

    def _whole_numbers(self, chunk: bytes) -> bytes:
        """Replace NaN and infinities outside strings, and remember whether the chunk ends inside one."""
        if b"NaN" in chunk or b"Infinity" in chunk:
            head = _INSIDE.match(chunk) if self._in_string else None
            inside = head.group() if head else b""
            chunk = inside + _TOKEN.sub(_as_string, chunk[len(inside) :])
        bare = chunk.replace(b"\\\\", b"") if b"\\" in chunk else chunk
        quotes = bare.count(b'"') - bare.count(b'\\"')
        self._in_string ^= bool(quotes % 2)
        return chunk


def _as_string(match: re.Match[bytes]) -> bytes:
    token = match.group()
    if token.startswith(b'"'):
        return token
    return b'"' + BROKEN.encode().ljust(len(token) - 2) + b'"'


def _whole_tokens(chunk: bytes) -> tuple[bytes, bytes]:
    """Hold back the beginning of a NaN, or a backslash whose character is yet to come."""
    slashes = len(chunk) - len(chunk.rstrip(b"\\"))
    if slashes:
        at = len(chunk) - slashes % 2
    else:
        cut = _CUT.search(chunk, max(0, len(chunk) - 10))
        at = cut.start() if cut else len(chunk)
    return chunk[:at], chunk[at:]


def broken_byte(file: BinaryIO, chunk_start: int) -> int:
    """Offset of the byte at which a file stops being JSON.

    Args:
        file: the file that failed, seekable.
        chunk_start: ``last_start`` of the stream that failed: what came before was in order.

    Returns:
        Where the parser gave up: the file's length when it ends too early.
    """
    file.seek(0)
    stream = RepairedJson(file)
    # a prefix that nothing has, so that the second parse builds no objects
    parser = ijson.items_coro(ijson.sendable_list(), "\0")
    while chunk := stream.read():
        if stream.last_start < chunk_start:
            parser.send(chunk)
            continue
        for place in range(len(chunk)):
            try:
                parser.send(chunk[place : place + 1])
            except ijson.JSONError:
                return stream.last_start + place
    return stream.offset
