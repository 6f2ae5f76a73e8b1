"""Records read from TFRecord shards: raw, tf.train.Example, YouTube-8M, and unreadable records.

Formats: docs/formats.md section 4; https://research.google.com/youtube8m/download.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Value = NDArray[np.float32] | NDArray[np.int64] | NDArray[np.uint8] | bytes | tuple[bytes, ...] | str

ValueType = Literal["float32", "int64", "bytes", "uint8", "text"]

RGB_WIDTH = 1024
AUDIO_WIDTH = 128


@dataclass(frozen=True, slots=True)
class Record:
    """One framed record.

    Attributes:
        offset: byte offset of the record's header in the shard, after decompression.
        data: the payload.
    """

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class BadRecord:
    """An unusable record. It is recorded as a failure, and the rest of the shard is read.

    Attributes:
        file: the shard, as named by the caller.
        offset: byte offset of the record's header in the shard, after decompression.
        reason: a clause that describes the problem, with the value.
    """

    file: str
    offset: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file} at byte {self.offset}: {self.reason}"


@dataclass(frozen=True, slots=True)
class RatedSegment:
    """One stretch of a video of the segments data set, [start_s, end_s) in seconds (= frames).

    Attributes:
        label: class index that raters checked; None in unrated (test) segments.
        score: 1 when the label was confirmed, 0 when it was rejected; None in unrated segments.
    """

    start_s: int
    end_s: int
    label: int | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Yt8mVideo:
    """A video-level record: features averaged over the video, before quantisation.

    Attributes:
        labels: class indices, empty in test shards.
        rgb: float32 [D].
        audio: float32 [A]; None without audio.
        offset: position of the record in its shard.
    """

    id: str
    labels: tuple[int, ...]
    rgb: NDArray[np.float32]
    audio: NDArray[np.float32] | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Yt8mFrames:
    """A frame-level record: one row per second.

    Attributes:
        labels: class indices, empty in test shards.
        rgb: [N, D], uint8 if quantised, or float32 if the shard has float lists.
        audio: [N, A] in the same way; None without audio.
        segments: the segments of the segments data set, in file order.
        offset: position of the record in its shard.
    """

    id: str
    labels: tuple[int, ...]
    rgb: NDArray[np.uint8] | NDArray[np.float32]
    audio: NDArray[np.uint8] | NDArray[np.float32] | None = None
    segments: tuple[RatedSegment, ...] = ()
    offset: int = 0


@dataclass(frozen=True, slots=True)
class ExampleField:
    """Type and shape of a declared field of a tf.train.Example.

    Attributes:
        type: ``float32`` and ``int64`` lists, ``bytes`` strings, ``uint8``: one string read as raw numbers, or
            ``text``: one string in UTF-8.
        shape: () for one value; one -1 stands for any length.
        optional: whether records without the field are valid.
    """

    type: ValueType
    shape: tuple[int, ...] = ()
    optional: bool = False

    def __post_init__(self) -> None:
        if self.shape.count(-1) > 1 or any(size < -1 for size in self.shape):
            raise ValueError(f"shape {list(self.shape)} is not of sizes from 0 on with at most one -1 for 'any'")


@dataclass(frozen=True, slots=True)
class ExampleRecord:
    """A tf.train.Example, read by a declared schema.

    Attributes:
        id: value of the declared id field; empty if none is declared.
        values: by field name, in the schema's order; bytes fields are ``bytes`` (shape ()) or a tuple of them, texts
            ``str``.
        offset: position of the record in its shard.
    """

    id: str
    values: Mapping[str, Value]
    offset: int = 0
