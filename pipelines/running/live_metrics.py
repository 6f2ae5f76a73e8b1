"""Metrics of a run while it works, for Prometheus: served on the loopback address, and written to the metrics file."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cliploom.pipelines.running.metrics import Sample, exposition, write_metrics
from cliploom.schemas.errors import SpecError
from cliploom.transforms.work.progress import ProgressTally

HOST = "127.0.0.1"
FILE_EVERY_S = 10.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "cliploom_live_"
_STAGES = {"decode_ms": "decode", "encode_ms": "encode", "write_ms": "write"}
LIVE_METRICS = {
    "cliploom_live_run": "1 while a run works, with its id.",
    "cliploom_live_start_time_seconds": "When the run began, in seconds since 1970.",
    "cliploom_live_stage": "1 for the stage that the run is at.",
    "cliploom_live_stage_start_time_seconds": "When that stage began, in seconds since 1970.",
    "cliploom_live_items": "Items of the run by state: planned, done, adopted, failed, at_work, probed.",
    "cliploom_live_rows": "Rows that are made so far, of all features.",
    "cliploom_live_busy_seconds": "Seconds that worker threads have spent by stage, over all attempts.",
    "cliploom_live_frames_decoded": "Frames that are decoded so far, over all attempts.",
    "cliploom_live_restarts": "Restarts of the worker process so far.",
    "cliploom_live_repeated_shards": "Shards that were begun again because an attempt was lost.",
    "cliploom_live_workers": "Worker processes on other machines that were heard of in the last minute.",
    "cliploom_live_worker_items": "Finished items by worker process on another machine.",
    "cliploom_live_worker_rows": "Rows by worker process on another machine.",
    "cliploom_live_heartbeat_age_seconds": "Seconds since the newest sign of life of a worker.",
}


class LiveMetrics:
    """The metrics of a run at work; safe to read from any thread.

    Args:
        run: its id.
        now: seconds since 1970.
    """

    def __init__(self, run: str, now: float) -> None:
        self._lock = threading.Lock()
        self._run = run
        self._began = self._stage_began = self._heard = now
        self._stage = "starting"
        self._restarts = 0
        self._samples: list[Sample] = []

    def on_stage(self, stage: str, now: float) -> None:
        """Say that a stage begins: its name, one word."""
        with self._lock:
            self._stage = stage
            self._stage_began = self._heard = now

    def on_restart(self) -> None:
        """Say that the worker process is started again."""
        with self._lock:
            self._restarts += 1

    def update(self, tally: ProgressTally, now: float) -> None:
        """Take over what is done so far.

        Args:
            tally: what is done; it may change afterwards.
            now: seconds since 1970.
        """
        states = {
            "planned": tally.total_items,
            "done": tally.items,
            "adopted": tally.adopted,
            "failed": tally.failures,
            "at_work": len(tally.at),
            "probed": tally.probed,
        }
        samples: list[Sample] = [("cliploom_live_items", {"state": name}, value) for name, value in states.items()]
        samples.append(("cliploom_live_rows", {}, tally.rows))
        samples += [
            ("cliploom_live_busy_seconds", {"stage": stage}, tally.figures.get(name, 0) / 1000)
            for name, stage in _STAGES.items()
        ]
        samples.append(("cliploom_live_frames_decoded", {}, tally.figures.get("frames_decoded", 0)))
        samples.append(("cliploom_live_repeated_shards", {}, tally.repeated))
        samples.append(("cliploom_live_workers", {}, len(tally.workers)))
        for worker, counts in tally.workers.items():
            samples.append(("cliploom_live_worker_items", {"worker": worker}, counts.get("items", 0)))
            samples.append(("cliploom_live_worker_rows", {"worker": worker}, counts.get("rows", 0)))
        ages = [counts["age_s"] for counts in tally.workers.values() if "age_s" in counts]
        with self._lock:
            if samples != self._samples:
                # A change was reported just now, or at the time of the newest heartbeat.
                self._heard = now - min(ages, default=0.0)
            self._samples = samples

    def text(self, now: float) -> str:
        """Return the metrics in the text format of Prometheus.

        Args:
            now: seconds since 1970.
        """
        with self._lock:
            return exposition(
                LIVE_METRICS,
                [
                    ("cliploom_live_run", {"run": self._run}, 1),
                    ("cliploom_live_start_time_seconds", {}, round(self._began, 3)),
                    ("cliploom_live_stage", {"stage": self._stage}, 1),
                    ("cliploom_live_stage_start_time_seconds", {}, round(self._stage_began, 3)),
                    ("cliploom_live_restarts", {}, self._restarts),
                    ("cliploom_live_heartbeat_age_seconds", {}, round(max(0.0, now - self._heard), 1)),
                    *self._samples,
                ],
            )


@contextmanager
def served(metrics: LiveMetrics, port: int | None) -> Iterator[int | None]:
    """Answer ``GET /metrics`` on the loopback address for as long as the block lasts; yields the port.

    Args:
        metrics: what to answer.
        port: 0 for a free one; None to serve nothing.

    Raises:
        SpecError: when the port is in use.
    """
    if port is None:
        yield None
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404, "only /metrics is here")
                return
            body = metrics.text(time.time()).encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing on the terminal."""

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise SpecError(
            f"--metrics-port {port}: {HOST}:{port} can't be used ({error.strerror}); take another port."
        ) from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True, name="metrics").start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def written(metrics: LiveMetrics, path: Path | None, every_s: float = FILE_EVERY_S) -> Iterator[None]:
    """Rewrite the metrics file every ten seconds for as long as the block lasts; what it said of the last run stays.

    Args:
        metrics: what to write.
        path: the file; None to write nothing.
        every_s: seconds between two writes.
    """
    if path is None:
        yield
        return
    before = lasting_lines(path.read_text(encoding="utf-8")) if path.is_file() else ""
    over = threading.Event()

    def write() -> None:
        while not over.wait(every_s):
            with suppress(OSError):  # a full disk ends the run itself, and says so
                write_metrics(path, before + metrics.text(time.time()))

    thread = threading.Thread(target=write, daemon=True, name="metrics-file")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def lasting_lines(text: str) -> str:
    """Return the lines of a metrics file that tell of an ended run."""
    return "".join(
        line
        for line in text.splitlines(keepends=True)
        if not line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(PREFIX)
    )
