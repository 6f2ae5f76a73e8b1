"""Quantisation: the published vectors, all 256 codes, and error bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from cliploom.transforms.store.quantize import decode, encode

CODES = np.arange(256, dtype=np.uint8)


def test_published_codes_decode_to_the_published_values() -> None:
    np.testing.assert_allclose(decode(np.array([0, 128, 255], np.uint8)), [-1.9921875, 0.0156558, 2.0078125], atol=5e-8)


def test_zero_is_rounded_half_to_even() -> None:
    assert encode(0.0).item() == 128
    assert encode([-2.0, 2.0, -9.0, 9.0, np.inf, -np.inf]).tolist() == [0, 255, 0, 255, 255, 0]


def test_every_code_survives_decoding_and_encoding() -> None:
    np.testing.assert_array_equal(encode(decode(CODES)), CODES)


def test_decoding_is_the_formula_to_float32() -> None:
    exact = CODES.astype(np.float64) * 4 / 255 + 4 / 512 - 2
    assert decode(CODES).dtype == np.float32
    np.testing.assert_allclose(decode(CODES), exact, rtol=0, atol=3e-7)


@settings(deadline=None)
@given(arrays(np.float32, array_shapes(max_dims=3, max_side=9), elements=st.floats(-9, 9, width=32)))
def test_encoding_is_the_published_loop(values: np.ndarray) -> None:
    clipped = np.clip(values, -2.0, 2.0)
    loop = [round(number) for number in ((clipped - np.float32(-2.0)) * np.float32(255 / 4)).ravel().tolist()]
    encoded = encode(values)
    assert encoded.shape == values.shape
    assert encoded.ravel().tolist() == loop


@settings(deadline=None)
@given(st.floats(-2, 2, width=32))
def test_round_trip_error_is_bounded(value: float) -> None:
    error = float(decode(encode([value]))[0]) - value
    assert -3.1e-5 <= error <= 0.01566


def test_mean_round_trip_error_is_the_published_one() -> None:
    values = np.linspace(-2, 2, 100_001, dtype=np.float32)
    assert (decode(encode(values)) - values).mean() == pytest.approx(0.00781, abs=1e-5)


def test_arguments_are_left_alone_and_wrong_ones_refused() -> None:
    values = np.array([5.0], np.float32)
    encode(values)
    assert values[0] == 5
    with pytest.raises(ValueError, match="NaN can't be quantised"):
        encode([0.0, np.nan])
    with pytest.raises(TypeError, match="uint8, not int64"):
        decode(np.array([1]))  # type: ignore[arg-type]
    assert encode(np.empty((0, 4), np.float32)).shape == (0, 4)
