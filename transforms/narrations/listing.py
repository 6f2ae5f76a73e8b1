"""Lists a source of texts: files are read into a spool, giving one item per video or label with its digest."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import SpecError
from cliploom.schemas.exports import PairsExport
from cliploom.schemas.narrations import NARRATIONS, BadRow, FilterTally, KeepRules, LabelText
from cliploom.schemas.records import Failure
from cliploom.schemas.sources import LabelsSource, NarrationsSource
from cliploom.schemas.spec_base import KeepSpec
from cliploom.transforms.inputs.joins import JoinedUids, ambiguous_text, join_uids
from cliploom.transforms.inputs.listing import LISTING, KnownListing, find, uid_of
from cliploom.transforms.narrations.ingest import MOST_FAILURES, SPOOLS, ingest
from cliploom.transforms.narrations.readers import InputFile, rules_of
from cliploom.transforms.narrations.rows import BROKEN_UTF8
from cliploom.transforms.narrations.text import label_texts
from cliploom.transforms.narrations.uids import read_uid_list
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.uris import absolute


def list_narrations(name: str, source: NarrationsSource, base: Path, objects: ObjectStore) -> KnownListing:
    """Read the new files of a source and list its videos.

    Args:
        name: the name of the source.
        source: the declaration of the source.
        base: the folder that relative paths are resolved against.
        objects: the store of the spool.

    Raises:
        SpecError: files cannot be opened, or two have texts of one video.
        BrokenFileError: a file cannot be read from some byte on; the message names it.
    """
    place = f"sources.{name}"
    files = list(_files(source, base, place))
    keep = keep_rules(source.keep, base, place, only=_uids(source, base, place))
    spool = ingest(objects, files, source, rules_of(source), keep, place)
    failures = [_failure(name, row, _hint(row, source, place)) for row in spool.bad]
    if spool.bad_rows > len(spool.bad):
        more = spool.bad_rows - MOST_FAILURES
        rest = BadRow(files[0].uri, "further rows", f"{more} more rows can't be used", "only the first are listed")
        failures.append(_failure(name, rest))
    return KnownListing(
        listed_texts(name, spool.items, spool.texts), tuple(failures), (*_notes(name, spool.tally), *spool.lists)
    )


def keep_rules(keep: KeepSpec, base: Path, place: str, only: frozenset[str] | None = None) -> KeepRules:
    """Return the declared filters with their files loaded.

    Raises:
        SpecError: a list of uids cannot be read.
    """
    without: frozenset[str] = frozenset()
    for path in keep.without:
        without |= read_uid_list(_existing(path, base, f"{place}.keep.without"))
    return KeepRules(keep.min_tokens, keep.min_spacing, only, without)


def _existing(path: str, base: Path, place: str) -> Path:
    found = absolute(base / Path(path).expanduser())
    if not found.is_file():
        raise SpecError(f"{place}: there is no file {str(found)!r}.")
    return found


def _uids(source: NarrationsSource, base: Path, place: str) -> frozenset[str] | None:
    if source.uids is None or isinstance(source.uids, list):
        return None if source.uids is None else frozenset(source.uids)
    return read_uid_list(_existing(source.uids, base, f"{place}.uids"))


def _files(source: NarrationsSource, base: Path, place: str) -> Iterator[InputFile]:
    seen = set()
    patterns = [source.path] if source.path is not None else source.glob or []
    for pattern in patterns:
        for found in sorted(find(pattern, base, f"{place}.{'path' if source.path else 'glob'}"), key=lambda f: f.uri):
            if found.uri not in seen:
                seen.add(found.uri)
                one_video = source.format in ("srt", "vtt")
                uid = uid_of(found.relative, source.uid, f"{place}.uid") if one_video else ""
                yield InputFile(found.uri, found.signature, found.size, uid)


def _hint(row: BadRow, source: NarrationsSource, place: str) -> str:
    """Return advice about bytes that are invalid in the file's encoding."""
    if row.reason.startswith(BROKEN_UTF8) and source.format in ("csv", "srt", "vtt"):
        return f" Write how the file is encoded, such as `encoding: cp1252`, below {place}."
    return ""


def _failure(source: str, row: BadRow, hint: str = "") -> Failure:
    return Failure(
        source=source,
        feature="",
        uid=row.uid,
        uri=row.file,
        item_no=0,
        digest="",
        config="",
        stage="read",
        type="BadRow",
        message=f"{row.message}{hint}",
        partial=True,
    )


def _notes(name: str, tally: FilterTally) -> Iterator[str]:
    yield f"{name}: {tally.narrations} texts of {tally.videos} videos"
    for drop in tally.dropped:
        yield f"{name}: {drop.narrations} texts dropped ({drop.reason}), {drop.videos} videos lost all"


@dataclass(frozen=True)
class TextsPlace:
    """The location of an item's rows: ``first`` to ``first + rows`` of a row group of a ``NARRATIONS`` file."""

    spool: str
    group: int
    first: int
    rows: int


PLACE = {"spool": pl.String, "group": pl.Int64, "first": pl.Int64, "rows": pl.Int64}


def listed_texts(name: str, items: pl.DataFrame, texts: str) -> pl.DataFrame:
    """Columns of ``LISTING``, ``digest`` and ``facts`` (JSON of a ``TextsPlace``); the signature is the digest."""
    facts = pl.struct(pl.lit(texts).alias("spool"), "group", "first", "rows").struct.json_encode()
    return items.select(
        pl.lit(name).alias("source"),
        "uid",
        "uri",
        "size",
        pl.col("digest").alias("signature"),
        pl.lit("{}").alias("metadata"),
        "digest",
        facts.alias("facts"),
    ).cast(LISTING | {"digest": pl.String, "facts": pl.String})  # type: ignore[arg-type]


def list_labels(name: str, source: LabelsSource, base: Path, objects: ObjectStore) -> KnownListing:
    """Return the class names of a source as items; a duplicate name gets its position appended to its uid.

    ``pass`` is the template's number, ``idx`` the label's.

    Raises:
        SpecError: the file cannot be read, or a label is blank.
    """
    labels, uri = label_names(name, source, base)
    texts = label_texts(labels, source.templates)
    folder = f"{SPOOLS}/{digest_of(['labels', labels, source.templates])}"
    path_in_store = f"{folder}/texts.parquet"
    uids = _label_uids(labels)
    if objects.size(path_in_store) is None:
        objects.put_new(path_in_store, _label_file(texts, uids))
    each = len(source.templates)
    first = [number * each for number in range(len(labels))]
    items = pl.DataFrame(
        {
            "uid": uids,
            "uri": [uri] * len(labels),
            "size": [len(label.encode()) for label in labels],
            "digest": [digest_of([t.text for t in texts[at : at + each]]) for at in first],
            "group": [0] * len(labels),
            "first": first,
            "rows": [each] * len(labels),
        }
    )
    return KnownListing(
        listed_texts(name, items, objects.uri_of(path_in_store)), (), (f"{name}: {len(labels)} labels",)
    )


def label_names(name: str, source: LabelsSource, base: Path) -> tuple[list[str], str]:
    """Return the class names of a source, and the file that they are in, if any.

    Raises:
        SpecError: the file cannot be read.
    """
    if source.labels is not None:
        return source.labels, ""
    place = f"sources.{name}.path"
    path = _existing(str(source.path), base, place)
    return _label_lines(path, place), str(path)


def _label_lines(path: Path, place: str) -> list[str]:
    """Return the names in a file, one per line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        around = error.object[max(0, error.start - 10) : error.end + 5]
        raise SpecError(f"{place}: {path} is not UTF-8 ({around!r}); save it as UTF-8.") from None
    lines = [line.strip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _label_uids(labels: list[str]) -> list[str]:
    seen: set[str] = set()
    uids = []
    for number, label in enumerate(labels):
        uid = label if label not in seen else f"{label} ({number})"
        if uid in seen:
            raise SpecError(f"label {number} and an earlier one are both {uid!r}; give them different names.")
        seen.add(uid)
        uids.append(uid)
    return uids


def _label_file(texts: list[LabelText], uids: list[str]) -> bytes:
    columns = [
        [uids[text.label_no] for text in texts],
        [text.template_no for text in texts],
        [text.label_no for text in texts],
        [None] * len(texts),
        [None] * len(texts),
        [text.label for text in texts],
        [text.text for text in texts],
        [""] * len(texts),
    ]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, NARRATIONS, strict=True)], schema=NARRATIONS)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", store_schema=False, row_group_size=max(1, len(texts)))
    return buffer.getvalue()


def matching_notes(
    narrated: Mapping[str, list[tuple[str, str]]], media: Mapping[str, list[tuple[str, str]]]
) -> Iterator[str]:
    """Yield the number of common uids of each source of texts and each source of media or clip features.

    Args:
        narrated: uid and URI of the items, by source of texts.
        media: the same for the other sources.
    """
    for texts, items in narrated.items():
        for clips, others in media.items():
            joined = join_uids(items, others)
            meant = joined.meant
            alone = tuple(sorted(uid for uid, _ in others if uid not in meant))
            yield (
                f"{texts} and {clips}: {len(joined.found)} videos in both, {len(joined.unmatched)} only in {texts}"
                f"{_some(tuple(sorted(joined.unmatched)))}, {len(alone)} only in {clips}{_some(alone)}"
                f"{ambiguous_text(joined)}"
            )


def list_notes(
    place: str,
    export: PairsExport,
    base: Path,
    texts: tuple[str, list[tuple[str, str]]],
    clips: tuple[str, list[tuple[str, str]]],
) -> Iterator[str]:
    """Yield messages about uids in the lists of an export of pairs that match no video, or several.

    Args:
        place: the place of the export in the spec.
        export: its declaration.
        base: folder that its paths start from.
        texts: name of the source of texts, uid and URI of its items.
        clips: the same of the features' source.
    """
    lists = [(f"{place}.keep.without", path) for path in export.keep.without]
    lists += [(f"{place}.splits.lists.{name}", path) for name, path in (export.splits.lists or {}).items()]
    for where, path in lists:
        found = _existing(path, base, where)
        own = join_uids([(uid, "") for uid in sorted(read_uid_list(found))], texts[1])
        theirs = join_uids([(uid, "") for uid in own.unmatched], clips[1])
        both = JoinedUids(own.found, {**own.ambiguous, **theirs.ambiguous}, theirs.unmatched)
        yield from both.problems(where, f"{texts[0]} or {clips[0]}")


def _some(uids: tuple[str, ...]) -> str:
    return f" (such as {uids[0]})" if uids else ""


def place_of(facts: str) -> TextsPlace:
    """Return the place that an item's facts say."""
    return TextsPlace(**json.loads(facts))
