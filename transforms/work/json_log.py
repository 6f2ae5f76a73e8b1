"""What workers do, as JSON lines on stderr: for ``cliploom run --log-format json``."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from cliploom.schemas.records import PartRecord
from cliploom.schemas.secrets import masked

JSON = "json"
_EVENTS = {
    "tried": "shard_begun",
    "finished": "shard_finished",
    "adopted": "shard_adopted",
    "postponed": "shard_postponed",
    "began": "item_begun",
    "ended": "item_ended",
}


class JsonLog:
    """A ``ProgressSink`` that writes what begins and ends as JSON lines.

    Args:
        run: id of the run.
        stage: name of the stage, such as ``compute``.
    """

    def __init__(self, run: str, stage: str) -> None:
        self._common = {"run": run, "stage": stage}

    def add(self, **counts: Any) -> None:
        """Write a line when something begins or ends; see ``ProgressSink``."""
        event = next((event for key, event in _EVENTS.items() if counts.get(key)), "")
        if event:
            item = counts.get("began") or counts.get("ended")
            fields = {"shard": counts.get("shard", "")} | ({"item": item} if item else {})
            write_line(event, **self._common, **fields)

    def failures(self, records: Iterable[PartRecord], shard: str) -> None:
        """Write a line for each failure of an item."""
        for record in records:
            for failure in record.failures:
                write_line(
                    "item_failed",
                    "warning",
                    **self._common,
                    shard=shard,
                    item=failure.uid,
                    feature=record.feature,
                    type=failure.type,
                    message=masked(failure.message),
                )


def write_line(event: str, level: str = "info", **fields: Any) -> None:
    """Write one JSON line to stderr, in one call, since threads share it."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "level": level, "event": event, "host": socket.gethostname(), "pid": os.getpid()} | fields
    sys.stderr.write(json.dumps(line, default=str) + "\n")
    sys.stderr.flush()
