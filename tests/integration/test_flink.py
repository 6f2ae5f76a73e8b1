"""``cliploom run`` on a Flink cluster of two task managers, and what it makes of the cluster's faults."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from flink_cluster import FlinkCluster, flink_cluster, missing, wait_until
from stores import pan

import cliploom
from cliploom.pipelines.demo.corpus import CAT, COFFEE, ROCKET
from cliploom.pipelines.listings import failure_rows
from cliploom.pipelines.running.status import run_status

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

ROOT = Path(__file__).resolve().parents[2]
CLIPS = 12
PATIENCE_S = 600
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
  flink:
    runner: FlinkRunner
    flink_master: "${REST}"
    job_endpoint: "${JOBS}"
    parallelism: 2
    environment_type: PROCESS
    environment_config: '{"command": "${WORKER}"}'
    environment_cache_millis: 2000
    environment_expiration_millis: 60000
limits: {max_failed: 50%}
"""
# Loaded by every Python process of the cluster as it starts. It notes which clip is decoded in which process, keeps one
# clip waiting until the test lets go, ends the process on another, as a fault in a decoder does, and waits for ever on
# a third, as a decoder in an endless loop does.
HOOK = """
import os
import sys
import threading
import time

NOTES = os.environ["CLIPLOOM_TEST_NOTES"]

def hook(event, arguments):
    if event != "open" or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return
    name = os.path.basename(os.fsdecode(arguments[0]))
    frame, decoding = sys._getframe(), False
    while frame is not None and name.endswith(".mp4"):
        decoding = decoding or frame.f_code.co_filename.endswith("media/item_reader.py")
        frame = frame.f_back
    if not decoding:
        return
    with open(NOTES + "/decoded", "a") as file:
        file.write(f"{name[:-4]} {os.getpid()}\\n")
    if name == "poison.mp4":
        os._exit(139)
    if name == "hang.mp4":
        threading.Event().wait()
    while name == "held.mp4" and not os.path.exists(NOTES + "/pass"):
        time.sleep(0.05)


sys.addaudithook(hook)
"""


@dataclass(frozen=True)
class Project:
    """Clips and a spec, with the store that the local runner makes of them."""

    folder: Path
    cluster: FlinkCluster

    def start(self, store: str, target: str, notes: Path, *options: str) -> subprocess.Popen[str]:
        """``cliploom run`` as a person starts it; ``store`` has the models of the local one."""
        if target != "local" and not (self.folder / store).exists():
            shutil.copytree(self.folder / "local" / "models", self.folder / store / "models")
        (notes / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
        worker = self.cluster.worker_command(
            notes / "worker", {"PYTHONPATH": f"{notes}{os.pathsep}{ROOT}", "CLIPLOOM_TEST_NOTES": str(notes)}
        )
        command = ["run", "cliploom.yaml", "--target", target, "--set", f"store=./{store}", "--json", *options]
        return subprocess.Popen(
            [sys.executable, "-m", "cliploom", *command],
            cwd=self.folder,
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "WORKER": str(worker)}
            | {"JOBS": self.cluster.endpoint, "REST": self.cluster.rest},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, run: subprocess.Popen[str]) -> dict[str, Any]:
        """The result of a run that ends well; else show what the cluster said."""
        try:
            out, err = run.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            run.kill()
            out, err = run.communicate()
            err += f"\n(killed: it took longer than {PATIENCE_S} s)"
        assert run.returncode == 0, err[-3000:] + self.cluster.logs()
        found: dict[str, Any] = json.loads(out)
        return found

    def parts(self, store: str) -> dict[Path, int]:
        """Finished parts with the time of their making."""
        return {
            path: path.stat().st_mtime_ns for path in (self.folder / store).glob("features/frames/*/part-*.parquet")
        }

    def rows(self, store: str) -> pl.DataFrame:
        """All rows of the newest release."""
        return cliploom.open(self.folder / store).table("frames").sort("row_id").collect()

    def verify(self, store: str) -> None:
        """``cliploom verify`` has nothing to say."""
        command = [sys.executable, "-m", "cliploom", "verify", str(self.folder / store)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def restarts(self) -> int:
        """How often Flink began the newest job anew."""
        job = self.cluster.jobs()[0]["jid"]
        return len(self.cluster.ask(f"/jobs/{job}/exceptions?maxExceptions=50")["exceptionHistory"]["entries"])

    def task_manager(self, process: int) -> tuple[int, subprocess.Popen[bytes]]:
        """The Python worker that ``process`` is or belongs to, and the task manager that the worker belongs to."""
        managers = {manager.pid: manager for manager in self.cluster.taskmanagers}
        while (parent := parent_of(process)) not in managers:
            assert parent > 1, "the process belongs to no task manager"
            process = parent
        return process, managers[parent]


def parent_of(process: int) -> int:
    """0 when the process has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[1])


def decoded(notes: Path) -> dict[str, set[int]]:
    """Clips, and the processes that decoded them."""
    found: dict[str, set[int]] = {}
    file = notes / "decoded"
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        clip, process = line.split()
        found.setdefault(clip, set()).add(int(process))
    return found


def holding(notes: Path) -> list[int]:
    """The process that is held at the clip ``held``, if any is."""
    return [process for process in decoded(notes).get("held", ()) if parent_of(process)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("flink")
    (folder / "media").mkdir()
    for number in range(CLIPS):
        pan((CAT, COFFEE, ROCKET)[number % 3], folder / "media" / f"clip-{number:02}.mp4", 8 + number)
    pan(COFFEE, folder / "media" / "held.mp4", 7)
    (folder / "cliploom.yaml").write_text(SPEC, encoding="utf-8")
    with flink_cluster(folder / "cluster") as cluster:
        project = Project(folder, cluster)
        (folder / "notes").mkdir()
        project.finish(project.start("local", "local", folder / "notes"))
        yield project


@contextmanager
def added_clip(project: Project, name: str) -> Iterator[None]:
    """One more clip among the media of the project."""
    clip = project.folder / "media" / name
    pan(ROCKET, clip, 7)
    try:
        yield
    finally:
        clip.unlink()


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Path]:
    """A folder for what the workers tell; at the end none is held, lest a job that failed its test hold the cluster."""
    yield tmp_path
    (tmp_path / "pass").touch()


def test_job_goes_on_after_ctrl_c_and_makes_the_release_that_the_local_runner_makes(
    project: Project, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REST", project.cluster.rest)
    run = project.start("flink", "flink", notes)
    store = str(project.folder / "flink")
    wait_until(lambda: bool(holding(notes)) or run.poll() is not None, "the clip that is held", PATIENCE_S)
    status = run_status(store)
    assert (status.state, status.cluster) == ("running", "RUNNING")
    assert status.parts < status.parts_planned == CLIPS + 1
    assert status.at_work
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "goes on; `cliploom attach" in err
    status = run_status(store)
    assert (status.state, status.cluster) == ("running", "RUNNING")
    (notes / "pass").touch()
    attached = subprocess.run(
        [sys.executable, "-m", "cliploom", "attach", store],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert f"Run {status.run}: published" in attached.stderr, attached.stderr
    report = json.loads((project.folder / "flink" / "runs" / status.run / "report.json").read_text())
    assert (report["state"], report["release"]) == ("published", 1)
    assert project.rows("flink").equals(project.rows("local"))
    assert {path.name for path in project.parts("flink")} == {path.name for path in project.parts("local")}
    newest = project.cluster.jobs()[0]
    assert newest["name"] == status.job
    wait_until(lambda: project.cluster.jobs()[0]["state"] == "FINISHED", "the end of the job")
    assert {vertex["parallelism"] for vertex in project.cluster.ask(f"/jobs/{newest['jid']}")["vertices"]} == {2}
    assert len(set().union(*decoded(notes).values())) == 2  # a worker on each task manager
    assert not project.restarts()
    project.verify("flink")


def test_deaths_of_a_worker_and_of_a_task_manager_cost_no_part_and_no_row(project: Project, notes: Path) -> None:
    run = project.start("faults", "flink", notes)

    def held_after(parts: int, before: set[int]) -> bool:
        held = [process for process in holding(notes) if process not in before]
        return (bool(held) and len(project.parts("faults")) >= parts) or run.poll() is not None

    wait_until(lambda: held_after(4, set()), "the fourth part", PATIENCE_S)
    (first,) = holding(notes)
    worker, _ = project.task_manager(first)
    finished = project.parts("faults")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: held_after(4, {first}), "the restart after the worker's death", PATIENCE_S)
    (second,) = holding(notes)
    other, manager = project.task_manager(second)
    assert other != worker
    finished = project.parts("faults") | finished
    manager.kill()
    project.cluster.start_taskmanager()
    (notes / "pass").touch()
    result = project.finish(run)
    assert project.restarts() >= 2
    # What was finished before a death was taken over as it was, and nobody decoded it again.
    after = project.parts("faults")
    assert len(finished) >= 4
    assert {path: after[path] for path in finished} == finished
    uids = pl.concat(pl.read_parquet(path, columns=["uid"]) for path in finished)["uid"].unique()
    assert {uid: len(decoded(notes)[uid]) for uid in uids} == dict.fromkeys(uids, 1)
    counters, attempts = result["counters"], result["report"]["attempts"]
    # The figures are those of all attempts: what was finished before the last restart counts as this run's.
    assert counters["items_done"] == counters["parts"] == CLIPS + 1
    assert counters["parts_resumed"] >= len(finished)
    assert counters["rows"] == result["release"]["features"]["frames"]["rows"]
    assert "parts_adopted" not in counters
    assert len(attempts["restarts"]) == project.restarts()
    assert all(each["reason"] for each in attempts["restarts"])
    assert attempts["repeated_shards"] >= 2
    assert attempts["cpu_seconds"] > 0
    found = project.rows("faults")
    assert found["row_id"].is_unique().all()
    assert found.equals(project.rows("local"))
    assert not parent_of(other), "the worker outlived its task manager"
    project.verify("faults")


def test_death_of_a_worker_after_that_of_a_task_manager_is_survived_also_where_beam_keeps_the_dead_worker(
    project: Project, notes: Path
) -> None:
    # A task manager that keeps its workers for ten minutes hands out the dead one until it expires.
    kept = "targets.flink.environment_cache_millis=600000"
    expires = "targets.flink.environment_expiration_millis=5000"
    run = project.start("reverse", "flink", notes, "--set", kept, "--set", expires)

    def held_by_another(before: set[int]) -> bool:
        return bool(set(holding(notes)) - before) or run.poll() is not None

    wait_until(lambda: len(project.parts("reverse")) >= 2 and held_by_another(set()), "the second part", PATIENCE_S)
    first = set(holding(notes))
    _, manager = project.task_manager(min(first))
    manager.kill()
    project.cluster.start_taskmanager()
    wait_until(lambda: held_by_another(first), "the restart after the task manager's death", PATIENCE_S)
    second = set(holding(notes)) - first
    worker, _ = project.task_manager(min(second))
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: held_by_another(first | second), "the restart after the worker's death", PATIENCE_S)
    (notes / "pass").touch()
    result = project.finish(run)
    assert 2 <= project.restarts() <= 6
    assert len(result["report"]["attempts"]["restarts"]) == project.restarts()
    assert result["counters"]["rows"] == result["release"]["features"]["frames"]["rows"]
    assert project.rows("reverse").equals(project.rows("local"))
    project.verify("reverse")


def test_a_clip_that_kills_its_worker_twice_is_a_failure_and_the_rest_is_published(
    project: Project, notes: Path
) -> None:
    shutil.copytree(project.folder / "local", project.folder / "night")
    with added_clip(project, "poison.mp4"):
        result = project.finish(project.start("night", "flink", notes))
    assert result["release"]["release"] == 2
    assert project.restarts() >= 1
    assert len(decoded(notes)["poison"]) == 2
    assert {row["uid"]: row["type"] for row in failure_rows(str(project.folder / "night"))} == {"poison": "Crashed"}
    assert project.rows("night").equals(project.rows("local"))
    project.verify("night")


def test_a_clip_that_never_ends_takes_its_worker_down_once_and_is_a_failure_and_the_rest_is_published(
    project: Project, notes: Path
) -> None:
    shutil.copytree(project.folder / "local", project.folder / "stalled")
    pan(COFFEE, project.folder / "media" / "fresh.mp4", 9)
    try:
        with added_clip(project, "hang.mp4"):
            result = project.finish(project.start("stalled", "flink", notes, "--set", "limits.stall=5s"))
    finally:
        (project.folder / "media" / "fresh.mp4").unlink()
    assert result["release"]["release"] == 2
    assert project.restarts() >= 1
    # Once in a worker of the cluster, which the watchdog ends, and once in a process of its own.
    assert len(decoded(notes)["hang"]) == 2
    (failure,) = failure_rows(str(project.folder / "stalled"))
    assert (failure["uid"], failure["type"]) == ("hang", "Stalled")
    assert "made no progress for 5 s (limits.stall)" in failure["message"]
    published = project.rows("stalled")
    assert set(published["uid"]) == {*project.rows("local")["uid"], "fresh"}
    assert published.filter(pl.col("uid") != "fresh").equals(project.rows("local"))
    project.verify("stalled")


# Loaded by every Python worker of the cluster: the first that reads the clip dies, as if the machine had.
DEATH = """
import os
import sys

MARK = os.environ["CLIPLOOM_TEST_NOTES"] + "/died"


def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith("clip-07.mp4") and not os.path.exists(MARK):
        os.close(os.open(MARK, os.O_CREAT | os.O_EXCL))
        os._exit(139)


sys.addaudithook(hook)
"""


def beam_job(project: Project) -> str:
    """State of the newest job, if no run of cliploom started it."""
    newest = project.cluster.jobs()[:1]
    return next((job["state"] for job in newest if job["name"].startswith("BeamApp")), "")


def test_a_beam_users_pipeline_gives_the_rows_of_a_run_though_a_worker_dies(project: Project, notes: Path) -> None:
    (notes / "sitecustomize.py").write_text(DEATH, encoding="utf-8")
    worker = project.cluster.worker_command(
        notes / "worker", {"PYTHONPATH": f"{notes}{os.pathsep}{ROOT}", "CLIPLOOM_TEST_NOTES": str(notes)}
    )
    options = {
        "files": project.folder / "media" / "*",
        "output": notes / "vectors",
        "every": "200ms",
        "models": project.folder / "local",
        "runner": "FlinkRunner",
        "flink_master": project.cluster.rest,
        "job_endpoint": project.cluster.endpoint,
        "parallelism": 2,
        "environment_type": "PROCESS",
        "environment_config": json.dumps({"command": str(worker)}),
        "environment_cache_millis": 2000,
    }
    program = str(ROOT / "examples" / "beam" / "files_to_parquet.py")
    with (notes / "client.log").open("wb") as log:
        client = subprocess.Popen(
            [sys.executable, program, *(f"--{name}={value}" for name, value in options.items())],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: client.poll() is not None or beam_job(project) == "FINISHED", "the end", PATIENCE_S)
    finally:
        # On a busy machine the job server may never tell the client of the end.
        if client.poll() is None:
            client.kill()
        client.wait()
    assert beam_job(project) == "FINISHED", (notes / "client.log").read_text()[-3000:] + project.cluster.logs()
    assert (notes / "died").exists()
    assert project.restarts() >= 1
    found = pl.read_parquet(notes / "vectors" / "frames-*.parquet").with_columns(
        uid=pl.col("uid").str.extract(r"([^/]+)\.mp4$")
    )
    columns = ["uid", "start_s", "end_s", "frame", "semantic"]
    wanted = project.rows("local").select(columns).sort("uid", "start_s")
    assert found.select(columns).sort("uid", "start_s").equals(wanted)
    assert [path.stat().st_size for path in (notes / "vectors").glob("failures-*")] in ([0], [0, 0])
