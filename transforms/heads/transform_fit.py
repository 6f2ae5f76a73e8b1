"""Learns a head's steps with tf.Transform, and builds its TensorFlow graph. Imported by ``cliploom train`` only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
from numpy.typing import NDArray

from cliploom.schemas.head_steps import BucketsStep, PcaStep, RangeStep, Step, VocabularyStep, ZscoreStep
from cliploom.schemas.heads import InputColumn
from cliploom.transforms.heads.dataset import mapped, read_texts
from cliploom.transforms.heads.transform import Block, LearnedStep, apply_steps, blank_row, rounds_of, steps_of_inputs
from cliploom.transforms.tfrecords.analysis import Analyze, batch_of, for_each_row, read_graph
from cliploom.transforms.wire import Spread

_ROWS = 4096


@dataclass(frozen=True)
class StepsTask:
    """The data to learn steps from: a file of joined vectors, float32 [rows, dim], and the folder for transform graphs.

    Dependent steps are learned in rounds, with one pipeline and graph each: Beam's local runner cannot schedule
    tf.Transform's analysis of more than two dependent steps.

    Attributes:
        steps: the declared steps.
        inputs: the inputs of the head, in the order in which they are joined.
        folder: the parent folder of one folder per round.
        texts: the file of the rows' texts, for text inputs.
        learned: the steps of earlier rounds.
    """

    vectors: str
    rows: int
    steps: tuple[Step, ...]
    inputs: tuple[InputColumn, ...]
    folder: str
    texts: str = ""
    round: int = 0
    learned: tuple[LearnedStep, ...] = ()

    @property
    def declared(self) -> list[tuple[Step, str]]:
        """The steps with their inputs."""
        return steps_of_inputs(self.steps, self.inputs)

    @property
    def places(self) -> list[int]:
        """The positions of this round's steps among the declared ones."""
        return rounds_of(self.declared)[self.round]

    @property
    def graph(self) -> str:
        """The folder of this round."""
        return f"{self.folder}/{self.round}"

    def blocks(self, rows: NDArray[np.float32], texts: NDArray[np.object_] | None) -> dict[str, Block]:
        """Return the blocks of each input before this round, by its column in the graph."""
        blocks = apply_steps(self.learned, rows, self.inputs, texts)
        return {column(place): block for place, block in enumerate(blocks)}

    def blank(self) -> dict[str, Block]:
        """Return the blocks of one row of zeros and empty texts."""
        return self.blocks(*blank_row(self.inputs))


def column(place: int) -> str:
    """Return the name of an input in the transform graphs, which is also that of its block after their steps."""
    return f"input_{place}"


def learn(task: StepsTask, run: Callable[[Callable[[beam.Pipeline], None]], object]) -> tuple[LearnedStep, ...]:
    """Learn all steps and write their graphs to ``task.folder``.

    Args:
        task: the task of the first round.
        run: a function that runs a Beam graph, given the function that builds it.
    """
    found: dict[int, LearnedStep] = {}
    for number in range(len(rounds_of(task.declared))):
        each = replace(task, round=number, learned=tuple(found[place] for place in sorted(found)))
        run(partial(build_round, task=each))
        found |= learned_steps(each)
    return tuple(found[place] for place in sorted(found))


class _ReadRangeFn(beam.DoFn):  # type: ignore[misc]
    """Maps the number of a first row to a batch of rows from there."""

    def __init__(self, task: StepsTask) -> None:
        super().__init__()
        self._task = task

    def process(self, start: int) -> Iterator[pa.RecordBatch]:
        """Read rows through a memory map."""
        task = self._task
        rows = mapped(Path(task.vectors), task.rows, sum(each.dim for each in task.inputs))[start : start + _ROWS]
        texts = read_texts(Path(task.texts), start, _ROWS) if task.texts else None
        yield batch_of(task.blocks(rows, texts))


def build_round(pipeline: beam.Pipeline, task: StepsTask) -> None:
    """Analyze all rows, and write the round's graph."""
    _ = (
        pipeline
        | "Ranges" >> beam.Create(list(range(0, task.rows, _ROWS)))
        | "SpreadRanges" >> Spread()
        | "ReadRange" >> beam.ParDo(_ReadRangeFn(task)).with_output_types(pa.RecordBatch)
        | "Analyze" >> Analyze(task.blank(), partial(graph_of, task), task.graph)
    )


def graph_of(task: StepsTask, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the blocks after the round's steps, and the learned constants, repeated per row."""
    blocks = dict(columns)
    known: dict[str, Any] = {}
    names = [each.name for each in task.inputs]
    for place in task.places:
        step, name = task.declared[place]
        key = column(names.index(name))
        rows = columns[key]
        blocks[key], constants = in_tensorflow(step, rows, vocabulary_name(place))
        known |= {f"learned_{place}_{each}": for_each_row(value, rows) for each, value in constants.items()}
    return blocks | known


def vocabulary_name(place: int) -> str:
    """Return the file of a vocabulary in the graph."""
    return f"step_{place}"


def in_tensorflow(step: Step, rows: Any, vocabulary: str) -> tuple[Any, dict[str, Any]]:
    """Apply ``LearnedStep.apply`` to a tensor; also return the constants that tf.Transform computes.

    Args:
        step: the declared step.
        rows: float32 [n, D], or texts [n, 1].
        vocabulary: the file name of a vocabulary.
    """
    match step:
        case ZscoreStep():
            mean = tft.mean(rows, reduce_instance_dims=False)
            deviation = tf.sqrt(tft.var(rows, reduce_instance_dims=False))
            return (rows - mean) / _divisor(deviation), {"mean": mean, "deviation": deviation}
        case RangeStep(low=low, high=high):
            least, most = tft.min(rows, reduce_instance_dims=False), tft.max(rows, reduce_instance_dims=False)
            return (rows - least) / _divisor(most - least) * (high - low) + low, {"low": least, "high": most}
        case PcaStep(components=components):
            mean = tft.mean(rows, reduce_instance_dims=False)
            vectors = tft.pca(rows, components, tf.float32)
            return (rows - mean) @ vectors, {"mean": mean, "vectors": vectors}
        case BucketsStep(count=count):
            bounds = tft.quantiles(rows, count, epsilon=0.1 / count, reduce_instance_dims=False)
            places = tf.reduce_sum(tf.cast(rows[:, :, None] >= bounds, tf.int32), axis=2)
            return _flat(tf.one_hot(places, count), rows.shape[1] * count), {"bounds": bounds}
        case VocabularyStep(size=size):
            words = rows if rows.dtype == tf.string else tf.cast(tf.round(rows), tf.int64)
            places = tft.compute_and_apply_vocabulary(words, top_k=size, vocab_filename=vocabulary)
            return _flat(tf.one_hot(places, size), rows.shape[1] * size), {}


def _divisor(spread: Any) -> Any:
    return tf.where(spread > 0, spread, tf.ones_like(spread))


def _flat(hot: Any, width: int) -> Any:
    return tf.reshape(hot, [-1, width])


def learned_steps(task: StepsTask) -> dict[int, LearnedStep]:
    """Return this round's steps by position, with the constants from the graph that ``build_round`` wrote."""
    blank = task.blank()
    found = read_graph(task.graph)(blank)
    names = [each.name for each in task.inputs]
    steps = {}
    for place in task.places:
        step, name = task.declared[place]
        start = f"learned_{place}_"
        constants = {key.removeprefix(start): value[0] for key, value in found.items() if key.startswith(start)}
        words: list[bytes] = []
        if isinstance(step, VocabularyStep):
            words = tft.TFTransformOutput(f"{task.graph}/graph").vocabulary_by_name(vocabulary_name(place))
        if isinstance(step, VocabularyStep) and blank[column(names.index(name))].dtype != np.object_:
            values = np.full(step.size, np.nan, np.float32)
            values[: len(words)] = [int(word) for word in words]
            constants, words = {"values": values}, []
        steps[place] = LearnedStep(step, name, constants, tuple(word.decode() for word in words))
    return steps


class TransformGraph(tf.Module):  # type: ignore[misc]
    """The graphs written by tf.Transform, as a part of another model.

    Args:
        folder: the parent folder of one folder per round.
        rounds: the number of rounds.
    """

    def __init__(self, folder: Path, rounds: int) -> None:
        super().__init__()
        self._layers = [
            tft.TFTransformOutput(str(folder / str(number) / "graph")).transform_features_layer()
            for number in range(rounds)
        ]

    def blocks(self, tensors: Sequence[Any]) -> list[Any]:
        """Return each input [n, dim] after all steps."""
        for layer in self._layers:
            found = layer({column(place): tensor for place, tensor in enumerate(tensors)})
            tensors = [found[column(place)] for place in range(len(tensors))]
        return list(tensors)
