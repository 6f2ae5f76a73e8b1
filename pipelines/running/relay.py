"""Progress of workers on other machines: copies their heartbeats from the store into this machine's progress log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work.heartbeat import EVERY_S, read_heartbeats
from cliploom.transforms.work.progress import ProgressSink


class Relay:
    """Tells a sink what has changed of a run's shards since the last look."""

    def __init__(self, objects: ObjectStore, run: str, sink: ProgressSink) -> None:
        self._objects = objects
        self._run = run
        self._sink = sink
        self._told: dict[str, dict[str, int]] = {}

    def look(self) -> None:
        """Read the heartbeats and tell what is new."""
        heard = read_heartbeats(self._objects, self._run, time.time())
        for name, counts in heard.shards.items():
            if self._told.get(name) != counts:
                self._sink.add(shard=name, replaced=1)
                self._sink.add(shard=name, **counts)
                self._told[name] = counts
        self._sink.add(
            at=list(heard.tally.at),
            repeated_in_all=heard.tally.repeated,
            figures_in_all=heard.tally.figures,
            workers=heard.tally.workers,
        )


@contextmanager
def relayed(objects: ObjectStore, run: str, sink: ProgressSink | None, every_s: float = EVERY_S) -> Iterator[None]:
    """Tell a sink of the run's heartbeats for as long as the block lasts; do nothing without a sink."""
    if sink is None:
        yield
        return
    relay, over = Relay(objects, run, sink), threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            # Progress is a courtesy: a store that can't be read now may be in ten seconds.
            with suppress(CliploomError, OSError):
                relay.look()

    threading.Thread(target=watch, daemon=True, name="progress").start()
    try:
        yield
    finally:
        over.set()
