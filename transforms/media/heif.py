"""Pictures stored in tiles (HEIF grids, ISO 23008-12), as phones write them: decodes the tiles and assembles them.

libav returns one stream per tile, and PyAV not their positions, so the boxes are parsed here.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from cliploom.schemas.errors import NoVideoError
from cliploom.transforms.media.orient import UPRIGHT, Orientation, from_exif
from cliploom.transforms.media.scale import colour_matrix

_DECODERS = {b"hvc1": "hevc", b"av01": "av1"}
_CONFIGURATIONS = (b"hvcC", b"av1C")
# Rotations of ``irot`` are counterclockwise.
_TURNS = {1: from_exif(8), 2: from_exif(3), 3: from_exif(6)}
_MOST_TILES = 1 << 16
_FULL_RANGE, _LIMITED_RANGE = 2, 1
Span = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """A picture made of tiles.

    Attributes:
        width: the width of the whole picture, before it is rotated.
        height: its height, likewise.
        columns: the number of tiles in a row.
        tiles: the item numbers of the tiles, row by row.
        codec: libav's name of the tiles' codec.
        orientation: the orientation of the whole picture.
    """

    width: int
    height: int
    columns: int
    tiles: tuple[int, ...]
    codec: str
    orientation: Orientation


def read_grid(path: Path, stage: str) -> Grid:
    """Read the grid of the primary picture from the boxes.

    Raises:
        NoVideoError: they are damaged, or the primary picture is not a grid.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _grid(_Items(data), path, stage)


def decode_grid(path: Path, stage: str) -> tuple[NDArray[np.uint8], str]:
    """Return the whole picture, uint8 [H, W, 3], before rotation, and what of it is lost.

    Raises:
        NoVideoError: no tile can be decoded.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        items = _Items(data)
        grid = _grid(items, path, stage)
        canvas: NDArray[np.uint8] | None = None
        lost, rows = 0, len(grid.tiles) // grid.columns
        for number, tile in enumerate(grid.tiles):
            pixels = _tile(items, tile, grid.codec)
            if pixels is None:
                lost += 1
                continue
            # All tiles have one size; the first one shows whether they cover the size in the header.
            if canvas is None:
                if grid.width > grid.columns * pixels.shape[1] or grid.height > rows * pixels.shape[0]:
                    raise NoVideoError(stage, f"'{path.name}' can't be decoded: its tiles do not fill its size.")
                canvas = np.zeros((grid.height, grid.width, 3), np.uint8)
            top, left = number // grid.columns * pixels.shape[0], number % grid.columns * pixels.shape[1]
            place = canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]]
            place[:] = pixels[: place.shape[0], : place.shape[1]]
    if canvas is None:
        raise NoVideoError(stage, f"'{path.name}' can't be decoded: none of its {lost:,} tiles is whole.")
    return canvas, f"the picture is incomplete: {lost:,} of {len(grid.tiles):,} tiles can't be decoded" if lost else ""


def _grid(items: _Items, path: Path, stage: str) -> Grid:
    try:
        kind, where = items.kinds.get(items.primary, b""), items.content(items.primary)
        tiles = items.tiles.get(items.primary, ())
        wide = 4 if where[1] & 1 else 2
        rows, columns = where[2] + 1, where[3] + 1
        width, height = (int.from_bytes(where[4 + wide * side :][:wide], "big") for side in (0, 1))
        codecs = {items.kinds[tile] for tile in tiles}
    except (IndexError, KeyError):
        raise NoVideoError(stage, f"'{path.name}' can't be decoded: its boxes are damaged.") from None
    if kind != b"grid" or rows * columns != len(tiles) or not width or not height or len(codecs) != 1:
        raise NoVideoError(stage, f"'{path.name}' can't be decoded: its grid of tiles is damaged.")
    codec = _DECODERS.get(codecs.pop())
    if codec is None:
        raise NoVideoError(
            stage, f"'{path.name}' can't be decoded: its tiles are neither HEVC nor AV1; save it as JPEG."
        )
    return Grid(width, height, columns, tiles, codec, _orientation(items, items.primary))


def _orientation(items: _Items, item: int) -> Orientation:
    found = UPRIGHT
    for name, (start, _) in items.properties_of(item):
        if name == b"irot":
            turn = _TURNS.get(items.data[start] & 3, UPRIGHT)
            x, y = (found.flip_y, found.flip_x) if turn.transpose else (found.flip_x, found.flip_y)
            found = Orientation(turn.transpose ^ found.transpose, turn.flip_x ^ x, turn.flip_y ^ y)
        elif name == b"imir":
            # 0 mirrors top to bottom, 1 left to right (ISO 23008-12:2022; reversed in the first edition).
            down = not items.data[start] & 1
            found = Orientation(found.transpose, found.flip_x ^ (not down), found.flip_y ^ down)
    return found


def _tile(items: _Items, tile: int, codec: str) -> NDArray[np.uint8] | None:
    properties = dict(items.properties_of(tile))
    header = next((properties[name] for name in _CONFIGURATIONS if name in properties), None)
    content = items.content(tile)
    if header is None or not content:
        return None
    context: VideoCodecContext = av.CodecContext.create(codec, "r")
    context.extradata, context.thread_count = items.data[slice(*header)], 1
    try:
        frames = [*context.decode(av.Packet(content)), *context.decode(None)]
    except (av.FFmpegError, OSError):
        return None
    if not frames or frames[0].is_corrupt:
        return None
    frame = frames[0]
    start, end = properties.get(b"colr", (0, 0))
    if items.data[start : start + 4] == b"nclx" and end - start >= 11:
        frame.colorspace = int.from_bytes(items.data[start + 8 : start + 10], "big")
        frame.color_range = _FULL_RANGE if items.data[start + 10] & 0x80 else _LIMITED_RANGE
    rgb = frame.reformat(format="rgb24", src_colorspace=colour_matrix(frame), threads=1)
    return np.asarray(rgb.to_ndarray(), np.uint8)


@dataclass
class _Items:
    """The items of a ``meta`` box: kinds, locations, tiles of grids, and properties."""

    data: mmap.mmap
    primary: int = -1
    kinds: dict[int, bytes] = field(default_factory=dict)
    tiles: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _places: dict[int, list[Span]] = field(default_factory=dict)
    _listed: list[tuple[bytes, Span]] = field(default_factory=list)
    _associated: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the boxes."""
        meta = next((span for name, span in _boxes(self.data, 0, len(self.data)) if name == b"meta"), (0, 0))
        boxes = dict(_boxes(self.data, meta[0] + 4, meta[1]))
        readers = {b"pitm": self._pitm, b"iinf": self._iinf, b"iref": self._iref, b"iprp": self._iprp}
        for name, read in readers.items():
            if name in boxes:
                read(*boxes[name])
        if b"iloc" in boxes:
            self._iloc(*boxes[b"iloc"], boxes.get(b"idat", (0, 0)))

    def content(self, item: int) -> bytes:
        """Return the bytes of an item."""
        return b"".join(self.data[start:end] for start, end in self._places.get(item, ()))

    def properties_of(self, item: int) -> Iterator[tuple[bytes, Span]]:
        """Yield the name and offset of each property, in order."""
        for number in self._associated.get(item, ()):
            if 0 < number <= len(self._listed):
                yield self._listed[number - 1]

    def _number(self, at: int, width: int) -> int:
        return int.from_bytes(self.data[at : at + width], "big")

    def _pitm(self, start: int, end: int) -> None:
        self.primary = self._number(start + 4, 4 if self.data[start] else 2)

    def _iinf(self, start: int, end: int) -> None:
        for name, (at, _) in _boxes(self.data, start + (8 if self.data[start] else 6), end):
            if name == b"infe" and self.data[at] >= 2:
                wide = 4 if self.data[at] > 2 else 2
                self.kinds[self._number(at + 4, wide)] = self.data[at + 6 + wide : at + 10 + wide]

    def _iref(self, start: int, end: int) -> None:
        wide = 4 if self.data[start] else 2
        for name, (at, stop) in _boxes(self.data, start + 4, end):
            count = min(self._number(at + wide, 2), (stop - at) // wide, _MOST_TILES)
            if name == b"dimg":
                first = at + wide + 2
                self.tiles[self._number(at, wide)] = tuple(self._number(first + wide * n, wide) for n in range(count))

    def _iprp(self, start: int, end: int) -> None:
        for name, (at, stop) in _boxes(self.data, start, end):
            if name == b"ipco":
                self._listed = list(_boxes(self.data, at, stop))
            elif name == b"ipma":
                self._ipma(at, stop)

    def _ipma(self, at: int, stop: int) -> None:
        wide, index = (4 if self.data[at] else 2), (2 if self.data[at + 3] & 1 else 1)
        count, at = self._number(at + 4, 4), at + 8
        for _ in range(count):
            if at + wide >= stop:
                return
            item, number, at = self._number(at, wide), self.data[at + wide], at + wide + 1
            mask = 0x7FFF if index == 2 else 0x7F
            self._associated[item] = [self._number(at + index * n, index) & mask for n in range(number)]
            at += index * number

    def _iloc(self, at: int, stop: int, idat: Span) -> None:
        version, sizes = self.data[at], self.data[at + 4 : at + 6]
        offset, length, base, index = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4, sizes[1] & 15 if version else 0
        wide = 4 if version == 2 else 2
        count, at = self._number(at + 6, wide), at + 6 + wide
        for _ in range(count):
            if at >= stop:
                return
            item, at = self._number(at, wide), at + wide
            inside = bool(version) and self.data[at + 1] & 15 == 1
            at += 4 if version else 2
            start, extents, at = self._number(at, base), self._number(at + base, 2), at + base + 2
            start += idat[0] if inside else 0
            places = self._places.setdefault(item, [])
            for _ in range(extents):
                if at >= stop:
                    return
                begin = start + self._number(at + index, offset)
                places.append((begin, begin + self._number(at + index + offset, length)))
                at += index + offset + length


def _boxes(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[bytes, Span]]:
    """Yield the name and content offset of each box between two offsets."""
    while start + 8 <= end:
        size, head = int.from_bytes(data[start : start + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        size = size or end - start
        if size < head:
            return
        yield data[start + 4 : start + 8], (start + head, min(start + size, end))
        start += size
