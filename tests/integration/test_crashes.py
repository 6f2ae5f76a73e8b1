"""A run that is killed anywhere: the old release answers, the next run finishes, nothing differs, little is lost."""

from __future__ import annotations

import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from commands import python_without_override
from forks import PLACES, ROOT, Forks, Kill, forks
from nights import CYAN, GREEN, MAGENTA, RED, SPEC, Project, Snapshot, assert_sound, draw, paint, write_encoder

import cliploom.pipelines.running.run
from cliploom.pipelines.running.child import user_error
from cliploom.pipelines.running.run import RunResult
from cliploom.schemas.errors import CliploomError, StoreError
from cliploom.schemas.plan import COMPUTED
from cliploom.transforms.store.parts import read_record

pytestmark = pytest.mark.slow
SEED = 4
POINTS = 54
BLUE_ISH = (0, 0, 252)


@dataclass(frozen=True)
class Night:
    """A second night, about to run, and how it ends when nobody disturbs it.

    Attributes:
        project: its media are those of the second night, its store is put back before each try.
        store: the store after the first night.
        calls: how often an undisturbed run comes by each place.
        work: the (feature, item) pairs that it computes.
    """

    project: Project
    store: Path
    forks: Forks
    before: Snapshot
    after: Snapshot
    calls: dict[str, int]
    work: set[tuple[str, int]]

    def reset(self) -> None:
        """The evening before."""
        shutil.rmtree(self.project.store)
        shutil.copytree(self.store, self.project.store)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """Adds, edits, renames, deletes, a failure, a second feature, another index: something for every stage."""
    folder = tmp_path_factory.mktemp("crashes")
    encoder = write_encoder(folder / "encoder")
    project = Project(folder / "project")
    project.write_spec()
    for number in range(5):
        draw(project.media / f"still{number}.png", number)
    draw(project.media / "moving.gif", 100)
    with forks(encoder, folder) as process:
        assert process.run(project.spec).code == 0
        before = project.snapshot()
        kept = folder / "kept"
        shutil.copytree(project.store, kept)
        second_night(project)
        undisturbed = process.run(project.spec)
        assert undisturbed.code == 0, undisturbed.error
        after = project.snapshot()
        plan = pl.read_parquet(next(project.store.glob(f"plans/{project.release().run}/verdicts.parquet")))
        work = set(plan.filter(pl.col("verdict").is_in(COMPUTED)).select("feature", "item_no").rows())
        yield Night(project, kept, process, before, after, undisturbed.calls, work)


def second_night(project: Project) -> None:
    for number in range(3):
        draw(project.media / f"added{number}.gif", 200 + number)
    draw(project.media / "still0.png", 300)
    (project.media / "still1.png").rename(project.media / "renamed.png")
    (project.media / "still2.png").unlink()
    paint(project.media / "poor.png", BLUE_ISH)
    changes: dict[str, Any] = {
        "features": SPEC["features"] | {"few": {"source": "clips", "sample": {"uniform": 1}, "encoder": "tiny"}},
        "indexes": SPEC["indexes"] | {"few": {"feature": "few", "kind": "hnsw"}},
    }
    project.write_spec(changes)


def all_points(calls: dict[str, int]) -> list[Kill]:
    """Every place before and after each of its calls; files of an index also half written."""
    points = []
    for place, count in calls.items():
        whens = ["before", "after", *(["within"] if place == "index_file" else [])]
        points += [Kill(place, call, when) for call in range(1, count + 1) for when in whens]
    return points


def chosen_points(calls: dict[str, int]) -> list[Kill]:
    """A seeded choice with all the stages in it, and every commit of a table."""
    rng = random.Random(SEED)
    points = all_points(calls)
    by_place = {place: [point for point in points if point.place == place] for place in PLACES}
    chosen = {point for place, all_of in by_place.items() for point in rng.sample(all_of, min(2, len(all_of)))}
    chosen |= {point for point in by_place["commit"] if point.when == "after"}
    chosen |= {point for place in ("publish", "index_file", "outcome") for point in by_place[place]}
    rest = sorted(set(points) - chosen, key=str)
    return sorted(chosen, key=str) + rng.sample(rest, max(0, POINTS - len(chosen)))


def finished(project: Project) -> set[tuple[str, int]]:
    """(feature, item) pairs in parts that the first release does not name: they must not be computed again."""
    objects, known = project.objects, project.parts(1)
    found = set()
    for entry in objects.list("features"):
        table, _, name = entry.path.rpartition("/")
        if name.startswith("part-") and name not in known:
            record = read_record(objects, table, name)
            assert record is not None
            found |= {(record.feature, content.item_no) for content in record.contents}
    return found


def test_the_points_cover_every_stage(night: Night) -> None:
    assert all(night.calls.values()), night.calls
    points = chosen_points(night.calls)
    assert len(points) >= 50
    assert {point.place for point in points} == set(PLACES)


def test_a_run_killed_at_any_point_harms_nothing_and_the_next_one_ends_alike(night: Night) -> None:
    for point in chosen_points(night.calls):
        night.reset()
        killed = night.forks.run(night.project.spec, point)
        assert killed.code == -signal.SIGKILL, (point, killed)
        releases = night.project.releases()
        assert releases in ([1], [1, 2]), point
        assert night.project.snapshot(1) == night.before, point
        assert_sound(night.project, 1)
        left = set() if 2 in releases else {item for _, item in night.work - finished(night.project)}
        next_run = night.forks.run(night.project.spec)
        assert next_run.code == 0, (point, next_run.error)
        assert next_run.counters.get("items_done", 0) == len(left), point
        assert night.project.releases() == [1, 2], point
        assert night.project.snapshot() == night.after, point
        assert_sound(night.project)


def test_a_run_killed_near_its_end_is_taken_over_when_the_listing_has_changed_in_between(night: Night) -> None:
    night.reset()
    count = night.calls["close_part"]
    assert night.forks.run(night.project.spec, Kill("close_part", count - 1, "after")).code == -signal.SIGKILL
    done = finished(night.project)
    left = {item for _, item in night.work - done}
    assert len(left) <= 2
    late, gone = night.project.media / "late.png", night.project.media / "added1.gif"
    kept = gone.read_bytes()
    draw(late, 999)
    gone.unlink()
    try:
        ended = night.forks.run(night.project.spec)
    finally:
        late.unlink()
        gone.write_bytes(kept)
    assert ended.code == 0
    assert ended.counters["items_done"] <= len(left) + 1
    assert "late" in night.project.uids()
    assert "added1" not in night.project.uids()
    known = {uid: number for number, _, uid, _ in night.after.items}
    ids = {uid: number for number, _, uid, _ in night.project.snapshot().items}
    assert all(ids[uid] == known[uid] for uid in set(ids) & set(known))
    assert_sound(night.project)


def test_a_first_run_that_is_killed_leaves_no_release_and_the_next_one_makes_it(night: Night, tmp_path: Path) -> None:
    project = Project(tmp_path / "new")
    shutil.copytree(night.project.media, project.media)
    project.write_spec()
    for point in (Kill("close_part", 5, "before"), Kill("commit", 2, "after"), Kill("publish", 1, "before")):
        assert night.forks.run(project.spec, point).code == -signal.SIGKILL
        assert project.releases() == []
    assert night.forks.run(project.spec).code == 0
    assert project.releases() == [1]
    assert_sound(project)


HOOK = """
import ctypes
import os
import sys
import threading


def hook(event, arguments):
    if event != "open" or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return
    name = os.path.basename(os.fsdecode(arguments[0]))
    if not name.startswith("poison-") and name != "stop.png":
        return
    frame, decoding = sys._getframe(), False
    while frame is not None:
        decoding = decoding or frame.f_code.co_filename.endswith("media/item_reader.py")
        frame = frame.f_back
    if "hang" in name:
        threading.Event().wait()
    if name.startswith("poison-probe") or (name.startswith("poison-decode") and decoding):
        ctypes.string_at(0) if "segfault" in name else os._exit(9)
    if name == "stop.png" and decoding and "CLIPLOOM_TEST_STOP" in os.environ:
        with open(os.environ.pop("CLIPLOOM_TEST_STOP"), "w") as pipe:
            pipe.write(str(os.getpid()))
        threading.Event().wait()


sys.addaudithook(hook)
"""


@dataclass(frozen=True)
class Workshop:
    """A project, and how to call ``cliploom`` on it in a process whose reader of files is poisoned by some names."""

    project: Project
    environment: dict[str, str]

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "cliploom", "run", str(self.project.spec)]


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    folder = write_encoder(tmp_path / "encoder")
    (folder / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    project = Project(tmp_path / "project")
    project.write_spec({"targets": {"local": {"workers": 2}}})
    for number in range(4):
        draw(project.media / f"still{number}.png", number)
    return Workshop(project, os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])})


def test_poisoned_items_become_failures_and_harm_no_neighbour(workshop: Workshop) -> None:
    media = workshop.project.media
    draw(media / "poison-probe-exit.png", 50)
    draw(media / "poison-decode-segfault.png", 51)
    paint(media / "red.png", RED)
    paint(media / "green.png", GREEN)
    ended = subprocess.run(workshop.command, env=workshop.environment, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "Release 1 is published" in ended.stdout
    assert "the worker process died" in ended.stderr
    found = {row["uid"]: (row["type"], row["stage"]) for row in workshop.project.failures().to_dicts()}
    assert found == {
        "poison-probe-exit": ("Crashed", "probe"),
        "poison-decode-segfault": ("Crashed", "compute"),
        "red": ("Crashed", "compute"),
        "green": ("Crashed", "compute"),
    }
    assert workshop.project.uids() == [f"still{number}" for number in range(4)]
    assert_sound(workshop.project)
    assert not workshop.project.run().changed


def test_items_that_never_end_become_failures_and_harm_no_neighbour(workshop: Workshop) -> None:
    media = workshop.project.media
    draw(media / "poison-probe-hang.png", 52)
    paint(media / "cyan.png", CYAN)
    paint(media / "magenta.png", MAGENTA)
    command = [*workshop.command, "--set", "limits.stall=4s", "--set", "limits.max_failed=100%"]
    ended = subprocess.run(command, env=workshop.environment, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr
    assert "an item made no progress (limits.stall); starting again" in ended.stderr
    found = {row["uid"]: (row["type"], row["stage"]) for row in workshop.project.failures().to_dicts()}
    stalled = dict.fromkeys(("cyan", "magenta"), ("Stalled", "compute"))
    assert found == stalled | {"poison-probe-hang": ("Stalled", "probe")}
    assert "made no progress for 4 s (limits.stall)" in workshop.project.failures()["message"][0]
    assert workshop.project.uids() == [f"still{number}" for number in range(4)]
    assert_sound(workshop.project)


def test_a_worker_process_that_dies_is_replaced(workshop: Workshop) -> None:
    paint(workshop.project.media / "red.png", RED)
    command = [*workshop.command, "--set", "targets.local.processes=true"]
    ended = subprocess.run(command, env=workshop.environment, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr
    assert "a worker process died; starting again, finished parts are kept" in ended.stderr
    found = {row["uid"]: (row["type"], row["stage"]) for row in workshop.project.failures().to_dicts()}
    assert found == {"red": ("Crashed", "compute")}
    assert workshop.project.uids() == [f"still{number}" for number in range(4)]
    assert_sound(workshop.project)
    # Threads of one process make the same parts.
    assert not workshop.project.run().changed


@pytest.mark.parametrize("processes", ["false", "true"], ids=["threads", "processes"])
def test_a_second_run_is_refused_at_once_and_a_killed_run_takes_its_worker_with_it(
    workshop: Workshop, tmp_path: Path, processes: str
) -> None:
    workshop.project.run()
    draw(workshop.project.media / "stop.png", 60)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    environment = workshop.environment | {"CLIPLOOM_TEST_STOP": str(pipe)}
    command = [*workshop.command, "--set", f"targets.local.processes={processes}"]
    supervisor = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    worker = int(pipe.read_text())
    refusal = r"is in use by `cliploom run .*cliploom.yaml` \(process \d+ of .* on .*, for \d+ s\); wait until it ends"
    with pytest.raises(StoreError, match=refusal):
        workshop.project.run()
    assert_sound(workshop.project)
    watched = os.pidfd_open(worker)
    supervisor.kill()
    supervisor.wait()
    gone, _, _ = select.select([watched], [], [], 30)
    os.close(watched)
    assert gone, "the worker outlived its supervisor"
    assert workshop.project.releases() == [1]
    assert workshop.project.run().changed
    assert "stop" in workshop.project.uids()
    assert_sound(workshop.project)


@pytest.mark.parametrize("first", [True, False], ids=["first release", "later release"])
def test_of_two_runs_without_a_lock_exactly_one_publishes(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    project = workshop.project
    if not first:
        project.run()
        draw(project.media / "more.png", 70)
    monkeypatch.setattr("cliploom.pipelines.running.run.store_lock", lambda objects, what: nullcontext())
    execute = cliploom.pipelines.running.run.execute
    others: list[RunResult] = []

    def other_first(*arguments: Any) -> RunResult:
        if not others:
            others.append(None)  # type: ignore[arg-type]
            others[0] = project.run()
        return execute(*arguments)

    monkeypatch.setattr("cliploom.pipelines.running.run.execute", other_first)
    with pytest.raises(StoreError, match=r"another run published a release .* Run again: finished parts are reused"):
        project.run()
    assert project.releases() == ([1] if first else [1, 2])
    assert project.release().run == others[0].run
    assert_sound(project)
    assert not project.run().changed


@pytest.mark.parametrize("size", [400, 1_500, 2_500, 5_000])
def test_a_full_disk_is_one_clear_error_and_the_old_release_stays(workshop: Workshop, size: int) -> None:
    project = workshop.project
    project.run()
    before = project.snapshot()
    for number in range(3):
        draw(project.media / f"more{number}.gif", 80 + number)
    with pytest.raises(CliploomError) as told, largest_file(size):
        run_request_like_a_child(project)
    assert isinstance(told.value, StoreError), told.value
    assert str(project.store) in str(told.value)
    assert project.releases() == [1]
    assert project.snapshot() == before
    assert_sound(project)
    assert project.run().verdicts["frames"] == {"new": 3, "unchanged": 4}
    assert project.failures().is_empty()
    assert_sound(project)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond ``size``, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run_request_like_a_child(project: Project) -> None:
    """A run whose errors are told as the supervised process tells them."""
    try:
        project.run()
    except Exception as error:
        raise user_error(error) from None


def test_a_read_only_store_is_one_clear_error(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    project = workshop.project
    monkeypatch.setenv("PYTHONPATH", workshop.environment["PYTHONPATH"])
    project.run()
    draw(project.media / "more.png", 90)
    folders = [project.store, *(path for path in project.store.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    ended = python_without_override("-m", "cliploom", "run", project.spec)
    for folder in folders:
        folder.chmod(0o755)
    assert ended.code == 4
    assert ended.err.splitlines()[-1].startswith(f"cliploom: {project.store}")
    assert "no permission; check the rights" in ended.err
    assert_sound(project)
