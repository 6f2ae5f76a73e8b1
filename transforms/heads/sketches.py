"""How much of a head's data has changed since it was trained, from a few thousand numbers that its card keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

MOST = 4096
"""Hashes that are kept: exact for so few items, else right to about one part in 60."""


def sketch_of(items: Iterable[Sequence[str]]) -> tuple[int, tuple[int, ...]]:
    """Number of distinct items, and the smallest hashes among them.

    Args:
        items: each the texts that make it what it is: uid, digest, labels, ...
    """
    hashes = {_hash(item) for item in items}
    return len(hashes), tuple(sorted(hashes)[:MOST])


def changed_share(was: tuple[int, Sequence[int]], now: tuple[int, Sequence[int]]) -> float:
    """Items that are new or gone, as a share of those that there were; an estimate beyond 4,096 items.

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
    # 52 bits, so that JSON's readers keep them whole.
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 12
