"""The process that converts one video to an MP4 file for browsers; reports progress as JSON lines on stdout.

Packets of codecs that browsers play are copied. Other videos are decoded, rotated upright, scaled to square pixels and
at most 720 lines, and encoded again. It runs in a separate process with limits on memory and file size.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import av

from cliploom.schemas.errors import ItemError, MediaError
from cliploom.schemas.media import MediaFacts, MediaLimits
from cliploom.serving.playback import COPIED_CODECS, ConversionLimits, refusal
from cliploom.transforms.media.container import open_container, video_stream
from cliploom.transforms.media.orient import Orientation, of_frame
from cliploom.transforms.media.probe import probe_timeline
from cliploom.transforms.work.inflight import die_with

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

AnyPacket: TypeAlias = "Packet[Any]"
Report = Callable[[float], None]
_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "24", "profile": "main"},
    "libopenh264": {"b": "3000000"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "b": "0", "crf": "34"},
}
_COPIED_SOUND = ("aac", "mp3", "opus")
_PIXELS_COPIED = ("yuv420p", "yuvj420p")
_BOX = (1280, 720)
_CLOCK = Fraction(1, 90_000)
_SOUND_RATE = 48_000
_THREADS = 2
_LATE_FRAMES = 4


class CopyError(Exception):
    """The packets cannot be copied; decoding and encoding may still work."""


def main(arguments: list[str]) -> None:
    """Convert the video of a request with ``source``, ``target``, ``facts``, ``limits`` and ``parent``."""
    request = json.loads(arguments[0])
    die_with(request["parent"])
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    limits = ConversionLimits(**request["limits"])
    for kind, most in (
        (resource.RLIMIT_DATA, limits.memory),
        (resource.RLIMIT_FSIZE, limits.result_bytes),
        (resource.RLIMIT_CPU, int(_THREADS * limits.seconds) + 1),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))
    facts = MediaFacts(**request["facts"])
    try:
        made = convert(
            Path(request["source"]), Path(request["target"]), facts, limits, lambda share: tell({"share": share})
        )
        tell({"done": made})
    except ItemError as error:
        tell({"error": str(error)})
    except MemoryError:
        tell({"error": "Its conversion exceeded the memory limit."})
    except (av.FFmpegError, OSError, ValueError) as error:
        tell({"error": f"It cannot be converted ({type(error).__name__})."})


def convert(source: Path, target: Path, facts: MediaFacts, limits: ConversionLimits, report: Report) -> str:
    """Convert a video into an MP4 file.

    Args:
        source: the path of a local video.
        target: the path to write to.
        facts: the facts that its probe found.
        limits: the limits; only those on pixels are checked here.
        report: a callback that receives the completed fraction, 0 to 1, once per percent.

    Returns:
        ``copied`` or ``encoded``.

    Raises:
        ItemError: nothing can be decoded, or the video exceeds the limits.
        av.FFmpegError: the file cannot be written.
    """
    try:
        _write(source, target, facts, report, copy=True)
        return "copied"
    except (CopyError, av.FFmpegError, ValueError):
        too_much = refusal(facts, limits)
        if too_much:
            raise MediaError("convert", f"The packets cannot be copied, and {too_much}.") from None
    _write(source, target, facts, report, copy=False)
    return "encoded"


def _write(source: Path, target: Path, facts: MediaFacts, report: Report, *, copy: bool) -> None:
    if copy and not _may_be_copied(source, facts):
        raise CopyError
    with open_container(source, "convert") as container:
        video = video_stream(container, source, "convert")
        video.codec_context.skip_frame = "DEFAULT"
        video.codec_context.thread_count = _THREADS
        sound = _sound_of(container)
        times = None if copy else _times_of(source, container)
        with av.open(os.fspath(target), "w", format="mp4", options={"movflags": "+faststart"}) as output:
            writers: dict[int, _Copied | _Pictures | _Sound] = {
                video.index: _Copied(output, video, facts.start_s) if copy else _Pictures(output, facts, times)
            }
            if sound is not None:
                copied = sound.codec_context.codec.canonical_name in _COPIED_SOUND
                writers[sound.index] = (_Copied if copied else _Sound)(output, sound, facts.start_s)
            shown = -1
            for packet in container.demux([each for each in (video, sound) if each is not None]):
                for made in writers[packet.stream_index].take(packet):
                    output.mux(made)
                percent = _percent(packet, facts) if packet.stream_index == video.index else shown
                if percent > shown:
                    shown = percent
                    report(shown / 100)
            for writer in writers.values():
                for made in writer.end():
                    output.mux(made)
            if not writers[video.index].count:
                raise MediaError("convert", "No frame can be decoded.")


def _may_be_copied(source: Path, facts: MediaFacts) -> bool:
    """Whether browsers play the packets unchanged, judging by the codec and the first frame."""
    if facts.codec not in COPIED_CODECS:
        return False
    with open_container(source, "convert") as container:
        video = video_stream(container, source, "convert")
        video.codec_context.skip_frame = "DEFAULT"
        first = next(iter(container.decode(video)), None)
        # AVI stores no presentation times for reordered frames.
        ordered = container.format.name != "avi" or not video.codec_context.has_b_frames
    return first is not None and first.format.name in _PIXELS_COPIED and ordered


def _times_of(source: Path, container: InputContainer) -> list[int] | None:
    """Return the presentation time of each frame, in ticks, for containers whose decoders do not know it: AVI."""
    if container.format.name != "avi":
        return None
    timeline = probe_timeline(source, MediaLimits())[1]
    return [round(int(tick) * timeline.time_base / _CLOCK) for tick in timeline.ticks]


def _percent(packet: AnyPacket, facts: MediaFacts) -> int:
    if packet.pts is None or packet.time_base is None or facts.duration_s <= 0:
        return -1
    return max(0, min(99, int(100 * (float(packet.pts * packet.time_base) - facts.start_s) / facts.duration_s)))


def _sound_of(container: InputContainer) -> AudioStream | None:
    """Return the first audio stream that can be decoded."""
    from av.stream import Discard

    for stream in container.streams.audio:
        if stream.codec_context is not None and stream.codec_context.sample_rate:
            stream.discard = Discard.default
            return stream
    return None


class _Copied:
    """Copies the packets of a stream unchanged, with times relative to the start of the video."""

    def __init__(self, output: OutputContainer, stream: VideoStream | AudioStream, start_s: float) -> None:
        self._stream: Any = output.add_stream_from_template(stream)
        self._is_video = stream.type == "video"
        self._shift = round(Fraction(start_s) / (stream.time_base or _CLOCK))
        self._last: int | None = None
        self._undated: list[AnyPacket] = []
        self.count = 0

    def take(self, packet: AnyPacket) -> Iterator[AnyPacket]:
        if packet.dts is None and not packet.size:
            return  # end of the stream
        if packet.pts is None or (packet.dts is None and self._last is not None):
            self._leave_out()
            return
        packet.pts -= self._shift
        # Matroska stores presentation times only; libav needs the first few packets to derive decoding times
        if packet.dts is None:
            self._undated.append(packet)
            return
        packet.dts -= self._shift
        waiting, self._undated = self._undated, []
        for number, each in enumerate(waiting):
            each.dts = packet.dts - (len(waiting) - number) * max(1, packet.duration or 1)
            yield from self._dated(each)
        yield from self._dated(packet)

    def _dated(self, packet: AnyPacket) -> Iterator[AnyPacket]:
        sent, shown = packet.dts or 0, packet.pts or 0
        if sent > shown or (self._last is not None and sent <= self._last):
            self._leave_out()
            return
        self._last = sent
        packet.stream = self._stream
        self.count += 1
        yield packet

    def _leave_out(self) -> None:
        """Skip a packet: a gap in the audio is acceptable, in the video it is an error."""
        if self._is_video:
            raise CopyError

    def end(self) -> Iterator[AnyPacket]:
        if self._undated:
            self._leave_out()
        yield from ()


class _Pictures:
    """Decodes frames, rotates them upright, scales them to square pixels and encodes them again."""

    def __init__(self, output: OutputContainer, facts: MediaFacts, times: Sequence[int] | None) -> None:
        self._facts = facts
        self._times = times
        self._decoded = 0
        self._shift: int | None = None
        self._graph: av.filter.Graph | None = None
        self._shape: tuple[Any, ...] = ()
        self._last = -1
        self.count = 0
        name = next(name for name in _ENCODERS if name in av.codecs_available)
        self._rate = rate = Fraction(facts.fps).limit_denominator(1001) if 1 <= facts.fps <= 240 else Fraction(25)
        encoder: Any = output.add_stream(name, rate=rate, options=dict(_ENCODERS[name]))
        self._encoder = encoder
        self._encoder.width, self._encoder.height = picture_size(facts)
        self._encoder.pix_fmt = "yuv420p"
        self._encoder.gop_size = max(1, round(2 * rate))
        self._encoder.codec_context.time_base = _CLOCK
        self._encoder.codec_context.thread_count = _THREADS

    def take(self, packet: AnyPacket) -> Iterator[AnyPacket]:
        try:
            frames: Any = packet.decode()
        except av.FFmpegError:
            return  # a damaged packet; the following ones may be intact
        for frame in frames:
            yield from self._encoded(frame)

    def _encoded(self, frame: VideoFrame) -> Iterator[AnyPacket]:
        shown = self._shown(frame)
        if shown is None:
            return
        if self._shift is None:
            # Timestamps of AVI and MPEG may be a few frames late; a larger gap means that the first frames are
            # damaged.
            start = round(Fraction(self._facts.start_s) / _CLOCK)
            self._shift = shown if abs(shown - start) <= _LATE_FRAMES / self._rate / _CLOCK else start
        frame.pts, frame.time_base = shown - self._shift, _CLOCK
        shape = frame.width, frame.height, frame.format.name, of_frame(frame, self._facts.codec)
        if self._graph is None or shape != self._shape:
            yield from self._filtered(None)
            self._graph, self._shape = self._filters(frame, shape[3]), shape
        yield from self._filtered(frame)

    def _shown(self, frame: VideoFrame) -> int | None:
        """Return the presentation time of a frame, in ticks."""
        self._decoded += 1
        if self._times is not None:
            return self._times[self._decoded - 1] if self._decoded <= len(self._times) else None
        if frame.pts is None or frame.time_base is None:
            return None
        return round(frame.pts * frame.time_base / _CLOCK)

    def _filters(self, frame: VideoFrame, orientation: Orientation) -> av.filter.Graph:
        width, height = picture_size(self._facts)
        steps = [("bwdif", "deint=interlaced")] if self._facts.interlaced else []
        steps += [("transpose", "cclock_flip")] if orientation.transpose else []
        steps += [("hflip", "")] if orientation.flip_x else []
        steps += [("vflip", "")] if orientation.flip_y else []
        steps += [("scale", f"{width}:{height}"), ("setsar", "1"), ("format", "yuv420p")]
        graph = av.filter.Graph()
        graph.threads = 1
        nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_CLOCK)]
        nodes += [graph.add(name, given) if given else graph.add(name) for name, given in steps]
        graph.link_nodes(*nodes, graph.add("buffersink")).configure()
        return graph

    def _filtered(self, frame: VideoFrame | None) -> Iterator[AnyPacket]:
        if self._graph is None:
            return
        self._graph.vpush(frame)
        while True:
            try:
                made = self._graph.vpull()
            except (BlockingIOError, EOFError, av.EOFError):
                return
            if made.pts is None or made.pts <= self._last:
                continue
            self._last = made.pts
            made.pict_type = 0
            self.count += 1
            yield from self._encoder.encode(made)

    def end(self) -> Iterator[AnyPacket]:
        yield from self._filtered(None)
        if self.count:
            yield from self._encoder.encode(None)


class _Sound:
    """Decodes audio and encodes it as stereo AAC; skips what cannot be decoded."""

    def __init__(self, output: OutputContainer, stream: AudioStream, start_s: float) -> None:
        self._encoder: Any = output.add_stream("aac", rate=_SOUND_RATE, layout="stereo")
        self._resampler = av.AudioResampler("fltp", "stereo", _SOUND_RATE, frame_size=1024)
        self._shift_s = Fraction(start_s)
        self._started = False
        self.count = 0

    def take(self, packet: AnyPacket) -> Iterator[AnyPacket]:
        try:
            frames: Any = packet.decode()
        except av.FFmpegError:
            return
        for frame in frames:
            if frame.pts is not None and frame.time_base:
                frame.pts = round((frame.pts * frame.time_base - self._shift_s) / frame.time_base)
            yield from self._encoded(frame)

    def _encoded(self, frame: Any) -> Iterator[AnyPacket]:
        for each in self._resampler.resample(frame):
            self.count += 1
            yield from self._encoder.encode(each)

    def end(self) -> Iterator[AnyPacket]:
        if self.count:
            yield from self._encoded(None)
            yield from self._encoder.encode(None)


def picture_size(facts: MediaFacts) -> tuple[int, int]:
    """Return even width and height of the converted picture: upright, square pixels, within 1280 by 720 or 720 by 1280.

    >>> picture_size(MediaFacts("video", "avi", "mpeg4", 1920, 1080, 90, 1, 1, 0.0, 1.0, 1.0))
    (720, 1280)
    """
    aspect = facts.pixel_aspect
    across, down = facts.width * max(Fraction(1), aspect), facts.height / min(Fraction(1), aspect)
    if facts.rotation in (90, 270):
        across, down = down, across
    wide, tall = _BOX if across >= down else _BOX[::-1]
    scale = min(Fraction(1), wide / across, tall / down)
    return max(2, round(across * scale / 2) * 2), max(2, round(down * scale / 2) * 2)
