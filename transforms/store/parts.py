"""Parts: immutable Parquet files of feature rows, with a footer that describes the content.

The footer key ``cliploom`` has the JSON of a ``PartRecord`` without its size, and the run that wrote it. Vectors are
``list<float32>``, uncompressed (floats hardly compress, and decompression would dominate reading). The key
``cliploom.processors`` has the processors that computed the rows (JSON, a list of ``Processor``); older files lack it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliploom.schemas.digests import digest_part
from cliploom.schemas.errors import StoreError
from cliploom.schemas.records import PartRecord, Processor
from cliploom.schemas.tables import feature_schema
from cliploom.transforms.store import quantize
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.record_ids import ID_FOOTER, ItemIds, ids_of_rows, joined, pack_ids

FOOTER = b"cliploom"
PROCESSORS = b"cliploom.processors"
ROW_GROUP_BYTES = 8 << 20


Vectors = dict[str, NDArray[np.float32]]
"""The vectors of one row by output name, float32 [dim]."""


@dataclass(frozen=True)
class FeatureRow:
    """One row before it is written."""

    row_id: int
    uid: str
    start_s: float | None
    end_s: float | None
    frame: int
    item_digest: str
    vectors: Vectors


def part_path(table: str, part: str) -> str:
    """Return the path of a part in the store; ``part`` must be a plain file name.

    Raises:
        StoreError: the name would leave the folder.
    """
    if not table:
        return part
    if "/" in part or "\\" in part or part.startswith("."):
        raise StoreError(f"{part!r} is not the name of a part in {table}; the store is damaged.")
    return f"{table}/{part}"


class PartWriter:
    """Writes rows to a local Parquet file in row groups of about 8 MB.

    Args:
        path: the local file to write.
        outputs: maps output names to vector lengths.
        compact: the outputs stored as 8-bit codes; such rows are added as tables.
        texts: the text columns; such rows are added as tables, too.
        records: whether there is a column ``labels`` and the footer has hashes of the records' ids.
    """

    def __init__(
        self,
        path: Path,
        outputs: dict[str, int],
        compact: Collection[str] = (),
        texts: Collection[str] = (),
        *,
        records: bool = False,
    ) -> None:
        self.rows = 0
        self._path = path
        self._outputs = outputs
        self._schema = feature_schema(outputs, compact, texts, records=records)
        plain = [name for name in self._schema.names if name not in outputs]
        compression = dict.fromkeys(plain, "zstd")
        compression |= {name if name in compact else f"{name}.list.element": "none" for name in outputs}
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression=compression,
            use_dictionary=["uid", "item_digest", *texts],
            write_statistics=["row_id", "uid", "start_s"],
            # Rows are wide. Measured: 5 to 11% less time than with Arrow's default batches of 1024.
            write_batch_size=1 << 16,
            store_schema=False,
        )
        row_bytes = 64 + sum(dim if name in compact else 4 * dim for name, dim in outputs.items())
        self._group_rows = max(1, ROW_GROUP_BYTES // row_bytes)
        self._pending: list[FeatureRow] = []
        self._tables: list[pa.Table] = []
        self._waiting = 0
        self._detached = 0
        self._ids: list[ItemIds] | None = [] if records else None

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._writer.close()

    def write(self, row: FeatureRow) -> None:
        """Add one row."""
        self._pending.append(row)
        self.rows += 1
        if len(self._pending) >= self._group_rows:
            self._flush()

    def write_table(self, table: pa.Table) -> None:
        """Add rows as an Arrow table with the part's schema; small tables share a row group."""
        self._gather()
        self.rows += table.num_rows
        if table.num_rows:
            self._keep(table.cast(self._schema))
            if self._ids is not None:
                self._ids.append(ids_of_rows(table))
            if self._waiting >= self._group_rows:
                self._flush()

    def detach(self) -> None:
        """Copy the pending rows, so that the much larger tables that they are slices of can be freed."""
        new = self._tables[self._detached :]
        if new:
            table = pa.concat_tables(new)
            self._tables[self._detached :] = [table.take(pa.array(np.arange(table.num_rows)))]
        self._detached = len(self._tables)

    def finish(self, footer: dict[str, Any], processors: Iterable[Processor] = ()) -> None:
        """Write everything pending, the footer, and the processors."""
        self._flush(everything=True)
        more = {} if self._ids is None else {ID_FOOTER: pack_ids(joined(self._ids))}
        if told := [asdict(each) for each in processors]:
            more[PROCESSORS] = json.dumps(told).encode()
        self._writer.add_key_value_metadata({FOOTER: json.dumps(footer, separators=(",", ":"))} | more)

    def _flush(self, *, everything: bool = False) -> None:
        """Write complete row groups of the pending rows, or all of them."""
        self._gather()
        if not self._tables:
            return
        table = pa.concat_tables(self._tables)
        ready = table.num_rows if everything else table.num_rows // self._group_rows * self._group_rows
        self._put(table.slice(0, ready))
        self._tables, self._waiting, self._detached = [], 0, 0
        if ready < table.num_rows:
            self._keep(table.slice(ready))

    def _gather(self) -> None:
        """Convert the pending single rows to a table."""
        if not self._pending:
            return
        rows, self._pending = self._pending, []
        columns: list[pa.Array] = [
            pa.array([row.row_id for row in rows], pa.int64()),
            pa.array([row.uid for row in rows], pa.string()),
            pa.array([row.start_s for row in rows], pa.float64()),
            pa.array([row.end_s for row in rows], pa.float64()),
            pa.array([row.frame for row in rows], pa.int64()),
            pa.array([row.item_digest for row in rows], pa.string()),
        ]
        columns += [vectors_to_arrow(np.stack([row.vectors[name] for row in rows])) for name in self._outputs]
        self._keep(pa.table(columns, schema=self._schema))

    def _keep(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._waiting += table.num_rows

    def _put(self, table: pa.Table) -> None:
        try:
            self._writer.write_table(table, row_group_size=self._group_rows)
        except OSError as error:
            # Raised here, since the caller would attribute it to the item being read.
            raise StoreError(f"{self._path}: can't be written ({error}); check the disk and run again.") from None


def vectors_to_arrow(vectors: NDArray[np.float32]) -> pa.Array:
    """Return float32 [N, D] as a ``list<float32>`` array, without copying the values."""
    count, dim = vectors.shape
    offsets = pa.array(np.arange(0, (count + 1) * dim, dim, dtype=np.int32) if dim else np.zeros(count + 1, np.int32))
    values = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    kind = pa.list_(pa.field("element", pa.float32()))
    return pa.ListArray.from_arrays(offsets, values, type=kind)


def arrow_to_vectors(column: pa.ChunkedArray | pa.Array, dim: int) -> NDArray[np.float32]:
    """Return a ``list<float32>`` column, or one of 8-bit codes, as float32 [N, dim].

    Raises:
        StoreError: a list has another length.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    blocks = []
    for chunk in chunks:
        if pa.types.is_binary(chunk.type) or pa.types.is_large_binary(chunk.type):
            values = quantize.decode(binary_codes(chunk.cast(pa.binary())))
        else:
            values = chunk.flatten().to_numpy(zero_copy_only=False)
        if values.size != len(chunk) * dim:
            raise StoreError(f"a vector column of width {dim} has {values.size} values in {len(chunk)} rows.")
        blocks.append(values.reshape(len(chunk), dim))
    if not blocks:
        return np.empty((0, dim), np.float32)
    return np.concatenate(blocks).astype(np.float32, copy=False) if len(blocks) > 1 else blocks[0]


def codes_to_arrow(codes: NDArray[np.uint8]) -> pa.Array:
    """Return uint8 [N, D] as a binary array of strings of D bytes, without copying the codes."""
    count, dim = codes.shape
    offsets = pa.py_buffer(np.arange(count + 1, dtype=np.int32) * np.int32(dim))
    return pa.Array.from_buffers(pa.binary(), count, [None, offsets, pa.py_buffer(np.ascontiguousarray(codes))])


def binary_codes(chunk: pa.Array) -> NDArray[np.uint8]:
    """Return all bytes of a binary array, uint8 [M], without copying."""
    if not len(chunk) or chunk.buffers()[2] is None:
        return np.empty(0, np.uint8)
    offsets = np.frombuffer(chunk.buffers()[1], np.int32, len(chunk) + 1, chunk.offset * 4)
    return np.frombuffer(chunk.buffers()[2], np.uint8, int(offsets[-1] - offsets[0]), int(offsets[0]))


def footer_of(part: Path | BinaryIO, name: str = "") -> dict[str, Any]:
    """Return the footer of a local or opened part; ``name`` names an opened one in errors.

    Raises:
        StoreError: the file is not a part of a store or is damaged.
    """
    try:
        metadata = pq.read_metadata(part).metadata or {}
        value: dict[str, Any] = json.loads(metadata[FOOTER])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise StoreError(f"{name or part} is damaged or not a part of a store ({type(error).__name__}).") from None
    return value


def processors_of(part: Path | BinaryIO) -> tuple[Processor, ...]:
    """Return the processors that computed the rows of a local or opened part; empty for parts of earlier versions."""
    try:
        told = json.loads((pq.read_metadata(part).metadata or {}).get(PROCESSORS, b"[]"))
        return tuple(Processor(each["features"], each.get("agreement")) for each in told)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return ()


def read_record(objects: ObjectStore, table: str, part: str, *, hashed: bool = True) -> PartRecord | None:
    """Return the record of a finished part, or None if it does not exist.

    Args:
        objects: the store.
        table: the folder of the part, relative to the store.
        part: the name of the part.
        hashed: whether to read the whole file for its digest; otherwise only the footer is read.
    """
    path = part_path(table, part)
    size = objects.size(path)
    if size is None:
        return None
    if hashed:
        with objects.local_copy(path) as local:
            footer, digest, processors = footer_of(local), digest_part(local), processors_of(local)
    else:
        with objects.open_file(path) as opened:
            footer, digest, processors = footer_of(opened, path), "", ()
    run = str(footer.pop("run", ""))
    found = PartRecord.from_dict(footer, size=size, digest=digest, adopted=True)
    return replace(found, processors=processors, run=run)


def as_stored(objects: ObjectStore, table: str, record: PartRecord) -> PartRecord:
    """Return the record of the stored part, which may be another worker's that finished the same work first."""
    if part_path(table, record.part) not in objects.lost_races:
        return record
    return read_record(objects, table, record.part) or record


def read_rows(local: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the row groups of a local part, as tables.

    Raises:
        StoreError: the file is damaged.
    """
    try:
        with pq.ParquetFile(local) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=list(columns) if columns is not None else None)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{local} is damaged ({type(error).__name__}); `cliploom verify` lists all damage.") from None


def iterate_vectors(
    objects: ObjectStore, table: str, parts: Iterable[str], output: str, dim: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield (row ids int64 [n], vectors float32 [n, dim]) of the parts, one row group at a time."""
    for part in parts:
        with objects.local_copy(part_path(table, part)) as local:
            for rows in read_rows(local, ["row_id", output]):
                yield rows["row_id"].to_numpy(), arrow_to_vectors(rows[output], dim)
