"""The card of a prepared model, stored beside the graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cliploom.schemas.media import Preprocess
from cliploom.schemas.precision import PrecisionFigures

Modality = Literal["frame", "clip", "text", "vector"]
Precision = Literal["f32", "bf16", "int8", "int8_weights"]

CARD_FILE = "card.json"


@dataclass(frozen=True)
class Output:
    """One named output of an encoder.

    Attributes:
        dim: the length of the vector, float32.
        space: the name of the vector space; outputs with equal spaces are comparable.
        text: whether the encoder's text tower maps into this space, so that it supports text queries.
        labels: the name of a text file beside the card with one class name per line, if the vector has a score per
            class.
    """

    dim: int
    space: str
    text: bool = False
    labels: str = ""


@dataclass(frozen=True)
class ModelCard:
    """Facts of a prepared model; written as ``card.json`` last, so that a folder with a card is complete.

    Attributes:
        kind: the kind of the encoder.
        digest: the digest that names the folder; covers options, weights, precision, text encoder and the family's
            REVISION.
        modality: the input of ``encode``: uint8 pictures [H, W, 3], clips [T, H, W, 3], sentences, or vectors of
            another feature.
        outputs: the outputs by name.
        preprocess: the preprocessing; None for text encoders.
        clip_frames: the number T of frames, for clip encoders.
        text_tower: the relative path of the text graph, empty if there is none. For a text encoder, its own graph.
        sources: maps the names of source files to their sha256.
        agreement: the smallest cosine per output against the original implementation's golden outputs.
        note: a note for users, such as that no agreement was measured; usually empty.
        figures: comparison of a quantised model with float32; else None. ``agreement`` is then that of the float32
            graph.
        calibration: the digest of the calibration samples; empty if there are none.
    """

    kind: str
    digest: str
    modality: Modality
    precision: Precision
    outputs: dict[str, Output]
    preprocess: Preprocess | None = None
    clip_frames: int = 0
    text_tower: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    note: str = ""
    figures: PrecisionFigures | None = None
    calibration: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; fields of quantised models are omitted for others."""
        value = asdict(self) | {"preprocess": None if self.preprocess is None else self.preprocess.to_dict()}
        return {key: each for key, each in value.items() if each or key not in ("figures", "calibration")}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> ModelCard:
        """Create a card from the result of ``to_dict``."""
        preprocess = value.get("preprocess")
        if preprocess is not None:
            preprocess = Preprocess.from_dict(preprocess)
        outputs = {name: Output(**output) for name, output in value["outputs"].items()}
        figures = value.get("figures")
        figures = None if figures is None else PrecisionFigures.from_dict(figures)
        return cls(**(value | {"outputs": outputs, "preprocess": preprocess, "figures": figures}))
