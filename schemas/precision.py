"""Precisions below float32: what is measured of a quantised model, and how little it may agree with float32."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from cliploom.schemas.digests import digest_of

QUANTISED = ("int8", "int8_weights")
QUANTISE_REVISION = 1
"""Increase it when the same samples and settings give another quantised model."""

_Share = Annotated[float, Field(ge=0, le=1, strict=False, allow_inf_nan=False)]
_Ratio = Annotated[float, Field(ge=0, le=100, strict=False, allow_inf_nan=False)]


class AgreementSpec(BaseModel):
    """The least that a quantised model must reach against float32 on held-back samples, or the run stops.

    Attributes:
        p5: cosine of vectors that 95% of the samples reach; .95 by default.
        recall: share of the 10 nearest float32 neighbours that are found; .85 by default.
        faster: CPU time of float32 divided by that of the quantised model, on the processor that prepares it; 1.2 for
            ``int8``, 0 (not asked) for ``int8_weights``, which saves memory rather than time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    p5: _Share | None = None
    recall: _Share | None = None
    faster: _Ratio | None = None

    def limits(self, precision: str) -> dict[str, float]:
        """Return the limits with the defaults of a precision filled in."""
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        return DEFAULT_LIMITS[precision] | given


DEFAULT_LIMITS = {
    "int8": {"p5": 0.95, "recall": 0.85, "faster": 1.2},
    "int8_weights": {"p5": 0.95, "recall": 0.85, "faster": 0.0},
}


@dataclass(frozen=True)
class OutputFigures:
    """Agreement of one output with float32.

    Attributes:
        mean, p5, least: of the cosines, over the held-back samples.
        recall: share of the 10 nearest float32 neighbours among all samples that are neighbours in the quantised
            vectors, too; None if there are not more than 10 samples.
        top1: share of the samples with the same highest score; None for vectors that are not scores.
    """

    mean: float
    p5: float
    least: float
    recall: float | None = None
    top1: float | None = None


@dataclass(frozen=True)
class PrecisionFigures:
    """What was measured of a quantised model when it was prepared.

    Attributes:
        outputs: by output name.
        faster: CPU time of float32 divided by that of this model, one thread, on ``processor``.
        calibrated: samples that ranges were calibrated with; 0 for ``int8_weights``.
        held_back: other samples, which the figures are of.
        items: inputs that the samples are from; 0 for sentences that come with the program.
        settings: the settings of the quantiser, with its version.
        processor: features of the processor that prepared the model.
        bytes_before, bytes_after: of the graph's weights.
    """

    outputs: dict[str, OutputFigures]
    faster: float
    calibrated: int
    held_back: int
    items: int
    settings: dict[str, str] = field(default_factory=dict)
    processor: str = ""
    bytes_before: int = 0
    bytes_after: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> PrecisionFigures:
        """Read back what ``to_dict`` gave."""
        outputs = {name: OutputFigures(**figures) for name, figures in value["outputs"].items()}
        return cls(**(value | {"outputs": outputs}))


@dataclass(frozen=True)
class SampleId:
    """One sample: which row of which item.

    Attributes:
        item: digest of the item.
        ordinal: the ordinal of the row in the item.
        held_back: measured with, not calibrated with.
    """

    item: str
    ordinal: int
    held_back: bool


@dataclass(frozen=True)
class Calibration:
    """The samples of one encoder, chosen once for a store and kept until ``--recalibrate``.

    Attributes:
        samples: in the order in which they were used.
        overflow_fix: whether weights keep to half of their range, for processors that add pairs of products in 16 bits.
    """

    samples: tuple[SampleId, ...]
    overflow_fix: bool

    @property
    def digest(self) -> str:
        """Digest of what the quantised model depends on: calibrated samples and settings."""
        used = [[sample.item, sample.ordinal] for sample in self.samples if not sample.held_back]
        return digest_of([QUANTISE_REVISION, used, self.overflow_fix])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "samples": [[sample.item, sample.ordinal, sample.held_back] for sample in self.samples],
            "overflow_fix": self.overflow_fix,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Calibration:
        """Read back what ``to_dict`` gave."""
        return cls(tuple(SampleId(*sample) for sample in value["samples"]), value["overflow_fix"])
