"""Deinterlaces pictures with libav's ``bwdif``, which reads a picture and its two neighbours.

The two fields are half a frame apart in time, so a picture that shows both has combing artefacts on moving edges.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from numpy.typing import NDArray

_LEAST_SIDE = 4
_ASKED = "mode=send_frame:parity=auto:deint=interlaced"


def with_neighbours(wanted: NDArray[np.int64], first: int, count: int) -> NDArray[np.int64]:
    """Return the wanted frames (ascending indices) and their neighbours, of ``count`` frames from ``first`` on.

    >>> with_neighbours(np.array([0, 5]), 0, 6).tolist()
    [0, 1, 4, 5]
    """
    near = np.unique(np.concatenate([wanted - 1, wanted, wanted + 1]))
    return near[(near >= first) & (near < first + count)]


def deinterlaced(pictures: Iterable[tuple[int, VideoFrame]]) -> Iterator[tuple[int, VideoFrame]]:
    """Yield (index, picture) of the same pictures, in order; pictures not marked as interlaced are unchanged.

    A picture's result does not depend on what else was decoded, as long as its neighbours are among ``pictures``.
    """
    run: _Run | None = None
    for index, frame in pictures:
        if run is not None and not run.goes_on(index, frame):
            yield from run.end()
            run = None
        if run is None:
            run = _Run(frame)
        yield from run.push(index, frame)
    if run is not None:
        yield from run.end()


class _Run:
    """Neighbouring pictures of one size and format."""

    def __init__(self, frame: VideoFrame) -> None:
        self._shape = (frame.width, frame.height, frame.format.name)
        self._waiting: deque[int] = deque()
        self._last = -1
        self._graph: Graph | None = None
        if min(frame.width, frame.height) < _LEAST_SIDE:
            return
        self._graph = graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        )
        graph.link_nodes(source, graph.add("bwdif", _ASKED), graph.add("buffersink")).configure()

    def goes_on(self, index: int, frame: VideoFrame) -> bool:
        return index == self._last + 1 and self._shape == (frame.width, frame.height, frame.format.name)

    def push(self, index: int, frame: VideoFrame) -> Iterator[tuple[int, VideoFrame]]:
        self._last = index
        if self._graph is None:
            yield index, frame
            return
        self._waiting.append(index)
        frame.pts, frame.time_base = index, Fraction(1, 1000)
        self._graph.vpush(frame)
        yield from self._ready(self._graph)

    def end(self) -> Iterator[tuple[int, VideoFrame]]:
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._ready(self._graph)

    def _ready(self, graph: Graph) -> Iterator[tuple[int, VideoFrame]]:
        while self._waiting:
            try:
                frame = graph.vpull()
            except (BlockingIOError, EOFError, av.EOFError):
                return
            yield self._waiting.popleft(), frame
