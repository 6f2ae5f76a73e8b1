"""Still images (JPEG, PNG, WebP, BMP, TIFF, AVIF) and animated WebP, through Pillow.

Pillow is used instead of libav because it handles what libav decodes wrongly: CMYK and EXIF-rotated JPEGs, 16-bit
greyscale PNGs, animated WebP.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image, features

from cliploom.schemas.errors import NoVideoError, TooLargeError
from cliploom.schemas.media import MediaLimits
from cliploom.transforms.media import heif
from cliploom.transforms.media.container import explained
from cliploom.transforms.media.headers import cut_short, is_jpeg_without_picture, is_tiled, webp_chunks
from cliploom.transforms.media.orient import ORIENTATION_TAG, UPRIGHT, Orientation, from_exif, orientation_tag
from cliploom.transforms.media.packets import browser_durations
from cliploom.transforms.media.rare_stills import RareStill, rare_still, read_rare
from cliploom.transforms.media.sampling import Timeline
from cliploom.transforms.media.scale import frame_of
from cliploom.transforms.media.still_damage import undecodable

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF")
# Disable Pillow's own limit: the spec's applies (limits.media.max_pixels).
Image.MAX_IMAGE_PIXELS = None
_MS = Fraction(1, 1000)
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
"""Header lengths after a BMP's first 14 bytes; some writers use the four reserved bytes among these."""

_DEEP = frozenset({"F", "I"})
_RANGES = (1.0, 255.0, 65535.0)
# The exceptions that Pillow raises on damaged bytes.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, RuntimeError, struct.error)


@dataclass(frozen=True)
class ImageHead:
    """The contents of an image's header.

    Attributes:
        durations_ms: one entry per picture of an animation.
        deep: whether values are floating-point numbers or 32-bit integers.
    """

    format: str
    width: int
    height: int
    orientation: Orientation
    durations_ms: tuple[int, ...] = ()
    deep: bool = False

    @property
    def timeline(self) -> Timeline:
        """Return the presentation times; a still image is one frame of duration 0."""
        if not self.durations_ms:
            return Timeline(np.zeros(1, np.int64), _MS, 0, np.ones(1, np.bool_))
        durations = browser_durations(np.array(self.durations_ms, np.int64), _MS)
        ends = np.cumsum(durations)
        key = np.zeros(len(ends), np.bool_)
        key[0] = True
        return Timeline(ends - durations, _MS, int(ends[-1]), key)


def is_image(head: bytes) -> bool:
    """Return whether the first bytes (32 are enough) are those of a supported image; animated PNGs are not."""
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))
        or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")
        or (head[4:12] == b"ftypavif" and features.check("avif"))
        or (head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS)
    )


def read_head(path: Path, stage: str, limits: MediaLimits | None = None) -> ImageHead:
    """Read the header of an image.

    Raises:
        NoVideoError: the header is damaged.
        TooLargeError: more pixels than ``limits`` allow.
    """
    if is_tiled_image(path):
        grid = heif.read_grid(path, stage)
        _check_pixels(path, stage, grid.width, grid.height, limits)
        return ImageHead("heif", grid.width, grid.height, grid.orientation)
    still = refused_by_pillow(path, stage)
    if still is not None:
        _check_pixels(path, stage, still.width, still.height, limits)
        return ImageHead(still.name, still.width, still.height, UPRIGHT, deep=still.deep)
    with _opened(path, stage) as image:
        _check_pixels(path, stage, image.width, image.height, limits)
        durations = _webp_durations(path) if image.format == "WEBP" else ()
        name, deep = str(image.format).lower(), image.mode in _DEEP
        return ImageHead(name, image.width, image.height, _orientation(image), durations, deep)


def is_tiled_image(path: Path) -> bool:
    """Return whether it is an HEIF picture of tiles, which Pillow does not support."""
    with open(path, "rb") as file:
        return not is_image(file.read(32)) and is_tiled(path)


def _check_pixels(path: Path, stage: str, width: int, height: int, limits: MediaLimits | None) -> None:
    if limits is not None and width * height > limits.max_pixels:
        raise TooLargeError(
            stage,
            f"'{path.name}' is {width} x {height}, beyond {limits.max_pixels:,} pixels (limits.media.max_pixels).",
        )


def read_pictures(path: Path, stage: str) -> Iterator[tuple[VideoFrame, str]]:
    """Yield each picture as an RGB or RGBA frame, before rotation, and what of it is lost (usually nothing).

    Raises:
        NoVideoError: nothing can be decoded.
    """
    if is_tiled_image(path):
        pixels, lost = heif.decode_grid(path, stage)
        yield frame_of(pixels, "rgb24"), lost
        return
    still = refused_by_pillow(path, stage)
    if still is not None:
        yield _rare_picture(path, still, stage), ""
        return
    with _opened(path, stage) as image:
        frames = getattr(image, "n_frames", 1) if image.format == "WEBP" else 1
        for number in range(frames):
            try:
                image.seek(number)
                lost = _load(image) or undecodable(image, path)
            except _DAMAGE as error:
                if number:
                    return
                raise NoVideoError(stage, f"'{path.name}' can't be decoded: {str(error).rstrip('.')}.") from None
            yield _frame(image), lost


def refused_by_pillow(path: Path, stage: str) -> RareStill | None:
    """Return the header of a picture that Pillow rejects but another reader supports."""
    still = rare_still(path)
    if still is None:
        return None
    try:
        with _opened(path, stage):
            return None
    except NoVideoError:
        return still


def _rare_picture(path: Path, still: RareStill, stage: str) -> VideoFrame:
    try:
        pixels = read_rare(path, still)
    except ValueError as error:
        raise NoVideoError(stage, f"'{path.name}' can't be decoded: {error}.") from None
    levels = _levels(pixels) if pixels.dtype != np.uint8 else np.asarray(pixels, np.uint8)
    return frame_of(levels, "rgba" if levels.shape[2] == 4 else "rgb24")


@contextmanager
def _opened(path: Path, stage: str) -> Iterator[Image.Image]:
    with ExitStack() as opened:
        with explained(path, stage):
            file = opened.enter_context(open(path, "rb"))
        try:
            if is_jpeg_without_picture(path):
                raise SyntaxError
            image = Image.open(file, formats=_FORMATS)
        except _DAMAGE:
            whole = _whole_webp(file)
            if whole is None:
                why = cut_short(path) or "its header is damaged"
                raise NoVideoError(stage, f"'{path.name}' begins like an image, but {why}.") from None
            image = Image.open(whole, formats=("WEBP",))
        with image:
            yield image


def _load(image: Image.Image) -> str:
    """Decode a picture; keep the decoded rows of a truncated file."""
    try:
        image.load()
    except (OSError, SyntaxError) as error:
        if not hasattr(image, "tile") or image.format == "WEBP":
            raise
        # The rows decoded so far are kept; without remaining tiles, Pillow considers the picture loaded.
        image.tile = []
        image.load()
        if all(low == high for low, high in np.atleast_2d(image.getextrema())):
            raise
        return f"the picture is incomplete: {error}"
    return ""


def _frame(image: Image.Image) -> VideoFrame:
    if image.mode.startswith("I;16"):
        pixels = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return frame_of(np.repeat(pixels[:, :, None], 3, axis=2), "rgb24")
    if image.mode in _DEEP:
        return frame_of(np.repeat(_levels(np.asarray(image, np.float64))[:, :, None], 3, axis=2), "rgb24")
    if image.has_transparency_data:
        return frame_of(np.array(image.convert("RGBA")), "rgba")
    return frame_of(np.array(image.convert("RGB")), "rgb24")


def _levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale values to the smallest usual range that contains them: 0 to 1, to 255, to 65,535, or to the largest.

    >>> _levels(np.array([[0.0, 0.5, 1.0]])).tolist(), _levels(np.array([[-1.0, 30.0, 255.0]])).tolist()
    ([[0, 128, 255]], [[0, 30, 255]])
    """
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(values.max(initial=0.0))
    top = next((limit for limit in _RANGES if largest <= limit), largest)
    return np.round(np.clip(values / top, 0, 1) * 255).astype(np.uint8)


def _orientation(image: Image.Image) -> Orientation:
    # Pillow's getexif prints warnings about damaged EXIF on the terminal.
    if image.format == "TIFF":
        return from_exif(getattr(image, "tag_v2", {}).get(ORIENTATION_TAG))
    return from_exif(orientation_tag(image.info.get("exif", b"")))


def _webp_durations(path: Path) -> tuple[int, ...]:
    """Return the milliseconds of each complete frame: ``ANMF`` chunks of the WebP file; empty for a still."""
    with open(path, "rb") as file:
        chunks = [(kind, file.read(15)) for kind, _ in webp_chunks(file) if kind == b"ANMF"]
    durations = [int.from_bytes(head[12:15], "little") for _, head in chunks]
    return tuple(durations) if len(durations) > 1 else ()


def _whole_webp(file: BinaryIO) -> BytesIO | None:
    """Return the complete frames of a truncated animation as a file; libwebp rejects incomplete ones."""
    file.seek(0)
    head = file.read(12)
    ends = [end for kind, end in webp_chunks(file) if kind == b"ANMF"] if head[8:] == b"WEBP" else []
    if not ends:
        return None
    file.seek(8)
    kept = file.read(ends[-1] - 8)
    return BytesIO(b"RIFF" + len(kept).to_bytes(4, "little") + kept)
