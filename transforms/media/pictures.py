"""Display properties of a stream's pictures, from its header or first picture: aspect, fields, light."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.video.reformatter import ColorPrimaries, ColorTrc

from cliploom.schemas.media import Light
from cliploom.transforms.media.decoder import picture_decoder
from cliploom.transforms.media.fields import FieldPairs

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_FIRST_PACKETS = 8
_ANIMATIONS = frozenset({"gif", "apng"})
# Stills, and codecs for which neither header nor decoder indicates fields.
_ALWAYS_PROGRESSIVE = frozenset({
    "av1", "vp8", "vp9", "vp6", "vp6f", "theora", "gif", "apng", "png", "flv1", "h261", "h263", "hevc", "mpeg1video",
    "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "rv10", "rv20", "rv30", "rv40", "svq1", "svq3", "cinepak",
})  # fmt: skip
_FIELDS = frozenset({2, 3, 4, 5})
"""Field orders of libav (AV_FIELD_TT to AV_FIELD_BT)."""
_PROGRESSIVE = 1
_HDR_CODECS = frozenset({"hevc", "av1", "vp9", "h264", "prores", "dnxhd", "ffv1", "vvc"})
_WITH_ASPECT = frozenset({"h264", "hevc", "vvc"})
"""Codecs whose headers may have the aspect if the container does not."""
_WIDEST = 8
"""Pixel aspects beyond this are errors of the writer."""
_LIGHTS: dict[int, Light] = {int(ColorTrc.SMPTE2084): "pq", int(ColorTrc.ARIB_STD_B67): "hlg"}
_MOST_PARTS = 1 << 15


@dataclass(frozen=True)
class PictureFacts:
    """Unusual properties of a stream's pictures; see ``MediaFacts``."""

    aspect: str = ""
    interlaced: bool = False
    light: Light = ""


def picture_facts(container: InputContainer, stream: VideoStream, first: VideoFrame | None) -> PictureFacts:
    """Return the facts of a stream's pictures.

    Args:
        container: opened.
        stream: the stream of the pictures.
        first: its first picture if one was decoded; it tells more than the header.
    """
    if container.format.name in _ANIMATIONS:
        # Browsers show these with square pixels.
        return PictureFacts()
    context = stream.codec_context
    source = context if first is None else first
    transfer, primaries = (_told(source, name) or _told(context, name) for name in ("color_trc", "color_primaries"))
    wide: Light = "bt2020" if primaries == int(ColorPrimaries.BT2020) else ""
    fields = bool(first is not None and first.interlaced_frame) or int(context.field_order) in _FIELDS
    return PictureFacts(
        aspect=_aspect(stream),
        interlaced=fields and context.codec.canonical_name not in _ALWAYS_PROGRESSIVE,
        light=_LIGHTS.get(transfer, wide),
    )


def needs_picture(stream: VideoStream) -> bool:
    """Return whether the header may lack something that ``picture_facts`` needs."""
    context = stream.codec_context
    codec = context.codec.canonical_name
    deep = context.format is None or any(part.bits > 8 for part in context.format.components)
    if codec in _HDR_CODECS and deep and not (_told(context, "color_trc") and _told(context, "color_primaries")):
        return True
    if codec in _WITH_ASPECT and stream.sample_aspect_ratio is None:
        return True
    if codec in _ALWAYS_PROGRESSIVE or int(context.field_order) == _PROGRESSIVE:
        return False
    if codec == "h264":
        return FieldPairs(context.extradata or b"").possible
    return True


def first_picture(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    """Return the first picture that can be decoded from the start; None if the beginning is damaged."""
    context: VideoCodecContext = picture_decoder(stream, alpha=False)
    context.skip_frame = "DEFAULT"
    try:
        container.seek(stream.start_time or 0, stream=stream)
        sent = 0
        for packet in container.demux(stream):
            sent += bool(packet.size)
            frames = context.decode(packet if packet.size and sent < _FIRST_PACKETS else None)
            if frames:
                return frames[0]
            if sent >= _FIRST_PACKETS:
                break
    except (av.FFmpegError, OSError):
        # The decoder reports a damaged beginning later.
        return None
    return None


def _aspect(stream: VideoStream) -> str:
    """Return the pixel aspect ratio from the container or else the codec; empty for square pixels."""
    found = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if not found or found <= 0 or found == 1:
        return ""
    aspect = Fraction(found).limit_denominator(_MOST_PARTS)
    usable = Fraction(1, _WIDEST) <= aspect <= _WIDEST
    return f"{aspect.numerator}:{aspect.denominator}" if usable else ""


def _told(source: object, name: str) -> int:
    """Return a number of a colour standard; 0 if unspecified (0 is reserved, 2 means unspecified)."""
    value = int(getattr(source, name, 0) or 0)
    return 0 if value == int(ColorTrc.UNSPECIFIED) else value
