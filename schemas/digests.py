"""Digests that name things by content: items, configs, models, parts.

All are blake2b, hex, 40 characters (20 bytes): short enough for file names, long enough that two different
inputs are not expected to meet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DIGEST_BYTES = 20
SHORT = 12


def digest_stream(chunks: Iterable[bytes]) -> str:
    """Digest of the concatenation of ``chunks``."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for chunk in chunks:
        state.update(chunk)
    return state.hexdigest()


def digest_bytes(data: bytes) -> str:
    """Digest of ``data``.

    >>> digest_bytes(b"clip")[:12]
    'e38d8cdbf3dc'
    """
    return digest_stream([data])


def digest_file(path: Path) -> str:
    """Digest of a local file's bytes, read 1 MB at a time."""
    with path.open("rb") as file:
        return digest_stream(iter(lambda: file.read(1 << 20), b""))


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
