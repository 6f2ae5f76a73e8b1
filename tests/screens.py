"""Screens kept as text: what a command prints, compared with a file, without what changes from run to run.

``CLIPLOOM_SNAPSHOTS=write`` makes the files anew; look at them before they are committed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "snapshots"
_MASKS = (
    (r"Time: .*(\n  .*)*", "Time: DURATIONS"),
    (r"\d{8}T\d{6}-[0-9a-f]{4}", "RUN"),
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:[\d.]+(\+00:00)?|Z)?", "TIME"),
    (r"\b[0-9a-f]{8}\*", "DIGEST*"),
    (r"\b[0-9a-f]{12}\b", "CONFIG"),
    (r"\b[\d.]+\s+(B|KB|MB|bytes)\b", "SIZE"),
    (r"(?<=SIZE)( +)\d+:\d\d:\d\d", r"\1DURATION"),
    (r"\b\d+ h \d+ min\b|\b\d+ min \d+ s\b|\b[\d.]+ s\b", "DURATION"),
    (r"\b\d+/s\b", "RATE"),
    (r"\b[01]\.\d{3}\b", "0.NNN"),
)


def masked_screen(text: str, home: Path) -> str:
    """What a command printed, with run ids, times, digests, sizes and scores masked, and runs of blanks as one.

    Columns are padded to what is masked, so their widths change; a line's length is tested by itself.
    """
    text = text.replace(str(home), "HOME")
    for pattern, name in _MASKS:
        text = re.sub(pattern, name, text)
    return "\n".join(re.sub(r"(?<=\S) {2,}", "  ", line).rstrip() for line in text.splitlines()) + "\n"


def assert_screen(name: str, text: str, home: Path) -> None:
    """The text is that of ``snapshots/<name>.txt``."""
    found, path = masked_screen(text, home), FOLDER / f"{name}.txt"
    if os.environ.get("CLIPLOOM_SNAPSHOTS") == "write":
        FOLDER.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")
