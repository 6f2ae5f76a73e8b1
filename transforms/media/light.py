"""Tone mapping of pictures with high dynamic range or wide gamut: from PQ, HLG and BT.2020 to BT.709.

This is the inverse of the published mapping of SDR into HDR (ITU-R BT.2408): diffuse white is 203 cd/m2, values up to
85% of it are restored unchanged, and brighter ones are compressed. Curves: BT.2100 (PQ, HLG), BT.1886 (displays);
primaries: BT.2087.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.media import Light

_LEVELS = 1 << 16
_WHITE = 203.0
"""Brightness of diffuse white, cd/m2 (BT.2408)."""
_PQ_PEAK = 10_000.0
_HLG_PEAK = 1_000.0
_HLG_GAMMA = 1.2
_DISPLAY_GAMMA = 2.4
_KNEE = 0.85
"""Share of white above which highlights are compressed."""

# Matrix of BT.2087, and BT.2020's luminance weights.
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)


def to_bt709(pixels: NDArray[np.uint16], light: Light) -> NDArray[np.uint8]:
    """Return the pixels in BT.709 for a standard display.

    Args:
        pixels: uint16 [H, W, 3], red, green and blue of the signal, full range.
        light: the transfer characteristics and primaries of the signal.

    Returns:
        uint8 [H, W, 3].
    """
    linear = _linear(light)[pixels]
    if light == "hlg":
        # The opto-optical transfer function of a display of 1000 cd/m2.
        scene = np.maximum(linear @ _LUMINANCE, np.float32(1e-6))
        linear = linear * (scene ** np.float32(_HLG_GAMMA - 1) * np.float32(_HLG_PEAK / _WHITE))[..., None]
    linear = np.maximum(linear @ _TO_709.T, 0)
    brightest = linear.max(axis=-1, keepdims=True)
    above = np.maximum((brightest - _KNEE) / (1 - _KNEE), 0)
    rolled = np.where(brightest > _KNEE, _KNEE + (1 - _KNEE) * above / (1 + above), brightest)
    if light == "bt2020":
        rolled = np.minimum(brightest, 1)
    linear *= rolled / np.maximum(brightest, np.float32(1e-6))
    shown = _shown()[np.round(np.clip(linear, 0, 1) * (_LEVELS - 1)).astype(np.uint16)]
    return np.asarray(shown, np.uint8)


@cache
def _linear(light: Light) -> NDArray[np.float32]:
    """Return the light of 65,536 levels: PQ and BT.2020 on a display, relative to diffuse white; HLG in the scene."""
    signal = np.arange(_LEVELS) / (_LEVELS - 1)
    if light == "pq":
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = signal ** (1 / m2)
        values = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) * _PQ_PEAK / _WHITE
    elif light == "hlg":
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        values = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        values = signal**_DISPLAY_GAMMA
    return values.astype(np.float32)


@cache
def _shown() -> NDArray[np.uint8]:
    """Return the level of a BT.1886 display for each of 65,536 shares of light."""
    shares = np.arange(_LEVELS) / (_LEVELS - 1)
    return np.round(255 * shares ** (1 / _DISPLAY_GAMMA)).astype(np.uint8)
