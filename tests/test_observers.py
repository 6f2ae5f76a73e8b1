"""Budgets of time, metrics of a run that works, lineage and figures of lost attempts, each by itself."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from cliploom.pipelines.running.attempts import Attempts, whole_counters
from cliploom.pipelines.running.budget import deadline_of
from cliploom.pipelines.running.flink import flink_reason, flink_restarts
from cliploom.pipelines.running.lineage import RunEvents, check_destination, dataset_of, send_event
from cliploom.pipelines.running.live_metrics import HOST, LiveMetrics, lasting_lines, served, written
from cliploom.schemas.errors import SpecError
from cliploom.transforms.work.progress import ProgressSum, ProgressTally

NOON = datetime(2026, 6, 1, 12, 0).timestamp()
HOUR = 3600.0


@pytest.mark.parametrize(
    ("until", "hours", "after"),
    [
        (None, None, -NOON),
        ("13:30", None, 1.5 * HOUR),
        ("06:00", None, 18 * HOUR),
        ("12:00", None, 24 * HOUR),
        (None, 0.5, HOUR / 2),
        ("13:00", 2.0, HOUR),
        ("2026-06-01T14:00", None, 2 * HOUR),
    ],
)
def test_the_earlier_of_both_ends_of_a_budget_counts(until: str | None, hours: float | None, after: float) -> None:
    assert deadline_of(until, hours, NOON) == pytest.approx(NOON + after)


@pytest.mark.parametrize(
    ("until", "hours", "said"),
    [
        ("25:00", None, "--until '25:00': give a time of day such as 06:00"),
        ("soon", None, "--until 'soon'"),
        ("2026-05-31T12:00", None, "this time has passed"),
        (None, 0.0, "--max-hours 0: give a number of hours above 0"),
        (None, float("nan"), "--max-hours nan"),
    ],
)
def test_a_budget_that_cannot_be_read_is_refused(until: str | None, hours: float | None, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        deadline_of(until, hours, NOON)


def tally(**values: Any) -> ProgressTally:
    return ProgressTally(total_items=9, items=4, rows=40, failures=1, **values)


def test_live_metrics_say_stage_items_workers_and_silence() -> None:
    live = LiveMetrics("r1", 1000.0)
    live.on_stage("computing", 1010.0)
    live.on_restart()
    workers = {'w"1': {"items": 3, "rows": 30, "age_s": 4.0}, "w2": {"items": 1, "rows": 10, "age_s": 7.0}}
    live.update(tally(workers=workers, repeated=2, figures={"decode_ms": 1500}), 1020.0)
    lines = live.text(1030.0).splitlines()
    for line in (
        'cliploom_live_run{run="r1"} 1',
        'cliploom_live_stage{stage="computing"} 1',
        "cliploom_live_stage_start_time_seconds 1010.0",
        'cliploom_live_items{state="planned"} 9',
        'cliploom_live_items{state="failed"} 1',
        'cliploom_live_busy_seconds{stage="decode"} 1.5',
        "cliploom_live_restarts 1",
        "cliploom_live_repeated_shards 2",
        "cliploom_live_workers 2",
        'cliploom_live_worker_rows{worker="w\\"1"} 30',
        "cliploom_live_heartbeat_age_seconds 14.0",
    ):
        assert line in lines
    live.update(tally(workers=workers, repeated=2, figures={"decode_ms": 1500}), 1025.0)
    assert "cliploom_live_heartbeat_age_seconds 114.0" in live.text(1130.0).splitlines()


def test_the_port_answers_metrics_only_and_a_port_in_use_is_refused() -> None:
    live = LiveMetrics("r1", 0.0)
    with served(live, 0) as port:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as answer:
            assert 'cliploom_live_run{run="r1"} 1' in answer.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://{HOST}:{port}/etc/passwd", timeout=10)
        with (
            pytest.raises(SpecError, match=rf"--metrics-port {port}: 127\.0\.0\.1:{port} can't be used"),
            served(live, port),
        ):
            pass
    with served(live, None) as nothing:
        assert nothing is None


def test_the_metrics_file_is_rewritten_while_a_run_works_and_keeps_what_it_said_of_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "clips.prom"
    path.write_text(
        "# TYPE cliploom_release gauge\ncliploom_release 3\n# HELP cliploom_live_rows old\ncliploom_live_rows 7\n"
    )
    live = LiveMetrics("r2", 0.0)
    with written(live, path, every_s=0.01):
        ends = time.monotonic() + 60
        while 'cliploom_live_run{run="r2"} 1' not in path.read_text():
            assert time.monotonic() < ends
    text = path.read_text()
    assert "cliploom_release 3\n" in text
    assert "cliploom_live_rows 7" not in text
    assert lasting_lines(text) == "# TYPE cliploom_release gauge\ncliploom_release 3\n"


class Server:
    """Takes events as OpenLineage's server does, and answers with a status."""

    def __init__(self) -> None:
        self.status = 201
        self.taken: list[tuple[str, str, dict[str, Any]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.taken.append((self.path, self.headers.get("Authorization", ""), body))
                self.send_response(server.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.http = HTTPServer((HOST, 0), Handler)
        self.address = f"http://{HOST}:{self.http.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    threading.Thread(target=found.http.serve_forever, daemon=True).start()
    yield found
    found.http.shutdown()
    found.http.server_close()


def test_lineage_is_posted_with_the_key_of_the_environment_and_trouble_is_one_warning(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "key-of-the-server")
    events = RunEvents("s3://bucket/store", "r1", "clips", {"clips": "s3://me:word@bucket/media/*"})
    assert send_event(events.start(NOON), server.address) == ""
    assert send_event(events.fail(NOON, "denied to key-of-the-server"), f"{server.address}/own/path") == ""
    (first, second) = server.taken
    assert (first[0], first[1]) == ("/api/v1/lineage", "Bearer key-of-the-server")
    assert first[2]["job"] == {"namespace": "s3://bucket", "name": "store:clips"} | {
        "facets": first[2]["job"]["facets"]
    }
    assert first[2]["inputs"] == [{"namespace": "s3://bucket", "name": "media/*"}]
    assert (second[0], second[2]["eventType"]) == ("/own/path", "FAIL")
    assert second[2]["run"]["facets"]["errorMessage"]["message"] == "denied to ***"
    server.status = 401
    assert "START was not delivered" in send_event(events.start(NOON), server.address)
    assert "the server answered 401" in send_event(events.start(NOON), server.address)
    assert "was not delivered" in send_event(events.start(NOON), f"http://{HOST}:1")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("http://me:word@host", "the address holds a credential"),
        ("kafka://host/topic", "give a file, or an address"),
        ("/no/such/folder/events.jsonl", "there is no folder '/no/such/folder'"),
    ],
)
def test_a_place_for_lineage_that_cannot_be_is_refused(where: str, said: str) -> None:
    with pytest.raises(SpecError, match=said) as told:
        check_destination(where)
    assert "word" not in str(told.value)


def test_datasets_are_named_by_the_rules_of_openlineage() -> None:
    assert dataset_of("gs://bucket") == ("gs://bucket", "/")
    assert dataset_of("/srv/clips/media/*.mp4") == ("file", "/srv/clips/media/*.mp4")


def test_figures_of_lost_attempts_are_added_and_a_shard_that_is_tried_again_counts_once() -> None:
    total = ProgressSum()
    for line in (
        {"shard": "a", "tried": 1},
        {"shard": "a", "rows": 5, "figures": {"decode_ms": 100, "frames_decoded": 5}},
        {"shard": "b", "tried": 1},
        {"shard": "a", "tried": 1},
        {"shard": "a", "rows": 9, "items": 1, "figures": {"decode_ms": 180, "frames_decoded": 9}},
    ):
        total.add(line)
    assert (total.tally.rows, total.tally.items, total.tally.repeated) == (9, 1, 1)
    attempts = Attempts(repeated_shards=1, figures=total.tally.figures)
    counters = whole_counters({"rows": 9, "decode_ms": 180, "encode_ms": 3, "frames_decoded": 9}, attempts)
    assert counters == {"rows": 9, "decode_ms": 280, "encode_ms": 3, "frames_decoded": 14}


def test_flinks_history_gives_the_innermost_cause_of_each_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SESAME-SESAME")
    assert flink_reason({"stacktrace": "a.B: x\n at y\nCaused by: c.D: SESAME-SESAME\n at z"}) == "c.D: ***"
    lost = "org.apache.flink.runtime.io.network.netty.exception.RemoteTransportException: closed"
    assert flink_reason({"stacktrace": lost}) == f"a task manager was lost ({lost})"
    assert flink_reason({"exceptionName": "org.apache.flink.Lost"}) == "org.apache.flink.Lost"
    assert flink_reason({}) == "unknown"
    assert flink_restarts([f"{HOST}:1"], "cliploom-x") == []
