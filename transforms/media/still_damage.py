"""Damage of JPEG and TIFF pictures that Pillow does not report, since its libraries only count or ignore warnings.

JPEG: libjpeg-turbo and libav's decoder read the picture again, at an eighth of its size and strictly; each detects
damage that the other accepts. TIFF: deflated strips and tiles have checksums (RFC 1950), and those of LZW decompress to
a known size (TIFF 6.0).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import simplejpeg
from PIL import Image

from cliploom.transforms.media.lzw import unpacked
from cliploom.transforms.watchdog import alive

_STRICT = {"err_detect": "explode", "lowres": "3"}
# The colours in which libjpeg-turbo is asked for a picture of each mode.
_COLOURS = {"L": "GRAY", "RGB": "GRAY", "CMYK": "CMYK"}
_LZW, _DEFLATE = 5, frozenset({8, 32946})
_AT_ONCE = 1 << 20
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _ROWS, _PLANAR = 256, 257, 258, 259, 277, 278, 284
_STRIPS, _TILES, _TILE_SIZE = (273, 279), (324, 325), (322, 323)


def undecodable(image: Image.Image, path: Path) -> str:
    """Describe data that could not be decoded although Pillow returned a whole picture; or empty."""
    if image.format in ("JPEG", "MPO") and image.mode in _COLOURS:
        return _jpeg(path.read_bytes(), image)
    if image.format == "TIFF":
        return _tiff(image, path)
    return ""


def _jpeg(data: bytes, image: Image.Image) -> str:
    warning = _libjpeg_warning(data, _COLOURS[image.mode])
    if warning:
        return f"the picture is damaged; libjpeg says '{warning}'"
    if image.format == "MPO" or image.mode == "CMYK":
        return ""
    if _decodes(data, _STRICT) or not _decodes(data, {"lowres": "3"}):
        # Formats that libav cannot read at all, such as arithmetic coding, cannot be checked.
        return ""
    return "the picture is damaged: some of its data can't be decoded"


def _libjpeg_warning(data: bytes, colours: str) -> str:
    """What libjpeg warns of; empty also for a picture that it can't read in these colours, which says nothing."""
    try:
        _decode_small(data, colours, strict=True)
        return ""
    except ValueError as error:
        warning = str(error)
    try:
        _decode_small(data, colours, strict=False)
    except ValueError:
        return ""
    return warning


def _decode_small(data: bytes, colours: str, strict: bool) -> None:
    simplejpeg.decode_jpeg(data, colours, True, True, min_height=1, min_width=1, min_factor=8, strict=strict)


def _decodes(data: bytes, options: dict[str, str]) -> bool:
    context = av.CodecContext.create("mjpeg", "r")
    context.thread_count, context.options = 1, options
    try:
        return bool([*context.decode(av.Packet(data)), *context.decode(None)])
    except (av.FFmpegError, OSError):
        return False


def _tiff(image: Image.Image, path: Path) -> str:
    tags = getattr(image, "tag_v2", {})
    compression = tags.get(_COMPRESSION)
    if compression != _LZW and compression not in _DEFLATE:
        return ""
    with open(path, "rb") as file:
        pieces: list[bool] = []
        for start, length, sizes in _pieces(tags):
            file.seek(start)
            data = file.read(length)
            alive()
            pieces.append(_lzw_fits(data, sizes) if compression == _LZW else _inflates(data))
    damaged = pieces.count(False)
    return f"the picture is damaged: {damaged:,} of its {len(pieces):,} pieces do not unpack to their size" * bool(
        damaged
    )


def _pieces(tags: dict[int, object]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Return offset, length and possible unpacked sizes of each strip or tile; no sizes if they are unknown."""
    starts, lengths = next(
        ((tags[first], tags[second]) for first, second in (_STRIPS, _TILES) if first in tags and second in tags),
        ((), ()),
    )
    if not isinstance(starts, Sequence) or not isinstance(lengths, Sequence):
        return
    for number, (start, length) in enumerate(zip(starts, lengths, strict=False)):
        yield int(start), int(length), _sizes(tags, number, len(starts))


def _sizes(tags: dict[int, object], number: int, count: int) -> tuple[int, ...]:
    """Return the unpacked bytes of a piece; some writers pad the last strip."""
    bits, samples, planar = tags.get(_BITS, (1,)), tags.get(_SAMPLES, 1), tags.get(_PLANAR, 1)
    width, height, rows = tags.get(_WIDTH), tags.get(_HEIGHT), tags.get(_ROWS)
    if not isinstance(bits, tuple) or not isinstance(samples, int) or not isinstance(width, int) or planar != 1:
        return ()
    if not isinstance(height, int) or len(set(bits)) != 1:
        return ()
    if _TILES[0] in tags:
        width, rows = tags.get(_TILE_SIZE[0]), tags.get(_TILE_SIZE[1])
        if not isinstance(width, int) or not isinstance(rows, int):
            return ()
        return (rows * -(-width * samples * bits[0] // 8),)
    row = -(-width * samples * bits[0] // 8)
    rows = min(rows, height) if isinstance(rows, int) else height
    last = height - rows * (count - 1)
    return (row * rows,) if number < count - 1 else (row * last, row * rows)


def _lzw_fits(data: bytes, sizes: tuple[int, ...]) -> bool:
    if not sizes or (data[:1] == b"\0" and data[1:2] and data[1] & 1):
        # Unknown sizes, or the old form of LZW from before TIFF 6.0.
        return True
    found = unpacked(data, 8, tiff=True)
    return found.length in sizes or (found.length > min(sizes) and not found.valid)


def _inflates(data: bytes) -> bool:
    stream = zlib.decompressobj()
    try:
        while data and not stream.eof:
            stream.decompress(data, _AT_ONCE)
            data = stream.unconsumed_tail
    except zlib.error:
        return False
    return stream.eof
