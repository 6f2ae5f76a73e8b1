"""Trains heads that return vectors, with Keras 3 on TensorFlow: layers, steps, and resumable epochs.

After every epoch the complete training state is written to one file, and every random choice is drawn from (seed,
epoch) or from state in the file, so a resumed training gives bit-identical results.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import CliploomError
from cliploom.schemas.vector_heads import TowerEpoch
from cliploom.transforms.heads.towers import CONSE_TOP, Layer, Tower

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf

from cliploom.transforms.heads.training import STATE_FILE, ScalarLog

_EVERY_S = 5.0
Weights = dict[str, NDArray[np.float32]]


class Learner(Protocol):
    """What ``train_epochs`` trains.

    Attributes:
        variables: all state that is carried from one epoch to the next.
        key: the name of the deciding validation figure; larger is better.
    """

    variables: Sequence[Any]
    key: str

    def run_epoch(self, epoch: int) -> float:
        """Train on all data once; return the mean loss."""
        ...

    def measure(self) -> dict[str, float]:
        """Return the figures of the validation data."""
        ...

    def weights(self) -> Weights:
        """Return the trained arrays by name."""
        ...


@dataclass
class TowerState:
    """The state carried from one epoch to the next; ``weights`` are those after epoch ``best``."""

    arrays: list[NDArray[Any]] = field(default_factory=list)
    epochs: list[TowerEpoch] = field(default_factory=list)
    best: int = 0
    weights: Weights = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Replace the file atomically."""
        named = {f"array{number}": value for number, value in enumerate(self.arrays)}
        named |= {f"weight.{name}": value for name, value in self.weights.items()}
        figures = json.dumps({"best": self.best, "epochs": [asdict(each) for each in self.epochs]})
        staged = path.with_suffix(".writing")
        with staged.open("wb") as file:
            np.savez(file, figures=np.array(figures), **named)  # type: ignore[arg-type]
        staged.replace(path)

    @classmethod
    def read(cls, path: Path) -> TowerState:
        """Read a file that ``write`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            figures = json.loads(str(file["figures"]))
            arrays = [file[f"array{number}"] for number in range(sum(name.startswith("array") for name in file.files))]
            weights = {name.removeprefix("weight."): file[name] for name in file.files if name.startswith("weight.")}
        return cls(arrays, [TowerEpoch(**each) for each in figures["epochs"]], figures["best"], weights)


def train_epochs(
    learner: Learner, epochs: int, patience: int, folder: Path, on_stage: Callable[[str], None]
) -> TowerState:
    """Train until the deciding figure stops improving; resume an interrupted training.

    Args:
        learner: the model to train.
        epochs: the maximum number of epochs.
        patience: the number of epochs without improvement after which training ends.
        folder: the folder for the state and TensorBoard's logs (``logs/``).
        on_stage: a callback that receives figures of epochs, every few seconds.

    Raises:
        CliploomError: the loss is not finite.
    """
    path = folder / STATE_FILE
    state = TowerState()
    if path.exists():
        state = TowerState.read(path)
        for variable, value in zip(learner.variables, state.arrays, strict=True):
            variable.assign(value)
        on_stage(f"resuming after epoch {len(state.epochs)}")
    shown_s = time.monotonic()

    def ended() -> bool:
        return len(state.epochs) >= epochs or len(state.epochs) - state.best >= patience

    with ScalarLog(folder / "logs") as log:
        while not ended():
            began, number = time.perf_counter(), len(state.epochs) + 1
            loss = learner.run_epoch(number)
            if not np.isfinite(loss):
                raise CliploomError(f"The loss of epoch {number} is not finite; give the head a smaller learning_rate.")
            figures = learner.measure()
            epoch = TowerEpoch(number, loss, figures, round(time.perf_counter() - began, 3))
            state.epochs.append(epoch)
            if state.best == 0 or figures[learner.key] > state.epochs[state.best - 1].figures[learner.key]:
                state.best, state.weights = number, learner.weights()
            state.arrays = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in learner.variables]
            state.write(path)
            log.write(number, {"loss": loss, **figures})
            if time.monotonic() - shown_s >= _EVERY_S or number == 1 or ended():
                shown_s = time.monotonic()
                on_stage(f"epoch {number} of {epochs}: loss {loss:.4f}, {learner.key} {figures[learner.key]:.4f}")
    return state


def mlp(width: int, dims: Sequence[int], dropout: float, *, seed: int, name: str) -> Any:
    """Return a model of layers with ReLU and dropout between them; Xavier uniform with ReLU's gain, zero biases.

    Args:
        width: the length of the input vectors.
        dims: the output length of each layer.
        dropout: the share of hidden values to drop.
        seed: the seed of weights and dropout.
        name: the name of the model.
    """
    layers: list[Any] = [keras.Input((width,))]
    for place, dim in enumerate(dims):
        # Xavier with gain sqrt(2): variance 2 * 2 / (in + out).
        start = keras.initializers.VarianceScaling(2.0, "fan_avg", "uniform", seed=seed + place)
        layers.append(keras.layers.Dense(dim, kernel_initializer=start, name=f"{name}_{place}"))
        if place + 1 < len(dims):
            layers.append(keras.layers.ReLU())
            if dropout:
                layers.append(keras.layers.Dropout(dropout, seed=seed + 100 + place))
    return keras.Sequential(layers, name=name)


def layers_of(model: Any, side: str) -> Weights:
    """Return the arrays of a model's layers by name."""
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    found: Weights = {}
    for place, layer in enumerate(dense):
        kernel, bias = (np.asarray(each, np.float32) for each in layer.get_weights())
        found |= {f"{side}.{place}.kernel": kernel, f"{side}.{place}.bias": bias}
    return found


def tower_layers(weights: Mapping[str, NDArray[np.float32]], side: str) -> tuple[Layer, ...]:
    """Return the layers of one side from arrays by name."""
    count = sum(name.startswith(f"{side}.") and name.endswith(".kernel") for name in weights)
    return tuple((weights[f"{side}.{place}.kernel"], weights[f"{side}.{place}.bias"]) for place in range(count))


def state_of(*models: Any) -> list[Any]:
    """Return the variables of models and the states of their dropout, in order."""
    return [variable for model in models for variable in model.variables]


def golden_rows(tower: Tower, given: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return some rows, and the tower's results for them in TensorFlow, to compare the prepared graph with."""
    found = tf.constant(given)
    for place, (kernel, bias) in enumerate(tower.layers):
        found = tf.matmul(found, kernel) + bias
        if place + 1 < len(tower.layers):
            found = tf.nn.relu(found)
    if tower.classes is not None:
        top = tf.math.top_k(found, min(CONSE_TOP, len(tower.classes)))
        weights = tf.nn.softmax(top.values, axis=1)
        found = tf.reduce_sum(weights[:, :, None] * tf.gather(tower.classes, top.indices), axis=1)
    if tower.unit:
        found = tf.math.l2_normalize(found, axis=1)
    return given, np.asarray(found.numpy(), np.float32)
