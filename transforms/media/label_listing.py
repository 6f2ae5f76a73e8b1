"""Labels of your own media, found while listing: in a CSV, a column of the source's table, or folder names."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

import polars as pl

from cliploom.schemas.errors import SpecError, nearest
from cliploom.schemas.records import LABELS_KEY
from cliploom.schemas.sources import FolderTexts, LabelColumn, LabelFile, MediaSource
from cliploom.transforms.inputs.ids import id_text
from cliploom.transforms.inputs.joins import JoinedUids, join_uids
from cliploom.transforms.inputs.listing import clean_uid, list_source
from cliploom.transforms.inputs.tables import read_table
from cliploom.transforms.media.wordnet import folder_labels, read_ids, read_words
from cliploom.transforms.store.uris import absolute, is_remote, path_to_uri, uri_to_path
from cliploom.transforms.tfrecords.settings import read_vocabulary_file

SEPARATOR = ";"
KEY = LABELS_KEY


def _ignore(sentence: str) -> None:
    """Ignore a message."""


def list_media(name: str, source: MediaSource, base: Path, note: Callable[[str], object] = _ignore) -> pl.DataFrame:
    """Return the items of a media source as ``list_source`` lists them, with labels where it has some.

    Args:
        name: the name of the source.
        source: the declaration of the source.
        base: the folder that relative paths are resolved against.
        note: a callback that receives messages about labels that match no item.
    """
    frame = list_source(name, source, base)
    return frame if source.labels is None else with_labels(frame, name, source, base, note)


def with_labels(
    frame: pl.DataFrame, name: str, source: MediaSource, base: Path, note: Callable[[str], object] = _ignore
) -> pl.DataFrame:
    """Return the listing with each item's labels in its metadata, as [index, name].

    Args:
        frame: a dataframe with the columns of ``cliploom.transforms.inputs.listing.LISTING``.
        name: the source's name.
        source: the declaration of the source, which has ``labels``.
        base: the folder that relative paths are resolved against.
        note: a callback that receives messages about labels that match no item.

    Raises:
        SpecError: a file or column is missing, or the vocabulary lacks a label.
    """
    place = f"sources.{name}.labels"
    uids, uris, metadata = (frame[column].to_list() for column in ("uid", "uri", "metadata"))
    if source.labels == "folder":
        found = {uid: [clean_uid(PurePosixPath(uri).parent.name)] for uid, uri in zip(uids, uris, strict=True)}
    elif isinstance(source.labels, LabelColumn):
        found = _from_column(place, source.labels.column, dict(zip(uids, metadata, strict=True)))
    elif isinstance(source.labels, LabelFile):
        found = _from_csv(name, source.labels, base, list(zip(uids, uris, strict=True)), note)
    elif isinstance(source.labels, FolderTexts):
        words = read_words(source.labels.texts, base, f"{place}.texts")
        ids = None if source.labels.ids is None else read_ids(source.labels.ids, base, f"{place}.ids")
        found, numbered = folder_labels(zip(uids, uris, strict=True), words, ids, place)
        bare = sum(not each for each in found.values())
        if bare:
            note(f"{name}: {bare} of {len(uids)} files lie below no folder that {source.labels.texts} names")
        return _with_metadata(
            frame, {uid: [(numbered[each], words[each]) for each in own] for uid, own in found.items()}
        )
    else:
        return frame
    numbers = _numbers(place, source, base, {label for labels in found.values() for label in labels})
    return _with_metadata(frame, {uid: [(numbers[label], label) for label in labels] for uid, labels in found.items()})


def _with_metadata(frame: pl.DataFrame, labels: Mapping[str, list[tuple[int, str]]]) -> pl.DataFrame:
    """Return the listing with labels (number and name) in the metadata, by uid."""
    written = [
        json.dumps(json.loads(text) | {KEY: [list(each) for each in labels.get(uid, ())]}, sort_keys=True)
        for uid, text in zip(frame["uid"].to_list(), frame["metadata"].to_list(), strict=True)
    ]
    return frame.with_columns(pl.Series("metadata", written, pl.String))


def split_labels(value: object) -> list[str]:
    """Return the labels in a cell, without blanks and duplicates.

    >>> split_labels("dog; cat;dog;"), split_labels(7.0), split_labels([1, "b", True, 0.5])
    (['dog', 'cat'], ['7'], ['1', 'b', 'True', '0.5'])

    Raises:
        ValueError: a label is invalid; the message says why.
    """
    parts = value if isinstance(value, list) else _label_text(value).split(SEPARATOR)
    return list(dict.fromkeys(text for part in parts if (text := _label_text(part))))


def _label_text(value: object) -> str:
    """Return a label as text; JSONL and Parquet may contain booleans or numbers."""
    return str(value) if isinstance(value, bool | float) and not _is_whole(value) else id_text(value)


def _is_whole(value: float) -> bool:
    return not isinstance(value, bool) and (value != value or value.is_integer())


def _from_column(place: str, column: str, metadata: Mapping[str, str]) -> dict[str, list[str]]:
    rows = {uid: json.loads(text) for uid, text in metadata.items()}
    known = {key for row in rows.values() for key in row}
    if rows and column not in known:
        raise SpecError(f"{place}.column: the source's table has no column {column!r}{nearest(column, known)}")
    found = {}
    for uid, row in rows.items():
        try:
            found[uid] = split_labels(row.get(column))
        except ValueError as error:
            raise SpecError(f"{place}.column: {column!r} of {uid!r}, {row.get(column)!r}, {error}.") from None
    return found


def _from_csv(
    name: str, labels: LabelFile, base: Path, items: list[tuple[str, str]], note: Callable[[str], object]
) -> dict[str, list[str]]:
    """Return the labels by uid; a ``path`` is one of the listed files, absolute or relative to the CSV."""
    place = f"sources.{name}.labels.csv"
    path = absolute(base / Path(labels.csv).expanduser())
    table = read_table(path, place, ("uid", "path", "labels", "label"), labels.encoding)
    key = next((column for column in ("uid", "path") if column in table.columns), None)
    value = next((column for column in ("labels", "label") if column in table.columns), None)
    if key is None or value is None:
        raise SpecError(
            f"{place}: {path} needs the columns uid (or path) and labels; it has {', '.join(table.columns)}."
        )
    given: dict[str, list[str]] = {}
    for where, row in table.rows:
        try:
            cell, some = id_text(row[key]), split_labels(row[value])
        except ValueError as error:
            raise SpecError(f"{place}: a cell in {where} of {path} {error}.") from None
        cell = clean_uid(cell) if key == "uid" else _file_named(cell, path.parent)
        given[cell] = list(dict.fromkeys([*given.get(cell, []), *some]))
    joined = (
        join_uids([(cell, "") for cell in given], items) if key == "uid" else _join_files(given, items, path.parent)
    )
    for problem in joined.problems(f"{name}: {path.name}", name):
        note(problem)
    found: dict[str, list[str]] = {}
    for cell, uid in joined.found.items():
        found[uid] = list(dict.fromkeys([*found.get(uid, []), *given[cell]]))
    return found


def _file_named(cell: str, folder: Path) -> str:
    """Return the URI of a file that a cell names, in NFC."""
    uri = cell if is_remote(cell) else path_to_uri(absolute(folder / uri_to_path(cell)))
    return unicodedata.normalize("NFC", uri)


def _join_files(uris: Iterable[str], items: Iterable[tuple[str, str]], folder: Path) -> JoinedUids:
    """Return the item of each file."""
    uid_of = {_file_named(uri, folder): uid for uid, uri in items}
    found = {uri: uid_of[uri] for uri in uris if uri in uid_of}
    return JoinedUids(found, {}, tuple(uri for uri in uris if uri not in uid_of))


def _numbers(place: str, source: MediaSource, base: Path, labels: Iterable[str]) -> dict[str, int]:
    """Return the index of each label."""
    if source.vocabulary is None:
        return {label: number for number, label in enumerate(sorted(labels))}
    vocabulary = read_vocabulary_file(source.vocabulary, base, place.rpartition(".")[0])
    known = {each.title: index for index, each in vocabulary.classes.items()}
    for label in sorted(labels):
        if label not in known:
            raise SpecError(f"{place}: the vocabulary has no class {label!r}{nearest(label, known)}")
    return {label: known[label] for label in labels}
