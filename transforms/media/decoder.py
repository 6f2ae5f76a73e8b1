"""Decodes the wanted frames of a stream, and only as much else as bit-identical pictures require.

A group of pictures is decoded only if it contains a wanted frame, from its key frame to the last wanted packet;
unreferenced pictures are dropped unless they are wanted. If a range does not give its first wanted frame completely (an
open group, a gradual refresh), decoding restarts one key frame earlier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar

import av
import numpy as np

from cliploom.transforms.media.packets import PacketTable
from cliploom.transforms.media.reader import PacketReader
from cliploom.transforms.watchdog import alive

if TYPE_CHECKING:
    from av.packet import PacketSideData
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

T = TypeVar("T")

# Codecs for which dropping unreferenced pictures leaves later ones unchanged (tests compare bit for bit).
_DROPS_UNREFERENCED = frozenset({"h264", "mpeg4", "mpeg1video", "mpeg2video"})
_FIELD_CONTAINERS = frozenset({"mpegts", "mpeg", "h264"})
_PROGRESSIVE = frozenset({0, 1})
_HELD = 4
"""Maximum number of pictures that wait for an earlier one before it counts as lost."""
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_STRICT_DECODERS = _ALPHA_DECODERS
"""Bit-identical decoders that detect more damage; after an error they reject everything until the next key frame."""
_STRICT_BY_OPTION = frozenset({"mjpeg", "png", "apng"})
_STRICT = {"err_detect": "crccheck+explode"}


@dataclass
class DecodeReport:
    """What a decode did; filled in while it runs.

    Attributes:
        planned: the number of rows that each request should give.
        frames_expected: the number of distinct frames that the requests need.
        frames_got: how many of these were decoded.
        frames_damaged: how many of these the decoder had to conceal errors in.
        frames_decoded: the number of pictures decoded, needed or not.
        packets_sent: the number of packets decoded.
        errors: the number of packets that the decoder rejected.
        refused: the number of packet ranges that a strict decoder rejected and a lenient one decoded in part.
        references_damaged: the number of damaged pictures that no request needs but that others may refer to.
        lost: a sentence that says what is missing, or empty.
    """

    planned: list[int] = field(default_factory=list)
    frames_expected: int = 0
    frames_got: int = 0
    frames_damaged: int = 0
    frames_decoded: int = 0
    packets_sent: int = 0
    errors: int = 0
    refused: int = 0
    references_damaged: int = 0
    lost: str = ""


def plan_runs(table: PacketTable, positions: NDArray[np.int64]) -> list[range]:
    """Return ranges of packets to decode for the frames at ``positions`` (int64, any order), ascending and disjoint.

    Each starts at a key frame. A frame that is shown before its group's key frame, or at its time, may refer to the
    previous group, so that one is decoded too.
    """
    keys = np.flatnonzero(table.key)
    runs: list[range] = []
    for position in np.sort(positions).tolist():
        group = int(np.searchsorted(keys, position, side="right")) - 1
        if group >= 0 and position > keys[group] and table.pts[position] <= table.pts[keys[group]]:
            group -= 1
        start = int(keys[group]) if group >= 0 else 0
        stop = position + 1
        stop += stop < len(table.second) and bool(table.second[stop])
        while runs and start <= runs[-1].stop:
            before = runs.pop()
            start, stop = min(start, before.start), max(stop, before.stop)
        runs.append(range(start, stop))
    return runs


def picture_decoder(stream: VideoStream, alpha: bool) -> VideoCodecContext:
    """Return the stream's decoder, single-threaded: shards are processed in parallel, not frames.

    Args:
        stream: the open stream.
        alpha: whether transparency is needed; libav's own VP8 and VP9 decoders ignore it.
    """
    context = stream.codec_context
    other = _ALPHA_DECODERS.get(context.codec.canonical_name)
    if alpha and other in av.codecs_available and stream.metadata.get("alpha_mode") == "1":
        context = av.CodecContext.create(other, "r")
    context.thread_count = 1
    return context


def strict_decoder(context: VideoCodecContext) -> VideoCodecContext | None:
    """Return a decoder that rejects damaged packets which ``context`` conceals; None if there is none.

    Args:
        context: the context of a stream; if its own codec can be strict, it is switched to that.
    """
    name = context.codec.canonical_name
    other = _STRICT_DECODERS.get(name)
    if other in av.codecs_available and context.codec.name != other:
        strict: VideoCodecContext = av.CodecContext.create(other, "r")
        strict.thread_count = 1
        return strict
    if name in _STRICT_BY_OPTION:
        context.options = _STRICT
        return context
    return None


def is_deep_vp9(packet: bytes | memoryview) -> bool:
    """Return whether it is VP9 of profile 2 or 3 (more than 8 bits per value), which most libvpx builds cannot read.

    >>> is_deep_vp9(bytes([0x82])), is_deep_vp9(bytes([0x92]))
    (False, True)
    """
    return len(packet) > 0 and bool(packet[0] & 0x10)


class _RefusedError(Exception):
    """A strict decoder rejected a packet."""


class _UnknownError(_RefusedError):
    """A strict decoder rejected a packet of an unknown kind."""


def drops_unreferenced(context: VideoCodecContext, container: str) -> bool:
    """Return whether skipping unreferenced pictures is known not to change the others."""
    name = context.codec.canonical_name
    if name == "hevc":
        # A picture unreferenced in its own temporal layer may serve a higher one; hvcC has the number of layers.
        extra = context.extradata or b""
        return len(extra) > 21 and extra[0] == 1 and (extra[21] >> 3) & 7 == 1
    if name == "h264" and container in _FIELD_CONTAINERS and context.field_order not in _PROGRESSIVE:
        # The second field of a picture may be in a separate packet.
        return False
    return name in _DROPS_UNREFERENCED


def in_turn(numbered: Iterable[tuple[int, T]], wanted: Sequence[int]) -> Iterator[tuple[int, T]]:
    """Yield the wanted items (ascending) in order from an almost sorted stream; clocks may be off by a few pictures.

    >>> list(in_turn([(1, "b"), (0, "a"), (7, "x"), (4, "d")], [0, 1, 2, 4]))
    [(0, 'a'), (1, 'b'), (4, 'd')]
    """
    needed, buffered, position = set(wanted), dict[int, T](), 0
    for number, value in numbered:
        if number not in needed or number < wanted[position]:
            continue
        buffered.setdefault(number, value)
        while position < len(wanted) and (wanted[position] in buffered or len(buffered) > _HELD):
            if wanted[position] in buffered:
                yield wanted[position], buffered.pop(wanted[position])
            position += 1
        if position == len(wanted):
            return
    yield from sorted(buffered.items(), key=itemgetter(0))


class FrameDecoder:
    """Decodes frames of one stream by their index in the file. Not thread-safe.

    Args:
        reader: the reader of the packets.
        table: the table of the packets.
        context: the decoder.
        droppable: the result of ``drops_unreferenced``.
        report: the report to count in.
        strict: the decoder from ``strict_decoder``, which is tried first.
        lenient: creates the decoder for packets that ``strict`` rejects, if ``context`` cannot be used.
    """

    def __init__(
        self,
        reader: PacketReader,
        table: PacketTable,
        context: VideoCodecContext,
        droppable: bool,
        report: DecodeReport,
        strict: VideoCodecContext | None = None,
        lenient: Callable[[], VideoCodecContext] | None = None,
    ) -> None:
        self._reader, self._table, self._context = reader, table, context
        self._strict, self._lenient = strict, lenient
        # Slice headers tell which packets have second fields, and unreferenced fields may be dropped singly.
        self._droppable = droppable and not table.in_fields
        self._report = report

    def frames(self, wanted: NDArray[np.int64]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (index, picture) of the wanted frames (int64, ascending) in order; omit frames that fail."""
        if not len(wanted):
            return
        if not self._table.in_order:
            yield from self._counted(wanted)
            return
        yield from in_turn(self._numbered(wanted), wanted.tolist())

    def _numbered(self, wanted: NDArray[np.int64]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (index, picture) of the wanted frames, and of those with the same times, in decoder order."""
        positions, numbers = self._with_same_timestamp(wanted)
        came: Counter[int] = Counter()
        for run in plan_runs(self._table, positions):
            inside = slice(*np.searchsorted(positions, (run.start, run.stop)))
            index = dict(zip(positions[inside].tolist(), numbers[inside].tolist(), strict=True))
            for lowest, frame in self._run(run, index):
                yield lowest + came[lowest], frame
                came[lowest] += 1

    def _with_same_timestamp(self, wanted: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return positions (ascending) of all frames that share a time with a wanted one, and their lowest index.

        Only the decoder knows which of several frames with one time is shown first; they are numbered in decoder order.
        """
        order, first = self._table.order, self._table.first_frame
        times = self._table.pts[order]
        shared = np.isin(times, times[wanted - first])
        positions = order[shared]
        lowest = np.searchsorted(times, times[shared]) + first
        stored = np.argsort(positions)
        return positions[stored], lowest[stored]

    def shown_order(self) -> NDArray[np.int64]:
        """Return packet positions in the order in which their frames are output, int64 [N]; decodes everything."""
        return np.array([p for p, _ in self._pictures(range(len(self._table)), None)], np.int64)

    def _run(self, run: range, index: dict[int, int]) -> Iterator[tuple[int, VideoFrame]]:
        pictures = ((index[p], frame) for p, frame in self._pictures(run, index) if p in index)
        first = next(pictures, None)
        if run.start > 0 and (first is None or first[0] != min(index.values()) or first[1].is_corrupt):
            pictures.close()
            earlier = np.flatnonzero(self._table.key[: run.start])
            again = range(int(earlier[-1]) if len(earlier) else 0, run.stop)
            pictures = ((index[p], frame) for p, frame in self._pictures(again, index) if p in index)
            first = next(pictures, None)
        if first is not None:
            yield first
            yield from pictures

    def _counted(self, wanted: NDArray[np.int64]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield frames without times: decode all and count."""
        needed = set(wanted.tolist())
        last = int(wanted[-1])
        for index, (_, frame) in enumerate(self._pictures(range(len(self._table)), None)):
            if index in needed:
                yield index, frame
            if index >= last:
                return

    def _pictures(self, run: range, wanted: dict[int, int] | None) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (position, picture) of the packets of ``run`` in decoder order."""
        if self._strict is None:
            yield from self._pass(self._context, run, wanted)
            return
        given: set[int] = set()
        try:
            for position, frame in self._pass(self._strict, run, wanted):
                given.add(position)
                yield position, frame
        except _RefusedError as error:
            if isinstance(error, _UnknownError):
                self._strict = None
            else:
                self._report.refused += 1
            if self._context is self._strict and self._lenient is not None:
                self._context = self._lenient()
            for position, frame in self._pass(self._context, run, wanted):
                if position not in given:
                    yield position, frame

    def _pass(
        self, context: VideoCodecContext, run: range, wanted: dict[int, int] | None
    ) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (position, picture) from one decoder.

        Raises:
            _RefusedError: it is the strict decoder, and rejects a packet.
        """
        report = self._report
        context.flush_buffers()
        states = self._states(run)
        sound = False
        for position, packet in self._reader.read(run.start, run.stop):
            alive()
            for state in states.get(position, ()):
                packet.set_sidedata(state)
            if self._droppable and wanted is not None:
                context.skip_frame = "DEFAULT" if position in wanted else "NONREF"
            # The decoder copies a packet's number to its picture, however late the picture is output.
            packet.pts = position
            report.packets_sent += 1
            for frame in self._decoded(context, packet):
                number = -1 if frame.pts is None else frame.pts
                if frame.is_corrupt and sound and wanted is not None and number not in wanted:
                    report.references_damaged += 1
                # Pictures before the first key frame lack their references; that is not damage.
                sound = sound or not frame.is_corrupt
                yield number, frame
        for frame in self._decoded(context, None):
            yield (-1 if frame.pts is None else frame.pts), frame

    def _states(self, run: range) -> dict[int, list[PacketSideData]]:
        """Return the decoder state that a run needs: the last states before it, and those that change within it."""
        before: dict[str, PacketSideData] = {}
        states: dict[int, list[PacketSideData]] = {}
        for position, state in self._table.states:
            if position <= run.start:
                before[state.data_type] = state
            else:
                states.setdefault(position, []).append(state)
        return states | {run.start: list(before.values())}

    def _decoded(self, context: VideoCodecContext, packet: av.Packet | None) -> list[VideoFrame]:
        try:
            frames = context.decode(packet)
        except (av.FFmpegError, OSError):
            if context is self._strict and (self._lenient is not None or context is not self._context):
                deep = context.codec.canonical_name == "vp9" and packet is not None and is_deep_vp9(memoryview(packet))
                raise (_UnknownError if deep else _RefusedError) from None
            self._report.errors += 1
            return []
        self._report.frames_decoded += len(frames)
        return frames
