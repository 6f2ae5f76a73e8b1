"""``cliploom run`` against a loop written by hand over the same files, decoder, encoder and precision, without Beam.

Start-up is taken off both by measuring each also on one clip. Figures: frames per CPU-second of each, their ratio; two
workers against one by wall time; peak memory at 200 and at 2,000 clips.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import write_clips
from benchmarks.encoder_models import options_of
from benchmarks.measure import Usage, run, table

SPEC = """\
version: 1
name: benchmark
store: ./store-{clips}-{workers}
sources: {{clips: {{kind: media, glob: "{folder}/*.mp4"}}}}
encoders: {{e: {encoder}}}
features: {{frames: {{source: clips, sample: {sample}, encoder: e, outputs: [{output}]}}}}
targets: {{local: {{workers: {workers}}}}}
"""
LITE0 = "lite0"
SAMPLES = {LITE0: {"every": "1s"}, "bit": {"every": "1s"}, "clip": {"every": "1s"}, "s3d": {"first": {"frames": 32}}}
OUTPUTS = {LITE0: "pooled", "bit": "picture", "clip": "image", "s3d": "clip"}
CLIPS = {LITE0: 200, "bit": 24, "clip": 24, "s3d": 60}


def rows_per_clip(name: str) -> int:
    """Return the rows that a clip of 10 s gives with an encoder's sampling."""
    return 10 if "every" in SAMPLES[name] else 1


def encoder_of(name: str, root: Path) -> dict[str, Any]:
    """What a spec says of the encoder; models that are not in a package lie in ``root/published``."""
    if name == LITE0:
        return {"kind": "efficientnet_lite0", "precision": "f32"}
    return options_of(name, root / "published")


def by_hand(name: str, folder: Path) -> int:
    """Return the loop: decode, encode in batches of 16 (clips one by one), keep the vectors in one file."""
    from pydantic import TypeAdapter

    from cliploom.schemas.media import MediaLimits
    from cliploom.schemas.sampling import Sampling
    from cliploom.transforms.encoders.prepare import prepare_model
    from cliploom.transforms.encoders.registry import family, load
    from cliploom.transforms.media.decode import Request, decode
    from cliploom.transforms.media.probe import probe

    options = encoder_of(name, folder.parent)
    kind = options.pop("kind")
    model, card = prepare_model(kind, family(kind).Options.model_validate(options), folder.parent / "models")
    encoder = load(model, 1)
    sampling: Any = TypeAdapter(Sampling).validate_python(SAMPLES[name])
    request = Request(sampling, card.preprocess)
    together = 1 if card.modality == "clip" else 16
    vectors = []
    pending = []
    for path in sorted(folder.glob("*.mp4")):
        for sampled in decode(path, probe(path, MediaLimits()), [request]):
            pending.append(sampled.pixels)
            if len(pending) == together:
                vectors += [row[OUTPUTS[name]] for row in encoder.encode(pending)]
                pending = []
    vectors += [row[OUTPUTS[name]] for row in encoder.encode(pending)] if pending else []
    np.save(folder.parent / "by-hand.npy", np.stack(vectors))
    return len(vectors)


def measure_run(name: str, root: Path, folder: Path, clips: int, workers: int, cpus: list[int]) -> Usage:
    """Return a first ``cliploom run`` over a folder, its models prepared before."""
    spec = root / f"spec-{clips}-{workers}.yaml"
    values = {"encoder": json.dumps(encoder_of(name, root)), "sample": json.dumps(SAMPLES[name])}
    spec.write_text(SPEC.format(clips=clips, workers=workers, folder=folder, output=OUTPUTS[name], **values))
    store = root / f"store-{clips}-{workers}"
    (store / "models").parent.mkdir(parents=True, exist_ok=True)
    (store / "models").symlink_to(root / "models")
    return run([sys.executable, "-m", "cliploom", "run", str(spec)], cpus)


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks pipeline", description=__doc__)
    parser.add_argument("--encoder", choices=list(SAMPLES), default=LITE0)
    parser.add_argument("--clips", type=int, help="200, or fewer for large models")
    parser.add_argument("--many", type=int, help="clips for the memory figure; 0 leaves it out; 2,000 with lite0")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=2, help="1 leaves the runs with two workers out")
    parser.add_argument("--published", type=Path, help="folder that has the models already; see benchmarks encoders")
    parser.add_argument("--by-hand", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    name_of = chosen.encoder
    if chosen.by_hand:
        print(by_hand(name_of, Path(chosen.by_hand)))
        return 0
    chosen.clips = chosen.clips or CLIPS[name_of]
    chosen.many = (2000 if name_of == LITE0 else 0) if chosen.many is None else chosen.many
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as name:
        root = Path(name)
        write_clips(root / "one", 1)
        write_clips(root / "clips", chosen.clips)
        if name_of != LITE0:
            if chosen.published:
                (root / "published").symlink_to(chosen.published.resolve())
            else:
                (root / "published").mkdir()
                run([sys.executable, "-m", "benchmarks.encoder_models", name_of, str(root / "published")])
        loop = [sys.executable, "-m", "benchmarks", "pipeline", "--encoder", name_of, "--by-hand"]
        run([*loop, str(root / "one")])  # prepares the model
        pairs = [
            (run([*loop, str(root / "one")], [0]), run([*loop, str(root / "clips")], [0])),
        ]
        for workers in range(1, chosen.workers + 1):
            cpus = list(range(workers))
            pairs.append(
                (
                    measure_run(name_of, root, root / "one", 1, workers, cpus),
                    measure_run(name_of, root, root / "clips", chosen.clips, workers, cpus),
                )
            )
        frames = (chosen.clips - 1) * rows_per_clip(name_of)
        rates = [frames / (many.cpu_s - one.cpu_s) for one, many in pairs]
        walls = [many.wall_s - one.wall_s for one, many in pairs]
        labels = ["loop by hand", "cliploom run, 1 worker", "cliploom run, 2 workers"]
        rows = [
            [label, f"{rate:.1f}", f"{rate / rates[0]:.2f}", f"{wall:.1f}", f"{many.peak_mb:.0f}"]
            for label, rate, wall, (_, many) in zip(labels, rates, walls, pairs, strict=False)
        ]
        table([name_of, "rows/CPU s", "of by hand", "wall s", "peak MB"], rows)
        if chosen.workers > 1:
            print(f"two workers against one: {walls[1] / walls[2]:.2f} times")
        if chosen.many:
            two = pairs[-1][1]
            write_clips(root / "many", chosen.many)
            many = measure_run(name_of, root, root / "many", chosen.many, chosen.workers, list(range(chosen.workers)))
            change = many.peak_mb / two.peak_mb - 1
            peaks = f"{two.peak_mb:.0f} and {many.peak_mb:.0f} MB ({change:+.1%})"
            print(f"peak memory at {chosen.clips} and {chosen.many} clips: {peaks}")
    return 0
