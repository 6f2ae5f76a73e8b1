"""What a prepared model folder says of itself: the card beside the graph."""

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
        dim: length of the vector, float32.
        space: name of the vector space; two outputs are comparable when their spaces are equal.
        text: true when the encoder's text tower writes into this space, so that sentences can be asked.
        labels: name of a text file beside the card with a class name a line, when the vector is one score a class.
    """

    dim: int
    space: str
    text: bool = False
    labels: str = ""


@dataclass(frozen=True)
class ModelCard:
    """Facts of a prepared model; written as ``card.json`` last, so that a folder with a card is complete.

    Attributes:
        kind: registry name of the encoder's family.
        digest: names the folder; covers options, weights, precision, text encoder and the family's REVISION.
        modality: what ``encode`` takes: uint8 pictures [H, W, 3], clips [T, H, W, 3], sentences, or vectors of
            another feature.
        outputs: by name.
        preprocess: None for text encoders.
        clip_frames: T, for clip encoders.
        text_tower: folder-relative name of the text graph, empty when there is none. A text encoder is its own.
        sources: file name -> sha256 of what it was made from.
        agreement: smallest cosine per output against the original implementation's golden outputs.
        note: what a user should know of it, such as that no agreement was measured; mostly empty.
        figures: of a quantised model against float32; None for others. ``agreement`` is then that of the float32 graph.
        calibration: digest of the samples that it was calibrated with; empty where there are none.
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
        """Plain values for JSON; what only quantised models have stands there only with them."""
        value = asdict(self) | {"preprocess": None if self.preprocess is None else self.preprocess.to_dict()}
        return {key: each for key, each in value.items() if each or key not in ("figures", "calibration")}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> ModelCard:
        """Read back what ``to_dict`` gave."""
        preprocess = value.get("preprocess")
        if preprocess is not None:
            preprocess = Preprocess.from_dict(preprocess)
        outputs = {name: Output(**output) for name, output in value["outputs"].items()}
        figures = value.get("figures")
        figures = None if figures is None else PrecisionFigures.from_dict(figures)
        return cls(**(value | {"outputs": outputs, "preprocess": preprocess, "figures": figures}))
