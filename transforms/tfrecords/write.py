"""Writes Examples and SequenceExamples from numpy arrays, without TensorFlow.

The bytes are those of protobuf's deterministic serialisation: sorted map keys, packed numbers. So equal records give
equal files. Wire format: see ``proto``; features and names: docs/formats.md section 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.tfrecords import Yt8mFrames, Yt8mVideo

if TYPE_CHECKING:
    from cliploom.schemas.tfrecords import Value

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = b"\x0a", b"\x12", b"\x1a"
_FIELD_1, _FIELD_2 = b"\x0a", b"\x12"
_MASK = (1 << 64) - 1


def encode_video(record: Yt8mVideo) -> bytes:
    """Return a video-level Example: ``id``, ``labels``, ``mean_rgb`` and, if there is any, ``mean_audio``."""
    features = {"id": _strings([record.id.encode()]), "labels": _ints(record.labels), "mean_rgb": _floats(record.rgb)}
    if record.audio is not None:
        features["mean_audio"] = _floats(record.audio)
    return _message(_FIELD_1, _features(features))


def encode_frames(record: Yt8mFrames) -> bytes:
    """Return a frame-level SequenceExample: context ``id``, ``labels`` (and segments), lists ``rgb`` (and ``audio``).

    Raises:
        ValueError: rgb and audio differ in frames, or only some segments are rated.
    """
    context = {"id": _strings([record.id.encode()]), "labels": _ints(record.labels)}
    if record.segments:
        context["segment_start_times"] = _ints([segment.start_s for segment in record.segments])
        context["segment_end_times"] = _ints([segment.end_s for segment in record.segments])
        labels = [segment.label for segment in record.segments if segment.label is not None]
        scores = [segment.score for segment in record.segments if segment.score is not None]
        if {len(labels), len(scores)} not in ({0}, {len(record.segments)}):
            raise ValueError(
                f"{record.id}: of {len(record.segments)} segments {len(labels)} have a label, {len(scores)} a score"
            )
        if labels:
            context["segment_labels"] = _ints(labels)
            context["segment_scores"] = _floats(np.array(scores, np.float32))
    lists = {"rgb": record.rgb}
    if record.audio is not None:
        if len(record.audio) != len(record.rgb):
            raise ValueError(f"{record.id}: {len(record.rgb)} frames in rgb but {len(record.audio)} in audio")
        lists["audio"] = record.audio
    # Frames are a third of a megabyte, so they are joined once instead of copied at each level of nesting.
    pieces: list[bytes | memoryview] = []
    for name, rows in sorted(lists.items()):
        steps = _steps(rows)
        head = _message(_FIELD_1, name.encode()) + _FIELD_2 + _varint(steps.nbytes)
        pieces += [_FIELD_1 + _varint(len(head) + steps.nbytes) + head, steps.data]
    size = sum(memoryview(piece).nbytes for piece in pieces)
    return b"".join([_message(_FIELD_1, _features(context)), _FIELD_2 + _varint(size), *pieces])


def encode_example(values: Mapping[str, Value]) -> bytes:
    """Return a tf.train.Example; arrays are flattened, uint8 arrays become one string of raw numbers.

    Raises:
        TypeError: an array has another type than float32, int64 and uint8.
    """
    return _message(_FIELD_1, _features({name: _value(name, value) for name, value in values.items()}))


def shard_of(uid: str, shards: int) -> int:
    """Return the shard, 0 to ``shards`` - 1, of a record with this id: by hash, independent of other records.

    >>> [shard_of(uid, 4) for uid in ("Bsxe", "i9LI", "vyLp")]
    [1, 2, 2]
    """
    digest = hashlib.blake2b(uid.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % shards


def shard_name(prefix: str, shard: int, shards: int, *, gzip: bool = False) -> str:
    """Return the file name of a shard.

    >>> shard_name("train", 3, 16)
    'train-00003-of-00016.tfrecord'
    """
    return f"{prefix}-{shard:05d}-of-{shards:05d}.tfrecord{'.gz' if gzip else ''}"


def _value(name: str, value: Value) -> bytes:
    if isinstance(value, str):
        return _strings([value.encode()])
    if isinstance(value, bytes):
        return _strings([value])
    if isinstance(value, tuple):
        return _strings(value)
    if value.dtype == np.float32:
        return _floats(value)
    if value.dtype == np.int64:
        return _ints([int(number) for number in value.flat])
    if value.dtype == np.uint8:
        return _strings([value.tobytes()])
    raise TypeError(f"{name}: a tf.train.Example holds float32, int64 and bytes, not {value.dtype}")


def _strings(values: Iterable[bytes]) -> bytes:
    return _message(_BYTES_LIST, b"".join(_message(_FIELD_1, value) for value in values))


def _floats(values: NDArray[np.generic]) -> bytes:
    packed = values.astype("<f4", copy=False).tobytes()
    return _message(_FLOAT_LIST, _message(_FIELD_1, packed) if packed else b"")


def _ints(values: Sequence[int]) -> bytes:
    packed = b"".join(_varint(value & _MASK) for value in values)
    return _message(_INT64_LIST, _message(_FIELD_1, packed) if packed else b"")


def _steps(rows: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a FeatureList with one string (uint8) or float list per row, as uint8 [N, bytes per step].

    Each row has the same bytes before its values, so all rows are laid out at once.
    """
    packed = np.ascontiguousarray(rows, "<f4").view(np.uint8) if rows.dtype == np.float32 else rows
    width = packed.shape[1]
    inner = _FIELD_1 + _varint(width)
    kind = (_FLOAT_LIST if rows.dtype == np.float32 else _BYTES_LIST) + _varint(len(inner) + width)
    head = np.frombuffer(_FIELD_1 + _varint(len(kind) + len(inner) + width) + kind + inner, np.uint8)
    steps = np.empty((len(packed), len(head) + width), np.uint8)
    steps[:, : len(head)] = head
    steps[:, len(head) :] = packed
    return steps


def _features(features: Mapping[str, bytes]) -> bytes:
    return b"".join(_entry(name, features[name]) for name in sorted(features))


def _entry(key: str, value: bytes) -> bytes:
    """Return an entry of a map<string, message>."""
    return _message(_FIELD_1, _message(_FIELD_1, key.encode()) + _message(_FIELD_2, value))


def _message(tag: bytes, body: bytes) -> bytes:
    return tag + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
