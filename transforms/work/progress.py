"""Progress of a run on one machine: workers append small lines to a file, the terminal's process adds them up."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass
class ProgressTally:
    """What has been done so far."""

    probed: int = 0
    items: int = 0
    rows: int = 0
    failures: int = 0
    adopted: int = 0


class ProgressLog:
    """Appends to the file at ``path``; does nothing when the path is empty or its folder is not there.

    A line is one ``write`` in append mode, so threads and processes may share the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def add(self, **counts: int) -> None:
        """Count what was just finished, by the names of ``ProgressTally``."""
        if self._path:
            line = json.dumps(counts, separators=(",", ":")) + "\n"
            try:
                handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            except FileNotFoundError:  # nobody looks: the terminal has gone, or is on another machine
                return
            try:
                os.write(handle, line.encode("ascii"))
            finally:
                os.close(handle)


class ProgressReader:
    """Adds up the lines that have come since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.tally = ProgressTally()

    def update(self) -> ProgressTally:
        """Read on from where the last call stopped."""
        if not self._path.exists():
            return self.tally
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                counts = json.loads(line)
                for entry in fields(ProgressTally):
                    setattr(self.tally, entry.name, getattr(self.tally, entry.name) + counts.get(entry.name, 0))
        return self.tally
