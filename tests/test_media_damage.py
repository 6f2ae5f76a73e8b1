"""Damage within pictures: damage detected by decoders and checksums is reported, decodable parts are kept."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from media_factory import busy, write_gif, write_video
from numpy.typing import NDArray
from PIL import Image, ImageCms

from cliploom.pipelines.demo.corpus import CAT
from cliploom.schemas.errors import MediaError
from cliploom.schemas.media import MediaLimits, Preprocess
from cliploom.schemas.sampling import EveryFrames, Uniform
from cliploom.transforms.media import decoder
from cliploom.transforms.media.checks import crc32_from_the_top
from cliploom.transforms.media.decode import DecodeReport, Request, decode
from cliploom.transforms.media.lzw import unpacked
from cliploom.transforms.media.probe import probe

LIMITS = MediaLimits()
PIXELS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 90), st.integers(1, 90)), elements=st.integers(0, 15))


def shown(path: Path, sampling: EveryFrames | Uniform = EveryFrames(every_frames=1)) -> tuple[list[bytes], str]:  # noqa: B008
    """Pixels of the rows, and all that is said of the file."""
    facts, report = probe(path, LIMITS), DecodeReport()
    request = Request(sampling, Preprocess(48, 32, "squash"))
    rows = [row.pixels.tobytes() for row in decode(path, facts, [request], report=report)]
    return rows, f"{facts.lost} {report.lost}".strip()


def flip(path: Path, at: float, bits: int = 1) -> Path:
    """Flip bits of a byte at a share of the file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= bits
    path.write_bytes(data)
    return path


def overwrite(path: Path, at: float, length: int = 64) -> Path:
    """Overwrite bytes from a share of the file on with noise."""
    data = bytearray(path.read_bytes())
    start = int(len(data) * at)
    data[start : start + length] = np.random.default_rng(start).bytes(length)
    path.write_bytes(data)
    return path


def lzw_of_gif(data: bytes) -> tuple[bytes, int]:
    """Data and code size of the only picture of a GIF as Pillow writes it."""
    at = data.index(b"\x2c", 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0))
    flags = data[at + 9]
    at += 10 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    bits, at, blocks = data[at], at + 1, b""
    while data[at]:
        blocks += data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
    return blocks, bits


@settings(max_examples=40, deadline=None)
@given(PIXELS, st.integers(1, 60))
def test_the_length_of_lzw_is_that_of_the_picture(small: NDArray[np.uint8], times: int) -> None:
    pixels = np.tile(small, (times, 1))[:2000]
    image = Image.fromarray(pixels)
    gif, tiff = BytesIO(), BytesIO()
    image.save(gif, "GIF")
    data, bits = lzw_of_gif(gif.getvalue())
    assert unpacked(data, bits).length == pixels.size
    assert unpacked(data, bits).valid
    image.save(tiff, "TIFF", compression="tiff_lzw")
    with Image.open(tiff) as found:
        places = list(zip(found.tag_v2[273], found.tag_v2[279], strict=True))  # type: ignore[attr-defined]
    lengths = [unpacked(tiff.getvalue()[start : start + size], 8, tiff=True) for start, size in places]
    assert sum(each.length for each in lengths) == pixels.size
    assert all(each.valid for each in lengths)


def test_a_full_table_of_lzw_goes_on_until_it_is_cleared() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 500), np.uint8)
    stream = BytesIO()
    Image.fromarray(noise).save(stream, "GIF")
    data, bits = lzw_of_gif(stream.getvalue())
    assert unpacked(data, bits).length == noise.size
    # Literals of twelve bits, without a clear code after the table is full.
    codes = [256, *([7] * 5000), 257]
    width, bits_written, count = 9, "", 258
    for place, code in enumerate(codes):
        bits_written = f"{code:0{width}b}" + bits_written
        count += place > 1
        width = min(12, max(9, count.bit_length()))
    packed = int(bits_written, 2).to_bytes(-(-len(bits_written) // 8), "little")
    assert unpacked(packed, 8).length == 5000


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 9, bytes(range(256)) * 40])
def test_any_bytes_are_no_error_of_lzw(data: bytes) -> None:
    for bits in (1, 2, 8, 11):
        assert unpacked(data, bits).length >= 0
    assert unpacked(data, 8, tiff=True).length >= 0


def photo(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """A stretch of a photograph."""
    picture = CAT.load().convert("RGB").resize((width + 48, height))
    return np.asarray(picture)[:, index : index + width].copy()


@pytest.mark.parametrize(
    ("codec", "name", "told"),
    [
        ("ffv1", "a.mkv", "clusters are damaged, by their checksums"),
        ("libvpx", "a.ogv", "pages are damaged, by their checksums"),
        ("libvpx-vp9", "a.webm", "Packets are damaged"),
        ("mjpeg", "a.avi", "Packets are damaged"),
    ],
)
def test_damage_that_a_decoder_passes_over_is_reported_and_the_rows_stay(
    codec: str, name: str, told: str, tmp_path: Path
) -> None:
    options = {"pix_fmt": "yuvj420p"} if codec == "mjpeg" else {}
    path = write_video(tmp_path / name, 24, codec, draw=photo, size=(192, 128), **options)
    rows, said = shown(path)
    assert (len(rows), said) == (24, "")
    whole, all_said = path.read_bytes(), []
    for number in range(8):
        path.write_bytes(whole)
        damaged, said = shown(overwrite(path, 0.3 + number / 20))
        if damaged != rows:
            assert len(damaged) == 24 or "missing" in said or "could not be decoded" in said
            all_said.append(said)
    assert sum(map(bool, all_said)) >= len(all_said) / 2
    assert any(told in said for said in all_said), all_said


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_the_decoder_that_notices_more_gives_the_same_pictures(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.webm", 30, codec, draw=busy)
    rows = shown(path)
    monkeypatch.setattr(decoder, "_STRICT_DECODERS", {})
    assert shown(path) == rows


def test_damage_of_a_picture_that_only_others_need_is_reported(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.ts", 48, "libx264", draw=busy, gop=24, b_frames=0)
    last = Uniform(uniform=2)
    assert shown(path, last)[1] == ""
    whole = path.read_bytes()
    told = []
    for number in range(6):
        path.write_bytes(whole)
        told.append(shown(flip(path, 0.12 + number / 60, 0x55), last)[1])
    assert any("pictures that others refer to are damaged" in each for each in told), told


def test_a_gif_whose_codes_are_damaged_is_reported(tmp_path: Path) -> None:
    path = write_gif(tmp_path / "a.gif", [100] * 8)
    rows, said = shown(path)
    assert said == ""
    whole, noticed = path.read_bytes(), 0
    for number in range(12):
        path.write_bytes(whole)
        damaged, said = shown(flip(path, 0.3 + number / 20, 0x38))
        noticed += "1 of 8 pictures is damaged: their data do not fit their size" in said and len(damaged) == len(rows)
    assert noticed >= 4


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("a.jpg", {"progressive": True}, 6),
        ("a.jpg", {}, 5),
        ("a.tif", {"compression": "tiff_adobe_deflate"}, 8),
        ("a.tif", {"compression": "tiff_lzw"}, 6),
    ],
    ids=["progressive JPEG", "JPEG", "deflated TIFF", "LZW TIFF"],
)
def test_stills_that_pillow_shows_in_silence_are_reported(name: str, options: dict, least: int, tmp_path: Path) -> None:
    path = tmp_path / name
    Image.fromarray(photo(3, 300, 200)).save(path, **options)
    assert shown(path)[1] == ""
    whole, told = path.read_bytes(), []
    for number in range(8):
        path.write_bytes(whole)
        try:
            told.append(shown(overwrite(path, 0.3 + number / 20))[1])
        except MediaError as error:
            told.append(str(error))
    assert sum(map(bool, told)) >= least, told


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("MPO", "L"), ("MPO", "RGB")]
)
def test_the_words_of_libjpeg_are_reported(kind: str, mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(photo(3, 300, 200)).convert(mode)
    path = tmp_path / "a.jpg"
    if kind == "MPO":
        image.save(path, "MPO", save_all=True, append_images=[image.resize((30, 20))])
    else:
        image.save(path, "JPEG", quality=90)
    assert shown(path)[1] == ""
    whole, told = path.read_bytes(), []
    for number in range(8):
        path.write_bytes(whole)
        told.append(shown(overwrite(path, 0.3 + number / 20))[1])
    assert sum("libjpeg says 'Corrupt JPEG data" in each for each in told) >= 2, told


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_sound_tiffs_are_not_called_damaged(mode: str, compression: str, tmp_path: Path) -> None:
    image = Image.fromarray(busy(5, 77, 203))
    if mode in ("I;16", "F"):
        values = np.asarray(image.convert("L"))
        image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.float32))
    else:
        image = image.convert("L").convert(mode) if mode == "LA" else image.convert(mode)
    image.save(tmp_path / "a.tif", compression=compression)
    assert shown(tmp_path / "a.tif")[1] == ""


def test_an_animated_png_with_a_long_colour_profile_is_read(tmp_path: Path) -> None:
    first, *rest = [Image.fromarray(busy(number, 64, 48)) for number in range(3)]
    path = tmp_path / "a.png"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = np.random.default_rng(0).bytes(100_000)
    first.save(path, save_all=True, append_images=rest, duration=100, icc_profile=profile + noise)
    facts = probe(path, LIMITS)
    assert (facts.container, facts.frames) == ("apng", 3)
    assert len(shown(path)[0]) == 3


def test_the_checksum_of_ogg() -> None:
    data = b"OggS" + bytes(60)
    table = []
    for value in range(256):
        crc = value << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)
        table.append(crc & 0xFFFFFFFF)
    crc = 0
    for byte in data:
        crc = ((crc << 8) & 0xFFFFFFFF) ^ table[(crc >> 24) ^ byte]
    assert crc32_from_the_top(data) == crc
    # What follows a checksum of its own is 0.
    assert crc32_from_the_top(data + struct.pack(">I", crc)) == 0
    assert zlib.crc32(data) != crc


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": "4:1:1", "optimize": True},
        {"restart_marker_blocks": 3},
        {"progressive": True, "restart_marker_blocks": 5},
        {"quality": 1},
        {"keep_rgb": True},
        {"icc_profile": bytes(200_000)},
    ],
    ids=lambda options: ", ".join(options),
)
@pytest.mark.parametrize("behind", [b"", b"\xff" * 100, bytes(range(256)) * 50], ids=["", "fill", "junk"])
def test_sound_jpegs_are_not_called_damaged(options: dict, behind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(photo(0, 301, 203)).save(path, **options)
    path.write_bytes(path.read_bytes() + behind)
    assert shown(path)[1] == ""


@pytest.mark.parametrize(
    ("codec", "name", "how"),
    [
        ("libvpx", "a.webm", {"options": {"deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "16"}}),
        ("libvpx-vp9", "a.webm", {"options": {"deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "16"}}),
        ("libvpx-vp9", "a.mp4", {"size": (101, 67)}),
        ("libvpx-vp9", "a.webm", {"pix_fmt": "yuv444p"}),
        ("mjpeg", "a.mov", {"pix_fmt": "yuvj422p"}),
        ("png", "a.mov", {"pix_fmt": "rgb24"}),
        ("libx264", "a.ts", {"gop": 12, "b_frames": 3, "options": {"x264-params": "open-gop=1"}}),
        ("mpeg2video", "a.mpg", {"options": {"flags": "-cgop"}}),
    ],
)
def test_sound_videos_are_not_called_damaged(codec: str, name: str, how: dict, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, 40, codec, draw=busy, **how)
    for sampling in (EveryFrames(every_frames=1), Uniform(uniform=3)):
        rows, said = shown(path, sampling)
        assert said == ""
        assert len(rows) in (40, 3)
