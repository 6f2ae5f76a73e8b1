"""Fits principal components of a feature, with tf.Transform on Beam.

tf.Transform computes mean and covariance over all rows in float64; the covariance's eigenvectors, largest eigenvalue
first, are the components. TensorFlow is loaded when the graph is built, and by the workers that analyze.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import arrow_to_vectors, part_path, read_rows
from cliploom.transforms.tfrecords.pca import Pca
from cliploom.transforms.wire import Spread

COLUMN = "vectors"


@dataclass(frozen=True)
class PcaTask:
    """The data to learn from: one output of a feature's parts.

    Attributes:
        store: the URI of the store.
        table: the folder of the feature's table, relative to the store.
        parts: the parts that have rows.
        folder: the folder for tf.Transform's files, accessible to all workers.
    """

    store: str
    table: str
    parts: tuple[str, ...]
    output: str
    dim: int
    folder: str


class _ReadVectorsFn(beam.DoFn):  # type: ignore[misc]
    """The name of a part in, batches of its vectors out: a row group each."""

    def __init__(self, task: PcaTask) -> None:
        super().__init__()
        self._task = task

    def process(self, part: str) -> Iterator[pa.RecordBatch]:
        """Read one part."""
        from cliploom.transforms.tfrecords.analysis import batch_of

        task = self._task
        with ObjectStore(task.store).local_copy(part_path(task.table, part)) as local:
            for rows in read_rows(local, [task.output]):
                yield batch_of({COLUMN: arrow_to_vectors(rows[task.output], task.dim)})


def build_fit(pipeline: beam.Pipeline, task: PcaTask) -> None:
    """Compute mean and covariance, and write them to ``task.folder``."""
    from cliploom.transforms.tfrecords.analysis import Analyze

    _ = (
        pipeline
        | "Parts" >> beam.Create(list(task.parts))
        | "SpreadParts" >> Spread()
        | "ReadVectors" >> beam.ParDo(_ReadVectorsFn(task)).with_output_types(pa.RecordBatch)
        | "Analyze" >> Analyze({COLUMN: np.empty((0, task.dim), np.float32)}, _moments, task.folder)
    )


def _moments(columns: Mapping[str, Any]) -> dict[str, Any]:
    import tensorflow as tf
    import tensorflow_transform as tft

    from cliploom.transforms.tfrecords.analysis import for_each_row

    rows = tf.cast(columns[COLUMN], tf.float64)
    mean = tft.mean(rows, reduce_instance_dims=False)
    covariance = tft.covariance(rows, dtype=tf.float64)
    return {"mean": for_each_row(mean, rows), "covariance": for_each_row(covariance, rows)}


def fitted(task: PcaTask) -> Pca:
    """Return all components, from the moments written by ``build_fit``."""
    from cliploom.transforms.tfrecords.analysis import read_graph

    found = read_graph(task.folder)({COLUMN: np.zeros((1, task.dim), np.float32)})
    return components_of(found["mean"][0], found["covariance"][0].astype(np.float64))


def components_of(mean: NDArray[np.float32], covariance: NDArray[np.float64]) -> Pca:
    """Return the principal components of a covariance.

    An eigenvector is only determined up to its sign; here its largest number is positive, so that equal data give equal
    matrices.

    Args:
        mean: the mean, [D].
        covariance: the covariance, [D, D].
    """
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(-values, kind="stable")
    values, vectors = np.maximum(values[order], 0.0), vectors[:, order]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    vectors = vectors * np.where(largest < 0, -1.0, 1.0)
    return Pca(mean, np.ascontiguousarray(vectors, np.float32), values.astype(np.float32))
