"""What a person sees: numbers with units, tables, progress on a terminal and without, the summary."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cliploom.pipelines.console import fit, human_bytes, human_seconds, middle, run_summary, short_path, show, table
from cliploom.pipelines.live_progress import LiveProgress, Pace
from cliploom.schemas.records import Duplicate, Segment, Shard, ShardItem
from cliploom.transforms.work.progress import (
    ItemProgress,
    ProgressLog,
    ProgressReader,
    ProgressTally,
    items_of,
    span_of,
)

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


def on_a_terminal(environment: dict[str, str]) -> str:
    """What a run in the middle of its work writes to a terminal."""
    code = (
        "import time\n"
        "from cliploom.pipelines.live_progress import LiveProgress\n"
        "from cliploom.transforms.work.progress import ProgressTally\n"
        "progress = LiveProgress()\n"
        "progress.begin()\n"
        "progress.on_stage('computing 4 items')\n"
        "done = time.monotonic() + 0.7\n"
        "while time.monotonic() < done:\n"
        "    at = {'videos/' + 'very-' * 20 + 'long.mp4': None}\n"
        "    tally = ProgressTally(items=1, rows=50, failures=1, cost_ms=500, total_items=4, total_ms=1000, at=at)\n"
        "    progress.tick(tally)\n"
        "progress.on_stage('next')\n"
        "progress.close()\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=theirs, env=os.environ | environment)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # Linux ends a terminal's output with an error
        while piece := os.read(ours, 100_000):
            said += piece
    os.close(ours)
    assert process.wait() == 0
    return said.decode()


def test_a_bar_that_is_drawn_over_on_a_terminal() -> None:
    said = on_a_terminal({"TERM": "xterm-256color", "COLUMNS": "80", "NO_COLOR": ""})
    assert "• computing 4 items\r\n" in said
    assert "1/4 items, 50 rows, 1 failed" in said
    assert re.search(r"videos/very-[^\r\n]*…[^\r\n]*long\.mp4", said)
    assert "\x1b[38;5;" in said or "\x1b[3" in said
    assert "1/4 items" not in said.rpartition("• next\r\n")[2]


def test_no_colours_where_none_are_wanted_and_plain_lines_on_a_terminal_that_can_not_draw() -> None:
    assert not re.search(r"\x1b\[[\d;]*3\d[\d;]*m", on_a_terminal({"TERM": "xterm-256color", "NO_COLOR": "1"}))
    assert on_a_terminal({"TERM": "dumb"}) == "• computing 4 items\r\n• next\r\n"


def test_time_left_does_not_rise_when_a_long_file_begins() -> None:
    pace, told = Pace(), []
    # Ten short files of a second each, then one of a hundred seconds, told of as its rows come.
    for second in range(110):
        tally = ProgressTally(cost_ms=1000 * (second + 1), items=min(second + 1, 10), total_items=11, total_ms=110_000)
        share, left = pace.update(tally, float(second))
        told.append(left)
    known = [left for left in told if left is not None]
    assert known == sorted(known, reverse=True)
    assert known[0] == pytest.approx(110 - 3, abs=2)
    assert (share, known[-1]) == (1.0, 0.0)


def test_work_that_was_found_done_does_not_count_for_the_pace() -> None:
    pace = Pace()
    for second in (0, 1, 2):
        done = 50_000 + 1000 * (second + 1)
        _, left = pace.update(ProgressTally(cost_ms=done, adopted_ms=50_000, total_items=9, total_ms=100_000), second)
    assert left == pytest.approx(47)


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


def test_a_long_item_tells_how_far_it_is_and_its_name(tmp_path: Path) -> None:
    reader = ProgressReader(tmp_path / "progress")
    facts = '{"start_s": 5.0, "end_s": 3605.0}'
    item = ShardItem("long.mp4", "", "d", facts, (Duplicate(1, "long"), Duplicate(2, "twin")), cost_ms=10_000)
    log = ProgressLog(str(tmp_path / "progress"))
    shard = Shard(("frames",), (item,))
    progress = ItemProgress(shard, log)
    progress.start()
    progress.begin(item)
    assert list(reader.update().at) == ["long"]
    progress.rows(item, 900.0, 1)
    assert (reader.update().cost_ms, reader.update().rows, reader.update().items) == (2500, 2, 0)
    progress.rows(item, 100.0, 1)  # another feature of the same item is behind
    progress.end(item)
    found = reader.update()
    assert (found.cost_ms, found.rows, found.items, found.at) == (10_000, 4, 2, {})
    ItemProgress(Shard(("looks",), (item,)), log).adopt()
    found = reader.update()
    assert (found.cost_ms, found.adopted_ms, found.items, found.adopted) == (20_000, 10_000, 4, 2)


def test_a_shard_that_is_tried_again_counts_once(tmp_path: Path) -> None:
    reader, log = ProgressReader(tmp_path / "progress"), ProgressLog(str(tmp_path / "progress"))
    one, two = (
        ShardItem(f"{uid}.mp4", "", uid, "", (Duplicate(number, uid),), cost_ms=100)
        for number, uid in enumerate("ab", 1)
    )
    shard = Shard(("frames", "looks"), (one, two))
    died = ItemProgress(shard, log)
    died.start()
    died.begin(one)
    died.rows(one, 0.0, 3)
    died.end(one)
    died.begin(two)
    assert (reader.update().items, reader.update().rows, list(reader.update().at)) == (1, 3, ["b"])
    again = ItemProgress(shard, log)
    again.start()
    assert reader.update() == ProgressTally(repeated=1)
    for item in (one, two):
        again.begin(item)
        again.rows(item, 0.0, 3)
        again.end(item)
    again.failures(1)
    finished = reader.update()
    assert (finished.items, finished.rows, finished.cost_ms, finished.failures) == (2, 6, 200, 1)
    # A restarted job finds the parts; they are this run's own work.
    ItemProgress(shard, log).adopt()
    assert reader.update() == finished


def test_an_item_in_segments_is_done_with_its_last(tmp_path: Path) -> None:
    facts = '{"start_s": 0.0, "end_s": 1000.0}'
    parts = [Segment(0.0, 600.0, 0, 2), Segment(600.0, 1e12, 1, 2)]
    first, last = (ShardItem("a", "", "d", facts, (Duplicate(1, "a"),), segment, cost_ms=100) for segment in parts)
    assert (span_of(first), span_of(last)) == ((0.0, 600.0), (600.0, 1000.0))
    assert (items_of(first), items_of(last)) == (0, 1)
    assert span_of(ShardItem("a.txt", "", "d", "{}", (Duplicate(1, "a"),))) == (0.0, 0.0)


@pytest.mark.parametrize("columns", [20, 21, 40])
def test_a_long_path_keeps_its_ends(columns: int) -> None:
    shown = middle("videos/\u4f11\u65e5/holidays/2024/IMG_0001.mov", columns)
    assert cell_len(shown) <= columns
    assert shown.startswith("vid")
    assert shown.endswith(".mov")


def test_a_table_in_a_narrow_terminal_loses_middles_or_moves_words_below(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"n": 1, "path": "a/" * 30, "words": "some words about it"}]
    monkeypatch.setenv("COLUMNS", "30")
    lines = table(rows, ["n", "path"]).splitlines()
    assert [cell_len(line) for line in lines] == [len("n  path"), 30]
    assert table(rows, ["n", "words"], below=["words"]).splitlines() == ["n  words", "1  some words about it"]
    monkeypatch.setenv("COLUMNS", "16")
    assert table(rows, ["n", "words"], below=["words"]).splitlines() == ["n", "1", "    some words", "      about it"]
    assert fit("a sentence of some words") == "a sentence of\n  some words"


def test_worker_goes_on_where_nobody_reads_its_progress(tmp_path: Path) -> None:
    ProgressLog(str(tmp_path / "gone" / "progress")).add(items=1)
    assert not list(tmp_path.iterdir())


DIGEST = "24ba782cc4d3e40205f9b65d90f56f3883ec9c10"
RELEASE = {
    "release": 7,
    "counts": {"items": 15, "failed": 2, "partial": 1},
    "features": {"frames": {"rows": 120, "size": 2_000_000}},
    "indexes": {"frames": {"rows": 120, "kind": "flat", "shards": [{}], "recall": 1.0}},
    "exports": {
        "h5": {
            "files": [
                {"path": "hdf5/h5/master-24ba782cc4d3e40205f9b65d90f56f3883ec9c10.h5"},
                {"path": "hdf5/h5/part-1.h5"},
            ]
        }
    },
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
        "  export h5: 2 files, open /store/hdf5/h5/master-24ba782c*.h5\n"
        "2 of 15 items failed, 1 is kept in part:\n"
        "  2 NoVideo, e.g. a: 'a.mp4' is not a video.\n"
        "  1 Damaged (part kept), e.g. a: 'a.mp4' is not a video.\n"
        "Time: probe 1.0 s, compute 4.0 s (workers: decode 1.5 s, encode 2.5 s); 100 rows computed, 25/s."
    )


def test_summary_of_a_run_with_nothing_to_do() -> None:
    text = run_summary(RESULT | {"changed": False}, "/store", [])
    assert text.splitlines()[0] == "Nothing to do: release 7 of /store is up to date."
    assert "Time:" not in text
    assert "Failures:" not in text


def test_names_with_control_characters_neither_break_lines_nor_command_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "line\nbreak\x1b[2J\x9b2J\u202egnp.mp4"
    shown = table([{"uid": name, "rows": 1}], ["uid", "rows"])
    assert shown.count("\n") == 1
    assert all(letter.isprintable() for line in shown.splitlines() for letter in line)
    assert short_path(f"/elsewhere/{name}") == r"/elsewhere/line\nbreak\x1b[2J\x9b2J\u202egnp.mp4"
    show(f"a\tb\n{name}")
    assert capsys.readouterr().out == "a\tb\nline\nbreak\\x1b[2J\\x9b2J\\u202egnp.mp4\n"


def test_addresses_of_names_that_are_no_text_are_shown_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_path(f"file://{tmp_path}/bytes/caf%E9.mp4") == "bytes/caf%E9.mp4"
    assert short_path("file:///elsewhere/caf%E9.mp4") == "file:///elsewhere/caf%E9.mp4"
    assert short_path("s3://bucket/a.mp4") == "s3://bucket/a.mp4"
