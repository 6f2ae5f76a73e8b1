"""Decodes a file once for all features that need frames of it, each in the format of its encoder.

``decode`` chooses the frames of all requests, decodes their union once in presentation order, scales each frame once
for each distinct ``Preprocess``, and yields rows as soon as they are complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cliploom.schemas.errors import MediaError, NoVideoError
from cliploom.schemas.media import MediaFacts, MediaLimits, Preprocess, Sampled
from cliploom.schemas.sampling import Keyframes, Sampling
from cliploom.transforms.media import images
from cliploom.transforms.media.container import open_container, read_head, video_stream
from cliploom.transforms.media.decoder import (
    DecodeReport,
    FrameDecoder,
    drops_unreferenced,
    picture_decoder,
    strict_decoder,
)
from cliploom.transforms.media.deinterlace import deinterlaced, with_neighbours
from cliploom.transforms.media.gifs import draw
from cliploom.transforms.media.orient import Appearance, of_frame
from cliploom.transforms.media.packets import PacketTable, walk, walk_near
from cliploom.transforms.media.reader import LostPlaceError, PacketReader
from cliploom.transforms.media.sampling import BLACK, MICRO, Samples, Timeline, choose, segment_ordinals
from cliploom.transforms.media.scale import Scaler, frame_of, scaler_key
from cliploom.transforms.watchdog import alive

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

__all__ = ["DecodeReport", "Request", "decode"]

STAGE = "decode"
_COARSE_TICK_S = Fraction(4, 1_000_000)
Picture = tuple[int, "VideoFrame", Appearance]


@dataclass(frozen=True)
class Request:
    """The frames and the format that one feature needs.

    Attributes:
        sampling: the sampling, which selects the frames.
        preprocess: the pixel format.
        stereo: ``left`` keeps the left half of each upright picture.
        deinterlace: whether to deinterlace interlaced pictures; the same for all requests of one call.
        tone_map: whether to map high dynamic range and wide gamut to BT.709.
    """

    sampling: Sampling
    preprocess: Preprocess
    stereo: Literal["", "left"] = ""
    deinterlace: bool = True
    tone_map: bool = True


def decode(
    path: Path,
    facts: MediaFacts,
    requests: Sequence[Request],
    segment: tuple[float, float] | None = None,
    report: DecodeReport | None = None,
) -> Iterator[Sampled]:
    """Yield the rows of all requests, in the order in which their last frames are shown.

    Keeps at most one window of pixels per request in memory. A row whose frame cannot be decoded is omitted; its
    ordinal stays unused.

    Args:
        path: a local file.
        facts: what the probe found.
        requests: the requests; rows refer to them by position.
        segment: (start_s, end_s) relative to the video's start: yields only the rows that start in it, bit-identical to
            those of the whole file; for splittable samplings.
        report: filled in while rows are yielded.

    Raises:
        NoVideoError: none of the requested frames can be decoded.
        MediaError: the file cannot be opened, or has changed since it was probed.
        ValueError: the sampling cannot be split, but a segment is given.
    """
    report = DecodeReport() if report is None else report
    with ExitStack() as opened:
        if facts.type == "image" or facts.container == "webp":
            source: _Source = _ImageSource(path)
        else:
            source = opened.enter_context(_ContainerSource(path, facts, requests, segment, report))
        chosen = [_choose(request, source.timeline, segment) for request in requests]
        report.planned[:] = [len(samples) for samples in chosen]
        wanted = np.unique(np.concatenate([np.empty(0, np.int64), *(samples.wanted for samples in chosen)]))
        report.frames_expected = len(wanted)
        yield from _answer(requests, chosen, source.pictures(wanted), report)
        _conclude(path, facts, source.trouble, report)


def _choose(request: Request, timeline: Timeline, segment: tuple[float, float] | None) -> Samples:
    ordinals = None if segment is None else segment_ordinals(request.sampling, *segment)
    return choose(request.sampling, timeline, ordinals)


def _conclude(path: Path, facts: MediaFacts, trouble: str, report: DecodeReport) -> None:
    """Report what is lost; raise if everything is."""
    missing = report.frames_expected - report.frames_got
    if report.frames_expected and not report.frames_got:
        why = trouble or facts.lost or "none of its wanted frames can be decoded"
        raise NoVideoError(STAGE, f"'{path.name}' has nothing to see: {why.rstrip('.')}.")
    if missing:
        report.lost = f"{missing} of {report.frames_expected} wanted frames could not be decoded."
    elif report.frames_damaged:
        report.lost = f"{report.frames_damaged} of {report.frames_expected} wanted frames are damaged in part."
    elif report.errors:
        report.lost = f"{report.errors} of {report.packets_sent} packets could not be decoded."
    elif report.refused:
        report.lost = "Packets are damaged; the pictures from there to the next key frame are shown as far as they go."
    elif report.references_damaged:
        report.lost = f"{report.references_damaged} pictures that others refer to are damaged in part."
    if trouble and trouble not in facts.lost:
        report.lost = f"{report.lost} {trouble}".strip()


def _answer(
    requests: Sequence[Request], chosen: Sequence[Samples], pictures: Iterator[Picture], report: DecodeReport
) -> Iterator[Sampled]:
    """Scale each picture for the requests that need it, and yield the rows that it completes."""
    keys = [(scaler_key(r.preprocess, r.stereo), r.tone_map) for r in requests]
    scalers = {key: Scaler(r.preprocess, r.stereo, tone_map=r.tone_map) for key, r in zip(keys, requests, strict=True)}
    gatherers = [_Gatherer(number, r, s) for number, (r, s) in enumerate(zip(requests, chosen, strict=True))]
    for index, frame, appearance in pictures:
        alive()
        report.frames_got += 1
        report.frames_damaged += bool(frame.is_corrupt)
        pixels: dict[tuple[tuple[Preprocess, str], bool], NDArray[np.uint8]] = {}
        for gatherer, key in zip(gatherers, keys, strict=True):
            if gatherer.wants(index):
                if key not in pixels:
                    pixels[key] = scalers[key](frame, appearance)
                yield from gatherer.take(index, pixels[key])
    for gatherer in gatherers:
        yield from gatherer.flush()


class _Gatherer:
    """Collects the frames of one request until rows are complete. Frames arrive in ascending order, with gaps."""

    def __init__(self, number: int, request: Request, samples: Samples) -> None:
        self._number = number
        self._windowed = request.sampling.windowed
        self._samples = samples
        self._wanted = set(samples.wanted.tolist())
        self._last = samples.frames.max(axis=1, initial=BLACK)
        self._row = 0
        self._held: dict[int, NDArray[np.uint8]] = {}

    def wants(self, index: int) -> bool:
        return index in self._wanted

    def take(self, index: int, pixels: NDArray[np.uint8]) -> Iterator[Sampled]:
        self._held[index] = pixels
        yield from self._complete(index)

    def flush(self) -> Iterator[Sampled]:
        yield from self._complete(np.iinfo(np.int64).max)

    def _complete(self, shown: int) -> Iterator[Sampled]:
        """Yield the rows whose last frame is ``shown`` or earlier, then drop the frames that no later row needs."""
        first = self._row
        while self._row < len(self._samples) and self._last[self._row] <= shown:
            sampled = self._sampled(self._row)
            self._row += 1
            if sampled is not None:
                yield sampled
        if self._row > first:
            needed = self._samples.frames[self._row, 0] if self._row < len(self._samples) else shown + 1
            self._held = {index: pixels for index, pixels in self._held.items() if index >= needed}

    def _sampled(self, row: int) -> Sampled | None:
        samples = self._samples
        frames = samples.frames[row].tolist()
        if any(index != BLACK and index not in self._held for index in frames):
            return None
        if self._windowed:
            shape = self._held[frames[0]].shape
            pixels = np.zeros((len(frames), *shape), np.uint8)
            for slot, index in enumerate(frames):
                if index != BLACK:
                    pixels[slot] = self._held[index]
        else:
            pixels = self._held[frames[0]]
        return Sampled(
            request=self._number,
            ordinal=int(samples.ordinals[row]),
            start_s=int(samples.start_us[row]) / MICRO,
            end_s=int(samples.end_us[row]) / MICRO,
            frame=frames[0],
            pixels=pixels,
        )


class _ImageSource:
    """Still images, and animations that libav does not support."""

    def __init__(self, path: Path) -> None:
        read_head(path, STAGE)
        self._path = path
        head = images.read_head(path, STAGE)
        self.timeline, self._appearance = head.timeline, Appearance(head.orientation)
        self.trouble = ""

    def pictures(self, wanted: NDArray[np.int64]) -> Iterator[Picture]:
        needed = set(wanted.tolist())
        for index, (frame, lost) in enumerate(images.read_pictures(self._path, STAGE)):
            self.trouble = self.trouble or lost
            if index in needed:
                yield index, frame, self._appearance


class _ContainerSource:
    """Videos, GIFs and animated PNGs."""

    def __init__(
        self,
        path: Path,
        facts: MediaFacts,
        requests: Sequence[Request],
        segment: tuple[float, float] | None,
        report: DecodeReport,
    ) -> None:
        read_head(path, STAGE)
        self._path, self._report, self._facts = path, report, facts
        self._deinterlace = facts.interlaced and all(request.deinterlace for request in requests)
        self._container = open_container(path, STAGE)
        try:
            self._stream = video_stream(self._container, path, STAGE)
            self._table, self.timeline = self._walked(facts, requests, segment)
        except BaseException:
            self._container.close()
            raise
        self._reader = PacketReader(path, self._container, self._stream, self._table, STAGE)
        alpha = any(request.preprocess.alpha != "drop" for request in requests)
        context = picture_decoder(self._stream, alpha)
        droppable = drops_unreferenced(context, self._container.format.name)
        self._lenient: InputContainer | None = None
        self._decoder = FrameDecoder(
            self._reader, self._table, context, droppable, report, strict_decoder(context), self._lenient_decoder
        )
        self.trouble = self._table.broken
        if not self._table.in_order and any(isinstance(request.sampling, Keyframes) for request in requests):
            self.timeline = replace(self.timeline, key=self._shown_keys())

    def _shown_keys(self) -> NDArray[np.bool_]:
        """Return which frames are key frames, in output order; packets without times do not say."""
        key = np.zeros(len(self.timeline.ticks), np.bool_)
        came = self._decoder.shown_order()[: len(key)]
        key[: len(came)] = self._table.key[came] & (came >= 0)
        return key

    def __enter__(self) -> _ContainerSource:
        return self

    def _lenient_decoder(self) -> VideoCodecContext:
        """Return a second decoder of the stream, which shows as much as possible of damaged packets."""
        self._lenient = open_container(self._path, STAGE)
        return picture_decoder(video_stream(self._lenient, self._path, STAGE), alpha=False)

    def __exit__(self, *_: object) -> None:
        if self._lenient is not None:
            self._lenient.close()
        self._reader.close()
        self._container.close()

    def _walked(
        self, facts: MediaFacts, requests: Sequence[Request], segment: tuple[float, float] | None
    ) -> tuple[PacketTable, Timeline]:
        container, stream = self._container, self._stream
        if segment is not None and not facts.corrected:
            near = _segment_table(container, stream, facts, segment)
            if near is not None:
                return near
            container, stream = self._container, self._stream = self._anew()
        table = walk(container, stream, self._path.name, MediaLimits().max_frames)
        return table, table.timeline()

    def _anew(self) -> tuple[InputContainer, VideoStream]:
        self._container.close()
        container = open_container(self._path, STAGE)
        return container, video_stream(container, self._path, STAGE)

    def pictures(self, wanted: NDArray[np.int64]) -> Iterator[Picture]:
        appearance: Appearance | None = None
        try:
            for index, frame in self._frames(wanted):
                if appearance is None:
                    appearance = Appearance(
                        of_frame(frame, self._facts.codec), self._facts.pixel_aspect, self._facts.light
                    )
                yield index, frame, appearance
        except LostPlaceError:
            raise MediaError(STAGE, f"'{self._path.name}' changed while it was read.", transient=True) from None

    def _frames(self, wanted: NDArray[np.int64]) -> Iterator[tuple[int, VideoFrame]]:
        if self._facts.container == "gif" and "canvas" in self._facts.corrected:
            needed = set(wanted.tolist())
            drawn = enumerate(draw(self._path))
            return ((index, frame_of(pixels, "rgba")) for index, pixels in drawn if index in needed)
        if not self._deinterlace:
            return self._decoder.frames(wanted)
        near = with_neighbours(wanted, self.timeline.first_frame, len(self.timeline.ticks))
        needed = set(wanted.tolist())
        return (pair for pair in deinterlaced(self._decoder.frames(near)) if pair[0] in needed)


_Source = _ImageSource | _ContainerSource


def _segment_table(
    container: InputContainer, stream: VideoStream, facts: MediaFacts, segment: tuple[float, float]
) -> tuple[PacketTable, Timeline] | None:
    """Return the packets around a segment, if the container identifies their frames."""
    base = stream.time_base
    if base is None or base < _COARSE_TICK_S:
        # The microseconds in the facts do not determine the tick at which the video starts.
        return None
    origin, end = round(facts.start_s / base), round(facts.end_s / base)
    first = origin + int(segment[0] / base)
    last = origin + int(segment[1] / base)
    table = walk_near(container, stream, max(origin, first), last)
    return None if table is None else (table, table.timeline(origin, end))
