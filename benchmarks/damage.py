"""Damaged files by codec: how many change the rows of a feature, and of how many of these the failures table says so.

Run with ``python -m benchmarks damage``. Writes a small file of each codec from photographs of the demo, flips bits or
zeroes a block of it behind its header by a seed, and compares the rows of every picture with those of the sound file.
Prints the table of docs/media.md. No rival: a plain decode by libav or Pillow says nothing of most of this.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliploom.pipelines.demo.corpus import ASTRONAUT, CAT, COFFEE, FLOWER, ROCKET
from cliploom.pipelines.demo.media import be_ordinary
from cliploom.schemas.errors import MediaError
from cliploom.schemas.media import MediaLimits, Preprocess
from cliploom.schemas.sampling import EveryFrames
from cliploom.transforms.media.decode import DecodeReport, Request, decode
from cliploom.transforms.media.probe import probe

PHOTOS = (CAT, COFFEE, ROCKET, ASTRONAUT, FLOWER)
SIZE = (192, 128)
FRAMES = 48
WANT = Request(EveryFrames(every_frames=1), Preprocess(48, 32, fit="squash"))
LIMITS = MediaLimits()
HEAD = 0.08
"""Share of a file that is left alone: a damaged header is mostly refused, which is another matter."""

Pixels = NDArray[np.uint8]
Rows = dict[tuple[float, int], bytes]


def scene(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a picture of a film that moves over a photograph."""
    photo = PHOTOS[number // 24 % len(PHOTOS)].load().convert("RGB")
    wide = photo.resize((size[0] * 5 // 4, size[1] * 5 // 4))
    left = number % 24 * (wide.width - size[0]) // 24
    return wide.crop((left, size[1] // 8, left + size[0], size[1] // 8 + size[1]))


def write_video(path: Path, codec: str, options: dict[str, str], pix_fmt: str = "yuv420p", gop: int = 12) -> None:
    """A film of two photographs."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *SIZE, pix_fmt, gop
        for number in range(FRAMES):
            frame = av.VideoFrame.from_image(scene(number, SIZE)).reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    be_ordinary()


def write_animation(path: Path, **options: object) -> None:
    """Twelve pictures."""
    first, *rest = [scene(number, SIZE) for number in range(0, FRAMES, 4)]
    first.save(path, save_all=True, append_images=rest, duration=100, **options)


def write_still(path: Path, **options: object) -> None:
    """A photograph."""
    scene(0, (384, 256)).save(path, **options)


_X264 = {"preset": "veryfast", "threads": "1"}
_VPX = {"cpu-used": "8", "deadline": "realtime"}
WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "H.264, MP4": ("a.mp4", lambda path: write_video(path, "libx264", _X264)),
    "H.264, Matroska": ("a.mkv", lambda path: write_video(path, "libx264", _X264)),
    "H.264, transport stream": ("a.ts", lambda path: write_video(path, "libx264", _X264)),
    "HEVC, MP4": ("a.mp4", lambda path: write_video(
        path, "libx265", {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1"})),
    "VP8, WebM": ("a.webm", lambda path: write_video(path, "libvpx", _VPX)),
    "VP9, WebM": ("a.webm", lambda path: write_video(path, "libvpx-vp9", _VPX)),
    "AV1, MP4": ("a.mp4", lambda path: write_video(
        path, "libsvtav1", {"preset": "12", "svtav1-params": "lp=1"})),
    "MPEG-2, program stream": ("a.mpg", lambda path: write_video(path, "mpeg2video", {})),
    "MPEG-4, AVI": ("a.avi", lambda path: write_video(path, "mpeg4", {})),
    "Motion JPEG, AVI": ("a.avi", lambda path: write_video(path, "mjpeg", {}, "yuvj420p")),
    "FFV1, Matroska": ("a.mkv", lambda path: write_video(path, "ffv1", {"level": "3", "slicecrc": "1"}, gop=1)),
    "ProRes, QuickTime": ("a.mov", lambda path: write_video(path, "prores", {}, "yuv422p10le")),
    "GIF": ("a.gif", write_animation),
    "WebP, animated": ("a.webp", write_animation),
    "PNG, animated": ("a.png", write_animation),
    "PNG": ("a.png", write_still),
    "JPEG": ("a.jpg", lambda path: write_still(path, quality=85)),
    "JPEG, progressive": ("a.jpg", lambda path: write_still(path, quality=85, progressive=True)),
    "WebP": ("a.webp", lambda path: write_still(path, quality=80)),
    "WebP, lossless": ("a.webp", lambda path: write_still(path, lossless=True)),
    "TIFF, LZW": ("a.tif", lambda path: write_still(path, compression="tiff_lzw")),
    "TIFF, deflate": ("a.tif", lambda path: write_still(path, compression="tiff_adobe_deflate")),
    "BMP": ("a.bmp", write_still),
    "AVIF": ("a.avif", lambda path: write_still(path, quality=70)),
}  # fmt: skip


def one_bit(data: bytearray, rng: np.random.Generator) -> None:
    """Flip one bit."""
    data[int(rng.integers(int(len(data) * HEAD), len(data)))] ^= 1 << int(rng.integers(8))


def bits(data: bytearray, rng: np.random.Generator) -> None:
    """Flip eight bits anywhere."""
    for _ in range(8):
        one_bit(data, rng)


def zeros(data: bytearray, rng: np.random.Generator) -> None:
    """Zero a block of 2% of the file, of at least 32 bytes."""
    length = max(32, len(data) // 50)
    at = int(rng.integers(int(len(data) * HEAD), len(data) - length))
    data[at : at + length] = bytes(length)


DAMAGES = (one_bit, bits, zeros)


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        kind: ``refused``, ``told``, ``untold`` (rows changed in silence), ``same`` or ``false alarm``.
        said: what the failures table would say.
    """

    kind: str
    said: str


def rows_of(path: Path) -> tuple[Rows, str]:
    """Return the rows of every picture, and what is said of the file.

    Raises:
        MediaError: when it is a failure.
    """
    facts, report = probe(path, LIMITS), DecodeReport()
    rows = {(row.start_s, row.frame): row.pixels.tobytes() for row in decode(path, facts, [WANT], report=report)}
    return rows, f"{facts.lost} {report.lost}".strip()


def outcome(path: Path, sound: Rows) -> Outcome:
    """Compare a damaged file with the sound one."""
    try:
        rows, said = rows_of(path)
    except MediaError as error:
        return Outcome("refused", str(error))
    if rows == sound:
        return Outcome("said" if said else "same", said)
    return Outcome("told" if said else "untold", said)


def measure(name: str, folder: Path, seeds: Sequence[int], verbose: bool = False) -> Counter[str]:
    """Return the outcomes of one codec: every kind of damage with every seed."""
    file, write = WRITERS[name]
    path = folder / file
    write(path)
    whole = path.read_bytes()
    sound, said = rows_of(path)
    if said:
        raise AssertionError(f"false alarm on the sound file of {name}: {said}")
    found: Counter[str] = Counter()
    for seed in seeds:
        for number, damage in enumerate(DAMAGES):
            data = bytearray(whole)
            damage(data, np.random.default_rng([seed, number]))
            path.write_bytes(data)
            result = outcome(path, sound)
            found[result.kind] += 1
            if verbose:
                print(f"{name:24} {seed} {damage.__name__:8} {result.kind:8} {result.said[:150]}")
    return found


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks damage", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="files of each codec and kind of damage")
    parser.add_argument("--only", default="", help="codecs whose name holds this text")
    parser.add_argument("--verbose", action="store_true", help="say what became of each file")
    options = parser.parse_args(arguments)
    av.logging.set_level(None)
    table: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in WRITERS:
            if options.only.lower() in name.lower():
                table[name] = measure(name, Path(folder), range(options.seeds), options.verbose)
    columns = {"refused": "refused", "told": "changed, told", "untold": "changed, untold", "said": "equal, told",
               "same": "equal"}  # fmt: skip
    print(f"| kind of file | files | {' | '.join(columns.values())} |")
    print("| --- " * (len(columns) + 2) + "|")
    total: Counter[str] = Counter()
    for name, found in table.items():
        total += found
        print(f"| {name} | {found.total()} | {' | '.join(str(found[kind]) for kind in columns)} |")
    print(f"| all | {total.total()} | {' | '.join(str(total[kind]) for kind in columns)} |")
    return 0
