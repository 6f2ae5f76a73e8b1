"""Whole-process measurements: CPU seconds and peak memory of a command and all its descendants."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """What a command used.

    Attributes:
        cpu_s: user and system seconds of it and its descendants.
        wall_s: seconds from start to end.
        peak_mb: largest resident set of one of its processes.
        output: what it printed.
    """

    cpu_s: float
    wall_s: float
    peak_mb: float
    output: str


def run(command: Sequence[str], cpus: Sequence[int] | None = None) -> Usage:
    """Run a command to its end, pinned to ``cpus`` when given.

    Each command is measured through a process of its own, since the system's counters for children only grow.
    """
    began = time.perf_counter()
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE, *command],
        capture_output=True,
        text=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None,
        check=False,
    )
    wall = time.perf_counter() - began
    *output, last = probe.stdout.splitlines() or [""]
    if probe.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{probe.stdout}\n{probe.stderr}")
    cpu, peak = map(float, last.split())
    return Usage(cpu, wall, peak, "\n".join(output))


def memory_mb(kind: str, process: int | None = None) -> float:
    """Return a figure of a process's memory in MB.

    Args:
        kind: as in ``/proc/PID/status``, such as VmRSS, VmHWM or RssAnon.
        process: its id; this process by default.
    """
    status = Path(f"/proc/{process or 'self'}/status").read_text()
    return int(status.split(f"{kind}:")[1].split()[0]) / 1000


_PROBE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(done.returncode)
"""


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns."""
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
