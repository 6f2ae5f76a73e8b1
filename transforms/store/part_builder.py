"""Builds the rows of a part from samples: batches them, encodes, writes, counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cliploom.schemas.errors import DamagedError, EncodeError, ItemError, NoVideoError
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.media import Sampled
from cliploom.schemas.records import ORDINAL_BITS, Content, Duplicate, Failure, PartRecord, ShardItem, row_id
from cliploom.transforms.store.encoded import WrongResultsError, as_results, checked_vectors
from cliploom.transforms.store.parts import FeatureRow, Vectors
from cliploom.transforms.store.repeats import RepeatFilter
from cliploom.transforms.watchdog import alive

Sample = NDArray[np.uint8] | str
"""An input of an encoder: a picture, a clip or a text."""

_NO_PIXELS = np.empty(0, np.uint8)


class BatchEncoder(Protocol):
    """The encoder interface for shards, such as ``models.SampleEncoder``; ``batch`` is the preferred batch size."""

    @property
    def batch(self) -> int:
        """The number of samples passed to ``encode`` at once."""
        ...

    def encode(self, samples: Sequence[Sample]) -> Sequence[Vectors | EncodeError]:
        """Return one row of vectors, or one error, for each sample."""
        ...


class RowWriter(Protocol):
    """What takes the rows of a ``PartBuilder``, such as ``PartWriter``."""

    rows: int

    def write(self, row: FeatureRow) -> None:
        """Take one row."""
        ...

    def write_table(self, rows: pa.Table) -> None:
        """Take rows that need no encoder."""
        ...


@dataclass
class Timings:
    """Seconds by stage, and counts, summed over a shard."""

    decode_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0
    frames_decoded: int = 0
    rows_repeated: int = 0

    def figures(self) -> dict[str, int]:
        """Return whole milliseconds by stage and the decoded frames, by the names of Beam's counters."""
        seconds = {"decode_ms": self.decode_s, "encode_ms": self.encode_s, "write_ms": self.write_s}
        return {name: int(value * 1000) for name, value in seconds.items()} | {"frames_decoded": self.frames_decoded}


@dataclass
class ItemCount:
    """The counters of one item in one part, updated while its samples are processed.

    Attributes:
        kept: the rows to be copied for duplicates, without their pixels.
        tables: the same, for items whose rows are tables.
        losses: errors within the item, each a separate failure.
        repeated: the number of rows dropped as repeats of the last kept one.
        repeats: the detector of repeats.
    """

    item: ShardItem
    planned: int = 0
    rows: int = 0
    repeated: int = 0
    repeats: RepeatFilter | None = None
    lost: str = ""
    error: ItemError | None = None
    kept: list[tuple[Sampled, Vectors]] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)
    losses: list[ItemError] = field(default_factory=list)


class PartBuilder:
    """Builds the part of one feature: batches pixels, encodes them, writes rows, counts.

    Batches extend over several items, so that many small items fill them too; rows keep their order.

    Args:
        job: the job of the feature.
        encoder: the encoder, from pixels to one dict of vectors each; None if the source provides vectors.
        writer: the writer of the rows.
        timings: the timings to add to.
        on_end: a callback that receives the number of rows when all rows of an item are written.
        on_rows: a callback for written rows of an item: the item, the start of the last row in seconds, their number.
    """

    def __init__(
        self,
        job: FeatureJob,
        encoder: BatchEncoder | None,
        writer: RowWriter,
        timings: Timings,
        on_end: Callable[[ShardItem, int], None],
        on_rows: Callable[[ShardItem, float, int], None] = lambda item, start_s, rows: None,
    ) -> None:
        self.job = job
        self._encoder = encoder
        self._writer = writer
        self._timings = timings
        self._on_end = on_end
        self._on_rows = on_rows
        self._pending: list[tuple[ItemCount, Sampled | None]] = []
        self._pictures = 0
        self._contents: list[Content] = []
        self._failures: list[Failure] = []

    def add(self, count: ItemCount, sampled: Sampled) -> None:
        """Add one sample; encode when a batch is full."""
        alive()
        if self._repeats(count).drops_picture(sampled.pixels):
            count.repeated += 1
            self._on_rows(count.item, sampled.start_s or 0.0, 0)
            return
        self._pending.append((count, sampled))
        self._pictures += 1
        if self._encoder is None or self._pictures >= self._encoder.batch:
            self.flush()

    def add_table(self, count: ItemCount, rows: pa.Table) -> None:
        """Add rows of an item that need no encoder, with the row ids and uids of its first duplicate."""
        alive()
        self.flush()
        began = time.perf_counter()
        self._writer.write_table(rows)
        self._timings.write_s += time.perf_counter() - began
        count.rows += rows.num_rows
        self._on_rows(count.item, 0.0, rows.num_rows)
        if len(count.item.duplicates) > 1:
            count.tables.append(rows)

    def end_item(self, count: ItemCount) -> None:
        """Record that the item has no more samples."""
        self._pending.append((count, None))

    def flush(self) -> None:
        """Encode and write everything pending, and close the items that have ended."""
        pending, self._pending, self._pictures = self._pending, [], 0
        began = time.perf_counter()
        pixels = [sampled.pixels for _, sampled in pending if sampled is not None]
        results = iter(encode_each(self._encoder, pixels, self.job) if pixels and self._encoder else ())
        encoded = time.perf_counter()
        for count, sampled in pending:
            alive()
            if sampled is None:
                self._close(count)
            else:
                before = count.rows
                self._take(count, sampled, next(results))
                self._on_rows(count.item, sampled.start_s or 0.0, count.rows - before)
        self._timings.encode_s += encoded - began
        self._timings.write_s += time.perf_counter() - encoded

    def _repeats(self, count: ItemCount) -> RepeatFilter:
        if count.repeats is None:
            sampling = self.job.sampling
            count.repeats = RepeatFilter(sampling.repeats if sampling else None, min(self.job.outputs, default=""))
        return count.repeats

    def _take(self, count: ItemCount, sampled: Sampled, result: Vectors | EncodeError) -> None:
        if isinstance(result, EncodeError):
            count.error = count.error or result
            return
        if self._repeats(count).drops_vectors(result):
            count.repeated += 1
            return
        vectors = {name: result[name] for name in self.job.outputs}
        count.rows += 1
        self._write(count.item, 0, sampled, vectors)
        if len(count.item.duplicates) > 1:
            count.kept.append((replace(sampled, pixels=_NO_PIXELS), vectors))

    def _write(self, item: ShardItem, twin: int, sampled: Sampled, vectors: Vectors) -> None:
        whose = item.duplicates[twin]
        number = row_id(whose.item_no, sampled.ordinal)
        start_s, end_s, frame = sampled.start_s, sampled.end_s, sampled.frame
        self._writer.write(FeatureRow(number, whose.uid, start_s, end_s, frame, item.digest, vectors))

    def _close(self, count: ItemCount) -> None:
        item = count.item
        for twin in range(1, len(item.duplicates)):
            for sampled, vectors in count.kept:
                self._write(item, twin, sampled, vectors)
            for rows in count.tables:
                whose = item.duplicates[twin]
                self._writer.write_table(renamed(rows, whose.item_no, None if self.job.records else whose.uid))
        count.kept.clear()
        count.tables.clear()
        self._timings.rows_repeated += count.repeated
        error = count.error or lost_rows(count)
        errors = [*count.losses, *([error] if error is not None else [])]
        first = self._writer.rows - count.rows * len(item.duplicates)
        for number, whose in enumerate(item.duplicates):
            self._contents.append(
                Content(
                    item_no=whose.item_no,
                    uid=whose.uid,
                    digest=item.digest,
                    segment=item.segment.number,
                    segments=item.segment.of,
                    planned=count.planned,
                    rows=count.rows,
                    first_row=first + number * count.rows,
                )
            )
            self._failures += [failure_row(self.job, count, whose, each) for each in errors]
        self._on_end(item, count.rows * len(item.duplicates))

    def fail_item(self, item: ShardItem, error: ItemError) -> None:
        """Record that nothing of the item could be read."""
        count = ItemCount(item, error=error)
        self.end_item(count)

    def add_finished(self, item: ShardItem, record: PartRecord, tables: Iterable[pa.Table]) -> None:
        """Append rows that another process computed for one item."""
        self.flush()
        offset = self._writer.rows
        for table in tables:
            self._writer.write_table(table)
        self._contents += [replace(content, first_row=content.first_row + offset) for content in record.contents]
        self._failures += record.failures
        self._on_end(item, record.rows)

    def take_failures(self) -> list[Failure]:
        """Return the failures of the items that have ended, and forget these items; then ``finish`` has no record."""
        taken, self._failures = self._failures, []
        self._contents.clear()
        return taken

    def finish(self, part: str) -> PartRecord:
        """Write everything pending; size and digest are filled in when the file is closed."""
        self.flush()
        return PartRecord(
            feature=self.job.name,
            config=self.job.config,
            part=part,
            rows=self._writer.rows,
            size=0,
            digest="",
            contents=tuple(self._contents),
            failures=tuple(self._failures),
        )


def encode_each(encoder: BatchEncoder, batch: Sequence[Sample], job: FeatureJob) -> list[Vectors | EncodeError]:
    """Encode a batch; if that fails as a whole, encode one by one, so that only the culprit is lost.

    An invalid result is computed again in isolation: a single item may spoil an encoder's whole batch.
    """
    alive()
    try:
        results = as_results(encoder.encode(batch), len(batch))
        found = [checked_vectors(result, job.outputs, encoder_name(job)) for result in results]
        if len(batch) == 1:
            return found
        return [
            encode_each(encoder, [sample], job)[0] if isinstance(each, EncodeError) and each is not result else each
            for sample, result, each in zip(batch, results, found, strict=True)
        ]
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # The encoder may be third-party code; whatever it raises, even SystemExit, is recorded as the item's failure.
        if len(batch) == 1:
            transient = isinstance(error, MemoryError)
            return [EncodeError("encode", f"encoder {encoder_name(job)}: {_reason(error)}", transient=transient)]
    return [result for single in batch for result in encode_each(encoder, [single], job)]


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, SystemExit):
        return f"it tried to end the program (exit code {error.code!r})"
    if isinstance(error, WrongResultsError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def encoder_name(job: FeatureJob) -> str:
    """Return the encoder's kind, for messages."""
    return job.card.kind if job.card else job.kind


def lost_rows(count: ItemCount) -> ItemError | None:
    """Return a failure (partial if there are rows) if fewer rows than planned were made or the header promised more.

    Rows dropped as repeats are not lost.
    """
    if count.rows == 0 and count.planned:
        return NoVideoError("decode", count.lost or "no frame could be decoded")
    missing = count.planned - count.rows - count.repeated
    if missing or count.lost:
        return DamagedError("decode", count.lost or f"{missing} of {count.planned} samples could not be decoded")
    return None


def failure_row(job: FeatureJob, count: ItemCount, twin: Duplicate, error: ItemError) -> Failure:
    """Return the failure row of an item, or of its lost part."""
    return Failure(
        source=job.source,
        feature=job.name,
        uid=twin.uid,
        uri=count.item.uri,
        item_no=twin.item_no,
        digest=count.item.digest,
        config=job.config,
        attempts=count.item.tries + 1,
        **failure_facts(count, error),
    )


def failure_facts(count: ItemCount, error: ItemError) -> dict[str, Any]:
    """Return the fields of a failure that say what happened and how much of the item there is."""
    return {
        "stage": error.stage,
        "type": error.failure_type,
        "message": str(error),
        "transient": error.transient,
        "partial": count.rows > 0,
        "expected": count.planned,
        "got": count.rows,
    }


def renamed(rows: pa.Table, item_no: int, uid: str | None) -> pa.Table:
    """Return the rows as rows of another item; ordinals are kept.

    Args:
        rows: the feature rows of one item.
        item_no: the new item number.
        uid: the new uid; None if rows have uids of their own.
    """
    ordinals = pc.bit_wise_and(rows["row_id"], pa.scalar((1 << ORDINAL_BITS) - 1, pa.int64()))
    ids = pc.bit_wise_or(ordinals, pa.scalar(item_no << ORDINAL_BITS, pa.int64()))
    table = rows.set_column(0, rows.schema.field("row_id"), ids)
    if uid is None:
        return table
    uids = pa.array([uid] * rows.num_rows, pa.string())
    return table.set_column(1, rows.schema.field("uid"), uids)
