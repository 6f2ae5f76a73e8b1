"""Parsing of tf.train messages, against protobuf's own parser and serialiser."""

import struct
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.transforms.tfrecords.proto import RecordError, parse


def message_class(name: str, *, packed: bool = True) -> Any:
    """The message as protobuf knows it, from a description of tensorflow/core/example's schema."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tf", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, str]) -> Any:
        made = file.message_type.add(name=name)
        for number, (label, kind, rule, of) in enumerate(fields, 1):
            added = made.field.add(
                name=label, number=number, type=kind, label=rule, type_name=f".tf.{of}" if of else None
            )
            if kind in (field.TYPE_FLOAT, field.TYPE_INT64):
                added.options.packed = packed
        return made

    def mapping(name: str, entry: str, value: str, label: str) -> None:
        made = message(name, (label, field.TYPE_MESSAGE, field.LABEL_REPEATED, f"{name}.{entry}"))
        nested = made.nested_type.add(name=entry)
        nested.options.map_entry = True
        nested.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
        nested.field.add(
            name="value", number=2, type=field.TYPE_MESSAGE, label=field.LABEL_OPTIONAL, type_name=f".tf.{value}"
        )

    one, many, sub = field.LABEL_OPTIONAL, field.LABEL_REPEATED, field.TYPE_MESSAGE
    message("BytesList", ("value", field.TYPE_BYTES, many, ""))
    message("FloatList", ("value", field.TYPE_FLOAT, many, ""))
    message("Int64List", ("value", field.TYPE_INT64, many, ""))
    feature = message(
        "Feature",
        ("bytes_list", sub, one, "BytesList"),
        ("float_list", sub, one, "FloatList"),
        ("int64_list", sub, one, "Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for part in feature.field:
        part.oneof_index = 0
    message("FeatureList", ("feature", sub, many, "Feature"))
    mapping("Features", "FeatureEntry", "Feature", "feature")
    mapping("FeatureLists", "FeatureListEntry", "FeatureList", "feature_list")
    message("Example", ("features", sub, one, "Features"))
    message("SequenceExample", ("context", sub, one, "Features"), ("feature_lists", sub, one, "FeatureLists"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tf.{name}"))


EXAMPLE = {packed: message_class("Example", packed=packed) for packed in (True, False)}
SEQUENCE = {packed: message_class("SequenceExample", packed=packed) for packed in (True, False)}

INTS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20)
FLOATS = st.lists(st.floats(width=32, allow_nan=False), max_size=20)
STRINGS = st.lists(st.binary(max_size=40), max_size=6)
FEATURE = st.one_of(
    st.tuples(st.just("bytes"), STRINGS), st.tuples(st.just("float"), FLOATS), st.tuples(st.just("int64"), INTS)
)


def fill(feature: Any, kind: str, values: Any) -> None:
    part = getattr(feature, f"{kind}_list")
    part.SetInParent()
    part.value.extend(values)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), FEATURE, max_size=6), st.booleans())
def test_an_example_holds_what_protobuf_wrote(features: dict[str, tuple[str, Any]], packed: bool) -> None:
    example = EXAMPLE[packed]()
    for name, (kind, values) in features.items():
        fill(example.features.feature[name], kind, values)
    message = parse(example.SerializeToString())
    assert not message.sequence
    assert set(message.features) == set(features)
    for name, (kind, values) in features.items():
        feature = message.features[name]
        assert feature.kind == kind
        decoded = {"bytes": feature.strings, "float": feature.floats, "int64": feature.ints}[kind]()
        assert list(decoded) == values


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 5), st.integers(0, 300), st.booleans(), st.integers(0, 2**32))
def test_frames_are_gathered_as_written(frames: int, width: int, packed: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(0, 256, (frames, width), np.uint8)
    floats = random.random((frames, width), np.float32)
    sequence = SEQUENCE[packed]()
    for row, numbers in zip(codes, floats, strict=True):
        sequence.feature_lists.feature_list["rgb"].feature.add().bytes_list.value.append(row.tobytes())
        fill(sequence.feature_lists.feature_list["raw"].feature.add(), "float", numbers.tolist())
    message = parse(sequence.SerializeToString())
    if not frames:
        assert message.lists == {}
        return
    assert message.sequence
    assert message.lists["rgb"].kind() == "bytes"
    np.testing.assert_array_equal(message.lists["rgb"].byte_rows(), codes)
    np.testing.assert_array_equal(message.lists["raw"].float_rows(), floats)
    assert message.lists["raw"].float_rows().dtype == np.float32


def test_gathered_frames_own_their_memory() -> None:
    sequence = SEQUENCE[True]()
    for _ in range(3):
        sequence.feature_lists.feature_list["rgb"].feature.add().bytes_list.value.append(bytes(100))
    rows = parse(sequence.SerializeToString()).lists["rgb"].byte_rows()
    assert rows.base is None
    assert rows.flags.writeable


def length(*parts: bytes) -> bytes:
    body = b"".join(parts)
    assert len(body) < 128
    return bytes([len(body)]) + body


def entry(key: bytes, value: bytes) -> bytes:
    return b"\x0a" + length(b"\x0a" + length(key), b"\x12" + length(value))


def test_irregular_frames_of_equal_width_are_read_one_by_one() -> None:
    # The second step carries an unknown field, so the steps' bytes differ while their values don't.
    plain = b"\x0a" + length(b"\x0a" + length(b"\x0a" + length(b"abcd")))
    odd = b"\x0a" + length(b"\x0a" + length(b"\x0a" + length(b"efgh"), b"\x10\x05"))
    sequence = b"\x12" + length(entry(b"rgb", plain + odd))
    assert parse(sequence).lists["rgb"].byte_rows().tobytes() == b"abcdefgh"


def test_equal_strides_with_other_headers_are_not_mixed_up() -> None:
    # Both steps take 10 bytes; the second holds two strings.
    one = b"\x0a" + length(b"\x0a" + length(b"\x0a" + length(b"abcd")))
    two = b"\x0a" + length(b"\x0a" + length(b"\x0a" + length(b"e"), b"\x0a" + length(b"f")))
    assert len(one) == len(two)
    with pytest.raises(RecordError, match="step 1 holds 2 strings, not one"):
        parse(b"\x12" + length(entry(b"rgb", one + two))).lists["rgb"].byte_rows()


def test_frames_of_different_width_are_refused() -> None:
    sequence = SEQUENCE[True]()
    for size in (4, 5):
        sequence.feature_lists.feature_list["rgb"].feature.add().bytes_list.value.append(bytes(size))
    with pytest.raises(RecordError, match="step 1 is 5 wide, step 0 is 4"):
        parse(sequence.SerializeToString()).lists["rgb"].byte_rows()


def test_steps_without_a_kind_come_first() -> None:
    sequence = SEQUENCE[True]()
    feature = sequence.feature_lists.feature_list["rgb"].feature
    feature.add()
    feature.add().float_list.value.append(1.0)
    assert parse(sequence.SerializeToString()).lists["rgb"].kind() == "float"
    empty = SEQUENCE[True]()
    empty.feature_lists.feature_list["rgb"].feature.add()
    assert parse(empty.SerializeToString()).lists["rgb"].kind() == "empty"


def test_a_sequence_example_also_parses_as_an_example() -> None:
    sequence = SEQUENCE[True]()
    sequence.context.feature["id"].bytes_list.value.append(b"a")
    sequence.feature_lists.feature_list["rgb"].feature.add()
    data = sequence.SerializeToString()
    assert EXAMPLE[True].FromString(data).features.feature["id"].bytes_list.value == [b"a"]
    assert parse(data).sequence
    assert parse(data).features["id"].strings() == [b"a"]


def test_packed_and_unpacked_numbers_mix() -> None:
    floats = b"\x0a\x04" + struct.pack("<f", 1) + b"\x0d" + struct.pack("<f", 2)
    ints = b"\x08\x07" + b"\x0a\x03\x01\xac\x02"
    message = parse(b"\x0a" + length(entry(b"f", b"\x12" + length(floats)), entry(b"i", b"\x1a" + length(ints))))
    assert message.features["f"].floats().tolist() == [1, 2]
    assert message.features["i"].ints().tolist() == [7, 1, 300]


def test_two_parts_of_one_list_are_joined_and_another_kind_replaces() -> None:
    one, two = (b"\x1a" + length(b"\x0a" + length(bytes([number]))) for number in (1, 2))
    text = b"\x0a" + length(b"\x0a" + length(b"x"))
    message = parse(b"\x0a" + length(entry(b"a", one + two), entry(b"b", one + text)))
    assert message.features["a"].ints().tolist() == [1, 2]
    assert message.features["b"].strings() == [b"x"]


def test_unknown_fields_are_skipped_and_the_last_entry_of_a_key_counts() -> None:
    one, two = (b"\x1a" + length(b"\x0a" + length(bytes([number]))) for number in (1, 2))
    unknown = b"\x28\x96\x01" + b"\x31" + bytes(8) + b"\x3d" + bytes(4) + b"\x42\x02hi"
    message = parse(unknown + b"\x0a" + length(unknown, entry(b"a", one), entry(b"a", unknown + two)))
    assert message.features["a"].ints().tolist() == [2]


def test_a_feature_without_a_kind_is_empty_for_every_reader() -> None:
    feature = parse(b"\x0a" + length(entry(b"a", b""))).features["a"]
    assert (feature.kind, feature.strings()) == ("empty", [])
    assert feature.floats().dtype == np.float32
    assert feature.ints().dtype == np.int64


def test_another_kind_than_asked_is_reported() -> None:
    example = EXAMPLE[True]()
    example.features.feature["a"].int64_list.value.append(1)
    feature = parse(example.SerializeToString()).features["a"]
    with pytest.raises(RecordError, match="holds int64 values, not float"):
        feature.floats()
    with pytest.raises(RecordError, match="not bytes"):
        feature.strings()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x0b", "wire type 3 at byte 0"),
        (b"\x00\x01", "field 0 at byte 0"),
        (b"\x0a\x05ab", "needs 3 bytes more"),
        (b"\x0a\xff", "has no end"),
        (b"\x0a" + b"\xff" * 11, "has no end"),
        (b"\x08\x01", "features of wire type 0"),
        (b"\x12\x02\x08\x01", "a map of wire type 0"),
        (b"\x0a" + length(b"\x0a" + length(b"\x0a\x01\xff")), "name is not UTF-8"),
        (b"\x0a" + length(entry(b"a", b"\x08\x01")), "a feature of wire type 0"),
    ],
)
def test_what_is_no_message_is_reported(data: bytes, told: str) -> None:
    with pytest.raises(RecordError, match=told):
        parse(data)


@pytest.mark.parametrize(
    ("kind", "body", "told"),
    [
        (b"\x0a", b"\x08\x01", "a bytes list holds a value of wire type 0"),
        (b"\x12", b"\x0a\x03abc", "a float list holds 3 bytes"),
        (b"\x12", b"\x08\x01", "a float list holds 1 bytes of wire type 0"),
        (b"\x1a", b"\x0d\x00\x00\x00\x00", "an int64 list holds a value of wire type 5"),
        (b"\x1a", b"\x0a\x01\xff", "ends inside a number"),
        (b"\x1a", b"\x0a\x0c" + b"\xff" * 11 + b"\x01", "more than ten bytes"),
    ],
)
def test_values_that_break_the_wire_format_are_reported(kind: bytes, body: bytes, told: str) -> None:
    feature = parse(b"\x0a" + length(entry(b"a", kind + length(body)))).features["a"]
    decode = {b"\x0a": feature.strings, b"\x12": feature.floats, b"\x1a": feature.ints}[kind]
    with pytest.raises(RecordError, match=told):
        decode()


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    try:
        message = parse(data)
        for feature in message.features.values():
            {"bytes": feature.strings, "float": feature.floats, "int64": feature.ints, "empty": feature.ints}[
                feature.kind
            ]()
        for steps in message.lists.values():
            steps.byte_rows()
    except RecordError:
        pass
