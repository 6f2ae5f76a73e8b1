"""Reads the packets of a known stream again, from any position."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from cliploom.transforms.media.clock import NO_TIME
from cliploom.transforms.media.container import open_container, video_stream
from cliploom.transforms.media.packets import PacketTable

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_SEEK_GAP = 1 << 20
_LOOK_FOR = 1000


class LostPlaceError(Exception):
    """A seek led to packets at other positions than expected."""


class PacketReader:
    """Returns packets by their position in a table; reads on, seeks, or restarts, whichever is exact.

    Args:
        path: the path of the file.
        container, stream: the open container and its stream; the caller closes them.
        table: the packet table of this file.
        stage: the stage, for errors.
    """

    def __init__(
        self, path: Path, container: InputContainer, stream: VideoStream, table: PacketTable, stage: str
    ) -> None:
        self._path, self._table, self._stage = path, table, stage
        self._container, self._stream = container, stream
        self._reopened: InputContainer | None = None
        self._packets: Iterator[Packet[VideoStream]] = iter(())
        self._next = len(table)
        self._whole = table.first_frame == 0

    def read(self, start: int, stop: int) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """Yield (position, packet) from ``start`` up to, not including, ``stop``."""
        at = start
        try:
            for position, packet in self._from(start):
                if position >= stop:
                    return
                yield position, packet
                at = position + 1
                if at >= stop:
                    return
        except LostPlaceError:
            self._begin_anew()
            for position, packet in self._from(at):
                yield position, packet
                if position + 1 >= stop:
                    return

    def close(self) -> None:
        """Close what was opened here."""
        if self._reopened is not None:
            self._reopened.close()

    def _from(self, start: int) -> Iterator[tuple[int, Packet[VideoStream]]]:
        if self._next > start or int(self._table.size[self._next : start].sum()) > _SEEK_GAP:
            self._seek(start)
        while self._next < len(self._table):
            try:
                packet = next(self._packets, None)
            except (av.FFmpegError, OSError, IndexError):
                # After a seek it may be a failed one; from the beginning, it is the end of the stream.
                if self._reopened is None:
                    raise LostPlaceError from None
                packet = None
            if packet is None:
                return
            if not packet.size:
                continue
            position = self._next
            if packet.size != self._table.size[position]:
                raise LostPlaceError
            self._next += 1
            if position >= start:
                yield position, packet

    def _seek(self, start: int) -> None:
        for target in (self._table.pts[start], self._table.dts[start]):
            if target == NO_TIME:
                continue
            try:
                self._container.seek(int(target), stream=self._stream)
                packets = self._container.demux(self._stream)
                # Some containers seek to a place before or within a picture; read on to a known packet.
                for packet in islice(packets, _LOOK_FOR):
                    place = self._place(packet) if packet.size else None
                    if place is not None and place > start:
                        break
                    if place is not None:
                        self._packets, self._next = _chained(packet, packets), place
                        return
            except (av.FFmpegError, OSError):
                continue
        self._begin_anew()

    def _place(self, packet: Packet[VideoStream]) -> int | None:
        """Return the position of a packet in the table; None if it is missing or not unique."""
        pts = NO_TIME if packet.pts is None else packet.pts
        found = np.flatnonzero((self._table.pts == pts) & (self._table.size == packet.size))
        return int(found[0]) if len(found) == 1 else None

    def _begin_anew(self) -> None:
        if not self._whole:
            raise LostPlaceError
        self.close()
        self._container = self._reopened = open_container(self._path, self._stage)
        self._stream = video_stream(self._container, self._path, self._stage)
        self._packets, self._next = self._container.demux(self._stream), 0


def _chained(first: Packet[VideoStream], rest: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    yield first
    yield from rest
