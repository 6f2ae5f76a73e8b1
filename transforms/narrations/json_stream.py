r"""Makes JSON with some invalid values readable for a strict streaming parser.

Real annotation files contain ``NaN`` (Python's ``json`` writes it) and texts that are not UTF-8. Either would stop a
strict parser, losing every later narration. ``RepairedJson`` replaces both on the fly, each by the same number of
bytes, so that offsets stay correct: an invalid byte becomes ``BROKEN``, a number that JSON does not allow becomes a
string of ``BROKEN`` and spaces. Other syntax errors still stop the parser, and ``broken_byte`` finds their position.

The parser needs memory quadratic in the depth, and fails on a number with 4,301 digits. So the stream ends with
``TooMuchError`` before a value that is nested deeper, or longer, than in any annotation file.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

import ijson

BROKEN = "\x7f"
"""DEL: one byte, allowed unescaped in JSON strings, and absent from real texts."""

CHUNK = 1 << 16
MAX_DEPTH = 64
MAX_DIGITS = 1_000
MAX_STRING_BYTES = 16 * 1024 * 1024

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|-?(?:NaN|Infinity)', re.DOTALL)
_INSIDE = re.compile(rb'(?:[^"\\]|\\.)*+"?', re.DOTALL)
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKET_OR_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{\]}]', re.DOTALL)
_OF_NUMBERS = b"-+.0123456789eE"
_LONG_NUMBER = re.compile(rb"[-+.0-9eE]{%d}|[0-9][eE][-+]?[0-9]{18}" % (MAX_DIGITS + 1))
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_CUT = re.compile(rb"-?(?:N|Na|I|In|Inf|Infi|Infin|Infini|Infinit)\Z|-\Z")


class TooMuchError(Exception):
    """A value is nested too deep, or a number or text is too long, for an annotation file.

    Attributes:
        byte: its offset in the file.
        reason: a description, for messages.
    """

    def __init__(self, byte: int, reason: str) -> None:
        super().__init__(reason)
        self.byte = byte
        self.reason = reason


def _broken_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return BROKEN * (error.end - error.start), error.end


codecs.register_error("cliploom.broken", _broken_characters)


class RepairedJson:
    """A file of JSON text whose invalid values are replaced, byte for byte.

    Attributes:
        last_start: the offset of the latest ``read``.
        offset: the offset of the next ``read``.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = b""
        self._in_string = False
        self._ended = False
        self._depth = 0
        self._digits = 0
        self._string = 0
        self._too_much = ""
        self.last_start = 0
        self.offset = 0

    def read(self, size: int = -1) -> bytes:
        """Return about ``CHUNK`` bytes whatever the requested size, or none at the end.

        Raises:
            TooMuchError: all bytes before a rejected value have been read.
        """
        if size == 0:
            return b""
        chunk = b""
        while not chunk and not self._ended and not self._too_much:
            chunk = self._next()
        if not chunk and self._too_much:
            raise TooMuchError(self.offset, self._too_much)
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
        return self._whole_numbers(self._within_limits(chunk))

    def _whole_characters(self, chunk: bytes) -> tuple[bytes, bytes]:
        """Replace invalid bytes; hold back a character that the next read may complete."""
        try:
            used = codecs.utf_8_decode(chunk, "strict", self._ended)[1]
        except UnicodeDecodeError:
            text, used = codecs.utf_8_decode(chunk, "cliploom.broken", self._ended)
            return text.encode(), chunk[used:]
        return chunk[:used], chunk[used:]

    def _within_limits(self, chunk: bytes) -> bytes:
        """Return the chunk up to the first rejected value."""
        head = _INSIDE.match(chunk) if self._in_string else None
        start = head.end() if head else 0
        closed = start < len(chunk) or chunk.endswith(b'"')
        self._string = 0 if closed else self._string + len(chunk)
        if self._string > MAX_STRING_BYTES:
            return self._cut(chunk, 0, f"a text of more than {MAX_STRING_BYTES} bytes")
        bare = _STRING.sub(b'"', chunk[start:])
        whole = bare.lstrip(_OF_NUMBERS)
        first = self._digits + len(bare) - len(whole)
        if first > MAX_DIGITS or _LONG_NUMBER.search(bare):
            at = 0 if first > MAX_DIGITS else next(_long_numbers(chunk, start), 0)
            return self._cut(chunk, at, f"a number of more than {MAX_DIGITS} digits")
        self._digits = len(bare) - len(bare.rstrip(_OF_NUMBERS)) if whole else first
        depth = self._depth
        for bracket in bare.translate(None, _NO_BRACKETS):
            depth += 1 if bracket in b"[{" else -1
            if depth > MAX_DEPTH:
                return self._cut(chunk, self._too_deep(chunk, start), f"nested deeper than {MAX_DEPTH} levels")
        self._depth = depth
        return chunk

    def _too_deep(self, chunk: bytes, start: int) -> int:
        depth = self._depth
        for found in _BRACKET_OR_STRING.finditer(chunk, start):
            token = found.group()
            depth += 1 if token in b"[{" else -1 if token in b"]}" else 0
            if depth > MAX_DEPTH:
                return found.start()
        return start

    def _cut(self, chunk: bytes, at: int, reason: str) -> bytes:
        self._too_much = reason
        return chunk[:at]

    def _whole_numbers(self, chunk: bytes) -> bytes:
        """Replace NaN and infinities outside strings, and record whether the chunk ends inside one."""
        if b"NaN" in chunk or b"Infinity" in chunk:
            head = _INSIDE.match(chunk) if self._in_string else None
            inside = head.group() if head else b""
            chunk = inside + _TOKEN.sub(_as_string, chunk[len(inside) :])
        bare = chunk.replace(b"\\\\", b"") if b"\\" in chunk else chunk
        quotes = bare.count(b'"') - bare.count(b'\\"')
        self._in_string ^= bool(quotes % 2)
        return chunk


def _long_numbers(chunk: bytes, start: int) -> Iterator[int]:
    """Return the positions of numbers that are too long, outside strings."""
    strings = [(found.start(), found.end()) for found in _STRING.finditer(chunk, start)]
    for found in _LONG_NUMBER.finditer(chunk, start):
        if not any(begin <= found.start() < end for begin, end in strings):
            yield found.start()


def _as_string(match: re.Match[bytes]) -> bytes:
    token = match.group()
    if token.startswith(b'"'):
        return token
    return b'"' + BROKEN.encode().ljust(len(token) - 2) + b'"'


def _whole_tokens(chunk: bytes) -> tuple[bytes, bytes]:
    """Hold back the start of a NaN, or a backslash whose character follows in the next chunk."""
    slashes = len(chunk) - len(chunk.rstrip(b"\\"))
    if slashes:
        at = len(chunk) - slashes % 2
    else:
        cut = _CUT.search(chunk, max(0, len(chunk) - 10))
        at = cut.start() if cut else len(chunk)
    return chunk[:at], chunk[at:]


def broken_byte(file: BinaryIO, chunk_start: int) -> int:
    """Return the offset of the byte at which a file stops being JSON.

    Args:
        file: the file that failed; seekable.
        chunk_start: the ``last_start`` of the stream that failed: everything before was valid.

    Returns:
        The offset at which the parser failed: the file's length if it ends too early.
    """
    file.seek(0)
    stream = RepairedJson(file)
    # a prefix that matches nothing, so that the second parse builds no objects
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
