"""Clips to measure on: a few encoded for real, the others the same pictures with other bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, FPS, SECONDS = 320, 240, 25, 10
DISTINCT = 10


def write_clips(folder: Path, count: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> list[Path]:
    """Write ``count`` mp4 clips of 10 s, H.264, groups of 50 pictures; each with its own digest."""
    folder.mkdir(parents=True, exist_ok=True)
    originals = [_encode(seed, *size).read_bytes() for seed in range(min(count, DISTINCT))]
    paths = []
    for number in range(count):
        path = folder / f"clip-{number:05d}.mp4"
        # Like real files, no two have as many bytes.
        note = f"clip {number}".encode().ljust(32 + number)
        # A box of type "free" is skipped by every reader.
        path.write_bytes(originals[number % DISTINCT] + struct.pack(">I4s", 8 + len(note), b"free") + note)
        paths.append(path)
    return paths


def _encode(seed: int, width: int, height: int) -> Path:
    path = Path(f"/tmp/cliploom-benchmark-{width}x{height}-{seed}.mp4")  # a cache between runs
    if path.exists():
        return path
    random = np.random.default_rng(seed)
    scene = random.integers(0, 255, (height // 8 + FPS * SECONDS // 4, width // 8 + 40, 3), np.uint8)
    scene = np.kron(scene, np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": "50", "preset": "veryfast"}
        for number in range(FPS * SECONDS):
            crop = np.ascontiguousarray(scene[number : number + height, number : number + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(crop, "rgb24")))
        container.mux(stream.encode())
    return path
