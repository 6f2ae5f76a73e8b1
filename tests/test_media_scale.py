"""Pixels: geometry, colours against the standards' formulas, scaling against Pillow, alpha, orientation."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cliploom.schemas.media import Preprocess
from cliploom.transforms.media.orient import UPRIGHT, Appearance, Orientation, from_exif, from_matrix, orientation_tag
from cliploom.transforms.media.scale import Scaler, geometry, scaler_key

# Luma weights (red, blue) of ITU-R BT.601, BT.709 and BT.2020.
WEIGHTS = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (20, 200, 90), (128, 128, 128), (255, 255, 255), (0, 0, 0)]


def photo(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours with edges, uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    rough = Image.fromarray(random.integers(0, 256, (max(2, height // 9), max(2, width // 9), 3), np.uint8))
    return np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC))


def rgb_frame(pixels: NDArray[np.uint8]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")


def plain_yuv(rgb: tuple[int, int, int], weights: str, full: bool, height: int, bits: int = 8) -> av.VideoFrame:
    """A plain picture encoded by the standards' formulas."""
    kr, kb = WEIGHTS[weights]
    r, g, b = (value / 255 for value in rgb)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    blue, red = (b - luma) / (2 * (1 - kb)), (r - luma) / (2 * (1 - kr))
    unit = 2 ** (bits - 8)
    if full:
        values = [luma * 255 * unit, (blue * 255 + 128) * unit, (red * 255 + 128) * unit]
    else:
        values = [(16 + 219 * luma) * unit, (128 + 224 * blue) * unit, (128 + 224 * red) * unit]
    frame = av.VideoFrame(64, height, "yuv420p" if bits == 8 else "yuv420p10le")
    for plane, value in zip(frame.planes, values, strict=True):
        np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)[:] = min(round(value), 2**bits - 1)
    frame.color_range = 2 if full else 1
    return frame


def middle(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    return pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].astype(np.int64)


@pytest.mark.parametrize("rgb", COLOURS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("weights", "tag", "height"),
    [
        ("601", 6, 720),
        ("601", 5, 64),
        ("709", 1, 64),
        ("2020", 9, 64),
        ("601", 2, 718),
        ("709", 2, 720),
        ("709", 8, 720),
    ],
)
def test_colours_follow_the_tag_and_untagged_hd_is_709(
    rgb: tuple[int, int, int], full: bool, weights: str, tag: int, height: int
) -> None:
    frame = plain_yuv(rgb, weights, full, height)
    frame.colorspace = tag
    found = middle(Scaler(Preprocess(32, 32, "squash"))(frame))
    assert np.abs(found - rgb).max() <= 2


def test_ten_bits_are_rounded_to_eight() -> None:
    frame = plain_yuv((20, 200, 90), "709", False, 64, bits=10)
    frame.colorspace = 1
    assert np.abs(middle(Scaler(Preprocess(32, 32))(frame)) - (20, 200, 90)).max() <= 1


@pytest.mark.parametrize(("tag", "white"), [(1, 235), (2, 255), (0, 255)])
def test_grey_levels_follow_the_range_tag(tag: int, white: int) -> None:
    frame = av.VideoFrame(64, 64, "gray")
    np.frombuffer(frame.planes[0], np.uint8)[:] = white
    frame.color_range = tag
    assert middle(Scaler(Preprocess(32, 32))(frame)).tolist() == [255, 255, 255]


def test_bgr_is_rgb_backwards() -> None:
    frame = rgb_frame(photo(80, 60))
    rgb = Scaler(Preprocess(32, 24, "squash"))(frame)
    bgr = Scaler(Preprocess(32, 24, "squash", order="bgr"))(frame)
    assert np.array_equal(bgr, rgb[:, :, ::-1])


@pytest.mark.parametrize(
    ("name", "resampling", "close"),
    [
        ("bicubic", Image.Resampling.BICUBIC, 1.5),
        ("bilinear", Image.Resampling.BILINEAR, 1.5),
        ("area", Image.Resampling.BOX, 4.0),
    ],
)
@pytest.mark.parametrize("size", [(640, 480), (333, 500), (100, 75)])
def test_scaling_is_close_to_pillows(
    name: str, resampling: Image.Resampling, close: float, size: tuple[int, int]
) -> None:
    pixels = photo(*size)
    found = Scaler(Preprocess(96, 72, "squash", filter=name))(rgb_frame(pixels))  # type: ignore[arg-type]
    other = np.asarray(Image.fromarray(pixels).resize((96, 72), resampling))
    assert np.abs(found.astype(int) - other).mean() < close


def test_pixels_of_the_wanted_size_are_untouched() -> None:
    pixels = photo(64, 48)
    assert np.array_equal(Scaler(Preprocess(64, 48, "squash"))(rgb_frame(pixels)), pixels)


def test_the_centre_crop_of_efficientnet_lite() -> None:
    """224 of a short side of 256: 1280 x 720 becomes 455 x 256, of which the middle is kept."""
    place = geometry(1280, 720, Preprocess(224, 224, "crop", 0.875))
    assert (place.width, place.height, place.left, place.top) == (455, 256, 115, 16)


def test_the_centred_square_of_the_s3d_tutorial() -> None:
    pixels = photo(320, 240)
    found = Scaler(Preprocess(120, 120, "square", filter="bilinear"))(rgb_frame(pixels))
    cut = pixels[:, 160 - 120 : 160 + 120]
    other = np.asarray(Image.fromarray(cut).resize((120, 120), Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - other).mean() < 1.5


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from(["crop", "squash", "square"]),
    st.floats(0.3, 1.0),
)
def test_the_wanted_part_always_lies_within_the_scaled_picture(
    width: int, height: int, wide: int, high: int, fit: str, crop: float
) -> None:
    place = geometry(width, height, Preprocess(wide, high, fit, crop))  # type: ignore[arg-type]
    assert 0 <= place.left <= place.width - wide
    assert 0 <= place.top <= place.height - high
    if fit != "squash":
        # Centred, to the pixel.
        assert abs(place.width - wide - 2 * place.left) <= 1
        assert abs(place.height - high - 2 * place.top) <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (3000, 2), (2, 3000), (17, 5)])
@pytest.mark.parametrize("fit", ["crop", "squash", "square"])
def test_strips_and_dots_are_scaled_too(size: tuple[int, int], fit: str) -> None:
    frame = rgb_frame(np.full((size[1], size[0], 3), (10, 120, 230), np.uint8))
    pixels = Scaler(Preprocess(64, 48, fit))(frame)  # type: ignore[arg-type]
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels.astype(int) - (10, 120, 230)).max() <= 1


@pytest.mark.parametrize("fit", ["crop", "squash", "square"])
@pytest.mark.parametrize("number", range(1, 9))
def test_orientation_gives_what_an_upright_picture_gives(number: int, fit: str) -> None:
    """Within rounding: the upright picture is scaled in the other direction."""
    image = Image.fromarray(photo(200, 120))
    image.getexif()[0x0112] = number
    want = Preprocess(48, 48, fit)  # type: ignore[arg-type]
    upright = Scaler(want)(rgb_frame(np.asarray(ImageOps.exif_transpose(image))))
    turned = Scaler(want)(rgb_frame(np.asarray(image)), Appearance(from_exif(number)))
    assert np.abs(turned.astype(int) - upright).mean() < 1.0


@given(st.booleans(), st.booleans(), st.booleans())
def test_a_display_matrix_says_every_orientation(transpose: bool, flip_x: bool, flip_y: bool) -> None:
    one = 1 << 16
    across, down = (-one if flip_x else one), (-one if flip_y else one)
    a, b, c, d = (0, down, across, 0) if transpose else (across, 0, 0, down)
    matrix = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], "<i4").tobytes()
    assert from_matrix(matrix) == Orientation(transpose, flip_x, flip_y)


def test_what_is_no_orientation_is_upright() -> None:
    assert from_matrix(None) == from_matrix(b"short") == from_exif(None) == from_exif(99) == UPRIGHT
    assert orientation_tag(b"") == orientation_tag(b"Exif\0\0II*\0\xff\xff\xff\xff") == 1


def test_rotations_in_degrees_clockwise() -> None:
    assert [from_exif(number).rotation for number in (1, 6, 3, 8)] == [0, 90, 180, 270]


@pytest.mark.parametrize("layout", ["rgba", "bgra", "yuva420p", "yuva444p", "gbrap", "rgba64le"])
@pytest.mark.parametrize(("alpha", "clear"), [("white", 255), ("black", 0)])
def test_transparent_pixels_show_the_declared_background(layout: str, alpha: str, clear: int) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :, 1] = 200
    pixels[:, :32, 3] = 255
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=layout)
    found = Scaler(Preprocess(32, 32, alpha=alpha))(frame)  # type: ignore[arg-type]
    assert np.abs(found[16, 4].astype(int) - (0, 200, 0)).max() <= 3
    assert np.abs(found[16, 28].astype(int) - clear).max() <= 1


def test_half_transparent_pixels_are_mixed() -> None:
    pixels = np.full((8, 8, 4), (100, 0, 200, 51), np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
    assert Scaler(Preprocess(8, 8, "squash"))(frame)[4, 4].tolist() == [224, 204, 244]


def test_dropped_alpha_shows_the_colours_as_stored() -> None:
    pixels = np.full((64, 64, 4), (100, 50, 200, 0), np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
    assert Scaler(Preprocess(32, 32, alpha="drop"))(frame)[16, 16].tolist() == [100, 50, 200]


def test_the_left_half_is_cut_before_scaling() -> None:
    left, right = photo(100, 80, 1), photo(100, 80, 2)
    both = rgb_frame(np.hstack([left, right]))
    for fit in ("crop", "squash", "square"):
        want = Preprocess(48, 40, fit)  # type: ignore[arg-type]
        assert np.array_equal(Scaler(want, "left")(both), Scaler(want)(rgb_frame(left)))


def test_the_left_half_is_that_of_the_upright_picture() -> None:
    both = np.hstack([photo(100, 80, 1), photo(100, 80, 2)])
    turned = rgb_frame(np.rot90(both))
    want = Preprocess(48, 40, "squash")
    found = Scaler(want, "left")(turned, Appearance(Orientation(transpose=True, flip_x=True)))
    assert np.array_equal(found, Scaler(want)(rgb_frame(photo(100, 80, 1))))


def test_a_picture_that_changes_size_midway_is_scaled_anew() -> None:
    scaler = Scaler(Preprocess(32, 32, "squash"))
    for size in ((64, 48), (128, 96), (64, 48)):
        pixels = np.full((size[1], size[0], 3), (9, 99, 199), np.uint8)
        assert middle(scaler(rgb_frame(pixels))).tolist() == [9, 99, 199]


def test_normalisation_does_not_make_other_pixels() -> None:
    one, other = Preprocess(32, 32), Preprocess(32, 32, offset=(127.0,) * 3, scale=(128.0,) * 3)
    assert scaler_key(one, "") == scaler_key(other, "") != scaler_key(one, "left")


@given(st.integers(8, 5000), st.integers(8, 5000), st.sampled_from([(224, 224), (256, 224), (232, 224)]))
def test_each_rounding_gives_the_sizes_and_corners_of_its_library(
    width: int, height: int, sizes: tuple[int, int]
) -> None:
    short, cut = sizes
    scaled = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    over = scaled[0] - cut, scaled[1] - cut
    of_huggingface = geometry(width, height, Preprocess(cut, cut, crop=cut / short, rounding="huggingface"))
    assert (of_huggingface.width, of_huggingface.height) == scaled
    assert (of_huggingface.left, of_huggingface.top) == (over[0] // 2, over[1] // 2)
    of_torchvision = geometry(width, height, Preprocess(cut, cut, crop=cut / short, rounding="torchvision"))
    assert (of_torchvision.width, of_torchvision.height) == scaled
    assert (of_torchvision.left, of_torchvision.top) == (round(over[0] / 2), round(over[1] / 2))


@pytest.mark.parametrize(("size", "scaled", "left"), [((640, 427), 335, 55), ((1000, 427), 524, 150)])
def test_hugging_faces_rounding_gives_pillows_pixels(size: tuple[int, int], scaled: int, left: int) -> None:
    picture = photo(*size)
    wanted = np.asarray(Image.fromarray(picture).resize((scaled, 224), Image.Resampling.BICUBIC), np.float64)
    found = Scaler(Preprocess(224, 224, rounding="huggingface"))(rgb_frame(picture))
    assert np.abs(wanted[:, left : left + 224] - found).mean() < 0.5


@pytest.mark.parametrize("aspect", [Fraction(64, 45), Fraction(16, 15), Fraction(10, 11), Fraction(1, 2)])
@pytest.mark.parametrize("size", [(720, 576), (720, 480), (352, 576)])
def test_hugging_faces_rounding_counts_the_pixels_of_the_display(size: tuple[int, int], aspect: Fraction) -> None:
    width, height = round(size[0] * aspect), size[1]
    short = 224
    scaled = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    want = Preprocess(short, short, rounding="huggingface")
    found = geometry(width, height, want)
    assert (found.width, found.height) == scaled
    # The picture is that of the same film in square pixels, which Hugging Face's processor is given.
    stored = photo(*size)
    square = np.asarray(Image.fromarray(stored).resize((width, height), Image.Resampling.BICUBIC))
    expected = Scaler(want)(rgb_frame(square))
    shown = Scaler(want)(rgb_frame(stored), Appearance(aspect=aspect))
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(np.float64) - expected).mean() < 2
