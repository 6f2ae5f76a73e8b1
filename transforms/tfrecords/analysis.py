"""tf.Transform over vectors: a pass over all of them on Beam, and the transform graph that it fills in.

Imported by ``cliploom fit-pca`` and ``cliploom train`` alone, since it loads TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.store.parts import vectors_to_arrow

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig

Preprocess = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Columns to outputs, in TensorFlow's and tf.Transform's operations."""


def batch_of(columns: Mapping[str, NDArray[np.float32]]) -> pa.RecordBatch:
    """Columns float32 [n, dim] as a batch that ``Analyze`` takes."""
    return pa.RecordBatch.from_arrays([vectors_to_arrow(column) for column in columns.values()], names=list(columns))


class Analyze(beam.PTransform):  # type: ignore[misc]
    """Batches in; the transform graph of a preprocessing function, with all that it asks of the whole data set, out.

    Args:
        dims: column -> width.
        preprocess: the function.
        folder: for the graph, on a file system that all workers reach.
    """

    def __init__(self, dims: Mapping[str, int], preprocess: Preprocess, folder: str) -> None:
        super().__init__()
        self._dims = dict(dims)
        self._preprocess = preprocess
        self._folder = folder

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        """Analyze and write."""
        columns = {name: schema_pb2.TensorRepresentation() for name in self._dims}
        for name, dim in self._dims.items():
            columns[name].dense_tensor.column_name = name
            columns[name].dense_tensor.shape.dim.add(size=dim)
        schema = batch_of({name: np.empty((0, dim), np.float32) for name, dim in self._dims.items()}).schema
        with tft_beam.Context(temp_dir=f"{self._folder}/work"):
            graph = (batches, TensorAdapterConfig(schema, columns)) | tft_beam.AnalyzeDataset(self._preprocess)
            return graph | tft_beam.WriteTransformFn(f"{self._folder}/graph")


def read_graph(folder: str | Path) -> Callable[[Mapping[str, NDArray[np.float32]]], dict[str, NDArray[Any]]]:
    """The function that ``Analyze`` left in a folder: columns float32 [n, dim] to outputs [n, ...]."""
    layer = tft.TFTransformOutput(f"{folder}/graph").transform_features_layer()

    def apply(columns: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
        found = layer({name: tf.constant(column, tf.float32) for name, column in columns.items()})
        return {name: value.numpy() for name, value in found.items()}

    return apply


def for_each_row(value: Any, rows: Any) -> Any:
    """A number or tensor of the data set, float32, repeated for every row of a batch, as outputs have to be."""
    return tf.repeat(tf.cast(value, tf.float32)[None], tf.shape(rows)[0], axis=0)
