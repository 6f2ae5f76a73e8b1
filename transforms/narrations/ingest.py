"""Reads text files once: writes all rows to a spool in the store, grouped by video, filtered and ordered.

A spool is named by its inputs: the listed files, options, revisions. It has ``texts.parquet`` (columns of
``NARRATIONS``, each video's rows in one row group), ``items.parquet`` (one row per video) and ``report.json``, which is
written last. Rows pass through buckets on disk, so memory is bounded by one bucket whatever the size of the files.
"""

from __future__ import annotations

import io
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import ItemError, SpecError
from cliploom.schemas.faults import temporary_faults
from cliploom.schemas.narrations import NARRATIONS, BadRow, Dropped, FilterTally, KeepRules, Narration, TextRules
from cliploom.schemas.sources import NarrationsSource
from cliploom.transforms.inputs.clashes import clash_message
from cliploom.transforms.inputs.joins import JoinedUids, join_uids
from cliploom.transforms.inputs.spool import open_input
from cliploom.transforms.narrations import text
from cliploom.transforms.narrations.batches import from_batches, item_digest, to_batches, usable
from cliploom.transforms.narrations.readers import InputFile, read_file
from cliploom.transforms.narrations.select import in_order, keep_reason_for_video, kept, seeded_subset
from cliploom.transforms.store.object_store import ObjectStore

REVISION = 2
SPOOLS = "spools"
BUCKET_BYTES = 24_000_000
MOST_BUCKETS = 512
BATCH_ROWS = 8_192
GROUP_ROWS = 4_096
MOST_FAILURES = 1_000

ITEM_COLUMNS = {
    "uid": pl.String,
    "uri": pl.String,
    "size": pl.Int64,
    "digest": pl.String,
    "group": pl.Int64,
    "first": pl.Int64,
    "rows": pl.Int64,
}


@dataclass(frozen=True)
class Spool:
    """The result of reading.

    Attributes:
        texts: the URI of the file of rows.
        items: the columns of ``ITEM_COLUMNS``: the location of each video's rows (row group, first row in it, number),
            the file they come from and the digest of their content.
        bad: the rows that cannot be used, at most ``MOST_FAILURES`` of them.
        bad_rows: the total number of bad rows.
        tally: the counts of what the filters kept and dropped.
        lists: messages about uids of lists that match no video, or several.
    """

    texts: str
    items: pl.DataFrame
    bad: tuple[BadRow, ...]
    bad_rows: int
    tally: FilterTally
    lists: tuple[str, ...] = ()


@dataclass
class _Bad:
    """Collects bad rows; after ``MOST_FAILURES`` they are only counted."""

    rows: list[BadRow] = field(default_factory=list)
    count: int = 0

    def add(self, row: BadRow, uri: str) -> None:
        self.count += 1
        if len(self.rows) < MOST_FAILURES:
            self.rows.append(replace(row, file=uri))


def ingest(
    objects: ObjectStore,
    files: Sequence[InputFile],
    source: NarrationsSource,
    rules: TextRules,
    keep: KeepRules,
    place: str,
) -> Spool:
    """Return the spool of these files; read them unless it exists.

    Args:
        objects: the store.
        files: the files of one format.
        source: the declaration of how to read them.
        rules: the rules from texts to encoded texts.
        keep: the filters; ``source.limit`` is applied in addition.
        place: the location of the source in the spec, for errors.

    Raises:
        SpecError: a file cannot be opened, or two files have narrations of one video.
        BrokenFileError: a file cannot be read from some byte on; the message names it.
    """
    made_from = [
        [[file.uri, file.signature, file.uid] for file in files],
        source.model_dump(mode="json", exclude=set() if source.allow_parameters else {"allow_parameters"}),
        [list(pair) for pair in rules.replace],
        sorted(keep.without),
        None if keep.only is None else sorted(keep.only),
        [REVISION, text.REVISION],
    ]
    folder = f"{SPOOLS}/{digest_of(made_from)}"
    if objects.size(f"{folder}/report.json") is None:
        with temporary_faults(), tempfile.TemporaryDirectory(prefix="cliploom-texts-") as name:
            _ingest(objects, folder, Path(name), files, source, rules, keep, place)
    return read_spool(objects, folder)


def read_spool(objects: ObjectStore, folder: str) -> Spool:
    """Return a finished spool; the texts themselves are not read."""
    report = json.loads(objects.get(f"{folder}/report.json"))
    tally = report["tally"]
    return Spool(
        texts=objects.uri_of(f"{folder}/texts.parquet"),
        items=pl.read_parquet(io.BytesIO(objects.get(f"{folder}/items.parquet"))),
        bad=tuple(BadRow(**row) for row in report["bad"]),
        bad_rows=report["bad_rows"],
        tally=FilterTally(tally["narrations"], tally["videos"], tuple(Dropped(**drop) for drop in tally["dropped"])),
        lists=tuple(report["lists"]),
    )


def _ingest(
    objects: ObjectStore,
    folder: str,
    scratch: Path,
    files: Sequence[InputFile],
    source: NarrationsSource,
    rules: TextRules,
    keep: KeepRules,
    place: str,
) -> None:
    bad = _Bad()
    buckets = max(1, min(MOST_BUCKETS, sum(file.size for file in files) // BUCKET_BYTES + 1))
    owners = _spread(files, source, scratch, buckets, bad, place)
    keep, lists = _resolved(keep, [(uid, files[number].uri) for uid, number in owners.items()], place)
    wanted = {uid for uid in owners if keep_reason_for_video(uid, keep) is None}
    beyond: set[str] = set()
    if source.limit is not None and wanted:
        beyond = wanted - set(seeded_subset(wanted, source.limit, source.seed))
    items: list[tuple[object, ...]] = []
    tally = FilterTally()
    with objects.create_file(f"{folder}/texts.parquet") as path, _TextsWriter(path, rules) as writer:
        for bucket in range(buckets):
            for uid, narrations in _videos(scratch / f"{bucket}.arrow"):
                if uid in beyond:
                    tally += FilterTally(dropped=(Dropped(f"beyond the limit of {source.limit}", len(narrations), 1),))
                    continue
                stay, counted = kept(uid, narrations, keep)
                tally += counted
                if stay:
                    ordered = in_order(stay, source.order)
                    group, first = writer.write(ordered)
                    size = sum(len(n.text) for n in ordered)
                    items.append((uid, files[owners[uid]].uri, size, item_digest(ordered), group, first, len(ordered)))
    table = io.BytesIO()
    pl.DataFrame(items, schema=ITEM_COLUMNS, orient="row").sort("uid").write_parquet(table)
    objects.put(f"{folder}/items.parquet", table.getvalue())
    report = {"bad": [asdict(row) for row in bad.rows], "bad_rows": bad.count, "tally": asdict(tally), "lists": lists}
    objects.put(f"{folder}/report.json", json.dumps(report).encode())


def _resolved(keep: KeepRules, items: list[tuple[str, str]], place: str) -> tuple[KeepRules, list[str]]:
    """Return the filters with the uids of the videos, and messages about those that match none or several."""
    said: list[str] = []

    def joined(uids: frozenset[str], what: str) -> JoinedUids:
        found = join_uids([(uid, "") for uid in sorted(uids)], items)
        said.extend(found.problems(f"{place}.{what}", "its files"))
        return found

    if keep.only is not None:
        keep = replace(keep, only=frozenset(joined(keep.only, "uids").found.values()))
    if keep.without:
        keep = replace(keep, without=joined(keep.without, "keep.without").meant)
    return keep, said


def _spread(
    files: Sequence[InputFile], source: NarrationsSource, scratch: Path, buckets: int, bad: _Bad, place: str
) -> dict[str, int]:
    """Write all rows to bucket files by hash of their uid; return the number of each uid's file."""
    owners: dict[str, int] = {}
    clashes: dict[str, list[str]] = {}
    with ExitStack() as stack:
        writers = [
            stack.enter_context(pa.ipc.new_stream(scratch / f"{number}.arrow", NARRATIONS)) for number in range(buckets)
        ]
        for number, file in enumerate(files):
            on_bad: Callable[[BadRow], None] = lambda row, uri=file.uri: bad.add(row, uri)  # type: ignore[misc]  # noqa: E731
            try:
                with open_input(file.uri, file.signature, "read") as path:
                    for batch in to_batches(usable(read_file(path, source, file), on_bad), rows=BATCH_ROWS):
                        _note_owner(batch, number, owners, files, clashes)
                        _deal(batch, writers)
            except ItemError as error:
                raise SpecError(str(error)) from None
    if clashes:
        advice = "put a video's texts into one file, or choose another uid"
        if source.format in ("srt", "vtt"):
            advice += " (`uid: file` keeps the extension, {regex: ...} takes a part of the path)"
        raise SpecError(clash_message(place, clashes, advice))
    return owners


def _note_owner(
    batch: pa.RecordBatch,
    number: int,
    owners: dict[str, int],
    files: Sequence[InputFile],
    clashes: dict[str, list[str]],
) -> None:
    """Record the file of each uid, and the files of uids that are in several."""
    for uid in batch.column("uid").unique().to_pylist():
        other = owners.setdefault(uid, number)
        if other != number and files[number].uri not in clashes.setdefault(uid, [files[other].uri]):
            clashes[uid].append(files[number].uri)


def _deal(batch: pa.RecordBatch, writers: Sequence[pa.ipc.RecordBatchStreamWriter]) -> None:
    if len(writers) == 1:
        writers[0].write_batch(batch)
        return
    coded = batch.column("uid").dictionary_encode()
    homes = pa.array([zlib.crc32(uid.encode()) % len(writers) for uid in coded.dictionary.to_pylist()], pa.int32())
    by_bucket: dict[int, list[int]] = {}
    for row, bucket in enumerate(homes.take(coded.indices).to_pylist()):
        by_bucket.setdefault(bucket, []).append(row)
    for bucket, rows in by_bucket.items():
        writers[bucket].write_batch(batch.take(pa.array(rows, pa.int64())))


def _videos(bucket: Path) -> Iterator[tuple[str, list[Narration]]]:
    """Yield the videos of a bucket, sorted by uid, each with its narrations in file order."""
    with pa.ipc.open_stream(bucket) as stream:
        narrations = list(from_batches(stream))
    bucket.unlink()
    by_uid: dict[str, list[Narration]] = {}
    for narration in narrations:
        by_uid.setdefault(narration.uid, []).append(narration)
    for uid in sorted(by_uid):
        yield uid, by_uid.pop(uid)


class _TextsWriter:
    """Writes videos to a Parquet file; a row group ends after the video with which it reaches ``GROUP_ROWS`` rows."""

    def __init__(self, path: Path, rules: TextRules) -> None:
        self._rules = rules
        self._writer = pq.ParquetWriter(path, NARRATIONS, compression="zstd", store_schema=False)
        self._pending: list[Narration] = []
        self._group = 0

    def __enter__(self) -> _TextsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    def write(self, narrations: Sequence[Narration]) -> tuple[int, int]:
        """Add one video; return its row group and its first row in it."""
        if len(self._pending) >= GROUP_ROWS:
            self._flush()
        place = self._group, len(self._pending)
        self._pending.extend(narrations)
        return place

    def _flush(self) -> None:
        if self._pending:
            batches = list(to_batches(self._pending, self._rules))
            table = pa.Table.from_batches(batches, NARRATIONS)
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
            self._pending = []
            self._group += 1
