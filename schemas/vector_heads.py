"""Heads that return vectors: two towers trained on pairs, and DeViSE. Their nodes, and the cards of trained ones.

Such a head projects the rows of another feature into a space that supports text queries. After ``cliploom train``, an
encoder of kind ``head`` applies it, and the feature has rows, indexes and exports like any other.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, Tag, model_validator

from cliploom.schemas.exports import SplitSpec, TakeSpec
from cliploom.schemas.heads import HeadInput, HeadSpec, Retrain, ZeroShotSpec
from cliploom.schemas.models import ModelCard
from cliploom.schemas.release import OutputEntry
from cliploom.schemas.spec_base import KeepSpec, Model, Name, Text
from cliploom.schemas.units import Count, NonNegativeSeconds, Share

TWO_TOWER, DEVISE = "two_tower", "devise"
VECTOR_KINDS = (TWO_TOWER, DEVISE)
EMBEDDING = "embedding"
"""The output of a feature computed by such a head."""

CLIP, TEXT = "clip", "text"
"""The two towers; DeViSE only has the first one."""

TRAIN, VALIDATION = "train", "validation"
START_SCALE = math.log(1 / 0.07)
MOST_SCALE = math.log(100)

Rate = Annotated[PositiveFloat, Field(strict=False)]
Part = Annotated[NonNegativeFloat, Field(strict=False, lt=1)]


class VectorInput(Model):
    """One output of a feature.

    Attributes:
        feature: the name of a feature.
        output: the output; optional if the feature has only one.
    """

    feature: Name
    output: str | None = None


class Negatives(Model):
    """Hard negatives: which other pairs are in the same batch as a pair.

    Attributes:
        same_video: the number of other pairs of its video in a batch, which teach the model to distinguish its moments.
    """

    same_video: NonNegativeInt = 0


class TwoTowerSpec(Model):
    """Two MLPs that map clip features and text vectors into one space, trained on pairs by ``cliploom train``.

    The defaults are those of Ego4D's tutorial: two layers of 1536, no normalisation, a scale that starts at
    ln(1 / 0.07), AdamW with the printed settings and PyTorch's default weight decay of 0.01.

    Attributes:
        pairs: an export of kind ``pairs``, format ``parquet`` or ``hdf5``.
        clip, text: instead of ``pairs``: the features to join; ``around``, ``pool``, ``keep`` and ``splits`` are as in
            an export of pairs.
        around, pool, keep, splits: with ``clip`` and ``text``; as in an export of pairs.
        validation: the split of the pairs that is used for validation only.
        holdout: without such a split: the share of the videos, by hash of the uid with ``seed``; 20% by default.
        dims: the widths of the layers of both towers; the last one is that of the new space.
        dropout: the share of the hidden values that are dropped in training.
        normalize: whether projections are scaled to length 1, in training and in the feature.
        scale: the factor of the products: the learned number itself (``plain``, the tutorial), or its exponential
            (``exp``, CLIP); it stays between 0 and ln 100.
        learning_rate, weight_decay, betas, epsilon: the settings of AdamW.
        batch: the number of pairs per step.
        batch_by: ``pairs`` in any order, or ``videos``: a batch has pairs of as few videos as possible.
        negatives: hard negatives.
        equal_texts: ``negative``: of pairs with the same text only the own clip is positive; ``ignore``: the others are
            excluded from the loss.
        epochs: the maximum number of epochs.
        patience: the number of epochs without a better mean of both recall@10 after which training ends.
        most_validation: the maximum number of validation pairs to measure after each epoch, a seeded choice.
        seed: the seed of the holdout, the weights, the dropout and the order of pairs.
        retrain: when a run trains the head again.
    """

    kind: Literal["two_tower"]
    pairs: Name | None = None
    clip: VectorInput | None = None
    text: VectorInput | None = None
    around: NonNegativeSeconds = 2.0
    pool: Literal["mean"] | TakeSpec = "mean"
    keep: KeepSpec = KeepSpec()
    splits: SplitSpec | None = None
    validation: Name = VALIDATION
    holdout: Share | None = None
    dims: Annotated[list[Count], Field(min_length=1)] = [1536, 1536]
    dropout: Part = 0.0
    normalize: bool = False
    scale: Literal["plain", "exp"] = "plain"
    learning_rate: Rate = 1e-4
    weight_decay: Annotated[NonNegativeFloat, Field(strict=False)] = 0.01
    betas: Annotated[list[Part], Field(min_length=2, max_length=2)] = [0.98, 0.9]
    epsilon: Rate = 1e-6
    batch: Annotated[Count, Field(ge=2)] = 128
    batch_by: Literal["pairs", "videos"] = "pairs"
    negatives: Negatives = Negatives()
    equal_texts: Literal["negative", "ignore"] = "negative"
    epochs: Count = 15
    patience: Count = 5
    most_validation: Count = 10_000
    seed: NonNegativeInt = 0
    retrain: Retrain | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> TwoTowerSpec:
        if (self.pairs is None) == (self.clip is None):
            raise ValueError("give exactly one of 'pairs' (an export of kind pairs) and 'clip' with 'text' (features)")
        if (self.clip is None) != (self.text is None):
            raise ValueError("'clip' and 'text' belong together; give both, or 'pairs' instead")
        if self.pairs is not None and (self.around != 2.0 or self.keep != KeepSpec() or self.splits is not None):
            raise ValueError("'around', 'keep' and 'splits' are set by the export of pairs; remove them")
        if isinstance(self.pool, TakeSpec):
            raise ValueError("pool must be 'mean' here: a tower projects one vector per moment")
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise ValueError(f"holdout is {self.holdout:.0%}; training and validation need some videos each")
        if self.negatives.same_video >= self.batch:
            raise ValueError(f"negatives.same_video is {self.negatives.same_video}, batch {self.batch}; it is smaller")
        return self

    @property
    def held_out(self) -> float:
        """The share of the videos that is held out if no split is named."""
        return 0.2 if self.holdout is None else self.holdout

    @property
    def group(self) -> int:
        """The number of consecutive pairs of one video in a batch."""
        return self.batch if self.batch_by == "videos" else 1 + self.negatives.same_video


class DeviseSpec(Model):
    """An MLP from vectors of items to the text vectors of their labels, so that words find untrained classes too.

    Attributes:
        inputs: one output of a feature of a labelled source; averaged over an item in training, applied to each row.
        text_encoder: a text encoder, such as one of kind word_vectors or minilm; its space is the new one.
        prompt: the text for a class; ``{label}`` is replaced by a synonym of its name. The vectors of the synonyms (a
            name split at commas) are averaged, each of length 1.
        unseen: the names of labels to exclude from training, to measure how well words find them.
        holdout: the share of the labels to exclude instead, by hash of the name with ``seed``; 20% by default.
        validation: the share of the items of the other labels that is held out for measuring; 20%.
        method: ``head``: the MLP; ``ridge``: the linear map with the smallest squared error, whose penalty is chosen by
            leaving labels out, for few labels; ``conse``: the mean of the text vectors of the ten most probable trained
            classes, weighted by their probabilities under a linear classifier; ``auto``: the method with which the
            words of unseen labels find their items best.
        hidden: the widths of the layers before the last one.
        dropout: the share of the hidden values that are dropped in training.
        loss: ``cosine``: 1 - cosine to the label's text vector; ``hinge``: the paper's rank loss with ``margin``.
        margin: the margin of the hinge loss.
        learning_rate: the learning rate of Adam.
        batch: the number of items per step.
        epochs: the maximum number of epochs.
        patience: the number of epochs without a better hit@1 on validation items after which training ends.
        seed: the seed of the holdouts, the weights, the dropout and the order of items.
        retrain: when a run trains the head again.
    """

    kind: Literal["devise"]
    inputs: Annotated[list[HeadInput], Field(min_length=1, max_length=1)]
    text_encoder: Name
    prompt: Text = "{label}"
    unseen: list[Text] | None = None
    holdout: Share | None = None
    validation: Share = 0.2
    method: Literal["head", "ridge", "conse", "auto"] = "head"
    hidden: list[Count] = [600, 300]
    dropout: Part = 0.1
    loss: Literal["cosine", "hinge"] = "cosine"
    margin: Rate = 0.1
    learning_rate: Rate = 1e-3
    batch: Count = 128
    epochs: Count = 60
    patience: Count = 20
    seed: NonNegativeInt = 0
    retrain: Retrain | None = None

    @model_validator(mode="after")
    def _sound(self) -> DeviseSpec:
        if "{label}" not in self.prompt:
            raise ValueError(f"prompt {self.prompt!r} has no {{label}}; write, for example, 'a photo of a {{label}}'")
        if self.unseen is not None and self.holdout is not None:
            raise ValueError("give one of 'unseen' (labels) and 'holdout' (a share of them), not both")
        if self.holdout is not None and not 0 <= self.holdout < 1:
            raise ValueError(f"holdout is {self.holdout:.0%}; some labels have to be trained on")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation is {self.validation:.0%}; some items have to be trained on")
        return self

    @property
    def held_out(self) -> float:
        """The share of the labels that is excluded from training."""
        return 0.0 if self.unseen is not None else 0.2 if self.holdout is None else self.holdout


def head_kind(value: Any) -> str:
    """Return the kind of a head's node; ``logistic`` if there is none."""
    kind = value.get("kind", "logistic") if isinstance(value, dict) else getattr(value, "kind", "logistic")
    return str(kind)


Head = Annotated[
    Annotated[HeadSpec, Tag("logistic")]
    | Annotated[ZeroShotSpec, Tag("zero_shot")]
    | Annotated[TwoTowerSpec, Tag(TWO_TOWER)]
    | Annotated[DeviseSpec, Tag(DEVISE)],
    Discriminator(head_kind),
]
VectorHead = TwoTowerSpec | DeviseSpec


@dataclass(frozen=True)
class TowerEpoch:
    """The results of an epoch.

    Attributes:
        loss: the mean loss over its batches.
        figures: the figures of the validation data, by name.
    """

    epoch: int
    loss: float
    figures: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class TowerInput:
    """The input of a tower: rows of this output of this feature.

    Attributes:
        source: the source of the feature.
        dim: the length of the vectors.
        model: the folder of the feature's prepared model, relative to the store; empty for a source's own vectors.
    """

    feature: str
    output: str
    source: str
    dim: int
    space: str
    model: str = ""


@dataclass(frozen=True)
class VectorHeadCard:
    """Facts of a trained head that returns vectors; written as ``card.json`` last.

    Attributes:
        name: the name in the spec.
        kind: ``two_tower`` or ``devise``.
        digest: the digest that names the folder; covers the head's node, the data and the code's REVISION.
        release: the release whose features it was trained on; published by ``run``.
        inputs: the inputs by tower, ``clip`` and ``text``; DeViSE's text encoder is ``text_model``.
        dim: the width of the new space.
        space: the name of the new space.
        settings: the head's node of the spec, with defaults filled in.
        counts: the numbers of pairs, videos, classes, ... for training and validation.
        items: the number of items that the training read.
        sketch: the smallest 4,096 hashes of them, by which a later run estimates how many have changed.
        text_model: the folder of the prepared text encoder for queries; empty if there is none.
        method: the chosen method of DeViSE.
        metrics: the metrics on the validation data at the kept epoch; ``key`` names the deciding one.
        figures: the same as measured by ``cliploom evaluate``, with intervals, chance levels and query counts: by part,
            see ``cliploom.transforms.metrics.retrieval.RetrievalMetrics.to_dict``.
        labels: the names of the labels that DeViSE was trained on; all others are unseen.
    """

    name: str
    kind: str
    digest: str
    created_at: str
    program: str
    release: int
    run: str
    inputs: dict[str, TowerInput]
    dim: int
    space: str
    settings: dict[str, Any]
    counts: dict[str, int]
    items: int
    sketch: tuple[int, ...]
    text_model: str
    metrics: dict[str, float]
    key: str
    epochs: tuple[TowerEpoch, ...]
    best: int
    method: str = ""
    seconds: float = 0.0
    libraries: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    @property
    def normalize(self) -> bool:
        """Whether the vectors have length 1."""
        return self.kind == DEVISE or bool(self.settings["normalize"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> VectorHeadCard:
        """Create a card from the result of ``to_dict``."""
        inputs = {side: TowerInput(**each) for side, each in value["inputs"].items()}
        epochs = tuple(TowerEpoch(**each) for each in value["epochs"])
        labels = tuple(value.get("labels", ()))
        return cls(**(value | {"inputs": inputs, "epochs": epochs, "sketch": tuple(value["sketch"]), "labels": labels}))


@dataclass(frozen=True)
class ProjectionJob:
    """How to compute a feature from the rows of another one; workers need nothing else.

    Attributes:
        name: the name of the feature.
        head: the name of the head; ``trained`` is the folder of the trained head, relative to the store.
        base: the feature to read; ``output`` and ``dim`` are its output and width.
        config: the digest of the model and of the base's config; ``table`` is the folder of the Delta table.
        model: the folder of the prepared model, relative to the store.
        recipe: the values behind the config digest, for readable reasons.
    """

    name: str
    source: str
    head: str
    trained: str
    base: str
    output: str
    dim: int
    config: str
    table: str
    model: str
    card: ModelCard
    recipe: dict[str, Any]

    @property
    def outputs(self) -> dict[str, int]:
        """The only output and its width."""
        return {name: output.dim for name, output in self.card.outputs.items()}

    @property
    def columns(self) -> dict[str, OutputEntry]:
        """The output's entry in a release."""
        return {
            name: OutputEntry(dim=found.dim, space=found.space, text=found.text)
            for name, found in self.card.outputs.items()
        }
