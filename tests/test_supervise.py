"""The supervisor: shows its child's progress, restarts it after a crash, passes its errors on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commands import SPEC

from cliploom.pipelines.running.child import user_error
from cliploom.pipelines.running.supervise import Watching, run_supervised
from cliploom.schemas.errors import CliploomError, LimitError, PrecisionError, SpecError, StoreError

ROOT = Path(__file__).resolve().parent.parent


def test_errors_of_the_child_come_through_whole(tmp_path: Path) -> None:
    (tmp_path / "cliploom.yaml").write_text(SPEC)
    notes: list[str] = []
    watching = Watching(notes.append, lambda tally: None, tmp_path / "log")
    request = request_of(tmp_path)
    with pytest.raises(SpecError, match=r"sources\.clips\.glob: there is no folder") as told:
        run_supervised(request, watching)
    assert notes == ["listing sources"]
    assert "Traceback" in told.value.__notes__[0]
    assert "Traceback" in (tmp_path / "log").read_text()


def test_child_dies_with_its_supervisor(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', "
        "'import os, sys, time; from cliploom.pipelines.running.child import die_with; die_with(os.getppid()); "
        "print(os.getpid(), flush=True); time.sleep(60)'], stdout=subprocess.PIPE)\n"
        "print(child.stdout.readline().decode(), end='', flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    status = Path(f"/proc/{int(done.stdout)}/stat")
    end = time.monotonic() + 30
    while _lives(status):
        assert time.monotonic() < end, "the child outlives its supervisor"
        time.sleep(0.05)


def _lives(status: Path) -> bool:
    try:
        return status.read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def request_of(folder: Path) -> dict[str, Any]:
    (folder / "cliploom.yaml").write_text(SPEC)
    return {"action": "run", "spec": str(folder / "cliploom.yaml"), "run": "r1", "command": "cliploom run"}


def test_a_child_that_cannot_start_ends_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "polars.py").write_text(
        "import os, sys\nprint('polars: no such processor', file=sys.stderr)\nos._exit(9)\n"
    )
    log = tmp_path / "log"
    log.write_text("of an earlier run\n")
    notes: list[str] = []
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CliploomError) as told:
        run_supervised(request_of(tmp_path), Watching(notes.append, lambda tally: None, log))
    assert str(told.value) == (
        f"The worker process can't start (exit code 9): polars: no such processor; its log is {log}."
    )
    assert notes == []


def test_a_child_without_memory_to_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "polars.py").write_text(
        "import os, sys\nprint('x.so: failed to map segment from shared object', file=sys.stderr)\nos._exit(1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CliploomError, match=r"can't start: There is too little memory.*raise the limit.*log is /"):
        run_supervised(request_of(tmp_path), Watching(lambda text: None, lambda tally: None, tmp_path / "log"))


def test_a_temporary_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    with pytest.raises(
        CliploomError, match=r"TMPDIR is '/.*/gone', and there is no such folder; make it, or unset TMPDIR"
    ):
        run_supervised(request_of(tmp_path), Watching(lambda text: None, lambda tally: None, tmp_path / "log"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **named: object) -> object:
        return open("/dev/full", "wb", buffering=0)

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(StoreError, match=r"TMPDIR is '/.*', and its disk is full; free some space"):
        run_supervised(request_of(tmp_path), Watching(lambda text: None, lambda tally: None, tmp_path / "log"))


@pytest.mark.parametrize("kind", [CliploomError, SpecError, PrecisionError, LimitError, StoreError])
def test_errors_are_found_inside_what_beam_wraps_around_them(kind: type[CliploomError]) -> None:
    wrapped = RuntimeError(f"cliploom.schemas.errors.{kind.__name__}: the disk is full [while running 'x']")
    found = user_error(wrapped)
    assert type(found) is kind
    assert str(found) == "the disk is full"
    beam = "During handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):"
    followed = RuntimeError(
        f"Traceback:\n  cliploom.schemas.errors.{kind.__name__}: the disk is full\n\n{beam}\n  ... [while running 'x']"
    )
    assert str(user_error(followed)) == "the disk is full"
    caused = RuntimeError("x")
    caused.__cause__ = kind("itself")
    assert str(user_error(caused)) == "itself"


def test_other_errors_stay_what_they_are() -> None:
    error = ZeroDivisionError("x")
    assert user_error(error) is error
