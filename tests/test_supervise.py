"""The supervisor: shows what its child does, starts it again when it dies, hands its errors on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    request = {"action": "run", "spec": str(tmp_path / "cliploom.yaml"), "run": "r1", "command": "cliploom run"}
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
    while status.exists() and status.read_text().split()[2] != "Z":
        pass


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
