"""Heads over shards of YouTube-8M's size, beside plain TensorFlow, Keras and numpy: ``python -m benchmarks heads``.

Each pair of rows does the same on the same videos, in videos per CPU second; every job is a process of its own, whose
first run isn't counted. *Means* are those of frame-level records, out of a store whose codes are kept, and by tf.data
from the shard itself. *An epoch* is 1,152 numbers to 3,862 classes in batches of 1,024, beside ``Model.fit`` on labels
that are spread out in memory already. *Labels* are the 20 most probable of each video, beside their formula in numpy.
Before that stands a table of zero-shot labels, retrieval and readers, see ``benchmarks.heads_search``.
*Pairs* and *towers* are those of ``benchmarks.towers``, in pairs per CPU second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import towers
from benchmarks.heads_search import show as show_search
from benchmarks.tfrecords_data import CLASSES, write_shard
from cliploom.pipelines.launching.target import open_store
from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.pipelines.training.train import prepare_training
from cliploom.schemas.heads import HeadCard, HeadClass, InputColumn
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.schemas.tfrecords import AUDIO_WIDTH, RGB_WIDTH
from cliploom.transforms.heads.dataset import Videos, gather
from cliploom.transforms.heads.plain import PlainHead, sigmoid, transformed

RECORDS, VIDEOS, REPEATS, TOP = 300, 8192, 3, 20
WIDTH = RGB_WIDTH + AUDIO_WIDTH
KNOWN = tuple(HeadClass(label, f"class {label}") for label in range(CLASSES))
SPEC = """\
version: 1
name: heads
store: ./store
sources: {yt: {kind: tfrecord, format: yt8m_frame, glob: "*.tfrecord", quantized: keep}}
features: {yt: {source: yt}}
heads: {labels: {inputs: [{feature: yt, output: rgb}, {feature: yt, output: audio}]}}
"""


def make_store(folder: Path, records: int) -> None:
    """A shard, a spec, and the store that a run makes of them."""
    write_shard(folder / "frames.tfrecord", records)
    (folder / "spec.yaml").write_text(SPEC)
    document = load_document(folder / "spec.yaml")
    run_spec(parse_document(document), document, folder, RunOptions(), lambda text: None)


def _gather(folder: Path) -> Callable[[], int]:
    spec = parse_document(load_document(folder / "spec.yaml"))
    objects = open_store(spec, folder)
    training = prepare_training(spec, folder, "labels", objects)

    def job() -> int:
        with tempfile.TemporaryDirectory() as made:
            found = gather(objects, training.release, training.readings, 0, Path(made), lambda text: None)
            return sum(map(len, found.values()))

    return job


def _gather_tensorflow(folder: Path) -> Callable[[], int]:
    import tensorflow as tf

    def parse(data: Any) -> Any:
        lists = {name: tf.io.FixedLenSequenceFeature([], tf.string) for name in ("rgb", "audio")}
        _, found = tf.io.parse_single_sequence_example(data, {}, lists)
        codes = tf.concat([tf.io.decode_raw(found[name], tf.uint8) for name in ("rgb", "audio")], axis=1)
        return tf.reduce_mean(tf.cast(codes, tf.float32) * (4 / 255) + (4 / 512 - 2), axis=0)

    return lambda: sum(1 for _ in tf.data.TFRecordDataset(str(folder / "frames.tfrecord")).map(parse))


def made_videos(count: int) -> Videos:
    """Random vectors with about three labels each."""
    random = np.random.default_rng(0)
    labels = [tuple(set(random.integers(0, CLASSES, 3).tolist())) for _ in range(count)]
    return Videos(random.normal(size=(count, WIDTH)).astype(np.float32), labels)


def card() -> HeadCard:
    """Of an untrained head over all classes."""
    inputs = (InputColumn("yt", "rgb", "mean_rgb", RGB_WIDTH, ""), InputColumn("yt", "audio", "audio", AUDIO_WIDTH, ""))
    settings = {"inputs": [{"feature": "yt", "output": each.output} for each in inputs]}
    counts = {"train": 1, "validation": 1}
    return HeadCard("labels", "", "", "", 1, "", "yt", "yt", inputs, KNOWN, settings, counts, 0.0, {}, (), 0)


def _epoch(folder: Path) -> Callable[[], int]:
    from cliploom.transforms.heads.training import class_weights, loss_of, regression, run_epoch

    about, videos, few = card(), made_videos(VIDEOS), made_videos(1)
    loss = loss_of(about.spec, class_weights(videos.labels, KNOWN))
    model = regression(WIDTH, CLASSES, about.spec, loss)

    def job() -> int:
        run_epoch(model, loss, videos, few, KNOWN, about.spec, lambda rows, texts: transformed(about, rows), 1)
        return VIDEOS

    return job


def _epoch_keras(folder: Path) -> Callable[[], int]:
    import keras

    (vectors, _, labels) = next(made_videos(VIDEOS).batches(KNOWN, VIDEOS))
    spread = labels.astype(np.float32)
    model = keras.Sequential(
        [keras.Input((WIDTH,)), keras.layers.Dense(CLASSES, kernel_regularizer=keras.regularizers.L2(1e-8))]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=keras.losses.BinaryCrossentropy(from_logits=True))

    def job() -> int:
        model.fit(vectors, spread, batch_size=1024, epochs=1, verbose=0)
        return VIDEOS

    return job


def _weights() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(1)
    kernel = random.normal(size=(WIDTH, CLASSES)).astype(np.float32)
    return made_videos(VIDEOS).vectors, kernel, np.zeros(CLASSES, np.float32)


def _labels(folder: Path) -> Callable[[], int]:
    vectors, kernel, bias = _weights()
    head = PlainHead(card(), kernel, bias)

    def job() -> int:
        return sum(len(head.top(head.probabilities(vectors[at : at + 256]), TOP)) for at in range(0, VIDEOS, 256))

    return job


def _labels_numpy(folder: Path) -> Callable[[], int]:
    vectors, kernel, bias = _weights()

    def job() -> int:
        done = 0
        for at in range(0, VIDEOS, 256):
            scores = sigmoid(vectors[at : at + 256] @ kernel + bias)
            best = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
            done += len(np.take_along_axis(scores, best, axis=1))
        return done

    return job


JOBS: dict[str, Callable[[Path], Callable[[], int]]] = {
    "means of the shard, tf.data": _gather_tensorflow,
    "means out of the store": _gather,
    "an epoch, Keras's fit": _epoch_keras,
    "an epoch of train": _epoch,
    "labels, numpy": _labels_numpy,
    "labels of a head": _labels,
} | towers.JOBS


def _rate(name: str, folder: Path) -> float:
    """Return the best of some runs, videos per CPU second."""
    job = JOBS[name](folder)
    job()
    rates = []
    for _ in range(REPEATS):
        start = time.process_time()
        done = job()
        rates.append(done / (time.process_time() - start))
    return max(rates)


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks heads", description=__doc__)
    parser.add_argument("--records", type=int, default=RECORDS, help="of 300 frames in the shard")
    parser.add_argument("--rows", type=int, default=200_000, help="of the retrieval; a text for 20 rows")
    parser.add_argument("--label-rows", type=int, default=1_000_000, help="of the zero-shot labels")
    parser.add_argument("--only", choices=("labels", "search"), help="one of the two tables")
    parser.add_argument("--job", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.job:
        print(json.dumps(_rate(arguments.job[0], Path(arguments.job[1]))))
        return 0
    if arguments.only != "labels":
        show_search(arguments.rows, arguments.label_rows)
    if arguments.only == "search":
        return 0
    base = 0.0
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder), arguments.records)
        towers.make_pairs(Path(folder))
        print(f"{'':28} videos/CPU s   of the other")
        for number, name in enumerate(JOBS):
            command = [sys.executable, "-m", "benchmarks.heads", "--job", name, folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            rate = float(json.loads(done.stdout.splitlines()[-1]))
            base = base if number % 2 else rate
            print(f"{name:28} {rate:12,.0f} {f'{rate / base:.2f}' if number % 2 else '':>14}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
