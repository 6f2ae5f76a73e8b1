"""An exported store, read by TensorFlow with the data set's published feature spec."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf

from cliploom.schemas.records import Content, PartRecord
from cliploom.schemas.tables import RECORD_LABELS, feature_schema
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import PartWriter, codes_to_arrow, part_path
from cliploom.transforms.tfrecords.export import PieceTask, RecordLayout, ShardTask

RANDOM = np.random.default_rng(5)
PART = "part-a.parquet"


def write_part(store: Path, codes: dict[str, np.ndarray]) -> None:
    """A part of two records, of 3 and 2 frames, with kept codes."""
    dims = {name: rows.shape[1] for name, rows in codes.items()}
    columns = [
        pa.array(range(5), pa.int64()),
        pa.array(["aa"] * 3 + ["bb"] * 2),
        pa.array([0.0, 1, 2, 0, 1]),
        pa.array([1.0, 2, 3, 1, 2]),
        pa.array([0, 1, 2, 0, 1], pa.int64()),
        pa.array(["d"] * 5),
        *(codes_to_arrow(rows) for rows in codes.values()),
        pa.array([[{"label": 9, "start_s": None, "end_s": None, "score": None}], [], [], [], []], RECORD_LABELS),
    ]
    content = Content(1, "shard", "d", 0, 1, 5, 5, 0)
    with (
        ObjectStore(store).create_file(part_path("features/yt", PART)) as path,
        PartWriter(path, dims, tuple(dims), records=True) as writer,
    ):
        writer.write_table(pa.table(columns, schema=feature_schema(dims, tuple(dims), records=True)))
        writer.finish(PartRecord("yt", "c", PART, 5, 0, "", (content,)).to_dict())


def test_tf_data_reads_exported_shards_by_the_published_spec(tmp_path: Path) -> None:
    codes = {name: RANDOM.integers(0, 256, (5, width), np.uint8) for name, width in (("rgb", 1024), ("audio", 128))}
    write_part(tmp_path, codes)
    objects = ObjectStore(tmp_path)
    layout = RecordLayout("yt8m_frame", "rgb", 1024, "audio", 128, 1, "yt", records=True, labels=None)
    piece = PieceTask("out", "features/yt", (PART,), layout)
    shard = ShardTask("out", "yt", (piece.path,), 0, 1, gzip=True)
    piece.write(objects)
    shard.write(objects)
    found = {}
    for data in tf.data.TFRecordDataset(str(tmp_path / shard.path), compression_type="GZIP"):
        context, lists = tf.io.parse_single_sequence_example(
            data,
            {"id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64)},
            {name: tf.io.FixedLenSequenceFeature([], tf.string) for name in ("rgb", "audio")},
        )
        rows = {name: tf.io.decode_raw(lists[name], tf.uint8).numpy() for name in lists}
        found[context["id"].numpy().decode()] = (context["labels"].values.numpy().tolist(), rows)
    assert {uid: labels for uid, (labels, _) in found.items()} == {"aa": [9], "bb": []}
    for name, rows in codes.items():
        np.testing.assert_array_equal(found["aa"][1][name], rows[:3])
        np.testing.assert_array_equal(found["bb"][1][name], rows[3:])
