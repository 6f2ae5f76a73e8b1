"""Evaluations in a spec: the measurements on every release, by kind, and their results in a release."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, model_validator

from cliploom.schemas.spec_base import Model, Name
from cliploom.schemas.units import Count, NonNegativeSeconds


class TextTruth(Model):
    """Texts and the items that they describe; exactly one of ``texts`` and ``truth``.

    Attributes:
        texts: the name of a source of narrations or captions.
        truth: a table (.csv, .tsv, .jsonl, .parquet) with the columns ``uid`` and ``text``, and optionally ``start_s``
            and ``end_s``.
        only: a file with one uid per line; texts about other items are excluded.
        around: the time on each side of a text that has a start and no end.
    """

    texts: Name | None = None
    truth: str | None = None
    only: str | None = None
    around: NonNegativeSeconds = 2.0


class RetrievalEvaluation(TextTruth):
    """Retrieval from text to item and back, with the feature's text tower, over all rows of the feature.

    Attributes:
        feature: a feature whose encoder has a text tower.
        output: the output; optional if only one supports texts.
        unit: the unit to rank. ``item``: items, by their best row. ``moment``: rows; those that overlap a text's time
            are correct. ``clip``: the time ranges of the texts, by the mean of ``windows`` rows (MIL-NCE's protocol).
            By default ``moment`` if the texts have times, else ``item``.
        windows: the number of rows to average for a ``clip``.
        similarity: the similarity; by default the metric of an index over the output, else ``cosine``.
        most: the maximum number of texts; a seeded subset is used if there are more.
        seed: the seed of the subset and of the intervals.
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
    """Item-to-item retrieval: items that share a label or a caption with the query are correct.

    Attributes:
        feature: the feature; an item's vector is the mean of its rows.
        output: the output; optional if the feature has only one.
        similarity: the similarity; by default the metric of an index over the output, else ``cosine``.
        most: the maximum number of queries; a seeded subset is used if there are more. All items are ranked.
        seed: the seed of the subset and of the intervals.
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
            raise ValueError("give one of 'texts' and 'truth', or neither to use the source's labels")
        return self


class LabelsEvaluation(Model):
    """Predicted labels of whole items, compared with the given ones.

    Attributes:
        feature: a feature of an encoder of kind ``head``.
        only: a file with one uid per line; other items are excluded.
        everything: whether to include the items that a trained head was trained on.
        seed: the seed of the intervals.
    """

    kind: Literal["labels"]
    feature: Name
    only: str | None = None
    everything: bool = False
    seed: NonNegativeInt = 0


class WordsEvaluation(Model):
    """Items and the words of their labels, by a head of kind devise: flat hit@k of seen, of unseen and of all labels.

    Attributes:
        feature: a feature of an encoder of kind ``head`` whose head is of kind devise. The labels are those of its
            source; labels that the head was not trained on are unseen.
        only: a file with one uid per line; other items are excluded.
        seed: the seed of the intervals.
    """

    kind: Literal["words"]
    feature: Name
    only: str | None = None
    seed: NonNegativeInt = 0


Evaluation = Annotated[
    RetrievalEvaluation | SimilarEvaluation | LabelsEvaluation | WordsEvaluation, Field(discriminator="kind")
]

Figures = dict[str, Any]
"""The result of one evaluation in a release: see ``cliploom.transforms.evaluation.results.Evaluated.to_dict``."""
