"""Assigns videos to splits, reproducibly on every machine and in every run."""

from __future__ import annotations

from collections.abc import Mapping

from cliploom.schemas.errors import SpecError
from cliploom.schemas.narrations import SplitRule
from cliploom.transforms.narrations.select import seeded_place


def split_by_shares(shares: Mapping[str, float], seed: int = 0) -> SplitRule:
    """Return a rule that assigns by seeded hash of the uid.

    Raises:
        SpecError: a share is not positive, or the shares do not add up to 1.
    """
    for name, share in shares.items():
        if not share > 0:
            raise SpecError(f"split '{name}' has the share {share}; give a positive one or remove it.")
    if abs(sum(shares.values()) - 1) > 1e-9:
        raise SpecError(f"the shares of the splits add up to {sum(shares.values()):g}; make them add up to 1.")
    return SplitRule(shares=tuple(shares.items()), seed=seed)


def split_by_lists(lists: Mapping[str, frozenset[str]]) -> SplitRule:
    """Return a rule that assigns by lists of uids (``uids.read_uid_list``).

    Raises:
        SpecError: a video is in two lists.
    """
    owner: dict[str, str] = {}
    for name, uids in lists.items():
        for uid in sorted(uids):
            if uid in owner:
                raise SpecError(f"'{uid}' is in the splits '{owner[uid]}' and '{name}'; remove it from one.")
            owner[uid] = name
    return SplitRule(shares=(), lists=tuple(lists.items()))


def split_of(uid: str, rule: SplitRule) -> str | None:
    """Return the video's split, or None when it is in no list.

    >>> split_of("a", SplitRule())
    'train'
    """
    if rule.lists:
        return next((name for name, uids in rule.lists if uid in uids), None)
    place, edge = seeded_place(uid, rule.seed), 0.0
    for name, share in rule.shares[:-1]:
        edge += share
        if place < edge:
            return name
    return rule.shares[-1][0]
