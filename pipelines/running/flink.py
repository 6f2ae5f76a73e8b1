"""What a Flink cluster says of a run's job, through its REST interface: its state, and why it was restarted."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from textwrap import shorten
from typing import Any

from cliploom.schemas.errors import SpecError
from cliploom.schemas.secrets import masked
from cliploom.schemas.spec_yaml import substitute

_PATIENCE_S = 5.0
_MOST_RESTARTS = 100
_REASON_LENGTH = 200
_MEANINGS = {
    "StatusRuntimeException: CANCELLED": "a Python worker ended",
    "RemoteTransportException": "a task manager was lost",
    "ConnectException": "a task manager could not be reached",
    "Insufficient number of network buffers": "taskmanager.memory.network.min is too small",
}
"""What exceptions of Flink and Beam mean here, by a part of their text."""


def flink_masters(document: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> list[str]:
    """``host:port`` of the Flink clusters that a spec's targets name in ``flink_master``.

    A run keeps its spec as it was written, so variables are those of this terminal; a target that names one that is
    not set here is left out.

    >>> flink_masters({"targets": {"local": {}, "flink": {"flink_master": "http://${MASTER}"}}}, {"MASTER": "one:8081"})
    ['one:8081']
    """
    named = []
    for node in (document.get("targets") or {}).values():
        with suppress(SpecError):
            named.append(str(substitute((node or {}).get("flink_master", ""), environment)).partition("://"))
    return [(rest or first).strip("/") for first, _, rest in named if ":" in (rest or first)]


def flink_state(masters: Iterable[str], job: str) -> str:
    """Flink's state of the job of this name, from the first cluster that knows it; empty when none does."""
    for master in masters:
        try:
            jobs = _ask(master, "/jobs/overview")["jobs"]
        except (urllib.error.URLError, OSError, ValueError, KeyError):
            continue
        found = sorted((each["start-time"], each["state"]) for each in jobs if each["name"] == job)
        if found:
            return str(found[-1][1])
    return ""


def flink_restarts(masters: Iterable[str], job: str) -> list[dict[str, Any]]:
    """Return why and when Flink restarted the jobs of this name; none where no cluster knows it.

    Args:
        masters: ``host:port`` of clusters.
        job: name.
    """
    for master in masters:
        try:
            jobs = _ask(master, "/jobs/overview")["jobs"]
            found = [each["jid"] for each in jobs if each["name"] == job]
            entries = [
                entry
                for jid in found
                for entry in _ask(master, f"/jobs/{jid}/exceptions?maxExceptions={_MOST_RESTARTS}")["exceptionHistory"][
                    "entries"
                ]
            ]
            restarts = [{"at": int(each["timestamp"]) / 1000, "reason": flink_reason(each)} for each in entries]
        except (urllib.error.URLError, OSError, ValueError, KeyError, TypeError):
            continue
        if found:
            return sorted(restarts, key=lambda each: float(each["at"]))
    return []


def flink_reason(entry: Mapping[str, Any]) -> str:
    r"""Return the innermost cause of an entry of Flink's history of exceptions, in one line without credentials.

    >>> flink_reason({"stacktrace": "java.lang.Exception: outer\n at x\nCaused by: java.io.IOException: lost\n at y"})
    'java.io.IOException: lost'
    """
    lines = [line.strip() for line in str(entry.get("stacktrace", "")).splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    text = causes[-1] if causes else lines[0] if lines else str(entry.get("exceptionName", "unknown"))
    said = shorten(masked(text), _REASON_LENGTH, placeholder=" ...")
    known = next((meaning for part, meaning in _MEANINGS.items() if part in text), "")
    return f"{known} ({said})" if known else said


def _ask(master: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{master}{path}", timeout=_PATIENCE_S) as answer:
        return json.load(answer)
