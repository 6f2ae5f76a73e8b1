"""Reads the log of a Delta table for ``verify`` and ``vacuum``: which entry is damaged, which can be removed.

Format: the Delta transaction log protocol. ``_delta_log/<version, 20 digits>.json`` holds one action a line;
``<version>.checkpoint.parquet`` holds the state at a version, so that older entries are not needed any more.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cliploom.schemas.errors import StoreError
from cliploom.transforms.store.object_store import ObjectStore

LOG = "_delta_log"
LAST_CHECKPOINT = "_last_checkpoint"
_ENTRY = re.compile(r"(\d{20})(\.checkpoint\.parquet|\.json)$")
_ACTIONS = {"commitInfo", "protocol", "metaData", "add", "remove"}


class LogError(StoreError):
    """An entry of a table's log is missing or damaged.

    Attributes:
        path: path of the entry, relative to the store.
        problem: description of the damage.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} {problem}.")
        self.path = path
        self.problem = problem


@dataclass(frozen=True)
class LoggedFile:
    """A data file in the log: name inside the table's folder, size in bytes, rows (-1 if unknown)."""

    name: str
    size: int
    rows: int


@dataclass(frozen=True)
class LogEntries:
    """The files of a table's log.

    Attributes:
        commits: path by version.
        checkpoints: path by version.
        other: paths of all other files.
    """

    commits: dict[int, str] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)
    other: tuple[str, ...] = ()


def list_log(objects: ObjectStore, table: str) -> LogEntries:
    """List the log's files; all empty if there is no table."""
    commits, checkpoints, other = {}, {}, []
    for entry in objects.list(f"{table}/{LOG}"):
        match = _ENTRY.search(entry.path)
        if match is None:
            other.append(entry.path)
        elif match[2] == ".json":
            commits[int(match[1])] = entry.path
        else:
            checkpoints[int(match[1])] = entry.path
    return LogEntries(commits, checkpoints, tuple(sorted(other)))


def needed_from(entries: LogEntries, version: int) -> int | None:
    """Return the newest checkpoint at or before a version, from which readers start; None if they start at 0."""
    return max((number for number in entries.checkpoints if number <= version), default=None)


def replay(objects: ObjectStore, table: str, version: int) -> list[LoggedFile]:
    """Return the table's files at a version, by name; each entry is checked against the state before it.

    Raises:
        LogError: for the first entry that is missing, damaged, or inconsistent with those before it.
    """
    entries = list_log(objects, table)
    start = needed_from(entries, version)
    live: dict[str, LoggedFile] = {}
    if start is not None:
        live = _read_checkpoint(objects, entries.checkpoints[start])
    for number in range(0 if start is None else start + 1, version + 1):
        path = entries.commits.get(number, f"{table}/{LOG}/{number:020d}.json")
        actions = _read_commit(objects, path)
        kinds = [next(iter(action)) for action in actions]
        if (number == 0) != ("protocol" in kinds):
            raise LogError(path, "is the entry of another version")
        gone = {action["remove"]["path"] for action in actions if "remove" in action}
        if not gone <= live.keys():
            raise LogError(path, f"removes {sorted(gone - live.keys())[0]}, which the versions before it don't have")
        live = {name: file for name, file in live.items() if name not in gone}
        live |= {file.name: file for file in (_logged(action["add"]) for action in actions if "add" in action)}
    return [live[name] for name in sorted(live)]


def _read_commit(objects: ObjectStore, path: str) -> list[dict[str, Any]]:
    try:
        text = objects.get(path).decode("utf-8")
        actions = [json.loads(line) for line in text.splitlines() if line]
        whole = bool(actions) and all(
            isinstance(action, dict) and len(action) == 1 and action.keys() <= _ACTIONS for action in actions
        )
        for action in actions if whole else ():
            for key in ("add", "remove"):
                if key in action and not isinstance(action[key]["path"], str):
                    whole = False
            if "add" in action:
                _logged(action["add"])
    except FileNotFoundError:
        raise LogError(path, "is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LogError(path, f"is damaged ({type(error).__name__})") from None
    if not whole:
        raise LogError(path, "is damaged (an action that this program never writes)")
    return actions


def _read_checkpoint(objects: ObjectStore, path: str) -> dict[str, LoggedFile]:
    try:
        rows = pq.read_table(io.BytesIO(objects.get(path)), columns=["add"])["add"].to_pylist()
        files = [_logged(add) for add in rows if add is not None and add["path"] is not None]
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise LogError(path, f"is damaged ({type(error).__name__})") from None
    return {file.name: file for file in files}


def _logged(add: dict[str, Any]) -> LoggedFile:
    stats = json.loads(add.get("stats") or "{}")
    return LoggedFile(add["path"], int(add["size"]), int(stats.get("numRecords", -1)))
