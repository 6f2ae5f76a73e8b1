"""Progress of a run: workers say what they have done, line by line, and whoever watches adds it up.

On one machine the lines go through a file; workers elsewhere add up their own and leave the sums in the store
(``cliploom.transforms.work.heartbeat``). Work is counted once for each shard, however often the shard is tried.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cliploom.schemas.digests import digest_of
from cliploom.schemas.records import Shard, ShardItem

if TYPE_CHECKING:
    from cliploom.transforms.store.part_builder import Timings


@dataclass
class ProgressTally:
    """What has been done so far.

    Attributes:
        items: that are finished, each counted once whatever the number of its features.
        rows: of all features.
        postponed: items that are left for the next run because time is up.
        cost_ms, adopted_ms: the estimated work of what is done, and of what was found done.
        total_items, total_ms: what there is to do; 0 until the plan is made.
        at: uids of the items that workers have begun and not ended, in that order.
        repeated: how often work on a shard began anew because an earlier attempt had not finished it.
        figures: milliseconds and frames by stage, summed over all attempts, also those that were lost.
        workers: by worker process on other machines: items, rows and the age in seconds of its last heartbeat.
    """

    probed: int = 0
    items: int = 0
    rows: int = 0
    failures: int = 0
    adopted: int = 0
    postponed: int = 0
    cost_ms: int = 0
    adopted_ms: int = 0
    total_items: int = 0
    total_ms: int = 0
    at: dict[str, None] = field(default_factory=dict)
    repeated: int = 0
    figures: dict[str, int] = field(default_factory=dict)
    workers: dict[str, dict[str, float]] = field(default_factory=dict)


_EVERY_S = 0.2
_COUNTS = tuple(
    entry.name for entry in fields(ProgressTally) if entry.name not in ("at", "repeated", "figures", "workers")
)


class ProgressSink(Protocol):
    """Takes what was just finished, by the names of ``ProgressTally``.

    ``shard`` names the shard that it belongs to, ``tried`` says that work on the shard begins (anew), ``replaced`` that
    its counts so far are said again, ``began`` and ``ended`` name an item, ``at`` all items that are at work,
    ``figures`` are to be added by name, and ``repeated_in_all``, ``figures_in_all`` and ``workers`` replace what is
    known.
    """

    def add(self, **counts: Any) -> None:
        """Count it."""


class ProgressLog:
    """Appends to the file at ``path``; does nothing when the path is empty or its folder is not there.

    A line is one ``write`` in append mode, so threads and processes may share the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def add(self, **counts: Any) -> None:
        """Count what was just finished; see ``ProgressSink``."""
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


@dataclass
class ShardTally:
    """What has been done of one shard, and which of its items are at work."""

    counts: dict[str, int] = field(default_factory=dict)
    at: set[str] = field(default_factory=set)
    tries: int = 0


class ProgressSum:
    """Adds up what sinks are told; a shard that is tried again counts once."""

    def __init__(self) -> None:
        self.tally = ProgressTally()
        self.shards: dict[str, ShardTally] = {}

    def add(self, counts: Mapping[str, Any]) -> None:
        """Count one line; see ``ProgressSink``."""
        shard = self.shards.setdefault(counts["shard"], ShardTally()) if "shard" in counts else None
        if shard is not None and counts.get("tried"):
            self.tally.repeated += shard.tries > 0
            shard.tries += 1
        if shard is not None and (counts.get("tried") or counts.get("replaced")):
            self._forget(shard)
        for name, value in counts.get("figures", {}).items():
            self.tally.figures[name] = self.tally.figures.get(name, 0) + value
        self.tally.repeated = counts.get("repeated_in_all", self.tally.repeated)
        self.tally.figures = dict(counts.get("figures_in_all", self.tally.figures))
        self.tally.workers = dict(counts.get("workers", self.tally.workers))
        if shard is not None and counts.get("adopted") and shard.counts.get("items", 0) >= counts["adopted"]:
            return  # it was finished in this run
        for name in _COUNTS:
            if counts.get(name):
                setattr(self.tally, name, getattr(self.tally, name) + counts[name])
                if shard is not None:
                    shard.counts[name] = shard.counts.get(name, 0) + counts[name]
        if "at" in counts:
            self.tally.at = dict.fromkeys(counts["at"])
        if "began" in counts:
            self.tally.at[counts["began"]] = None
            if shard is not None:
                shard.at.add(counts["began"])
        if "ended" in counts:
            self.tally.at.pop(counts["ended"], None)
            if shard is not None:
                shard.at.discard(counts["ended"])

    def _forget(self, shard: ShardTally) -> None:
        for name, count in shard.counts.items():
            setattr(self.tally, name, getattr(self.tally, name) - count)
        for uid in shard.at:
            self.tally.at.pop(uid, None)
        shard.counts.clear()
        shard.at.clear()


class ProgressReader:
    """Adds up the lines of a ``ProgressLog`` that have come since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._sum = ProgressSum()

    @property
    def tally(self) -> ProgressTally:
        """What was found by the last look."""
        return self._sum.tally

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
                self._sum.add(json.loads(line))
        return self.tally


class ItemProgress:
    """Tells sinks how far the items of a shard are, also within a long one.

    Args:
        shard: that is worked on.
        sinks: told at most five times a second, and when an item begins or ends.
    """

    def __init__(self, shard: Shard, *sinks: ProgressSink) -> None:
        self._shard = shard
        self._name = shard_name(shard)
        self._sinks = sinks
        self._spans: dict[int, tuple[float, float]] = {}
        self._told_ms: dict[int, int] = {}
        self._rows = self._cost_ms = 0
        self._last = 0.0
        self._timings: Timings | None = None
        self._figures: dict[str, int] = {}

    def start(self, timings: Timings | None = None) -> None:
        """Say that work on the shard begins, perhaps not for the first time.

        Args:
            timings: of the shard, told whenever something else is, so that those of a lost attempt are known.
        """
        self._timings = timings
        self._add(tried=1)

    def begin(self, item: ShardItem) -> None:
        """Say that work on an item begins."""
        self._spans[id(item)] = span_of(item)
        self._told_ms[id(item)] = 0
        self._add(began=item.duplicates[0].uid)

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

    def adopt(self) -> None:
        """Say that all parts of the shard were there."""
        items = sum(items_of(item) for item in self._shard.items)
        cost_ms = sum(item.cost_ms for item in self._shard.items)
        self._add(adopted=items, items=items, cost_ms=cost_ms, adopted_ms=cost_ms)

    def postpone(self) -> None:
        """Say that the shard is left for the next run."""
        self._add(postponed=sum(items_of(item) for item in self._shard.items))

    def failures(self, count: int) -> None:
        """Say that items of the shard have failed."""
        if count:
            self._add(failures=count)

    def finish(self) -> None:
        """Say that all parts of the shard are made."""
        self._tell(finished=1)

    def _add(self, **counts: Any) -> None:
        for sink in self._sinks:
            sink.add(shard=self._name, **counts)

    def _tell(self, **more: Any) -> None:
        if self._timings is not None:
            now = self._timings.figures()
            fresh = {name: value - self._figures.get(name, 0) for name, value in now.items()}
            self._figures = now
            if any(fresh.values()):
                more["figures"] = {name: value for name, value in fresh.items() if value}
        self._add(rows=self._rows, cost_ms=self._cost_ms, **more)
        self._rows = self._cost_ms = 0
        self._last = time.monotonic()


def shard_name(shard: Shard) -> str:
    """Name of a shard in lines and heartbeats: the same whoever works on it."""
    return digest_of([list(shard.features), [item.recipe() for item in shard.items]])[:12]


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
