"""Learning a head's steps with tf.Transform, and its transform graph in TensorFlow. Imported by ``cliploom train``."""

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

from schemas.head_steps import BucketsStep, PcaStep, RangeStep, Step, VocabularyStep, ZscoreStep
from schemas.heads import InputColumn
from transforms.heads.transform import LearnedStep, apply_steps, rounds_of, steps_of_inputs
from transforms.tfrecords.analysis import Analyze, batch_of, for_each_row, read_graph

_ROWS = 4096


@dataclass(frozen=True)
class StepsTask:
    """What to learn from: a file of joined vectors, float32 [rows, dim], and where the transform graphs go.

    Steps that stand behind each other are learned in rounds, a pipeline and a graph each: Beam's local runner can't
    schedule tf.Transform's analysis of more than two in a row.

    Attributes:
        steps: as declared.
        inputs: of the head, in the order in which they are joined.
        folder: a folder in it for each round.
        learned: steps of the rounds before.
    """

    vectors: str
    rows: int
    steps: tuple[Step, ...]
    inputs: tuple[InputColumn, ...]
    folder: str
    round: int = 0
    learned: tuple[LearnedStep, ...] = ()

    @property
    def declared(self) -> list[tuple[Step, str]]:
        """Each step with its input."""
        return steps_of_inputs(self.steps, self.inputs)

    @property
    def places(self) -> list[int]:
        """Places of this round's steps among those declared."""
        return rounds_of(self.declared)[self.round]

    @property
    def graph(self) -> str:
        """Folder of this round."""
        return f"{self.folder}/{self.round}"

    def blocks(self, rows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Each input's vectors [n, D] as this round finds them, by its column in the graph."""
        blocks = apply_steps(self.learned, rows, self.inputs)
        return {column(place): block for place, block in enumerate(blocks)}

    def blank(self) -> dict[str, NDArray[np.float32]]:
        """Blocks of one row of zeros."""
        return self.blocks(np.zeros((1, sum(each.dim for each in self.inputs)), np.float32))


def column(place: int) -> str:
    """Name of an input in the transform graphs, and of its block after their steps."""
    return f"input_{place}"


def learn(task: StepsTask, run: Callable[[Callable[[beam.Pipeline], None]], object]) -> tuple[LearnedStep, ...]:
    """Learn all steps; their graphs stay in ``task.folder``.

    Args:
        task: of the first round.
        run: runs a Beam graph, given what builds it.
    """
    found: dict[int, LearnedStep] = {}
    for number in range(len(rounds_of(task.declared))):
        each = replace(task, round=number, learned=tuple(found[place] for place in sorted(found)))
        run(partial(build_round, task=each))
        found |= learned_steps(each)
    return tuple(found[place] for place in sorted(found))


class ReadRange(beam.DoFn):  # type: ignore[misc]
    """The first of some rows in, a batch of them out."""

    def __init__(self, task: StepsTask) -> None:
        super().__init__()
        self._task = task

    def process(self, start: int) -> Iterator[pa.RecordBatch]:
        """Read through a memory map."""
        task = self._task
        shape = (task.rows, sum(each.dim for each in task.inputs))
        rows = np.memmap(task.vectors, np.float32, "r", shape=shape)[start : start + _ROWS]
        yield batch_of(task.blocks(rows))


def build_round(pipeline: beam.Pipeline, task: StepsTask) -> None:
    """Analyze all rows, and write the round's graph."""
    widths = {name: block.shape[1] for name, block in task.blank().items()}
    _ = (
        pipeline
        | "Ranges" >> beam.Create(list(range(0, task.rows, _ROWS)))
        | "SpreadRanges" >> beam.Reshuffle()
        | "ReadRange" >> beam.ParDo(ReadRange(task))
        | "Analyze" >> Analyze(widths, partial(graph_of, task), task.graph)
    )


def graph_of(task: StepsTask, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The blocks after the round's steps, and what these have learned, once a row."""
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
    """File of a vocabulary in the graph."""
    return f"step_{place}"


def in_tensorflow(step: Step, rows: Any, vocabulary: str) -> tuple[Any, dict[str, Any]]:
    """What ``LearnedStep.apply`` does, on a tensor [n, D]; and the constants, which tf.Transform finds."""
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
            numbers = tf.cast(tf.round(rows), tf.int64)
            places = tft.compute_and_apply_vocabulary(numbers, top_k=size, vocab_filename=vocabulary)
            return _flat(tf.one_hot(places, size), rows.shape[1] * size), {}


def _divisor(spread: Any) -> Any:
    return tf.where(spread > 0, spread, tf.ones_like(spread))


def _flat(hot: Any, width: int) -> Any:
    return tf.reshape(hot, [-1, width])


def learned_steps(task: StepsTask) -> dict[int, LearnedStep]:
    """This round's steps by place, with the constants out of the graph that ``build_round`` has left."""
    found = read_graph(task.graph)(task.blank())
    steps = {}
    for place in task.places:
        step, name = task.declared[place]
        start = f"learned_{place}_"
        constants = {key.removeprefix(start): value[0] for key, value in found.items() if key.startswith(start)}
        if isinstance(step, VocabularyStep):
            words = tft.TFTransformOutput(f"{task.graph}/graph").vocabulary_by_name(vocabulary_name(place))
            values = np.full(step.size, np.nan, np.float32)
            values[: len(words)] = [int(word) for word in words]
            constants = {"values": values}
        steps[place] = LearnedStep(step, name, constants)
    return steps


class TransformGraph(tf.Module):  # type: ignore[misc]
    """The graphs that tf.Transform wrote, as a part of another model.

    Args:
        folder: with a folder for each round.
        rounds: how many there are.
    """

    def __init__(self, folder: Path, rounds: int) -> None:
        super().__init__()
        self._layers = [
            tft.TFTransformOutput(str(folder / str(number) / "graph")).transform_features_layer()
            for number in range(rounds)
        ]

    def blocks(self, tensors: Sequence[Any]) -> list[Any]:
        """Each input [n, dim] after all steps."""
        for layer in self._layers:
            found = layer({column(place): tensor for place, tensor in enumerate(tensors)})
            tensors = [found[column(place)] for place in range(len(tensors))]
        return list(tensors)
