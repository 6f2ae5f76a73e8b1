"""TFRecords against TensorFlow itself: what it reads of ours, what we read of its."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from cliploom.schemas.tfrecords import ExampleField, RatedSegment, Yt8mFrames, Yt8mVideo
from cliploom.transforms.store.quantize import decode
from cliploom.transforms.tfrecords.example import parse_example
from cliploom.transforms.tfrecords.framing import read_records, write_records
from cliploom.transforms.tfrecords.write import encode_example, encode_frames, encode_video
from cliploom.transforms.tfrecords.yt8m import parse_frames, parse_video, read_frames

RANDOM = np.random.default_rng(11)


def frames(uid: str, count: int, **more: Any) -> Yt8mFrames:
    rgb, audio = (RANDOM.integers(0, 256, (count, width), np.uint8) for width in (1024, 128))
    return Yt8mFrames(uid, (1, 300, 3861), rgb, audio, **more)


def video(uid: str) -> Yt8mVideo:
    rgb, audio = (RANDOM.normal(size=width).astype(np.float32) for width in (1024, 128))
    return Yt8mVideo(uid, (0, 2), rgb, audio)


def proto_of(record: Yt8mFrames) -> tf.train.SequenceExample:
    """The record as the data set's own writer would build it."""
    made = tf.train.SequenceExample()
    made.context.feature["id"].bytes_list.value.append(record.id.encode())
    made.context.feature["labels"].int64_list.value.extend(record.labels)
    for name, rows in (("rgb", record.rgb), ("audio", record.audio)):
        steps = made.feature_lists.feature_list[name]
        for row in rows:
            steps.feature.add().bytes_list.value.append(row.tobytes())
    return made


def dequantize(codes: tf.Tensor) -> tf.Tensor:
    """The published reader's arithmetic (utils.Dequantize with range [-2, 2])."""
    return tf.cast(codes, tf.float32) * (4.0 / 255.0) + (4.0 / 512.0 - 2.0)


def read_with_tf(path: Path, compression: str = "") -> Iterator[tuple[Any, Any]]:
    """The frame-level shard by the published feature spec."""
    for data in tf.data.TFRecordDataset(str(path), compression_type=compression):
        yield tf.io.parse_single_sequence_example(
            data,
            context_features={
                "id": tf.io.FixedLenFeature([], tf.string),
                "labels": tf.io.VarLenFeature(tf.int64),
                "segment_start_times": tf.io.VarLenFeature(tf.int64),
                "segment_end_times": tf.io.VarLenFeature(tf.int64),
                "segment_labels": tf.io.VarLenFeature(tf.int64),
                "segment_scores": tf.io.VarLenFeature(tf.float32),
            },
            sequence_features={name: tf.io.FixedLenSequenceFeature([], tf.string) for name in ("rgb", "audio")},
        )


@pytest.mark.parametrize("packed", [False, True])
def test_tf_data_reads_our_frames_by_the_published_spec(tmp_path: Path, packed: bool) -> None:
    segments = (RatedSegment(0, 5, 7, 1.0), RatedSegment(5, 10, 8, 0.0))
    records = [frames("aaaa", 300), frames("bbbb", 1), frames("cccc", 12, segments=segments)]
    with open(tmp_path / "a", "wb") as stream:
        write_records(stream, map(encode_frames, records), gzip=packed)
    found = list(read_with_tf(tmp_path / "a", "GZIP" if packed else ""))
    for record, (context, lists) in zip(records, found, strict=True):
        assert context["id"].numpy() == record.id.encode()
        assert context["labels"].values.numpy().tolist() == list(record.labels)
        for name, rows in (("rgb", record.rgb), ("audio", record.audio)):
            codes = tf.io.decode_raw(lists[name], tf.uint8)
            np.testing.assert_array_equal(codes, rows)
            np.testing.assert_array_equal(dequantize(codes), decode(rows))
    assert found[2][0]["segment_end_times"].values.numpy().tolist() == [5, 10]
    assert found[2][0]["segment_labels"].values.numpy().tolist() == [7, 8]
    assert found[2][0]["segment_scores"].values.numpy().tolist() == [1, 0]


def test_tf_io_reads_our_videos_by_the_published_spec() -> None:
    records = [video("aaaa"), video("bbbb")]
    spec = {
        "id": tf.io.FixedLenFeature([], tf.string),
        "labels": tf.io.VarLenFeature(tf.int64),
        "mean_rgb": tf.io.FixedLenFeature([1024], tf.float32),
        "mean_audio": tf.io.FixedLenFeature([128], tf.float32),
    }
    found = tf.io.parse_example([encode_video(record) for record in records], spec)
    assert found["id"].numpy().tolist() == [b"aaaa", b"bbbb"]
    np.testing.assert_array_equal(found["mean_rgb"], [record.rgb for record in records])
    np.testing.assert_array_equal(found["mean_audio"], [record.audio for record in records])
    assert tf.sparse.to_dense(found["labels"]).numpy().tolist() == [[0, 2], [0, 2]]


def test_our_bytes_are_those_of_deterministic_protobuf() -> None:
    record = frames("abcd", 7)
    assert encode_frames(record) == proto_of(record).SerializeToString(deterministic=True)
    values = {"b": b"x", "f": np.float32([1.5, -2]), "i": np.int64([-1, 0, 2**62]), "e": ()}
    example = tf.train.Example()
    example.features.feature["b"].bytes_list.value.append(b"x")
    example.features.feature["f"].float_list.value.extend([1.5, -2])
    example.features.feature["i"].int64_list.value.extend([-1, 0, 2**62])
    example.features.feature["e"].bytes_list.SetInParent()
    assert encode_example(values) == example.SerializeToString(deterministic=True)


@pytest.mark.parametrize("compression", ["", "GZIP", "ZLIB"])
def test_shards_written_by_tensorflow_are_read(tmp_path: Path, compression: str) -> None:
    records = [frames(f"v{index:03d}", 1 + index) for index in range(5)]
    with tf.io.TFRecordWriter(str(tmp_path / "a"), tf.io.TFRecordOptions(compression)) as writer:
        for record in records:
            writer.write(proto_of(record).SerializeToString())
    with open(tmp_path / "a", "rb") as stream:
        found = list(read_frames(stream, "a"))
    for record, other in zip(records, found, strict=True):
        assert isinstance(other, Yt8mFrames)
        assert (other.id, other.labels) == (record.id, record.labels)
        np.testing.assert_array_equal(other.rgb, record.rgb)
        np.testing.assert_array_equal(other.audio, record.audio)


def test_a_sequence_example_parses_as_an_example_in_both() -> None:
    made = proto_of(frames("abcd", 3))
    made.context.feature["mean_rgb"].float_list.value.extend([0.5] * 1024)
    made.context.feature["mean_audio"].float_list.value.extend([0.25] * 128)
    data = made.SerializeToString()
    assert tf.train.Example.FromString(data).features.feature["id"].bytes_list.value == [b"abcd"]
    assert parse_video(data).rgb.tolist() == [0.5] * 1024
    assert len(parse_frames(data).rgb) == 3


def test_declared_examples_give_what_tf_io_gives() -> None:
    schema = {
        "floats": ExampleField("float32", (2, 3)),
        "ints": ExampleField("int64", (-1,)),
        "texts": ExampleField("bytes", (2,)),
    }
    spec = {
        "floats": tf.io.FixedLenFeature([2, 3], tf.float32),
        "ints": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
        "texts": tf.io.FixedLenFeature([2], tf.string),
    }
    for seed in range(20):
        random = np.random.default_rng(seed)
        example = tf.train.Example()
        feature = example.features.feature
        feature["floats"].float_list.value.extend(random.normal(size=6))
        feature["ints"].int64_list.value.extend(random.integers(-(2**62), 2**62, seed + 1).tolist())
        feature["texts"].bytes_list.value.extend([random.bytes(seed), b""])
        data = example.SerializeToString()
        ours, theirs = parse_example(data, schema).values, tf.io.parse_single_example(data, spec)
        np.testing.assert_array_equal(ours["floats"], theirs["floats"])
        np.testing.assert_array_equal(ours["ints"], theirs["ints"])
        assert list(ours["texts"]) == theirs["texts"].numpy().tolist()


def test_framing_agrees_on_damage(tmp_path: Path) -> None:
    stream = io.BytesIO()
    write_records(stream, [b"a" * 50, b"b" * 50])
    data = bytearray(stream.getvalue())
    data[20] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    with pytest.raises(tf.errors.DataLossError):
        list(tf.data.TFRecordDataset(str(tmp_path / "damaged")))
    assert [getattr(record, "reason", "good") for record in read_records(io.BytesIO(bytes(data)), "a")] == [
        "wrong CRC of a record's data (50 bytes)",
        "good",
    ]
