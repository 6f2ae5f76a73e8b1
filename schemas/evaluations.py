"""Evaluations of a spec: what is measured on every release, by kind, and what a release says about them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, model_validator

from cliploom.schemas.spec_base import Model, Name
from cliploom.schemas.units import Count, NonNegativeSeconds


class TextTruth(Model):
    """Texts and the items that they describe; exactly one of the two.

    Attributes:
        texts: a source of narrations or captions.
        truth: a table (.csv, .tsv, .jsonl, .parquet) with the columns ``uid`` and ``text``, and optionally ``start_s``
            and ``end_s``.
        only: a file with one uid a line; texts about other items are left out.
        around: a text with a start and no end is about this time on both sides of it.
    """

    texts: Name | None = None
    truth: str | None = None
    only: str | None = None
    around: NonNegativeSeconds = 2.0


class RetrievalEvaluation(TextTruth):
    """Text to item and back, by the feature's text tower, over all rows of the feature.

    Attributes:
        feature: whose encoder has a text tower.
        output: may be left out when the feature has one that texts can be compared with.
        unit: what is ranked. ``item``: items, by their best row. ``moment``: rows; those that overlap a text's time are
            right. ``clip``: the stretches that the texts are about, by the mean of ``windows`` rows (MIL-NCE's
            protocol). By default ``moment`` when the texts have times, else ``item``.
        windows: rows that are averaged for a ``clip``.
        similarity: by default the metric of an index over the output, else ``cosine``.
        most: a seeded subset of so many texts is taken when there are more.
        seed: of the subset and of the intervals.
    """

    kind: Literal["retrieval"]
    feature: Name
    output: str | None = None
    unit: Literal["item", "moment", "clip"] | None = None
    windows: Count = 10
    similarity: Literal["cosine", "dot"] | None = None
    most: Count | None = None
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _one_truth(self) -> RetrievalEvaluation:
        if (self.texts is None) == (self.truth is None):
            raise ValueError("give exactly one of 'texts' (a source of narrations) and 'truth' (a table of uid, text)")
        return self


class SimilarEvaluation(TextTruth):
    """Item to item: the items that share a label with the query, or a caption, are right.

    Attributes:
        feature: the mean of an item's rows is its vector.
        output: may be left out when the feature has one.
        similarity: by default the metric of an index over the output, else ``cosine``.
        most: a seeded subset of so many queries is taken when there are more; all items are ranked.
        seed: of the subset and of the intervals.
    """

    kind: Literal["similar"]
    feature: Name
    output: str | None = None
    similarity: Literal["cosine", "dot", "l2"] | None = None
    most: Count = 10_000
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _one_truth(self) -> SimilarEvaluation:
        if self.texts is not None and self.truth is not None:
            raise ValueError("give one of 'texts' and 'truth', or neither to take the source's labels")
        return self


class LabelsEvaluation(Model):
    """Predicted labels of whole items against the given ones.

    Attributes:
        feature: of an encoder of kind ``head``.
        only: a file with one uid a line; other items are left out.
        everything: also the items that a trained head learned from.
        seed: of the intervals.
    """

    kind: Literal["labels"]
    feature: Name
    only: str | None = None
    everything: bool = False
    seed: NonNegativeInt = 0


class WordsEvaluation(Model):
    """Items and the words of their labels, by a head of kind devise: flat hit@k of seen, of unseen and of both labels.

    Attributes:
        feature: of an encoder of kind ``head`` whose head is of kind devise. The labels are those of its source; one
            that the head was not trained on is unseen.
        only: a file with one uid a line; other items are left out.
        seed: of the intervals.
    """

    kind: Literal["words"]
    feature: Name
    only: str | None = None
    seed: NonNegativeInt = 0


Evaluation = Annotated[
    RetrievalEvaluation | SimilarEvaluation | LabelsEvaluation | WordsEvaluation, Field(discriminator="kind")
]

Figures = dict[str, Any]
"""What a release says about one evaluation: see ``cliploom.transforms.evaluation.results.Evaluated.to_dict``."""
