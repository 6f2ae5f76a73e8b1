"""Files of pairs: Parquet, HDF5, or a single file in the format of Ego4D's tutorial.

Parquet has one row per pair: ``uid, pass, idx, start_s, end_s, text, first, end, features, embedding``, where
``features`` is list<float32> of D values, or of n * D for ``take: n``. HDF5 has the same as ``features`` float32 [M, D]
or [M, n, D], ``embedding`` float32 [M, E], both contiguous, and ``meta``, the bytes of a JSON list of objects. The
tutorial's format has ``features/<uid>`` (see ``tutorial_names``) float32 [N, D], complete, ``embedding`` [M, E] and
``meta`` with ``{uid, txt, ts, idx, pass}``, where ``idx`` is the text's row of ``embedding``. All include a report of
what was kept and dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliploom.schemas.narrations import Dropped, FilterTally, KeepRules, Narration, Pair, PairRules, Pool, SplitRule
from cliploom.schemas.records import MAX_ORDINAL
from cliploom.transforms.narrations.pairs import plan_pairs, pool_rows
from cliploom.transforms.narrations.table import TABLE
from cliploom.transforms.store.hdf5_names import escape, folder_clash, readable
from cliploom.transforms.store.hdf5_output import hdf5_output
from cliploom.transforms.store.hdf5_readable import Folders
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import arrow_to_vectors, part_path, vectors_to_arrow
from cliploom.transforms.store.ranges import ItemRows, RowRanges

TUTORIAL_REVISION = 2
"""Increase it when the tutorial's file gets other values."""

REPORT = "cliploom_pairs"
ROWS_AT_ONCE = 2_048
_ALL = SplitRule()


@dataclass(frozen=True)
class VideoPairs:
    """A video with both narrations and features."""

    uid: str
    clips: ItemRows
    texts: ItemRows


@dataclass(frozen=True)
class PairLayout:
    """How pairs are created and written, the same for all files of an export."""

    format: str
    rate: float
    around_s: float
    pool: Pool
    keep: KeepRules
    clip_table: str
    clip_output: str
    clip_dim: int
    text_table: str
    text_output: str
    text_dim: int
    text_source: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one pair's features."""
        return (self.clip_dim,) if self.pool == "mean" else (self.pool.n, self.clip_dim)


@dataclass(frozen=True)
class PairsReport:
    """The counts of a file's narrations."""

    tally: FilterTally

    def to_json(self) -> str:
        """Return the report for the file's metadata."""
        return json.dumps(asdict(self.tally))

    @classmethod
    def from_json(cls, text: str) -> PairsReport:
        """Create a report from the result of ``to_json``."""
        value = json.loads(text)
        return cls(
            FilterTally(value["narrations"], value["videos"], tuple(Dropped(**drop) for drop in value["dropped"]))
        )


@dataclass(frozen=True)
class PairsTask:
    """One file to create; see ``cliploom.transforms.exports.base.FileTask``.

    Attributes:
        split: the name of the split; empty for a file with all pairs.
        narrations: the files of the ``narrations`` table.
        digest: the digest of the file's inputs.
    """

    export: str
    split: str
    shard: int
    layout: PairLayout
    videos: tuple[VideoPairs, ...]
    narrations: tuple[str, ...]
    digest: str

    @property
    def path(self) -> str:
        """The path of the file, relative to the store."""
        suffix = "parquet" if self.layout.format == "parquet" else "h5"
        stem = f"{self.split}-{self.shard:05d}-" if self.split else "all-"
        return f"pairs/{self.export}/{stem}{self.digest}.{suffix}"

    def write(self, objects: ObjectStore) -> None:
        """Create the file, one video at a time; memory is bounded by its texts and one video's features."""
        planned, tally = self._planned(objects)
        with objects.create_file(self.path) as local, ExitStack() as stack:
            reader = _Reader(objects, self.layout, stack)
            if self.layout.format == "parquet":
                _write_parquet(local, self.layout, reader, planned, PairsReport(tally))
            elif self.layout.format == "hdf5":
                _write_hdf5(local, self.layout, reader, planned, PairsReport(tally))
            else:
                _write_tutorial(local, self.layout, reader, planned, PairsReport(tally))

    def batches(
        self, objects: ObjectStore
    ) -> Iterator[tuple[list[tuple[str, Pair]], NDArray[np.float32], NDArray[np.float32]]]:
        """Yield the pairs, one video at a time: ((uid, pair), features [n, ...], embeddings [n, E])."""
        planned, _ = self._planned(objects)
        with ExitStack() as stack:
            yield from _batches(self.layout, _Reader(objects, self.layout, stack), planned)

    def _planned(self, objects: ObjectStore) -> tuple[list[_Planned], FilterTally]:
        found = _narrations(objects, self.narrations, self.layout.text_source, [video.uid for video in self.videos])
        rules = PairRules(self.layout.rate, self.layout.around_s, self.layout.keep, _ALL)
        planned, tally = [], FilterTally()
        for video in self.videos:
            rows = found.get(video.uid, [])
            if not rows:
                continue
            ids = {narration: row for row, narration in rows}
            made, counted = plan_pairs(video.uid, [narration for _, narration in rows], video.clips.planned, rules)
            tally += counted
            if made:
                planned.append(_Planned(video, made, [ids[pair.narration] for pair in made]))
        return planned, tally


@dataclass(frozen=True)
class _Planned:
    """One video's pairs and the row ids of their texts."""

    video: VideoPairs
    pairs: list[Pair]
    rows: list[int]


def _narrations(
    objects: ObjectStore, files: Sequence[str], source: str, uids: list[str]
) -> dict[str, list[tuple[int, Narration]]]:
    """Return (row id, narration) by uid, in row order."""
    found: dict[str, list[tuple[int, Narration]]] = {}
    columns = ["row_id", "uid", "pass", "idx", "start_s", "end_s", "text", "annotation_uid"]
    for name in files:
        with objects.local_copy(part_path(TABLE, name)) as local:
            mine = (pl.col("source") == source) & pl.col("uid").is_in(uids)
            frame = pl.scan_parquet(local).filter(mine).select(columns).collect().sort("row_id")
        for row, *values in frame.iter_rows():
            found.setdefault(values[0], []).append((row, Narration(*values)))
    return found


class _Reader:
    """Reads vectors of single videos, from parts that stay open."""

    def __init__(self, objects: ObjectStore, layout: PairLayout, stack: ExitStack) -> None:
        self._objects, self._layout, self._stack = objects, layout, stack
        self._open: dict[str, RowRanges] = {}

    def clips(self, video: VideoPairs) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the ordinals int64 [n] and features float32 [n, D] of a video's existing rows."""
        layout = self._layout
        rows = self._rows(layout.clip_table, video.clips, layout.clip_output)
        return rows["row_id"].to_numpy() & MAX_ORDINAL, arrow_to_vectors(rows[layout.clip_output], layout.clip_dim)

    def texts(self, video: VideoPairs, wanted: Sequence[int]) -> tuple[list[int], NDArray[np.float32]]:
        """Return the positions in ``wanted`` (row ids) of the texts that have a vector, and these, float32 [n, E]."""
        layout = self._layout
        rows = self._rows(layout.text_table, video.texts, layout.text_output)
        place = {row: number for number, row in enumerate(rows["row_id"].to_pylist())}
        there = [number for number, row in enumerate(wanted) if row in place]
        vectors = arrow_to_vectors(rows[layout.text_output], layout.text_dim)
        return there, vectors[[place[wanted[number]] for number in there]]

    def _rows(self, table: str, ranges: ItemRows, output: str) -> pa.Table:
        tables = []
        for part, first, count in ranges.places:
            path = part_path(table, part)
            if path not in self._open:
                local = self._stack.enter_context(self._objects.local_copy(path))
                self._open[path] = RowRanges(local, ["row_id", output])
            tables.append(self._open[path].rows(first, count))
        return pa.concat_tables(tables)


def _batches(
    layout: PairLayout, reader: _Reader, planned: list[_Planned]
) -> Iterator[tuple[list[tuple[str, Pair]], NDArray[np.float32], NDArray[np.float32]]]:
    """Yield ((uid, pair), features [n, ...], embeddings [n, E]) by video, omitting pairs whose rows were lost."""
    for each in planned:
        ordinals, clips = reader.clips(each.video)
        there, embeddings = reader.texts(each.video, each.rows)
        kept, features, lines = [], [], []
        for line, number in enumerate(there):
            pair = each.pairs[number]
            low, high = np.searchsorted(ordinals, (pair.first, pair.end))
            if low < high:
                kept.append((each.video.uid, pair))
                features.append(pool_rows(clips[low:high], layout.pool))
                lines.append(line)
        if kept:
            yield kept, np.stack(features), embeddings[lines]


def _with_lost(report: PairsReport, written: int) -> PairsReport:
    """Return the report with pairs whose vectors failed counted as dropped."""
    lost = report.tally.narrations - written
    if not lost:
        return report
    dropped = (*report.tally.dropped, Dropped("the features or the text could not be computed", lost, 0))
    return PairsReport(FilterTally(written, report.tally.videos, dropped))


PAIRS = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("pass", pa.int32(), nullable=False),
        pa.field("idx", pa.int32(), nullable=False),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("text", pa.string(), nullable=False),
        pa.field("first", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("features", pa.list_(pa.field("element", pa.float32()))),
        pa.field("embedding", pa.list_(pa.field("element", pa.float32()))),
    ]
)


def _write_parquet(
    path: Path, layout: PairLayout, reader: _Reader, planned: list[_Planned], report: PairsReport
) -> None:
    plain = PAIRS.names[:-2]
    compression = dict.fromkeys(plain, "zstd") | {"features.list.element": "none", "embedding.list.element": "none"}
    written = 0
    with pq.ParquetWriter(path, PAIRS, compression=compression, use_dictionary=["uid"], store_schema=False) as writer:
        pending: list[pa.Table] = []
        for kept, features, embeddings in _batches(layout, reader, planned):
            rows = [
                (uid, n.pass_, n.idx, n.start_s, n.end_s, n.text, pair.first, pair.end)
                for uid, pair in kept
                for n in (pair.narration,)
            ]
            columns = [
                pa.array(values, PAIRS.field(name).type)
                for name, values in zip(plain, zip(*rows, strict=True), strict=True)
            ]
            flat = features.reshape(len(kept), -1)
            pending.append(pa.table([*columns, vectors_to_arrow(flat), vectors_to_arrow(embeddings)], schema=PAIRS))
            written += len(kept)
            if sum(table.num_rows for table in pending) >= ROWS_AT_ONCE:
                writer.write_table(pa.concat_tables(pending))
                pending = []
        if pending:
            writer.write_table(pa.concat_tables(pending))
        writer.add_key_value_metadata({REPORT: _with_lost(report, written).to_json()})


def _write_hdf5(path: Path, layout: PairLayout, reader: _Reader, planned: list[_Planned], report: PairsReport) -> None:
    most = report.tally.narrations
    meta: list[dict[str, Any]] = []
    with (
        hdf5_output(path) as output,
        h5py.File(output, "w", libver=("v110", "v110"), track_order=False) as file,
    ):
        features = file.create_dataset("features", (most, *layout.shape), np.float32, track_times=False)
        embeddings = file.create_dataset("embedding", (most, layout.text_dim), np.float32, track_times=False)
        for kept, clips, texts in _batches(layout, reader, planned):
            output.check()
            at = len(meta)
            features[at : at + len(kept)] = clips
            embeddings[at : at + len(kept)] = texts
            meta += [_meta(uid, pair) | {"first": pair.first, "end": pair.end} for uid, pair in kept]
        _finish_hdf5(file, meta, _with_lost(report, len(meta)))


def _write_tutorial(
    path: Path, layout: PairLayout, reader: _Reader, planned: list[_Planned], report: PairsReport
) -> None:
    meta: list[dict[str, Any]] = []
    with (
        hdf5_output(path) as output,
        h5py.File(output, "w", libver=("v110", "v110"), track_order=False) as file,
    ):
        group = file.create_group("features")
        folders, names = Folders(group), tutorial_names(each.video.uid for each in planned)
        embeddings = file.create_dataset("embedding", (report.tally.narrations, layout.text_dim), np.float32)
        for each in planned:
            output.check()
            _, clips = reader.clips(each.video)
            where, name = folders.place(names[each.video.uid])
            where.create_dataset(name, data=clips, track_times=False)
            there, texts = reader.texts(each.video, each.rows)
            embeddings[len(meta) : len(meta) + len(there)] = texts
            for number in there:
                # The tutorial looks texts up by idx, so it counts over all of them.
                meta.append(_meta(each.video.uid, each.pairs[number]) | {"idx": len(meta)})
        _finish_hdf5(file, meta, _with_lost(report, len(meta)))


def tutorial_names(uids: Iterable[str]) -> dict[str, str]:
    """Return the name of each video's dataset: its uid, or all escaped if one is also a folder of another."""
    found = list(uids)
    name = readable if folder_clash(pl.Series(found, dtype=pl.String)) is None else escape
    return {uid: name(uid) for uid in found}


def _meta(uid: str, pair: Pair) -> dict[str, Any]:
    """Return what the tutorial stores of a narration."""
    narration = pair.narration
    return {"uid": uid, "txt": narration.text, "ts": narration.start_s, "idx": narration.idx, "pass": narration.pass_}


def _finish_hdf5(file: h5py.File, meta: list[dict[str, Any]], report: PairsReport) -> None:
    text = json.dumps(meta, separators=(",", ":")).encode()
    file.create_dataset("meta", data=np.frombuffer(text, np.uint8), track_times=False)
    file.attrs["pairs"] = len(meta)
    file.attrs[REPORT] = np.bytes_(report.to_json().encode())


def read_report(objects: ObjectStore, task: PairsTask) -> PairsReport:
    """Return the report in a finished file."""
    with objects.local_copy(task.path) as local:
        if local.suffix == ".parquet":
            return PairsReport.from_json(pq.read_metadata(local).metadata[REPORT.encode()].decode())
        with h5py.File(local, "r") as file:
            return PairsReport.from_json(bytes(file.attrs[REPORT]).decode())
