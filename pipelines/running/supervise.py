"""The supervisor of a local run: a child process does the work, this one shows it and starts it again when it dies.

A decoder or model that takes its process down (``os._exit``, a segmentation fault, the out-of-memory killer) takes the
local runner with it. The child goes on with the same run: finished parts are adopted, and the item that was being
worked on is tried alone (``cliploom.transforms.work.inflight``), so that one command still ends with a release.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliploom.schemas.errors import (
    CliploomError,
    DiskFullError,
    LimitError,
    SpecError,
    StoreError,
    UnknownNameError,
    UnknownReleaseError,
)
from cliploom.schemas.faults import check_temporary_folder, memory_sentence, system_fault
from cliploom.schemas.secrets import masked
from cliploom.transforms.python_child import python_command
from cliploom.transforms.watchdog import STALLED, WORKER_LOST
from cliploom.transforms.work.progress import ProgressReader, ProgressTally

MOST_DEATHS = 20
_DEATHS_WITHOUT_MEMORY = 3
"""So many in a row are the machine's fault; fewer may be those of items, which are then tried alone."""
_LAST_LINES = 20
_POLL_S = 0.1
_JSON_LINE = b'{"time": '
_PATIENCE_S = 5.0
_KINDS: dict[str, type[CliploomError]] = {
    kind.__name__: kind
    for kind in (
        *(CliploomError, SpecError, UnknownNameError, LimitError),
        *(StoreError, UnknownReleaseError, DiskFullError),
    )
} | {"MissingExtraError": SpecError}


@dataclass(frozen=True)
class Watching:
    """How a run is shown while it works.

    Attributes:
        on_stage: told of each new stage.
        tick: told of the tally, ten times a second.
        log: file that keeps what the child's libraries print.
        on_restart: told why the child is started again.
        on_line: told each line that the child's workers write as JSON; None to tell nothing.
    """

    on_stage: Callable[[str], None]
    tick: Callable[[ProgressTally], None]
    log: Path
    on_restart: Callable[[str], None] = lambda reason: None
    on_line: Callable[[str], None] | None = None


def run_supervised(request: dict[str, Any], watching: Watching) -> dict[str, Any]:
    """Run a request in a child process to its end.

    Args:
        request: what ``cliploom.pipelines.running.child`` takes, without its file names.
        watching: how it is shown.

    Returns:
        The child's result.

    Raises:
        CliploomError: what the child raised; or that it can't start, or keeps dying.
        KeyboardInterrupt: after the child was stopped.
    """
    check_temporary_folder()
    with _machine_faults(), tempfile.TemporaryDirectory(prefix="cliploom-run-") as name:
        folder = Path(name)
        files = {key: str(folder / key) for key in ("progress", "notes", "result", "started")}
        deaths = computed = 0
        restarts: list[dict[str, Any]] = []
        begun_s = _children_s()
        while deaths < MOST_DEATHS:
            attempts = {"restarts": restarts, "cpu_s": round(_children_s() - begun_s, 3)}
            (folder / "request").write_text(json.dumps(request | files | attempts), encoding="utf-8")
            (folder / "started").unlink(missing_ok=True)
            logged = watching.log.stat().st_size if watching.log.exists() else 0
            code = _watch_child(folder, watching)
            result = folder / "result"
            if result.exists():
                return _read_result(json.loads(result.read_text(encoding="utf-8")))
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            if not (folder / "started").exists():
                raise _start_error(how, watching.log, logged)
            if code == WORKER_LOST:
                reason = "a worker process died"
                watching.on_stage(f"{reason}; starting again, finished parts are kept")
            elif code == STALLED:
                reason = "an item made no progress (limits.stall)"
                watching.on_stage(f"{reason}; starting again without its worker process")
            else:
                reason = f"the worker process died ({how})"
                watching.on_stage(f"{reason}; starting it again, finished parts are kept")
            restarts.append({"at": round(time.time(), 3), "reason": reason})
            watching.on_restart(reason)
            # A corpus may hold more poison than that; as long as items get done between the deaths, there is an end.
            tally = ProgressReader(folder / "progress").update()
            deaths = 1 if tally.items - tally.adopted > computed else deaths + 1
            computed = tally.items - tally.adopted
            fault = system_fault(RuntimeError("\n".join(_printed(watching.log, logged)[-_LAST_LINES:])))
            if fault is not None and (deaths >= _DEATHS_WITHOUT_MEMORY or str(fault) != memory_sentence()):
                raise type(fault)(f"{fault} The worker process's log is {watching.log}.")
        raise CliploomError(
            f"The worker process died {MOST_DEATHS} times and got nothing done; its last words are in {watching.log}. "
            "Finished parts are kept."
        )


def _children_s() -> float:
    """Return the CPU seconds of all processes that this one has started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _start_error(how: str, log: Path, start: int) -> CliploomError:
    """The error for a child that ended before it began to work; it would only do so again.

    Args:
        how: it ended.
        log: its log.
        start: bytes that were in the log before.
    """
    lines = _printed(log, start)
    check_temporary_folder()
    last = masked(lines[-1].strip()) if lines else "it printed nothing"
    fault = system_fault(RuntimeError(last))
    if fault is not None:
        return type(fault)(f"The worker process can't start: {fault} Its log is {log}.")
    return CliploomError(f"The worker process can't start ({how}): {last}; its log is {log}.")


def _printed(log: Path, start: int) -> list[str]:
    """Lines of a log that are not empty, from a position on."""
    with log.open("rb") as file:
        file.seek(start)
        return [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]


@contextmanager
def _machine_faults() -> Iterator[None]:
    """Turn what the machine refuses into one sentence."""
    try:
        yield
    except OSError as error:
        fault = system_fault(error)
        if fault is None:
            raise
        raise fault from error


def _watch_child(folder: Path, watching: Watching) -> int:
    reader = ProgressReader(folder / "progress")
    notes = folder / "notes"
    shown = len(notes.read_text(encoding="utf-8").splitlines()) if notes.exists() else 0
    lines = _JsonLines(watching)
    with watching.log.open("ab") as log:
        child = subprocess.Popen(
            python_command("cliploom.pipelines.running.child", str(folder / "request"), str(os.getpid())),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            while True:
                code = child.poll()
                if notes.exists():
                    said = notes.read_text(encoding="utf-8").splitlines()
                    for line in said[shown:]:
                        watching.on_stage(line)
                    shown = max(shown, len(said))
                watching.tick(reader.update())
                lines.forward()
                if code is not None:
                    return code
                time.sleep(_POLL_S)
        finally:
            _stop(child)


class _JsonLines:
    """Hands on what a child's workers write as JSON lines; its libraries' lines stay in the log."""

    def __init__(self, watching: Watching) -> None:
        self._watching = watching
        self._offset = watching.log.stat().st_size if watching.log.exists() else 0

    def forward(self) -> None:
        """Hand on the whole lines that have come since the last call."""
        tell = self._watching.on_line
        if tell is None:
            return
        with self._watching.log.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                if line.startswith(_JSON_LINE):
                    tell(line.decode("utf-8", "replace").rstrip("\n"))


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End the child, politely first; what it had finished is in the store."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _read_result(result: dict[str, Any]) -> dict[str, Any]:
    if "error" in result:
        error = _KINDS.get(result["kind"], CliploomError)(result["error"])
        # Shown with --debug: where it happened in the other process.
        error.add_note(result["trace"])
        raise error
    return result
