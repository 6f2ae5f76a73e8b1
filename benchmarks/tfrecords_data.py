"""Frame-level shards at YouTube-8M's size, and what reading and writing them costs beside TensorFlow.

``python -m benchmarks.tfrecords_data`` prints a table of records per CPU second. Each row is a process of its own, so
that neither's threads or imports count for the other; CPU seconds, because tf.data always uses helper threads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from cliploom.schemas.tfrecords import AUDIO_WIDTH, RGB_WIDTH, Yt8mFrames
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.write import encode_frames
from cliploom.transforms.tfrecords.yt8m import read_frames

VIDEOS = 1000
FRAMES = 300
CLASSES = 3862
REPEATS = 3


def videos(count: int, *, seed: int = 0, frames: int = FRAMES) -> Iterator[Yt8mFrames]:
    """Seeded videos of random codes with about three labels each, as uint8 [frames, 1024] and [frames, 128]."""
    random = np.random.default_rng(seed)
    for number in range(count):
        labels = tuple(sorted(set(random.integers(0, CLASSES, random.integers(1, 6)).tolist())))
        rgb = random.integers(0, 256, (frames, RGB_WIDTH), np.uint8)
        audio = random.integers(0, 256, (frames, AUDIO_WIDTH), np.uint8)
        yield Yt8mFrames(f"{seed:02x}{number:06x}", labels, rgb, audio)


def write_shard(path: Path, count: int = VIDEOS, *, seed: int = 0, frames: int = FRAMES) -> Path:
    """Write one shard; equal arguments give equal bytes. 1,000 videos of 300 frames take 351 MB."""
    with path.open("wb") as stream:
        write_records(stream, map(encode_frames, videos(count, seed=seed, frames=frames)))
    return path


def _read_ours(path: Path, count: int) -> None:
    with path.open("rb") as stream:
        assert sum(isinstance(record, Yt8mFrames) for record in read_frames(stream, str(path))) == count


def _write_ours(path: Path, count: int) -> None:
    with path.with_suffix(".ours").open("wb") as stream:
        write_records(stream, (encode_frames(record) for record in _few(count)))


def _read_tensorflow(path: Path, count: int) -> None:
    import tensorflow as tf

    def parse(data: tf.Tensor) -> tuple[tf.Tensor, ...]:
        context, lists = tf.io.parse_single_sequence_example(
            data,
            {"id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64)},
            {name: tf.io.FixedLenSequenceFeature([], tf.string) for name in ("rgb", "audio")},
        )
        decoded = (tf.io.decode_raw(lists[name], tf.uint8) for name in ("rgb", "audio"))
        return context["id"], context["labels"], *decoded

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    records = tf.data.TFRecordDataset(str(path)).map(parse).with_options(options)
    assert sum(1 for _ in records) == count


def _write_tensorflow(path: Path, count: int) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path.with_suffix(".theirs"))) as writer:
        for record in _few(count):
            made = tf.train.SequenceExample()
            made.context.feature["id"].bytes_list.value.append(record.id.encode())
            made.context.feature["labels"].int64_list.value.extend(record.labels)
            for name, rows in (("rgb", record.rgb), ("audio", record.audio)):
                assert rows is not None
                steps = made.feature_lists.feature_list[name]
                for row in rows:
                    steps.feature.add().bytes_list.value.append(row.tobytes())
            writer.write(made.SerializeToString())


def _few(count: int) -> Iterator[Yt8mFrames]:
    """Return the same few videos over and over."""
    few = _prepared()
    return (few[number % len(few)] for number in range(count))


@cache
def _prepared() -> list[Yt8mFrames]:
    """Made in the first run, which isn't counted: drawing random numbers is no part of writing."""
    return list(videos(20))


JOBS: dict[str, Callable[[Path, int], None]] = {
    "read and parse, cliploom": _read_ours,
    "read and parse, tf.data": _read_tensorflow,
    "write, cliploom": _write_ours,
    "write, TFRecordWriter": _write_tensorflow,
}


def _rate(name: str, path: Path, count: int) -> float:
    """Return the best of some runs, records per CPU second; the first run loads libraries and is not counted."""
    rates = []
    JOBS[name](path, count)
    for _ in range(REPEATS):
        start = time.process_time()
        JOBS[name](path, count)
        rates.append(count / (time.process_time() - start))
    return max(rates)


def measure(count: int = VIDEOS) -> dict[str, float]:
    """Return the records per CPU second of each job, each in a process of its own on one shard."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_shard(Path(folder) / "frames.tfrecord", count)
        rates = {}
        for name in JOBS:
            command = [sys.executable, "-m", "benchmarks.tfrecords_data", "--job", name, str(path), str(count)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rates[name] = float(json.loads(done.stdout.splitlines()[-1]))
        return rates


def main() -> None:
    """Print the table, or with ``--job`` one rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=VIDEOS)
    parser.add_argument("--job", nargs=3, metavar=("NAME", "SHARD", "COUNT"))
    arguments = parser.parse_args()
    if arguments.job:
        name, path, count = arguments.job
        print(json.dumps(_rate(name, Path(path), int(count))))
        return
    rates = measure(arguments.videos)
    for ours, theirs in (tuple(JOBS)[:2], tuple(JOBS)[2:]):
        ratio = rates[ours] / rates[theirs]
        print(f"{ours}: {rates[ours]:,.0f} records per CPU s; {theirs}: {rates[theirs]:,.0f}; {ratio:.2f}x")


if __name__ == "__main__":
    main()
