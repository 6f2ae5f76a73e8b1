"""Progress of a run on one machine: workers append small lines to a file, the terminal's process adds them up."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

from cliploom.schemas.records import Shard, ShardItem


@dataclass
class ProgressTally:
    """What has been done so far.

    Attributes:
        cost_ms, adopted_ms: the estimated work of what is done, and of what was found done.
        total_items, total_ms: what there is to do; 0 until the plan is made.
        at: uids of the items that workers have begun and not ended, in that order.
    """

    probed: int = 0
    items: int = 0
    rows: int = 0
    failures: int = 0
    adopted: int = 0
    cost_ms: int = 0
    adopted_ms: int = 0
    total_items: int = 0
    total_ms: int = 0
    at: dict[str, None] = field(default_factory=dict)


_EVERY_S = 0.2
_COUNTS = tuple(entry.name for entry in fields(ProgressTally) if entry.name != "at")


class ProgressLog:
    """Appends to the file at ``path``; does nothing when the path is empty or its folder is not there.

    A line is one ``write`` in append mode, so threads and processes may share the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def add(self, **counts: int | str) -> None:
        """Count what was just finished, by the names of ``ProgressTally``; ``began`` and ``ended`` name an item."""
        if self._path:
            line = json.dumps(counts, separators=(",", ":")) + "\n"
            try:
                handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            except FileNotFoundError:  # nobody looks: the terminal has gone, or is on another machine
                return
            try:
                os.write(handle, line.encode("ascii"))
            finally:
                os.close(handle)


class ProgressReader:
    """Adds up the lines that have come since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.tally = ProgressTally()

    def update(self) -> ProgressTally:
        """Read on from where the last call stopped."""
        if not self._path.exists():
            return self.tally
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                counts = json.loads(line)
                for name in _COUNTS:
                    setattr(self.tally, name, getattr(self.tally, name) + counts.get(name, 0))
                if "began" in counts:
                    self.tally.at[counts["began"]] = None
                self.tally.at.pop(counts.get("ended", ""), None)
        return self.tally


class ItemProgress:
    """Tells a log how far the items of a shard are, also within a long one.

    Args:
        log: told at most five times a second, and when an item begins or ends.
    """

    def __init__(self, log: ProgressLog) -> None:
        self._log = log
        self._spans: dict[int, tuple[float, float]] = {}
        self._told_ms: dict[int, int] = {}
        self._rows = self._cost_ms = 0
        self._last = 0.0

    def begin(self, item: ShardItem) -> None:
        """Say that work on an item begins."""
        self._spans[id(item)] = span_of(item)
        self._told_ms[id(item)] = 0
        self._log.add(began=item.duplicates[0].uid)

    def rows(self, item: ShardItem, start_s: float, rows: int) -> None:
        """Say that rows were made of an item, the last of which starts at ``start_s``."""
        begin, end = self._spans.get(id(item), (0.0, 0.0))
        share = min(1.0, max(0.0, (start_s - begin) / (end - begin))) if end > begin else 0.0
        told = self._told_ms.get(id(item), 0)
        fresh = max(0, int(item.cost_ms * share) - told)
        self._told_ms[id(item)] = told + fresh
        self._rows += rows * len(item.duplicates)
        self._cost_ms += fresh
        if time.monotonic() - self._last >= _EVERY_S:
            self._tell()

    def end(self, item: ShardItem) -> None:
        """Say that work on an item has ended."""
        self._spans.pop(id(item), None)
        self._cost_ms += item.cost_ms - self._told_ms.pop(id(item), 0)
        self._tell(items=items_of(item), ended=item.duplicates[0].uid)

    def adopt(self, shard: Shard) -> None:
        """Say that all parts of a shard were there."""
        items = sum(items_of(item) for item in shard.items)
        cost_ms = sum(item.cost_ms for item in shard.items)
        self._log.add(adopted=items, items=items, cost_ms=cost_ms, adopted_ms=cost_ms)

    def _tell(self, **more: int | str) -> None:
        self._log.add(rows=self._rows, cost_ms=self._cost_ms, **more)
        self._rows = self._cost_ms = 0
        self._last = time.monotonic()


def items_of(item: ShardItem) -> int:
    """Return the number of items that are done when this segment is: the last of its segments counts for all."""
    return len(item.duplicates) if item.segment.number + 1 == item.segment.of else 0


def span_of(item: ShardItem) -> tuple[float, float]:
    """Return the seconds from the item's start between which its samples lie; (0, 0) where that is not known."""
    try:
        facts = json.loads(item.facts)
        duration = float(facts["end_s"]) - float(facts["start_s"])
    except (ValueError, KeyError, TypeError):
        return 0.0, 0.0
    if item.segment.of == 1:
        return 0.0, duration
    return item.segment.start_s, min(item.segment.end_s, duration)
