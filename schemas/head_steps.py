"""Steps between a head's input vectors and its regression, learned from the training videos by tf.Transform."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cliploom.schemas.spec_base import Model, Text
from cliploom.schemas.units import Count


class HeadStep(Model):
    """What all steps say; those for numbers leave texts alone when they name no input."""

    input: Text | None = None


class ZscoreStep(HeadStep):
    """Each number less its mean, by its standard deviation; one that is always the same is only centred.

    Attributes:
        input: that it is for, by its name in Examples, such as ``mean_rgb``; each of them, one by one, by default.
    """

    kind: Literal["zscore"]


class RangeStep(HeadStep):
    """Each number scaled so that its smallest becomes ``low`` and its largest ``high``; others may lie beyond.

    Attributes:
        input: that it is for, by its name in Examples, such as ``mean_rgb``; each of them, one by one, by default.
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
        count: of buckets, for each number.
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
