"""A bounded queue of uploaded files, and the worker process that handles them one at a time."""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cliploom.serving.settings import ServeSettings
from cliploom.serving.telemetry import LOGGER
from cliploom.transforms.python_child import python_command

_LOG = logging.getLogger(LOGGER)
_KEPT_JOBS = 50
_KEPT_S = 1800.0


class BusyQueueError(Exception):
    """The queue is full; the message contains its length."""


@dataclass
class FileJob:
    """One file to work on.

    Attributes:
        id: the random id in URLs; cannot be guessed.
        task: the task for the worker.
        path: the path of the file, in a folder of its own.
        name: the file name to display.
        events: the events so far; the last one has ``done`` or ``error``.
    """

    id: str
    task: dict[str, Any]
    path: Path
    name: str
    media_type: str
    events: list[dict[str, Any]] = field(default_factory=list)
    made_at: float = field(default_factory=time.monotonic)

    @property
    def is_ended(self) -> bool:
        """Whether the last event has arrived."""
        return bool(self.events) and ("done" in self.events[-1] or "error" in self.events[-1])


class JobQueue:
    """Jobs in order of arrival; at most ``settings.queue`` may wait, more are rejected."""

    def __init__(self, settings: ServeSettings) -> None:
        """Create the folder for files; the worker process starts with the first job."""
        self._settings = settings
        self.folder = Path(tempfile.mkdtemp(prefix="cliploom-serve-"))
        self._jobs: OrderedDict[str, FileJob] = OrderedDict()
        self._waiting: deque[FileJob] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def new_file(self) -> Path:
        """Return a path in a new private folder."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / "file"

    @property
    def length(self) -> int:
        """The number of waiting and running jobs."""
        return sum(not job.is_ended for job in list(self._jobs.values()))

    def add(self, task: dict[str, Any], path: Path, name: str, media_type: str = "") -> FileJob:
        """Append a job.

        Raises:
            BusyQueueError: too many jobs are waiting.
        """
        job = FileJob(secrets.token_urlsafe(16), task | {"path": str(path), "name": name}, path, name, media_type)
        with self._changed:
            if len(self._waiting) >= self._settings.queue:
                raise BusyQueueError(f"{len(self._waiting)} files are waiting; try again in a minute.")
            self._jobs[job.id] = job
            self._waiting.append(job)
            job.events.append({"stage": "waiting", "text": f"{len(self._waiting) - 1} before it"})
            self._forget()
            self._changed.notify_all()
        return job

    def get(self, job_id: str) -> FileJob | None:
        """Return the job with this id if it is still known."""
        return self._jobs.get(job_id)

    def wait(self, job: FileJob, seen: int, timeout_s: float) -> list[dict[str, Any]]:
        """Return the events after the first ``seen``; wait up to ``timeout_s`` seconds for one."""
        with self._changed:
            self._changed.wait_for(lambda: len(job.events) > seen or self._closed, timeout_s)
            return job.events[seen:]

    def close(self) -> None:
        """Stop the worker process and remove all files."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._kill()
        self._thread.join(timeout=5)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _forget(self) -> None:
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job.is_ended and (len(self._jobs) > _KEPT_JOBS or now - job.made_at > _KEPT_S):
                self._jobs.pop(job.id)
                shutil.rmtree(job.path.parent, ignore_errors=True)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job = self._waiting.popleft()
            self._tell(job, self._run(job))

    def _tell(self, job: FileJob, event: dict[str, Any]) -> None:
        with self._changed:
            job.events.append(event)
            self._changed.notify_all()

    def _run(self, job: FileJob) -> dict[str, Any]:
        """Let the worker process a job; return its last event."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._kill()

        clock = threading.Timer(self._settings.task_s, stop)
        clock.start()
        try:
            child = self._started()
            sending, receiving = child.stdin, child.stdout
            if sending is None or receiving is None:
                raise OSError("the worker process has no pipes")
            sending.write(json.dumps(job.task).encode() + b"\n")
            sending.flush()
            for line in receiving:
                event = json.loads(line)
                if "done" in event or "error" in event:
                    return event  # type: ignore[no-any-return]
                self._tell(job, event)
        except (OSError, ValueError) as error:
            _LOG.warning("worker", extra={"fields": {"error": str(error)}})
        finally:
            clock.cancel()
        self._kill()
        if late.is_set():
            return {"error": f"It took longer than {self._settings.task_s:g} s; send a shorter file."}
        return {"error": "The worker process crashed on this file; the file may be damaged."}

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._child = subprocess.Popen(
                python_command("cliploom.serving.worker"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        return self._child

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
