"""How a page shows an item: its file as it is, converted for browsers, or as stills."""

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
"""Codecs that browsers play in MP4: their packets are copied into a new file, which takes no decoding."""


@dataclass(frozen=True)
class ConversionLimits:
    """What a conversion may take; whatever needs more is shown as stills.

    Attributes:
        running: conversions at a time; 0 switches them off.
        waiting: conversions that may wait; one more is refused with 429.
        seconds: wall-clock time of one.
        memory: bytes of its process.
        source_bytes: size of the file.
        frame_pixels: pixels of one frame that is decoded.
        all_pixels: pixels of all frames that are decoded.
        result_bytes: size of the converted file.
        cache_bytes: bound of the cache of converted files on disk.
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
        why: a sentence for a person that says why it is not ``as_is``; empty otherwise.
    """

    how: How
    why: str = ""


def plays_in_browsers(facts: MediaFacts) -> bool:
    """Return whether today's browsers play the file or show it as it is.

    HEVC is not among what they play: some do, on some machines.
    """
    if facts.type != "video":
        return True
    containers = facts.container.split(",")
    # libav has one name for Matroska and WebM; browsers play both where the codecs are those of WebM.
    return any(facts.codec in _PLAYABLE.get(container, ()) for container in containers)


def playback(facts: MediaFacts, size: int, limits: ConversionLimits) -> Playback:
    """Return how an item is shown.

    Args:
        facts: what the item's probe found.
        size: of its file, bytes.
        limits: of conversions.
    """
    if plays_in_browsers(facts):
        return Playback("as_is")
    return conversion_of(facts, size, limits)


def conversion_of(facts: MediaFacts, size: int, limits: ConversionLimits) -> Playback:
    """Return ``converted`` with what it is converted from, or ``stills`` with the limit that forbids it."""
    what = f"Browsers may not play {facts.codec} in {facts.container.partition(',')[0]}"
    if facts.type != "video":
        return Playback("stills", "It is no video.")
    if not limits.running:
        return Playback("stills", f"{what}, and this server converts no videos; stills are shown.")
    if size > limits.source_bytes:
        return Playback("stills", f"{what}, and the file is too large to be converted; stills are shown.")
    if facts.codec not in COPIED_CODECS:
        too_much = refusal(facts, limits)
        if too_much:
            return Playback("stills", f"{what}, and {too_much}; stills are shown.")
    return Playback("converted", f"{what}; this is a converted copy.")


def refusal(facts: MediaFacts, limits: ConversionLimits) -> str:
    """Return why the frames of a video are not decoded and encoded again; empty where they are.

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
