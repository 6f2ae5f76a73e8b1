"""Joins by uid: finds the item of a source that a text, label or list refers to.

A uid refers to the item with exactly this uid, else to the only one that has it except for its file extension: with
``uid: file`` the narrations of ``P01_03`` belong to ``P01_03.mp4``, unless there is also a ``P01_03.jpg``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from cliploom.schemas.media import MEDIA_SUFFIXES
from cliploom.transforms.inputs.addresses import is_web, uid_of_address

_HDF5_DATASET = (".h5::", ".hdf5::", ".hdf::")


@dataclass(frozen=True)
class JoinedUids:
    """The items of a source that uids refer to.

    Attributes:
        found: maps a requested uid to the uid of the item.
        ambiguous: maps a requested uid to the items that it may refer to.
        unmatched: the uids without an item, in the order of the requests.
    """

    found: Mapping[str, str]
    ambiguous: Mapping[str, tuple[str, ...]]
    unmatched: tuple[str, ...]

    @property
    def meant(self) -> frozenset[str]:
        """All items that uids may refer to, including ambiguous ones."""
        return frozenset(self.found.values()).union(*self.ambiguous.values())

    def problems(self, what: str, source: str) -> Iterator[str]:
        """Yield sentences with the number of uids without an item, with examples.

        Args:
            what: the origin of the uids, such as ``labels.csv``.
            source: the name of the source of the items.
        """
        if self.unmatched:
            some = ", ".join(map(repr, self.unmatched[:3]))
            verb = "uid matches" if len(self.unmatched) == 1 else "uids match"
            yield f"{what}: {len(self.unmatched)} {verb} no item of {source} (such as {some})"
        if self.ambiguous:
            verb = "uid is" if len(self.ambiguous) == 1 else "uids are"
            yield f"{what}: {len(self.ambiguous)} {verb} ambiguous in {source}{_example(self.ambiguous)}"


def ambiguous_text(joined: JoinedUids) -> str:
    """Return the end of a sentence with the number of ambiguous uids, empty if there are none."""
    return f", {len(joined.ambiguous)} ambiguous{_example(joined.ambiguous)}" if joined.ambiguous else ""


def _example(ambiguous: Mapping[str, tuple[str, ...]]) -> str:
    uid, items = next(iter(ambiguous.items()))
    return f" (such as {uid!r}: {', '.join(items[:3])}{', ...' if len(items) > 3 else ''})"


def join_uids(asked: Iterable[tuple[str, str]], items: Iterable[tuple[str, str]]) -> JoinedUids:
    """Find the item that each uid refers to; memory grows with the uids, not with all possible names of items.

    Args:
        asked: the uid and, if it names a file, the file's URI, else empty; a URL refers to the file at it.
        items: the uid and URI of each item.

    >>> join_uids([("a", ""), ("b", "")], [("a.mp4", "/m/a.mp4"), ("b.gif", "/m/b.gif"), ("b.png", "/m/b.png")])
    JoinedUids(found={'a': 'a.mp4'}, ambiguous={'b': ('b.gif', 'b.png')}, unmatched=())
    """
    listed = list(items)
    known = {uid for uid, _ in listed}
    wanted = {uid: uri or (uid if is_web(uid) else "") for uid, uri in asked}
    candidates: dict[str, list[str]] = {uid: [] for uid in wanted if uid not in known}
    by_name: dict[str, list[str]] = {}
    by_stem: dict[str, list[str]] = {}
    for uid in candidates:
        for name in (uid, *_other_names(uid, wanted[uid])):
            by_name.setdefault(name, []).append(uid)
        suffix = PurePosixPath(uid).suffix
        if suffix.lower() in MEDIA_SUFFIXES:
            stem = uid.removesuffix(suffix)
            by_stem.setdefault(stem, []).append(uid)
            by_name.setdefault(f"{stem}{suffix.lower()}", []).append(uid)
    for uid, uri in listed if candidates else ():
        names = (uid, *_other_names(uid, uri))
        means = {one for name in names for one in by_name.get(name, ())}
        if uid in by_stem and _suffix(uri).lower() not in MEDIA_SUFFIXES:
            # "a.mp4" may refer to the features or texts of "a", but not to the picture a.jpg.
            means.update(by_stem[uid])
        for one in means:
            candidates[one].append(uid)
    found = {
        uid: uid if uid in known else candidates[uid][0] for uid in wanted if uid in known or len(candidates[uid]) == 1
    }
    ambiguous = {uid: tuple(sorted(those)) for uid, those in candidates.items() if len(those) > 1}
    return JoinedUids(found, ambiguous, tuple(uid for uid, those in candidates.items() if not those))


def _other_names(uid: str, uri: str) -> Iterator[str]:
    """Yield the uid without its file extension, or with it if it lacks it; for a URL, the uids that it gives."""
    suffix = _suffix(uri)
    if not suffix:
        return
    if is_web(uri):
        try:
            names = [uid_of_address(uri, rule) for rule in ("file", "path", "stem")]
        except ValueError:
            return
        if uid == uri or uid in names[:2]:
            yield from (name for name in names[: 3 if uid == uri else 2] if name != uid)
            return
    if uid.endswith(suffix) and len(uid) > len(suffix):
        stem = uid.removesuffix(suffix)
        yield stem
    elif PurePosixPath(_path(uri)).stem == PurePosixPath(uid).name:
        stem = uid
        yield f"{stem}{suffix}"
    else:
        return
    if suffix != suffix.lower():
        yield f"{stem}{suffix.lower()}"


def _path(uri: str) -> str:
    try:
        return urlsplit(uri).path if is_web(uri) else uri
    except ValueError:
        return ""


def _suffix(uri: str) -> str:
    """Return the extension of a file, empty for a dataset of an HDF5 file."""
    if any(mark in uri for mark in _HDF5_DATASET):
        return ""
    return PurePosixPath(_path(uri)).suffix
