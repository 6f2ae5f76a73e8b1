"""Part records as columns, and the files that hold them; no Beam here."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom.schemas.digests import digest_bytes
from cliploom.schemas.records import PartRecord, Processor
from cliploom.schemas.tables import CONTENTS, FAILURES, PARTS, empty_table
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work.plan_ref import PlanRef

_AROUND = ("size", "digest", "adopted")
_AT_ONCE = 1_000


def _kinds(schema: pa.Schema, *without: str) -> dict[str, pl.DataType]:
    return {name: kind for name, kind in pl.DataFrame(empty_table(schema)).schema.items() if name not in without}


CONTENT = _kinds(CONTENTS, "feature", "config", "part")
_FAILURE = _kinds(FAILURES, "run", "seen_at")
_PART = _kinds(PARTS)
_RECORD = pl.Struct(_PART | {"contents": pl.List(pl.Struct(CONTENT)), "failures": pl.List(pl.Struct(_FAILURE))})


@dataclass(frozen=True)
class PartRecordFrames:
    """Part records as columns.

    Attributes:
        parts: the columns of ``PARTS``, each part once.
        contents: feature, part, and the fields of ``Content``.
        failures: part, and the fields of ``Failure``.
    """

    parts: pl.DataFrame
    contents: pl.DataFrame
    failures: pl.DataFrame

    def of(self, feature: str) -> PartRecordFrames:
        """Those of one feature."""
        mine = pl.col("feature") == feature
        return PartRecordFrames(self.parts.filter(mine), self.contents.filter(mine), self.failures.filter(mine))

    @classmethod
    def joined(cls, several: Iterable[PartRecordFrames]) -> PartRecordFrames:
        """All of them; parts and failures in the order of the parts' names."""
        all_of = [cls.from_texts([]), *several]
        return cls(
            pl.concat([each.parts for each in all_of]).sort("feature", "part"),
            pl.concat([each.contents for each in all_of]),
            pl.concat([each.failures for each in all_of]).sort("feature", "part", maintain_order=True),
        )

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> PartRecordFrames:
        """From the records' JSON."""
        records = pl.Series(list(texts), dtype=pl.String).str.json_decode(_RECORD).struct.unnest()
        # A part that two workers report, or one twice, is the same both times.
        records = records.unique(["feature", "part"], keep="first", maintain_order=True)
        contents = records.select("feature", "part", "contents").explode("contents").drop_nulls("contents")
        failures = records.select("part", "failures").explode("failures").drop_nulls("failures")
        return cls(records.select(*_PART), contents.unnest("contents"), failures.unnest("failures"))


def record_text(record: PartRecord) -> str:
    """A record's JSON, with what its part's footer can't know."""
    value = record.to_dict() | {name: getattr(record, name) for name in _AROUND}
    if record.run:
        value["run"] = record.run
    if record.processors:
        value["processors"] = [asdict(each) for each in record.processors]
    return json.dumps(value, separators=(",", ":"))


def report(records: Iterable[PartRecord]) -> PartRecordFrames:
    """Records as columns; only a few are records at any time."""
    found, rest = [], iter(records)
    while texts := [record_text(record) for record in islice(rest, _AT_ONCE)]:
        found.append(PartRecordFrames.from_texts(texts))
    return PartRecordFrames.joined(found)


def write_records(plan: PlanRef, number: int, records: Iterable[PartRecord]) -> str:
    """Write records as a file of the plan's folder, named by its bytes; returns its path."""
    texts = sorted(record_text(record) for record in records)
    buffer = io.BytesIO()
    table = pa.table({"record": pa.array(texts, pa.large_string())})
    pq.write_table(table, buffer, compression="zstd", store_schema=False)
    path = f"{plan.folder}/records-{number}-{digest_bytes(buffer.getvalue())}.parquet"
    ObjectStore(plan.store).put_new(path, buffer.getvalue())
    return path


def read_records(objects: ObjectStore, paths: Sequence[str]) -> PartRecordFrames:
    """All records of these files."""
    return PartRecordFrames.joined(
        PartRecordFrames.from_texts(pl.read_parquet(io.BytesIO(objects.get(path)))["record"]) for path in paths
    )


def reported_processors(objects: ObjectStore, paths: Sequence[str]) -> dict[str, set[Processor]]:
    """By feature, what the rows of the records in these files were computed on."""
    found: dict[str, set[Processor]] = {}
    field = pl.col("record").str
    for path in paths:
        frame = pl.read_parquet(io.BytesIO(objects.get(path)), columns=["record"])
        told = frame.select(
            field.json_path_match("$.feature").alias("feature"), field.json_path_match("$.processors").alias("told")
        )
        for feature, text in told.drop_nulls().unique().rows():
            each = found.setdefault(feature, set())
            each |= {Processor(value["features"], value["agreement"]) for value in json.loads(text)}
    return found


def counters_of_records(objects: ObjectStore, folder: str, run: str) -> dict[str, int]:
    """Return rows, bytes_written, parts and parts_adopted of a run, for who was not there to count them.

    Args:
        objects: the store.
        folder: of the plan, with the files of records that all attempts have left; a part counts once.
        run: id of the run; parts that another run made are adopted.
    """
    field, frames = pl.col("record").str, []
    for entry in objects.list(folder):
        if entry.path.rsplit("/", 1)[-1].startswith("records-"):
            frame = pl.read_parquet(io.BytesIO(objects.get(entry.path)), columns=["record"])
            frames.append(
                frame.select(
                    *(field.json_path_match(f"$.{name}").alias(name) for name in ("feature", "part", "run")),
                    *(field.json_path_match(f"$.{name}").cast(pl.Int64).alias(name) for name in ("rows", "size")),
                ).drop_nulls("run")
            )
    if not frames:
        return {}
    parts = pl.concat(frames).unique(["feature", "part"])
    mine = parts.filter(pl.col("run") == run)
    return {
        "rows": int(mine["rows"].sum()),
        "bytes_written": int(mine["size"].sum()),
        "parts": mine.height,
        "parts_adopted": parts.height - mine.height,
    }
