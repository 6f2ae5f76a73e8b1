"""Still images (JPEG, PNG, WebP, BMP, TIFF, AVIF) and animated WebP, through Pillow.

Pillow is used here and not libav because it reads what libav gets wrong: CMYK and EXIF-rotated JPEGs, 16-bit
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
from typing import BinaryIO

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image, features

from cliploom.schemas.errors import NoVideoError, TooLargeError
from cliploom.schemas.media import MediaLimits
from cliploom.transforms.media.container import explained
from cliploom.transforms.media.headers import cut_short, is_jpeg_without_picture, webp_chunks
from cliploom.transforms.media.orient import ORIENTATION_TAG, Orientation, from_exif, orientation_tag
from cliploom.transforms.media.packets import browser_durations
from cliploom.transforms.media.sampling import Timeline
from cliploom.transforms.media.scale import frame_of

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF")
# The spec's limit holds (limits.media.max_pixels), not a second one of Pillow's that no spec can change.
Image.MAX_IMAGE_PIXELS = None
_MS = Fraction(1, 1000)
# What Pillow raises on damaged bytes.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, RuntimeError, struct.error)


@dataclass(frozen=True)
class ImageHead:
    """What an image's header says; ``durations_ms`` has one entry a picture when it is animated."""

    format: str
    width: int
    height: int
    orientation: Orientation
    durations_ms: tuple[int, ...] = ()

    @property
    def timeline(self) -> Timeline:
        """Presentation times; a still image is one frame that lasts no time."""
        if not self.durations_ms:
            return Timeline(np.zeros(1, np.int64), _MS, 0, np.ones(1, np.bool_))
        durations = browser_durations(np.array(self.durations_ms, np.int64), _MS)
        ends = np.cumsum(durations)
        key = np.zeros(len(ends), np.bool_)
        key[0] = True
        return Timeline(ends - durations, _MS, int(ends[-1]), key)


def is_image(head: bytes) -> bool:
    """The first bytes (32 are enough) are those of an image that is read here; animated PNGs are not."""
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))
        or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")
        or (head[4:12] == b"ftypavif" and features.check("avif"))
        or (head.startswith(b"BM") and head[6:10] == b"\0\0\0\0")
    )


def is_animated_png(path: Path) -> bool:
    """An animation control chunk of more than one picture stands before the picture's data."""
    with open(path, "rb") as file:
        data = file.read(1 << 16)
    _, animation, control = data.partition(b"IDAT")[0].partition(b"acTL")
    return data.startswith(b"\x89PNG") and bool(animation) and int.from_bytes(control[:4], "big") > 1


def read_head(path: Path, stage: str, limits: MediaLimits | None = None) -> ImageHead:
    """Header of an image.

    Raises:
        NoVideoError: the header is damaged.
        TooLargeError: more pixels than ``limits`` allow.
    """
    with _opened(path, stage) as image:
        pixels = image.width * image.height
        if limits is not None and pixels > limits.max_pixels:
            size = f"{image.width} x {image.height}"
            raise TooLargeError(
                stage, f"'{path.name}' is {size}, beyond {limits.max_pixels:,} pixels (limits.media.max_pixels)."
            )
        durations = _webp_durations(path) if image.format == "WEBP" else ()
        return ImageHead(str(image.format).lower(), image.width, image.height, _orientation(image), durations)


def read_pictures(path: Path, stage: str) -> Iterator[tuple[VideoFrame, str]]:
    """Each picture as an RGB or RGBA frame, not yet turned upright, and what of it is lost (mostly nothing).

    Raises:
        NoVideoError: nothing of it can be decoded.
    """
    with _opened(path, stage) as image:
        frames = getattr(image, "n_frames", 1) if image.format == "WEBP" else 1
        for number in range(frames):
            try:
                image.seek(number)
                lost = _load(image)
            except _DAMAGE as error:
                if number:
                    return
                raise NoVideoError(stage, f"'{path.name}' can't be decoded: {str(error).rstrip('.')}.") from None
            yield _frame(image), lost


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
    """Decode; keep the rows that came out of a cut file."""
    try:
        image.load()
    except (OSError, SyntaxError) as error:
        if not hasattr(image, "tile") or image.format == "WEBP":
            raise
        # The rows decoded so far are in place; without tiles left, Pillow takes the picture as loaded.
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
    if image.has_transparency_data:
        return frame_of(np.array(image.convert("RGBA")), "rgba")
    return frame_of(np.array(image.convert("RGB")), "rgb24")


def _orientation(image: Image.Image) -> Orientation:
    # Not by Pillow's getexif: it warns on the terminal of damaged EXIF.
    if image.format == "TIFF":
        return from_exif(getattr(image, "tag_v2", {}).get(ORIENTATION_TAG))
    return from_exif(orientation_tag(image.info.get("exif", b"")))


def _webp_durations(path: Path) -> tuple[int, ...]:
    """Milliseconds of each whole frame: the ``ANMF`` chunks of the WebP container; empty for a still image."""
    with open(path, "rb") as file:
        chunks = [(kind, file.read(15)) for kind, _ in webp_chunks(file) if kind == b"ANMF"]
    durations = [int.from_bytes(head[12:15], "little") for _, head in chunks]
    return tuple(durations) if len(durations) > 1 else ()


def _whole_webp(file: BinaryIO) -> BytesIO | None:
    """The whole frames of a cut animation as a file of their own; libwebp refuses what is not all there."""
    file.seek(0)
    head = file.read(12)
    ends = [end for kind, end in webp_chunks(file) if kind == b"ANMF"] if head[8:] == b"WEBP" else []
    if not ends:
        return None
    file.seek(8)
    kept = file.read(ends[-1] - 8)
    return BytesIO(b"RIFF" + len(kept).to_bytes(4, "little") + kept)
