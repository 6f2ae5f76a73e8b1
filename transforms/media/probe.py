"""What a media file is, found without decoding more than one picture.

All packets are walked, so frames, start, end and rate are those that are there, not those that a header claims.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import av

from cliploom.schemas.errors import NoVideoError, TooLargeError, UnsupportedCodecError
from cliploom.schemas.media import MediaFacts, MediaLimits, MediaType
from cliploom.transforms.media import images
from cliploom.transforms.media.chains import damaged_within
from cliploom.transforms.media.container import open_container, read_head, video_stream
from cliploom.transforms.media.decoder import picture_decoder
from cliploom.transforms.media.headers import cut_short, gif_frames, is_motion_jpeg, is_tiled, track_matrix
from cliploom.transforms.media.loss import repeats, signs_of_loss
from cliploom.transforms.media.orient import UPRIGHT, Orientation, from_matrix, of_frame
from cliploom.transforms.media.packets import INDEXED, PacketTable, walk
from cliploom.transforms.media.sampling import MICRO, Timeline

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

STAGE = "probe"
_ANIMATIONS = {"gif", "apng", "webp"}
_FIRST_PACKETS = 8
_EARLY_US = MICRO // 2
_IMAGE_BYTES_A_PIXEL = 16


def probe(path: Path, limits: MediaLimits) -> MediaFacts:
    """Facts of a local video, GIF or image.

    Args:
        path: a local file; its kind is found from its content, not from its name.
        limits: what is too absurd to decode.

    Raises:
        MediaError: see ``probe_timeline``.
    """
    return probe_timeline(path, limits)[0]


def probe_timeline(path: Path, limits: MediaLimits) -> tuple[MediaFacts, Timeline]:
    """Facts of a local video, GIF or image, and when each of its frames appears.

    Args:
        path: a local file.
        limits: what is too absurd to decode.

    Raises:
        UnreadableError: the bytes can't be had.
        NoVideoError: there is nothing to see in them.
        UnsupportedCodecError: this build can't decode them.
        TooLargeError: they are beyond ``limits``.
    """
    head, size = read_head(path, STAGE)
    if size > limits.max_bytes:
        raise TooLargeError(
            STAGE, f"'{path.name}' has {size:,} bytes, more than {limits.max_bytes:,} (limits.media.max_bytes)."
        )
    if is_tiled(path) and not images.is_image(head):
        raise UnsupportedCodecError(
            STAGE,
            f"'{path.name}' is a picture stored in tiles (HEIF grid), which can't be joined here; save it as JPEG.",
        )
    if images.is_image(head) and not images.is_animated_png(path) and not is_motion_jpeg(path):
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
    return _facts(kind, head.format, head.format, pixels, head.orientation, timeline, cut_short(path)), timeline


def _probe_container(path: Path, limits: MediaLimits) -> tuple[MediaFacts, Timeline]:
    with open_container(path, STAGE) as container:
        stream = video_stream(container, path, STAGE)
        _check_pixels(path, stream, limits)
        claimed = _claimed(container, stream, path)
        table = walk(container, stream, path.name, limits.max_frames)
        timeline = table.timeline()
        name = container.format.name
        if name == "avi":
            claimed -= repeats(table)
        elif name == "ivf" and timeline.end_tick >= claimed:
            # Some writers count ticks, not frames.
            claimed = 0
        found = len(timeline.ticks)
        if not found:
            why = cut_short(path) or table.broken or _nothing_shown(name, stream, table)
            raise NoVideoError(STAGE, f"'{path.name}' has nothing to see: {why}.")
        facts = _facts(
            kind="gif" if name in _ANIMATIONS else "video",
            container=name.split(",")[0],
            codec=stream.codec_context.codec.canonical_name,
            size=(stream.width, stream.height),
            orientation=from_matrix(track_matrix(path)) if name == INDEXED else _first_orientation(container, stream),
            timeline=timeline,
            why=cut_short(path) or table.broken or _signs(table, name, path) or _early_end(container, timeline, path),
            claimed=claimed,
        )
        return facts, timeline


def _nothing_shown(container: str, stream: VideoStream, table: PacketTable) -> str:
    """Why a stream without cuts or faults in reading gives no frame."""
    if container != INDEXED or not stream.frames:
        return "its video stream has no frames"
    if len(table) or not len(stream.index_entries):
        return f"its edit list shows none of its {stream.frames:,} frames"
    return f"its index says that its {stream.frames:,} frames are where the file has none"


def _signs(table: PacketTable, container: str, path: Path) -> str:
    """What the packets show to be lost; a Matroska file's blocks tell whether a hole in its clock is but a pause."""
    told = signs_of_loss(table, container)
    return damaged_within(path) if told and container == "matroska,webm" else told


def _early_end(container: InputContainer, timeline: Timeline, path: Path) -> str:
    """Sound may last longer than the picture; where it seems to, every block of a Matroska file is looked at."""
    seems = container.format.name == "matroska,webm" and container.duration is not None
    beyond = (container.duration or 0) - timeline.end_tick * timeline.time_base * MICRO
    return damaged_within(path) if seems and beyond > _EARLY_US else ""


def _check_pixels(path: Path, stream: VideoStream, limits: MediaLimits) -> None:
    if stream.width * stream.height > limits.max_pixels:
        raise TooLargeError(
            STAGE,
            f"'{path.name}' is {stream.width} x {stream.height}, beyond {limits.max_pixels:,} pixels "
            f"(limits.media.max_pixels).",
        )


def _claimed(container: InputContainer, stream: VideoStream, path: Path) -> int:
    """Frames that the header promises, or 0 where it doesn't say."""
    if container.format.name == INDEXED:
        # The index after edit lists; the header's own number counts what they cut away.
        return sum(not entry.is_discard for entry in stream.index_entries)
    if container.format.name == "gif":
        return gif_frames(path)
    if container.format.name == "mxf":
        # Tracks are measured in frames; the header partition of a closed file says how many.
        return max(0, stream.duration or 0)
    return max(0, stream.frames)


def _first_orientation(container: InputContainer, stream: VideoStream) -> Orientation:
    """Of the first picture that can be decoded from the start; libav tells a display matrix only with a picture."""
    context = picture_decoder(stream, alpha=False)
    try:
        container.seek(stream.start_time or 0, stream=stream)
        sent = 0
        for packet in container.demux(stream):
            sent += bool(packet.size)
            frames = context.decode(packet if packet.size and sent < _FIRST_PACKETS else None)
            if frames:
                return of_frame(frames[0])
            if sent >= _FIRST_PACKETS:
                break
    except (av.FFmpegError, OSError):
        # A damaged beginning is for the decoder to report.
        return UPRIGHT
    return UPRIGHT


def _facts(
    kind: MediaType,
    container: str,
    codec: str,
    size: tuple[int, int],
    orientation: Orientation,
    timeline: Timeline,
    why: str,
    claimed: int = 0,
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
    )
