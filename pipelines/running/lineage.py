"""Events of a run for OpenLineage: what it read, what it wrote, how it ended. To a file, or to a server.

The events are those of https://openlineage.io/spec/2-0-2/OpenLineage.json. They name sources, the store and its tables,
never a file of a source, and hold no credentials.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cliploom.pipelines.version import program_version
from cliploom.schemas.errors import SpecError
from cliploom.schemas.secrets import masked

PRODUCER = "urn:cliploom"
_SPEC = "https://openlineage.io/spec"
SCHEMA = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
ENDPOINT = "/api/v1/lineage"
KEY_VARIABLE = "OPENLINEAGE_API_KEY"
_PATIENCE_S = 10.0
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "cliploom")


def run_uuid(store: str, run: str) -> str:
    """Return the run's id as OpenLineage wants it; the same for each event of a run."""
    return str(uuid.uuid5(_NAMESPACE, f"{store} {run}"))


def dataset_of(uri: str) -> tuple[str, str]:
    """Return namespace and name of a path or address, by OpenLineage's rules for names.

    >>> dataset_of("s3://bucket/store"), dataset_of("/srv/clips")
    (('s3://bucket', 'store'), ('file', '/srv/clips'))
    """
    if "://" not in uri:
        return "file", uri
    parts = urlsplit(masked(uri))
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}", parts.path.strip("/") or "/"


class RunEvents:
    """Makes the events of one run.

    Args:
        store: path or address.
        run: id of the run.
        name: of the spec.
        sources: patterns or tables by name of the source, as the spec has them.
    """

    def __init__(self, store: str, run: str, name: str, sources: Mapping[str, str]) -> None:
        self._store = store
        self._run = run
        self._name = name
        self._sources = sources

    def start(self, now: float) -> dict[str, Any]:
        """Return the event of the beginning."""
        return self._event("START", now)

    def complete(self, now: float, release: Mapping[str, Any], rows: Mapping[str, int]) -> dict[str, Any]:
        """Return the event of a good end.

        Args:
            now: seconds since 1970.
            release: that readers see now, as plain values.
            rows: counters of the run.
        """
        namespace, name = dataset_of(self._store)
        version = _facet("1-0-0/DatasetVersionDatasetFacet", datasetVersion=str(release["release"]))
        written = {"rowCount": int(rows.get("rows", 0)), "size": int(rows.get("bytes_written", 0))}
        statistics = _facet("1-0-2/OutputStatisticsOutputDatasetFacet", **written)
        outputs: list[dict[str, Any]] = [
            {
                "namespace": namespace,
                "name": name,
                "facets": {"version": version},
                "outputFacets": {"outputStatistics": statistics},
            }
        ]
        for entry in release["features"].values():
            fields = [{"name": output, "type": f"float32[{each['dim']}]"} for output, each in entry["outputs"].items()]
            outputs.append(
                {
                    "namespace": namespace,
                    "name": f"{name.rstrip('/')}/{entry['table']}",
                    "facets": {
                        "version": _facet("1-0-0/DatasetVersionDatasetFacet", datasetVersion=str(entry["version"])),
                        "schema": _facet("1-1-1/SchemaDatasetFacet", fields=fields),
                    },
                    "outputFacets": {
                        "outputStatistics": _facet(
                            "1-0-2/OutputStatisticsOutputDatasetFacet", rowCount=entry["rows"], size=entry["size"]
                        )
                    },
                }
            )
        return self._event("COMPLETE", now) | {"outputs": outputs}

    def fail(self, now: float, message: str, *, stopped: bool = False) -> dict[str, Any]:
        """Return the event of a bad end; ``stopped`` by a person."""
        event = self._event("ABORT" if stopped else "FAIL", now)
        error = _facet("1-0-0/ErrorMessageRunFacet", message=masked(message), programmingLanguage="Python")
        event["run"]["facets"]["errorMessage"] = error
        return event

    def _event(self, kind: str, now: float) -> dict[str, Any]:
        namespace, name = dataset_of(self._store)
        engine = _facet("1-1-0/ProcessingEngineRunFacet", version=program_version(), name="cliploom")
        job_type = _facet("2-0-3/JobTypeJobFacet", processingType="BATCH", integration="CLIPLOOM", jobType="RUN")
        inputs = [dict(zip(("namespace", "name"), dataset_of(where), strict=True)) for where in self._sources.values()]
        return {
            "eventType": kind,
            "eventTime": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
            "producer": PRODUCER,
            "schemaURL": SCHEMA,
            "run": {"runId": run_uuid(self._store, self._run), "facets": {"processing_engine": engine}},
            "job": {"namespace": namespace, "name": f"{name}:{self._name}", "facets": {"jobType": job_type}},
            "inputs": inputs,
            "outputs": [{"namespace": namespace, "name": name}],
        }


def _facet(schema: str, **values: Any) -> dict[str, Any]:
    name = schema.rpartition("/")[2]
    return {"_producer": PRODUCER, "_schemaURL": f"{_SPEC}/facets/{schema}.json#/$defs/{name}"} | values


def check_destination(where: str) -> None:
    """Check where events are to go.

    Raises:
        SpecError: for a folder that is not there, or an address with credentials.
    """
    if where.startswith(("http://", "https://")):
        if masked(where) != where:
            raise SpecError(
                f"--openlineage {masked(where)}: the address holds a credential; put the key into {KEY_VARIABLE}."
            )
        return
    if "://" in where:
        raise SpecError(
            f"--openlineage {masked(where)}: give a file, or an address that begins with http:// or https://."
        )
    if not Path(where).absolute().parent.is_dir():
        raise SpecError(f"--openlineage: there is no folder {str(Path(where).absolute().parent)!r}; make it first.")


def send_event(event: Mapping[str, Any], where: str) -> str:
    """Append an event to a file as a line, or post it to a server.

    Args:
        event: as ``RunEvents`` makes it.
        where: a file, or the server's address; without a path the usual one of OpenLineage is taken.

    Returns:
        What to tell the user when it could not be delivered, else an empty string: a run does not fail for it.
    """
    body = json.dumps(event)
    import urllib3

    try:
        if not where.startswith(("http://", "https://")):
            with Path(where).open("a", encoding="utf-8") as file:
                file.write(body + "\n")
            return ""
        address = where if urlsplit(where).path.strip("/") else where.rstrip("/") + ENDPOINT
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        answer = urllib3.request(
            "POST", address, body=body.encode(), headers=headers, timeout=_PATIENCE_S, retries=False, redirect=False
        )
        if answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return ""
        reason = f"the server answered {answer.status}"
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        reason = masked(str(error))
    return f"OpenLineage: the event {event['eventType']} was not delivered to {where}: {reason}"
