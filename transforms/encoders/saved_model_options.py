"""The options of a SavedModel, a frozen graph or a Keras file in a spec."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from cliploom.transforms.encoders.onnx_options import BatchedOptions, Part, PixelOptions, text_output
from cliploom.transforms.encoders.word_tokens import Step


def _pair(value: Any) -> Any:
    """Return a list of two strings."""
    return tuple(value) if isinstance(value, list) else value


class SavedModelText(Part):
    """A signature that takes strings. Missing keys are read from the graph, or the run reports which are required.

    Attributes:
        signature: the name of the signature.
        node: the name of its output, if it has several.
        output: the encoder's output whose space it shares, if there are several.
        vocabulary: a file with one word per line: a name in the model's ``assets``, or a path relative to the spec.
        lower: which letters to convert to lower case first.
        replace: regular expressions of RE2 to replace afterwards, in this order: ``[pattern, replacement]``.
        split: the separator of words; any white space if empty.
        tokens: the number of words that sentences are truncated or padded to.
        first: the number of the vocabulary's first word.
        unknown: the number for a word that is not in the vocabulary, or ``drop``.
        pad_id: the number used for padding.
        prompt: a text put before each sentence.
    """

    signature: str = "text"
    node: str | None = None
    output: str | None = None
    vocabulary: str | None = None
    lower: Literal["none", "ascii", "unicode"] | None = None
    replace: tuple[Annotated[tuple[str, str], BeforeValidator(_pair)], ...] | None = Field(default=None, strict=False)
    split: str | None = None
    tokens: PositiveInt | None = None
    first: Annotated[int, Field(ge=0)] | None = None
    unknown: Annotated[int, Field(ge=0)] | Literal["drop"] | None = None
    pad_id: Annotated[int, Field(ge=0)] | None = None
    prompt: str = ""

    @property
    def steps(self) -> tuple[Step, ...] | None:
        """The steps for ``lower`` and ``replace``, or None if neither is declared."""
        if self.lower is None and self.replace is None:
            return None
        lower = () if self.lower is None or self.lower == "none" else (Step(self.lower),)
        return (*lower, *(Step("replace", pattern, rewrite) for pattern, rewrite in self.replace or ()))


class SavedModelOptions(BatchedOptions):
    """Options of ``saved_model``.

    Attributes:
        model: the folder of the SavedModel, or its ``.tar.gz``.
        input: the input of the signature.
        outputs: the outputs to keep, by the name to give them; ``node`` is a name in the signature's outputs.
        tags: the tags of the graph, if the file has several; by default ``serve``, or none.
        signature: the name of the signature, if there are several.
        text: the text signature.
        batch: the number of items computed together; incomplete batches are padded.
        golden: an ``.npz`` with ``items`` (uint8), vectors by output name, and for a text signature ``sentences`` and
            ``text``, to measure against.
    """

    VALUE_FREE: ClassVar[frozenset[str]] = frozenset({"model", "batch", "golden"})
    tags: tuple[str, ...] | None = Field(default=None, strict=False)
    signature: str | None = None
    text: SavedModelText | None = None
    golden: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SavedModelOptions:
        _ = self.text_output
        if "n" not in self.input.layout:
            raise ValueError(f"input.layout {self.input.layout!r} has no n; a signature takes a batch, such as nhwc")
        return self

    @property
    def text_output(self) -> str | None:
        """The output whose space the text signature shares."""
        return None if self.text is None else text_output(self.text.output, self.outputs)

    def values(self) -> dict[str, Any]:
        """Return the values without the vocabulary's path, whose content is in the fingerprint."""
        values = super().values()
        if self.text is not None:
            values["text"] = self.text.model_dump(mode="json", exclude={"vocabulary"})
        return values


class FrozenGraphOptions(PixelOptions):
    """Options of ``frozen_graph``; items are computed one by one.

    Attributes:
        model: the ``.pb`` file of a GraphDef.
        input: the input of the graph; ``node``, the tensor to feed, is required, such as ``Mul:0``, or ``DecodeJpeg:0``
            with ``layout: hwc``, ``offset: 0`` and ``scale: 1``.
        outputs: the outputs to keep, by the name to give them; ``node`` is a tensor, such as ``pool_3:0``.
        golden: an ``.npz`` with ``items`` (uint8) and vectors by output name, to measure against.
    """

    VALUE_FREE: ClassVar[frozenset[str]] = frozenset({"model", "golden"})
    golden: str | None = None

    @model_validator(mode="after")
    def _names_its_input(self) -> FrozenGraphOptions:
        if self.input.node is None:
            raise ValueError("input.node is missing; name the tensor to feed, such as Mul:0 or DecodeJpeg:0")
        return self


class KerasOptions(BatchedOptions):
    """Options of ``keras``.

    Attributes:
        model: a ``.keras`` or ``.h5`` file.
        input: the input of the model.
        outputs: the outputs to keep, by the name to give them; ``node`` is an output or a layer.
        batch: the number of items computed together; incomplete batches are padded.
    """

    @model_validator(mode="after")
    def _takes_a_batch(self) -> KerasOptions:
        if "n" not in self.input.layout:
            raise ValueError(f"input.layout {self.input.layout!r} has no n; a Keras model takes a batch, such as nhwc")
        return self
