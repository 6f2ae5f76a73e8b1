"""Opens media containers: accepted formats, choice of the video stream, meaning of errors.

The format of a file is determined from its bytes. Formats that refer to other files or URLs (playlists, concat scripts)
and those that libav recognises only by file name (text art) are rejected.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.stream import Discard, Disposition

from cliploom.schemas.errors import MediaError, NoVideoError, UnreadableError, UnsupportedCodecError
from cliploom.transforms.media.headers import codec_name, cut_short, is_animated_png, is_motion_jpeg

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,vvc,obu,ivf,m4v,h263,h261,vc1,"
    "gif,apng,flv,live_flv,asf,ogg,mxf,gxf,rm,nut,nsv,wtv,dv,swf,mjpeg,yuv4mpegpipe,bink,smk,flic,mtv,nuv,pva,r3d,roq,dirac"
)
_WITH_HEADERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
_TEXT_WITHIN = 512
_OTHER_KINDS = {
    "sound only": re.compile(rb"ID3|fLaC|RIFF....WAVE|FORM....AIF|\xff[\xe0-\xff][\x10-\xef]|#!AMR|MThd", re.DOTALL),
    "a playlist, not the video that it names": re.compile(
        rb"\s*(\xef\xbb\xbf)?\s*#EXTM3U|\[playlist\]|<ASX", re.IGNORECASE
    ),
    "a web page": re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE),
    "a ZIP archive": re.compile(rb"PK\x03\x04"),
    "compressed with gzip": re.compile(rb"\x1f\x8b"),
    "a PDF document": re.compile(rb"%PDF-"),
    "an Office document in the old format": re.compile(rb"\xd0\xcf\x11\xe0"),
    "a program": re.compile(rb"\x7fELF|MZ.{62}", re.DOTALL),
    "a picture in an unsupported format (save it as JPEG or PNG)": re.compile(
        rb"\0\0\0\x0c(jP  |JXL )|\xff\x0a|8BPS|\0\0\x01\0(?!\0\0)|P[1-7]\s|\x76\x2f\x31\x01|qoif|DDS |icns"
    ),
}
# libav recognises these in any file that contains their markers, such as a document with photographs.
_FOUND_ANYWHERE = frozenset({"mjpeg", "h261", "h263", "m4v", "mpegvideo", "dirac", "vc1"})
_SELF_ORDERED = frozenset({"hevc", "vp8", "vp9", "av1"})


@contextmanager
def explained(path: Path, stage: str) -> Iterator[None]:
    """Convert an error of the operating system to an ``UnreadableError`` with a clear message."""
    try:
        yield
    except av.FFmpegError:
        raise
    except IsADirectoryError:
        raise UnreadableError(stage, f"'{path.name}' is a directory, not a media file.") from None
    except FileNotFoundError:
        raise UnreadableError(stage, f"'{path.name}' does not exist any more.") from None
    except PermissionError:
        raise UnreadableError(stage, f"'{path.name}' may not be read: permission denied.") from None
    except OSError as error:
        raise UnreadableError(stage, f"'{path.name}' can't be read: {error.strerror or error}.") from None


def read_head(path: Path, stage: str, length: int = 64) -> tuple[bytes, int]:
    """Return the first bytes of a regular file, and its size in bytes.

    Raises:
        UnreadableError: it cannot be opened, or is a directory, a pipe or a device.
        NoVideoError: it is empty.
    """
    with explained(path, stage):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise UnreadableError(stage, f"'{path.name}' is not a regular file, but a pipe, socket or device.")
        with open(path, "rb") as file:
            head = file.read(length)
    if not head:
        raise NoVideoError(stage, f"'{path.name}' is empty (0 bytes).")
    return head, status.st_size


def open_container(path: Path, stage: str) -> InputContainer:
    """Open a video or GIF for reading; close it when done.

    Raises:
        NoVideoError: the bytes are not media that this build supports.
        UnreadableError: the file cannot be read.
    """
    container = _opened(path, stage, {"skip_frame": "all"})
    if _tells_enough(container):
        return container
    container.close()
    return _opened(path, stage, {})


def _opened(path: Path, stage: str, options: dict[str, str]) -> InputContainer:
    # "file:" keeps names such as "http:x.mp4" from being interpreted as URLs.
    name = "file:" + os.fspath(path)
    try:
        with explained(path, stage):
            container: InputContainer = av.open(
                name,
                # By its name, first picture or first 2 kB, libav may take the file for a still picture.
                format="mjpeg" if is_motion_jpeg(path) else "apng" if is_animated_png(path) else None,
                options=options,
                container_options={"format_whitelist": _FORMATS},
                metadata_errors="ignore",
                buffer_size=1 << 16,
            )
    except av.FFmpegError as error:
        raise _refusal(path, stage, error) from None
    other = _other_kind(path) if container.format.name in _FOUND_ANYWHERE else ""
    if other:
        container.close()
        raise NoVideoError(stage, f"'{path.name}' has no video: it is {other}.")
    return container


def _tells_enough(container: InputContainer) -> bool:
    """Return whether the headers suffice for decoding, so that libav need not decode frames to open the file.

    Otherwise libav decodes h264 frames to find the reordering depth; most streams with B-frames state it. (Measured on
    720p: 1 to 2 ms instead of 7 to 14.)
    """
    if container.format.name not in _WITH_HEADERS:
        return False
    for stream in container.streams.video:
        codec = None if stream.codec_context is None else stream.codec_context.codec.canonical_name
        if codec is None or stream.disposition & Disposition.attached_pic:
            continue
        if not stream.width or not (codec in _SELF_ORDERED or (codec == "h264" and stream.codec_context.has_b_frames)):
            return False
    return True


def video_stream(container: InputContainer, path: Path, stage: str) -> VideoStream:
    """Return the video stream; all other streams are set to be skipped without reading.

    Cover art is not a video. Among several streams, one with more than one picture is preferred, then the default, then
    the largest.

    Raises:
        NoVideoError: there is none.
        UnsupportedCodecError: there is one, but no decoder for it.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        others = sorted({"a cover picture" if s.type == "video" else s.type for s in container.streams})[::-1]
        what = f"only {' and '.join(others)}" if others else "no streams"
        raise NoVideoError(stage, f"'{path.name}' has no video: {what}.")
    usable = [stream for stream in streams if stream.codec_context is not None]
    if not usable:
        codec = codec_name(path) or "unnamed"
        raise UnsupportedCodecError(stage, f"'{path.name}' has a video codec that this build can't decode: {codec}.")
    # An animated AVIF has its first picture in a separate stream.
    best = max(
        usable,
        key=lambda s: (s.frames != 1, bool(s.disposition & Disposition.default), s.width * s.height, -s.index),
    )
    for stream in container.streams:
        if stream.index != best.index:
            stream.discard = Discard.all
    return best


def _refusal(path: Path, stage: str, error: av.FFmpegError) -> MediaError:
    """Return the error that explains why libav rejected a file that the operating system could open."""
    other = _other_kind(path)
    if other:
        return NoVideoError(stage, f"'{path.name}' has no video: it is {other}.")
    why = cut_short(path)
    if why:
        return NoVideoError(stage, f"'{path.name}' can't be played: {why}.")
    if isinstance(error, MemoryError):
        return NoVideoError(stage, f"'{path.name}' is damaged: its header requires more memory than is available.")
    return NoVideoError(stage, f"'{path.name}' is not a video, GIF or image, or its header is damaged.")


def _other_kind(path: Path) -> str:
    """Describe a file that is not a picture, if its first bytes identify it; else empty."""
    with open(path, "rb") as file:
        head = file.read(_TEXT_WITHIN)
    for kind, pattern in _OTHER_KINDS.items():
        if pattern.match(head):
            return kind
    # ASCII or UTF-8 without control characters; the last character may be truncated.
    text = head.decode("utf-8", "ignore")
    plain = len(head) - len(text.encode()) < 4 and all(letter.isprintable() or letter in "\t\r\n\f" for letter in text)
    return "text" if plain else ""
