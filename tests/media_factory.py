"""Writes small real media whose pictures say their own number, so that a test can read which frame it was given.

A picture is a grid of 4 x 4 blocks, black or white: the bits of its number, the first in the top left corner. Blocks
survive lossy codecs and scaling. ``read_index`` reads the number back from pixels of any size.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliploom.pipelines.demo.media import be_ordinary

GRID = 4
SIZE = (96, 64)
_QUIET = {
    "libx264": {"preset": "veryfast", "threads": "1", "sc_threshold": "0"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
    "libvpx": {"cpu-used": "8", "deadline": "realtime"},
    "libsvtav1": {"preset": "13", "svtav1-params": "lp=1"},
}
Picture = Callable[[int, int, int], NDArray[np.uint8]]


def picture(index: int, width: int = SIZE[0], height: int = SIZE[1]) -> NDArray[np.uint8]:
    """uint8 [height, width, 3] that shows ``index`` (0 to 65,535)."""
    bits = np.array([(index >> bit) & 1 for bit in range(GRID * GRID)], np.uint8).reshape(GRID, GRID)
    rows = np.arange(height) * GRID // height
    columns = np.arange(width) * GRID // width
    return np.repeat((bits[rows][:, columns] * 215 + 20)[:, :, None], 3, axis=2)


def read_index(pixels: NDArray[np.uint8]) -> int:
    """The number that a picture [H, W, 3] or [H, W] shows."""
    grey = pixels.mean(axis=2) if pixels.ndim == 3 else pixels
    height, width = grey.shape
    centres = [[grey[(2 * y + 1) * height // 8, (2 * x + 1) * width // 8] for x in range(GRID)] for y in range(GRID)]
    return sum(int(value > 128) << bit for bit, value in enumerate(np.ravel(centres)))


def write_video(
    path: Path,
    frames: int = 48,
    codec: str = "libx264",
    *,
    fps: Fraction | int = 25,
    size: tuple[int, int] = SIZE,
    gop: int = 12,
    b_frames: int = 2,
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int | None = None,
    hflip: bool = False,
    audio: bool = False,
    draw: Picture = picture,
    source_format: str = "rgb24",
    aspect: Fraction | None = None,
    interlaced: bool = False,
) -> Path:
    """A video whose frame i shows i.

    Args:
        fps: nominal rate.
        gop, b_frames: of the encoder.
        times: presentation time of each frame in ``time_base``; i / fps without.
        container: format name, where the file's suffix doesn't say it.
        rotation: counterclockwise degrees of the display matrix; ``hflip`` mirrors too.
        audio: add a tone.
        draw: makes the pixels of frame i, given (i, width, height), in ``source_format``.
        aspect: width of a pixel divided by its height.
        interlaced: chroma is that of two fields; the encoder is told by ``options``.
    """
    with av.open(os.fspath(path), "w", format=container, options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=fps, options=_QUIET.get(codec, {}) | (options or {}))
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.gop_size = gop
        if codec not in ("mjpeg", "ffv1", "libvpx", "libvpx-vp9", "libsvtav1", "rawvideo"):
            stream.max_b_frames = b_frames
        if rotation is not None or hflip:
            stream.set_display_rotation(rotation or 0, hflip=hflip)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if time_base is not None:
            stream.codec_context.time_base = time_base
        sound = output.add_stream("aac", rate=44100) if audio else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(index, *size), format=source_format).reformat(format=pix_fmt)
            if interlaced:
                frame = as_fields(frame)
            frame.pts = index if times is None else times[index]
            frame.time_base = time_base or 1 / Fraction(fps)
            output.mux(stream.encode(frame))
            be_ordinary()
        output.mux(stream.encode())
        if sound is not None:
            _write_tone(output, sound, frames / Fraction(fps))
    return path


def quiet(codec: str) -> dict[str, str]:
    """Options that keep an encoder quick and silent."""
    return dict(_QUIET.get(codec, {}))


def as_fields(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame, marked as two fields, the top one first."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25))
    graph.link_nodes(source, graph.add("setfield", "tff"), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def write_audio(path: Path, seconds: float = 1.0) -> Path:
    """A file with sound and no picture."""
    with av.open(os.fspath(path), "w") as output:
        _write_tone(output, output.add_stream("aac", rate=44100), Fraction(seconds))
    return path


def _write_tone(output: av.container.OutputContainer, stream: av.AudioStream, seconds: Fraction) -> None:
    wave = np.sin(np.arange(int(44100 * seconds)) * 0.06).astype(np.float32)
    for start in range(0, len(wave), 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, start
        output.mux(stream.encode(frame))
    output.mux(stream.encode())


def write_gif(
    path: Path,
    durations_ms: Sequence[int] = (50,) * 8,
    *,
    size: tuple[int, int] = SIZE,
    disposal: int = 1,
    transparent: bool = False,
    comment: bytes = b"",
    loop: int = 0,
) -> Path:
    """A GIF whose frame i shows i.

    Args:
        durations_ms: of each frame; 0 and 10 are what browsers play as 100.
        disposal: 1 leaves the frame, 2 clears to the background, 3 restores what was before.
        transparent: black blocks are transparent pixels.
        comment: bytes of a comment block.
    """
    pictures = []
    for index in range(len(durations_ms)):
        pixels = picture(index, *size)
        if transparent:
            pixels = np.dstack([pixels, np.where(pixels[:, :, 0] > 128, 255, 0).astype(np.uint8)])
        pictures.append(Image.fromarray(pixels))
    pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        duration=list(durations_ms),
        disposal=disposal,
        loop=loop,
        comment=comment,
        optimize=False,
    )
    return path


def write_image(
    path: Path,
    index: int = 5,
    *,
    size: tuple[int, int] = SIZE,
    mode: str = "RGB",
    exif_orientation: int = 1,
    format: str | None = None,
) -> Path:
    """A still image that shows ``index`` when stood upright by its EXIF orientation."""
    upright = Image.fromarray(picture(index, *size))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[exif_orientation]) if exif_orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = exif_orientation
    if mode == "I;16":
        grey = np.asarray(stored.convert("L")).astype(np.uint16) * 257
        stored = Image.fromarray(grey)
    else:
        stored = stored.convert(mode)
    stored.save(path, format=format, exif=exif)
    return path


def truncate(path: Path, share: float) -> Path:
    """Cut a file to its first ``share``, in place."""
    with open(path, "r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    return path


def write_noise(path: Path, size: int = 20_000, seed: int = 0) -> Path:
    """A file of random bytes."""
    path.write_bytes(np.random.default_rng(seed).bytes(size))
    return path


def damage(path: Path, first: float, last: float, seed: int = 0) -> Path:
    """Overwrite the bytes between two shares of the file with noise, in place."""
    data = bytearray(path.read_bytes())
    start, stop = int(len(data) * first), int(len(data) * last)
    data[start:stop] = np.random.default_rng(seed).bytes(stop - start)
    path.write_bytes(data)
    return path


def trim_by_edit_list(path: Path, skip_ticks: int, duration_ms: int) -> Path:
    """Let an mp4's edit list begin ``skip_ticks`` of the media's time later and last ``duration_ms``, in place."""
    data = bytearray(path.read_bytes())
    at = data.find(b"elst") + 4
    version, entries, _, media_time, rate = struct.unpack(">IIIiI", data[at : at + 20])
    data[at : at + 20] = struct.pack(">IIIiI", version, entries, duration_ms, media_time + skip_ticks, rate)
    path.write_bytes(data)
    return path


def rename_codec(path: Path, old: bytes, new: bytes) -> Path:
    """Replace a codec's name in a container, in place, with one of equal length."""
    data = path.read_bytes()
    path.write_bytes(data.replace(old, new))
    return path


def busy(index: int, width: int = SIZE[0], height: int = SIZE[1]) -> NDArray[np.uint8]:
    """``picture`` with moving texture on it, so that a wrong reference picture shows in every block."""
    noise = np.random.default_rng(7).integers(-18, 19, (height, width, 3))
    moved = np.roll(noise, (index, 2 * index), axis=(0, 1)) + np.random.default_rng(index).integers(-4, 5, noise.shape)
    return np.clip(picture(index, width, height) + moved, 0, 255).astype(np.uint8)
