"""Elements of a bundle in batches: their samples are encoded together, each row keeps its element's timestamp.

Rows are emitted while a batch is processed, never in ``finish_bundle``: Beam loses what a ``finish_bundle`` emits when
the next step takes batches, as ``WriteToParquet`` does for rows with a schema (Beam 2.77, ``DoOperation.finish``).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from cliploom.schemas.errors import CliploomError, ItemError
from cliploom.schemas.faults import machine_fault
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.media import Sampled
from cliploom.schemas.records import MAX_ORDINAL, ORDINAL_BITS, Duplicate, ShardItem
from cliploom.transforms.beam.model import ModelRef
from cliploom.transforms.beam.rows import FAILURES, Failure
from cliploom.transforms.store.part_builder import BatchEncoder, ItemCount, PartBuilder, Timings
from cliploom.transforms.store.parts import FeatureRow
from cliploom.transforms.work.counters import count
from cliploom.transforms.work.models import SampleEncoder, SentenceEncoder


@dataclass(frozen=True)
class Origin:
    """The element that rows are made from.

    Attributes:
        value: the element.
        timestamp: of the element.
        window: of the element.
    """

    value: Any
    timestamp: Timestamp
    window: BoundedWindow

    def windowed(self, value: object) -> WindowedValue:
        """Return a value with the element's timestamp and window."""
        return WindowedValue(value, self.timestamp, (self.window,))


class Batch:
    """Elements of one bundle that are encoded together."""

    def __init__(self, origins: list[Origin]) -> None:
        self.origins = origins


class BatchCoder(beam.coders.Coder):  # type: ignore[misc]
    """Batches as bytes, for runners that put the next step elsewhere, and their size, which Beam samples."""

    def encode(self, value: Batch) -> bytes:
        """Return a batch as bytes."""
        return pickle.dumps(value.origins, protocol=pickle.HIGHEST_PROTOCOL)

    def decode(self, encoded: bytes) -> Batch:
        """Return the batch of ``encode``."""
        return Batch(pickle.loads(encoded))  # noqa: S301 - the bytes are of this pipeline's own workers

    def estimate_size(self, value: Batch) -> int:
        """Return about how many bytes a batch has; without this Beam would encode it to find out."""
        return sum(_OVERHEAD + len(getattr(origin.value, "pixels", b"")) for origin in value.origins)

    def is_deterministic(self) -> bool:
        """Return False: batches are not used as keys."""
        return False


beam.coders.registry.register_coder(Batch, BatchCoder)
_OVERHEAD = 100


class Gather(beam.PTransform[beam.PCollection[Any], beam.PCollection[Batch]]):  # type: ignore[misc]
    """Put the elements of a bundle into batches.

    Args:
        most: elements in a batch at most.
        value: what is kept of an element.
    """

    def __init__(self, most: int, value: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self._most, self._value = most, value

    def expand(self, pcoll: beam.PCollection[Any]) -> beam.PCollection[Batch]:
        """Add the step; the next one runs in the same process."""
        return pcoll | "Gather" >> beam.ParDo(_GatherFn(self._most, self._value)).with_output_types(Batch)


class _GatherFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, most: int, value: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self._most, self._value = most, value
        self._pending: list[Origin] = []

    def start_bundle(self) -> None:
        """Start with nothing: an attempt that failed may have left something behind."""
        self._pending = []

    def process(
        self,
        element: Any,
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        window: BoundedWindow = beam.DoFn.WindowParam,
    ) -> Iterator[Batch]:
        """Yield a batch when it is full."""
        value = element if self._value is None else self._value(element)
        self._pending.append(Origin(value, timestamp, window))
        if len(self._pending) >= self._most:
            pending, self._pending = self._pending, []
            yield Batch(pending)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yield the rest."""
        pending, self._pending = self._pending, []
        if pending:
            yield pending[-1].windowed(Batch(pending))


class BatchRows:
    """Encodes the samples of one batch of elements, and collects rows and failures.

    Args:
        job: outputs, sampling and encoder.
        encoder: gives the vectors.
        to_row: makes the emitted row from its element and the row with vectors.
    """

    def __init__(self, job: FeatureJob, encoder: BatchEncoder, to_row: Callable[[Any, FeatureRow], beam.Row]) -> None:
        self.rows = 0
        self.timings = Timings()
        self._to_row = to_row
        self._origins: dict[int, Origin] = {}
        self._items = 0
        self._made: list[object] = []
        self._builder = PartBuilder(job, encoder, self, self.timings, self._ended)

    def begin(self, origin: Origin, uri: str, uid: str) -> ItemCount:
        """Return the count of a new element; ``end`` ends it.

        Args:
            origin: the element.
            uri: of its file; empty for texts.
            uid: that names it in failures.
        """
        number, self._items = self._items, self._items + 1
        self._origins[number] = origin
        return new_item(uri, uid, number)

    def add(self, item: ItemCount, sampled: Sampled) -> Iterator[Any]:
        """Take a sample, and yield what became ready."""
        self._builder.add(item, sampled)
        yield from self._take()

    def end(self, item: ItemCount) -> None:
        """Say that the element has no more samples."""
        self._builder.end_item(item)

    def finish(self) -> Iterator[Any]:
        """Encode what is pending, count, and yield the rest."""
        self._builder.flush()
        count("items_done", self._items)
        count("rows", self.rows)
        count("encode_ms", int(self.timings.encode_s * 1000))
        for name in ("frames_decoded", "rows_repeated"):
            if getattr(self.timings, name):
                count(name, getattr(self.timings, name))
        yield from self._take()

    def write(self, row: FeatureRow) -> None:
        """Take a row of the ``PartBuilder``."""
        origin = self._origins[row.row_id >> ORDINAL_BITS]
        self._made.append(origin.windowed(self._to_row(origin.value, row)))
        self.rows += 1

    def write_table(self, rows: pa.Table) -> None:
        """Refuse rows that come as tables; no encoder gives such."""
        raise TypeError(f"{rows.num_rows} rows came as a table")

    def _take(self) -> Iterator[Any]:
        made, self._made = self._made, []
        yield from made

    def _ended(self, item: ShardItem, rows: int) -> None:
        origin = self._origins.pop(item.duplicates[0].item_no)
        for failure in self._builder.take_failures():
            count(f"failed_{failure.type}", 1)
            row = Failure(**{name: getattr(failure, name) for name in Failure._fields})
            self._made.append(beam.pvalue.TaggedOutput(FAILURES, origin.windowed(row)))


class EncodeFn(beam.DoFn):  # type: ignore[misc]
    """Base of the steps that encode: batches in, rows and failures out. A process opens its model once.

    Args:
        model: prepared encoder.
        to_row: makes the emitted row from its element and the row with vectors.
    """

    def __init__(self, model: ModelRef, to_row: Callable[[Any, FeatureRow], beam.Row]) -> None:
        super().__init__()
        self._model, self._to_row = model, to_row
        self._encoder: SampleEncoder | SentenceEncoder | None = None

    def setup(self) -> None:
        """Open the model, or share what another thread of the process opened."""
        self._encoder = self._model.open()

    def process(self, batch: Batch) -> Iterator[Any]:
        """Encode the elements of a batch."""
        assert self._encoder is not None  # noqa: S101 - Beam calls setup first
        rows = BatchRows(self._model.job, self._encoder, self._to_row)
        for origin in batch.origins:
            yield from self.read(rows, origin)
        yield from rows.finish()

    def read(self, rows: BatchRows, origin: Origin) -> Iterator[Any]:
        """Hand the samples of one element on, and yield what became ready."""
        raise NotImplementedError


def new_item(uri: str, uid: str, number: int = 0) -> ItemCount:
    """Return the empty count of an element; ``number`` is its place in the bundle."""
    return ItemCount(ShardItem(uri, "", "", "", (Duplicate(number, uid),)))


def ordinal_of(row: FeatureRow) -> int:
    """Return the number of a row in its file."""
    return row.row_id & MAX_ORDINAL


@contextmanager
def item_errors(item: ItemCount) -> Iterator[None]:
    """Keep an error of the block as the item's failure; errors of the machine or the pipeline pass.

    Raises:
        CliploomError: for a full disk, too few open files, or a mistake in the pipeline itself.
    """
    try:
        yield
    except ItemError as error:
        item.error = item.error or error
    except MemoryError:
        item.error = item.error or ItemError("read", "out of memory", transient=True)
    except CliploomError:
        raise
    except Exception as error:
        fault = machine_fault(error)
        if fault is not None:
            raise fault from error
        # Whatever a damaged file does to its reader is a failure of that file, not of the pipeline.
        item.error = item.error or ItemError("read", f"{type(error).__name__}: {error}")
