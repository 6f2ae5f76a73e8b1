"""Probes inputs on workers: digest and container facts of each input that is new or may have changed."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom.schemas.digests import bytes_digest, digest_file, item_digest
from cliploom.schemas.errors import CliploomError, ItemError
from cliploom.schemas.faults import machine_fault
from cliploom.schemas.jobs import RunJob
from cliploom.schemas.media import MediaFacts, MediaLimits
from cliploom.schemas.sources import HttpSpec
from cliploom.schemas.tables import PROBED
from cliploom.transforms.inputs.addresses import ADDRESS
from cliploom.transforms.inputs.http import Fetcher
from cliploom.transforms.inputs.spool import open_input, spool_folder
from cliploom.transforms.media.probe import probe
from cliploom.transforms.precomputed.read import refuse_large_file
from cliploom.transforms.precomputed.source import array_facts, digest_dataset, split_uri
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.paths import ALIKE, TO_PROBE, probe_results_path
from cliploom.transforms.tfrecords.probe import probe_shard
from cliploom.transforms.watchdog import alive, watched
from cliploom.transforms.wire import Step, decode_element, encode_element, encoded
from cliploom.transforms.work.counters import count
from cliploom.transforms.work.inflight import Inflight, item_key, run_alone
from cliploom.transforms.work.progress import ProgressLog
from cliploom.transforms.work.shards import list_row_groups

ASKED_AT_ONCE = 8
_RUN = b"cliploom.run"
_ROW_GROUP = encoded(tuple[str, int])


@dataclass(frozen=True)
class Asked:
    """An input to probe, as listed: source, uid, address, signature, and the kind of its source."""

    source: str
    uid: str
    uri: str
    signature: str
    kind: str


@dataclass(frozen=True)
class Probed:
    """Result of probing one input; ``digest`` and ``facts`` (JSON) are None if it failed."""

    source: str
    uid: str
    digest: str | None = None
    facts: str | None = None
    stage: str | None = None
    type: str | None = None
    message: str | None = None
    transient: bool | None = None


def media_facts(path: Path, limits: MediaLimits) -> dict[str, Any]:
    """Return the facts of a media file."""
    return probe(path, limits).to_dict()


_PROBERS: Mapping[str, Callable[[Path, MediaLimits], dict[str, Any]]] = {"media": media_facts, "tfrecord": probe_shard}
"""Kind of source -> function that returns JSON-able facts of a file, or raises ItemError if it is unusable."""


def probe_item(asked: Asked, limits: MediaLimits, http: HttpSpec | None = None) -> Probed:
    """Return digest and facts of one input, or its failure."""
    try:
        file, dataset = split_uri(asked.uri) if asked.kind == "precomputed" else (asked.uri, "")
        with open_input(file, asked.signature, "probe", http) as path:
            if asked.kind == "precomputed":
                refuse_large_file(path)
                digest = digest_dataset(path, dataset) if dataset else digest_file(path, alive=alive)
                return Probed(asked.source, asked.uid, digest, json.dumps(array_facts(asked.uri, path)))
            facts = json.dumps(_PROBERS[asked.kind](path, limits), separators=(",", ":"))
            corrections = MediaFacts.from_json(facts).corrections if asked.kind == "media" else ""
            digest = item_digest(digest_file(path, alive=alive), corrections)
            return Probed(asked.source, asked.uid, digest, facts)
    except ItemError as error:
        return _failed(asked, error)
    except CliploomError:
        raise
    except Exception as error:
        fault = machine_fault(error)
        if fault is not None:
            raise fault from error
        # Any error that a damaged file causes in the prober is a failure of the item, not of the run.
        transient = isinstance(error, MemoryError)
        reason = "out of memory" if transient else f"{type(error).__name__}: {error}"
        return _failed(asked, ItemError("probe", reason, transient=transient))


def recognize(asked: Asked, http: HttpSpec | None, known: Mapping[str, str]) -> Probed | None:
    """Return digest and facts of an input with known bytes, such as a renamed file, or None.

    Nothing is parsed, so a damaged file cannot crash the worker here.

    Args:
        asked: the input.
        http: settings for downloads.
        known: facts (JSON) by item digest.
    """
    try:
        with open_input(asked.uri, asked.signature, "probe", http) as path:
            digest = digest_file(path, alive=alive)
    except ItemError as error:
        return _failed(asked, error)
    except OSError as error:
        fault = machine_fault(error)
        if fault is not None:
            raise fault from error
        return None  # the prober meets the same error and reports it
    for whole, facts in known.items():
        if bytes_digest(whole) == digest:
            return Probed(asked.source, asked.uid, whole, facts)
    return None


def ask_address(asked: Asked, http: HttpSpec) -> Probed:
    """Ask a server about a file without reading it; the signature is returned as ``digest``, the size as ``facts``."""
    try:
        said = Fetcher(asked.uri, http, spool_folder(), "probe").look()
    except ItemError as error:
        return _failed(asked, error)
    # If a server sends neither ETag, Last-Modified nor length, the file has to be downloaded on every run. The listed
    # signature of an address is the name of the run, so this signature never matches an earlier one.
    signature = said.signature(asked.uri) or f"unknown-{asked.signature}"
    return Probed(asked.source, asked.uid, signature, str(said.length or 0))


def _failed(asked: Asked, error: ItemError) -> Probed:
    kind = type(error).__name__.removesuffix("Error")
    return Probed(asked.source, asked.uid, None, None, error.stage, kind, str(error), error.transient)


class ProbeItems(beam.PTransform[beam.PCollection[bytes], beam.PCollection[bytes]]):  # type: ignore[misc]
    """Probes the inputs in a listing's Parquet file and yields one path of results per row group. All are encoded."""

    def __init__(self, job: RunJob) -> None:
        super().__init__()
        self._job = job

    def expand(self, pcoll: beam.PCollection[bytes]) -> beam.PCollection[bytes]:
        """Spread the row groups over the workers; existing result files are adopted."""
        return (
            pcoll
            | "ListRowGroups" >> beam.FlatMap(_encoded_row_groups, self._job.store).with_output_types(_ROW_GROUP)
            | "SpreadRowGroups" >> beam.Reshuffle()
            | "Probe" >> _Probe(self._job)
        )


def _encoded_row_groups(path: bytes, store: str) -> list[bytes]:
    return [encode_element(group) for group in list_row_groups(decode_element(path), store)]


class _ProbeFn(beam.DoFn):  # type: ignore[misc]
    """Probes the inputs of one row group and yields the path of the results."""

    def __init__(self, job: RunJob) -> None:
        super().__init__()
        self._job = job
        self._progress = ProgressLog(job.progress)

    def process(self, element: tuple[str, int]) -> Iterator[str]:
        """Probe the inputs of one row group that have no results yet.

        Args:
            element: path of the listing, and number of the row group.
        """
        path, group = element
        objects = ObjectStore(self._job.store)
        with objects.open_file(path) as opened, pq.ParquetFile(opened) as file:
            rows = file.read_row_group(group).to_pylist()
        name = probe_results_path(([row[column] for column in TO_PROBE] for row in rows), self._job.media_limits)
        found = self._adopted(objects, name)
        todo = [row for row in rows if (row["source"], row["uid"]) not in found]
        if todo and todo[0]["kind"] == ADDRESS:
            # The work is waiting for servers, so threads are enough.
            with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
                results = list(threads.map(self._ask, todo))
        elif todo:
            with Inflight(objects, self._job.run) as inflight, watched(self._job.stall_s):
                results = [self._probe(row, inflight) for row in todo]
        if todo:
            found |= {(result.source, result.uid): asdict(result) for result in results}
            ordered = [found[row["source"], row["uid"]] for row in rows]
            table = pa.Table.from_pylist(ordered, schema=PROBED.with_metadata({_RUN: self._job.run}))
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression="zstd")
            objects.put(name, buffer.getvalue())
        self._progress.add(probed=len(rows))
        yield name

    def _adopted(self, objects: ObjectStore, name: str) -> dict[tuple[str, str], dict[str, Any]]:
        """Return results of an earlier attempt: all of this run's, but only the successes of an unpublished run."""
        try:
            table = pq.read_table(io.BytesIO(objects.get(name)))
        except FileNotFoundError:
            return {}
        own = (table.schema.metadata or {}).get(_RUN) == self._job.run.encode()
        rows: list[dict[str, Any]] = table.to_pylist()
        return {(row["source"], row["uid"]): row for row in rows if own or row["digest"] is not None}

    def _ask(self, row: dict[str, Any]) -> Probed:
        return ask_address(_asked(row), self._job.http.get(row["source"], HttpSpec()))

    def _probe(self, row: dict[str, Any], inflight: Inflight) -> Probed:
        alive()
        asked, limits, http = _asked(row), self._job.media_limits, self._job.http.get(row["source"])
        known = {alike["digest"]: alike["facts"] for alike in row.get(ALIKE) or () if asked.kind in _PROBERS}
        same = recognize(asked, http, known) if known else None
        if same is not None:
            count("recognized" if same.digest else f"failed_{same.type}", 1)
            return same
        key = item_key("probe", asked.uri, asked.signature)
        if key in inflight.suspects:
            result = probe_alone(asked, limits, http, self._job.stall_s)
        else:
            inflight.mark(key)
            result = probe_item(asked, limits, http)
        inflight.clear(key)
        count("probed" if result.digest else f"failed_{result.type}", 1)
        return result


class _Probe(Step):
    do_fn = _ProbeFn


def _asked(row: Mapping[str, Any]) -> Asked:
    return Asked(**{field.name: row[field.name] for field in fields(Asked)})


def probe_alone(asked: Asked, limits: MediaLimits, http: HttpSpec | None = None, stall_s: float = 600.0) -> Probed:
    """Probe an input that was in progress when a worker died, in a separate process."""
    with tempfile.TemporaryDirectory(prefix="cliploom-alone-") as folder:
        answer = Path(folder) / "answer.json"
        error = run_alone(_probe_alone, (asked, limits, http, answer), "probe", stall_s, Path(folder) / "stacks")
        return _failed(asked, error) if error else Probed(**json.loads(answer.read_text(encoding="utf-8")))


def _probe_alone(asked: Asked, limits: MediaLimits, http: HttpSpec | None, answer: Path) -> None:
    answer.write_text(json.dumps(asdict(probe_item(asked, limits, http))), encoding="utf-8")
