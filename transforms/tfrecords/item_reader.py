"""TFRecord shards for parts: records are read once and handed on as whole Arrow tables, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cliploom.schemas.errors import DamagedError, ItemError
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.records import MAX_ORDINAL, ShardItem, row_id
from cliploom.schemas.tables import RECORD_LABELS, feature_schema
from cliploom.schemas.tfrecords import BadRecord, ExampleField, ExampleRecord, Yt8mFrames, Yt8mVideo
from cliploom.transforms.inputs.spool import open_input
from cliploom.transforms.store import quantize
from cliploom.transforms.store.part_builder import ItemCount, PartBuilder, Timings
from cliploom.transforms.store.parts import codes_to_arrow, vectors_to_arrow
from cliploom.transforms.tfrecords.example import read_examples
from cliploom.transforms.tfrecords.framing import Readable
from cliploom.transforms.tfrecords.settings import ShardSettings
from cliploom.transforms.tfrecords.yt8m import Yt8mFormat, read_frames, read_videos

TABLE_BYTES = 8 << 20
MOST_FAILURES = 100
"""Failure rows of one shard; a shard of another format would give one for each record."""

Vectors = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RecordRows:
    """The rows of one record.

    Attributes:
        vectors: by output, [N, D], 8-bit codes or numbers; N is the same for all.
        labels: (class index, start, end, score); what the record doesn't say is None.
        timed: rows are a second each; else there is one row for the whole.
        texts: by column; each row has them.
    """

    uid: str
    vectors: dict[str, Vectors]
    labels: tuple[tuple[int | None, float | None, float | None, float | None], ...]
    timed: bool
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """N."""
        return len(next(iter(self.vectors.values())))

    @property
    def nbytes(self) -> int:
        """The bytes of the vectors."""
        return sum(vectors.nbytes for vectors in self.vectors.values())


def read_tfrecord_item(
    item: ShardItem, builders: Sequence[PartBuilder], counts: list[ItemCount], timings: Timings
) -> None:
    """Read one shard and hand its rows to the features that want them; see ``SourceKind.read``.

    A shard without records gives no rows.

    Raises:
        ItemError: the shard has more rows than can be numbered.
    """
    settings = ShardSettings.from_json(builders[0].job.settings)
    first, lost = 0, 0
    with open_input(item.uri, item.signature, "read") as path, path.open("rb") as stream:
        for found in chunked(read_rows_of(stream, item.uri, settings)):
            if isinstance(found, BadRecord):
                lost += 1
                if lost <= MOST_FAILURES:
                    for count in counts:
                        count.losses.append(DamagedError("read", str(found)))
                continue
            rows = sum(record.rows for record in found)
            if first + rows > MAX_ORDINAL + 1:
                raise ItemError("read", f"{item.uri} has more than {MAX_ORDINAL + 1} rows; cut it into smaller shards")
            for builder, count in zip(builders, counts, strict=True):
                builder.add_table(count, table_of(found, builder.job, item, first))
            first += rows
    for count in counts:
        count.planned = count.rows
        if lost > MOST_FAILURES:
            count.losses.append(DamagedError("read", f"{item.uri}: {lost - MOST_FAILURES} more records are lost"))


def read_rows_of(stream: Readable, file: str, settings: ShardSettings) -> Iterator[RecordRows | BadRecord]:
    """Yield the records of a shard as rows, in order; invalid ones as ``BadRecord``."""
    for record in _records(stream, file, settings):
        if isinstance(record, BadRecord):
            yield record
            continue
        rows = _rows_of(record, settings)
        unkept = next((name for name in settings.compact if rows.vectors[name].dtype != np.uint8), None)
        if unkept is None:
            yield rows
        else:
            yield BadRecord(file, record.offset, f"{unkept} holds floats, not 8-bit codes: quantized: decode reads it")


def _records(
    stream: Readable, file: str, settings: ShardSettings
) -> Iterator[Yt8mVideo | Yt8mFrames | ExampleRecord | BadRecord]:
    if settings.format == "example":
        schema = {name: ExampleField(each.type, (each.width,)) for name, each in settings.fields.items()}
        if settings.labels:
            schema[settings.labels] = ExampleField("int64", (-1,), optional=True)
        return read_examples(stream, file, schema, id_field=settings.id)
    form = Yt8mFormat(settings.rgb, settings.audio, settings.names or None)
    if settings.format == "yt8m_video":
        return read_videos(stream, file, form)
    return read_frames(stream, file, form, segments=settings.format == "yt8m_segment")


def _rows_of(record: Yt8mVideo | Yt8mFrames | ExampleRecord, settings: ShardSettings) -> RecordRows:
    if isinstance(record, ExampleRecord):
        vectors = {name: _one_row(record.values[name]) for name in settings.outputs}
        texts = {name: str(record.values[name]) for name in settings.texts}
        given = record.values.get(settings.labels, ()) if settings.labels else ()
        return RecordRows(record.id, vectors, _each_once(np.asarray(given).flat), timed=False, texts=texts)
    whole = _each_once(record.labels)
    named: dict[str, Vectors] = {}
    if isinstance(record, Yt8mVideo):
        named["rgb"] = _one_row(record.rgb)
        if record.audio is not None:
            named["audio"] = _one_row(record.audio)
        return RecordRows(record.id, named, whole, timed=False)
    named["rgb"] = record.rgb
    if record.audio is not None:
        named["audio"] = record.audio
    rated = tuple(
        dict.fromkeys((each.label, float(each.start_s), float(each.end_s), each.score) for each in record.segments)
    )
    return RecordRows(record.id, named, whole + rated, timed=True)


def _each_once(labels: Iterable[int]) -> tuple[tuple[int, None, None, None], ...]:
    """Return the labels of a whole record without duplicates."""
    return tuple((label, None, None, None) for label in dict.fromkeys(int(label) for label in labels))


def _one_row(values: object) -> Vectors:
    """Return float32 or uint8 [D] as [1, D]."""
    vector = np.asarray(values)
    return vector.view(np.uint8)[None] if vector.dtype == np.uint8 else vector.astype(np.float32, copy=False)[None]


def chunked(records: Iterable[RecordRows | BadRecord]) -> Iterator[list[RecordRows] | BadRecord]:
    """Yield the records in lists of about 8 MB."""
    pending: list[RecordRows] = []
    filled = 0
    for record in records:
        if isinstance(record, BadRecord):
            yield record
            continue
        pending.append(record)
        filled += record.nbytes
        if filled >= TABLE_BYTES:
            yield pending
            pending, filled = [], 0
    if pending:
        yield pending


def table_of(records: Sequence[RecordRows], job: FeatureJob, item: ShardItem, first: int) -> pa.Table:
    """Return the feature rows of some records.

    Args:
        records: the records, in the shard's order.
        job: the job, which has the outputs to write and their types.
        item: the item of the shard.
        first: the ordinal of the first row.
    """
    lengths = [record.rows for record in records]
    count = sum(lengths)
    start = row_id(item.duplicates[0].item_no, first)
    whose = pa.array(np.repeat(np.arange(len(records)), lengths))
    uids = pa.array([record.uid for record in records]).take(whose)
    frames = np.concatenate([np.arange(length) for length in lengths])
    timed = np.repeat([record.timed for record in records], lengths)
    columns: list[pa.Array | pa.ChunkedArray] = [
        pa.array(np.arange(start, start + count)),
        uids,
        pa.array(frames.astype(np.float64)),
        pa.array(frames + 1.0, mask=~timed),
        pa.array(frames),
        pa.array([item.digest]).take(pa.array(np.zeros(count, np.int8))),
    ]
    columns += [_column([record.vectors[name] for record in records], name in job.compact) for name in job.outputs]
    columns += [pa.array([record.texts[name] for record in records], pa.string()).take(whose) for name in job.texts]
    columns.append(_labels(records, lengths))
    return pa.table(columns, schema=feature_schema(job.outputs, job.compact, job.texts, records=True))


def _column(blocks: Sequence[Vectors], compact: bool) -> pa.Array | pa.ChunkedArray:
    if compact:
        # One chunk per record: joining them would copy every byte again.
        return pa.chunked_array([codes_to_arrow(block.view(np.uint8)) for block in blocks], pa.binary())
    ends = np.cumsum([len(block) for block in blocks]).tolist()
    values = np.empty((ends[-1], blocks[0].shape[1]), np.float32)
    for begin, end, block in zip([0, *ends], ends, blocks, strict=False):
        if block.dtype == np.uint8:
            quantize.decode(block.view(np.uint8), values[begin:end])
        else:
            values[begin:end] = block
    return vectors_to_arrow(values)


def _labels(records: Sequence[RecordRows], lengths: Sequence[int]) -> pa.Array:
    """Return the column ``labels``, with all of a record's labels on its first row."""
    held = np.zeros(sum(lengths), np.int32)
    held[np.cumsum([0, *lengths[:-1]])] = [len(record.labels) for record in records]
    offsets = np.concatenate(([0], np.cumsum(held))).astype(np.int32)
    entries = [label for record in records for label in record.labels]
    kind = RECORD_LABELS.value_type
    parts = [pa.array([entry[number] for entry in entries], field.type) for number, field in enumerate(kind)]
    values = pa.StructArray.from_arrays(parts, fields=list(kind))
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=RECORD_LABELS)
