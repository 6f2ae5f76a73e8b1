"""Still images of rarer kinds: tiles as phones store them, BMPs, TIFFs of floating-point numbers."""

from __future__ import annotations

import struct
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from media_factory import picture, quiet, read_index, write_image, write_video
from numpy.typing import NDArray
from PIL import Image

from cliploom.schemas.errors import NoVideoError, TooLargeError
from cliploom.schemas.media import MediaLimits, Preprocess
from cliploom.schemas.sampling import EveryFrames
from cliploom.transforms.media.decode import DecodeReport, Request, decode
from cliploom.transforms.media.describe import describe_media
from cliploom.transforms.media.headers import has_film
from cliploom.transforms.media.orient import from_exif
from cliploom.transforms.media.probe import probe

TILE = 64


def shown(path: Path, width: int = 96, height: int = 64) -> tuple[NDArray[np.uint8], str]:
    report = DecodeReport()
    request = Request(EveryFrames(every_frames=1), Preprocess(width, height, "squash"))
    (row,) = decode(path, probe(path, MediaLimits()), [request], report=report)
    assert not isinstance(row.pixels, str)
    return row.pixels, report.lost


def box(name: bytes, content: bytes, version: int | None = None, flags: int = 0) -> bytes:
    content = content if version is None else struct.pack(">I", version << 24 | flags) + content
    return struct.pack(">I4s", 8 + len(content), name) + content


def write_heic(path: Path, pixels: NDArray[np.uint8], *, turn: int = 0, mirror: int | None = None) -> Path:
    """A HEIC of tiles as an iPhone writes it, ``turn`` times 90 degrees anticlockwise, then mirrored."""
    height, width = pixels.shape[:2]
    rows, columns = -(-height // TILE), -(-width // TILE)
    whole = np.pad(pixels, ((0, rows * TILE - height), (0, columns * TILE - width), (0, 0)), mode="edge")
    film = path.with_suffix(".mp4")
    with av.open(str(film), "w") as output:
        options = quiet("libx265") | {
            "x265-params": "log-level=none:pools=1:frame-threads=1:keyint=1:info=0",
            "crf": "5",
        }
        stream = output.add_stream("libx265", rate=1, options=options)
        stream.width = stream.height = TILE
        stream.pix_fmt = "yuv420p"
        for number in range(rows * columns):
            top, left = number // columns * TILE, number % columns * TILE
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(whole[top : top + TILE, left : left + TILE]))
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with av.open(str(film)) as source:
        header = source.streams.video[0].codec_context.extradata or b""
        tiles = [bytes(packet) for packet in source.demux(video=0) if packet.size]
    film.unlink()
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    properties = [box(b"hvcC", header), box(b"ispe", struct.pack(">II", TILE, TILE), 0)]
    properties += [box(b"ispe", struct.pack(">II", width, height), 0)]
    properties += [box(b"irot", bytes([turn]))] + ([] if mirror is None else [box(b"imir", bytes([mirror]))])
    count = len(tiles)
    infos = [box(b"infe", struct.pack(">HH4sB", 1, 0, b"grid", 0), 2)]
    infos += [box(b"infe", struct.pack(">HH4sB", 2 + n, 0, b"hvc1", 0), 2) for n in range(count)]
    own = [3, *range(4, len(properties) + 1)]
    links = struct.pack(">HB", 1, len(own)) + bytes(own)
    links += b"".join(struct.pack(">HBBB", 2 + n, 2, 0x81, 2) for n in range(count))
    ftyp = box(b"ftyp", b"heic\0\0\0\0mif1heic")

    def meta(first: int) -> bytes:
        places = struct.pack(">HHHHII", 1, 1, 0, 1, 0, len(grid))
        at = first
        for number, tile in enumerate(tiles):
            places += struct.pack(">HHHHII", 2 + number, 0, 0, 1, at, len(tile))
            at += len(tile)
        iloc = box(b"iloc", bytes([0x44, 0]) + struct.pack(">H", count + 1) + places, 1)
        inner = box(b"hdlr", struct.pack(">I4s", 0, b"pict") + bytes(13), 0) + box(b"pitm", struct.pack(">H", 1), 0)
        inner += box(b"iinf", struct.pack(">H", count + 1) + b"".join(infos), 0)
        numbers = struct.pack(f">{count}H", *range(2, 2 + count))
        inner += box(b"iref", box(b"dimg", struct.pack(">HH", 1, count) + numbers), 0)
        inner += box(
            b"iprp", box(b"ipco", b"".join(properties)) + box(b"ipma", struct.pack(">I", count + 1) + links, 0)
        )
        return box(b"meta", inner + iloc + box(b"idat", grid), 0)

    first = len(ftyp) + len(meta(0)) + 8
    path.write_bytes(ftyp + meta(first) + box(b"mdat", b"".join(tiles)))
    return path


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("mirror", [None, 0, 1])
def test_a_picture_in_tiles_is_put_together_and_stands_upright(turn: int, mirror: int | None, tmp_path: Path) -> None:
    upright = picture(0b1010_0110_0001_1011, 150, 100)
    stored = upright if mirror is None else upright[:, ::-1] if mirror else upright[::-1]
    path = write_heic(tmp_path / "a.heic", np.ascontiguousarray(np.rot90(stored, -turn)), turn=turn, mirror=mirror)
    facts = probe(path, MediaLimits())
    assert (facts.type, facts.container, facts.frames, facts.lost) == ("image", "heif", 1, "")
    assert (facts.width, facts.height) == ((100, 150) if turn % 2 else (150, 100))
    pixels, lost = shown(path)
    assert (read_index(pixels), lost) == (0b1010_0110_0001_1011, "")


def test_a_tile_that_is_lost_is_said_and_the_others_are_shown(tmp_path: Path) -> None:
    path = write_heic(tmp_path / "a.heic", picture(0xFFFF, 192, 128))
    data = bytearray(path.read_bytes())
    data[-300:] = bytes(300)
    path.write_bytes(data)
    pixels, lost = shown(path)
    assert "of 6 tiles can't be decoded" in lost
    assert pixels[:32, :32].min() > 200


def test_damaged_boxes_are_a_failure_with_a_sentence(tmp_path: Path) -> None:
    path = write_heic(tmp_path / "a.heic", picture(3, 100, 70))
    whole = path.read_bytes()
    refused = 0
    for seed in range(60):
        random, data = np.random.default_rng(seed), bytearray(whole)
        for at in random.integers(24, 500, 8):
            data[at] = random.integers(256)
        path.write_bytes(data)
        with suppress(NoVideoError, TooLargeError):
            refused += 1
            assert shown(path)[0].shape == (64, 96, 3)
            refused -= 1
    assert 0 < refused < 60


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_a_bmp_whose_reserved_bytes_are_used_is_read(mode: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.bmp", 0x1234, mode=mode)
    data = bytearray(path.read_bytes())
    data[6:10] = b"\1\2\3\4"
    path.write_bytes(data)
    assert probe(path, MediaLimits()).container == "bmp"
    assert read_index(shown(path)[0]) == 0x1234


def write_bmp(path: Path, bits: int, pixels: NDArray[np.generic], masks: tuple[int, ...] = ()) -> Path:
    """A BMP of version 3, from the bottom row up, of rows [H, W] or [H, W, C] that are stored as they are."""
    height, width = pixels.shape[:2]
    palette = b"".join(bytes([level] * 3 + [0]) for level in (0, 85, 170, 255)) if bits == 2 else b""
    extra = struct.pack(f"<{len(masks)}I", *masks) + palette
    rows = [row.tobytes() for row in pixels[::-1]]
    content = b"".join(row + bytes(-len(row) % 4) for row in rows)
    if bits == 2:
        width *= 4
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 3 if masks else 0, len(content), 0, 0, 0, 0)
    start = 14 + 40 + len(extra)
    path.write_bytes(struct.pack("<2sIHHI", b"BM", start + len(content), 0, 0, start) + info + extra + content)
    return path


def in_masks(pixels: NDArray[np.uint8], masks: tuple[int, ...], kind: str) -> NDArray[np.generic]:
    """Red, green and blue [H, W, 3] in the bits of masks."""
    found = np.zeros(pixels.shape[:2], np.uint32)
    for channel, mask in enumerate(masks):
        lowest = (mask & -mask).bit_length() - 1
        found |= np.round(pixels[:, :, channel] / 255 * (mask >> lowest)).astype(np.uint32) << np.uint32(lowest)
    return found.astype(kind)


COLOURED = picture(0x5A3C) // np.array([1, 2, 3], np.uint8)


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, (0xF00, 0xF0, 0xF)),
        (16, (0x1F, 0x7E0, 0xF800)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF)),
        (32, (0xFF, 0xFF00, 0xFF0000)),
    ],
)
def test_a_bmp_of_any_masks_is_read(bits: int, masks: tuple[int, ...], tmp_path: Path) -> None:
    path = write_bmp(tmp_path / "a.bmp", bits, in_masks(COLOURED, masks, f"<u{bits // 8}"), masks)
    facts = probe(path, MediaLimits())
    assert (facts.container, facts.width, facts.height, facts.corrections) == ("bmp", 96, 64, "")
    assert np.abs(shown(path)[0].astype(int) - COLOURED).max() <= 255 // 15 // 2 + 1
    assert describe_media(path, MediaLimits(), [], shown=0, decoded=False)["mode"] == "RGB"


def test_bmps_of_two_and_of_sixty_four_bits_are_read(tmp_path: Path) -> None:
    levels = picture(0x5A3C)[:, :, 0] // 85
    packed = levels[:, ::4] << 6 | levels[:, 1::4] << 4 | levels[:, 2::4] << 2 | levels[:, 3::4]
    assert np.array_equal(shown(write_bmp(tmp_path / "a.bmp", 2, packed))[0][:, :, 1], levels * 85)
    shares = COLOURED / 255
    light = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    linear = np.concatenate([light[:, :, ::-1], np.ones((64, 96, 1))], axis=2)
    path = write_bmp(tmp_path / "b.bmp", 64, np.round(linear * 8192).astype("<i2"))
    assert np.abs(shown(path)[0].astype(int) - COLOURED).max() <= 1
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(NoVideoError, match="its pixels are cut off"):
        shown(path)


def write_float_tiff(path: Path, pixels: NDArray[np.float32], order: str) -> Path:
    """An RGB TIFF of floating-point numbers in one strip."""
    height, width = pixels.shape[:2]
    data = pixels.astype(f"{order}f4").tobytes()
    behind = 10 + 12 * 10 + 4
    values = {256: width, 257: height, 258: behind, 259: 1, 262: 2, 273: behind + 12, 277: 3, 278: height}
    values |= {279: len(data), 339: behind + 6}
    entries = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        if tag not in (258, 273, 279, 339)
        else struct.pack(f"{order}HHII", tag, 3 if tag in (258, 339) else 4, 3 if tag in (258, 339) else 1, value)
        for tag, value in values.items()
    )
    head = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(values))
    path.write_bytes(head + entries + bytes(4) + struct.pack(f"{order}6H", 32, 32, 32, 3, 3, 3) + data)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("top", [1.0, 255.0])
def test_a_tiff_of_rgb_in_floating_point_numbers_is_read(order: str, top: float, tmp_path: Path) -> None:
    pixels = (COLOURED / 255 * top).astype(np.float32)
    pixels[0, 0] = top
    path = write_float_tiff(tmp_path / "a.tif", pixels, order)
    assert probe(path, MediaLimits()).corrections == "tone"
    assert np.abs(shown(path)[0].astype(int) - np.round(pixels / top * 255)).max() <= 1
    with pytest.raises(TooLargeError):
        probe(path, MediaLimits(max_pixels=1000))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(NoVideoError):
        shown(path)


@pytest.mark.parametrize(
    ("top", "kind"), [(1.0, "float32"), (255.0, "float32"), (65535.0, "float32"), (65535, "int32")]
)
def test_tiffs_of_wide_values_are_not_black_or_white(top: float, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    grey = picture(0x5A3C)[:, :, 0]
    Image.fromarray((grey.astype(np.float64) / grey.max() * top).astype(kind)).save(path)
    if (kind, top) == ("int32", 1.0):
        pytest.skip("two levels")
    facts = probe(path, MediaLimits())
    assert facts.corrections == "tone"
    pixels, _ = shown(path)
    assert read_index(pixels) == 0x5A3C
    assert pixels.max() == 255


def test_orientations_of_tiles_are_those_of_exif() -> None:
    assert [from_exif(number).rotation for number in (8, 3, 6)] == [270, 180, 90]


def write_cleared_gif(path: Path) -> Path:
    """Three pictures: one of the whole canvas that is cleared after it was shown, and two smaller ones on it."""
    blue, red, green = ((0, 0, 200), (200, 0, 0), (0, 200, 0))
    palette = bytes([*(9, 9, 9), *blue, *red, *green])

    def frame(colour: int, left: int, top: int, width: int, height: int, disposal: int) -> bytes:
        single = Image.new("P", (width, height), colour)
        single.putpalette(palette)
        buffer = BytesIO()
        single.save(buffer, "GIF", optimize=False)
        data = buffer.getvalue()
        image = data[data.rindex(b"\x2c" + struct.pack("<HHHH", 0, 0, width, height)) : -1]
        control = b"\x21\xf9\x04" + struct.pack("<BHBB", disposal << 2, 20, 0, 0)
        return control + b"\x2c" + struct.pack("<HHHHB", left, top, width, height, 0) + image[10:]

    frames = [frame(1, 0, 0, 96, 64, 2), frame(2, 0, 0, 48, 32, 1), frame(3, 48, 32, 48, 32, 1)]
    # The background colour that the header names is one that browsers don't paint.
    head = b"GIF89a" + struct.pack("<HHBBB", 96, 64, 0x80 | 0x11, 0, 0) + palette
    path.write_bytes(head + b"".join(frames) + b"\x3b")
    return path


def test_the_canvas_of_a_gif_is_cleared_as_browsers_do(tmp_path: Path) -> None:
    path = write_cleared_gif(tmp_path / "a.gif")
    facts = probe(path, MediaLimits())
    assert (facts.frames, facts.corrections) == (3, "canvas")
    request = Request(EveryFrames(every_frames=1), Preprocess(96, 64, "squash"))
    first, second, third = (np.asarray(row.pixels) for row in decode(path, facts, [request]))
    assert np.abs(first.astype(int) - (0, 0, 200)).max() < 3
    for pixels, corners in ((second, ((200, 0, 0), (255, 255, 255))), (third, ((200, 0, 0), (0, 200, 0)))):
        assert np.abs(pixels[8, 8].astype(int) - corners[0]).max() < 3
        assert np.abs(pixels[56, 88].astype(int) - corners[1]).max() < 3
        assert np.abs(pixels[56, 8].astype(int) - 255).max() < 3


def test_the_film_behind_a_motion_photo_is_said_and_the_still_is_the_item(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg", 77)
    assert not has_film(path)
    path.write_bytes(path.read_bytes() + write_video(tmp_path / "film.mp4", 5).read_bytes())
    assert probe(path, MediaLimits()).type == "image"
    assert read_index(shown(path)[0]) == 77
    assert describe_media(path, MediaLimits(), [], shown=0, decoded=False)["film"]
    tiles = write_heic(tmp_path / "a.heic", picture(5, 100, 70))
    assert not describe_media(tiles, MediaLimits(), [], shown=0, decoded=False)["film"]
    tiles.write_bytes(tiles.read_bytes() + box(b"mpvd", (tmp_path / "film.mp4").read_bytes()))
    assert has_film(tiles)
    assert read_index(shown(tiles)[0]) == 5
