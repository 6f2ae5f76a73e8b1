"""Features of clips and the second night: ``cliploom run`` against Ray Data and Daft.

One frame a second through EfficientNet-Lite0 in f32 into Parquet, two workers each. Start-up is taken off by the same
run on one clip. ``documented`` is written as the rival's documentation does it, with PyAV; ``fused`` gives the rival
cliploom's own decoder and encoder, so that only the frameworks differ.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

from benchmarks.corpus import SECONDS, write_clips
from benchmarks.measure import table
from benchmarks.pipeline import SPEC
from benchmarks.process_tree import CommandFailedError, TreeUsage, run_tree
from cliploom.transforms.encoders.lite0 import Lite0Options
from cliploom.transforms.encoders.prepare import prepare_model

SIZE = (640, 360)
RIVALS = Path(__file__).parent / "rivals"
WAYS = (("Ray Data", "ray"), ("Daft", "daft"))


def rival_environment(root: Path) -> dict[str, str]:
    """Where rivals find their helpers and cliploom; without torch, which Ray and Daft would import if it is there."""
    without = root / "without"
    without.mkdir(exist_ok=True)
    (without / "torch.py").write_text("raise ImportError('not needed for this measurement')\n")
    return {
        "PYTHONPATH": f"{without}:{RIVALS}:{Path.cwd()}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def ours(root: Path, clips: str) -> TreeUsage:
    """``cliploom run`` over a folder, its model prepared before; again after a first run, the second night."""
    spec = root / f"spec-{clips}.yaml"
    spec.write_text(SPEC.format(clips=clips, workers=2, folder=root / clips, every="1s"))
    store = root / f"store-{clips}-2"
    if not store.exists():
        store.mkdir()
        (store / "models").symlink_to(root / "models")
    return run_tree([sys.executable, "-m", "cliploom", "run", str(spec)])


def theirs(python: str, root: Path, rival: str, way: str, clips: str, model: Path) -> TreeUsage:
    """Return a rival's run over a folder, always from nothing."""
    out = root / f"out-{rival}-{way}-{clips}"
    command = [python, str(RIVALS / f"{rival}_features.py"), way, str(root / clips), str(model), str(out)]
    return run_tree(command, rival_environment(root))


def change(paths: list[Path]) -> None:
    """Give files other bytes, the pictures staying the same."""
    for path in paths:
        path.write_bytes(path.read_bytes() + struct.pack(">I4s", 40, b"free") + os.urandom(32))


def measure(python: str, root: Path, clips: int, present: dict[str, str]) -> None:
    """Print both tables."""
    write_clips(root / "one", 1, SIZE)
    write_clips(root / "clips", clips, SIZE)
    model, _ = prepare_model("efficientnet_lite0", Lite0Options(), root / "models")
    frames = (clips - 1) * SECONDS
    found: dict[str, tuple[TreeUsage, TreeUsage]] = {"cliploom run": (ours(root, "one"), ours(root, "clips"))}
    for name, rival in WAYS:
        if name not in present:
            print(f"{name}: not asked for, or not installed in the rivals' environment")
            continue
        for way in ("documented", "fused"):
            try:
                one, many = (theirs(python, root, rival, way, folder, model) for folder in ("one", "clips"))
            except CommandFailedError as error:
                print(f"{name} {present[name]}, {way}: failed: {str(error).splitlines()[-1]}")
                continue
            found[f"{name} {present[name]}, {way}"] = one, many
            print(f"{name}, {way}: one clip {one.cpu_s:.1f} CPU s, {clips} clips {many.cpu_s:.1f}", flush=True)
    rates = {name: frames / max(many.cpu_s - one.cpu_s, 1e-3) for name, (one, many) in found.items()}
    base = rates["cliploom run"]
    rows = [
        (
            name,
            f"{rates[name]:.0f}",
            f"{base / rates[name]:.2f}",
            f"{frames / max(many.wall_s - one.wall_s, 1e-3):.0f}",
            f"{one.cpu_s:.1f}",
            f"{many.cpu_s:.1f}",
            f"{many.peak_mb:.0f}",
        )
        for name, (one, many) in found.items()
    ]
    print(f"\nFeatures: one frame a second of {clips} clips of {SECONDS} s, {SIZE[0]}x{SIZE[1]}, two workers")
    head = ["", "frames/CPU s", "cliploom is x", "frames/wall s", "one clip, CPU s", "all, CPU s", "peak PSS MB"]
    table(head, rows)
    print("Where one clip costs nearly what all do, the difference says nothing: compare what all cost.")
    print(f"\nThe second night: {max(1, clips // 100)} of {clips} clips changed; rivals compute all again")
    change(sorted((root / "clips").iterdir())[:: max(1, clips // max(1, clips // 100))][: max(1, clips // 100)])
    night = ours(root, "clips")
    nights = [("cliploom run", f"{night.cpu_s:.1f}", "1.0")]
    nights += [
        (name, f"{many.cpu_s:.1f}", f"{many.cpu_s / night.cpu_s:.1f}")
        for name, (_, many) in found.items()
        if name != "cliploom run"
    ]
    table(["", "CPU s, start-up included", "x cliploom"], nights)
