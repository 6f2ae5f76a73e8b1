"""Probes inputs on workers: digest and container facts of each input that is new or may have changed."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom.schemas.digests import bytes_digest, digest_file
from cliploom.schemas.errors import CliploomError, ItemError
from cliploom.schemas.faults import machine_fault
from cliploom.schemas.jobs import RunJob
from cliploom.schemas.media import MediaLimits
from cliploom.schemas.sources import HttpSpec
from cliploom.schemas.tables import PROBED
from cliploom.transforms.inputs.addresses import ADDRESS
from cliploom.transforms.inputs.http import Fetcher
from cliploom.transforms.inputs.spool import spool_folder
from cliploom.transforms.sources.base import http_of
from cliploom.transforms.sources.registry import source_kind
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.paths import ALIKE, TO_PROBE, probe_results_path
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


def probe_item(asked: Asked, limits: MediaLimits, settings: str = "{}") -> Probed:
    """Return digest and facts of one input, or its failure.

    Args:
        asked: the input.
        limits: sizes beyond which media are refused.
        settings: JSON text of the source's node.
    """
    kind = source_kind(asked.kind)
    try:
        with kind.open_item(asked.uri, asked.signature, "probe", settings) as path:
            digest, facts = kind.probe(asked.uri, path, limits)
            return Probed(asked.source, asked.uid, digest, facts)
    except ItemError as error:
        return _failed(asked, error)
    except CliploomError:
        raise
    except SystemExit as error:
        reason = f"the kind of source tried to end the program (exit code {error.code!r})"
        return _failed(asked, ItemError("probe", reason))
    except Exception as error:
        fault = machine_fault(error)
        if fault is not None:
            raise fault from error
        # Any error that a damaged file causes in the prober is a failure of the item, not of the run.
        transient = isinstance(error, MemoryError)
        reason = "out of memory" if transient else f"{type(error).__name__}: {error}"
        return _failed(asked, ItemError("probe", reason, transient=transient))


def recognize(asked: Asked, settings: str, known: Mapping[str, str]) -> Probed | None:
    """Return digest and facts of an input with known bytes, such as a renamed file, or None.

    Nothing is parsed, so a damaged file cannot crash the worker here.

    Args:
        asked: the input.
        settings: JSON text of the source's node.
        known: facts (JSON) by item digest.
    """
    try:
        with source_kind(asked.kind).open_item(asked.uri, asked.signature, "probe", settings) as path:
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
    return Probed(asked.source, asked.uid, None, None, error.stage, error.failure_type, str(error), error.transient)


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
        return ask_address(_asked(row), http_of(self._job.settings.get(row["source"], "{}")))

    def _probe(self, row: dict[str, Any], inflight: Inflight) -> Probed:
        alive()
        asked, limits = _asked(row), self._job.media_limits
        settings = self._job.settings.get(row["source"], "{}")
        alike = row.get(ALIKE) or () if source_kind(asked.kind).whole_files else ()
        known = {each["digest"]: each["facts"] for each in alike}
        same = recognize(asked, settings, known) if known else None
        if same is not None:
            count("recognized" if same.digest else f"failed_{same.type}", 1)
            return same
        key = item_key("probe", asked.uri, asked.signature)
        if key in inflight.suspects:
            result = probe_alone(asked, limits, settings, self._job.stall_s)
        else:
            inflight.mark(key)
            result = probe_item(asked, limits, settings)
        inflight.clear(key)
        count("probed" if result.digest else f"failed_{result.type}", 1)
        return result


class _Probe(Step):
    do_fn = _ProbeFn


def _asked(row: Mapping[str, Any]) -> Asked:
    return Asked(**{field.name: row[field.name] for field in fields(Asked)})


def probe_alone(asked: Asked, limits: MediaLimits, settings: str = "{}", stall_s: float = 600.0) -> Probed:
    """Probe an input that was in progress when a worker died, in a separate process."""
    with tempfile.TemporaryDirectory(prefix="cliploom-alone-") as folder:
        answer = Path(folder) / "answer.json"
        error = run_alone(_probe_alone, (asked, limits, settings, answer), "probe", stall_s, Path(folder) / "stacks")
        return _failed(asked, error) if error else Probed(**json.loads(answer.read_text(encoding="utf-8")))


def _probe_alone(asked: Asked, limits: MediaLimits, settings: str, answer: Path) -> None:
    answer.write_text(json.dumps(asdict(probe_item(asked, limits, settings))), encoding="utf-8")
