"""Part records of a whole run, gathered as a few files of the store: no element and no side input grows with them."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.digests import digest_bytes
from schemas.records import PartRecord
from transforms.store.objects import Objects
from transforms.work.stored_plan import StoredPlan

MOST_FILES = 64
_AROUND = ("size", "digest", "adopted")


class GatherRecords(beam.PTransform[beam.PCollection[PartRecord], beam.PCollection[str]]):  # type: ignore[misc]
    """Part records in, the paths of files that hold them out: ``MOST_FILES`` at the most."""

    def __init__(self, plan: StoredPlan) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, pcoll: beam.PCollection[PartRecord]) -> beam.PCollection[str]:
        """By the hash of the part's name."""
        return (
            pcoll
            | "ByFile" >> beam.Map(lambda record: (zlib.crc32(record.part.encode()) % MOST_FILES, record))
            | "ToFiles" >> beam.GroupByKey()
            | "WriteRecords" >> beam.ParDo(WriteRecords(self._plan))
        )


class WriteRecords(beam.DoFn):  # type: ignore[misc]
    """(number of the file, its records) in, the file's path out."""

    def __init__(self, plan: StoredPlan) -> None:
        super().__init__()
        self._plan = plan

    def process(self, element: tuple[int, Iterable[PartRecord]]) -> Iterator[str]:
        """Write one file."""
        yield write_records(self._plan, *element)


def write_records(plan: StoredPlan, number: int, records: Iterable[PartRecord]) -> str:
    """Write records as a file of the plan's folder, named by its bytes; returns its path."""
    texts = sorted(
        json.dumps(record.to_dict() | {name: getattr(record, name) for name in _AROUND}, separators=(",", ":"))
        for record in records
    )
    buffer = io.BytesIO()
    table = pa.table({"record": pa.array(texts, pa.large_string())})
    pq.write_table(table, buffer, compression="zstd", store_schema=False)
    path = f"{plan.folder}/records-{number}-{digest_bytes(buffer.getvalue())}.parquet"
    Objects(plan.store).put_new(path, buffer.getvalue())
    return path


def read_records(objects: Objects, paths: Sequence[str]) -> list[PartRecord]:
    """All records of these files, in the order of their parts' names."""
    found = [record for path in paths for record in _records(objects, path)]
    return sorted(found, key=lambda record: (record.feature, record.part))


def _records(objects: Objects, path: str) -> Iterator[PartRecord]:
    for text in pq.read_table(io.BytesIO(objects.get(path)))["record"].to_pylist():
        value = json.loads(text)
        around = {name: value.pop(name) for name in _AROUND}
        yield PartRecord.from_dict(value, **around)
