"""The limit for the unpacked size of data files; readers check it from headers before they allocate memory."""

from __future__ import annotations

MAX_UNPACKED_BYTES = 2 * 1024**3
"""Maximum bytes of one array, dataset or checkpoint: twice as much as 24 hours of Omnivore features (1,536 numbers,
1.875 times per second)."""


def too_large(size: int, name: str, most: int | None = None) -> str | None:
    """Return a message if something unpacks to too many bytes, else None.

    Args:
        size: bytes that a header claims.
        name: name for the message.
        most: maximum bytes; ``MAX_UNPACKED_BYTES`` by default.

    >>> too_large(71, "a.npy", 70)
    'a.npy unpacks to 71 bytes, more than the 70 that are allowed; split it into smaller files.'
    """
    most = MAX_UNPACKED_BYTES if most is None else most
    if size <= most:
        return None
    # Headers can contain numbers with thousands of digits.
    claimed = f"{size}" if size < 10**40 else "more than 10^40"
    return f"{name} unpacks to {claimed} bytes, more than the {most} that are allowed; split it into smaller files."
