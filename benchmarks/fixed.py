"""Fixed costs: CPU seconds of whole commands, all of their processes included, that have little or nothing to compute.

The unchanged night is that of a corpus of small pictures, encoded by the plug-in of ``examples/plugin``; the other
figures are of a few clips and the built-in encoders.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.corpus import write_clips
from benchmarks.measure import run, table

PLUGIN = Path(__file__).parents[1] / "examples" / "plugin"
PICTURES = """\
version: 1
name: pictures
store: ./store
sources: {pictures: {kind: media, glob: "media/*.png"}}
encoders: {colours: {kind: mean_colour}}
features: {colours: {source: pictures, sample: {every: 1s}, encoder: colours}}
"""
CLIPS = """\
version: 1
name: clips
store: ./store
sources: {clips: {kind: media, glob: "media/*.mp4"}}
encoders: {minilm: {kind: minilm}, lite0: {kind: efficientnet_lite0, text_encoder: minilm}}
features: {frames: {source: clips, sample: {every: 1s}, encoder: lite0, outputs: [pooled, semantic]}}
indexes: {frames: {feature: frames, output: semantic}}
"""
LIMITS = {"unchanged night": 2.0, "one new clip": 4.5, "search by text": 1.2, "status": 1.0}
_REPEATS = 3


def write_pictures(folder: Path, count: int) -> None:
    """Write ``count`` pictures of 16 x 16, each with bytes of its own."""
    folder.mkdir(parents=True)
    pixels = np.zeros((16, 16, 3), np.uint8)
    for number in range(count):
        pixels[0, 0] = number >> 16, number >> 8 & 255, number & 255
        Image.fromarray(pixels).save(folder / f"picture-{number:06d}.png")


def install_plugin(folder: Path) -> None:
    """Put the example's encoder where new processes find it."""
    shutil.copytree(PLUGIN / "cliploom_mean_colour", folder / "cliploom_mean_colour")
    info = folder / "cliploom_mean_colour-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cliploom-mean-colour\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cliploom.encoders]\nmean_colour = cliploom_mean_colour:MeanColour\n")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def cpu_s(*arguments: str) -> float:
    """CPU seconds of a command of cliploom, the least of three."""
    return min(run([sys.executable, "-m", "cliploom", *arguments]).cpu_s for _ in range(_REPEATS))


def project(folder: Path, spec: str) -> str:
    """Write a spec beside its media; returns its path."""
    (folder / "cliploom.yaml").write_text(spec, encoding="utf-8")
    return str(folder / "cliploom.yaml")


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks fixed", description=__doc__)
    parser.add_argument("--items", type=int, default=10_000, help="pictures of the unchanged night")
    chosen = parser.parse_args(arguments)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as name:
        root = Path(name)
        (root / "installed").mkdir()
        install_plugin(root / "installed")
        write_pictures(root / "pictures" / "media", chosen.items)
        spec = project(root / "pictures", PICTURES)
        run([sys.executable, "-m", "cliploom", "run", spec])
        found["unchanged night"] = cpu_s("run", spec)
        found["status"] = cpu_s("status", str(root / "pictures" / "store"))
        *clips, another = write_clips(root / "all", 4)
        (root / "clips" / "media").mkdir(parents=True)
        for clip in clips:
            shutil.move(clip, root / "clips" / "media")
        spec = project(root / "clips", CLIPS)
        run([sys.executable, "-m", "cliploom", "run", spec])
        shutil.move(another, root / "clips" / "media")
        found["one new clip"] = run([sys.executable, "-m", "cliploom", "run", spec]).cpu_s
        found["search by text"] = cpu_s("search", str(root / "clips" / "store"), "a cup of coffee")
        found["help"] = cpu_s("--help")
    rows = [(what, f"{spent:.2f}", LIMITS.get(what, "")) for what, spent in found.items()]
    table([f"{chosen.items:,} items", "CPU s", "at most"], rows)
    return 0 if all(found[what] <= most for what, most in LIMITS.items()) else 1
