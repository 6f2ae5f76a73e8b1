"""Describes a video, GIF or image in detail, including what samplings would select."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image

from cliploom.schemas.errors import MediaError
from cliploom.schemas.media import MediaFacts, MediaLimits, Preprocess
from cliploom.schemas.sampling import Sampling
from cliploom.transforms.media.container import open_container, video_stream
from cliploom.transforms.media.decode import DecodeReport, Request, decode
from cliploom.transforms.media.headers import has_film
from cliploom.transforms.media.images import is_tiled_image, refused_by_pillow
from cliploom.transforms.media.pictures import first_picture
from cliploom.transforms.media.probe import probe_timeline
from cliploom.transforms.media.sampling import BLACK, MICRO, Timeline, choose

if TYPE_CHECKING:
    from enum import IntEnum

    from av.stream import Stream
    from av.video.stream import VideoStream

STAGE = "inspect"
_SMALL = Preprocess(32, 32, fit="squash")
_RANGES = {int(ColorRange.MPEG): "limited", int(ColorRange.JPEG): "full"}


def describe_media(
    path: Path, limits: MediaLimits, samplings: Sequence[Sampling], *, shown: int, decoded: bool
) -> dict[str, Any]:
    """Return a media file as plain values.

    Args:
        path: a local file.
        limits: the limits beyond which a file is rejected.
        samplings: the samplings whose rows are counted.
        shown: the number of rows of each sampling to list.
        decoded: whether to decode the frames of the samplings, which finds damage that headers and packets do not show.

    Raises:
        MediaError: it is not a media file, or cannot be used.
    """
    facts, timeline = probe_timeline(path, limits)
    found: dict[str, Any] = {
        "kind": facts.type,
        "path": str(path),
        "size": path.stat().st_size,
        "container": facts.container,
        "codec": facts.codec,
        "width": facts.width,
        "height": facts.height,
        "rotation": facts.rotation,
        "frames": facts.frames,
        "frames_claimed": facts.frames_claimed,
        "keyframes": facts.keyframes,
        "start_s": facts.start_s,
        "end_s": facts.end_s,
        "duration_s": round(facts.duration_s, 6),
        "fps": facts.fps,
        "damage": facts.lost,
    }
    found |= _gaps(timeline)
    found |= _image(path) if facts.type == "image" or facts.container == "webp" else _container(path)
    turned = facts.rotation in (90, 270)
    width = round(facts.width * Fraction(found.get("pixel_aspect", "1:1").replace(":", "/")))
    found["shown"] = [facts.height, width] if turned else [width, facts.height]
    found["samples"] = [_sample(path, facts, timeline, each, shown, decoded) for each in samplings]
    if decoded and not facts.lost:
        found["damage"] = next((sample["lost"] for sample in found["samples"] if sample["lost"]), "")
    return found


def _gaps(timeline: Timeline) -> dict[str, Any]:
    """Return the shortest and longest time between frames; the rate is constant if they differ only by rounding."""
    if len(timeline.ticks) < 2:
        return {"constant_rate": None, "shortest_gap_s": None, "longest_gap_s": None}
    gaps = np.diff(timeline.ticks)
    shortest, longest = int(gaps.min()), int(gaps.max())
    return {
        "constant_rate": longest - shortest <= 1,
        "shortest_gap_s": round(float(shortest * timeline.time_base), 6),
        "longest_gap_s": round(float(longest * timeline.time_base), 6),
    }


def _sample(
    path: Path, facts: MediaFacts, timeline: Timeline, sampling: Sampling, shown: int, decoded: bool
) -> dict[str, Any]:
    """Return what a sampling selects."""
    samples = choose(sampling, timeline)
    found: dict[str, Any] = {
        "sample": sampling.model_dump(mode="json", exclude_defaults=True),
        "rows": len(samples),
        "frames_in_a_row": int(samples.frames.shape[1]) if len(samples) else 0,
        "frames_wanted": len(samples.wanted),
        "black_frames": int((samples.frames == BLACK).sum()),
        "first": [
            {"start_s": start / MICRO, "end_s": end / MICRO, "frame": int(frames[0])}
            for start, end, frames in zip(
                samples.start_us[:shown].tolist(), samples.end_us[:shown].tolist(), samples.frames[:shown], strict=True
            )
        ],
    }
    if decoded:
        report = DecodeReport()
        rows = 0
        try:
            for _ in decode(path, facts, [Request(sampling, _SMALL)], report=report):
                rows += 1
        except MediaError as error:
            report.lost = str(error)
        found |= {"rows_decoded": rows, "frames_decoded": report.frames_decoded, "lost": report.lost}
    return found


def _image(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"colour": {"profile": ""}, "transparent": False, "streams": [], "film": has_film(path)}
    if is_tiled_image(path):
        return found | {"mode": "tiles"}
    if refused_by_pillow(path, STAGE) is not None:
        return found | {"mode": "RGB"}
    with Image.open(path) as image:
        icc = "ICC profile" if image.info.get("icc_profile") else ""
        transparent = bool(image.has_transparency_data)
        return found | {"mode": image.mode, "colour": {"profile": icc}, "transparent": transparent}


def _container(path: Path) -> dict[str, Any]:
    with open_container(path, STAGE) as container:
        streams = [_stream(stream) for stream in container.streams]
        chosen = video_stream(container, path, STAGE)
        frame = first_picture(container, chosen)
        aspect = chosen.sample_aspect_ratio
        found: dict[str, Any] = {
            "container_name": container.format.long_name,
            "bit_rate": container.bit_rate,
            "streams": streams,
            "picture_stream": chosen.index,
            "pixel_aspect": f"{aspect.numerator}:{aspect.denominator}" if aspect else "1:1",
        }
        context = chosen.codec_context
        pixels = frame.format if frame is not None else context.format
        if pixels is not None:
            found["pixels"] = {"format": pixels.name, "bits": max(part.bits for part in pixels.components)}
        source: Any = context if frame is None else frame
        found["colour"] = {
            "range": _RANGES.get(int(getattr(source, "color_range", 0)), ""),
            "matrix": _name(Colorspace, getattr(source, "colorspace", None)),
            "primaries": _name(ColorPrimaries, context.color_primaries),
            "transfer": _name(ColorTrc, context.color_trc),
        }
        found["interlaced"] = bool(frame is not None and frame.interlaced_frame)
        return found


def _stream(stream: Stream) -> dict[str, Any]:
    """Return what the header says about one stream."""
    context = stream.codec_context
    found: dict[str, Any] = {
        "index": stream.index,
        "type": stream.type,
        "codec": None if context is None else context.codec.canonical_name,
        "profile": None if context is None else context.profile,
        "language": stream.language,
        "default": bool(stream.disposition & Disposition.default),
    }
    if stream.duration is not None and stream.time_base is not None:
        found["duration_s"] = round(float(stream.duration * stream.time_base), 6)
    if isinstance(stream, av.video.stream.VideoStream):
        found |= {"width": stream.width, "height": stream.height, "cover": _is_cover(stream)} if context else {}
        if stream.average_rate:
            found["fps"] = round(float(stream.average_rate), 6)
    elif isinstance(stream, av.audio.stream.AudioStream) and context is not None:
        found |= {"channels": context.channels, "sample_rate": context.sample_rate}
    return found


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _name(kind: type[IntEnum], value: int | None) -> str:
    """Return the name of a value of a colour standard; empty for none."""
    try:
        name = kind(value).name if value is not None else ""
    except ValueError:
        return ""
    return "" if name == "UNSPECIFIED" else name.lower()
