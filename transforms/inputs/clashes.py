"""The message about files with the same uid: lists all of them and how to distinguish them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

MOST_SHOWN = 100


def clash_message(place: str, clashes: Mapping[str, Sequence[str]], advice: str) -> str:
    """Return the message that names every uid shared by several files.

    Args:
        place: the location of the source in the spec, such as ``sources.clips``.
        clashes: maps a uid to its URIs, at least two each.
        advice: how to fix it, without a final full stop.

    >>> clash_message("sources.clips", {"a": ["a.gif", "a.mp4"]}, "rename one")
    "sources.clips: a.gif and a.mp4 have the same uid 'a'; rename one."
    """
    said = [_clash(uid, uris) for uid, uris in list(clashes.items())[:MOST_SHOWN]]
    if any(_twins(uris) for uris in clashes.values()):
        advice += "; escaped names look the same but compose their letters in different ways (Unicode NFC and NFD)"
    if len(clashes) == 1:
        return f"{place}: {said[0]}; {advice}."
    more = len(clashes) - len(said)
    lines = [f"{place}: {len(clashes)} uids belong to more than one file:", *(f"  {line}" for line in said)]
    lines += [f"  and {more} more uids"] if more else []
    return "\n".join([*lines, f"For each, {advice}."])


def _clash(uid: str, uris: Sequence[str]) -> str:
    if len(set(uris)) == 1:
        return f"{uris[0]} is listed {len(uris)} times with the uid {uid!r}"
    return f"{_listed(uris)} have the same uid {uid!r}"


def _listed(uris: Sequence[str]) -> str:
    shown = [ascii(uri) if _twins(uris) else uri for uri in uris[:10]]
    if len(uris) > len(shown):
        return f"{', '.join(shown)} and {len(uris) - len(shown)} more"
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def _twins(uris: Sequence[str]) -> bool:
    """Return whether some names differ only in Unicode composition, so that they look the same."""
    return len({unicodedata.normalize("NFC", uri) for uri in uris}) < len(set(uris))
