"""Digests that name things by content: items, configs, models, parts.

Names are blake2b, hex, 40 characters (20 bytes): short enough for file names, long enough that two different inputs
are not expected to meet. A release records the SHA-256 of a part's bytes, 64 characters: every byte that is written
passes through it, processors have instructions for it (measured: 1.75 GB/s against 0.74 of blake2b), and ``sha256sum``
prints the same. Parts of older releases carry blake2b; the length of a digest identifies its kind.
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
"""Between the digest of an item's bytes and the corrections that its rows depend on as well."""


def item_digest(digest: str, corrections: str) -> str:
    """Digest of an item: of its bytes, and of the corrections that are made to its pictures, where there are some.

    >>> item_digest("e38d8c", ""), item_digest("e38d8c", "aspect.interlaced")
    ('e38d8c', 'e38d8c+aspect.interlaced')
    """
    return f"{digest}{CORRECTED}{corrections}" if corrections else digest


def bytes_digest(digest: str) -> str:
    """Digest of the bytes of an item.

    >>> bytes_digest("e38d8c+aspect.interlaced")
    'e38d8c'
    """
    return digest.partition(CORRECTED)[0]


def digest_stream(chunks: Iterable[bytes | memoryview], *, like: str = "") -> str:
    """Digest of the concatenation of ``chunks``; of the same kind as the digest ``like``, if one is given."""
    state = _state(like)
    for chunk in chunks:
        state.update(chunk)
    return state.hexdigest()


def digest_bytes(data: bytes) -> str:
    """Digest of ``data``.

    >>> digest_bytes(b"clip")[:12]
    'e38d8cdbf3dc'
    """
    return digest_stream([data])


def digest_file(path: Path, *, like: str = "", alive: Callable[[], None] | None = None) -> str:
    """Digest of a local file's bytes.

    Args:
        path: of the file.
        like: a digest; the result is of the same kind.
        alive: called for each block that was read.
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
    """What a release says of a local part's bytes: their SHA-256."""
    return digest_file(path, like="0" * SHA256_CHARACTERS)


def _state(like: str) -> hashlib._Hash | hashlib.blake2b:
    return hashlib.sha256() if len(like) == SHA256_CHARACTERS else hashlib.blake2b(digest_size=DIGEST_BYTES)


def canonical(value: Any) -> str:
    """JSON text of ``value`` that does not depend on key order, spacing or platform.

    Raises:
        ValueError: for NaN and infinities, which have no one spelling.
        TypeError: for what JSON can't say.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: Any) -> str:
    """Digest of a JSON-like value by its canonical text."""
    return digest_bytes(canonical(value).encode("ascii"))
