"""Long files: split at the plan, computed by all workers, and the same rows as if they had been one piece."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_factory import write_video
from nights import SPEC, Project, write_encoder
from numpy.typing import NDArray

from cliploom.transforms.store.tables import read_table

ROOT = Path(__file__).resolve().parents[2]
ENCODER_WITH_WITNESS = """
import os, threading
import mean_colour

class Witness(mean_colour.ColourEncoder):
    def encode(self, batch, report=None):
        with open(os.environ["WITNESS"], "a") as file:
            file.write(f"{threading.get_ident()}\\n")
        return super().encode(batch, report)

mean_colour.ColourEncoder = Witness
"""
RUN = """
import json, resource, sys
sys.path[:0] = sys.argv[1:4]
import witness
from pathlib import Path
from nights import Project
result = Project(Path(sys.argv[4])).run()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"peak_mb": peak, "rows": result.counters["rows"], "items": result.counters["items_done"]}))
"""


def flat(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """A picture of one colour that changes from frame to frame."""
    colour = [index * 7 % 200 + 20, index * 3 % 200 + 20, index % 200 + 20]
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def run_aside(folder: Path, seconds: int, segment: str) -> dict[str, Any]:
    """A run over one video of so many seconds in a process of its own; what it used, and how many threads encoded."""
    project = Project(folder)
    project.media.mkdir(parents=True)
    rate = Fraction(1, 5)
    write_video(project.media / "long.mp4", int(seconds * rate), fps=rate, size=(32, 32), draw=flat)
    features = {"frames": {"source": "clips", "sample": {"every": "20s"}, "encoder": "tiny"}}
    limits = SPEC["limits"] | {"segment": segment}
    project.write_spec({"features": features, "targets": {"local": {"workers": 2}}, "limits": limits})
    package = write_encoder(folder / "encoder")
    (package / "witness.py").write_text(ENCODER_WITH_WITNESS, encoding="utf-8")
    witness = folder / "threads"
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(package), str(ROOT / "tests" / "integration"), str(ROOT / "tests"), folder],
        env=os.environ | {"WITNESS": str(witness), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    calls = witness.read_text(encoding="utf-8").split()
    return answer | {"threads": {thread: calls.count(thread) for thread in set(calls)}}


def vectors(folder: Path) -> list[tuple[Any, ...]]:
    """Rows without what names files: ordinal and time, frame, vector."""
    project = Project(folder)
    entry = project.release().features["frames"]
    frame = read_table(project.objects, entry.table, entry.version).sort("row_id")
    return frame.select("row_id", "start_s", "frame", "colour").rows()


def test_rows_of_a_split_file_equal_those_of_one_piece(tmp_path: Path) -> None:
    split = run_aside(tmp_path / "split", 1200, "100s")
    whole = run_aside(tmp_path / "whole", 1200, "1h")
    assert (split["items"], whole["items"]) == (12, 1)
    assert vectors(tmp_path / "split") == vectors(tmp_path / "whole")
    assert split["rows"] == whole["rows"] == 60


@pytest.mark.slow
def test_ten_hours_fan_out_to_both_workers_in_the_memory_of_one_hour(tmp_path: Path) -> None:
    short = run_aside(tmp_path / "short", 3600, "10m")
    long = run_aside(tmp_path / "long", 36_000, "10m")
    assert (short["items"], long["items"]) == (6, 60)
    assert long["rows"] == 1800
    assert len(long["threads"]) == 2
    assert min(long["threads"].values()) > 0.2 * sum(long["threads"].values())
    assert long["peak_mb"] < short["peak_mb"] + 60
