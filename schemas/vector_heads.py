"""Heads that give vectors: two towers trained on pairs, and DeViSE. Their nodes, and what a trained one says of itself.

Such a head projects the rows of another feature into a space that words can ask. Once ``cliploom train`` has made it,
an encoder of kind ``head`` applies it, and the feature has rows, indexes and exports like any other.
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
"""The output of a feature that such a head makes."""

CLIP, TEXT = "clip", "text"
"""The two towers; DeViSE has the first one only."""

TRAIN, VALIDATION = "train", "validation"
START_SCALE = math.log(1 / 0.07)
MOST_SCALE = math.log(100)

Rate = Annotated[PositiveFloat, Field(strict=False)]
Part = Annotated[NonNegativeFloat, Field(strict=False, lt=1)]


class VectorInput(Model):
    """One output of a feature.

    Attributes:
        feature: name of a feature.
        output: may be left out when the feature has one.
    """

    feature: Name
    output: str | None = None


class Negatives(Model):
    """Hard negatives: which other pairs share a batch with a pair.

    Attributes:
        same_video: so many other pairs of its video in a batch, which teach the model to distinguish its moments.
    """

    same_video: NonNegativeInt = 0


class TwoTowerSpec(Model):
    """Two MLPs that bring clip features and text vectors into one space, trained on pairs by ``cliploom train``.

    The defaults are those of Ego4D's tutorial: two layers of 1536, no normalisation, a scale that starts at
    ln(1 / 0.07), AdamW with the printed settings and PyTorch's default weight decay of 0.01.

    Attributes:
        pairs: an export of kind ``pairs``, format ``parquet`` or ``hdf5``.
        clip, text: instead of ``pairs``: the features to join; ``around``, ``pool``, ``keep`` and ``splits`` are those
            of an export of pairs.
        around, pool, keep, splits: with ``clip`` and ``text``; as in an export of pairs.
        validation: the split of the pairs that is not learned from, and measured on.
        holdout: where there is no such split: share of the videos, by hash of the uid with ``seed``; 20% by default.
        dims: widths of the layers of both towers; the last one is that of the new space.
        dropout: share of the hidden values that are dropped in training.
        normalize: projections are scaled to length 1, in training and in the feature.
        scale: what the products are multiplied by: the learned number itself (``plain``, the tutorial), or its
            exponential (``exp``, CLIP); it stays between 0 and ln 100.
        learning_rate, weight_decay, betas, epsilon: of AdamW.
        batch: pairs a step.
        batch_by: ``pairs`` in any order, or ``videos``: a batch has pairs of as few videos as possible.
        negatives: hard negatives.
        equal_texts: ``negative``: of pairs with the same text only the own clip counts; ``ignore``: the others count
            neither way.
        epochs: the most.
        patience: epochs without a better mean of recall@10 in both directions, after which training ends.
        most_validation: validation pairs that are measured after each epoch, a seeded choice.
        seed: of the holdout, the weights, the dropout and the order of pairs.
        retrain: when a run trains it again.
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
            raise ValueError("'around', 'keep' and 'splits' are said by the export of pairs; leave them out")
        if isinstance(self.pool, TakeSpec):
            raise ValueError("pool takes 'mean' here: a tower projects one vector a moment")
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise ValueError(f"holdout is {self.holdout:.0%}; training and validation need some videos each")
        if self.negatives.same_video >= self.batch:
            raise ValueError(f"negatives.same_video is {self.negatives.same_video}, batch {self.batch}; it is smaller")
        return self

    @property
    def held_out(self) -> float:
        """Share of the videos that is kept from training where no split is named so."""
        return 0.2 if self.holdout is None else self.holdout

    @property
    def group(self) -> int:
        """Pairs of one video that stand together in a batch."""
        return self.batch if self.batch_by == "videos" else 1 + self.negatives.same_video


class DeviseSpec(Model):
    """An MLP from vectors of items to the text vectors of their labels, so that words find classes never trained on.

    Attributes:
        inputs: one output of a feature of a labelled source; averaged over an item in training, applied to each row.
        text_encoder: an encoder of texts, such as one of kind word_vectors or minilm; its space is the new one.
        prompt: what a class is called in the text encoder; ``{label}`` stands for a synonym of its name. The vectors of
            the synonyms (a name split at commas) are averaged, each of length 1.
        unseen: labels that are kept from training, by name, to measure how well words find them.
        holdout: share of the labels that is kept so, by hash of the name with ``seed``; 20% by default.
        validation: share of the items of the other labels that is kept from training, to measure on; 20%.
        method: ``head``: the MLP; ``ridge``: the linear map with the smallest squared error, whose penalty is chosen by
            leaving labels out, for few labels; ``conse``: the mean of the text vectors of the ten most probable trained
            classes, by their probabilities under a linear classifier; ``auto``: the one by which the words of unseen
            labels find their items best.
        hidden: widths of the layers before the last one.
        dropout: share of the hidden values that are dropped in training.
        loss: ``cosine``: 1 - cosine to the label's text vector; ``hinge``: the paper's rank loss with ``margin``.
        margin: of the hinge loss.
        learning_rate: of Adam.
        batch: items a step.
        epochs: the most.
        patience: epochs without a better hit@1 on validation items, after which training ends.
        seed: of the holdouts, the weights, the dropout and the order of items.
        retrain: when a run trains it again.
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
        """Share of the labels that is kept from training."""
        return 0.0 if self.unseen is not None else 0.2 if self.holdout is None else self.holdout


def head_kind(value: Any) -> str:
    """The kind of a head's node; ``logistic`` where it says none."""
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
    """What an epoch came to.

    Attributes:
        loss: mean over its batches.
        figures: of the validation data, by name.
    """

    epoch: int
    loss: float
    figures: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class TowerInput:
    """What a tower takes: rows of this output of this feature.

    Attributes:
        source: of the feature.
        dim: length of the vectors.
        model: folder of the feature's prepared model, relative to the store; empty where its source brought them.
    """

    feature: str
    output: str
    source: str
    dim: int
    space: str
    model: str = ""


@dataclass(frozen=True)
class VectorHeadCard:
    """Facts of a trained head that gives vectors; written as ``card.json`` last.

    Attributes:
        name: in the spec.
        kind: ``two_tower`` or ``devise``.
        digest: names the folder; covers the head's node, the data and the code's REVISION.
        release: of the store, whose features it was trained on; ``run`` published that release.
        inputs: by tower, ``clip`` and ``text``; DeViSE's text encoder is ``text_model``.
        dim: of the new space.
        space: its name.
        settings: the head's node of the spec, defaults filled in.
        counts: pairs, videos, classes, ... that were trained and measured on.
        items: that the training read.
        sketch: the smallest 4,096 hashes of them, by which a later run tells how many have changed.
        text_model: folder of the prepared text encoder that queries go through; empty when there is none.
        method: of DeViSE, what was chosen.
        metrics: of the validation data, those of the epoch that was kept; ``key`` names the one that decides.
        figures: the same measured as ``cliploom evaluate`` does, with intervals, chance levels and numbers of queries:
            by part, see ``cliploom.transforms.metrics.retrieval.RetrievalMetrics.to_dict``.
        labels: names of the labels that DeViSE was trained on; any other is one that it has not seen.
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
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> VectorHeadCard:
        """Read back what ``to_dict`` gave."""
        inputs = {side: TowerInput(**each) for side, each in value["inputs"].items()}
        epochs = tuple(TowerEpoch(**each) for each in value["epochs"])
        labels = tuple(value.get("labels", ()))
        return cls(**(value | {"inputs": inputs, "epochs": epochs, "sketch": tuple(value["sketch"]), "labels": labels}))


@dataclass(frozen=True)
class ProjectionJob:
    """How a feature is made from the rows of another one; workers need no more.

    Attributes:
        name: of the feature.
        head: its name; ``trained`` is the folder of the trained head, relative to the store.
        base: the feature that is read; ``output`` and ``dim`` say what of it.
        config: digest of the model and of the base's config; ``table`` is the folder of the Delta table.
        model: folder of the prepared model, relative to the store.
        recipe: what the config digest was made from, for readable reasons.
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
        """The one output and its width."""
        return {name: output.dim for name, output in self.card.outputs.items()}

    @property
    def columns(self) -> dict[str, OutputEntry]:
        """What a release says of the output."""
        return {
            name: OutputEntry(dim=found.dim, space=found.space, text=found.text)
            for name, found in self.card.outputs.items()
        }
