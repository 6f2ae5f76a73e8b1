"""Gathers all part records of a run into a few files, so that no element or side input grows with the corpus."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import apache_beam as beam

from cliploom.schemas.records import PartRecord
from cliploom.transforms.wire import decode_element, encode_element, encoded
from cliploom.transforms.work.part_records import write_records
from cliploom.transforms.work.plan_ref import PlanRef

MOST_FILES = 64
_NUMBERED = beam.typehints.Tuple[int, encoded(PartRecord)]
"""Number of a file, and an encoded record."""


class GatherRecords(beam.PTransform[beam.PCollection[bytes], beam.PCollection[bytes]]):  # type: ignore[misc]
    """Writes part records to at most ``MOST_FILES`` files and yields their paths. All elements are encoded."""

    def __init__(self, plan: PlanRef) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, pcoll: beam.PCollection[bytes]) -> beam.PCollection[bytes]:
        """Group the records by a hash of the part's name and write one file per group."""
        return (
            pcoll
            | "ByFile" >> beam.Map(by_file).with_output_types(_NUMBERED)
            | "ToFiles" >> beam.GroupByKey()
            | "WriteRecords" >> beam.ParDo(_WriteRecordsFn(self._plan)).with_output_types(encoded(str))
        )


def by_file(record: bytes) -> tuple[int, bytes]:
    """Return the number of a record's file, and the encoded record."""
    return zlib.crc32(decode_element(record).part.encode()) % MOST_FILES, record


class _WriteRecordsFn(beam.DoFn):  # type: ignore[misc]
    """Writes the records of one file and yields its encoded path."""

    def __init__(self, plan: PlanRef) -> None:
        super().__init__()
        self._plan = plan

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[bytes]:
        """Write the file with this number.

        Args:
            element: number of the file, and its encoded records.
        """
        number, records = element
        yield encode_element(write_records(self._plan, number, map(decode_element, records)))
