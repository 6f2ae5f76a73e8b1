"""Heads: small models trained on a store's features. Their nodes in a spec, and what a trained one says of itself.

A head is a logistic regression over the mean of a video's vectors. Once ``cliploom train`` has made it, an encoder of
kind ``head`` applies it: a feature with that encoder has no rows of its own, it fills the table ``labels``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from cliploom.schemas.head_steps import Step
from cliploom.schemas.spec_base import Model, Name, Text
from cliploom.schemas.units import Count, PositiveSeconds, Share

HEAD = "head"
"""The encoder kind that applies a trained head."""

DEFAULT_HOLDOUT = 0.2
PREDICTED = "predicted:"
"""The origin of predicted labels is this and the name of the feature."""


class HeadInput(Model):
    """The vectors that a head reads, or a text, which needs a ``vocabulary`` among the steps.

    Attributes:
        feature: the feature whose rows are averaged over a video; for a text its first row is used.
        output: the output; optional if the feature has only one.
        name: the name of the feature in tf.train.Examples for the SavedModel; by default ``mean_`` and the output, as
            in YouTube-8M's video-level records, for a text only the output.
    """

    feature: Name
    output: str | None = None
    name: Text | None = None


class HeadTransform(Model):
    """The transform of the input vectors before the regression, in training, in the pipeline and in the SavedModel.

    Attributes:
        steps: the steps in order; tf.Transform fits them to all training videos.
        unit: whether to scale each input's vector to length 1 afterwards.
    """

    steps: list[Step] = []
    unit: bool = False


class Retrain(Model):
    """When a run trains a head again before publishing.

    Attributes:
        after: the share of the training data that must be new or deleted since the last training.
        margin: how much worse the new model's validation figure may be, as a difference; beyond it the run stops with
            exit code 3 and the old model stays (``--accept-worse`` publishes the new one).
    """

    after: Share
    margin: Annotated[NonNegativeFloat, Field(strict=False)] = 0.01


class HeadSpec(Model):
    """A logistic regression from vectors to the labels of the table ``labels``, trained by ``cliploom train``.

    Attributes:
        inputs: the inputs, concatenated in this order; all from features of one source.
        validation: inputs from another source, such as YouTube-8M's validation shards, instead of a holdout.
        holdout: the share of the videos, by hash of the uid with ``seed``, that is held out; 20% by default.
        transform: the transform of the vectors, stored with the model.
        loss: ``cross_entropy`` is averaged over classes, ``hamming`` summed, ``weighted_hamming`` summed with weights.
        weight_scale: the weight of a class is (labels of all videos / (classes * videos with this one)) ^ scale.
        class_weights: the counts used for the weights: ``videos``, those of the training videos, with 0 replaced by 1;
            ``vocabulary``, the column TrainVideoCount of the source's vocabulary, as in the published system.
        l2: the factor of the sum of squared weights in the loss.
        learning_rate: the learning rate of Adam.
        batch: the number of videos per step.
        epochs: the maximum number of epochs.
        patience: the number of epochs without a smaller validation loss after which training ends; the best epoch is
            kept.
        seed: the seed of the holdout and of the order of videos.
        retrain: when a run trains the head again; ``margin`` applies to Hit@1.
    """

    kind: Literal["logistic"] = "logistic"
    inputs: Annotated[list[HeadInput], Field(min_length=1)]
    validation: Annotated[list[HeadInput], Field(min_length=1)] | None = None
    holdout: Share | None = None
    transform: HeadTransform = HeadTransform()
    loss: Literal["cross_entropy", "hamming", "weighted_hamming"] = "cross_entropy"
    weight_scale: Annotated[NonNegativeFloat, Field(strict=False)] = 1.0
    class_weights: Literal["videos", "vocabulary"] = "videos"
    l2: Annotated[NonNegativeFloat, Field(strict=False)] = 1e-8
    learning_rate: Annotated[PositiveFloat, Field(strict=False)] = 0.01
    batch: Count = 1024
    epochs: Count = 100
    patience: Count = 10
    seed: NonNegativeInt = 0
    retrain: Retrain | None = None

    @model_validator(mode="after")
    def _one_validation(self) -> HeadSpec:
        if self.validation is not None and self.holdout is not None:
            raise ValueError("give one of 'validation' (inputs of another source) and 'holdout' (a share), not both")
        if self.validation is not None and len(self.validation) != len(self.inputs):
            raise ValueError(f"'validation' names {len(self.validation)} inputs and 'inputs' {len(self.inputs)}")
        if self.class_weights == "vocabulary" and self.loss != "weighted_hamming":
            raise ValueError(
                "class_weights: vocabulary is for loss: weighted_hamming; the other losses have no weights"
            )
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise ValueError(f"holdout is {self.holdout:.0%}; training and validation need some videos each")
        return self

    @property
    def recipe(self) -> dict[str, Any]:
        """Return the fields that a trained head depends on; newer keys are omitted at their defaults."""
        later = {"kind", "retrain"} | ({"class_weights"} if self.class_weights == "videos" else set())
        return self.model_dump(mode="json", exclude=later)

    @property
    def held_out(self) -> float:
        """The share of the training inputs' videos that is held out for validation."""
        if self.validation is not None:
            return 0.0
        return DEFAULT_HOLDOUT if self.holdout is None else self.holdout


class ZeroShotSpec(Model):
    """Class names compared with a feature that supports texts; needs no training.

    Attributes:
        feature: a feature whose encoder has a text tower.
        output: the output; optional if the feature has only one.
        labels: a source of kind ``labels``: the class names and the templates. The vectors of a name's templates are
            each scaled to length 1, averaged, and scaled again.
        pool: ``before``: a video's rows are averaged, then compared. ``after``: each row is compared, and the
            similarities are averaged.
        similarity: ``cosine``, or ``dot`` of the unscaled vectors (S3D); templates are then averaged without scaling.
        scores: ``similarity``, or ``softmax`` over the classes of similarity / temperature.
        temperature: the temperature of the softmax; CLIP's is 0.01.
    """

    kind: Literal["zero_shot"]
    feature: Name
    output: str | None = None
    labels: Name
    pool: Literal["before", "after"] = "before"
    similarity: Literal["cosine", "dot"] = "cosine"
    scores: Literal["similarity", "softmax"] = "similarity"
    temperature: Annotated[PositiveFloat, Field(strict=False)] = 1.0

    @model_validator(mode="after")
    def _temperature_of_softmax(self) -> ZeroShotSpec:
        if self.temperature != 1.0 and self.scores != "softmax":
            raise ValueError("'temperature' is for scores: softmax; add it, or remove the temperature")
        return self

    @property
    def inputs(self) -> list[HeadInput]:
        """The feature, in the form of the inputs of other heads."""
        return [HeadInput(feature=self.feature, output=self.output)]

    @property
    def validation(self) -> None:
        """Empty: nothing is trained, so nothing is held out."""
        return None


class HeadEncoder(Model):
    """A trained head as an encoder.

    A feature of a logistic head names a source and this encoder, and fills the table ``labels``. A feature of a head of
    kind ``two_tower`` or ``devise`` has a row with the output ``embedding`` for each row of the feature that it reads:
    the head's clip or text feature, whichever has the named source.

    Attributes:
        head: the name of one of ``heads``.
        inputs: features to read instead of those that the head was trained on, of the same widths.
        top: the number of labels to keep per video, and per segment.
        segments: the length of the segments that get labels of their own.
    """

    kind: Literal["head"]
    head: Name
    inputs: Annotated[list[HeadInput], Field(min_length=1)] | None = None
    top: Count = 20
    segments: PositiveSeconds = 5.0


@dataclass(frozen=True)
class InputColumn:
    """One input of a head, with all defaults resolved.

    Attributes:
        name: the name in served Examples.
        dim: the number of values of a vector; 0 for a text.
        space: the vector space.
        type: the type of the values in served Examples, see ``cliploom.schemas.release.OutputEntry``.
    """

    feature: str
    output: str
    name: str
    dim: int
    space: str
    type: str = "float32"

    @property
    def is_text(self) -> bool:
        """Whether it is a text, not a vector."""
        return self.type == "text"


@dataclass(frozen=True)
class HeadClass:
    """One class: its number in the table ``labels`` and its name."""

    label: int
    name: str


@dataclass(frozen=True)
class EpochFigures:
    """The results of an epoch; ``hit_at_1`` is that of the validation videos."""

    epoch: int
    loss: float
    validation_loss: float
    hit_at_1: float
    seconds: float


@dataclass(frozen=True)
class HeadCard:
    """Facts of a trained head; written as ``card.json`` last, so that a folder with a card is complete.

    Attributes:
        name: the name in the spec.
        digest: the digest that names the folder; covers the head's node, the vectors, the labels and the code's
            REVISION.
        release: the release whose features and labels it was trained on; published by ``run``.
        source: the source of the training videos; ``validation_source`` that of the validation videos.
        inputs: the inputs, in the order of concatenation.
        classes: the classes, in the order of the probabilities.
        settings: the head's node of the spec, with defaults filled in.
        videos: the numbers of videos in ``train`` and ``validation``.
        majority: the Hit@1 of always predicting the training videos' most frequent class.
        metrics: the metrics on the validation videos, by the names of
            ``cliploom.transforms.metrics.labels.LabelMetrics``, and ``previous_model``, the Hit@1 of the previous
            model.
        figures: flat hit@k and mAP on the validation videos, as from ``cliploom evaluate``, with intervals and chance
            levels.
        items, sketch: the size and sketch of the training data, see ``cliploom.transforms.heads.sketches``.
        seconds: the duration of the training.
        epochs: the results of every epoch; ``best`` is the number of the kept one.
    """

    name: str
    digest: str
    created_at: str
    program: str
    release: int
    run: str
    source: str
    validation_source: str
    inputs: tuple[InputColumn, ...]
    classes: tuple[HeadClass, ...]
    settings: dict[str, Any]
    videos: dict[str, int]
    majority: float
    metrics: dict[str, float]
    epochs: tuple[EpochFigures, ...]
    best: int
    libraries: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    items: int = 0
    sketch: tuple[int, ...] = ()
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """The metric by which it is compared with the previous model."""
        return "hit_at_1"

    @property
    def spec(self) -> HeadSpec:
        """The head's node at training time."""
        return HeadSpec.model_validate(self.settings)

    @property
    def zero_shot(self) -> ZeroShotSpec | None:
        """The node of a zero-shot head; None for a trained one."""
        return ZeroShotSpec.model_validate(self.settings) if self.settings.get("kind") == "zero_shot" else None

    @property
    def width(self) -> int:
        """The length of the concatenated vectors."""
        return sum(each.dim for each in self.inputs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> HeadCard:
        """Create a card from the result of ``to_dict``."""
        inputs = tuple(InputColumn(**each) for each in value["inputs"])
        classes = tuple(HeadClass(**each) for each in value["classes"])
        epochs = tuple(EpochFigures(**each) for each in value["epochs"])
        sketch = tuple(value.get("sketch", ()))
        return cls(**(value | {"inputs": inputs, "classes": classes, "epochs": epochs, "sketch": sketch}))


@dataclass(frozen=True)
class HeadJob:
    """How to compute a feature of predicted labels; workers need nothing else.

    Attributes:
        name: the name of the feature.
        model: the folder of the trained head, relative to the store.
        inputs: the features and outputs to read, in the head's order.
        config: the digest of the model, of the inputs' configs, and of ``top`` and ``segment_s``.
        recipe: the values behind the config digest, for readable reasons.
    """

    name: str
    source: str
    head: str
    model: str
    inputs: tuple[InputColumn, ...]
    top: int
    segment_s: float
    config: str
    recipe: dict[str, Any]

    @property
    def origin(self) -> str:
        """The origin of the rows in the table ``labels``."""
        return PREDICTED + self.name
