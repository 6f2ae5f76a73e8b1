"""Part records of a whole run, gathered as a few files of the store: no element and no side input grows with them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import apache_beam as beam

from cliploom.schemas.records import PartRecord
from cliploom.transforms.work.part_records import write_records
from cliploom.transforms.work.plan_ref import PlanRef

MOST_FILES = 64


class GatherRecords(beam.PTransform[beam.PCollection[PartRecord], beam.PCollection[str]]):  # type: ignore[misc]
    """Part records in, the paths of files that hold them out: ``MOST_FILES`` at the most."""

    def __init__(self, plan: PlanRef) -> None:
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

    def __init__(self, plan: PlanRef) -> None:
        super().__init__()
        self._plan = plan

    def process(self, element: tuple[int, Iterable[PartRecord]]) -> Iterator[str]:
        """Write one file."""
        yield write_records(self._plan, *element)
