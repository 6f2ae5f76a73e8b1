"""Heartbeats: what each process of a run leaves in the store, so that anybody who reads it can see how far the run is.

One small object a process, ``runs/<run>/heartbeats/<name>.json``, written every ten seconds, and within two after a
finished shard. On one machine the first comes after ten, so that short runs leave none. Workers say what they have done
of which shard; readers add that up, and count a shard once that two of them have tried. The launcher says only that it
is there, and at which stage.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work.progress import ProgressSum, ProgressTally

EVERY_S = 10.0
_LEAST_S = 2.0
FRESH_S = 60.0
"""A process that has not been heard of for so long has ended, or can't write."""
LAUNCHER = "launcher"
_MOST_AT_WORK = 16
_COUNTS = ("items", "rows", "failures", "adopted", "cost_ms", "adopted_ms", "postponed")
_TRIES = len(_COUNTS)
"""Position of a shard's number of tries, after its counts."""

_beating: dict[tuple[str, str], Heartbeat] = {}
_starting = threading.Lock()


class Heartbeat:
    """What one process says of its part in a run; a thread of its own writes it."""

    def __init__(
        self, objects: ObjectStore, run: str, name: str, every_s: float = EVERY_S, *, soon: bool = False
    ) -> None:
        self._objects = objects
        self._path = f"{folder_of(run)}/{name}.json"
        self._every_s = every_s
        self._sum = ProgressSum()
        self._lock = threading.Lock()
        self._heard = time.monotonic()
        self._over = threading.Event()
        self._soon = threading.Event()
        self._first = self._soon if soon else self._over
        self._cpu_s = cpu_seconds()
        self.stage = ""
        self.restarts: Sequence[Mapping[str, Any]] = ()

    def add(self, **counts: Any) -> None:
        """Count what was just finished; see ``ProgressSink``."""
        with self._lock:
            self._sum.add(counts)
            self._heard = time.monotonic()
        if counts.get("finished"):
            self._soon.set()

    def start(self) -> None:
        """Begin to write; the process need not wait for the thread when it ends."""
        threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()

    def stop(self) -> None:
        """Write no more, and take away what was written."""
        self._over.set()
        self._soon.set()
        with suppress(CliploomError, OSError):
            self._objects.delete([self._path])

    def write(self) -> None:
        """Leave in the store what is known now."""
        with self._lock:
            shards = {
                name: [*(shard.counts.get(key, 0) for key in _COUNTS), shard.tries]
                for name, shard in self._sum.shards.items()
            }
            figures = dict(self._sum.tally.figures)
            at = list(self._sum.tally.at)[:_MOST_AT_WORK]
        body = {
            "at": time.time(),
            "host": machine(),
            "pid": os.getpid(),
            "stage": self.stage,
            "shards": shards,
            "items_at_work": at,
            "figures": figures,
            "cpu_s": round(cpu_seconds() - self._cpu_s, 3),
            "restarts": list(self.restarts),
        }
        self._objects.put(self._path, json.dumps(body, separators=(",", ":")).encode())

    @property
    def idle(self) -> bool:
        """Nothing was heard of this run for a while, and nothing is at work."""
        with self._lock:
            return not self.stage and not self._sum.tally.at and time.monotonic() - self._heard > FRESH_S

    def _beat(self) -> None:
        self._first.wait(self._every_s)
        # A worker process may outlive the run, and serve another one.
        while not self._over.is_set() and not self.idle:
            self._soon.clear()
            # A store that can't be written for a while stops the work itself soon enough.
            with suppress(CliploomError, OSError):
                self.write()
            # A worker that dies takes with it what it has not written; so a finished shard is reported soon.
            self._over.wait(min(_LEAST_S, self._every_s))
            self._soon.wait(max(0.0, self._every_s - _LEAST_S))
        with _starting:
            for key in [key for key, beat in _beating.items() if beat is self]:
                del _beating[key]


def heartbeat_of(objects: ObjectStore, run: str, *, soon: bool = False) -> Heartbeat:
    """The heartbeat of this worker process for a run; the first call begins it.

    Args:
        objects: the store.
        run: id of the run.
        soon: write it first when a shard is finished, and not only after ten seconds.
    """
    with _starting:
        beat = _beating.get((objects.uri, run))
        if beat is None:
            beat = _beating[objects.uri, run] = Heartbeat(objects, run, f"worker-{uuid.uuid4().hex[:12]}", soon=soon)
            beat.start()
        return beat


def cpu_seconds() -> float:
    """Return the CPU seconds that this process, and those it has started and waited for, have used so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@contextmanager
def launcher_heartbeat(
    objects: ObjectStore,
    run: str,
    stage: str,
    every_s: float = EVERY_S,
    restarts: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Heartbeat]:
    """The heartbeat of the process that waits for a run, for as long as it does; its own work ends with it."""
    beat = Heartbeat(objects, run, LAUNCHER, every_s)
    beat.stage, beat.restarts = stage, restarts
    beat.start()
    try:
        yield beat
    finally:
        beat.stop()
        with _starting:
            mine = _beating.pop((objects.uri, run), None)
        if mine is not None:
            mine.stop()


def folder_of(run: str) -> str:
    """The folder of a run's heartbeats, relative to the store."""
    return f"runs/{run}/heartbeats"


@dataclass
class Heard:
    """What the heartbeats of a run say.

    Attributes:
        tally: of all workers together.
        shards: the same for each shard.
        workers: that were heard of within ``FRESH_S``.
        launcher: the launcher was.
        newest_s: age of the newest heartbeat in seconds; None when there is none.
        stage: as the launcher says it.
        cpu_s: CPU seconds of all worker processes, also of those that have ended.
        restarts: of the launcher's own worker process: ``at`` (seconds since 1970) and ``reason``.
    """

    tally: ProgressTally = field(default_factory=ProgressTally)
    shards: dict[str, dict[str, int]] = field(default_factory=dict)
    workers: int = 0
    launcher: bool = False
    newest_s: float | None = None
    stage: str = ""
    cpu_s: float = 0.0
    restarts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Somebody is at work on the run."""
        return self.launcher or self.workers > 0


def read_heartbeats(objects: ObjectStore, run: str, now: float) -> Heard:
    """Add up the heartbeats of a run.

    Args:
        objects: the store.
        run: its id.
        now: seconds since 1970.
    """
    heard = Heard()
    best: dict[str, list[int]] = {}
    tries: dict[str, int] = {}
    for entry in objects.list(folder_of(run)):
        try:
            body: dict[str, Any] = json.loads(objects.get(entry.path))
            at, shards, stage = float(body["at"]), dict(body["shards"]), str(body["stage"])
            age_s = max(0.0, now - at)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue  # it was taken away meanwhile, or is of a newer version
        fresh = age_s < FRESH_S and not _is_gone(body)
        heard.newest_s = age_s if heard.newest_s is None else min(heard.newest_s, age_s)
        if entry.path.endswith(f"/{LAUNCHER}.json"):
            heard.launcher, heard.stage = fresh, stage
            heard.restarts = _restarts(body)
        else:
            heard.workers += fresh
            _add_figures(heard, entry.path.rsplit("/", 1)[-1].removesuffix(".json"), body, age_s, fresh=fresh)
            if fresh:
                heard.tally.at |= dict.fromkeys(map(str, body.get("items_at_work", ())))
        for name, counts in shards.items():
            best[name] = max(best.get(name, []), counts[:_TRIES])
            tries[name] = tries.get(name, 0) + (counts[_TRIES] if len(counts) > _TRIES else 0)
    for name, counts in best.items():
        heard.shards[name] = dict(zip(_COUNTS, map(int, counts), strict=False))
        for key, count in heard.shards[name].items():
            setattr(heard.tally, key, getattr(heard.tally, key) + count)
    heard.tally.repeated = sum(max(0, count - 1) for count in tries.values())
    return heard


def _restarts(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    told = body.get("restarts")
    return [each for each in told if isinstance(each, dict)] if isinstance(told, list) else []


def _add_figures(heard: Heard, worker: str, body: Mapping[str, Any], age_s: float, *, fresh: bool) -> None:
    """Add the figures of one worker; heartbeats of older versions have none."""
    with suppress(ValueError, TypeError, AttributeError, IndexError):
        heard.cpu_s += float(body.get("cpu_s", 0.0))
        for name, value in dict(body.get("figures", {})).items():
            heard.tally.figures[name] = heard.tally.figures.get(name, 0) + int(value)
        if fresh:
            counts = list(body["shards"].values())
            items, rows = (sum(int(each[place]) for each in counts) for place in (0, 1))
            heard.tally.workers[worker] = {"items": items, "rows": rows, "age_s": round(age_s, 1)}


def machine() -> str:
    """Name of this machine, or of the container: where a process number means the same process."""
    with suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _is_gone(body: dict[str, Any]) -> bool:
    """The process was one of this machine and runs no more."""
    if body.get("host") != machine():
        return False
    try:
        os.kill(int(body["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, ValueError, KeyError):
        return False
    return False
