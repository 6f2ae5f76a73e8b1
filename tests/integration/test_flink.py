"""``cliploom run`` on a Flink cluster of two task managers, and what it makes of the cluster's faults."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from flink_cluster import FlinkCluster, flink_cluster, missing, wait_until, worker_pool
from media_factory import write_noise
from stores import pan

import cliploom
from pipelines.demo_corpus import CAT, COFFEE, ROCKET
from pipelines.listings import failure_rows

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

ROOT = Path(__file__).resolve().parents[2]
CLIPS, FRAMES = 12, 20
PATIENCE_S = 900
POISON = "media/poison.mp4"
SPEC = """\
version: 1
name: cluster
store: ./store
sources:
  clips: {kind: media, glob: "media/*"}
encoders:
  minilm: {kind: minilm}
  lite0: {kind: efficientnet_lite0, text_encoder: minilm}
features:
  frames: {source: clips, sample: {every: 200ms}, encoder: lite0, outputs: [pooled, semantic]}
indexes:
  frames: {feature: frames, output: semantic, kind: flat}
exports:
  frames_h5: {kind: hdf5, feature: frames}
targets:
  local: {}
  loopback: {runner: FlinkRunner, job_endpoint: "${JOBS}", parallelism: 2, environment_type: LOOPBACK}
  flink:
    runner: FlinkRunner
    job_endpoint: "${JOBS}"
    parallelism: 2
    environment_type: EXTERNAL
    environment_config: "${POOL:-}"
    environment_cache_millis: 10000
limits: {max_failed: 50%}
"""
# Loaded by every Python process of the worker pool at its start: a decoder that takes its process down on one file.
FATAL_DECODER = """\
import os
import transforms.media.decode as decoding

decode = decoding.decode


def fatal(path, *rest, **named):
    if path.name == "poison.mp4":
        os._exit(139)
    return decode(path, *rest, **named)


decoding.decode = fatal
"""


@dataclass(frozen=True)
class Project:
    """Clips and a spec, with the store that the local runner makes of them."""

    folder: Path

    def start(self, store: str, target: str, environment: dict[str, str]) -> subprocess.Popen[str]:
        """``cliploom run`` as a person starts it; ``store`` has the models of the local one."""
        if (self.folder / "local").exists():
            shutil.copytree(self.folder / "local" / "models", self.folder / store / "models")
        command = ["run", "cliploom.yaml", "--target", target, "--set", f"store=./{store}", "--json"]
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines", *command],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JOBS": "none:0"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def parts(self, store: str) -> dict[str, int]:
        """Finished parts with the time of their making."""
        found = (self.folder / store).glob("features/frames/*/part-*.parquet")
        return {path.name: path.stat().st_mtime_ns for path in found}

    def rows(self, store: str) -> pl.DataFrame:
        """All rows of the newest release."""
        return cliploom.open(self.folder / store).table("frames").sort("row_id").collect()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("flink-project")
    (folder / "media").mkdir()
    for number in range(CLIPS):
        pan((CAT, COFFEE, ROCKET)[number % 3], folder / "media" / f"clip-{number:02}.mp4", FRAMES - number % 3)
    pan(COFFEE, folder / POISON, 7)
    write_noise(folder / "media" / "noise.mp4", 2000)
    (folder / "cliploom.yaml").write_text(SPEC, encoding="utf-8")
    project = Project(folder)
    finish(project.start("local", "local", {}))
    return project


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    with flink_cluster(tmp_path_factory.mktemp("flink") / "cluster") as running:
        yield running


def finish(run: subprocess.Popen[str], cluster: FlinkCluster | None = None) -> None:
    """Wait for a run to end well; else show what the cluster said."""
    try:
        _, err = run.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        run.kill()
        _, err = run.communicate()
        err += f"\n(killed: it took longer than {PATIENCE_S} s)"
    assert run.returncode == 0, err[-3000:] + (cluster.logs() if cluster else "")


def verify(store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "verify", str(store)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_flink_makes_the_release_that_the_local_runner_makes(project: Project, cluster: FlinkCluster) -> None:
    finish(project.start("loopback", "loopback", {"JOBS": cluster.endpoint}), cluster)
    assert project.rows("loopback").equals(project.rows("local"))
    assert project.parts("loopback").keys() == project.parts("local").keys()
    newest = cluster.jobs()[0]
    assert newest["state"] == "FINISHED"
    vertices = cluster.ask(f"/jobs/{newest['jid']}")["vertices"]
    assert {vertex["parallelism"] for vertex in vertices} == {2}


def test_deaths_of_workers_and_of_a_task_manager_cost_no_part_and_no_row(
    project: Project, cluster: FlinkCluster, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FATAL_DECODER, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    with worker_pool(tmp_path / "worker-pool.log", {"PYTHONPATH": paths}) as pool:
        run = project.start("flink", "flink", {"JOBS": cluster.endpoint, "POOL": pool.address})
        wait_until(lambda: len(project.parts("flink")) >= 2 or run.poll() is not None, "the second part", PATIENCE_S)
        pool.kill()
        wait_until(lambda: len(project.parts("flink")) >= 6 or run.poll() is not None, "the sixth part", PATIENCE_S)
        finished = project.parts("flink")
        cluster.taskmanagers[0].kill()
        cluster.start_taskmanager()
        finish(run, cluster)
    assert pool.deaths >= 2  # by us, and by the poisoned clip; its second try is in a process of its own
    assert cluster.ask(f"/jobs/{cluster.jobs()[0]['jid']}/exceptions")["exceptionHistory"]["entries"]
    # What was finished before a death was taken over as it was.
    after = project.parts("flink")
    assert 6 <= len(finished) < len(after)
    assert {name: after[name] for name in finished} == finished
    # One poisoned clip is a failure; every other row is there once and is that of the local run.
    failures = failure_rows(str(project.folder / "flink"))
    assert {row["uid"]: row["type"] for row in failures} == {"noise": "NoVideo", "poison": "Crashed"}
    expected = project.rows("local").filter(pl.col("uid") != "poison")
    found = project.rows("flink")
    assert found["row_id"].is_unique().all()
    assert found.equals(expected)
    verify(project.folder / "flink")
