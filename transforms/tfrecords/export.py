"""TFRecord exports: records in YouTube-8M's formats, assigned to shards by the hash of their ids.

There are two rounds. First each part of the feature becomes a *piece*: its records, serialised and grouped by shard.
Then each shard gathers its records from all pieces and writes them ordered by id, so that the same rows give the same
bytes however they were stored. Memory: 64 MB per piece, one shard's records in the second round.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from cliploom.schemas.digests import SHORT, digest_bytes, digest_of
from cliploom.schemas.errors import SpecError, StoreError, nearest
from cliploom.schemas.exports import PcaSpec, TfrecordExport
from cliploom.schemas.plan import RunPlan
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.schemas.release import ExportEntry, Release
from cliploom.schemas.tfrecords import RatedSegment, Yt8mFrames, Yt8mVideo
from cliploom.transforms.exports.base import Exporter, entries_of, feature_contents, groups_of_parts
from cliploom.transforms.store import quantize
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import arrow_to_vectors, binary_codes, part_path, read_rows
from cliploom.transforms.store.releases import file_entry
from cliploom.transforms.store.tables import read_table
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.pca import Pca, load_pca, save_pca
from cliploom.transforms.tfrecords.write import encode_frames, encode_video, shard_name, shard_of

MOST_FRAMES = 300
BLOCK_BYTES = 64 << 20
REVISION = 1
_TAIL = 8


@dataclass(frozen=True)
class RecordLayout:
    """The format of an export's records.

    Attributes:
        audio: the output to write as ``audio``, or empty.
        records: whether rows have labels of their own.
        labels: otherwise, the version of the table ``labels`` that has them; None if there is none.
        pca: the path of the PCA matrices in the store, or empty.
    """

    format: str
    rgb: str
    rgb_dim: int
    audio: str
    audio_dim: int
    shards: int
    source: str
    records: bool
    labels: int | None
    pca: str = ""


@dataclass(frozen=True)
class PieceTask:
    """The records of some parts, grouped by shard; no other part has rows of these items."""

    folder: str
    table: str
    parts: tuple[str, ...]
    layout: RecordLayout

    @property
    def path(self) -> str:
        """The path of the file, relative to the store."""
        return f"{self.folder}/piece-{digest_of([self.table, self.parts])}"

    def write(self, objects: ObjectStore) -> None:
        """Write the piece: blocks of records, then the positions of each shard's records."""
        records = records_of(objects, self)
        with objects.create_file(self.path) as local:
            write_piece(local, records, self.layout.shards)


@dataclass(frozen=True)
class ShardTask:
    """One shard, gathered from all pieces."""

    folder: str
    name: str
    pieces: tuple[str, ...]
    number: int
    shards: int
    gzip: bool

    @property
    def path(self) -> str:
        """The path of the file, relative to the store."""
        return f"{self.folder}/{shard_name(self.name, self.number, self.shards, gzip=self.gzip)}"

    def write(self, objects: ObjectStore) -> None:
        """Gather the records and write them."""
        records: list[tuple[str, bytes]] = []
        for piece in self.pieces:
            with objects.local_copy(piece) as local:
                records += read_piece(local, self.number)
        records.sort()
        with objects.create_file(self.path) as local, local.open("wb") as stream:
            write_records(stream, (data for _, data in records), gzip=self.gzip)


def write_piece(path: Path, records: Iterator[tuple[str, bytes]], shards: int, block_bytes: int = BLOCK_BYTES) -> None:
    """Write records grouped by shard: blocks of payloads, then their index as JSON, then its length in 8 bytes.

    Args:
        path: the path of the piece.
        records: pairs (id, payload).
        shards: the number of shards of the export.
        block_bytes: the number of bytes to collect before writing them.
    """
    index: dict[int, list[tuple[int, list[tuple[str, int]]]]] = {}
    held: dict[int, list[tuple[str, bytes]]] = {}
    filled = 0
    with path.open("wb") as stream:

        def flush() -> None:
            for shard, block in sorted(held.items()):
                sizes = [(uid, len(data)) for uid, data in block]
                index.setdefault(shard, []).append((stream.tell(), sizes))
                stream.writelines(data for _, data in block)
            held.clear()

        for uid, data in records:
            held.setdefault(shard_of(uid, shards), []).append((uid, data))
            filled += len(data)
            if filled >= block_bytes:
                flush()
                filled = 0
        flush()
        tail = json.dumps(index, separators=(",", ":")).encode()
        stream.write(tail + len(tail).to_bytes(_TAIL, "little"))


def read_piece(path: Path, shard: int) -> Iterator[tuple[str, bytes]]:
    """Yield (id, payload) of one shard's records in a piece."""
    with path.open("rb") as stream:
        end = stream.seek(-_TAIL, 2)
        size = int.from_bytes(stream.read(_TAIL), "little")
        stream.seek(end - size)
        index: dict[str, Any] = json.loads(stream.read(size))
        for start, sizes in index.get(str(shard), ()):
            stream.seek(start)
            for uid, length in sizes:
                yield uid, stream.read(length)


def records_of(objects: ObjectStore, task: PieceTask) -> Iterator[tuple[str, bytes]]:
    """Yield (id, payload) of the records in the task's parts."""
    layout = task.layout
    given = {} if layout.records or layout.labels is None else labels_of(objects, layout, layout.labels)
    pca = None
    if layout.pca:
        with objects.local_copy(layout.pca) as local:
            pca = load_pca(local)
    for rows in _record_tables(objects, task):
        uid = str(rows["uid"][0].as_py())
        try:
            yield uid, encode(rows, uid, layout, own_labels(rows) if layout.records else given.get(uid, []), pca)
        except ValueError as error:
            raise StoreError(f"{task.table}: {uid!r} can't be exported: {error}.") from None


def labels_of(objects: ObjectStore, layout: RecordLayout, version: int) -> dict[str, list[dict[str, Any]]]:
    """Return the labels of the source's items by uid from the table ``labels``, without predictions of heads."""
    known = pl.col("origin").is_in(["given", "rated"]) & pl.col("label").is_not_null()
    mine = read_table(objects, "labels", version, known & (pl.col("source") == layout.source)).sort("uid", "label")
    found: dict[str, list[dict[str, Any]]] = {}
    for row in mine.select("uid", "label", "start_s", "end_s", "score").iter_rows(named=True):
        found.setdefault(row.pop("uid"), []).append(row)
    return found


def own_labels(rows: pa.Table) -> list[dict[str, Any]]:
    """Return the labels of the record that the rows belong to."""
    first: list[dict[str, Any]] = rows["labels"][0].as_py() or []
    return [label for number, label in enumerate(first) if label not in first[:number]]


def encode(
    rows: pa.Table, uid: str, layout: RecordLayout, labels: Sequence[dict[str, Any]], pca: Pca | None = None
) -> bytes:
    """Return the payload of one record.

    Raises:
        ValueError: a vector is not finite, or the PCA is for vectors of another length.
    """
    whole = tuple(int(label["label"]) for label in labels if label["start_s"] is None)
    rows = rows.slice(0, MOST_FRAMES) if layout.format == "yt8m_frame" else rows
    if layout.format == "yt8m_video":
        vectors = arrow_to_vectors(rows[layout.rgb], layout.rgb_dim)
        rgb = (vectors if pca is None else pca.apply(vectors)).mean(axis=0)
        audio = arrow_to_vectors(rows[layout.audio], layout.audio_dim).mean(axis=0) if layout.audio else None
        return encode_video(Yt8mVideo(uid, whole, rgb, audio))
    segments = tuple(
        RatedSegment(int(label["start_s"]), int(label["end_s"]), label["label"], label["score"])
        for label in labels
        if label["start_s"] is not None
    )
    audio_codes = _codes(rows[layout.audio], layout.audio_dim) if layout.audio else None
    codes = _codes(rows[layout.rgb], layout.rgb_dim, pca)
    return encode_frames(Yt8mFrames(uid, whole, codes, audio_codes, segments))


def _codes(column: pa.ChunkedArray, dim: int, pca: Pca | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a column as 8-bit codes [N, dim]; quantise it unless it has codes already."""
    if pca is not None:
        return quantize.encode(pca.apply(arrow_to_vectors(column, dim)))
    if not pa.types.is_binary(column.type):
        return quantize.encode(arrow_to_vectors(column, dim))
    return np.concatenate([binary_codes(chunk) for chunk in column.chunks]).reshape(-1, dim)


def _record_tables(objects: ObjectStore, task: PieceTask) -> Iterator[pa.Table]:
    """Yield the rows of each record, ordered by ordinal; keeps at most one row group and one record in memory."""
    layout = task.layout
    columns = ["row_id", "uid", layout.rgb, *([layout.audio] if layout.audio else [])]
    columns += ["labels"] if layout.records else []
    if len(task.parts) == 1:
        with objects.local_copy(part_path(task.table, task.parts[0])) as local:
            yield from _runs(read_rows(local, columns))
        return
    tables = []
    for part in task.parts:
        with objects.local_copy(part_path(task.table, part)) as local:
            tables += list(read_rows(local, columns))
    yield from _runs(iter([pa.concat_tables(tables).sort_by("row_id").combine_chunks()]))


def _runs(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Split where the item or the uid changes; join runs that cross tables."""
    rest: pa.Table | None = None
    for table in tables:
        rows = table if rest is None else pa.concat_tables([rest, table])
        items = rows["row_id"].to_numpy() >> ORDINAL_BITS
        uids = pl.Series(rows["uid"]).rle_id().to_numpy()
        starts = np.flatnonzero(np.diff(uids, prepend=-1).astype(bool) | np.diff(items, prepend=-1).astype(bool))
        for start, end in pairwise(starts):
            yield rows.slice(start, end - start)
        rest = rows.slice(starts[-1]) if len(starts) else None
    if rest is not None:
        yield rest


class TfrecordExporter(Exporter):
    """The exporter of TFRecords; see ``cliploom.transforms.exports.base``."""

    def __init__(self, plan: RunPlan, draft: Release, objects: ObjectStore, name: str, export: TfrecordExport) -> None:
        self._objects, self._name, self._export, self._base = objects, name, export, plan.base
        feature, job = draft.features[export.feature], plan.feature(export.feature)
        dims = {output: entry.dim for output, entry in feature.outputs.items()}
        rgb, audio = chosen_outputs(name, export, tuple(dims))
        layout = RecordLayout(
            format=export.format,
            rgb=rgb,
            rgb_dim=dims[rgb],
            audio=audio,
            audio_dim=dims[audio] if audio else 0,
            shards=export.shards,
            source=job.source,
            records=job.records,
            labels=None if job.records else draft.tables.get("labels"),
            pca=export.pca.path if export.pca else "",
        )
        contents = feature_contents(objects, draft, export.feature)
        groups = groups_of_parts(contents.select("part", "item_no"))
        values = [REVISION, vars(layout), export.gzip, feature.table, groups]
        self._recipe = digest_of(values)
        folder = f"tfrecords/{name}/{self._recipe[:SHORT]}"
        self._pieces = [PieceTask(f"{folder}/pieces", feature.table, parts, layout) for parts in groups]
        paths = tuple(task.path for task in self._pieces)
        shards = range(export.shards)
        self._files = [ShardTask(folder, name, paths, shard, export.shards, export.gzip) for shard in shards]

    @property
    def recipe(self) -> str:
        """Return the digest of layout and parts."""
        return self._recipe

    def parts(self) -> list[PieceTask]:
        """Return one for each group of feature parts that share items."""
        return self._pieces

    def files(self) -> list[ShardTask]:
        """Return the shards."""
        return self._files

    def finish(self) -> ExportEntry:
        """List the shards; pieces are no longer needed."""
        objects = self._objects
        entries = entries_of(objects, [task.path for task in self._files], self._base, self._name)
        if self._export.pca is not None:
            entries.append(file_entry(objects, self._export.pca.path))
        objects.delete(task.path for task in self._pieces)
        return ExportEntry(kind=self._export.kind, feature=self._export.feature, recipe=self._recipe, files=entries)


def with_stored_matrices(export: TfrecordExport, base: Path, objects: ObjectStore, name: str) -> TfrecordExport:
    """Return the export with its PCA matrices stored under their digest in the store, where workers can read them.

    Raises:
        SpecError: they cannot be read or do not match each other.
    """
    if export.pca is None:
        return export
    path = (base / Path(export.pca.path).expanduser()).absolute()
    if not path.exists():
        raise SpecError(f"exports.{name}.pca.path: there is no file or folder {str(path)!r}.")
    pca = load_pca(path, components=export.pca.components, rows=export.pca.rows)
    digest = digest_of([digest_bytes(array.tobytes()) for array in (pca.mean, pca.vectors, pca.values)])
    buffer = io.BytesIO()
    save_pca(buffer, pca)
    kept = f"tfrecords/{name}/pca-{digest}.npz"
    objects.put_new(kept, buffer.getvalue())
    return export.model_copy(update={"pca": PcaSpec(path=kept)})


def chosen_outputs(name: str, export: TfrecordExport, outputs: Sequence[str]) -> tuple[str, str]:
    """Return the outputs to write as ``rgb`` and ``audio`` (empty for none).

    >>> chosen_outputs("out", TfrecordExport(kind="tfrecord", feature="f", format="yt8m_frame"), ["pooled"])
    ('pooled', '')

    Raises:
        SpecError: the choice is ambiguous, or the feature does not have a named output.
    """
    rgb = export.rgb or ("rgb" if "rgb" in outputs else outputs[0] if len(outputs) == 1 else None)
    if rgb is None:
        raise SpecError(
            f"exports.{name}.rgb is missing; feature {export.feature!r} has {', '.join(outputs)}: name one."
        )
    audio = export.audio or ("audio" if "audio" in outputs and rgb != "audio" else "")
    for key, output in (("rgb", rgb), ("audio", audio)):
        if output and output not in outputs:
            raise SpecError(
                f"exports.{name}.{key}: feature {export.feature!r} has no output {output!r}{nearest(output, outputs)}"
            )
    return rgb, audio
