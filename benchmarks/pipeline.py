"""``cliploom run`` against a loop written by hand over the same files, decoder, encoder and precision, without Beam.

Start-up is taken off both by measuring each also on one clip. Figures: frames per CPU-second of each, their ratio; two
workers against one by wall time; peak memory at 200 and at 2,000 clips.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.corpus import write_clips
from benchmarks.measure import Usage, run, table

SPEC = """\
version: 1
name: benchmark
store: ./store-{clips}-{workers}
sources: {{clips: {{kind: media, glob: "{folder}/*.mp4"}}}}
encoders: {{lite0: {{kind: efficientnet_lite0, precision: f32}}}}
features: {{frames: {{source: clips, sample: {{every: {every}}}, encoder: lite0, outputs: [pooled]}}}}
targets: {{local: {{workers: {workers}}}}}
"""
EVERY = "1s"
ROWS_PER_CLIP = 10


def by_hand(folder: Path, models: Path) -> int:
    """The loop: decode, encode in batches of 16, keep the vectors in one file."""
    from cliploom.schemas.media import MediaLimits
    from cliploom.schemas.sampling import Every
    from cliploom.transforms.encoders.lite0 import Lite0Options
    from cliploom.transforms.encoders.prepare import prepare_model
    from cliploom.transforms.encoders.registry import load
    from cliploom.transforms.media.decode import Request, decode
    from cliploom.transforms.media.probe import probe

    model, card = prepare_model("efficientnet_lite0", Lite0Options(), models)
    encoder = load(model, 1)
    request = Request(Every(every=EVERY), card.preprocess)
    vectors = []
    pending = []
    for path in sorted(folder.glob("*.mp4")):
        for sampled in decode(path, probe(path, MediaLimits()), [request]):
            pending.append(sampled.pixels)
            if len(pending) == 16:
                vectors += [row["pooled"] for row in encoder.encode(pending)]
                pending = []
    vectors += [row["pooled"] for row in encoder.encode(pending)] if pending else []
    np.save(folder.parent / "by-hand.npy", np.stack(vectors))
    return len(vectors)


def measure_run(root: Path, folder: Path, clips: int, workers: int, cpus: list[int]) -> Usage:
    """A first ``cliploom run`` over a folder, its models prepared before."""
    spec = root / f"spec-{clips}-{workers}.yaml"
    spec.write_text(SPEC.format(clips=clips, workers=workers, folder=folder, every=EVERY))
    store = root / f"store-{clips}-{workers}"
    (store / "models").parent.mkdir(parents=True, exist_ok=True)
    (store / "models").symlink_to(root / "models")
    return run([sys.executable, "-m", "cliploom", "run", str(spec)], cpus)


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks pipeline", description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--many", type=int, default=2000, help="clips for the memory figure; 0 leaves it out")
    parser.add_argument("--by-hand", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.by_hand:
        print(by_hand(Path(chosen.by_hand[0]), Path(chosen.by_hand[1])))
        return 0
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as name:
        root = Path(name)
        write_clips(root / "one", 1)
        write_clips(root / "clips", chosen.clips)
        loop = [sys.executable, "-m", "benchmarks", "pipeline", "--by-hand"]
        run([*loop, str(root / "one"), str(root / "models")])  # prepares the model
        hand_one = run([*loop, str(root / "one"), str(root / "models")], [0])
        hand = run([*loop, str(root / "clips"), str(root / "models")], [0])
        beam_one = measure_run(root, root / "one", 1, 1, [0])
        beam = measure_run(root, root / "clips", chosen.clips, 1, [0])
        two_one = measure_run(root, root / "one", 1, 2, [0, 1])
        two = measure_run(root, root / "clips", chosen.clips, 2, [0, 1])
        frames = (chosen.clips - 1) * ROWS_PER_CLIP
        rates = [
            frames / (many.cpu_s - one.cpu_s) for many, one in ((hand, hand_one), (beam, beam_one), (two, two_one))
        ]
        walls = [many.wall_s - one.wall_s for many, one in ((hand, hand_one), (beam, beam_one), (two, two_one))]
        labels = ["loop by hand", "cliploom run, 1 worker", "cliploom run, 2 workers"]
        rows = [
            [label, f"{rate:.0f}", f"{rate / rates[0]:.2f}", f"{wall:.1f}", f"{usage.peak_mb:.0f}"]
            for label, rate, wall, usage in zip(labels, rates, walls, (hand, beam, two), strict=True)
        ]
        table(["", "frames/CPU s", "of by hand", "wall s", "peak MB"], rows)
        print(f"two workers against one: {walls[1] / walls[2]:.2f} times")
        if chosen.many:
            write_clips(root / "many", chosen.many)
            many = measure_run(root, root / "many", chosen.many, 2, [0, 1])
            change = many.peak_mb / two.peak_mb - 1
            peaks = f"{two.peak_mb:.0f} and {many.peak_mb:.0f} MB ({change:+.1%})"
            print(f"peak memory at {chosen.clips} and {chosen.many} clips: {peaks}")
    return 0
