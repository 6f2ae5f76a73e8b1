"""Digests that name items, configs, models and parts by content.

Names are blake2b, hex, 40 characters (20 bytes): short enough for file names, long enough to make collisions
negligible. A release records the SHA-256 of a part's bytes, 64 characters: every written byte is hashed, processors
have instructions for SHA-256 (measured: 1.75 GB/s against 0.74 with blake2b), and ``sha256sum`` prints the same. Parts
of older releases have blake2b; the length of a digest identifies its kind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from io import RawIOBase
from pathlib import Path
from typing import Any

DIGEST_BYTES = 20
SHORT = 12
SHA256_CHARACTERS = 64
_BLOCK = 1 << 20


CORRECTED = "+"
"""Separates the digest of an item's bytes from the corrections that its rows also depend on."""


def item_digest(digest: str, corrections: str) -> str:
    """Return the digest of an item: that of its bytes, and the corrections made to its pictures, if any.

    >>> item_digest("e38d8c", ""), item_digest("e38d8c", "aspect.interlaced")
    ('e38d8c', 'e38d8c+aspect.interlaced')
    """
    return f"{digest}{CORRECTED}{corrections}" if corrections else digest


def bytes_digest(digest: str) -> str:
    """Return the digest of an item's bytes from its item digest.

    >>> bytes_digest("e38d8c+aspect.interlaced")
    'e38d8c'
    """
    return digest.partition(CORRECTED)[0]


def digest_stream(chunks: Iterable[bytes | memoryview], *, like: str = "") -> str:
    """Return the digest of the concatenation of ``chunks``, of the same kind as the digest ``like`` if given."""
    state = _state(like)
    for chunk in chunks:
        state.update(chunk)
    return state.hexdigest()


def digest_bytes(data: bytes) -> str:
    """Return the digest of ``data``.

    >>> digest_bytes(b"clip")[:12]
    'e38d8cdbf3dc'
    """
    return digest_stream([data])


def digest_file(path: Path, *, like: str = "", alive: Callable[[], None] | None = None) -> str:
    """Return the digest of a local file's bytes.

    Args:
        path: path of the file.
        like: a digest; the result has the same kind.
        alive: callback for each block that was read.
    """
    with path.open("rb", buffering=0) as file:
        if alive is not None:
            return digest_stream(_blocks(file, alive), like=like)
        return hashlib.file_digest(file, lambda: _state(like)).hexdigest()


def _blocks(file: RawIOBase, alive: Callable[[], None]) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        alive()
        yield block


def digest_part(path: Path) -> str:
    """Return the digest of a local part as releases record it: the SHA-256 of its bytes."""
    return digest_file(path, like="0" * SHA256_CHARACTERS)


def _state(like: str) -> hashlib._Hash | hashlib.blake2b:
    return hashlib.sha256() if len(like) == SHA256_CHARACTERS else hashlib.blake2b(digest_size=DIGEST_BYTES)


def canonical(value: Any) -> str:
    """Return JSON of ``value`` that does not depend on key order, spacing or platform.

    Raises:
        ValueError: for NaN and infinities, which have no standard spelling.
        TypeError: for values that JSON cannot represent.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: Any) -> str:
    """Return the digest of a JSON-like value by its canonical JSON."""
    return digest_bytes(canonical(value).encode("ascii"))
