"""Sampling of features from videos: the models of ``sample:`` in a spec.

A sampling determines the rows of a feature. A row is one frame, or a window of T frames for ``window`` and ``first``.
Ordinals number the planned rows from 0; a row whose frame fails, or that is dropped as a repeat, leaves its number
unused.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from cliploom.schemas.units import Count, PositiveSeconds

Similarity = Annotated[float, Field(gt=0, le=1, strict=False, allow_inf_nan=False)]


class Distinct(BaseModel):
    """Which rows are dropped as repeats of the last kept row of their item.

    A plain number means ``vectors``. Exactly one of ``vectors`` and ``pictures`` is given.

    Attributes:
        vectors: drop a row whose vector has at least this cosine with the vector of the last kept row. All frames are
            encoded.
        pictures: drop a row before encoding if its picture differs from the last kept one nowhere by more than one
            minus this, as a share of the colour range. Pictures are compared as 16 x 16 blocks, each the mean of its
            pixels; windows frame by frame.
        output: the output whose vectors are compared; by default the first by name of the feature's outputs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    vectors: Similarity | None = None
    pictures: Similarity | None = None
    output: str | None = None

    @model_validator(mode="after")
    def _one_measure(self) -> Distinct:
        if (self.vectors is None) == (self.pictures is None):
            raise ValueError("give exactly one of 'vectors' and 'pictures', such as distinct: {pictures: 0.95}")
        if self.output is not None and self.vectors is None:
            raise ValueError("'output' selects the 'vectors' to compare; remove it with 'pictures'")
        return self


def _number_alone(value: Any) -> Any:
    """Accept a plain number as ``{vectors: number}``."""
    if isinstance(value, str):
        raise ValueError("write a number, such as distinct: 0.95, or a mapping, such as {pictures: 0.95}")
    return {"vectors": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


MaybeDistinct = Annotated[Distinct | None, BeforeValidator(_number_alone)]


class SamplingBase(BaseModel):
    """Base class of all samplings.

    Attributes:
        windowed: whether rows are windows of frames, not single frames.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    windowed: ClassVar[bool] = False

    @property
    def splittable(self) -> bool:
        """Whether rows do not depend on earlier ones, so that long files may be split into segments."""
        return False

    @property
    def repeats(self) -> Distinct | None:
        """Which rows are dropped as repeats; None if the sampling keeps all."""
        found: Distinct | None = getattr(self, "distinct", None)
        return found

    def values(self) -> dict[str, Any]:
        """Return the values for a feature's config digest; newer keys are included only if they are used."""
        values = self.model_dump(mode="json")
        return {key: value for key, value in values.items() if key != "distinct" or value is not None}


class Every(SamplingBase):
    """The frame on screen at 0, d, 2d, ... seconds after the video's start.

    Attributes:
        every: the interval d, such as ``1s`` or ``500ms``.
        max_frames: the maximum number of rows of a video, from its start.
        distinct: which rows are dropped as repeats of the last kept one; none by default.
    """

    every: PositiveSeconds
    max_frames: Count | None = None
    distinct: MaybeDistinct = None

    @property
    def splittable(self) -> bool:
        """Whether rows are independent of the previous ones."""
        return self.distinct is None


class EveryFrames(SamplingBase):
    """Each k-th frame of the file: frame i is kept when ``i % k == 0``, up to frame index ``max_frames``.

    Attributes:
        every_frames: the step k.
        max_frames: the number of frames to consider, from the start of the file.
        distinct: which rows are dropped as repeats of the last kept one; none by default.
    """

    every_frames: Count
    max_frames: Count | None = None
    distinct: MaybeDistinct = None


class WindowShape(BaseModel):
    """The length, stride and rate of sliding windows, in frames at ``fps``.

    Attributes:
        frames: the length of a window.
        stride: the distance between the starts of consecutive windows.
        fps: the frame rate to resample the video to; by default its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    frames: Count
    stride: Count
    fps: Annotated[float, Field(gt=0, le=1000, strict=False, allow_inf_nan=False)] | None = None


class Window(SamplingBase):
    """Sliding windows over the whole video.

    With ``fps`` the video is resampled to that rate first; without it, windows are counted in the file's own frames.
    ``pad`` determines the end: ``shift`` moves the last window back to end on the last frame, ``repeat`` repeats the
    last frame, ``zero`` fills with black.

    Attributes:
        window: length, stride and rate, such as ``{frames: 32, stride: 16, fps: 30}``.
        pad: the handling of the end.
        distinct: which rows are dropped as repeats of the last kept one; none by default.
    """

    windowed: ClassVar[bool] = True
    window: WindowShape
    pad: Literal["shift", "repeat", "zero"] = "shift"
    distinct: MaybeDistinct = None


class FirstFrames(BaseModel):
    """The number of frames.

    Attributes:
        frames: the length of the window.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    frames: Count


class First(SamplingBase):
    """One window of the first frames; a shorter video repeats each frame ``ceil(frames / n)`` times, then is truncated.

    Attributes:
        first: the window, such as ``{frames: 32}``.
    """

    windowed: ClassVar[bool] = True
    first: FirstFrames


class Uniform(SamplingBase):
    """``n`` frames in the middle of n equal parts of the video.

    Attributes:
        uniform: the number n.
        distinct: which rows are dropped as repeats of the last kept one; none by default.
    """

    uniform: Count
    distinct: MaybeDistinct = None


class Keyframes(SamplingBase):
    """Each frame that can be decoded independently (an intra-coded picture that the container marks as a key frame).

    Attributes:
        keyframes: true; ``sample: keyframes`` is short for it.
        distinct: which rows are dropped as repeats of the last kept one; none by default.
    """

    keyframes: Literal[True] = True
    distinct: MaybeDistinct = None


class Yt8m(SamplingBase):
    """YouTube-8M's sampling: frame 0, then the frame after the first that is 1 s after the last one; at most 300.

    Attributes:
        yt8m: true; ``sample: yt8m`` is short for it.
    """

    yt8m: Literal[True] = True


_KINDS = {
    "every": Every,
    "every_frames": EveryFrames,
    "window": Window,
    "first": First,
    "uniform": Uniform,
    "keyframes": Keyframes,
    "yt8m": Yt8m,
}


def _spell_out(value: Any) -> Any:
    """Accept ``keyframes`` and ``yt8m`` as plain words."""
    if isinstance(value, str) and value in ("keyframes", "yt8m"):
        return {value: True}
    return value


def _kind(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else getattr(value, "model_fields_set", ())
    found = [key for key in _KINDS if key in keys]
    return found[0] if len(found) == 1 else None


Sampling = Annotated[
    Annotated[Every, Tag("every")]
    | Annotated[EveryFrames, Tag("every_frames")]
    | Annotated[Window, Tag("window")]
    | Annotated[First, Tag("first")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[Keyframes, Tag("keyframes")]
    | Annotated[Yt8m, Tag("yt8m")],
    Discriminator(
        _kind,
        custom_error_type="sampling",
        custom_error_message="a sampling is exactly one of every, every_frames, window, first, uniform, keyframes, "
        "yt8m, such as {every: 1s}",
    ),
    BeforeValidator(_spell_out),
]
