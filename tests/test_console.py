"""What a person sees: numbers with units, tables, progress on a terminal and without, the summary."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.pipelines.console import LiveProgress, human_bytes, human_seconds, run_summary, table
from cliploom.transforms.work.progress import ProgressLog, ProgressReader, ProgressTally

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (2.5e6, "2.5 MB"), (3e9, "3.0 GB"), (4e15, "4000.0 TB")],
)
def test_bytes(size: float, text: str) -> None:
    assert human_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (59.7, "1 min 0 s"),
        (75, "1 min 15 s"),
        (3599.9, "1 h 0 min"),
        (7260, "2 h 1 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


@given(st.floats(0, 1e6))
def test_no_duration_has_sixty_of_anything(seconds: float) -> None:
    assert not re.search(r"\b60 (s|min)\b", human_seconds(seconds))


def test_table_without_rows_is_its_head() -> None:
    assert table([], ["a", "b"]) == "a  b"


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LiveProgress()
    progress.on_stage("listing sources")
    progress.on_stage("computing 4 items")
    progress.tick(ProgressTally(items=1, rows=5))
    progress.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "• listing sources\n• computing 4 items\n"


def test_one_line_that_changes_on_a_terminal() -> None:
    code = (
        "import time\n"
        "from cliploom.pipelines.console import LiveProgress\n"
        "from cliploom.transforms.work.progress import ProgressTally\n"
        "progress = LiveProgress()\n"
        "progress.on_stage('computing 4 items')\n"
        "done = time.monotonic() + 0.5\n"
        "while time.monotonic() < done:\n"
        "    progress.tick(ProgressTally(items=1, rows=50, failures=1))\n"
        "progress.on_stage('next')\n"
        "progress.close()\n"
    )
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=theirs, check=True)
    os.close(theirs)
    said = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "\r\n".join(["• computing 4 items", ""]) in said
    assert re.search(r"  ━{5}╌{15} 1/4 items, 50 rows \(\d+/s\), 1 failed, left about [\d.]+ s", said)
    assert said.count("\n") == 2
    last = said.split("\r\n")[-2]
    assert last.endswith("• next")


def test_progress_adds_up_over_writers(tmp_path: Path) -> None:
    reader = ProgressReader(tmp_path / "progress")
    assert reader.update() == ProgressTally()
    one, two = ProgressLog(str(tmp_path / "progress")), ProgressLog(str(tmp_path / "progress"))
    one.add(items=1, rows=10)
    two.add(items=2, failures=1)
    assert reader.update() == ProgressTally(items=3, rows=10, failures=1)
    with (tmp_path / "progress").open("a") as file:
        file.write('{"items":')
    assert reader.update() == ProgressTally(items=3, rows=10, failures=1)
    with (tmp_path / "progress").open("a") as file:
        file.write("4}\n")
    assert reader.update() == ProgressTally(items=7, rows=10, failures=1)
    ProgressLog("").add(items=1)


def test_worker_goes_on_where_nobody_reads_its_progress(tmp_path: Path) -> None:
    ProgressLog(str(tmp_path / "gone" / "progress")).add(items=1)
    assert not list(tmp_path.iterdir())


RELEASE = {
    "release": 7,
    "features": {"frames": {"rows": 120, "size": 2_000_000}},
    "indexes": {"frames": {"rows": 120, "kind": "flat", "shards": [{}], "recall": 1.0}},
    "exports": {"h5": {"files": [{"path": "hdf5/h5/master-1.h5"}, {"path": "hdf5/h5/part-1.h5"}]}},
}
RESULT = {
    "run": "r1",
    "release": RELEASE,
    "changed": True,
    "verdicts": {"frames": {"new": 12, "unchanged": 3}},
    "counters": {"rows": 100, "decode_ms": 1500, "encode_ms": 2500},
    "seconds": {"list": 0.01, "probe": 1.0, "compute": 4.0},
}
FAILURE = {"items": 2, "type": "NoVideo", "partial": False, "uid": "a", "message": "'a.mp4' is not a video."}


def test_summary_of_a_run() -> None:
    assert run_summary(RESULT, "/store", [FAILURE, FAILURE | {"items": 1, "type": "Damaged", "partial": True}]) == (
        "Release 7 is published in /store (run r1).\n"
        "  frames: 12 new, 3 unchanged; 120 rows, 2.0 MB\n"
        "  index frames: 120 rows, flat, 1 shard, recall@10 1.000\n"
        "  export h5: 2 files, open /store/hdf5/h5/master-1.h5\n"
        "Failures:\n"
        "  2 NoVideo, e.g. a: 'a.mp4' is not a video.\n"
        "  1 Damaged (part kept), e.g. a: 'a.mp4' is not a video.\n"
        "Time: probe 1.0 s, compute 4.0 s (workers: decode 1.5 s, encode 2.5 s); 100 rows computed, 25/s."
    )


def test_summary_of_a_run_with_nothing_to_do() -> None:
    text = run_summary(RESULT | {"changed": False}, "/store", [])
    assert text.splitlines()[0] == "Nothing to do: release 7 of /store is up to date."
    assert "Time:" not in text
    assert "Failures:" not in text
