"""``cliploom run`` on a Flink cluster of this machine against the local runner: same clips, same number of workers.

Start-up is taken off both by measuring each also on one clip. Figures: CPU seconds of everything that works (launcher,
workers, task managers, job manager, job server) for each frame, and their ratio; two workers against one by wall time;
bytes that Flink moved between its tasks for each frame.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.corpus import write_clips
from benchmarks.measure import table
from tests.integration.flink_cluster import FlinkCluster, flink_cluster, missing, wait_until

SPEC = """\
version: 1
name: benchmark
store: ./store
sources: {{clips: {{kind: media, glob: "{folder}/*.mp4"}}}}
encoders: {{lite0: {{kind: efficientnet_lite0, precision: f32}}}}
features: {{frames: {{source: clips, sample: {{every: 1s}}, encoder: lite0, outputs: [pooled]}}}}
targets:
  local: {{workers: {workers}}}
  flink:
    runner: FlinkRunner
    parallelism: {workers}
    job_endpoint: "{jobs}"
    environment_type: PROCESS
    environment_config: {worker}
    environment_cache_millis: 2000
"""
ROWS_PER_CLIP = 10
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cost:
    """What a run took: CPU and wall seconds, and bytes between tasks."""

    cpu_s: float
    wall_s: float
    shuffled: int


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of living processes and of their children that have ended."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def parents() -> list[int]:
    """Return the parent of each process of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found.append(int(path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]))
        except OSError:  # it has just ended
            continue
    return found


def measure(root: Path, clips: Path, target: str, workers: int, cluster: FlinkCluster) -> Cost:
    """Return a first run over a folder, its model prepared before."""
    folder = Path(tempfile.mkdtemp(dir=root))
    (folder / "store").mkdir()
    (folder / "store" / "models").symlink_to(root / "models")
    program = cluster.worker_command(folder / "worker", {"PYTHONPATH": str(ROOT)})
    worker = json.dumps(json.dumps({"command": str(program)}))
    spec = SPEC.format(folder=clips, workers=workers, jobs=cluster.endpoint, worker=worker)
    (folder / "spec.yaml").write_text(spec, encoding="utf-8")
    command = [sys.executable, "-m", "cliploom", "run", str(folder / "spec.yaml"), "--target", target]
    earlier = len(cluster.jobs())
    before, own, began = cpu_seconds(cluster.pids), os.times(), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}\n{cluster.logs()}")
    spent = after.children_user + after.children_system - own.children_user - own.children_system
    # A worker's time is its task manager's once it has ended.
    wait_until(lambda: not set(parents()) & {manager.pid for manager in cluster.taskmanagers}, "the workers' end")
    on_cluster = cpu_seconds(cluster.pids) - before
    if target == "local":
        return Cost(spent, wall, 0)
    jobs = cluster.jobs()
    vertices = [each for job in jobs[: len(jobs) - earlier] for each in cluster.ask(f"/jobs/{job['jid']}")["vertices"]]
    return Cost(spent + on_cluster, wall, sum(vertex["metrics"]["write-bytes"] for vertex in vertices))


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks flink", description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", choices=(1, 2), default=(1, 2))
    chosen = parser.parse_args(arguments)
    if lacking := missing():
        print(lacking, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as name:
        root = Path(name)
        (root / "models").mkdir()
        write_clips(root / "one", 1)
        write_clips(root / "many", chosen.clips)
        frames = (chosen.clips - 1) * ROWS_PER_CLIP
        with flink_cluster(root / "cluster") as cluster:
            measure(root, root / "one", "local", 1, cluster)  # prepares the model
            measure(root, root / "one", "flink", 2, cluster)  # warms the cluster
            rows, costs = [], {}
            for target in ("local", "flink"):
                for workers in chosen.workers:
                    one = measure(root, root / "one", target, workers, cluster)
                    many = measure(root, root / "many", target, workers, cluster)
                    cost = Cost(many.cpu_s - one.cpu_s, many.wall_s - one.wall_s, many.shuffled - one.shuffled)
                    costs[target, workers] = cost
                    ratio = cost.cpu_s / costs["local", workers].cpu_s
                    shown = [f"{cost.cpu_s / frames * 1000:.1f}", f"{ratio:.2f}", f"{cost.wall_s:.1f}"]
                    rows.append([target, workers, *shown, f"{cost.shuffled / frames:.0f}", f"{one.wall_s:.1f}"])
    header = ["target", "workers", "CPU ms/frame", "of local", "wall s", "shuffled bytes/frame", "start s"]
    table(header, rows)
    for target in ("local", "flink") if len(chosen.workers) > 1 else ():
        print(f"{target}: two workers against one {costs[target, 1].wall_s / costs[target, 2].wall_s:.2f} times")
    return 0
