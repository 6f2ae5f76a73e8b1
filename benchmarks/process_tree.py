"""CPU seconds and peak memory of a command with all that it starts, daemons included.

The system's counters for children leave out those that nobody waits for, such as the workers of a cluster that is shut
down; so the whole tree is looked at five times a second, and each process counts with the most that it was seen to
have used. Memory is proportional: a page that several processes share is counted once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TreeUsage:
    """What a command and its descendants used.

    Attributes:
        cpu_s: user and system seconds.
        wall_s: seconds from start to end.
        peak_mb: largest sum of proportional set sizes.
        output: what it printed.
    """

    cpu_s: float
    wall_s: float
    peak_mb: float
    output: str


class CommandFailedError(Exception):
    """A command ended with an error; the message has its last lines."""


def run_tree(command: Sequence[str], env: Mapping[str, str] | None = None, cwd: str | None = None) -> TreeUsage:
    """Run a command to its end.

    Raises:
        CommandFailedError: with its last lines, when it fails.
    """
    began = time.perf_counter()
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE, *command],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        check=False,
    )
    wall = time.perf_counter() - began
    *output, last = probe.stdout.splitlines() or [""]
    if probe.returncode:
        raise CommandFailedError(f"{' '.join(command)} failed:\n{probe.stdout[-2000:]}\n{probe.stderr[-4000:]}")
    cpu, peak = map(float, last.split())
    return TreeUsage(cpu, wall, peak, "\n".join(output))


_PROBE = """
import ctypes, os, resource, subprocess, sys, time

PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
ticks = os.sysconf("SC_CLK_TCK")
used, peak = {}, 0

def look():
    global peak
    parents, times = {}, {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(name)] = int(fields[1])
            times[int(name)] = (int(fields[19]), (int(fields[11]) + int(fields[12])) / ticks)
    wanted, found = {os.getpid()}, set()
    while wanted:
        wanted = {pid for pid, parent in parents.items() if parent in wanted} - found
        found |= wanted
    total = 0
    for pid in found:
        began, spent = times[pid]
        used[pid, began] = max(used.get((pid, began), 0), spent)
        try:
            for line in open(f"/proc/{pid}/smaps_rollup"):
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
                    break
        except OSError:
            pass
    peak = max(peak, total / 1024)
    return found

child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
while child.poll() is None:
    look()
    time.sleep(0.2)
# What it left behind ends by itself soon, or is not ours to wait for.
deadline = time.monotonic() + 10
while look() and time.monotonic() < deadline:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        break
    time.sleep(0.2)
waited = resource.getrusage(resource.RUSAGE_CHILDREN)
print(max(sum(used.values()), waited.ru_utime + waited.ru_stime), peak)
sys.exit(child.returncode)
"""
