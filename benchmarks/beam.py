"""``cliploom.beam.EncodeMedia`` against ``cliploom run`` over the same clips: CPU seconds for a frame.

Both read, probe, decode and encode in one worker thread of this process and write Parquet. Each round measures both, on
all clips and on one; the difference leaves out what is the same for any number of clips. Figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.corpus import write_clips
from benchmarks.measure import table
from benchmarks.pipeline import LITE0, OUTPUTS, SAMPLES, SPEC, encoder_of, rows_per_clip


def with_beam(folder: Path, place: Path) -> None:
    """The pipeline of a Beam user."""
    import apache_beam as beam
    from apache_beam.io import fileio

    from cliploom.beam import EncodeMedia

    models = str(place.parent)
    encode = EncodeMedia(SAMPLES[LITE0], encoder_of(LITE0, folder), outputs=[OUTPUTS[LITE0]], models=models)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        rows, _ = pipeline | fileio.MatchFiles(f"{folder}/*.mp4") | encode
        _ = rows | beam.io.WriteToParquet(str(place / "rows"), file_name_suffix=".parquet")


def with_run(folder: Path, place: Path) -> None:
    """``cliploom run`` into a new store."""
    import cliploom

    values = {"encoder": json.dumps(encoder_of(LITE0, folder)), "sample": json.dumps(SAMPLES[LITE0])}
    spec = place / "spec.yaml"
    spec.write_text(SPEC.format(clips=1, workers=1, folder=folder, output=OUTPUTS[LITE0], **values))
    (place / "store-1-1").mkdir()
    (place / "store-1-1" / "models").symlink_to(place.parent / "models")
    cliploom.run(spec, supervised=False)


def cpu_s(work: Callable[[Path, Path], None], folder: Path, root: Path) -> float:
    """CPU seconds of one run."""
    place = Path(tempfile.mkdtemp(dir=root))
    began = time.process_time()
    work(folder, place)
    return time.process_time() - began


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks beam", description=__doc__)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    frames = (chosen.clips - 1) * rows_per_clip(LITE0)
    ways = {"cliploom run": with_run, "cliploom.beam": with_beam}
    times: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as name:
        root = Path(name)
        (root / "models").mkdir()
        write_clips(root / "one", 1)
        write_clips(root / "clips", chosen.clips)
        for work in ways.values():
            cpu_s(work, root / "one", root)  # imports everything, prepares the model
        for _ in range(chosen.rounds):
            for way, work in ways.items():
                times[way].append(cpu_s(work, root / "clips", root) - cpu_s(work, root / "one", root))
    medians = {way: statistics.median(values) for way, values in times.items()}
    rows = [
        [way, f"{1000 * found / frames:.2f}", f"{found / medians['cliploom run']:.3f}"]
        for way, found in medians.items()
    ]
    table(["", "CPU ms a frame", "of cliploom run"], rows)
    return 0
