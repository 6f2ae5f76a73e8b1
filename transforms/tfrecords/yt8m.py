"""Reads YouTube-8M shards: video level, frame level, segments. Formats: docs/formats.md section 4.

The extractor always writes SequenceExamples. Their context and an Example's features are both field 1 on the wire, so
``read_videos`` accepts both messages; it rejects a record without ``mean_rgb``.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.tfrecords import AUDIO_WIDTH, RGB_WIDTH, BadRecord, RatedSegment, Yt8mFrames, Yt8mVideo
from cliploom.transforms.tfrecords.framing import Readable
from cliploom.transforms.tfrecords.proto import FeatureList, Message, RecordError, parse
from cliploom.transforms.tfrecords.reading import as_id, read_each, with_name

_IDS = ("id", "video_id")
_SEGMENT_FIELDS = ("segment_start_times", "segment_end_times", "segment_labels", "segment_scores")


@dataclass(frozen=True)
class Yt8mFormat:
    """The format of valid records.

    Attributes:
        rgb: the length of ``rgb`` or ``mean_rgb`` vectors.
        audio: the length of ``audio`` or ``mean_audio`` vectors; 0 if there are none, or they are not needed.
        labels: the existing classes; None accepts every nonnegative class.
        max_frames: the longest plausible video, in frames.
    """

    rgb: int = RGB_WIDTH
    audio: int = AUDIO_WIDTH
    labels: Container[int] | None = None
    max_frames: int = 100_000


DATASET = Yt8mFormat()


def read_videos(stream: Readable, file: str, form: Yt8mFormat = DATASET) -> Iterator[Yt8mVideo | BadRecord]:
    """Yield the video-level records of a shard; an invalid one gives a ``BadRecord``, and reading continues."""
    return read_each(stream, file, lambda data, offset: parse_video(data, form, offset))


def read_frames(
    stream: Readable, file: str, form: Yt8mFormat = DATASET, *, segments: bool = False
) -> Iterator[Yt8mFrames | BadRecord]:
    """Yield the frame-level records of a shard; an invalid one gives a ``BadRecord``, and reading continues.

    Args:
        stream: the stream of the shard.
        file: the file name for ``BadRecord``.
        form: the expected format.
        segments: whether each record must have segments (the segments data set); they are read in any case.
    """
    return read_each(stream, file, lambda data, offset: parse_frames(data, form, offset, segments=segments))


def parse_video(data: bytes, form: Yt8mFormat = DATASET, offset: int = 0) -> Yt8mVideo:
    """Return one video-level record.

    Raises:
        RecordError: the record is invalid; the message says why.
    """
    message = parse(data)
    if "mean_rgb" not in message.features and "rgb" in message.lists:
        raise RecordError("has frames (rgb), no mean_rgb: this is frame level, format yt8m_frame")
    return Yt8mVideo(
        video_id(message),
        _labels(message, form),
        _mean(message, "mean_rgb", form.rgb),
        _mean(message, "mean_audio", form.audio) if form.audio else None,
        offset,
    )


def parse_frames(data: bytes, form: Yt8mFormat = DATASET, offset: int = 0, *, segments: bool = False) -> Yt8mFrames:
    """Return one frame-level record.

    Raises:
        RecordError: the record is invalid; the message says why.
    """
    message = parse(data)
    if "rgb" not in message.lists and "mean_rgb" in message.features:
        raise RecordError("has mean_rgb, no frames (rgb): this is video level, format yt8m_video")
    uid, labels = video_id(message), _labels(message, form)
    rgb = _rows(message, "rgb", form.rgb)
    audio = _rows(message, "audio", form.audio) if form.audio else None
    if audio is not None and len(audio) != len(rgb):
        raise RecordError(f"has {len(rgb)} frames in rgb but {len(audio)} in audio")
    if not 0 < len(rgb) <= form.max_frames:
        raise RecordError(f"has {len(rgb)} frames (1 to {form.max_frames} are possible)")
    found = _segments(message, form)
    if segments and not found:
        raise RecordError("has no segments (segment_start_times): use format yt8m_frame")
    return Yt8mFrames(uid, labels, rgb, audio, found, offset)


def video_id(message: Message) -> str:
    """Return the video's id: feature ``id``, or ``video_id`` in the data of 2017.

    Raises:
        RecordError: there is none, more than one, or it is empty or not UTF-8.
    """
    for name in _IDS:
        if name in message.features:
            return as_id(name, with_name(name, message.features[name].strings))
    raise RecordError("has neither id nor video_id")


def _labels(message: Message, form: Yt8mFormat) -> tuple[int, ...]:
    if "labels" not in message.features:
        return ()
    labels = tuple(with_name("labels", message.features["labels"].ints).tolist())
    for label in labels:
        _check_label("label", label, form)
    return labels


def _check_label(what: str, label: int, form: Yt8mFormat) -> None:
    if form.labels is not None and label not in form.labels:
        raise RecordError(f"{what} {label} is not in the vocabulary")
    if label < 0:
        raise RecordError(f"{what} {label} is negative; classes count from 0")


def _mean(message: Message, name: str, width: int) -> NDArray[np.float32]:
    if name not in message.features:
        raise RecordError(f"has no {name}")
    values = with_name(name, message.features[name].floats)
    if len(values) != width:
        raise RecordError(f"{name} holds {len(values)} numbers, not {width}")
    _check_finite(name, values)
    return values


def _rows(message: Message, name: str, width: int) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Return a feature list as [N, width]; quantised strings or float lists."""
    if name not in message.lists:
        raise RecordError(f"has no {name}")
    found: FeatureList = message.lists[name]
    rows: NDArray[np.uint8] | NDArray[np.float32]
    if found.kind() == "float":
        rows = with_name(name, found.float_rows)
        _check_finite(name, rows)
    else:
        rows = with_name(name, found.byte_rows)
    if len(rows) and rows.shape[1] != width:
        raise RecordError(f"a frame of {name} is {rows.shape[1]} wide, not {width}")
    return rows


def _check_finite(name: str, values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise RecordError(f"{name} holds {values[~np.isfinite(values)][0]}")


def _segments(message: Message, form: Yt8mFormat) -> tuple[RatedSegment, ...]:
    if "segment_start_times" not in message.features:
        return ()
    starts, ends, labels = (
        with_name(name, message.features[name].ints).tolist() if name in message.features else []
        for name in _SEGMENT_FIELDS[:3]
    )
    scores: list[float] = []
    if "segment_scores" in message.features:
        scores = with_name("segment_scores", message.features["segment_scores"].floats).tolist()
    rated = bool(labels or scores)
    lengths = {len(starts), len(ends)} | ({len(labels), len(scores)} if rated else set())
    if len(lengths) != 1:
        raise RecordError(
            f"segments have {len(starts)} starts, {len(ends)} ends, {len(labels)} labels, {len(scores)} scores"
        )
    for start, end in zip(starts, ends, strict=True):
        if not 0 <= start < end:
            raise RecordError(f"a segment lasts from {start} to {end}")
    if not rated:
        return tuple(RatedSegment(start, end) for start, end in zip(starts, ends, strict=True))
    for label, score in zip(labels, scores, strict=True):
        _check_label("segment label", label, form)
        if not np.isfinite(score):
            raise RecordError(f"segment_scores holds {score}")
    return tuple(RatedSegment(*values) for values in zip(starts, ends, labels, scores, strict=True))
