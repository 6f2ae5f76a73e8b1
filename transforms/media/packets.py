"""The packets of a video stream, read once without decoding.

This gives every frame's presentation time, so the frames to decode are known before decoding starts.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from cliploom.schemas.errors import TooLargeError
from cliploom.transforms.media.clock import NO_TIME, follows_keys, joined, references_last, without_jumps
from cliploom.transforms.media.fields import FieldPairs
from cliploom.transforms.media.headers import apng_delays, has_picture
from cliploom.transforms.media.mpeg_fields import MpegFieldPairs
from cliploom.transforms.media.sampling import Timeline
from cliploom.transforms.watchdog import alive

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet, PacketSideData, PktSideDataT
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

INDEXED = "mov,mp4,m4a,3gp,3g2,mj2"
"""The container with an index of every packet, so that a packet's number is known without reading earlier ones."""

_ANIMATIONS = frozenset({"gif", "apng"})
_DECODE_ORDER_CONTAINERS = frozenset({"avi"})
# libav's parsers or encoders may mark every picture of these as a key frame; an index is more accurate.
_KEYS_UNTOLD = frozenset({"h261", "h263", "rpza"})
_MPEG_VIDEO = frozenset({"mpeg1video", "mpeg2video"})
_GIF_SLOW = 10


@dataclass(frozen=True)
class PacketTable:
    """P packets in file order, which is decoding order.

    Attributes:
        pts: int64 [P], presentation times in ticks, ``NO_TIME`` where missing.
        dts: int64 [P], decoding times, the same.
        duration: int64 [P] ticks, 0 where unknown.
        size: int64 [P] bytes.
        key: bool [P], whether decoding can start here.
        shown: bool [P], whether the packet gives a frame: it is not removed by an edit list, not a hidden reference
            picture, and not the second field of a frame.
        second: bool [P], whether it has the second field of the picture whose first field is in the previous packet.
        time_base: seconds per tick.
        rate: the number of frames per second by the header, or 0.
        in_order: whether the presentation times are usable; if not, only decoding gives the order of the frames.
        times_hold: whether the sorted presentation times are usable, although not as those of their packets.
        first_frame: the number of shown packets in the file before these.
        broken: the reason why reading stopped before the end, or empty.
        jumps: (seconds from the start, seconds) of each removed jump of the clock.
        undelayed: whether an animated PNG has no delay for some pictures.
        damaged: int64, positions of the packets that libav reports as incomplete.
        states: (position, palette or codec header) that the decoder needs from that packet on. Demuxers return them
            only with the packet at which they change, so a decoder that starts later needs them separately.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    duration: NDArray[np.int64]
    size: NDArray[np.int64]
    key: NDArray[np.bool_]
    shown: NDArray[np.bool_]
    time_base: Fraction
    rate: Fraction
    in_order: bool = True
    times_hold: bool = True
    first_frame: int = 0
    broken: str = ""
    damaged: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    states: tuple[tuple[int, PacketSideData], ...] = ()
    jumps: tuple[tuple[float, float], ...] = ()
    undelayed: bool = False
    second: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))

    @property
    def in_fields(self) -> bool:
        """Whether some frames consist of two packets."""
        return bool(self.second.any())

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def order(self) -> NDArray[np.int64]:
        """Return the positions of the shown packets in presentation order, int64 [N]."""
        shown = np.flatnonzero(self.shown)
        if not self.in_order:
            return shown
        # Of two packets with one time (at the end of MPEG program streams), the one that is not reordered is shown
        # first.
        wait = np.where(self.dts[shown] == NO_TIME, 0, self.pts[shown] - self.dts[shown])
        return shown[np.lexsort((shown, wait, self.pts[shown]))]

    def timeline(self, origin: int | None = None, end_tick: int | None = None) -> Timeline:
        """Return the presentation times of the shown frames.

        Args:
            origin: the start of the whole video, if these packets are a part of it.
            end_tick: the end of the whole video, likewise.
        """
        order = self.order
        ticks = np.sort(self.pts[order]) if self.times_hold else self._even_ticks(order)
        if end_tick is None:
            end_tick = int(ticks[-1]) + self._last_duration(order, ticks) if len(order) else 0
        return Timeline(ticks, self.time_base, end_tick, self.key[order], origin, self.first_frame)

    def _even_ticks(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return times for frames without valid times: sorted decoding times, or one duration after another."""
        dts = np.sort(self.dts[order])
        if len(dts) and dts[0] != NO_TIME and (np.diff(dts) > 0).all():
            return np.asarray(dts - dts[0], np.int64)
        steps = np.where(self.duration[order] > 0, self.duration[order], self._header_step())
        return np.concatenate([[0], np.cumsum(steps)[:-1]]).astype(np.int64) if len(steps) else steps

    def _last_duration(self, order: NDArray[np.int64], ticks: NDArray[np.int64]) -> int:
        stated = int(self.duration[order[-1]])
        if stated > 0:
            return stated
        return int(np.median(np.diff(ticks))) if len(ticks) > 1 else 0

    def _header_step(self) -> int:
        return round(1 / (self.rate or Fraction(25)) / self.time_base)


def walk(container: InputContainer, stream: VideoStream, name: str, max_frames: int) -> PacketTable:
    """Read all packets of ``stream`` without decoding.

    Raises:
        TooLargeError: more than ``max_frames``.
    """
    columns = _Columns(container, stream)
    broken = ""
    try:
        for packet in container.demux(stream):
            alive()
            if packet.size:
                columns.add(packet)
                if len(columns.size) > max_frames:
                    raise TooLargeError(
                        "probe", f"'{name}' has more than {max_frames:,} frames (limits.media.max_frames)."
                    )
    except (av.FFmpegError, OSError) as error:
        broken = f"reading stopped at packet {len(columns.size)}: {error.strerror or error}"
    except IndexError:
        # PyAV only knows the streams that existed when the file was opened.
        broken = f"reading stopped at packet {len(columns.size)}: a stream begins in the middle of the file"
    return columns.table(broken)


def walk_near(container: InputContainer, stream: VideoStream, first_tick: int, last_tick: int) -> PacketTable | None:
    """Read only the packets that are needed for frames on screen from ``first_tick`` to ``last_tick``.

    Returns:
        None if the container's index does not give the number of frames before them, or the seek failed.
    """
    # Only the first packet has the palette.
    if container.format.name != INDEXED or not len(stream.index_entries) or _state_kinds(container, stream)[0]:
        return None
    try:
        container.seek(first_tick, stream=stream)
        first = next((packet for packet in container.demux(stream) if packet.size), None)
        if first is None or first.dts is None:
            return None
        # Start one key frame earlier, for pictures that are incomplete if decoding starts at the nearest.
        if first.dts > stream.index_entries[0].timestamp:
            container.seek(first.dts - 1, stream=stream)
        else:
            container.seek(first_tick, stream=stream)
    except (av.FFmpegError, OSError):
        return None
    columns = _Columns(container, stream)
    covered = NO_TIME
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.pts is None or (not columns.size and not packet.is_keyframe):
                return None
            # A key frame beyond the range ends it once the frames shown before it have passed.
            if covered != NO_TIME and packet.pts > covered:
                break
            columns.add(packet)
            if packet.is_keyframe and packet.pts > last_tick and covered == NO_TIME:
                covered = packet.pts
    except (av.FFmpegError, OSError):
        return None
    table = columns.table("")
    if not len(table) or not table.shown[0] or table.pts[0] > first_tick or not table.in_order or table.in_fields:
        return None
    return _numbered(table, stream, columns.first_place)


def _numbered(table: PacketTable, stream: VideoStream, place: tuple[int, int]) -> PacketTable | None:
    """Return the number of shown packets before ``table``'s first, from the container's index."""
    entries = stream.index_entries
    near = entries.search_timestamp(place[0], any_frame=True)
    if near < 0 or (entries[near].timestamp, entries[near].pos) != place:
        return None
    before = sum(not entry.is_discard for entry in entries[:near])
    # Frames shown before the first key frame but stored after it cannot be decoded from here.
    shown = table.shown & (table.pts >= table.pts[0])
    leading = int(np.count_nonzero(table.shown & ~shown))
    return replace(table, shown=shown, first_frame=before + leading)


class _Columns:
    """Collects packets into the columns of a ``PacketTable``."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.size, self._duration = array("q"), array("q")
        self._pts, self._dts = array("q"), array("q")
        self._key, self._shown = bytearray(), bytearray()
        self.first_place = (0, -1)
        self._damaged = array("q")
        self._states: list[tuple[int, PacketSideData]] = []
        self._container = container.format.name
        self._path = Path(container.name.removeprefix("file:"))
        self._unstated = False
        self._paletted, self._kinds = _state_kinds(container, stream)
        self._codec = stream.codec_context.codec.canonical_name
        self._stream = stream
        self._reorders = bool(stream.codec_context.has_b_frames)
        self._fields: FieldPairs | MpegFieldPairs | None = None
        if self._codec == "h264":
            self._fields = FieldPairs(stream.codec_context.extradata or b"")
        elif self._codec == "mpeg2video":
            self._fields = MpegFieldPairs()
        self._second = bytearray()

    def add(self, packet: Packet[VideoStream]) -> None:
        """Append one packet."""
        pts, dts = packet.pts, packet.dts
        if not self.size:
            self.first_place = (NO_TIME if dts is None else dts, packet.pos or -1)
        key = packet.is_keyframe
        second = self._fields is not None and self._fields.is_second(memoryview(packet), key=key)
        self._second.append(second)
        if self._fields is not None and self._fields.lone:
            self._shown[-1] = False
        if self._kinds and (key or self._paletted):
            changed = [packet.get_sidedata(kind) for kind in self._kinds if packet.has_sidedata(kind)]
            self._states += [(len(self.size), state) for state in changed]
        incomplete = packet.is_corrupt
        if incomplete:
            self._damaged.append(len(self.size))
        self.size.append(packet.size)
        self._pts.append(NO_TIME if pts is None else pts)
        self._dts.append(NO_TIME if dts is None else dts)
        self._duration.append(packet.duration or 0)
        self._key.append(key and not second)
        self._shown.append(
            not second
            and not packet.is_discard
            and not (incomplete and self._container == INDEXED)
            and gives_frame(self._codec, packet)
        )

    def table(self, broken: str) -> PacketTable:
        """Return the columns as arrays, with corrected times."""
        if self._fields is not None and self._fields.ends_alone and not broken:
            self._shown[-1] = False
        pts, dts = np.array(self._pts, np.int64), np.array(self._dts, np.int64)
        duration = np.array(self._duration, np.int64)
        shown = np.frombuffer(self._shown, np.bool_).copy()
        base = self._stream.time_base or Fraction(1, 1000)
        key = np.frombuffer(self._key, np.bool_).copy()
        second = np.frombuffer(self._second, np.bool_).copy()
        # A frame lasts as long as both of its fields.
        duration[:-1] += np.where(second[1:], duration[1:], 0)
        if self._container in _DECODE_ORDER_CONTAINERS and second.any():
            # AVI has no durations; libav derives them from the field rate.
            duration[:] = 0
        if self._codec in _KEYS_UNTOLD and (self._container != INDEXED or key.all()):
            key[1:] = False
        in_order = bool((pts[shown] != NO_TIME).all())
        if self._container in _DECODE_ORDER_CONTAINERS and self._reorders:
            in_order = False
        times_hold = in_order
        jumps: tuple[tuple[float, float], ...] = ()
        if self._container == "mxf" and self._reorders and (pts == dts).all():
            # An index without composition offsets: the times are decoding times, which are correct when sorted.
            in_order = False
        if self._container in _ANIMATIONS:
            duration = self._stated_delays(duration, base)
            duration = browser_durations(duration, base)
            pts = np.cumsum(duration) - duration
        elif in_order:
            if self._codec in _MPEG_VIDEO:
                pts = references_last(pts, dts)
            # Times of hidden frames fall where an edit list starts its next part; that is not a new recording.
            times = joined(pts[shown], dts[shown], duration[shown], base, key[shown])
            pts[shown], jumps = without_jumps(times, duration[shown], base)
            in_order = follows_keys(pts[shown], key[shown])
        return PacketTable(
            pts=pts,
            dts=dts,
            duration=duration,
            size=np.array(self.size, np.int64),
            key=key,
            shown=shown,
            time_base=base,
            rate=self._stream.average_rate or Fraction(0),
            in_order=in_order,
            times_hold=times_hold,
            broken=broken,
            damaged=np.array([] if self._container == INDEXED else self._damaged, np.int64),
            states=tuple(self._states),
            second=second,
            jumps=jumps,
            undelayed=self._unstated,
        )

    def _stated_delays(self, duration: NDArray[np.int64], base: Fraction) -> NDArray[np.int64]:
        """Return the durations of an animated PNG, with 0 for unstated ones, which libav replaces by 1/15 s."""
        delays = apng_delays(self._path) if self._container == "apng" else []
        none = np.array([not numerator for numerator, _ in delays], np.bool_)
        if len(none) != len(duration):
            return duration
        self._unstated = bool(none.any())
        return np.where(none, 0, duration)


def _state_kinds(container: InputContainer, stream: VideoStream) -> tuple[bool, tuple[PktSideDataT, ...]]:
    """Return whether pictures have palettes, and which decoder state the container attaches to packets."""
    name, picture = container.format.name, stream.codec_context.format
    paletted = picture is not None and picture.has_palette and name in (INDEXED, "avi")
    kinds: list[PktSideDataT] = []
    if paletted:
        kinds.append("palette")
    if name in (INDEXED, "flv"):
        kinds.append("new_extradata")
    return paletted, tuple(kinds)


def gives_frame(codec: str, packet: Packet[VideoStream]) -> bool:
    """Return False for packets with only a hidden reference picture (VP8, VP9) or without a picture (GIF).

    VP8: ``show_frame`` is bit 4 of the frame tag (RFC 6386, 9.1). VP9: the fifth or sixth bit of the uncompressed
    header; a superframe (index marker 0b110 in the last byte) always ends in a shown frame.
    """
    if codec == "vp8":
        return bool(memoryview(packet)[0] & 0x10)
    if codec == "vp9":
        data = memoryview(packet)
        if data[-1] & 0xE0 == 0xC0:
            return True
        # Bits: marker 2, profile 2 (profile 3: one more, reserved), show_existing_frame, frame_type, show_frame.
        existing, show = (0x04, 0x01) if data[0] & 0x30 == 0x30 else (0x08, 0x02)
        return bool(data[0] & (existing | show))
    if codec == "gif":
        # libav makes a packet of a comment after the last picture.
        return has_picture(bytes(packet))
    return True


def browser_durations(duration: NDArray[np.int64], time_base: Fraction) -> NDArray[np.int64]:
    """Return the durations as browsers apply them: 0 and 10 ms become 100 ms."""
    fast = duration * float(time_base) < 1.5 / 100
    return np.where(fast, round(_GIF_SLOW / 100 / time_base), duration)
