"""Random windows of clip features in a PyTorch ``DataLoader``, against the loader of Ego4D's features tutorial.

The tutorial opens the video's tensor file, slices it and averages, for each item. Ours is ``ClipWindows`` over an
HDF5 export. Both run in two worker processes on the same moments; "cold" drops the files from the page cache first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import table

DIM = 1536
RATE = 1.875
SPEC = f"""\
version: 1
name: benchmark
store: ./store
sources:
  omni: {{kind: precomputed, glob: "feats/*.pt", window: {{fps: 30, window: 32, stride: 16}}, dim: {DIM}}}
features: {{clips: {{source: omni}}}}
exports: {{clips_h5: {{kind: hdf5, feature: clips}}}}
"""
WRITE = """
import sys, torch
folder, videos, rows, dim = sys.argv[1], *map(int, sys.argv[2:])
for number in range(videos):
    torch.manual_seed(number)
    torch.save(torch.randn(rows, dim), f"{folder}/video-{number:05d}.pt")
"""
LOAD = """
import json, sys, time
import torch
from torch.utils.data import DataLoader, Dataset
from cliploom.transforms.narrations.pairs import time_to_index
from cliploom.transforms.readers.training_views import Moments, torch_dataset
from cliploom.transforms.readers.windows import ClipWindows

# The sums below are not what is measured; on several threads they would fight with the loaders for the cores.
torch.set_num_threads(1)

class Tutorial(Dataset):
    def __init__(self, folder, moments):
        self.folder, self.moments = folder, moments

    def __len__(self):
        return len(self.moments)

    def __getitem__(self, index):
        uid, t1, t2 = self.moments[index]
        features = torch.load(f"{self.folder}/{uid}.pt", weights_only=True)
        first, end = time_to_index(t1, t2, 1.875, len(features))
        return features[first:end].mean(0)

who, root, workers, moments = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.load(open(sys.argv[4]))
moments = [tuple(moment) for moment in moments]
began = time.perf_counter()
if who == "tutorial":
    data = Tutorial(f"{root}/feats", moments)
else:
    data = torch_dataset(Moments(ClipWindows(f"{root}/store", "clips"), moments))
opened = time.perf_counter() - began
total = torch.zeros(1536, dtype=torch.float64)
loader = DataLoader(data, batch_size=128, num_workers=workers, multiprocessing_context="fork")
began = time.perf_counter()
for batch in loader:
    total += batch.double().sum(0)
print(opened, time.perf_counter() - began, float(total.sum()))
"""


def drop_from_cache(folder: Path) -> None:
    """Ask the system to forget the pages of all files below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load(who: str, root: Path, workers: int, moments: Path) -> tuple[float, float, float]:
    """Return the seconds to open, seconds to read all, and the sum of what was read."""
    arguments = [who, str(root), str(workers), str(moments)]
    done = subprocess.run([sys.executable, "-c", LOAD, *arguments], capture_output=True, text=True, check=True)
    opened, seconds, total = map(float, done.stdout.split()[-3:])
    return opened, seconds, total


def main(argv: list[str]) -> int:
    """Print windows a second of both, and their ratio, cold and warm."""
    import json

    parser = argparse.ArgumentParser("benchmarks windows", description=__doc__)
    parser.add_argument("--videos", type=int, default=100)
    parser.add_argument("--rows", type=int, default=900, help="feature rows a video; 900 are eight minutes")
    parser.add_argument("--moments", type=int, default=20_000, help="read by cliploom; the tutorial reads a tenth")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    lines = []
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as name:
        root = Path(name)
        (root / "feats").mkdir()
        sizes = [str(options.videos), str(options.rows), str(DIM)]
        subprocess.run([sys.executable, "-c", WRITE, str(root / "feats"), *sizes], check=True)
        (root / "spec.yaml").write_text(SPEC)
        subprocess.run([sys.executable, "-m", "cliploom", "run", str(root / "spec.yaml")], check=True)
        times = rng.uniform(0, options.rows / RATE, options.moments)
        videos = rng.integers(0, options.videos, options.moments)
        moments = [
            (f"video-{v:05d}", max(0.0, t - 2), t + 2) for v, t in zip(videos.tolist(), times.tolist(), strict=True)
        ]
        few = moments[: max(1, options.moments // 10)]
        (root / "many.json").write_text(json.dumps(moments))
        (root / "few.json").write_text(json.dumps(few))
        for state in ("cold", "warm"):
            found = []
            for who, count, file in (("tutorial", len(few), "few.json"), ("cliploom", len(moments), "many.json")):
                if state == "cold":
                    drop_from_cache(root)
                opened, seconds, _ = load(who, root, options.workers, root / file)
                found.append((count / seconds, opened))
            (theirs, _), (ours, opened) = found
            same = [load(who, root, options.workers, root / "few.json")[2] for who in ("tutorial", "cliploom")]
            lines.append([state, f"{theirs:.0f}", f"{ours:.0f}", f"{ours / theirs:.1f}", f"{opened:.2f}"])
            if not np.isclose(same[0], same[1], rtol=1e-4, atol=1.0):
                raise SystemExit(f"the two loaders read different values: sums {same}")
    table(["cache", "tutorial windows/s", "cliploom windows/s", "ratio", "cliploom opens in s"], lines)
    return 0
