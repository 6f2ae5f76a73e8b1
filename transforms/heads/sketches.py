"""Estimates how much of a head's data has changed since training, from a few thousand hashes stored in its card."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

MOST = 4096
"""Number of stored hashes: exact for up to this many items, else accurate to about 1/60."""


def sketch_of(items: Iterable[Sequence[str]]) -> tuple[int, tuple[int, ...]]:
    """Return the number of distinct items, and the smallest hashes among them.

    Args:
        items: the texts that identify each item: uid, digest, labels, ...
    """
    hashes = {_hash(item) for item in items}
    return len(hashes), tuple(sorted(hashes)[:MOST])


def changed_share(was: tuple[int, Sequence[int]], now: tuple[int, Sequence[int]]) -> float:
    """Return the share of previous items that are new or gone; an estimate for more than 4,096 items.

    >>> changed_share((4, [1, 2, 3, 4]), (4, [1, 2, 3, 5]))
    0.5
    """
    (before, old), (after, new) = was, now
    if not before:
        return 1.0 if after else 0.0
    union = sorted({*old, *new})[:MOST]
    common = len({*old} & {*new} & {*union})
    similarity = common / len(union)
    whole = (before + after) / (1 + similarity)
    return whole * (1 - similarity) / before


def _hash(item: Sequence[str]) -> int:
    text = "\0".join(item).encode("utf-8", "surrogatepass")
    # 52 bits, which JSON readers keep exactly.
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 12
