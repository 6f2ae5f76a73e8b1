"""Trains a head with Keras 3 on TensorFlow. Imported by ``cliploom train`` only.

After every epoch the complete training state is written to one file: weights, the optimizer's state, the figures so
far. The order of videos is drawn from (seed, epoch), so a resumed training gives the same result.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import CliploomError
from cliploom.schemas.heads import EpochFigures, HeadClass, HeadSpec
from cliploom.transforms.heads.dataset import Videos

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf

STATE_FILE = "state.npz"
_EVERY_S = 5.0
Map = Callable[[NDArray[np.float32], NDArray[np.object_] | None], NDArray[np.float32]]


@dataclass
class TrainingState:
    """The state carried from one epoch to the next.

    Attributes:
        arrays: the variables of the model and the optimizer, in order.
        best: the epoch with the smallest validation loss; ``kernel`` and ``bias`` are those after it.
    """

    arrays: list[NDArray[Any]] = field(default_factory=list)
    epochs: list[EpochFigures] = field(default_factory=list)
    best: int = 0
    kernel: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    bias: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def write(self, path: Path) -> None:
        """Replace the file atomically."""
        named = {f"array{number}": value for number, value in enumerate(self.arrays)}
        figures = json.dumps({"best": self.best, "epochs": [asdict(each) for each in self.epochs]})
        staged = path.with_suffix(".writing")
        with staged.open("wb") as file:
            np.savez(file, kernel=self.kernel, bias=self.bias, figures=np.array(figures), **named)  # type: ignore[arg-type]
        staged.replace(path)

    @classmethod
    def read(cls, path: Path) -> TrainingState:
        """Read a file that ``write`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            figures = json.loads(str(file["figures"]))
            arrays = [file[f"array{number}"] for number in range(sum(name.startswith("array") for name in file.files))]
            epochs = [EpochFigures(**each) for each in figures["epochs"]]
            return cls(arrays, epochs, figures["best"], file["kernel"], file["bias"])


def class_weights(labels: Sequence[Sequence[int]], classes: Sequence[HeadClass]) -> NDArray[np.float64]:
    """Return YouTube-8M's class weights for the given labels, float64 [classes]; counts of 0 are replaced by 1."""
    counts = dict.fromkeys((each.label for each in classes), 0)
    for numbers in labels:
        for number in numbers:
            if number in counts:
                counts[number] += 1
    return weights_of_counts([max(count, 1) for count in counts.values()])


def weights_of_counts(counts: Sequence[int]) -> NDArray[np.float64]:
    """Return ``sum(count) / (classes * count)``, float64 [classes]. Source: docs/formats.md section 4.

    >>> weights_of_counts([6, 2]).tolist()
    [0.6666666666666666, 2.0]
    """
    held = np.array(counts, np.float64)
    return np.asarray(held.sum() / (len(held) * held), np.float64)


def loss_of(spec: HeadSpec, weights: NDArray[np.float64]) -> Callable[[Any, Any], Any]:
    """Return the loss of truth and logits [B, C], averaged over the batch.

    Source: docs/formats.md section 4; ``cross_entropy`` is Keras's binary cross-entropy, averaged over classes.

    Args:
        spec: the head's node, which selects the loss.
        weights: the weights of the classes, for ``weighted_hamming``.
    """
    scale = np.asarray(weights**spec.weight_scale, np.float32)

    def loss(truth: Any, logits: Any) -> Any:
        terms = keras.ops.maximum(logits, 0) - logits * truth + keras.ops.log1p(keras.ops.exp(-keras.ops.abs(logits)))
        if spec.loss == "cross_entropy":
            return keras.ops.mean(terms)
        if spec.loss == "weighted_hamming":
            terms = terms * scale
        return keras.ops.mean(keras.ops.sum(terms, axis=-1))

    return loss


def regression(dim: int, classes: int, spec: HeadSpec, loss: Callable[[Any, Any], Any]) -> Any:
    """Return the compiled Keras model: one layer to logits, initialised with zero, since the problem is convex."""
    keras.utils.set_random_seed(spec.seed)
    layer = keras.layers.Dense(
        classes, kernel_initializer="zeros", kernel_regularizer=keras.regularizers.L2(spec.l2), name="labels"
    )
    model = keras.Sequential([keras.Input((dim,)), layer])
    model.compile(optimizer=keras.optimizers.Adam(spec.learning_rate), loss=loss)
    model.optimizer.build(model.trainable_variables)
    return model


def train(
    videos: Videos,
    validation: Videos,
    classes: Sequence[HeadClass],
    spec: HeadSpec,
    transform: Map,
    folder: Path,
    on_stage: Callable[[str], None],
    counts: Sequence[int] | None = None,
) -> TrainingState:
    """Train until the validation loss stops falling; resume an interrupted training.

    Args:
        videos: the training videos.
        validation: the validation videos for early stopping.
        classes: the class numbers, in the order of the probabilities.
        spec: the head's node.
        transform: a function applied to vectors [n, dim] and texts [n, texts] before the regression.
        folder: the folder for the state and TensorBoard's logs (``logs/``).
        on_stage: a callback that receives figures of epochs, every few seconds.
        counts: the training videos of each class, for the weights; None to count the labels of ``videos``.

    Returns:
        The state after the last epoch; ``kernel`` [dim, classes] and ``bias`` are those of the best epoch.
    """
    weights = class_weights(videos.labels, classes) if counts is None else weights_of_counts(counts)
    loss = loss_of(spec, weights)
    vectors, texts, _ = next(videos.batches(classes, 1))
    width = transform(vectors, texts).shape[1]
    model = regression(width, len(classes), spec, loss)
    variables = [*model.variables, *model.optimizer.variables]
    path = folder / STATE_FILE
    state = TrainingState()
    if path.exists():
        state = TrainingState.read(path)
        for variable, value in zip(variables, state.arrays, strict=True):
            variable.assign(value)
        on_stage(f"resuming after epoch {len(state.epochs)}")
    told_s = time.monotonic()
    with ScalarLog(folder / "logs") as log:
        while not ended(state, spec):
            figures = run_epoch(model, loss, videos, validation, classes, spec, transform, len(state.epochs) + 1)
            state.epochs.append(figures)
            if state.best == 0 or figures.validation_loss < state.epochs[state.best - 1].validation_loss:
                state.best = figures.epoch
                state.kernel, state.bias = (np.asarray(each) for each in model.layers[-1].get_weights())
            state.arrays = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]
            state.write(path)
            log.add(figures)
            if time.monotonic() - told_s >= _EVERY_S or len(state.epochs) == 1 or ended(state, spec):
                told_s = time.monotonic()
                on_stage(
                    f"epoch {figures.epoch} of {spec.epochs}: loss {figures.loss:.4f}, validation "
                    f"{figures.validation_loss:.4f}, Hit@1 {figures.hit_at_1:.3f}"
                )
    return state


def ended(state: TrainingState, spec: HeadSpec) -> bool:
    """Return whether no epochs are left, or ``patience`` of them have not reduced the validation loss."""
    done = len(state.epochs)
    return done >= spec.epochs or done - state.best >= spec.patience > 0


def run_epoch(
    model: Any,
    loss: Callable[[Any, Any], Any],
    videos: Videos,
    validation: Videos,
    classes: Sequence[HeadClass],
    spec: HeadSpec,
    transform: Map,
    epoch: int,
) -> EpochFigures:
    """Train on every video once, then measure.

    Raises:
        CliploomError: the loss is not finite.
    """
    began = time.perf_counter()
    order = np.random.default_rng([spec.seed, epoch]).permutation(len(videos))
    model.reset_metrics()
    learned = 0.0
    for vectors, texts, labels in videos.batches(classes, spec.batch, order):
        learned = float(model.train_on_batch(transform(vectors, texts), labels.astype(np.float32)))
    total, hits = 0.0, 0
    for vectors, texts, labels in validation.batches(classes, spec.batch):
        logits = model.predict_on_batch(transform(vectors, texts))
        total += float(loss(labels.astype(np.float32), logits)) * len(labels)
        hits += int(labels[np.arange(len(labels)), logits.argmax(axis=1)].sum())
    if not np.isfinite([learned, total]).all():
        raise CliploomError(
            f"The loss of epoch {epoch} is not finite; give the head a learning_rate below {spec.learning_rate}, "
            "or transform: {unit: true}."
        )
    seconds = round(time.perf_counter() - began, 3)
    return EpochFigures(epoch, learned, total / len(validation), hits / len(validation), seconds)


class ScalarLog:
    """Writes figures for TensorBoard with TensorFlow's own operations, so that TensorBoard need not be installed."""

    def __init__(self, folder: Path) -> None:
        self._writer = tf.raw_ops.SummaryWriter(shared_name=str(folder), container="")
        tf.raw_ops.CreateSummaryFileWriter(
            writer=self._writer, logdir=str(folder), max_queue=10, flush_millis=1000, filename_suffix=".v2"
        )

    def __enter__(self) -> ScalarLog:
        return self

    def __exit__(self, *_: object) -> None:
        tf.raw_ops.CloseSummaryWriter(writer=self._writer)

    def add(self, figures: EpochFigures) -> None:
        """Add the figures of an epoch of a logistic head."""
        names = ("loss", "validation_loss", "hit_at_1")
        self.write(figures.epoch, {name: getattr(figures, name) for name in names})

    def write(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Add figures of an epoch by name."""
        for name, figure in figures.items():
            value = tf.constant(figure, tf.float32)
            tf.raw_ops.WriteScalarSummary(writer=self._writer, step=epoch, tag=name, value=value)
        tf.raw_ops.FlushSummaryWriter(writer=self._writer)
