"""The common interface of all kinds of exports: files made from parts, a recipe, an entry in the release."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

import polars as pl

from cliploom.schemas.release import ExportEntry, FileEntry, Release
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import file_entry
from cliploom.transforms.store.tables import contents_of


class FileTask(Protocol):
    """A file to create: small, pickled, safe to run twice."""

    @property
    def path(self) -> str:
        """The path of the file relative to the store, which is named by its inputs."""
        ...

    def write(self, objects: ObjectStore) -> None:
        """Create the file."""
        ...


class Exporter(ABC):
    """One export of a spec, for the draft of a release."""

    @property
    @abstractmethod
    def recipe(self) -> str:
        """Return the digest of all inputs of the export."""

    @abstractmethod
    def parts(self) -> Sequence[FileTask]:
        """Return the files made from the feature's parts, by any worker in any order."""

    def files(self) -> Sequence[FileTask]:
        """Return the files made from the parts, once these all exist."""
        return ()

    @abstractmethod
    def finish(self) -> ExportEntry:
        """Write the remaining files once all others exist, and list them with their digests."""


def entries_of(objects: ObjectStore, paths: Iterable[str], base: Release | None, name: str) -> list[FileEntry]:
    """Return the entries of an export's files, which are named by their inputs.

    Files that the last release has are not read again; `verify` finds later damage.
    """
    previous = base.exports.get(name) if base else None
    known = {entry.path: entry for entry in previous.files} if previous else {}
    return [
        known[path] if path in known and known[path].size == objects.size(path) else file_entry(objects, path)
        for path in paths
    ]


def feature_contents(objects: ObjectStore, draft: Release, feature: str) -> pl.DataFrame:
    """Return the contents of one feature that have rows, from the tables of the draft."""
    return contents_of(objects, draft, feature).filter(pl.col("rows") > 0)


def groups_of_parts(contents: pl.DataFrame) -> list[tuple[str, ...]]:
    """Return groups of parts that share items; each group goes into one file, so that no file splits a uid.

    Args:
        contents: part and item_no of the contents that have rows.
    """
    leader: dict[str, str] = {part: part for part in contents["part"].unique().to_list()}

    def find(part: str) -> str:
        while leader[part] != part:
            leader[part] = leader[leader[part]]
            part = leader[part]
        return part

    shared = contents.unique(["part", "item_no"]).group_by("item_no").agg("part").filter(pl.col("part").list.len() > 1)
    for parts in shared["part"].to_list():
        for part in parts[1:]:
            leader[find(part)] = find(parts[0])
    groups: dict[str, list[str]] = {}
    for part in leader:
        groups.setdefault(find(part), []).append(part)
    return sorted(tuple(sorted(group)) for group in groups.values())
