"""What keeps workers from using all cores: the interpreter that threads share, and work that waits for the launcher.

``held``: how long worker threads hold the interpreter while they compute, sampled from outside
(``benchmarks.interpreter``), with the fastest built-in encoder. A thread that is preempted while it holds it counts as
holding, so measure on a quiet machine. ``pairs``: two workers against two loops by hand that run side by side, each
over half of the clips, start-up taken off. ``waiting``: workers whose encoder sleeps, all else real, against one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.corpus import write_clips
from benchmarks.fixed import write_pictures
from benchmarks.interpreter import announce, held_share, holder_address
from benchmarks.measure import run, table
from cliploom.pipelines.planning.pack import SHARDS_A_WORKER

PARTS = ("held", "pairs", "waiting")
SPEC = """\
version: 1
name: cores
store: ./store-{name}
sources: {{clips: {{kind: media, glob: "{folder}/*"}}}}
encoders: {{e: {{kind: {encoder}}}}}
features: {{frames: {{source: clips, sample: {{every: 1s}}, encoder: e}}}}
targets: {{local: {{workers: {workers}, processes: {processes}}}}}
"""
SLEEPER = """
import time
import numpy as np
from cliploom.encoders import Family, Output, Preprocess

class Sleeper(Family):
    kind = "sleeper"
    REVISION = 1
    def modality(self, options): return "frame"
    def output_names(self, options, text): return ("none",)
    def fingerprint(self, options): return {}
    def prepare(self, options, folder, text):
        return self.card(options, outputs={"none": Output(dim=1, space="none")}, preprocess=Preprocess(16, 16))
    def open(self, folder, card, threads): return self
    def encode(self, batch, report=None):
        time.sleep(2.0 * len(batch))
        return [{"none": np.ones(1, np.float32)} for _ in batch]
"""


def write_spec(root: Path, name: str, folder: str, workers: int, *, processes: bool = False, encoder: str = "") -> Path:
    """Write a spec; returns its path."""
    path = root / f"{name}.yaml"
    kind = encoder or "efficientnet_lite0"
    said = "true" if processes else "false"
    path.write_text(SPEC.format(name=name, folder=folder, workers=workers, processes=said, encoder=kind))
    return path


def announced_run(announced: Path, spec: Path, progress: Path) -> None:
    """A run in this process, which says where its interpreter's state is."""
    from cliploom.pipelines.running.run import RunOptions, run_spec
    from cliploom.schemas.spec_file import load_document, parse_document

    announce(announced)
    document = load_document(spec, ())
    options = RunOptions(progress=str(progress))
    run_spec(parse_document(document), document, spec.parent, options, lambda text: None)
    os._exit(0)


def sleeping_run(spec: Path) -> int:
    """A run in this process whose shards are as small as they get; prints its seconds by stage."""
    from cliploom.pipelines.planning import pack
    from cliploom.pipelines.running.run import RunOptions, run_spec
    from cliploom.schemas.spec_file import load_document, parse_document

    # The planner thinks that these pictures take no time.
    pack.LEAST_COST_S = 0.0
    document = load_document(spec, ())
    print(json.dumps(run_spec(parse_document(document), document, spec.parent, RunOptions(), print).seconds))
    sys.stdout.flush()
    os._exit(0)


def held(root: Path, spec: Path) -> float:
    """Share of the time in which a thread holds the interpreter, from the first item that is begun to the last."""
    from cliploom.transforms.work.progress import ProgressReader

    announced, progress = root / f"{spec.stem}.announced", root / f"{spec.stem}.progress"
    command = [sys.executable, "-m", "benchmarks", "cores", "--announced", str(announced), str(spec), str(progress)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    pid, address = holder_address(announced)
    begun, ended = threading.Event(), threading.Event()

    def watch() -> None:
        reader = ProgressReader(progress)
        while child.poll() is None and not ended.is_set():
            tally = reader.update()
            if tally.at or tally.items:
                begun.set()
            if tally.items and tally.items >= tally.total_items:
                break
            time.sleep(0.05)
        begun.set()
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    begun.wait()
    share, _ = held_share(pid, address, lambda: not ended.is_set())
    if child.wait():
        raise SystemExit(f"{' '.join(command)} failed.")
    return share


def together(commands: list[list[str]], cpus: list[int]) -> float:
    """Wall seconds of commands that run side by side, each on a core of its own."""
    began = time.perf_counter()
    children = []
    for command, cpu in zip(commands, cpus, strict=True):
        pin: Callable[[], None] = lambda cpu=cpu: os.sched_setaffinity(0, [cpu])  # type: ignore[misc]  # noqa: E731
        children.append(subprocess.Popen(command, preexec_fn=pin, stdout=subprocess.DEVNULL))
    if any(code for code in [child.wait() for child in children]):
        raise SystemExit("A loop by hand failed.")
    return time.perf_counter() - began


def pairs(root: Path, clips: int) -> list[list[str]]:
    """Rows of the table: rows a second of two loops by hand, two threads and two processes."""
    folders = [root / "one", root / "half0", root / "half1"]
    write_clips(folders[0], 1)
    for number, clip in enumerate(sorted((root / "clips").iterdir())):
        folders[1 + number % 2].mkdir(exist_ok=True)
        os.link(clip, folders[1 + number % 2] / clip.name)
    loop = [sys.executable, "-m", "benchmarks", "pipeline", "--by-hand"]
    run([*loop, str(folders[0])])  # prepares the model
    one = together([[*loop, str(folders[0])]], [0])
    walls = {"two loops by hand": together([[*loop, str(folder)] for folder in folders[1:]], [0, 1]) - one}
    for name, processes in (("two threads", False), ("two processes", True)):
        spent = []
        for folder in ("one", "clips"):
            spec = write_spec(root, f"{name.replace(' ', '-')}-{folder}", folder, 2, processes=processes)
            (root / f"store-{spec.stem}").mkdir()
            (root / f"store-{spec.stem}" / "models").symlink_to(root / "models")
            spent.append(run([sys.executable, "-m", "cliploom", "run", str(spec)], [0, 1]).wall_s)
        walls[name] = spent[1] - spent[0]
    rate = {name: 10 * (clips - 1) / wall for name, wall in walls.items()}
    return [[name, f"{each:.1f}", f"{each / rate['two loops by hand']:.2f}"] for name, each in rate.items()]


def waiting(root: Path, workers: int) -> tuple[float, float]:
    """How many times one worker ``workers`` of them are, and milliseconds of planning a shard.

    One worker is not run: its time is the sum of the sleeps.
    """
    info = root / "installed" / "sleeper-1.dist-info"
    info.mkdir(parents=True)
    (root / "installed" / "sleeper.py").write_text(SLEEPER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sleeper\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[cliploom.encoders]\nsleeper = sleeper:Sleeper\n")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root / "installed"), os.environ.get("PYTHONPATH", "")])
    count = SHARDS_A_WORKER * workers
    write_pictures(root / "pictures", count)
    spec = write_spec(root, "waiting", "pictures", workers, encoder="sleeper")
    output = run([sys.executable, "-m", "benchmarks", "cores", "--sleeping", str(spec)]).output
    seconds: dict[str, float] = json.loads(output.splitlines()[-1])
    return 2.0 * count / seconds["compute"], 1000 * seconds["plan"] / count


def main(arguments: list[str]) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="benchmarks cores", description=__doc__)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--workers", type=int, default=32, help="of the part waiting")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--announced", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--sleeping", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.announced:
        announced_run(*map(Path, chosen.announced))
    if chosen.sleeping:
        return sleeping_run(Path(chosen.sleeping))
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as name:
        root = Path(name)
        write_clips(root / "clips", chosen.clips)
        if "held" in chosen.parts:
            rows = []
            for workers in (1, 2):
                share = held(root, write_spec(root, f"held-{workers}", "clips", workers))
                rows.append([workers, f"{share:.1%}", f"{share / workers:.1%}"])
            table(["worker threads", "interpreter held", "a worker"], rows)
        if "pairs" in chosen.parts:
            table(["two cores", "rows/s", "of by hand"], pairs(root, chosen.clips))
        if "waiting" in chosen.parts:
            times, planning_ms = waiting(root, chosen.workers)
            print(f"{chosen.workers} workers that wait: {times:.1f} times one; planning {planning_ms:.2f} ms a shard")
    return 0
