"""tf.Transform over vectors and texts: a full pass on Beam, and the transform graph that results.

Imported only by ``cliploom fit-pca`` and ``cliploom train``, since it loads TensorFlow.
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

from cliploom.transforms.store.parts import vectors_to_arrow

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig

Preprocess = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""A function from columns to outputs, in TensorFlow and tf.Transform operations."""


Column = NDArray[np.float32] | NDArray[np.object_]
"""Columns of vectors [n, dim], or of texts [n, 1]."""


def batch_of(columns: Mapping[str, Column]) -> pa.RecordBatch:
    """Return the columns as an input batch of ``Analyze``."""
    arrays = [
        pa.array(column.tolist(), pa.list_(pa.string()))
        if column.dtype == np.object_
        else vectors_to_arrow(column.astype(np.float32, copy=False))
        for column in columns.values()
    ]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


class Analyze(beam.PTransform):  # type: ignore[misc]
    """Maps batches to the transform graph of a preprocessing function, including its statistics of the whole data set.

    Args:
        like: columns of any length, which give widths and types.
        preprocess: the preprocessing function.
        folder: the folder for the graph, on a file system accessible to all workers.
    """

    def __init__(self, like: Mapping[str, Column], preprocess: Preprocess, folder: str) -> None:
        super().__init__()
        self._like = dict(like)
        self._preprocess = preprocess
        self._folder = folder

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[str]:
        """Analyze and write; what comes out says that it is written."""
        columns = {name: schema_pb2.TensorRepresentation() for name in self._like}
        for name, column in self._like.items():
            columns[name].dense_tensor.column_name = name
            columns[name].dense_tensor.shape.dim.add(size=column.shape[1])
        schema = batch_of(self._like).schema
        with tft_beam.Context(temp_dir=f"{self._folder}/work"):
            graph = (batches, TensorAdapterConfig(schema, columns)) | tft_beam.AnalyzeDataset(self._preprocess)
            written = graph | tft_beam.WriteTransformFn(f"{self._folder}/graph")
        return written | "Written" >> beam.Map(str).with_output_types(str)


def read_graph(folder: str | Path) -> Callable[[Mapping[str, Column]], dict[str, NDArray[Any]]]:
    """Return the function that ``Analyze`` wrote to a folder: columns to outputs [n, ...]."""
    layer = tft.TFTransformOutput(f"{folder}/graph").transform_features_layer()

    def apply(columns: Mapping[str, Column]) -> dict[str, NDArray[Any]]:
        kinds = {name: tf.string if column.dtype == np.object_ else tf.float32 for name, column in columns.items()}
        found = layer({name: tf.constant(column, kinds[name]) for name, column in columns.items()})
        return {name: value.numpy() for name, value in found.items()}

    return apply


def for_each_row(value: Any, rows: Any) -> Any:
    """Return a statistic of the data set, float32, repeated for every row of a batch, as outputs must be."""
    return tf.repeat(tf.cast(value, tf.float32)[None], tf.shape(rows)[0], axis=0)
