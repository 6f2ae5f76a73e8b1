"""Probing on workers: the digest and the container facts of each input that is new or may have changed."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.digests import digest_file
from schemas.errors import CrashedError, ItemError
from schemas.jobs import RunJob
from schemas.media import MediaLimits
from schemas.tables import PROBED
from transforms.inputs.spool import open_input
from transforms.media.probe import probe
from transforms.precomputed.source import array_facts, digest_dataset, split_uri
from transforms.store.objects import Objects
from transforms.store.paths import TO_PROBE, probe_results_path
from transforms.tfrecords.probe import probe_shard
from transforms.work.counters import count
from transforms.work.inflight import Inflight, die_with, item_key
from transforms.work.progress import ProgressLog
from transforms.work.shards import list_row_groups


@dataclass(frozen=True)
class Probed:
    """What probing one input gave; ``digest`` and ``facts`` (JSON) are empty when it failed."""

    source: str
    uid: str
    digest: str | None = None
    facts: str | None = None
    stage: str | None = None
    type: str | None = None
    message: str | None = None
    transient: bool | None = None


def media_facts(path: Path, limits: MediaLimits) -> dict[str, Any]:
    """Facts of a media file."""
    return probe(path, limits).to_dict()


_PROBERS: Mapping[str, Callable[[Path, MediaLimits], dict[str, Any]]] = {"media": media_facts, "tfrecord": probe_shard}
"""By kind of source: what a look at the file tells, JSON-able; raises an ItemError when it can't be used."""


def probe_item(source: str, uid: str, uri: str, signature: str, kind: str, limits: MediaLimits) -> Probed:
    """Digest and facts of one input; what goes wrong with it is part of the result."""
    try:
        file, dataset = split_uri(uri) if kind == "precomputed" else (uri, "")
        with open_input(file, signature, "probe") as path:
            if kind == "precomputed":
                digest = digest_dataset(path, dataset) if dataset else digest_file(path)
                return Probed(source, uid, digest, json.dumps(array_facts(uri, path)))
            facts = _PROBERS[kind](path, limits)
            return Probed(source, uid, digest_file(path), json.dumps(facts, separators=(",", ":")))
    except ItemError as error:
        return _failed(source, uid, error)
    except Exception as error:
        # Whatever a damaged file does to the prober is that file's failure, not the run's.
        return _failed(source, uid, ItemError("probe", f"{type(error).__name__}: {error}"))


def _failed(source: str, uid: str, error: ItemError) -> Probed:
    kind = type(error).__name__.removesuffix("Error")
    return Probed(source, uid, None, None, error.stage, kind, str(error), error.transient)


class ProbeItems(beam.PTransform[beam.PCollection[str], beam.PCollection[str]]):  # type: ignore[misc]
    """From the path of a listing's Parquet file to the paths of probe results, one for each row group."""

    def __init__(self, job: RunJob) -> None:
        super().__init__()
        self._job = job

    def expand(self, pcoll: beam.PCollection[str]) -> beam.PCollection[str]:
        """Row groups are spread over the workers; results are files, adopted when they are there already."""
        return (
            pcoll
            | "ListRowGroups" >> beam.FlatMap(list_row_groups, self._job.store)
            | "SpreadRowGroups" >> beam.Reshuffle()
            | "Probe" >> beam.ParDo(ProbeBatch(self._job))
        )


class ProbeBatch(beam.DoFn):  # type: ignore[misc]
    """(listing file, row group) in, path of the results out."""

    def __init__(self, job: RunJob) -> None:
        super().__init__()
        self._job = job
        self._progress = ProgressLog(job.progress)

    def process(self, element: tuple[str, int]) -> Iterator[str]:
        """Probe the items of one row group, unless that is done."""
        path, group = element
        objects = Objects(self._job.store)
        with objects.local_copy(path) as local, pq.ParquetFile(local) as file:
            rows = file.read_row_group(group, columns=list(TO_PROBE)).to_pylist()
        name = probe_results_path(([row[column] for column in TO_PROBE] for row in rows), self._job.media_limits)
        if objects.size(name) is None:
            with Inflight(objects, self._job.run) as inflight:
                results = [self._probe(row, inflight) for row in rows]
            table = pa.Table.from_pylist([asdict(result) for result in results], schema=PROBED)
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression="zstd", store_schema=False)
            objects.put_new(name, buffer.getvalue())
        self._progress.add(probed=len(rows))
        yield name

    def _probe(self, row: dict[str, Any], inflight: Inflight) -> Probed:
        key = item_key("probe", row["uri"], row["signature"])
        arguments = (row["source"], row["uid"], row["uri"], row["signature"], row["kind"], self._job.media_limits)
        if key in inflight.suspects:
            result = probe_alone(*arguments)
        else:
            inflight.note(key)
            result = probe_item(*arguments)
        inflight.clear(key)
        count("probed" if result.digest else f"failed_{result.type}", 1)
        return result


def probe_alone(source: str, uid: str, uri: str, signature: str, kind: str, limits: MediaLimits) -> Probed:
    """Probe an input that a worker died on in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="cliploom-alone-") as folder:
        answer = Path(folder) / "answer.json"
        process = multiprocessing.get_context("spawn").Process(
            target=_probe_alone, args=(source, uid, uri, signature, kind, limits, answer)
        )
        process.start()
        process.join()
        if process.exitcode == 0:
            return Probed(**json.loads(answer.read_text(encoding="utf-8")))
    killed = process.exitcode == -signal.SIGKILL  # by the out-of-memory killer; another night may do better
    return _failed(source, uid, CrashedError("probe", "the worker process died twice on this item", transient=killed))


def _probe_alone(source: str, uid: str, uri: str, signature: str, kind: str, limits: MediaLimits, answer: Path) -> None:
    die_with(os.getppid())
    answer.write_text(json.dumps(asdict(probe_item(source, uid, uri, signature, kind, limits))), encoding="utf-8")
