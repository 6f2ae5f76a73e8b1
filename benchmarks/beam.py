"""``cliploom.beam.EncodeMedia`` against ``cliploom run`` over the same clips: CPU seconds for a frame.

Both read, probe, decode and encode with one worker and write Parquet. Start-up is taken off by measuring each also on
one clip. Order: run, beam, run, beam, ...; figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.corpus import write_clips
from benchmarks.measure import run, table
from benchmarks.pipeline import LITE0, OUTPUTS, SAMPLES, encoder_of, measure_run, rows_per_clip


def in_beam(folder: Path, models: Path, output: Path) -> None:
    """The pipeline of a Beam user."""
    import apache_beam as beam
    from apache_beam.io import fileio

    from cliploom.beam import EncodeMedia

    encode = EncodeMedia(SAMPLES[LITE0], encoder_of(LITE0, folder), outputs=[OUTPUTS[LITE0]], models=str(models))
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        rows, _ = pipeline | fileio.MatchFiles(f"{folder}/*.mp4") | encode
        _ = rows | beam.io.WriteToParquet(str(output), file_name_suffix=".parquet")


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks beam", description=__doc__)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in-beam", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.in_beam:
        in_beam(*map(Path, chosen.in_beam))
        return 0
    frames = (chosen.clips - 1) * rows_per_clip(LITE0)
    times: dict[str, list[float]] = {"cliploom run": [], "cliploom.beam": []}
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as name:
        root = Path(name)
        write_clips(root / "one", 1)
        write_clips(root / "clips", chosen.clips)

        def beam_once(folder: str, place: Path) -> float:
            values = [str(root / folder), str(root), str(place / folder)]
            return run([sys.executable, "-m", "benchmarks", "beam", "--in-beam", *values], [0]).cpu_s

        beam_once("one", root)  # prepares the model
        for number in range(chosen.rounds):
            place = root / f"round-{number}"
            place.mkdir()
            (place / "models").symlink_to(root / "models")
            ones = measure_run(LITE0, place, root / "one", 1, 1, [0]).cpu_s
            times["cliploom run"].append(measure_run(LITE0, place, root / "clips", chosen.clips, 1, [0]).cpu_s - ones)
            times["cliploom.beam"].append(beam_once("clips", place) - beam_once("one", place))
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = [
        [name, f"{1000 * found / frames:.2f}", f"{found / medians['cliploom run']:.3f}"]
        for name, found in medians.items()
    ]
    table(["", "CPU ms a frame", "of cliploom run"], rows)
    return 0
