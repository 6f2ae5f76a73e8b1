"""The first hour of a new user: an own folder of forty odd files, every command, screens of 80 and 120 columns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import ROOT, Command, command
from odd_folder import write_odd_folder
from rich.cells import cell_len
from screens import assert_screen


@dataclass(frozen=True)
class FirstRun:
    """A project folder after ``init`` and ``run``, and what they said at 80 columns."""

    home: Path
    init: str
    out: str
    err: str


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    home = tmp_path_factory.mktemp("user")
    write_odd_folder(home / "my videos")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
        done = subprocess.run(
            [sys.executable, "-m", "cliploom", *arguments], cwd=home, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done

    init = call("init", "my videos").stderr
    run = call("run")
    return FirstRun(home, init, run.stdout, run.stderr)


@pytest.fixture
def cliploom(first_run: FirstRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(first_run.home)
    return command(capsys)


def test_init_and_the_first_run_over_junk_say_what_became_of_the_files(first_run: FirstRun) -> None:
    assert_screen("init-80", first_run.init, first_run.home)
    assert_screen("run-80", first_run.out, first_run.home)
    assert first_run.err.splitlines()[0] == "• starting"
    assert "• computing 26 items" in first_run.err


SCREENS = {
    "failures": ("failures",),
    "failures-list": ("failures", "--list"),
    "failures-of-a-type": ("failures", "--type", "novideo", "--glob", "*.jpg", "--list"),
    "releases": ("releases",),
    "search": ("search", "a cup of coffee", "--top", "5"),
    "search-like": ("search", "--like", "saved stuff/cat.GIF", "--top", "5"),
    "verify": ("verify",),
    "inspect": ("inspect", "store"),
    "graph": ("graph",),
    "validate": ("validate",),
}


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("screen", SCREENS)
def test_screens_fit_the_terminal(
    screen: str, columns: int, cliploom: Command, first_run: FirstRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    ended = cliploom(*SCREENS[screen])
    assert ended.code == 0, ended
    shown = unicodedata.normalize("NFC", ended.out + ended.err)
    # Paths are short in a user's folder, and long in that of a test.
    long = [line for line in shown.splitlines() if cell_len(line.replace(str(first_run.home), "HOME")) > columns]
    assert not long
    assert_screen(f"{screen}-{columns}", shown, first_run.home)


@pytest.mark.parametrize("line", [("doctor",), ("status",), ("inspect", "my videos/DCIM/100APPLE/IMG_0001.MOV")])
def test_screens_that_differ_from_machine_to_machine_fit_too(
    line: tuple[str, ...], cliploom: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ended = cliploom(*line)
    assert ended.out
    # A path or a command that is longer than the terminal is wide stays whole, to be copied.
    assert not [each for each in ended.out.splitlines() if cell_len(each) > 80 and " " in each.strip()]


def test_counts_agree_wherever_they_are_reported(cliploom: Command, first_run: FirstRun) -> None:
    [release] = json.loads(cliploom("releases", "--json").out)
    rows = json.loads(cliploom("failures", "--json").out)
    assert release["failed"] == len({row["uid"] for row in rows if not row["partial"]}) == 10
    assert f"{release['failed']} of {release['items']} items failed" in first_run.out
    assert f"{release['failed']} of {release['items']} items failed" in cliploom("failures").out
    assert cliploom("failures", "--list").out.splitlines()[-1] == "10 failures of 10 items."


def test_files_are_found_again_by_words_and_by_likeness(cliploom: Command) -> None:
    hits = json.loads(cliploom("search", "a cat", "--top", "5", "--json").out)
    assert {"saved stuff/cat.GIF", "saved stuff/other.bmp"} <= {hit["uid"] for hit in hits}
    ended = cliploom("search", "--like", "saved stuff/cat.GIF", "--top", "3", "--json")
    assert {hit["index"] for hit in json.loads(ended.out)} == {"looks"}
    assert ended.err == "Searched the index looks (over pooled); choose another with --index.\n"


def test_a_second_night_with_a_renamed_and_a_new_file(cliploom: Command, first_run: FirstRun) -> None:
    saved = first_run.home / "my videos" / "saved stuff"
    (saved / "photo 3.png").rename(saved / "rocket.png")
    (saved / "later.JPEG").write_bytes((saved / "print.jpg").read_bytes() + b"\0")
    planned = cliploom("plan")
    assert "deleted" not in planned.out
    assert "frames: 1 new, 1 moved, 25 unchanged, 10 failed" in planned.out
    assert "moved: renamed from another item, rows are copied: 1 item (saved stuff/rocket.png)" in planned.out
    dry = cliploom("vacuum", "--keep-releases", "1", "--older-than", "0s", "--dry-run")
    total, first = dry.err.splitlines()[0], dry.out.splitlines()[0]
    assert total.endswith("would be removed:")
    assert first.startswith("  ")
