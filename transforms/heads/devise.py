"""Trains DeViSE, as an MLP or in closed form, and ConSE for comparison: from item vectors to label vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cliploom.schemas.vector_heads import CLIP, DeviseSpec, TowerEpoch
from cliploom.transforms.heads.pooling import unit_rows
from cliploom.transforms.heads.ridge import ridge_map
from cliploom.transforms.heads.tower_training import (
    TowerState,
    Weights,
    layers_of,
    mlp,
    state_of,
    tower_layers,
    train_epochs,
)
from cliploom.transforms.heads.towers import Tower
from cliploom.transforms.heads.training import ScalarLog
from cliploom.transforms.heads.word_hits import hit_figures

SEEN_KEY, LOSS_KEY = "seen_hit@1", "minus_loss"
_MOST_MEASURED = 4096


@dataclass(frozen=True)
class LabelledItems:
    """Items with their labels.

    Attributes:
        vectors: float32 [n, D], may be a memory map.
        places: int64 [m], the positions of the items in ``vectors``.
        labels: bool [m, classes].
    """

    vectors: NDArray[np.float32]
    places: NDArray[np.int64]
    labels: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the vectors and labels of some of the items."""
        return np.array(self.vectors[self.places[chosen]], np.float32), self.labels[chosen]


def devise_loss(found: Any, labels: Any, classes: Any, spec: DeviseSpec) -> Any:
    """Return the loss of a batch.

    Source: docs/formats.md section 5.

    Args:
        found: projections [B, D].
        labels: float32 [B, C], 1 for an item's labels.
        classes: unit text vectors [C, D] of the classes that are trained on.
        spec: the spec of the head, which selects the loss.
    """
    if spec.loss == "cosine":
        target = tf.math.l2_normalize(tf.matmul(labels, classes), axis=1)
        return tf.reduce_mean(1 - tf.reduce_sum(target * tf.math.l2_normalize(found, axis=1), axis=1))
    scores = tf.matmul(found, classes, transpose_b=True)
    own = tf.reduce_sum(scores * labels, axis=1) / tf.reduce_sum(labels, axis=1)
    over = tf.nn.relu(spec.margin - own[:, None] + scores) * (1 - labels)
    return tf.reduce_mean(tf.reduce_sum(over, axis=1))


def softmax_loss(logits: Any, labels: Any) -> Any:
    """Return the softmax cross-entropy; the probability of 1 is shared among an item's labels."""
    truth = labels / tf.reduce_sum(labels, axis=1, keepdims=True)
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(truth, logits))


class DeviseLearner:
    """The MLP, or ConSE's linear classifier, and Adam; see ``tower_training.Learner``.

    Args:
        spec: the spec of the head.
        method: ``head`` or ``conse``.
        items: the training items, with labels of the trained classes.
        validation: other items of the same classes; may be empty.
        classes: unit text vectors float32 [C, D] of the trained classes.
    """

    def __init__(
        self,
        spec: DeviseSpec,
        method: str,
        items: LabelledItems,
        validation: LabelledItems,
        classes: NDArray[np.float32],
    ) -> None:
        keras.utils.set_random_seed(spec.seed)
        self._spec, self._method, self._items, self._validation, self._classes = (
            spec,
            method,
            items,
            validation,
            classes,
        )
        dims = [*spec.hidden, classes.shape[1]] if method == "head" else [len(classes)]
        self.model = mlp(items.vectors.shape[1], dims, spec.dropout, seed=spec.seed, name=CLIP)
        if method == "conse":
            # The problem is convex: start at zero, as a logistic head does.
            self.model.set_weights([np.zeros_like(each) for each in self.model.get_weights()])
        self.key = SEEN_KEY if len(validation) else LOSS_KEY
        self._optimizer = keras.optimizers.Adam(spec.learning_rate)
        self._optimizer.build(self.model.trainable_variables)
        self.variables: Sequence[Any] = [*state_of(self.model), *self._optimizer.variables]
        self._texts = tf.constant(classes)
        self._step = tf.function(self._one_step, reduce_retracing=True)
        self._loss = float("nan")

    def run_epoch(self, epoch: int) -> float:
        """Train on every item once."""
        order = np.random.default_rng([self._spec.seed, epoch]).permutation(len(self._items)).astype(np.int64)
        losses = []
        for begin in range(0, len(order), self._spec.batch):
            vectors, labels = self._items.batch(order[begin : begin + self._spec.batch])
            losses.append(float(self._step(tf.constant(vectors), tf.constant(labels.astype(np.float32)))))
        self._loss = float(np.mean(losses))
        return self._loss

    def _one_step(self, vectors: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            found = self.model(vectors, training=True)
            if self._method == "head":
                loss = devise_loss(found, labels, self._texts, self._spec)
            else:
                loss = softmax_loss(found, labels)
        trainable = self.model.trainable_variables
        self._optimizer.apply(tape.gradient(loss, [each.value for each in trainable]), trainable)
        return loss

    def measure(self) -> dict[str, float]:
        """Return the hits of the validation items among the trained classes; without validation items, the loss."""
        if self.key == LOSS_KEY:
            return {LOSS_KEY: -self._loss}
        return measure_words(
            tower_of(self.weights(), self._method, self._classes), self._validation, self._classes, "seen"
        )

    def weights(self) -> Weights:
        """Return the layers."""
        return layers_of(self.model, CLIP)


@dataclass(frozen=True)
class LearnedMethod:
    """A trained method.

    Attributes:
        state: the state of all epochs; the closed form has one.
        tower: the tower of the best epoch.
        key: the figure that selected the epoch.
    """

    state: TowerState
    tower: Tower
    key: str


def learn_method(
    spec: DeviseSpec,
    method: str,
    items: LabelledItems,
    validation: LabelledItems,
    classes: NDArray[np.float32],
    folder: Path,
    on_stage: Callable[[str], None],
) -> LearnedMethod:
    """Train one method; see ``DeviseLearner`` for the arguments.

    Args:
        spec: the spec of the head.
        method: ``head``, ``ridge`` or ``conse``.
        items: the training items.
        validation: other items of the same classes; may be empty.
        classes: unit text vectors float32 [C, D] of the trained classes.
        folder: the folder for the state and the logs.
        on_stage: a callback that receives progress messages.
    """
    if method != "ridge":
        learner = DeviseLearner(spec, method, items, validation, classes)
        state = train_epochs(learner, spec.epochs, spec.patience, folder, on_stage)
        return LearnedMethod(state, tower_of(state.weights, method, classes), learner.key)
    began = time.perf_counter()
    (kernel, bias), penalty = ridge_map(len(items), items.batch, classes, spec.seed)
    weights = {f"{CLIP}.0.kernel": kernel, f"{CLIP}.0.bias": bias}
    tower = tower_of(weights, method, classes)
    some = items.batch(np.arange(min(len(items), _MOST_MEASURED), dtype=np.int64))
    target = unit_rows(some[1].astype(np.float32) @ classes)
    loss = float((1 - (tower.apply(some[0]) * target).sum(axis=1)).mean())
    figures = measure_words(tower, validation, classes, "seen") if len(validation) else {LOSS_KEY: -loss}
    epoch = TowerEpoch(1, loss, figures, round(time.perf_counter() - began, 3))
    with ScalarLog(folder / "logs") as log:
        log.write(1, {"loss": loss, **figures})
    on_stage(f"ridge: penalty {penalty:g}, loss {loss:.4f}")
    return LearnedMethod(TowerState([], [epoch], 1, weights), tower, SEEN_KEY if len(validation) else LOSS_KEY)


def tower_of(weights: Weights, method: str, classes: NDArray[np.float32]) -> Tower:
    """Return the trained tower."""
    return Tower(tower_layers(weights, CLIP), classes if method == "conse" else None, unit=True)


def measure_words(tower: Tower, items: LabelledItems, classes: NDArray[np.float32], name: str) -> dict[str, float]:
    """Return the flat hit@k of items among classes by cosine, as ``<name>_hit@k``."""
    vectors, labels = items.batch(np.arange(len(items), dtype=np.int64))
    found = hit_figures(tower.apply(vectors) @ unit_rows(classes).T, labels)
    return {f"{name}_{figure}": value for figure, value in found.items()}
