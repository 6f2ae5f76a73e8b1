"""The Beam side of computing shards: read the plan, spread the work, adopt what is finished, compute the rest."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import pyarrow.parquet as pq

from cliploom.schemas.errors import CrashedError
from cliploom.schemas.jobs import FeatureJob, RunJob
from cliploom.schemas.records import POSTPONED, Failure, PartRecord, Rewrite, Shard, ShardItem
from cliploom.transforms.narrations.sentence_cache import read_known
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.part_builder import PartBuilder, Timings
from cliploom.transforms.store.parts import as_stored, part_path, read_record, read_rows
from cliploom.transforms.watchdog import alive, watched
from cliploom.transforms.wire import Step, decode_element, encode_element, encoded
from cliploom.transforms.work.compute import compute_item, compute_parts
from cliploom.transforms.work.counters import count
from cliploom.transforms.work.heartbeat import heartbeat_of
from cliploom.transforms.work.inflight import Inflight, item_key, run_alone
from cliploom.transforms.work.json_log import JSON, JsonLog
from cliploom.transforms.work.models import SentenceEncoder, load_encoder
from cliploom.transforms.work.progress import ItemProgress, ProgressLog, ProgressSink, shard_name
from cliploom.transforms.work.rewrite import rewrite_part
from cliploom.transforms.work.shard_text import SHARD

_NUMBERED = beam.typehints.Tuple[int, encoded(str)]
"""Number of a row group, and the encoded path of its file."""


class ReadPlan(beam.PTransform[beam.PCollection[bytes], beam.PCollection[bytes]]):  # type: ignore[misc]
    """From the path of a plan's Parquet file to its shards, spread over the workers; both are encoded.

    The graph stays the same whatever the size of the plan: the file's row groups are listed and read by workers.
    """

    def __init__(self, store: str) -> None:
        super().__init__()
        self._store = store

    def expand(self, pcoll: beam.PCollection[bytes]) -> beam.PCollection[bytes]:
        """Row groups first, then shards; each shuffled once, as descriptors.

        Flink drops the second of two rebalancings in a row, and one worker would get all shards of a row group; so row
        groups are spread by key.
        """
        return (
            pcoll
            | "ListRowGroups" >> beam.FlatMap(_numbered_row_groups, self._store).with_output_types(_NUMBERED)
            | "SpreadRowGroups" >> beam.GroupByKey()
            | "ReadShards" >> beam.FlatMap(_encoded_shards, self._store).with_output_types(encoded(Shard))
            | "SpreadShards" >> beam.Reshuffle()
        )


def _numbered_row_groups(path: bytes, store: str) -> list[tuple[int, bytes]]:
    return [(group, encode_element(name)) for name, group in list_row_groups(decode_element(path), store)]


def _encoded_shards(group: tuple[int, Iterable[bytes]], store: str) -> Iterator[bytes]:
    number, paths = group
    for path in paths:
        yield from map(encode_element, read_shards((decode_element(path), number), store))


def list_row_groups(path: str, store: str) -> list[tuple[str, int]]:
    """(path, number) of each row group of a plan file."""
    with ObjectStore(store).open_file(path) as file:
        return [(path, group) for group in range(pq.read_metadata(file).num_row_groups)]


def read_shards(row_group: tuple[str, int], store: str) -> Iterator[Shard]:
    """The shards of one row group, (path, number); of the file only its bytes and the footer are read."""
    path, group = row_group
    with ObjectStore(store).open_file(path) as opened, pq.ParquetFile(opened) as file:
        texts = file.read_row_group(group, columns=["shard"])["shard"].to_pylist()
    for text in texts:
        yield SHARD.validate_json(text)


class _ComputeShardFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, job: RunJob) -> None:
        super().__init__()
        self._job = job
        # A process keeps an opened model only as long as somebody holds it: here, from shard to shard.
        self._held: dict[str, object] = {}

    def process(self, shard: Shard) -> Iterator[PartRecord]:
        """Adopt the parts that are there, compute the others."""
        objects = ObjectStore(self._job.store)
        missing, kept = [], []
        for name in shard.features:
            job = self._job.features[name]
            record = read_record(objects, job.table, shard.part_name(job.config))
            if record is None:
                missing.append(job)
            else:
                kept.append(record)
                yield record
        report_kept(kept, shard, self._job.run, finished=not missing)
        log = JsonLog(self._job.run, "compute") if self._job.log_format == JSON else None
        sinks: list[ProgressSink] = [
            ProgressLog(self._job.progress),
            heartbeat_of(objects, self._job.run, soon=self._job.remote),
        ]
        progress = ItemProgress(shard, *sinks, *([log] if log else []))
        if not missing:
            progress.adopt()
        elif 0 < self._job.deadline <= time.time():
            count("items_postponed", len(shard.items))
            progress.postpone()
            for job in missing:
                yield postponed(shard, job, self._job.run)
        else:
            records = self._compute(objects, shard, missing, progress)
            if log is not None:
                log.failures(records, shard_name(shard))
            yield from records

    def _compute(
        self, objects: ObjectStore, shard: Shard, jobs: list[FeatureJob], progress: ItemProgress
    ) -> list[PartRecord]:
        timings = Timings()
        encoders = {job.name: load_encoder(objects, job, self._job.threads) for job in jobs if job.model}
        self._held.update(encoders)
        for job in jobs:
            encoder = encoders.get(job.name)
            if isinstance(encoder, SentenceEncoder):
                encoder.know(read_known(objects, self._job.run, job))
        waiting: dict[str, int] = {}
        progress.start(timings)
        with Inflight(objects, self._job.run) as inflight, watched(self._job.stall_s):

            def each_item(item: ShardItem, builders: Sequence[PartBuilder]) -> None:
                alive()
                key = item_key("compute", item.uri, item.digest, item.segment.number)
                waiting[key] = len(builders)
                progress.begin(item)
                if key in inflight.suspects:
                    compute_alone(self._job, item, builders)
                else:
                    inflight.mark(key)
                    compute_item(item, builders, timings)

            def on_end(item: ShardItem, rows: int) -> None:
                key = item_key("compute", item.uri, item.digest, item.segment.number)
                waiting[key] -= 1
                if not waiting[key]:
                    inflight.clear(key)
                    progress.end(item)

            records = compute_parts(
                shard,
                jobs,
                encoders,
                lambda job, part: objects.create_file(part_path(job.table, part)),
                each_item,
                on_end,
                self._job.run,
                timings,
                progress.rows,
            )
        tables = {job.name: job.table for job in jobs}
        records = [as_stored(objects, tables[record.feature], record) for record in records]
        report_counts(records, shard, timings)
        count("texts_encoded", sum(e.report.done for e in encoders.values() if isinstance(e, SentenceEncoder)))
        count("texts_truncated", sum(e.report.truncated for e in encoders.values() if isinstance(e, SentenceEncoder)))
        progress.finish()
        progress.failures(sum(not failure.partial for record in records for failure in record.failures))
        return records


class ComputeShard(Step):
    """A shard in, the records of its parts out. Safe to try twice and to run twice at once."""

    do_fn = _ComputeShardFn


def postponed(shard: Shard, job: FeatureJob, run: str) -> PartRecord:
    """Return the record of a part that is not made because the run's time was up.

    Its items get a failure that the next run tries again. Those that have failed before keep that failure.
    """
    name = shard.part_name(job.config)
    failures = tuple(
        Failure(
            source=job.source,
            feature=job.name,
            uid=twin.uid,
            uri=item.uri,
            item_no=twin.item_no,
            digest=item.digest,
            config=job.config,
            stage="compute",
            type=POSTPONED,
            message="the run's time was up before this item's turn; the next run computes it",
            transient=True,
            attempts=item.tries,
        )
        for item in shard.items
        for twin in item.duplicates
    )
    return PartRecord(job.name, job.config, name, 0, 0, "", (), failures, run=run)


def report_counts(records: Sequence[PartRecord], shard: Shard, timings: Timings) -> None:
    """Add a computed shard to Beam's counters."""
    count("items_seen", len(shard.items))
    count("items_done", len(shard.items))
    count_parts(records)
    if timings.rows_repeated:
        count("rows_repeated", timings.rows_repeated)
    for name, value in timings.figures().items():
        count(name, value)


def count_parts(records: Sequence[PartRecord]) -> None:
    """Add parts that this run has made to Beam's counters."""
    for record in records:
        count("parts", 1)
        count("rows", record.rows)
        count("bytes_written", record.size)
        for failure in record.failures:
            count(f"failed_{failure.type}", 1)


def report_kept(kept: Sequence[PartRecord], shard: Shard, run: str, *, finished: bool) -> None:
    """Add parts that were there to Beam's counters.

    Counters of an attempt are lost with it. So the parts that an earlier attempt of the same run has made count as if
    they were made now; only those of earlier runs count as adopted.

    Args:
        kept: records of parts that were there.
        shard: of which they are.
        run: id of this run.
        finished: no part of the shard is missing.
    """
    mine = [record for record in kept if record.run == run]
    count_parts(mine)
    if mine:
        count("parts_resumed", len(mine))
    if len(kept) > len(mine):
        count("parts_adopted", len(kept) - len(mine))
        count("adopted", len(shard.items))
    if mine and finished:
        count("items_seen", len(shard.items))
        count("items_done", len(shard.items))
        count("items_resumed", len(shard.items))


def compute_alone(job: RunJob, item: ShardItem, builders: Sequence[PartBuilder]) -> None:
    """Compute an item that a worker died on in a process of its own; its death is the item's failure."""
    with tempfile.TemporaryDirectory(prefix="cliploom-alone-") as folder:
        jobs = [builder.job for builder in builders]
        shard = Shard(tuple(each.name for each in jobs), (item,))
        error = run_alone(_compute_alone, (job, shard, jobs, folder), "compute", job.stall_s, Path(folder) / "stacks")
        for builder in builders:
            record = None if error else read_record(ObjectStore(folder), builder.job.name, SINGLE)
            if record is None:
                lost = CrashedError("compute", "the process of its own left nothing of this item")
                builder.fail_item(item, error or lost)
            else:
                builder.add_finished(item, record, read_rows(Path(folder) / builder.job.name / SINGLE))


SINGLE = "alone.parquet"


def _compute_alone(job: RunJob, shard: Shard, jobs: list[FeatureJob], folder: str) -> None:
    """What the process of its own does: the parts of one item, in a folder of its own."""
    compute_aside(job, shard, jobs, ObjectStore(folder))


def compute_aside(job: RunJob, shard: Shard, jobs: Sequence[FeatureJob], target: ObjectStore) -> list[PartRecord]:
    """Compute a shard into ``target``, a folder for each feature, instead of the store; models are the store's."""
    objects = ObjectStore(job.store)
    timings = Timings()
    return compute_parts(
        shard,
        jobs,
        {each.name: load_encoder(objects, each, 1) for each in jobs if each.model},
        lambda each, _: target.create_file(part_path(each.name, SINGLE)),
        lambda item, builders: compute_item(item, builders, timings),
        lambda item, rows: None,
        job.run,
        timings,
    )


class _RewritePartsFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, job: RunJob) -> None:
        super().__init__()
        self._job = job

    def process(self, rewrite: Rewrite) -> Iterator[PartRecord]:
        """Copy the wanted rows; nothing is decoded."""
        objects = ObjectStore(self._job.store)
        job = self._job.features[rewrite.feature]
        record = read_record(objects, job.table, rewrite.part_name(job.config))
        if record is None:
            record = as_stored(objects, job.table, rewrite_part(objects, job, rewrite, self._job.run))
            count("bytes_rewritten", record.size)
        yield replace(record, adopted=False)


class RewriteParts(Step):
    """A rewrite in, the record of the part it makes out; adopted when it is there already."""

    do_fn = _RewritePartsFn
