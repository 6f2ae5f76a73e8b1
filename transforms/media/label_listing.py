"""Labels of one's own media, found while listing: in a CSV, a column of the source's table, or folders' names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import polars as pl

from cliploom.schemas.errors import SpecError, nearest
from cliploom.schemas.sources import LabelColumn, LabelFile, MediaSource
from cliploom.transforms.inputs.listing import clean_uid, list_source, read_listing_table
from cliploom.transforms.tfrecords.settings import read_vocabulary_file

SEPARATOR = ";"
KEY = "labels"
"""Key of an item's metadata with its labels, a list of [index or null, name]."""


def list_media(name: str, source: MediaSource, base: Path) -> pl.DataFrame:
    """The items of a media source as ``list_source`` lists them, with labels where it has some."""
    frame = list_source(name, source, base)
    return frame if source.labels is None else with_labels(frame, name, source, base)


def with_labels(frame: pl.DataFrame, name: str, source: MediaSource, base: Path) -> pl.DataFrame:
    """The listing with each item's labels in its metadata, as [index, name].

    Args:
        frame: columns of ``cliploom.transforms.inputs.listing.LISTING``.
        name: the source's name.
        source: its declaration, which has ``labels``.
        base: folder that relative paths start from.

    Raises:
        SpecError: for a missing file or column, or a label that the vocabulary does not have.
    """
    place = f"sources.{name}.labels"
    uids, uris, metadata = (frame[column].to_list() for column in ("uid", "uri", "metadata"))
    if source.labels == "folder":
        found = {uid: [clean_uid(PurePosixPath(uri).parent.name)] for uid, uri in zip(uids, uris, strict=True)}
    elif isinstance(source.labels, LabelColumn):
        found = _from_column(place, source.labels.column, dict(zip(uids, metadata, strict=True)))
    elif isinstance(source.labels, LabelFile):
        path = (base / Path(source.labels.csv).expanduser()).absolute()
        found = _from_csv(place, path, dict(zip(uris, uids, strict=True)))
    else:
        return frame
    numbers = _numbers(place, source, base, {label for labels in found.values() for label in labels})
    written = [
        json.dumps(json.loads(text) | {KEY: [[numbers[label], label] for label in found.get(uid, ())]}, sort_keys=True)
        for uid, text in zip(uids, metadata, strict=True)
    ]
    return frame.with_columns(pl.Series("metadata", written, pl.String))


def split_labels(value: object) -> list[str]:
    """The labels that a cell holds, without blanks and repetitions.

    >>> split_labels("dog; cat;dog;")
    ['dog', 'cat']
    """
    parts = value if isinstance(value, list) else str(value if value is not None else "").split(SEPARATOR)
    return list(dict.fromkeys(text for part in parts if (text := str(part).strip())))


def _from_column(place: str, column: str, metadata: Mapping[str, str]) -> dict[str, list[str]]:
    rows = {uid: json.loads(text) for uid, text in metadata.items()}
    known = {key for row in rows.values() for key in row}
    if rows and column not in known:
        raise SpecError(f"{place}.column: the source's table has no column {column!r}{nearest(column, known)}")
    return {uid: split_labels(row.get(column)) for uid, row in rows.items()}


def _from_csv(place: str, path: Path, uid_of: Mapping[str, str]) -> dict[str, list[str]]:
    """By uid; a ``path`` is one of the listed files, absolute or relative to the CSV."""
    table = read_listing_table(path, f"{place}.csv")
    key = next((column for column in ("uid", "path") if column in table.columns), None)
    value = next((column for column in ("labels", "label") if column in table.columns), None)
    if key is None or value is None:
        raise SpecError(
            f"{place}.csv: {path} needs the columns uid (or path) and labels; it has {', '.join(table.columns)}."
        )
    found: dict[str, list[str]] = {}
    for cell, labels in table.select(key, value).iter_rows():
        uid = clean_uid(str(cell)) if key == "uid" else uid_of.get(str(path.parent / str(cell)), "")
        found[uid] = list(dict.fromkeys([*found.get(uid, []), *split_labels(labels)]))
    return found


def _numbers(place: str, source: MediaSource, base: Path, labels: Iterable[str]) -> dict[str, int]:
    """Index of each label."""
    if source.vocabulary is None:
        return {label: number for number, label in enumerate(sorted(labels))}
    vocabulary = read_vocabulary_file(source.vocabulary, base, place.rpartition(".")[0])
    known = {each.title: index for index, each in vocabulary.classes.items()}
    for label in sorted(labels):
        if label not in known:
            raise SpecError(f"{place}: the vocabulary has no class {label!r}{nearest(label, known)}")
    return {label: known[label] for label in labels}
