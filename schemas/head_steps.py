"""Steps between a head's input vectors and its regression, fitted to the training videos by tf.Transform."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cliploom.schemas.spec_base import Model, Text
from cliploom.schemas.units import Count


class HeadStep(Model):
    """Fields of all steps; numeric steps without an input skip texts."""

    input: Text | None = None


class ZscoreStep(HeadStep):
    """Each number minus its mean, divided by its standard deviation; a constant one is only centred.

    Attributes:
        input: the name of the input in Examples, such as ``mean_rgb``; by default each input separately.
    """

    kind: Literal["zscore"]


class RangeStep(HeadStep):
    """Each number scaled so that its smallest value becomes ``low`` and its largest ``high``; others may exceed them.

    Attributes:
        input: the name of the input in Examples, such as ``mean_rgb``; by default each input separately.
        low, high: what the smallest and the largest number become.
    """

    kind: Literal["range"]
    low: Annotated[float, Field(strict=False)] = 0.0
    high: Annotated[float, Field(strict=False)] = 1.0

    @model_validator(mode="after")
    def _rising(self) -> RangeStep:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) is not below high ({self.high:g})")
        return self


class PcaStep(HeadStep):
    """The vector centred and projected on its first principal components; a ``zscore`` behind it whitens them.

    Attributes:
        input: that it is for, by its name in Examples, such as ``mean_rgb``; each of them, one by one, by default.
        components: how many are kept.
    """

    kind: Literal["pca"]
    components: Count


class BucketsStep(HeadStep):
    """Each number as the bucket that it falls in, of ``count`` equally full ones: one 1 among zeros.

    Attributes:
        input: that it is for, by its name in Examples, such as ``mean_rgb``; each of them, one by one, by default.
        count: the count of buckets, for each number.
    """

    kind: Literal["buckets"]
    count: Annotated[int, Field(ge=2, le=1000)]


class VocabularyStep(HeadStep):
    """Each number, rounded, or a text, as its place among the ``size`` most frequent ones: one 1 among zeros, or none.

    Attributes:
        input: that it is for, by its name in Examples, such as ``mean_rgb``; each of them, one by one, by default.
        size: numbers or texts that are known.
    """

    kind: Literal["vocabulary"]
    size: Count


Step = Annotated[ZscoreStep | RangeStep | PcaStep | BucketsStep | VocabularyStep, Field(discriminator="kind")]
