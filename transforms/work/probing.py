"""Probing on workers: the digest and the container facts of each input that is new or may have changed."""

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
from cliploom.transforms.wire import EncodedDoFn, decode_element, encode_element
from cliploom.transforms.work.counters import count
from cliploom.transforms.work.inflight import Inflight, item_key, run_alone
from cliploom.transforms.work.progress import ProgressLog
from cliploom.transforms.work.shards import list_row_groups

ASKED_AT_ONCE = 8
_RUN = b"cliploom.run"


@dataclass(frozen=True)
class Asked:
    """An input to probe, as its listing gives it: one of a source, of a kind, with the signature that it had there."""

    source: str
    uid: str
    uri: str
    signature: str
    kind: str


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


def probe_item(asked: Asked, limits: MediaLimits, http: HttpSpec | None = None) -> Probed:
    """Digest and facts of one input; what goes wrong with it is part of the result."""
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
        # Whatever a damaged file does to the prober is that file's failure, not the run's.
        transient = isinstance(error, MemoryError)
        reason = "out of memory" if transient else f"{type(error).__name__}: {error}"
        return _failed(asked, ItemError("probe", reason, transient=transient))


def recognize(asked: Asked, http: HttpSpec | None, known: Mapping[str, str]) -> Probed | None:
    """Digest and facts of an input that has the bytes of a known one, such as a renamed file; None when it has not.

    Nothing is parsed, so that no damaged file can take the worker down here.

    Args:
        asked: the input.
        http: how files on the web are fetched.
        known: facts (JSON) by digest of an item.
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
        return None  # the prober meets it again and says what it is
    for whole, facts in known.items():
        if bytes_digest(whole) == digest:
            return Probed(asked.source, asked.uid, whole, facts)
    return None


def ask_address(asked: Asked, http: HttpSpec) -> Probed:
    """What a server says of a file, which is not read: the signature as ``digest``, its bytes as ``facts``."""
    try:
        said = Fetcher(asked.uri, http, spool_folder(), "probe").look()
    except ItemError as error:
        return _failed(asked, error)
    # A server that says nothing leaves no other way than to read the file every night; what was listed as the
    # signature of an address is the run's name.
    signature = said.signature(asked.uri) or f"unknown-{asked.signature}"
    return Probed(asked.source, asked.uid, signature, str(said.length or 0))


def _failed(asked: Asked, error: ItemError) -> Probed:
    kind = type(error).__name__.removesuffix("Error")
    return Probed(asked.source, asked.uid, None, None, error.stage, kind, str(error), error.transient)


class ProbeItems(beam.PTransform[beam.PCollection[bytes], beam.PCollection[bytes]]):  # type: ignore[misc]
    """From the path of a listing's Parquet file to the paths of probe results, one for each row group; all encoded."""

    def __init__(self, job: RunJob) -> None:
        super().__init__()
        self._job = job

    def expand(self, pcoll: beam.PCollection[bytes]) -> beam.PCollection[bytes]:
        """Row groups are spread over the workers; results are files, adopted when they are there already."""
        return (
            pcoll
            | "ListRowGroups" >> beam.FlatMap(_encoded_row_groups, self._job.store).with_output_types(bytes)
            | "SpreadRowGroups" >> beam.Reshuffle()
            | "Probe" >> beam.ParDo(EncodedDoFn(ProbeBatch(self._job)))
        )


def _encoded_row_groups(path: bytes, store: str) -> list[bytes]:
    return [encode_element(group) for group in list_row_groups(decode_element(path), store)]


class ProbeBatch(beam.DoFn):  # type: ignore[misc]
    """(listing file, row group) in, path of the results out."""

    def __init__(self, job: RunJob) -> None:
        super().__init__()
        self._job = job
        self._progress = ProgressLog(job.progress)

    def process(self, element: tuple[str, int]) -> Iterator[str]:
        """Probe the items of one row group, unless that is done."""
        path, group = element
        objects = ObjectStore(self._job.store)
        with objects.open_file(path) as opened, pq.ParquetFile(opened) as file:
            rows = file.read_row_group(group).to_pylist()
        name = probe_results_path(([row[column] for column in TO_PROBE] for row in rows), self._job.media_limits)
        found = self._adopted(objects, name)
        todo = [row for row in rows if (row["source"], row["uid"]) not in found]
        if todo and todo[0]["kind"] == ADDRESS:
            # Nothing is computed, servers are waited for.
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
        """Results of an earlier try: all of this run's own, of another run's that was not published only successes."""
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


def _asked(row: Mapping[str, Any]) -> Asked:
    return Asked(**{field.name: row[field.name] for field in fields(Asked)})


def probe_alone(asked: Asked, limits: MediaLimits, http: HttpSpec | None = None, stall_s: float = 600.0) -> Probed:
    """Probe an input that a worker died on in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="cliploom-alone-") as folder:
        answer = Path(folder) / "answer.json"
        error = run_alone(_probe_alone, (asked, limits, http, answer), "probe", stall_s, Path(folder) / "stacks")
        return _failed(asked, error) if error else Probed(**json.loads(answer.read_text(encoding="utf-8")))


def _probe_alone(asked: Asked, limits: MediaLimits, http: HttpSpec | None, answer: Path) -> None:
    answer.write_text(json.dumps(asdict(probe_item(asked, limits, http))), encoding="utf-8")
