"""Trains two towers on pairs: symmetric cross-entropy over a batch, and recall on held-out videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cliploom.schemas.vector_heads import CLIP, MOST_SCALE, START_SCALE, TEXT, TwoTowerSpec
from cliploom.transforms.heads.recall import KEY, recall_figures
from cliploom.transforms.heads.tower_training import Weights, layers_of, mlp, state_of, tower_layers
from cliploom.transforms.heads.towers import Tower
from cliploom.transforms.pair_training.pair_data import PairSet, order_of

_FAR = -1e9
_MEASURED = 1024


def contrastive_loss(clips: Any, texts: Any, scale: Any, ignored: Any) -> Any:
    """Return the symmetric cross-entropy of a batch, with ``scale`` times the products as logits.

    Source: docs/formats.md section 3.

    Args:
        clips: projections [B, D].
        texts: projections [B, D] of the same pairs.
        scale: the scale of the logits.
        ignored: bool [B, B], products that are excluded in both directions.
    """
    logits = scale * tf.matmul(clips, texts, transpose_b=True)
    logits = tf.where(ignored, tf.constant(_FAR, logits.dtype), logits)
    own = tf.linalg.diag_part(logits)
    rows = tf.reduce_logsumexp(logits, axis=1) - own
    columns = tf.reduce_logsumexp(logits, axis=0) - own
    return (tf.reduce_mean(rows) + tf.reduce_mean(columns)) / 2


class TwoTowerLearner:
    """Two MLPs, the scale and AdamW; see ``tower_training.Learner``."""

    key = KEY

    def __init__(self, spec: TwoTowerSpec, pairs: PairSet, validation: PairSet) -> None:
        keras.utils.set_random_seed(spec.seed)
        clips, texts = pairs.batch(np.zeros(1, np.int64))
        self._spec, self._pairs, self._validation = spec, pairs, validation
        self.clip = mlp(clips.shape[1], spec.dims, spec.dropout, seed=spec.seed, name=CLIP)
        self.text = mlp(texts.shape[1], spec.dims, spec.dropout, seed=spec.seed + 1000, name=TEXT)
        self.scale = keras.Variable(START_SCALE, dtype="float32", name="scale")
        self._trainable = [*self.clip.trainable_variables, *self.text.trainable_variables, self.scale]
        beta_1, beta_2 = spec.betas
        self._optimizer = keras.optimizers.AdamW(
            spec.learning_rate, weight_decay=spec.weight_decay, beta_1=beta_1, beta_2=beta_2, epsilon=spec.epsilon
        )
        self._optimizer.build(self._trainable)
        self.variables: Sequence[Any] = [*state_of(self.clip, self.text), self.scale, *self._optimizer.variables]
        self._step = tf.function(self._one_step, reduce_retracing=True)

    def run_epoch(self, epoch: int) -> float:
        """Train on every pair once."""
        losses = [self._step(*batch) for batch in self.batches(epoch)]
        return float(np.mean([float(each) for each in losses])) if losses else float("nan")

    def batches(self, epoch: int) -> Iterator[tuple[Any, Any, Any]]:
        """Yield clip vectors, text vectors and the products to ignore, for each batch of at least two pairs."""
        order = order_of(self._pairs, self._spec.group, self._spec.seed, epoch)
        for begin in range(0, len(order), self._spec.batch):
            places = order[begin : begin + self._spec.batch]
            if len(places) > 1:
                clips, texts = self._pairs.batch(places)
                yield tf.constant(clips), tf.constant(texts), tf.constant(self._ignored(places))

    def _ignored(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        if self._spec.equal_texts == "negative":
            return np.zeros((len(places), len(places)), np.bool_)
        texts = self._pairs.texts[places]
        same = texts[:, None] == texts
        np.fill_diagonal(same, val=False)
        return np.asarray(same, np.bool_)

    def _one_step(self, clips: Any, texts: Any, ignored: Any) -> Any:
        with tf.GradientTape() as tape:
            one, other = self.clip(clips, training=True), self.text(texts, training=True)
            if self._spec.normalize:
                one, other = tf.math.l2_normalize(one, axis=1), tf.math.l2_normalize(other, axis=1)
            scale = tf.convert_to_tensor(self.scale)
            if self._spec.scale == "exp":
                scale = tf.exp(scale)
            loss = contrastive_loss(one, other, scale, ignored)
        self._optimizer.apply(tape.gradient(loss, [each.value for each in self._trainable]), self._trainable)
        self.scale.assign(tf.clip_by_value(tf.convert_to_tensor(self.scale), 0.0, MOST_SCALE))
        return loss

    def measure(self) -> dict[str, float]:
        """Return the recall in both directions on the validation pairs."""
        return measure_towers(towers_of(self.weights(), self._spec), self._validation)

    def weights(self) -> Weights:
        """Return the layers of both towers, and the scale."""
        scale = np.asarray([keras.ops.convert_to_numpy(self.scale)], np.float32)
        return {**layers_of(self.clip, CLIP), **layers_of(self.text, TEXT), "scale": scale}


def towers_of(weights: Weights, spec: TwoTowerSpec) -> dict[str, Tower]:
    """Return the trained towers by side."""
    return {side: Tower(tower_layers(weights, side), unit=spec.normalize) for side in (CLIP, TEXT)}


def projected(towers: dict[str, Tower], pairs: PairSet) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the clip and text projections of some pairs, float32 [n, D] each."""
    clips, texts = [], []
    for begin in range(0, len(pairs), _MEASURED):
        some = pairs.batch(np.arange(begin, min(begin + _MEASURED, len(pairs)), dtype=np.int64))
        clips.append(towers[CLIP].apply(some[0]))
        texts.append(towers[TEXT].apply(some[1]))
    return np.concatenate(clips), np.concatenate(texts)


def measure_towers(towers: dict[str, Tower], pairs: PairSet) -> dict[str, float]:
    """Return the recall figures of some pairs."""
    return recall_figures(*projected(towers, pairs))
