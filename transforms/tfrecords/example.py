"""Reads tf.train.Example shards with a declared schema: field name to type and shape."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cliploom.schemas.errors import nearest
from cliploom.schemas.tfrecords import BadRecord, ExampleField, ExampleRecord
from cliploom.transforms.tfrecords.framing import Readable
from cliploom.transforms.tfrecords.proto import Feature, RecordError, parse
from cliploom.transforms.tfrecords.reading import as_id, as_text, read_each, with_name

if TYPE_CHECKING:
    from cliploom.schemas.tfrecords import Value


def read_examples(
    stream: Readable, file: str, schema: Mapping[str, ExampleField], *, id_field: str = ""
) -> Iterator[ExampleRecord | BadRecord]:
    """Yield the Examples of a shard; one that does not match the schema gives a ``BadRecord``, and reading continues.

    Args:
        stream: the stream of the shard.
        file: the file name for ``BadRecord``.
        schema: the fields to read; others are ignored.
        id_field: the bytes or int64 feature that identifies a record, unique in the shard; empty for none.
    """
    return read_each(stream, file, lambda data, offset: parse_example(data, schema, offset, id_field=id_field))


def parse_example(
    data: bytes, schema: Mapping[str, ExampleField], offset: int = 0, *, id_field: str = ""
) -> ExampleRecord:
    """Return one Example.

    Raises:
        RecordError: a field is missing or not as declared; the message says which.
    """
    features = parse(data).features
    uid = ""
    if id_field:
        if id_field not in features:
            raise RecordError(f"has no {id_field}{nearest(id_field, features)}")
        uid = _as_id(id_field, features[id_field])
    values: dict[str, Value] = {}
    for name, field in schema.items():
        feature = features.get(name)
        if feature is not None and feature.kind != "empty":
            values[name] = with_name(name, partial(_value, feature, field))
        elif not field.optional:
            raise RecordError(f"has no {name}{nearest(name, features)}")
    return ExampleRecord(uid, values, offset)


def _as_id(name: str, feature: Feature) -> str:
    if feature.kind == "int64":
        numbers = feature.ints()
        if len(numbers) != 1:
            raise RecordError(f"{name} holds {len(numbers)} numbers, not one")
        return str(numbers[0])
    return as_id(name, with_name(name, feature.strings))


def _value(feature: Feature, field: ExampleField) -> Value:
    if field.type == "bytes":
        strings = feature.strings()
        _shape(len(strings), field.shape)
        return strings[0] if field.shape == () else tuple(strings)
    if field.type == "text":
        return as_text(feature.strings())
    if field.type == "float32":
        floats = feature.floats()
        if not np.isfinite(floats).all():
            raise RecordError(f"holds {floats[~np.isfinite(floats)][0]}")
        return floats.reshape(_shape(len(floats), field.shape))
    if field.type == "int64":
        ints = feature.ints()
        return ints.reshape(_shape(len(ints), field.shape))
    strings = feature.strings()
    if len(strings) != 1:
        raise RecordError(f"holds {len(strings)} strings, not one of raw numbers")
    codes = np.frombuffer(strings[0], np.uint8)
    return codes.reshape(_shape(len(codes), field.shape))


def _shape(count: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``shape`` with -1 replaced by the actual length."""
    known = math.prod(size for size in shape if size != -1)
    if (count % known if known else count) if -1 in shape else count != known:
        raise RecordError(f"holds {count} values, which don't make the shape {list(shape)}")
    return tuple((count // known if known else 0) if size == -1 else size for size in shape)
