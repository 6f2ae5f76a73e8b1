"""Part records of a whole run, gathered as a few files of the store: no element and no side input grows with them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import apache_beam as beam

from cliploom.transforms.wire import decode_element, encode_element
from cliploom.transforms.work.part_records import write_records
from cliploom.transforms.work.plan_ref import PlanRef

MOST_FILES = 64


class GatherRecords(beam.PTransform[beam.PCollection[bytes], beam.PCollection[bytes]]):  # type: ignore[misc]
    """Encoded part records in, the encoded paths of files that hold them out: at most ``MOST_FILES``."""

    def __init__(self, plan: PlanRef) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, pcoll: beam.PCollection[bytes]) -> beam.PCollection[bytes]:
        """By the hash of the part's name."""
        return (
            pcoll
            | "ByFile" >> beam.Map(by_file).with_output_types(tuple[int, bytes])
            | "ToFiles" >> beam.GroupByKey()
            | "WriteRecords" >> beam.ParDo(WriteRecords(self._plan))
        )


def by_file(record: bytes) -> tuple[int, bytes]:
    """An encoded record and the number of its file."""
    return zlib.crc32(decode_element(record).part.encode()) % MOST_FILES, record


@beam.typehints.with_output_types(bytes)
class WriteRecords(beam.DoFn):  # type: ignore[misc]
    """(number of the file, its encoded records) in, the file's encoded path out."""

    def __init__(self, plan: PlanRef) -> None:
        super().__init__()
        self._plan = plan

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[bytes]:
        """Write one file."""
        number, records = element
        yield encode_element(write_records(self._plan, number, map(decode_element, records)))
