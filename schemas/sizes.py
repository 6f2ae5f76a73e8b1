"""The one limit for how much a data file may unpack to; readers check it from headers, before memory is taken."""

from __future__ import annotations

MAX_UNPACKED_BYTES = 2 * 1024**3
"""Bytes of one array, dataset or checkpoint: 24 hours of Omnivore features, 1,536 numbers 1.875 times a second, are
half of it."""


def too_large(size: int, name: str, most: int | None = None) -> str | None:
    """Return a sentence that says that something unpacks to too much, or None when it does not.

    Args:
        size: bytes that a header claims.
        name: what the sentence calls it.
        most: bytes allowed; ``MAX_UNPACKED_BYTES`` by default.

    >>> too_large(71, "a.npy", 70)
    'a.npy unpacks to 71 bytes, more than the 70 that are allowed; split it into smaller files.'
    """
    most = MAX_UNPACKED_BYTES if most is None else most
    if size <= most:
        return None
    # Headers can claim numbers of thousands of digits.
    claimed = f"{size}" if size < 10**40 else "more than 10^40"
    return f"{name} unpacks to {claimed} bytes, more than the {most} that are allowed; split it into smaller files."
