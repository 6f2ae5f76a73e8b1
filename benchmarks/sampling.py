"""One frame a second from long files: this project's decoder against the ways that one would write by hand.

Run with ``python -m benchmarks sampling``. Makes two h264 files of 720p, with a key frame every 30 and every 250
frames, and asks each method for the frame on screen at every whole second, scaled for a 224-pixel encoder. Every frame
shows its number, so each method's exactness is read from its pixels. CPU time of the process, best of the repeats.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.media import MediaLimits, Preprocess
from cliploom.schemas.sampling import Every
from cliploom.transforms.media.decode import Request, decode
from cliploom.transforms.media.probe import probe
from cliploom.transforms.media.scale import Scaler

FPS = 30
WIDTH, HEIGHT = 1280, 720
WANT = Preprocess(224, 224, crop=0.875)
GRID = 4
PATCH = 360

Pixels = list[NDArray[np.uint8]]
Method = Callable[[Path, int], Pixels]


def write_clip(path: Path, seconds: int, gop: int, seed: int = 0) -> None:
    """A pan over soft noise with a patch of black and white blocks in the middle, the bits of the frame's number."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (HEIGHT // 16 + 40, WIDTH // 16 + 60, 3), np.uint8)
    wide = av.VideoFrame.from_ndarray(coarse, format="rgb24").reformat(
        width=coarse.shape[1] * 16, height=coarse.shape[0] * 16, interpolation="BICUBIC"
    )
    scene = np.clip(wide.to_ndarray() + random.normal(0, 6, (coarse.shape[0] * 16, coarse.shape[1] * 16, 1)), 0, 255)
    scene = scene.astype(np.uint8)
    options = {"preset": "veryfast", "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:threads=2"}
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(seconds * FPS):
            left, top = int(440 + 430 * np.sin(number / 90)), int(300 + 290 * np.cos(number / 70))
            pixels = scene[top : top + HEIGHT, left : left + WIDTH].copy()
            _stamp(pixels, number)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def _stamp(pixels: NDArray[np.uint8], number: int) -> None:
    top, left, block = (HEIGHT - PATCH) // 2, (WIDTH - PATCH) // 2, PATCH // GRID
    for bit in range(GRID * GRID):
        y, x = top + bit // GRID * block, left + bit % GRID * block
        pixels[y : y + block, x : x + block] = 235 if number >> bit & 1 else 20


def read_number(pixels: NDArray[np.uint8], short_side: float) -> int:
    """Return the number in the middle of a picture that was scaled to ``short_side``."""
    block = PATCH / GRID * short_side / HEIGHT
    centre_y, centre_x = pixels.shape[0] / 2, pixels.shape[1] / 2
    number = 0
    for bit in range(GRID * GRID):
        y, x = centre_y + (bit // GRID - 1.5) * block, centre_x + (bit % GRID - 1.5) * block
        number |= int(pixels[int(y), int(x)].mean() > 128) << bit
    return number


def ours(path: Path, seconds: int) -> Pixels:
    """Probe, choose, decode."""
    facts = probe(path, MediaLimits())
    return [sampled.pixels for sampled in decode(path, facts, [Request(Every(every="1s"), WANT)])]


def decode_everything(path: Path, seconds: int) -> Pixels:
    """Decode all frames, keep those of whole seconds."""
    scaler = Scaler(WANT)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return [scaler(frame) for number, frame in enumerate(container.decode(stream)) if number % FPS == 0]


def seek_each(path: Path, seconds: int) -> Pixels:
    """Seek to the key frame before each whole second, decode on from there."""
    scaler = Scaler(WANT)
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        base = stream.time_base or Fraction(1, FPS)
        for second in range(seconds):
            tick = int(second / base)
            container.seek(tick, stream=stream)
            found.append(scaler(next(frame for frame in container.decode(stream) if (frame.pts or 0) >= tick)))
    return found


def with_decord(path: Path, seconds: int) -> Pixels:
    """decord, scaling by itself."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1, width=round(WIDTH * 256 / HEIGHT), height=256)
    return list(reader.get_batch(list(range(0, seconds * FPS, FPS))).asnumpy())


def with_torchcodec(path: Path, seconds: int) -> Pixels:
    """Torchcodec by times; scaled as ours."""
    from torchcodec.decoders import VideoDecoder

    scaler = Scaler(WANT)
    frames = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1).get_frames_played_at(
        [float(second) for second in range(seconds)]
    )
    return [scaler(av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")) for frame in frames.data]


METHODS: dict[str, tuple[Method, str]] = {
    "cliploom": (ours, ""),
    "decode everything": (decode_everything, ""),
    "seek to each": (seek_each, ""),
    "decord": (with_decord, "decord"),
    "torchcodec": (with_torchcodec, "torchcodec"),
}


def measure(method: Method, path: Path, seconds: int, repeats: int) -> tuple[float, float]:
    """CPU seconds (best of ``repeats``), and the share of frames that are the wanted ones."""
    best = float("inf")
    found: Pixels = []
    for _ in range(repeats):
        began = time.process_time()
        found = method(path, seconds)
        best = min(best, time.process_time() - began)
    wanted = range(0, seconds * FPS, FPS)
    right = [read_number(pixels, 256.0) == number for pixels, number in zip(found, wanted, strict=False)]
    return best, sum(right) / len(wanted)


def main(argv: Sequence[str]) -> int:
    """Print a table for each file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks sampling", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="length of the files (default 60)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each method; the best counts (default 3)")
    options = parser.parse_args(argv)
    print(f"One frame a second of {options.seconds} s of {WIDTH}x{HEIGHT} h264 at {FPS} fps; one thread; CPU seconds.")
    with tempfile.TemporaryDirectory() as folder:
        for gop in (30, 250):
            path = Path(folder) / f"gop{gop}.mp4"
            write_clip(path, options.seconds, gop)
            print(f"\nA key frame every {gop} frames ({path.stat().st_size / 1e6:.1f} MB)")
            print(f"{'method':<20}{'CPU s':>8}{'x cliploom':>12}{'exact':>8}")
            base = 0.0
            for name, (method, module) in METHODS.items():
                if module and importlib.util.find_spec(module) is None:
                    print(f"{name:<20}{'not installed':>20}")
                    continue
                spent, exact = measure(method, path, options.seconds, options.repeats)
                base = base or spent
                print(f"{name:<20}{spent:>8.2f}{spent / base:>12.2f}{exact:>8.0%}")
    return 0
