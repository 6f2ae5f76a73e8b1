"""Options of quantised precisions; imports nothing heavy."""

from __future__ import annotations

from cliploom.schemas.precision import QUANTISED
from cliploom.transforms.encoders.base import EncoderOptions, Family


def quantised(options: EncoderOptions) -> bool:
    """Return whether a model is derived from a float32 one, using samples."""
    return options.precision in QUANTISED


def original_options(options: EncoderOptions) -> EncoderOptions:
    """Return the options of the float32 model from which a quantised one is derived."""
    return options.model_copy(update={"precision": "f32"})


def needs_calibration(options: EncoderOptions) -> bool:
    """Return whether the ranges of activations are calibrated with samples."""
    return options.precision == "int8"


def check_quantisable(kind: Family, options: EncoderOptions) -> str:
    """Return why an encoder does not support the precision in its options; empty if it does."""
    if options.precision == "int8" and kind.modality(options) == "text":
        return "int8 is for pictures and clips; use int8_weights (a quarter of the memory) or f32"
    if quantised(options) and kind.kind == "word_vectors":
        return f"word vectors are a table, which {options.precision} does not change; remove precision"
    return ""


def check_device(kind: Family, options: EncoderOptions) -> str:
    """Return why an encoder can't be computed on the device that its options ask for; empty when it can."""
    if options.device == "cuda" and options.precision != "f32":
        return f"device: cuda computes in f32; leave precision: {options.precision} out, or use device: cpu"
    if options.device != "cpu" and kind.kind == "word_vectors":
        return "word vectors are looked up in a table, which no device makes faster; leave device out"
    return ""
