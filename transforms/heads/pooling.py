"""Pools rows to one vector per video: means of the rows that start in a time window, in a streaming way.

The rows of a video are contiguous in a part; a video that was split in time is in several parts. Sums are accumulated
in float64 in the order of the parts, so that the mean does not depend on a worker's batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from cliploom.schemas.errors import StoreError
from cliploom.schemas.heads import InputColumn
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.schemas.release import Release
from cliploom.transforms.exports.base import feature_contents, groups_of_parts
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import arrow_to_vectors, part_path, read_rows

UNTIMED = -1
"""The window of rows that represent a whole video."""
_MICRO = 1e-6


@dataclass(frozen=True)
class PartsToRead:
    """Parts of one feature that are read together."""

    feature: str
    table: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class VideoKey:
    """A video of a feature: its item, and its uid (in TFRecord shards, that of the record)."""

    item_no: int
    uid: str


@dataclass
class WindowSum:
    """The rows of one video that start in one window.

    Attributes:
        total: the sum of the rows, float64 [dim].
        end_s: the latest end of the rows.
    """

    total: NDArray[np.float64]
    rows: int
    end_s: float


Windows = dict[int, WindowSum]


@dataclass(frozen=True)
class PooledSegment:
    """A segment of a video and its mean vector, float32 [dim]."""

    start_s: float
    end_s: float
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class PooledVideo:
    """The mean of a video's rows, float32 [dim], and the means of its windows, if it has times.

    Attributes:
        texts: the texts of the text inputs, in their order.
    """

    key: VideoKey
    vector: NDArray[np.float32]
    segments: tuple[PooledSegment, ...]
    texts: tuple[str, ...] = ()


def input_groups(objects: ObjectStore, release: Release, inputs: Sequence[InputColumn]) -> list[dict[str, PartsToRead]]:
    """Return groups of parts to read together so that no video is split: by feature, the parts of the same items.

    Groups follow the parts of the first input's feature; other features contribute the parts of the same items.

    Args:
        objects: the store.
        release: a published release, or the draft of one.
        inputs: the inputs of a head, features of one source.
    """
    names = list(dict.fromkeys(each.feature for each in inputs))
    contents = {name: feature_contents(objects, release, name).select("part", "item_no") for name in names}
    found = []
    for group in groups_of_parts(contents[names[0]]):
        items = contents[names[0]].filter(pl.col("part").is_in(group)).select("item_no").unique()
        parts = {names[0]: group}
        for name in names[1:]:
            mine = contents[name].join(items, on="item_no", how="semi")["part"].unique().sort()
            parts[name] = tuple(mine.to_list())
        found.append({name: PartsToRead(name, release.features[name].table, parts[name]) for name in names})
    return found


def pool_group(
    objects: ObjectStore,
    group: Mapping[str, PartsToRead],
    inputs: Sequence[InputColumn],
    window_s: float,
    *,
    unit: bool = False,
) -> list[PooledVideo]:
    """Return the videos that all features of a group have, in the first feature's order.

    Args:
        objects: the store.
        group: one of the groups from ``input_groups``.
        inputs: the inputs, in the order in which their vectors are joined.
        window_s: the length of the segments in seconds; they start at its multiples.
        unit: whether to scale each row to length 1 before averaging.
    """
    found: dict[tuple[str, str], dict[VideoKey, Windows]] = {}
    said: dict[tuple[str, str], dict[VideoKey, str]] = {}
    for name, feature in group.items():
        columns = {each.output: each.dim for each in inputs if each.feature == name and not each.is_text}
        sums: dict[str, dict[VideoKey, Windows]] = {output: {} for output in columns}
        texts: dict[str, dict[VideoKey, str]] = {
            each.output: {} for each in inputs if each.feature == name and each.is_text
        }
        for part in feature.parts:
            with objects.local_copy(part_path(feature.table, part)) as local:
                for rows in read_rows(local, ["row_id", "uid", "start_s", "end_s", *columns, *texts]):
                    add_rows(sums, rows, columns, window_s, unit=unit)
                    add_texts(texts, rows)
        found |= {(name, output): windows for output, windows in sums.items()}
        said |= {(name, output): known for output, known in texts.items()}
    places = [(each.feature, each.output) for each in inputs]
    first, *others = [said.get(place) or found.get(place) or {} for place in places]
    vectors = [found[place] for place in places if place in found]
    words = [said[place] for place in places if place in said]
    return [
        pooled_video(key, [windows[key] for windows in vectors], window_s, tuple(known[key] for known in words))
        for key in first
        if all(key in other for other in others)
    ]


def unit_rows(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the vectors [n, dim] scaled to length 1; zero vectors stay zero."""
    norms = np.sqrt((block.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return np.asarray(block / np.where(norms == 0, 1.0, norms), np.float32)


def add_texts(texts: Mapping[str, dict[VideoKey, str]], rows: pa.Table) -> None:
    """Add the text of each video's first row, by column."""
    if not texts:
        return
    items = (rows["row_id"].to_numpy() >> ORDINAL_BITS).tolist()
    keys = [VideoKey(item_no, uid) for item_no, uid in zip(items, rows["uid"].to_pylist(), strict=True)]
    for name, known in texts.items():
        for key, text in zip(keys, rows[name].to_pylist(), strict=True):
            known.setdefault(key, text)


def texts_of(videos: Sequence[PooledVideo]) -> NDArray[np.object_] | None:
    """Return the texts of videos, [n, texts]; None if there are none."""
    return np.array([video.texts for video in videos], np.object_) if videos and videos[0].texts else None


def add_rows(
    sums: Mapping[str, dict[VideoKey, Windows]],
    rows: pa.Table,
    dims: Mapping[str, int],
    window_s: float,
    *,
    unit: bool = False,
) -> None:
    """Add feature rows to the sums of their windows.

    Args:
        sums: the sums by output; modified in place.
        rows: row_id, uid, start_s, end_s and the outputs; the rows of a video are contiguous.
        dims: the vector length of each output.
        window_s: the length of a window, in seconds.
        unit: whether to scale each row to length 1 first.
    """
    if not rows.num_rows:
        return
    items = rows["row_id"].to_numpy() >> ORDINAL_BITS
    uids = rows["uid"].combine_chunks().dictionary_encode()
    numbers = uids.indices.to_numpy(zero_copy_only=False)
    starts_s = rows["start_s"].to_numpy().astype(np.float64)
    ends_s = rows["end_s"].to_numpy().astype(np.float64)
    timed = ~np.isnan(starts_s) & ~np.isnan(ends_s)
    windows = np.where(timed, np.floor((np.where(timed, starts_s, 0.0) + _MICRO) / window_s), UNTIMED).astype(np.int64)
    changed = (np.diff(items) != 0) | (np.diff(numbers) != 0) | (np.diff(windows) != 0)
    runs = np.flatnonzero(np.concatenate(([True], changed)))
    lengths = np.diff(runs, append=len(items))
    latest = np.maximum.reduceat(np.where(timed, ends_s, 0.0), runs)
    names = uids.dictionary.to_pylist()
    for output, dim in dims.items():
        vectors = arrow_to_vectors(rows[output], dim)
        if unit:
            vectors = unit_rows(vectors)
        for place, length, end_s in zip(runs, lengths, latest, strict=True):
            # Measured: numpy's reduceat takes ten times as long.
            total = vectors[place : place + length].sum(axis=0, dtype=np.float64)
            key = VideoKey(int(items[place]), names[numbers[place]])
            mine = sums[output].setdefault(key, {})
            held = mine.get(int(windows[place]))
            if held is None:
                mine[int(windows[place])] = WindowSum(total, int(length), float(end_s))
            else:
                held.total = held.total + total
                held.rows += int(length)
                held.end_s = max(held.end_s, float(end_s))


def pooled_video(key: VideoKey, inputs: Sequence[Windows], window_s: float, texts: tuple[str, ...] = ()) -> PooledVideo:
    """Return the means of a video and of its windows.

    Args:
        key: the key of the video.
        inputs: for each vector input, the video's sums by window.
        window_s: the length of a window, in seconds.
        texts: the texts of the video.
    """
    if not inputs:
        return PooledVideo(key, np.empty(0, np.float32), (), texts)
    shared = sorted(set(inputs[0]).intersection(*inputs[1:]) - {UNTIMED})
    segments = []
    for number in shared:
        sums = [windows[number] for windows in inputs]
        start_s = round(number * window_s, 6)
        end_s = round(max(start_s, min(start_s + window_s, max(each.end_s for each in sums))), 6)
        segments.append(PooledSegment(start_s, end_s, joined([[each] for each in sums])))
    return PooledVideo(key, joined([list(windows.values()) for windows in inputs]), tuple(segments), texts)


def joined(inputs: Iterable[Sequence[WindowSum]]) -> NDArray[np.float32]:
    """Return the concatenated means of several inputs, float32 [sum of dims].

    Raises:
        StoreError: a mean is not finite.
    """
    means = [np.sum([each.total for each in sums], axis=0) / sum(each.rows for each in sums) for sums in inputs]
    vector = np.concatenate(means).astype(np.float32)
    if not np.isfinite(vector).all():
        raise StoreError("a feature's rows contain a value that is not finite; `cliploom verify` lists all damage.")
    return vector


def pooled_within(video: PooledVideo, start_s: float, end_s: float) -> NDArray[np.float32] | None:
    """Return the mean of the windows that start in [start_s, end_s), float32 [dim]; exact for windows of equal size."""
    chosen = [each.vector for each in video.segments if start_s - _MICRO <= each.start_s < end_s - _MICRO]
    return np.stack(chosen).mean(axis=0, dtype=np.float64).astype(np.float32) if chosen else None
