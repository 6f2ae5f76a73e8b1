"""The training data of a head on local disk: vectors in reading order, in the order of the parts.

Training reads them in any order through memory maps, so a data set may be larger than memory. A folder with
``videos.json`` is complete and is reused after an interruption.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
from numpy.typing import NDArray

from cliploom.schemas.heads import HeadClass, InputColumn
from cliploom.schemas.release import Release
from cliploom.transforms.heads.pooling import input_groups, pool_group
from cliploom.transforms.heads.truths import Truths, hot_rows
from cliploom.transforms.narrations.select import seeded_place
from cliploom.transforms.store.object_store import ObjectStore

REVISION = 1
"""Increase it when the same data and settings give another head; part of a head's digest."""

TRAIN, VALIDATION = "train", "validation"
TEXTS_FILE = "texts.arrow"
_DONE = "videos.json"
_WHOLE_VIDEO_S = 1e9
_EVERY_S = 5.0


@dataclass(frozen=True)
class Videos:
    """One split: vectors float32 [n, dim] (a memory map), the class numbers of each video, and its texts [n, texts]."""

    vectors: NDArray[np.float32]
    labels: list[tuple[int, ...]]
    texts: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, classes: Sequence[HeadClass], size: int, order: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.object_] | None, NDArray[np.bool_]]]:
        """Yield (vectors [b, dim], texts, labels [b, classes]) of ``size`` videos each, by default in file order."""
        order = np.arange(len(self), dtype=np.int64) if order is None else order
        for begin in range(0, len(order), size):
            chosen = order[begin : begin + size]
            labels = [self.labels[place] for place in chosen]
            # Read in file order, then restore the requested order: neighbours on disk are read together.
            ranks = np.argsort(chosen)
            vectors = np.empty((len(chosen), self.vectors.shape[1]), np.float32)
            vectors[ranks] = self.vectors[chosen[ranks]]
            yield vectors, None if self.texts is None else self.texts[chosen], hot_rows(labels, classes)


@dataclass(frozen=True)
class Reading:
    """The origin of one split's videos: inputs of one source, its labels, and which videos are included."""

    inputs: tuple[InputColumn, ...]
    truths: Truths
    held_out: float = 0.0


def split_of_video(uid: str, held_out: float, seed: int) -> str:
    """Return ``validation`` for that share of the videos, by seeded hash of the uid, else ``train``.

    >>> [split_of_video(uid, 0.5, 0) for uid in ("cat", "dog", "cup", "tree")]
    ['train', 'train', 'validation', 'train']
    """
    return VALIDATION if seeded_place(uid, seed) < held_out else TRAIN


def gather(
    objects: ObjectStore,
    release: Release,
    readings: Mapping[str, Reading],
    seed: int,
    folder: Path,
    on_stage: Callable[[str], None],
) -> dict[str, Videos]:
    """Read the labelled videos of a release into a folder, unless it has them already.

    Args:
        objects: the store.
        release: the release whose features are read.
        readings: the readings by split; one with ``held_out`` fills both splits.
        seed: the seed of the holdout.
        folder: the folder for the files; created if missing.
        on_stage: a callback that receives progress messages.
    """
    if not (folder / _DONE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        shown_s = time.monotonic()
        kept: dict[str, list[tuple[int, ...]]] = {TRAIN: [], VALIDATION: []}
        texts: dict[str, list[tuple[str, ...]]] = {TRAIN: [], VALIDATION: []}
        with ExitStack() as stack:
            files = {split: stack.enter_context((folder / f"{split}.f32").open("wb")) for split in kept}
            for split, reading in readings.items():
                groups = input_groups(objects, release, reading.inputs)
                for number, group in enumerate(groups, 1):
                    for video in pool_group(objects, group, reading.inputs, _WHOLE_VIDEO_S):
                        labels = reading.truths.given.get(video.key.uid)
                        if labels:
                            chosen = (
                                split_of_video(video.key.uid, reading.held_out, seed) if reading.held_out else split
                            )
                            files[chosen].write(video.vector.tobytes())
                            kept[chosen].append(labels)
                            texts[chosen].append(video.texts)
                    if number in (1, len(groups)) or time.monotonic() - shown_s >= _EVERY_S:
                        shown_s = time.monotonic()
                        on_stage(f"{split}: {number} of {len(groups)} groups of parts read")
        dims = {split: sum(each.dim for each in readings[TRAIN].inputs) for split in kept}
        for split, held in kept.items():
            _write_labels(folder / f"{split}.labels.npz", held)
            named = [each.name for each in readings[TRAIN].inputs if each.is_text]
            if named:
                write_texts(folder / f"{split}.{TEXTS_FILE}", named, texts[split])
        (folder / _DONE).write_text(json.dumps({"dims": dims}), encoding="utf-8")
    dims = json.loads((folder / _DONE).read_text(encoding="utf-8"))["dims"]
    return {split: _open(folder, split, dim) for split, dim in dims.items()}


def _write_labels(path: Path, labels: Sequence[tuple[int, ...]]) -> None:
    ends = np.cumsum([0, *(len(each) for each in labels)])
    np.savez(path, ends=ends, numbers=np.array([number for each in labels for number in each], np.int64))


def write_texts(path: Path, names: Sequence[str], texts: Sequence[tuple[str, ...]]) -> None:
    """Write the texts of each video as an Arrow file, which is read through a memory map."""
    columns = [pa.array([each[place] for each in texts], pa.large_string()) for place in range(len(names))]
    pa.feather.write_feather(pa.table(columns, names=list(names)), path, compression="uncompressed")


def read_texts(path: Path, first: int = 0, count: int | None = None) -> NDArray[np.object_]:
    """Return the texts of ``count`` videos from ``first`` on, [n, texts]; equal ones are one object."""
    rows = pa.feather.read_table(path, memory_map=True).slice(first, count)
    blocks = [column.combine_chunks().dictionary_encode() for column in rows.columns]
    words = [np.array(block.dictionary.to_pylist(), np.object_) for block in blocks]
    return np.stack([known[block.indices.to_numpy()] for known, block in zip(words, blocks, strict=True)], axis=1)


def _open(folder: Path, split: str, dim: int) -> Videos:
    with np.load(folder / f"{split}.labels.npz", allow_pickle=False) as file:
        ends, numbers = file["ends"], file["numbers"].tolist()
    labels = [tuple(numbers[begin:end]) for begin, end in pairwise(ends.tolist())]
    path = folder / f"{split}.{TEXTS_FILE}"
    texts = read_texts(path) if path.exists() else None
    return Videos(mapped(folder / f"{split}.f32", len(labels), dim), labels, texts)


def mapped(path: Path, rows: int, dim: int) -> NDArray[np.float32]:
    """Return a file of vectors as a memory map [rows, dim]; an empty file gives an empty array."""
    return np.memmap(path, np.float32, "r", shape=(rows, dim)) if rows * dim else np.empty((rows, dim), np.float32)


def reading_facts(release: Release, parts: Sequence[str], inputs: Sequence[InputColumn]) -> list[object]:
    """Return what a reading depends on in a release, for the head's digest: columns, configs, parts."""
    configs = [release.features[each.feature].config for each in inputs]
    # Types are determined by the configs.
    columns = [{key: value for key, value in asdict(each).items() if key != "type"} for each in inputs]
    return [columns, configs, sorted(parts)]
