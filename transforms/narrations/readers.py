"""Selects the reader for a source's format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cliploom.schemas.narrations import EGO4D, PLAIN, BadRow, Columns, Narration, TextRules
from cliploom.schemas.sources import NarrationsSource, TextColumns
from cliploom.schemas.spec_base import UidRegex
from cliploom.transforms.narrations.ego4d import read_ego4d
from cliploom.transforms.narrations.subtitles import read_subtitles
from cliploom.transforms.narrations.tabular import read_csv, read_jsonl, read_tgif
from cliploom.transforms.narrations.uids import UrlRule


@dataclass(frozen=True)
class InputFile:
    """A listed file of texts.

    Attributes:
        uid: the uid of the video, for formats with one file per video; else empty.
        size: the size in bytes.
    """

    uri: str
    signature: str
    size: int
    uid: str = ""


def read_file(path: Path, source: NarrationsSource, file: InputFile) -> Iterator[Narration | BadRow]:
    """Return the rows of a local copy of ``file``, read as its source declares.

    Raises:
        SpecError: it cannot be opened, or lacks a declared column.
        BrokenFileError: it does not have the declared format; the message names the byte.
    """
    columns = columns_of(source.columns)
    rule = UrlRule(url_rule(source.uid), frozenset(source.allow_parameters))
    match source.format:
        case "ego4d":
            return read_ego4d(path, kind=source.rows, offset_s=source.offset)
        case "tgif":
            return read_tgif(path, url_rule=rule)
        case "csv":
            return read_csv(
                path,
                columns,
                delimiter=source.delimiter,
                encoding=source.encoding,
                url_rule=rule if source.urls else None,
                offset_s=source.offset,
            )
        case "jsonl":
            return read_jsonl(path, columns, url_rule=rule if source.urls else None, offset_s=source.offset)
        case "srt" | "vtt":
            return read_subtitles(path, source.format, uid=file.uid, encoding=source.encoding or "utf-8")


def columns_of(columns: TextColumns | None) -> Columns:
    """Return the record of columns for the readers."""
    if columns is None:
        return Columns()
    return Columns(columns.uid, columns.text, columns.start, columns.end, columns.pass_, columns.annotation_uid)


def url_rule(uid: str | UidRegex) -> str:
    """Return the uid rule for ``uids.uid_of_url``."""
    return uid.regex if isinstance(uid, UidRegex) else uid


def rules_of(source: NarrationsSource) -> TextRules:
    """Return the declared replacements, or the default ones of the format."""
    if source.rules is None:
        return EGO4D if source.format == "ego4d" else PLAIN
    return TextRules(tuple(source.rules.items()))
