"""TFRecords to labels: read shards, train a head, predict (needs cliploom[tensorflow]): python main.py.

The records are made up in YouTube-8M's layout, with 16 numbers instead of 1,024. With the real shards leave
``write_shards`` out, and ``rgb: 16`` and ``audio: 0`` in cliploom.yaml.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

import cliploom

CLASSES = ("cooking", "football", "trains")


def write_shards(folder: Path, videos: int = 60) -> None:
    """Write ``vocabulary.csv`` and two shards whose vectors tell the class."""
    import tensorflow as tf

    def feature(**value: object) -> tf.train.Feature:
        return tf.train.Feature(**value)

    lines = [f"{number},{name}" for number, name in enumerate(CLASSES)]
    (folder / "vocabulary.csv").write_text("\n".join(["Index,Name", *lines]) + "\n", encoding="utf-8")
    (folder / "shards").mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for shard in range(2):
        with tf.io.TFRecordWriter(str(folder / "shards" / f"train{shard}.tfrecord")) as writer:
            for number in range(shard, videos, 2):
                label = number % len(CLASSES)
                vector = random.normal(size=16) * 0.2
                vector[label] += 1
                features = {
                    "id": feature(bytes_list=tf.train.BytesList(value=[b"%04d" % number])),
                    "labels": feature(int64_list=tf.train.Int64List(value=[label])),
                    "mean_rgb": feature(float_list=tf.train.FloatList(value=vector)),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def command(*arguments: str | Path) -> None:
    """Run ``cliploom`` with these arguments."""
    subprocess.run([sys.executable, "-m", "cliploom", *map(str, arguments)], check=True)


def main(folder: Path) -> dict[str, str]:
    """Return the predicted label of each of ten videos."""
    spec = folder / "cliploom.yaml"
    if not (folder / "shards").exists():
        # In a separate process, so that this one never loads TensorFlow.
        subprocess.run([sys.executable, __file__, "write", str(folder)], check=True)
    command("run", spec)
    command("train", spec, "--head", "labels")
    command("run", spec)
    labels = cliploom.open(folder / "store").labels([f"{number:04d}" for number in range(10)])
    best = {}
    for (_, uid), found in sorted(labels.items()):
        predicted = [each for each in found if each.origin.startswith("predicted")]
        best[uid] = predicted[0].name
        print(f"{uid}: {predicted[0].name} ({predicted[0].score:.2f})")
    return best


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write_shards(Path(sys.argv[2]))
    else:
        main(Path(__file__).resolve().parent)
