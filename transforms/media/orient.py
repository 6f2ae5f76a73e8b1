"""Rotation and mirroring that make a stored picture upright."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

    from cliploom.schemas.media import Light


@dataclass(frozen=True)
class Orientation:
    """One of the eight orientations, applied in this order.

    Attributes:
        transpose: whether rows become columns.
        flip_x: whether to mirror left to right afterwards.
        flip_y: whether to mirror top to bottom afterwards.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def rotation(self) -> int:
        """Return the clockwise rotation of the stored picture: 0, 90, 180 or 270 degrees, ignoring mirroring."""
        if self.transpose:
            return 90 if self.flip_x else 270
        return 180 if self.flip_x and self.flip_y else 0

    def apply(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Return the picture [H, W, ...] upright, as a view."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        if self.flip_x:
            picture = picture[:, ::-1]
        return picture[::-1] if self.flip_y else picture


UPRIGHT = Orientation()


@dataclass(frozen=True)
class Appearance:
    """What is needed to display a decoded picture correctly.

    Attributes:
        orientation: the orientation of the stored picture.
        aspect: the width of a stored pixel divided by its height.
        light: the transfer characteristics and primaries, if values are mapped to BT.709.
    """

    orientation: Orientation = UPRIGHT
    aspect: Fraction = Fraction(1)
    light: Light = ""


PLAIN = Appearance()

ORIENTATION_TAG = 0x0112

_EXIF = {
    2: Orientation(flip_x=True),
    3: Orientation(flip_x=True, flip_y=True),
    4: Orientation(flip_y=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_x=True),
    7: Orientation(transpose=True, flip_x=True, flip_y=True),
    8: Orientation(transpose=True, flip_y=True),
}


_EXIF_OF_TURNS = {90: 6, 180: 3, 270: 8}
_NAMED_PROFILES = frozenset({"png", "apng"})
"""Codecs whose colour profiles have names. PyAV frees such side data twice and crashes, so it is not read."""


def from_exif(value: object) -> Orientation:
    """Return the orientation of an EXIF tag (1 to 8); upright for anything else.

    >>> from_exif(6).rotation
    90
    """
    return _EXIF.get(value, UPRIGHT) if isinstance(value, int) else UPRIGHT


def orientation_tag(exif: bytes) -> int:
    r"""Return the orientation that an EXIF block states (TIFF 6.0, first directory), or 1.

    >>> orientation_tag(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0")
    6
    """
    data = exif.removeprefix(b"Exif\0\0")
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    start = int.from_bytes(data[4:8], order)
    for number in range(int.from_bytes(data[start : start + 2], order)):
        entry = data[start + 2 + 12 * number :][:12]
        if len(entry) == 12 and int.from_bytes(entry[:2], order) == ORIENTATION_TAG:
            return int.from_bytes(entry[8:10], order)
    return 1


def from_matrix(matrix: bytes | None) -> Orientation:
    """Return the orientation of a display matrix: nine int32 of ISO 14496-12, (x, y) to (a x + c y, b x + d y), y down.

    Angles between quarter turns are rounded to the nearest mirror image or quarter turn.
    """
    if matrix is None or len(matrix) < 36:
        return UPRIGHT
    a, b, _, c, d = (int(value) for value in np.frombuffer(matrix, "<i4", 5))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def of_frame(frame: VideoFrame, codec: str) -> Orientation:
    """Return the orientation of a decoded picture by its display matrix.

    Args:
        frame: the frame returned by the decoder.
        codec: libav's name of the codec.
    """
    if codec in _NAMED_PROFILES:
        return from_exif(_EXIF_OF_TURNS.get(round(-frame.rotation) % 360))
    try:
        # The type stubs only allow side data with literal names.
        data: Any = frame.side_data
    except ValueError:
        # PyAV lacks names for some kinds that its libav knows, such as Exif, and then returns none at all.
        return UPRIGHT
    matrix = data.get("DISPLAYMATRIX")
    return from_matrix(None if matrix is None else bytes(matrix))
