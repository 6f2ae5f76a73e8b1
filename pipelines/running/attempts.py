"""Figures of a run over all its attempts: what was restarted and why, what was begun again, CPU seconds.

Beam's counters are those of the last attempt. Workers also report their work as they do it, through the progress log on
one machine and through heartbeats elsewhere; the reports of a killed worker remain.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliploom.pipelines.running.flink import flink_restarts
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work.heartbeat import cpu_seconds, read_heartbeats
from cliploom.transforms.work.progress import ProgressReader, ProgressTally

_REPORTED = ("decode_ms", "encode_ms", "write_ms", "frames_decoded")


@dataclass(frozen=True)
class Attempts:
    """The attempts of one run.

    Attributes:
        restarts: ``at`` (seconds since 1970) and ``reason`` of each, oldest first.
        repeated_shards: how often work on a shard began anew because an earlier attempt had not finished it.
        cpu_s: CPU seconds of the launcher and of all workers, also of those that died.
        figures: milliseconds and frames by stage, by the names of Beam's counters, also of work that was lost.
    """

    restarts: Sequence[Mapping[str, Any]] = ()
    repeated_shards: int = 0
    cpu_s: float = 0.0
    figures: Mapping[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the entry ``attempts`` of a report."""
        return {
            "number": len(self.restarts) + 1,
            "restarts": [dict(each) for each in self.restarts],
            "repeated_shards": self.repeated_shards,
            "cpu_seconds": round(self.cpu_s, 1),
        }


def local_attempts(progress: str, restarts: Sequence[Mapping[str, Any]], cpu_s: float) -> Attempts:
    """Return the attempts of a run on this machine.

    Args:
        progress: the progress log, or empty.
        restarts: that the supervisor has counted.
        cpu_s: CPU seconds of worker processes that have died.
    """
    tally = ProgressReader(Path(progress)).update() if progress else ProgressTally()
    return Attempts(restarts, tally.repeated, cpu_s + cpu_seconds(), tally.figures)


def cluster_attempts(
    objects: ObjectStore, run: str, masters: Iterable[str], job: str, own: Attempts | None = None
) -> Attempts:
    """Return the attempts of a run on a cluster, from its heartbeats and from Flink.

    Args:
        objects: the store.
        run: its id.
        masters: ``host:port`` of Flink clusters; none for other runners, whose restarts are not known.
        job: name of the job.
        own: restarts and CPU seconds of the launcher.
    """
    heard = read_heartbeats(objects, run, time.time())
    own = own or Attempts(heard.restarts)
    restarts = sorted([*own.restarts, *flink_restarts(masters, job)], key=lambda each: float(each["at"]))
    return Attempts(restarts, heard.tally.repeated, own.cpu_s + heard.cpu_s, heard.tally.figures)


def whole_counters(counters: Mapping[str, int], attempts: Attempts) -> dict[str, int]:
    """Return Beam's counters with those of lost attempts: a figure that workers reported is at least as large."""
    reported = attempts.figures or {}
    return dict(counters) | {
        name: max(counters.get(name, 0), reported[name]) for name in _REPORTED if reported.get(name)
    }
