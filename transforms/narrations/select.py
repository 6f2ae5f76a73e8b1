"""Selects and orders narrations, and selects videos."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from cliploom.schemas.errors import SpecError
from cliploom.schemas.narrations import Dropped, FilterTally, KeepRules, Narration
from cliploom.transforms.narrations.text import count_tokens

Order = Literal["tutorial", "research"]


def keep_reason_for_video(uid: str, rules: KeepRules) -> str | None:
    """Return why a video is dropped whatever its narrations, or None."""
    if rules.only is not None and uid not in rules.only:
        return "video not asked for"
    if uid in rules.without:
        return "video of a split left out"
    return None


def kept(uid: str, narrations: Sequence[Narration], rules: KeepRules) -> tuple[list[Narration], FilterTally]:
    """Filter one video's narrations: by video, by length of text, then by the average spacing of the rest.

    Ego4D's research code does the same, except that it drops videos with one narration, whose spacing is NaN, by
    accident; here they are kept.

    Returns:
        The kept narrations, in the given order, and the counts by reason.
    """
    reason = keep_reason_for_video(uid, rules)
    if reason is not None:
        return [], FilterTally(dropped=(Dropped(reason, len(narrations), 1),))
    dropped = []
    stay = [n for n in narrations if count_tokens(n.text) >= rules.min_tokens]
    if len(stay) < len(narrations):
        reason = f"fewer than {rules.min_tokens} tokens"
        dropped.append(Dropped(reason, len(narrations) - len(stay), int(not stay)))
    spacing = mean_spacing_s(stay)
    if spacing is not None and spacing < rules.min_spacing_s:
        dropped.append(Dropped(f"closer than {rules.min_spacing_s:g} s on average", len(stay), 1))
        stay = []
    return stay, FilterTally(len(stay), int(bool(stay)), tuple(dropped))


def mean_spacing_s(narrations: Iterable[Narration]) -> float | None:
    """Return the mean seconds between neighbours in time, or None with fewer than two times.

    The differences of sorted times telescope to (last - first) / (number - 1).
    """
    times = [n.start_s for n in narrations if n.start_s is not None]
    return (max(times) - min(times)) / (len(times) - 1) if len(times) > 1 else None


def in_order(narrations: Iterable[Narration], order: Order) -> list[Narration]:
    """Sort narrations of one or several videos, independent of their initial order.

    ``idx`` numbers the rows of a pass in file order, so both orders equal a stable sort of the file.

    Args:
        narrations: the narrations, in any order.
        order: ``tutorial``: by uid, pass and position in the file; ``research``: by uid and time, then by pass and
            position in the file, texts without a time first.

    >>> a, b = Narration("v", 2, 0, 1.0, None, "a"), Narration("v", 1, 0, 3.0, None, "b")
    >>> [n.text for n in in_order([a, b], "tutorial")], [n.text for n in in_order([a, b], "research")]
    (['b', 'a'], ['a', 'b'])
    """
    if order == "tutorial":
        return sorted(narrations, key=lambda n: (n.uid, n.pass_, n.idx))
    return sorted(narrations, key=lambda n: (n.uid, -math.inf if n.start_s is None else n.start_s, n.pass_, n.idx))


def seeded_place(uid: str, seed: int) -> float:
    """Return a number in [0, 1) for a uid: uniform over uids, the same on every machine, independent of other uids."""
    digest = hashlib.blake2b(f"{seed}\0{uid}".encode(), digest_size=8).digest()
    # 53 bits fit a float exactly: all 64 could round up to 1
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def seeded_subset(uids: Collection[str], limit: int, seed: int = 0) -> list[str]:
    """Choose videos pseudo-randomly but reproducibly; a new uid replaces at most one chosen video.

    Args:
        uids: all uids, in any order.
        limit: the number to choose; all if there are not more.
        seed: the seed; another one gives another choice.

    Returns:
        The chosen uids, sorted.

    Raises:
        SpecError: the limit is not positive.
    """
    if limit < 1:
        raise SpecError(f"limit: {limit} keeps nothing; give at least 1.")
    return sorted(sorted(set(uids), key=lambda uid: (seeded_place(uid, seed), uid))[:limit])
