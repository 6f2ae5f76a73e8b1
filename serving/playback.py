"""How a page shows an item: the original file, a copy converted for browsers, or stills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cliploom.schemas.media import MediaFacts

How = Literal["as_is", "converted", "stills"]

_PLAYABLE = {
    "mov": ("h264", "av1", "vp9"),
    "mp4": ("h264", "av1", "vp9"),
    "webm": ("vp8", "vp9", "av1"),
    "matroska": ("vp8", "vp9", "av1"),
    "ogg": ("theora",),
}
COPIED_CODECS = ("h264", "av1", "vp9")
"""Codecs that browsers play in MP4: their packets are copied into a new file without decoding."""


@dataclass(frozen=True)
class ConversionLimits:
    """Limits of a conversion; an item that exceeds them is shown as stills.

    Attributes:
        running: concurrent conversions; 0 disables conversion.
        waiting: waiting conversions; further requests are rejected with status 429.
        seconds: wall-clock time of one conversion.
        memory: memory of the conversion process, in bytes.
        source_bytes: size of the source file.
        frame_pixels: pixels of one decoded frame.
        all_pixels: pixels of all decoded frames.
        result_bytes: size of the converted file.
        cache_bytes: size of the cache of converted files on disk.
    """

    running: int = 1
    waiting: int = 8
    seconds: float = 300.0
    memory: int = 1_500_000_000
    source_bytes: int = 4_000_000_000
    frame_pixels: int = 4096 * 2304
    all_pixels: int = 40_000_000_000
    result_bytes: int = 1_000_000_000
    cache_bytes: int = 2_000_000_000


@dataclass(frozen=True)
class Playback:
    """How an item is shown.

    Attributes:
        how: ``as_is``, ``converted`` or ``stills``.
        why: a sentence for users that explains why it is not ``as_is``; empty otherwise.
    """

    how: How
    why: str = ""


def plays_in_browsers(facts: MediaFacts) -> bool:
    """Return whether current browsers play or show the file directly.

    HEVC is excluded: only some browsers on some machines play it.
    """
    if facts.type != "video":
        return True
    containers = facts.container.split(",")
    # libav has one name for Matroska and WebM; browsers play both if the codecs are those of WebM.
    return any(facts.codec in _PLAYABLE.get(container, ()) for container in containers)


def playback(facts: MediaFacts, size: int, limits: ConversionLimits) -> Playback:
    """Return how an item is shown.

    Args:
        facts: the facts that the item's probe found.
        size: the size of its file, in bytes.
        limits: the limits of conversions.
    """
    if plays_in_browsers(facts):
        return Playback("as_is")
    return conversion_of(facts, size, limits)


def conversion_of(facts: MediaFacts, size: int, limits: ConversionLimits) -> Playback:
    """Return ``converted`` with the original format as the reason, or ``stills`` with the limit that is exceeded."""
    what = f"Browsers may not play {facts.codec} in {facts.container.partition(',')[0]}"
    if facts.type != "video":
        return Playback("stills", "It is not a video.")
    if not limits.running:
        return Playback("stills", f"{what}, and this server does not convert videos; stills are shown.")
    if size > limits.source_bytes:
        return Playback("stills", f"{what}, and the file is too large to be converted; stills are shown.")
    if facts.codec not in COPIED_CODECS:
        too_much = refusal(facts, limits)
        if too_much:
            return Playback("stills", f"{what}, and {too_much}; stills are shown.")
    return Playback("converted", f"{what}; this is a converted copy.")


def refusal(facts: MediaFacts, limits: ConversionLimits) -> str:
    """Return the reason why the frames of a video are not decoded and encoded again; empty if they are.

    >>> facts = MediaFacts("video", "avi", "mpeg4", 1280, 720, 0, 100_000, 100_000, 0.0, 4000.0, 25.0)
    >>> refusal(facts, ConversionLimits())
    'it is too long to be converted'
    """
    pixels = facts.width * facts.height
    if pixels > limits.frame_pixels:
        return "its picture is too large to be converted"
    if pixels * facts.frames > limits.all_pixels:
        return "it is too long to be converted"
    return ""
