"""The options of an ONNX file in a spec: its input, its outputs, its text tower."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from cliploom.schemas.media import Preprocess, Rounding
from cliploom.transforms.encoders.base import EncoderOptions


def _per_channel(value: Any) -> Any:
    """Repeat a single number for all three channels."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (float(value),) * 3
    return tuple(value) if isinstance(value, list) else value


Channels = Annotated[
    tuple[
        Annotated[float, Field(strict=False, allow_inf_nan=False)],
        Annotated[float, Field(strict=False, allow_inf_nan=False)],
        Annotated[float, Field(strict=False, allow_inf_nan=False)],
    ],
    BeforeValidator(_per_channel),
]


class Part(BaseModel):
    """A part of an encoder's options."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class OnnxInput(Part):
    """The picture or clip that the file takes as input.

    Attributes:
        layout: the order of the axes, n batch, t time, c channels, h height, w width; with t the encoder takes clips,
            without n the file takes one picture.
        node: the name of the input, if the file has several.
        frames: T of a clip.
        width, height: the size of the picture in pixels.
        fit: ``crop``: scale so that the short side is ``min(width, height) / crop`` and crop the centre; ``squash``:
            scale to the size whatever the aspect; ``square``: crop the centred square, then scale.
        crop: the share of the short side that is kept, for ``fit: crop``.
        filter: the interpolation used for scaling.
        order: the order of the colour channels.
        offset, scale: the encoder computes ``(x - offset) / scale`` on 0..255; one number, or one for each channel.
        alpha: the background for transparent pixels: ``white``, ``black``, or ``drop`` (colours as stored).
        rounding: the rounding of sizes and crops: ``nearest``, or that of ``huggingface`` or ``torchvision``.
    """

    layout: Literal["nchw", "nhwc", "hwc", "nthwc", "ntchw", "ncthw"]
    width: PositiveInt
    height: PositiveInt
    node: str | None = None
    frames: PositiveInt | None = None
    fit: Literal["crop", "squash", "square"] = "crop"
    crop: Annotated[float, Field(gt=0, le=1, strict=False)] = 1.0
    filter: Literal["bicubic", "bilinear", "area"] = "bicubic"
    order: Literal["rgb", "bgr"] = "rgb"
    offset: Channels = (0.0, 0.0, 0.0)
    scale: Channels = (255.0, 255.0, 255.0)
    alpha: Literal["white", "black", "drop"] = "white"
    rounding: Rounding = "nearest"

    @model_validator(mode="after")
    def _consistent(self) -> OnnxInput:
        if ("t" in self.layout) != (self.frames is not None):
            fix = "give frames, the length of a clip" if "t" in self.layout else "leave frames out, or use nthwc"
            raise ValueError(f"layout {self.layout!r} and frames {self.frames} don't fit together; {fix}")
        if 0 in self.scale:
            raise ValueError(f"scale {list(self.scale)} divides by zero")
        return self

    @model_serializer(mode="wrap")
    def _without_the_usual_rounding(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit the default rounding, so that models from before this option keep their digest."""
        values: dict[str, Any] = plain(self)
        return {key: value for key, value in values.items() if (key, value) != ("rounding", "nearest")}

    @property
    def preprocess(self) -> Preprocess:
        """Return the same as a record."""
        names = ("width", "height", "fit", "crop", "filter", "order", "offset", "scale", "alpha", "rounding")
        return Preprocess(**{name: getattr(self, name) for name in names})


class OnnxOutput(Part):
    """One output of the file.

    Attributes:
        node: the name of the output in the file.
        pool: ``none`` for vectors, ``mean`` to average over all axes but batch and ``channel_axis``, ``flatten`` for
            all numbers one after another.
        channel_axis: the axis of channels in the file's output: 1 for [n, c, h, w], -1 for [n, tokens, c].
    """

    node: str
    pool: Literal["none", "mean", "flatten"] = "none"
    channel_axis: int = 1


class OnnxText(Part):
    """A second file that maps sentences to the space of an output.

    Attributes:
        model: the ONNX file, from token ids and, usually, an attention mask [n, tokens].
        tokenizer: the file ``tokenizer.json`` of the Hugging Face tokenizers library.
        max_tokens: the maximum number of tokens; longer sentences are truncated. A file without a mask always gets this
            many.
        node: the name of its output, if it has several.
        output: the encoder's output whose space it shares, if there are several.
        pad_id: the token used for padding.
        prompt: a text put before each sentence.
    """

    model: str
    tokenizer: str
    max_tokens: PositiveInt
    node: str | None = None
    output: str | None = None
    pad_id: Annotated[int, Field(ge=0)] = 0
    prompt: str = ""


class PixelOptions(EncoderOptions):
    """Options for a file that takes pictures or clips.

    Attributes:
        model: the file or folder.
        input: the input of the file.
        outputs: the outputs to keep, by the name to give them.
    """

    VALUE_FREE: ClassVar[frozenset[str]] = frozenset({"model", "batch"})
    model: str
    input: OnnxInput
    outputs: Annotated[dict[str, OnnxOutput], Field(min_length=1)]

    @property
    def together(self) -> int:
        """The number of items computed together, if the file has no fixed batch size."""
        return 1


class BatchedOptions(PixelOptions):
    """Options for a file that may take several items at a time.

    Attributes:
        batch: the number of items computed together, if the file has no fixed batch size; incomplete batches are
            padded.
    """

    batch: Annotated[int, Field(ge=1, le=256)] = 1

    @property
    def together(self) -> int:
        """The value of ``batch``."""
        return self.batch


def text_output(named: str | None, outputs: Collection[str]) -> str:
    """Return the output whose space a text tower shares.

    Args:
        named: the output named in the spec; optional if there is only one output.
        outputs: the names of all outputs.

    Raises:
        ValueError: it is missing or unknown.
    """
    if named is None and len(outputs) > 1:
        raise ValueError(f"text.output is missing; name the output whose space it shares: {', '.join(outputs)}")
    if named is not None and named not in outputs:
        raise ValueError(f"text.output {named!r} is not an output; known: {', '.join(outputs)}")
    return named or next(iter(outputs))


class OnnxOptions(BatchedOptions):
    """Options of ``onnx``.

    Attributes:
        model: the ONNX file.
        input: the input of the file.
        outputs: the outputs to keep, by the name to give them.
        text: the text tower.
        batch: the number of items computed together, if the file has no fixed batch size; incomplete batches are
            padded.
    """

    text: OnnxText | None = None

    @model_validator(mode="after")
    def _text_names_an_output(self) -> OnnxOptions:
        _ = self.text_output
        return self

    @property
    def text_output(self) -> str | None:
        """The output whose space the text tower shares."""
        return None if self.text is None else text_output(self.text.output, self.outputs)

    def values(self) -> dict[str, Any]:
        """Return the values without the text tower's paths, whose files are in the fingerprint."""
        values = super().values()
        if self.text is not None:
            values["text"] = self.text.model_dump(mode="json", exclude={"model", "tokenizer"})
        return values
