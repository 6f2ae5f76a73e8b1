"""A source of precomputed features: one item per file, or one per dataset of an HDF5 file."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from cliploom.schemas.digests import digest_stream
from cliploom.schemas.errors import ItemError, SpecError
from cliploom.schemas.records import Failure
from cliploom.schemas.sources import PrecomputedSource
from cliploom.transforms.inputs.clashes import clash_message
from cliploom.transforms.inputs.inside import INSIDE, LIST, unlisted
from cliploom.transforms.inputs.listing import LISTING, Found, KnownListing, find, uid_of
from cliploom.transforms.inputs.spool import open_input
from cliploom.transforms.precomputed.hdf5_input import contiguous_bytes, read_dataset
from cliploom.transforms.precomputed.listing import (
    ARRAY_SUFFIXES,
    HDF5_SUFFIXES,
    FeatureItem,
    NoGroupError,
    list_features,
)
from cliploom.transforms.precomputed.read import count_rows
from cliploom.transforms.store.uris import is_remote, uri_to_path


def list_precomputed(name: str, source: PrecomputedSource, base: Path) -> KnownListing:
    """Return all feature items with the columns of ``LISTING``, sorted by uid; files of other kinds are ignored.

    The URI of a dataset is that of its file, ``::`` and its name. An HDF5 file that cannot be listed is a failure of
    the stage ``LIST``, with the file's URI; its items in the last release are kept.

    Raises:
        SpecError: two items share a uid, a folder is missing, or no HDF5 file has the group.
    """
    place = f"sources.{name}"
    items: dict[str, tuple[str, Found]] = {}
    clashes: dict[str, list[str]] = {}
    failures: list[Failure] = []
    without_group: list[ItemError] = []
    listed = 0
    for pattern in source.glob:
        for found in find(pattern, base, f"{place}.glob"):
            try:
                mine = _items_of(found, source, place)
            except ItemError as error:
                failures.append(unlisted(name, found.relative, found.uri, error))
                if isinstance(error, NoGroupError):
                    without_group.append(error)
                continue
            listed += 1
            for uid, uri in mine:
                other = items.setdefault(uid, (uri, found))[0]
                if other != uri and uri not in clashes.setdefault(uid, [other]):
                    clashes[uid].append(uri)
    if clashes:
        more = f", or write `uid: file` below {place}, which keeps folder and extension"
        if source.uid == "file" or any(INSIDE in uri for uris in clashes.values() for uri in uris):
            more = ""
        raise SpecError(clash_message(place, clashes, f"remove one of them{more}"))
    if without_group and not listed and len(without_group) == len(failures):
        raise SpecError(f"{place}: {without_group[0]}")
    rows = [(name, uid, uri, found.size, found.signature, "{}") for uid, (uri, found) in sorted(items.items())]
    return KnownListing(pl.DataFrame(rows, schema=LISTING, orient="row"), tuple(failures))


def _items_of(found: Found, source: PrecomputedSource, place: str) -> list[tuple[str, str]]:
    """Return (uid, uri) of the items in a file.

    Raises:
        ItemError: an HDF5 file cannot be listed.
    """
    suffix = Path(found.relative).suffix.lower()
    if suffix in ARRAY_SUFFIXES:
        return [(uid_of(found.relative, source.uid, f"{place}.uid"), found.uri)]
    if suffix not in HDF5_SUFFIXES:
        return []
    with open_input(found.uri, found.signature, LIST) as path:
        listed = list_features([path], group=source.group)
    for failed in listed.failed:
        raise failed.error
    return [(item.uid, f"{found.uri}{INSIDE}{item.dataset}") for item in listed.items]


def split_uri(uri: str) -> tuple[str, str]:
    """Return the file's URI and the name of the dataset in it, empty for whole files.

    >>> split_uri("/data/a.h5::/clip"), split_uri("/data/a.npy")
    (('/data/a.h5', '/clip'), ('/data/a.npy', ''))
    """
    file, inside, dataset = uri.rpartition(INSIDE)
    if inside and Path(file).suffix.lower() in HDF5_SUFFIXES:
        return file, dataset
    return uri, ""


def feature_item(uri: str, path: Path) -> FeatureItem:
    """Return the item to read from a local copy of a URI's file."""
    return FeatureItem(uri_to_path(uri).stem if not is_remote(uri) else uri, path, split_uri(uri)[1])


def array_facts(uri: str, path: Path) -> dict[str, int]:
    """Return the approximate number of rows of an item, for packing; 1 if unknown, since reading reports errors."""
    try:
        return {"rows": count_rows(feature_item(uri, path))}
    except ItemError:
        return {"rows": 1}


def digest_dataset(path: Path, dataset: str) -> str:
    """Return the digest of the values of one dataset, its shape and type.

    Raises:
        ItemError: it cannot be read, or is in a file outside the source.
    """
    try:
        values = read_dataset(path, dataset)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ItemError("read", f"{path}:{dataset} can't be read ({error}).") from error
    return digest_stream([f"{values.dtype.str} {values.shape}".encode(), contiguous_bytes(values)])
