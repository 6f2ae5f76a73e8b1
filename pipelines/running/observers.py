"""Observers of a run besides the terminal: Prometheus, OpenLineage, a log of JSON lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliploom.pipelines.console import logs_json, say
from cliploom.pipelines.live_progress import LiveProgress
from cliploom.pipelines.running.lineage import RunEvents, check_destination, send_event
from cliploom.pipelines.running.live_metrics import LiveMetrics, served, written
from cliploom.pipelines.running.metrics import metrics_text, write_metrics
from cliploom.pipelines.running.supervise import Watching
from cliploom.schemas.errors import SpecError
from cliploom.transforms.work.progress import ProgressTally

if TYPE_CHECKING:
    from cliploom.schemas.spec import Spec

_SPARSE_S = 1.0


@dataclass(frozen=True)
class Observers:
    """What the command line asks for.

    Attributes:
        metrics_file: for the node exporter's textfile collector.
        metrics_port: of the loopback address; 0 for a free one.
        lineage: file or address for OpenLineage events; empty for none.
    """

    metrics_file: Path | None = None
    metrics_port: int | None = None
    lineage: str = ""

    def check(self) -> None:
        """Check that each of them can be reached.

        Raises:
            SpecError: naming the option, the value and what is wrong.
        """
        if self.metrics_file is not None and not self.metrics_file.absolute().parent.is_dir():
            folder = str(self.metrics_file.absolute().parent)
            raise SpecError(f"--metrics-file: there is no folder {folder!r}; make it first.")
        if self.lineage:
            check_destination(self.lineage)

    def ended(self, code: int, result: Mapping[str, Any] | None = None) -> None:
        """Write the metrics of an ended run, if that is asked for.

        Args:
            code: exit code.
            result: of the run, when it had one.
        """
        if self.metrics_file is not None:
            write_metrics(self.metrics_file, metrics_text(code, time.time(), result))

    @contextmanager
    def watching(self, run: str, log: Path) -> Iterator[Watching]:
        """Show a run on the terminal and to whoever is asked for, for as long as the block lasts.

        Args:
            run: its id.
            log: file that keeps what the worker process's libraries print.
        """
        live, progress = LiveMetrics(run, time.time()), LiveProgress()
        updated_at = 0.0

        def on_stage(text: str) -> None:
            if text.partition(" ")[0] in STAGES:
                live.on_stage(text.partition(" ")[0], time.time())
            progress.on_stage(text)

        def tick(tally: ProgressTally) -> None:
            nonlocal updated_at
            progress.tick(tally)
            if time.monotonic() - updated_at >= _SPARSE_S:
                live.update(tally, time.time())
                updated_at = time.monotonic()

        with served(live, self.metrics_port) as port, written(live, self.metrics_file):
            if port is not None:
                say(f"• metrics at http://127.0.0.1:{port}/metrics")
            try:
                progress.begin()
                yield Watching(
                    on_stage, tick, log, lambda reason: live.on_restart(), _print_line if logs_json() else None
                )
            finally:
                progress.close()


NOBODY = Observers()
STAGES = ("listing", "preparing", "probing", "planning", "computing", "publishing")
"""First words of what a run says when a stage begins."""


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def sources_of(spec: Spec, base: Path) -> dict[str, str]:
    """Return where each source's files are listed: the pattern or table of the spec.

    Args:
        spec: the spec.
        base: folder that relative paths start from.
    """
    found = {}
    for name, source in spec.sources.items():
        for key in ("glob", "table", "path", "file"):
            value = getattr(source, key, None)
            if value:
                where = str(value if isinstance(value, str | Path) else value[0])
                found[name] = where if "://" in where else str(base / where)
                break
    return found


@contextmanager
def lineage_of(where: str, events: RunEvents) -> Iterator[dict[str, Any]]:
    """Report the beginning and the end of the block to OpenLineage.

    Args:
        where: file or address.
        events: makes the events.

    Yields:
        A dictionary into which the block puts the run's result.
    """
    result: dict[str, Any] = {}

    def send(event: dict[str, Any]) -> None:
        if problem := send_event(event, where):
            say(problem, "warning")

    send(events.start(time.time()))
    try:
        yield result
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        send(events.fail(time.time(), "stopped by Ctrl-C" if stopped else str(error), stopped=stopped))
        raise
    send(events.complete(time.time(), result["release"], result["counters"]))
