"""Records about media files: facts found by probing, requests to a decoder, and the samples it yields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MediaType = Literal["video", "gif", "image"]
Light = Literal["", "pq", "hlg", "bt2020"]
"""How a picture's values stand for light, where they need mapping to BT.709: PQ and HLG (BT.2100), or the primaries of
BT.2020 with an ordinary transfer."""

PROBE_REVISION = 2
"""Increase it when probing finds more. Known items of the kinds concerned are then probed again, once; only
those whose corrections differ are computed again.

2: pixel aspect, interlaced pictures, light, fields in packets of their own, jumps of the clock, animations as browsers
show them.
"""

MEDIA_TYPES: dict[str, frozenset[str]] = {
    "videos": frozenset({
        ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mkv",
        ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob",
        ".webm", ".wmv",
    }),
    "gifs": frozenset({".gif"}),
    "images": frozenset({
        ".apng", ".avif", ".bmp", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp",
    }),
}  # fmt: skip
"""Extensions in lower case of each type of media, as ``types`` of a media source names them."""

MEDIA_SUFFIXES = frozenset().union(*MEDIA_TYPES.values())
"""Extensions of media files, for writing a first spec and for uids that end with an extension."""


def suffixes_of(types: Iterable[str]) -> frozenset[str]:
    """Return the extensions in lower case that ``types`` of a media source names.

    >>> sorted(suffixes_of(["gifs", ".MP4"]))
    ['.gif', '.mp4']
    """
    found: set[str] = set()
    for name in types:
        found |= MEDIA_SUFFIXES if name == "media" else MEDIA_TYPES.get(name, frozenset({name.lower()}))
    return frozenset(found)


@dataclass(frozen=True)
class MediaLimits:
    """Limits beyond which a file is not decoded; from ``limits.media`` of the spec.

    Attributes:
        max_bytes: maximum size of the file.
        max_pixels: maximum width times height of a picture.
        max_seconds: maximum duration.
        max_frames: maximum number of pictures in a file.
    """

    max_bytes: int = 200_000_000_000
    max_pixels: int = 200_000_000
    max_seconds: float = 7 * 24 * 3600.0
    max_frames: int = 20_000_000


@dataclass(frozen=True)
class MediaFacts:
    """Facts that a probe finds without decoding.

    Times are presentation times in seconds as the container gives them after edit lists; ``start_s`` may be
    negative or far from 0. Sampling counts from ``start_s``.

    Attributes:
        type: ``video``, ``gif`` or ``image``.
        width, height: of the picture as shown, after rotation and pixel aspect are *not* applied (coded size).
        rotation: clockwise degrees to turn the coded picture to be upright: 0, 90, 180 or 270.
        frames: pictures found by walking the packets; what the header claims is ``frames_claimed``.
        end_s: when the last frame leaves the screen.
        fps: mean rate; 0 for one frame.
        lost: sentence that says what is missing (silent truncation), or empty.
        keyframes: pictures that can be decoded by themselves.
        aspect: width of a pixel divided by its height, such as ``64:45``; empty for square pixels.
        interlaced: pictures consist of two fields from different moments.
        light: how values stand for light, when not as in BT.709.
        corrected: further corrections that this file's rows depend on: ``fields`` (two packets make one picture),
            ``clock`` (a jump of the clock was closed), ``canvas`` (an animation drawn as browsers draw it), ``tone``
            (floating-point or wide values scaled to 8 bits).
        revision: ``PROBE_REVISION`` of the prober.
    """

    type: MediaType
    container: str
    codec: str
    width: int
    height: int
    rotation: int
    frames: int
    frames_claimed: int
    start_s: float
    end_s: float
    fps: float
    lost: str = ""
    keyframes: int = 1
    aspect: str = ""
    interlaced: bool = False
    light: Light = ""
    corrected: tuple[str, ...] = ()
    revision: int = 1

    @property
    def pixel_aspect(self) -> Fraction:
        """Return the width of a pixel divided by its height."""
        return Fraction(self.aspect.replace(":", "/")) if self.aspect else Fraction(1)

    @property
    def corrections(self) -> str:
        """Return the corrections that the rows depend on besides the file's bytes, joined by ``.``; often empty.

        They are part of the item's digest, so that only these items are computed again after a new correction.
        """
        found = [*self.corrected]
        found += ["aspect"] if self.aspect else []
        found += ["interlaced"] if self.interlaced else []
        found += [self.light] if self.light else []
        return ".".join(sorted(found))

    @property
    def duration_s(self) -> float:
        """Return the seconds from the start of the first frame to the end of the last one."""
        return self.end_s - self.start_s

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON and tables; rare facts are only included if they differ from the default."""
        values = asdict(self)
        for name in ("aspect", "interlaced", "light", "corrected"):
            if not values[name]:
                del values[name]
        return values

    @classmethod
    def from_json(cls, text: str) -> MediaFacts:
        """Create from the JSON in a store; unknown facts of later versions are ignored."""
        known = {field.name for field in fields(cls)}
        values: Mapping[str, Any] = {name: value for name, value in json.loads(text).items() if name in known}
        return cls(**{**values, "corrected": tuple(values.get("corrected", ()))})


Rounding = Literal["nearest", "huggingface", "torchvision"]


@dataclass(frozen=True)
class Preprocess:
    """How pictures are prepared for an encoder; part of its digest. Anything else is done inside its graph.

    Attributes:
        width, height: of the picture handed to the encoder.
        fit: ``crop``: scale so that the short side is ``min(width, height) / crop`` and cut the centre;
            ``squash``: scale to the size whatever the aspect; ``square``: cut the centred square, then scale;
            ``patches``: scale to sides that are multiples of ``patch``, as large as an area of width x height allows,
            keeping the aspect as far as that goes. Pictures then differ in size.
        crop: the centre's share of the short side, for ``fit: crop``.
        filter: ``bicubic``, ``bilinear`` or ``area``.
        order: channel order, ``rgb`` or ``bgr``.
        offset, scale: the encoder computes ``(x - offset) / scale`` on 0..255, per channel, in float32.
        alpha: what transparent pixels are composited over: ``white``, ``black``, or ``drop`` (colours as stored).
        rounding: how ``fit: crop`` rounds the scaled long side and the corner of the cut: ``nearest`` (side to the
            nearest, corner down), ``huggingface`` (both down) or ``torchvision`` (side down, corner to the nearest, a
            half to the even number). A pixel more or less moves a vector more than another filter does.
        patch: side of the patches, for ``fit: patches``.
    """

    width: int
    height: int
    fit: Literal["crop", "squash", "square", "patches"] = "crop"
    crop: float = 1.0
    filter: Literal["bicubic", "bilinear", "area"] = "bicubic"
    order: Literal["rgb", "bgr"] = "rgb"
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (255.0, 255.0, 255.0)
    alpha: Literal["white", "black", "drop"] = "white"
    rounding: Rounding = "nearest"
    patch: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without later fields that have their default, so that old cards keep their digest."""
        value = asdict(self)
        return {key: each for key, each in value.items() if (key, each) not in (("rounding", "nearest"), ("patch", 0))}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Preprocess:
        """Create from the JSON of ``asdict``."""
        return cls(**(value | {"offset": tuple(value["offset"]), "scale": tuple(value["scale"])}))


@dataclass(frozen=True)
class Sampled:
    """One row's worth of pixels, or one text, ready for an encoder.

    Attributes:
        request: index of the request (feature) it answers.
        ordinal: number of the planned sample in the whole item, also when earlier ones failed.
        start_s, end_s: stretch of the video that the row stands for, relative to the video's start, rounded to 1 us:
            from the sample's time to the next one's (frames), or the window's extent. A single frame of ``every``
            starts at its grid time, not at the frame's own time. None for a text about the whole video.
        frame: index in the file, in presentation order, of the (first) frame shown; of a text its number.
        pixels: uint8 [H, W, 3], or [T, H, W, 3] for a window; a text for text encoders.
    """

    request: int
    ordinal: int
    start_s: float | None
    end_s: float | None
    frame: int
    pixels: NDArray[np.uint8] | str
