"""Probes a media file without decoding more than one picture.

All packets are read, so the number of frames, start, end and rate are the actual ones, not those in the header.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cliploom.schemas.errors import NoVideoError, TooLargeError
from cliploom.schemas.media import PROBE_REVISION, MediaFacts, MediaLimits, MediaType
from cliploom.transforms.media import images
from cliploom.transforms.media.chains import damaged_within
from cliploom.transforms.media.checks import damaged_content, has_checksums
from cliploom.transforms.media.clock import NO_TIME
from cliploom.transforms.media.container import open_container, read_head, video_stream
from cliploom.transforms.media.gifs import clears_otherwise
from cliploom.transforms.media.headers import (
    cut_short,
    gif_frames,
    in_fragments,
    is_animated_png,
    is_motion_jpeg,
    track_matrix,
)
from cliploom.transforms.media.loss import repeats, signs_of_loss
from cliploom.transforms.media.orient import UPRIGHT, Orientation, from_matrix, of_frame
from cliploom.transforms.media.packets import INDEXED, PacketTable, walk
from cliploom.transforms.media.pictures import PictureFacts, first_picture, needs_picture, picture_facts
from cliploom.transforms.media.sampling import MICRO, Timeline

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

STAGE = "probe"
_ANIMATIONS = {"gif", "apng", "webp"}
_GROWN = 1.1
_IMAGE_BYTES_A_PIXEL = 16


def probe(path: Path, limits: MediaLimits) -> MediaFacts:
    """Return the facts of a local video, GIF or image.

    Args:
        path: a local file; its format is determined from its content, not from its name.
        limits: the limits beyond which a file is rejected.

    Raises:
        MediaError: see ``probe_timeline``.
    """
    return probe_timeline(path, limits)[0]


def probe_timeline(path: Path, limits: MediaLimits) -> tuple[MediaFacts, Timeline]:
    """Return the facts of a local video, GIF or image, and the time of each of its frames.

    Args:
        path: a local file.
        limits: the limits beyond which a file is rejected.

    Raises:
        UnreadableError: the file cannot be read.
        NoVideoError: it has no picture.
        UnsupportedCodecError: this build cannot decode it.
        TooLargeError: it exceeds ``limits``.
    """
    head, size = read_head(path, STAGE)
    if size > limits.max_bytes:
        raise TooLargeError(
            STAGE, f"'{path.name}' has {size:,} bytes, more than {limits.max_bytes:,} (limits.media.max_bytes)."
        )
    still = images.is_image(head) and not is_animated_png(path) and not is_motion_jpeg(path)
    if still or images.is_tiled_image(path):
        facts, timeline = _probe_image(path, size, limits)
    else:
        facts, timeline = _probe_container(path, limits)
    if facts.duration_s > limits.max_seconds:
        raise TooLargeError(
            STAGE,
            f"'{path.name}' lasts {facts.duration_s:,.0f} s, more than {limits.max_seconds:,.0f} "
            f"(limits.media.max_duration).",
        )
    return facts, timeline


def _probe_image(path: Path, size: int, limits: MediaLimits) -> tuple[MediaFacts, Timeline]:
    most = _IMAGE_BYTES_A_PIXEL * limits.max_pixels
    if size > most:
        raise TooLargeError(
            STAGE,
            f"'{path.name}' has {size:,} bytes, more than the {most:,} of an image of {limits.max_pixels:,} "
            f"pixels (limits.media.max_pixels).",
        )
    head = images.read_head(path, STAGE, limits)
    timeline = head.timeline
    kind: MediaType = "gif" if head.durations_ms else "image"
    pixels = (head.width, head.height)
    corrected = ("tone",) if head.deep else ()
    facts = _facts(
        kind, head.format, head.format, pixels, head.orientation, timeline, cut_short(path), corrected=corrected
    )
    return facts, timeline


def _probe_container(path: Path, limits: MediaLimits) -> tuple[MediaFacts, Timeline]:
    with open_container(path, STAGE) as container:
        stream = video_stream(container, path, STAGE)
        _check_pixels(path, stream, limits)
        claimed = _claimed(container, stream, path)
        table = walk(container, stream, path.name, limits.max_frames)
        timeline = table.timeline()
        name = container.format.name
        if name == "avi":
            claimed -= repeats(table, claimed)
        if claimed and table.in_fields:
            claimed -= int(table.second.sum())
        if name == "ivf" and timeline.end_tick >= claimed:
            # Some writers count ticks instead of frames.
            claimed = 0
        found = len(timeline.ticks)
        if not found:
            why = cut_short(path) or table.broken or _nothing_shown(name, stream, table)
            raise NoVideoError(STAGE, f"'{path.name}' has nothing to see: {why}.")
        first = first_picture(container, stream) if name != INDEXED or needs_picture(stream) else None
        codec = stream.codec_context.codec.canonical_name
        turn = UPRIGHT if first is None else of_frame(first, codec)
        matrix = from_matrix(track_matrix(path)) if name == INDEXED else turn
        facts = _facts(
            kind="gif" if name in _ANIMATIONS else "video",
            container=name.split(",")[0],
            codec=codec,
            size=(stream.width, stream.height),
            orientation=matrix,
            timeline=timeline,
            why=cut_short(path) or table.broken or _signs(table, name, path) or damaged_content(path, name),
            claimed=claimed,
            pictures=picture_facts(container, stream, first),
            corrected=_corrected(table, name, path),
            said=" ".join(filter(None, (_jumps(table), _out_of_order(table, name, path), _grown(container, timeline)))),
        )
        return facts, timeline


def _nothing_shown(container: str, stream: VideoStream, table: PacketTable) -> str:
    """Explain why a stream that was read without errors gives no frame."""
    if container != INDEXED or not stream.frames:
        return "its video stream has no frames"
    if len(table) or not len(stream.index_entries):
        return f"its edit list shows none of its {stream.frames:,} frames"
    return f"its index says that its {stream.frames:,} frames are where the file has none"


def _signs(table: PacketTable, container: str, path: Path) -> str:
    """Describe loss that the packets show; for Matroska the chain of blocks, since a gap in its clock may be a pause.

    The chain is followed block by block, unless checksums of clusters give the same answer faster.
    """
    told = signs_of_loss(table, container)
    if container != "matroska,webm":
        return told
    return damaged_within(path) if told or not has_checksums(path) else ""


def _corrected(table: PacketTable, container: str, path: Path) -> tuple[str, ...]:
    """Describe differences between the timeline and libav's; see ``MediaFacts.corrected``."""
    canvas = table.undelayed or (container == "gif" and clears_otherwise(path))
    found = {"fields": table.in_fields, "clock": bool(table.jumps), "canvas": canvas}
    return tuple(name for name, there in found.items() if there)


def _jumps(table: PacketTable) -> str:
    """Describe jumps of the clock, which are removed from the timeline; or empty."""
    if not table.jumps:
        return ""
    at, by = table.jumps[0]
    more = f", and {len(table.jumps) - 1:,} more times" if len(table.jumps) > 1 else ""
    return f"The clock jumps ahead by {by:,.2f} s at {at:.2f} s{more}; times go on without the jump."


def _out_of_order(table: PacketTable, container: str, path: Path) -> str:
    """Describe MP4 fragments with times before those of the previous fragment, which players do not show."""
    timed = table.dts != NO_TIME
    if container != INDEXED or table.shown.all() or not timed.all():
        return ""
    back = table.dts < np.maximum.accumulate(table.dts)
    hidden = int(np.count_nonzero(back & ~table.shown & ~table.second))
    # Edit lists of unfragmented files may repeat and hide frames freely.
    if not hidden or not in_fragments(path):
        return ""
    return f"{hidden:,} frames are not shown: the times of their fragments are wrong."


def _grown(container: InputContainer, timeline: Timeline) -> str:
    """Describe a clock that goes far beyond the duration in a Matroska header, as after flipped bits; or empty."""
    if container.format.name != "matroska,webm" or not container.duration:
        return ""
    stated, found = container.duration / MICRO, float(timeline.end_tick * timeline.time_base)
    if found <= _GROWN * stated + 1:
        return ""
    return f"Its pictures go on until {found:,.2f} s, though its header says that it ends at {stated:,.2f} s."


def _check_pixels(path: Path, stream: VideoStream, limits: MediaLimits) -> None:
    if stream.width * stream.height > limits.max_pixels:
        raise TooLargeError(
            STAGE,
            f"'{path.name}' is {stream.width} x {stream.height}, beyond {limits.max_pixels:,} pixels "
            f"(limits.media.max_pixels).",
        )


def _claimed(container: InputContainer, stream: VideoStream, path: Path) -> int:
    """Return the number of frames that the header claims, or 0 if it has none."""
    if container.format.name == INDEXED:
        # Use the index after edit lists; the header's own number includes frames that they remove.
        return sum(not entry.is_discard for entry in stream.index_entries)
    if container.format.name == "gif":
        return gif_frames(path)
    if container.format.name == "mxf":
        # Track positions are counted in frames; the header partition of a closed file has their number.
        return max(0, stream.duration or 0)
    return max(0, stream.frames)


def _facts(
    kind: MediaType,
    container: str,
    codec: str,
    size: tuple[int, int],
    orientation: Orientation,
    timeline: Timeline,
    why: str,
    claimed: int = 0,
    pictures: PictureFacts = PictureFacts(),  # noqa: B008
    corrected: tuple[str, ...] = (),
    said: str = "",
) -> MediaFacts:
    found = len(timeline.ticks)
    start_s = round(float(timeline.start_tick * timeline.time_base), 6)
    duration_us = timeline.duration_us
    lasts = (timeline.end_tick - timeline.start_tick) * timeline.time_base
    missing = claimed - found
    lost = ""
    if missing > 0 and why:
        lost = f"{missing:,} of {claimed:,} frames are missing: {why}."
    elif missing > 0:
        lost = f"{missing:,} of {claimed:,} frames are missing: the header promises more than is there."
    elif why:
        lost = f"Something is missing: {why}."
    lost = f"{lost} {said}".strip()
    return MediaFacts(
        type=kind,
        container=container,
        codec=codec,
        width=size[0],
        height=size[1],
        rotation=orientation.rotation,
        frames=found,
        frames_claimed=max(claimed, found),
        start_s=start_s,
        end_s=round(start_s + duration_us / MICRO, 6),
        fps=round(float(found / lasts), 6) if found > 1 and lasts > 0 else 0.0,
        lost=lost,
        keyframes=int(timeline.key.sum()),
        aspect=pictures.aspect,
        interlaced=pictures.interlaced,
        light=pictures.light,
        corrected=corrected,
        revision=PROBE_REVISION,
    )
