"""Examples by declared schema, and descriptions of any shard."""

import io
from typing import Any

import numpy as np
import pytest

from cliploom.schemas.tfrecords import BadRecord, ExampleField, ExampleRecord, Yt8mFrames
from cliploom.transforms.tfrecords.example import parse_example, read_examples
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.inspect import describe, lines
from cliploom.transforms.tfrecords.proto import RecordError
from cliploom.transforms.tfrecords.write import encode_example, encode_frames

VALUES: dict[str, Any] = {
    "name": b"clip",
    "tags": (b"a", b"b", b"c"),
    "shape": np.array([2, -3]),
    "vector": np.arange(6, dtype=np.float32),
    "pixels": np.arange(12, dtype=np.uint8),
}
SCHEMA = {
    "name": ExampleField("bytes"),
    "tags": ExampleField("bytes", (-1,)),
    "shape": ExampleField("int64", (2,)),
    "vector": ExampleField("float32", (-1, 3)),
    "pixels": ExampleField("uint8", (2, 2, 3)),
}


def shard(*payloads: bytes, packed: bool = False) -> io.BytesIO:
    stream = io.BytesIO()
    write_records(stream, payloads, gzip=packed)
    return io.BytesIO(stream.getvalue())


def test_declared_fields_come_in_their_type_and_shape() -> None:
    values = parse_example(encode_example(VALUES), SCHEMA, 7).values
    assert list(values) == list(SCHEMA)
    assert values["name"] == b"clip"
    assert values["tags"] == (b"a", b"b", b"c")
    assert np.array_equal(values["shape"], [2, -3])
    assert values["vector"].shape == (2, 3)
    assert values["pixels"].shape == (2, 2, 3)
    assert values["pixels"].dtype == np.uint8


def test_texts_are_read_as_such_and_may_be_empty() -> None:
    schema = {"name": ExampleField("text")}
    for text in ("Straße 7", "", " a\n"):
        assert parse_example(encode_example({"name": text}), schema).values == {"name": text}
    for value, told in (
        (b"\xff", r"name: b'\\xff' is not UTF-8"),
        (b"a\0b", r"name: b'a\\x00b' contains a NUL"),
        ((b"a", b"b"), "name: holds .*, not one text"),
    ):
        with pytest.raises(RecordError, match=told):
            parse_example(encode_example({"name": value}), schema)


def test_single_numbers_have_no_axes_and_optional_fields_may_be_missing() -> None:
    schema = {"one": ExampleField("float32"), "gone": ExampleField("int64", optional=True)}
    values = parse_example(encode_example({"one": np.array([0.5], np.float32)}), schema).values
    assert values == {"one": np.float32(0.5)}
    assert values["one"].shape == ()


def test_ids_are_text_or_numbers_and_unique() -> None:
    texts = [encode_example({"key": key}) for key in (b"a", b"b", b"a")]
    found = list(read_examples(shard(*texts), "a", {}, id_field="key"))
    assert [record.id for record in found[:2] if isinstance(record, ExampleRecord)] == ["a", "b"]
    assert isinstance(found[2], BadRecord)
    assert "id 'a' occurs in this shard before" in found[2].reason
    number = encode_example({"key": np.array([12])})
    assert parse_example(number, {}, id_field="key").id == "12"
    assert [record.id for record in read_examples(shard(number, number), "a", {})] == ["", ""]


@pytest.mark.parametrize(
    ("name", "field", "told"),
    [
        ("vectr", ExampleField("float32"), "has no vectr; did you mean 'vector'"),
        ("vector", ExampleField("float32"), r"vector: holds 6 values, which don't make the shape \[\]"),
        ("vector", ExampleField("float32", (-1, 4)), "6 values"),
        ("vector", ExampleField("float32", (-1, 0)), "6 values"),
        ("vector", ExampleField("int64", (6,)), "vector: holds float values, not int64"),
        ("tags", ExampleField("bytes"), "3 values"),
        ("tags", ExampleField("uint8", (-1,)), "holds 3 strings, not one of raw numbers"),
        ("pixels", ExampleField("uint8", (5,)), "12 values"),
    ],
)
def test_what_is_not_as_declared_is_reported(name: str, field: ExampleField, told: str) -> None:
    with pytest.raises(RecordError, match=told):
        parse_example(encode_example(VALUES), {name: field})


def test_wrong_ids_and_numbers_that_are_not_finite_are_reported() -> None:
    data = encode_example(VALUES | {"bad": np.array([np.nan], np.float32)})
    with pytest.raises(RecordError, match="bad: holds nan"):
        parse_example(data, {"bad": ExampleField("float32", (-1,))})
    for name, told in (("nme", "did you mean"), ("tags", "not one text"), ("shape", "holds 2 numbers")):
        with pytest.raises(RecordError, match=told):
            parse_example(data, {}, id_field=name)


def test_impossible_declarations_and_values_are_refused() -> None:
    with pytest.raises(ValueError, match="at most one -1"):
        ExampleField("float32", (-1, -1))
    with pytest.raises(TypeError, match=r"x: a tf\.train\.Example holds float32"):
        encode_example({"x": np.zeros(2)})  # type: ignore[dict-item]


def test_empty_lists_fit_a_free_axis() -> None:
    data = encode_example({"f": np.empty(0, np.float32), "i": np.empty(0, np.int64), "b": ()})
    schema = {
        "f": ExampleField("float32", (-1, 3)),
        "i": ExampleField("int64", (-1,)),
        "b": ExampleField("bytes", (-1,)),
    }
    values = parse_example(data, schema).values
    assert values["f"].shape == (0, 3)
    assert values["b"] == ()


def test_examples_are_described_without_being_told() -> None:
    other = {"name": b"\xff\x00abcdef", "shape": np.array([1], np.int64), "new": np.array([0.25], np.float32)}
    summary = describe(shard(encode_example(VALUES), encode_example(other), packed=True), "a")
    assert (summary.records, summary.kinds, summary.complete) == (2, {"Example": 2}, True)
    found = {feature.name: feature for feature in summary.features}
    assert sorted(found) == ["name", "new", "pixels", "shape", "tags", "vector"]
    assert (found["name"].kind, found["name"].size, found["name"].first) == ("bytes", (4, 8), "['clip']")
    assert (found["shape"].values, found["shape"].records, found["shape"].first) == ((1, 2), 2, "[2, -3]")
    assert found["vector"].first == "[0, 1, 2, 3, ...]"
    assert found["pixels"].first == "[bytes [0, 1, 2, 3, ...]]"
    assert found["new"].records == 1


def test_sequence_examples_are_described_with_their_frames() -> None:
    records = [Yt8mFrames(uid, (1,), np.full((count, 8), 9, np.uint8)) for uid, count in (("aaaa", 3), ("b" * 60, 5))]
    summary = describe(shard(*map(encode_frames, records)), "a", limit=1)
    assert (summary.kinds, summary.complete) == ({"SequenceExample": 1}, False)
    text = list(lines(describe(shard(*map(encode_frames, records)), "a")))
    assert text[0].startswith("2 records (2 SequenceExample; all of the shard), ")
    assert text[1:] == [
        "  context id: bytes[1] of 4-60 bytes, in 2 of 2, first ['aaaa']",
        "  context labels: int64[1], in 2 of 2, first [1]",
        "  frames rgb: bytes[3-5 frames][1] of 8 bytes, in 2 of 2, first [bytes [9, 9, 9, 9, ...]]",
    ]


def test_changing_kinds_other_payloads_and_damage_are_described() -> None:
    one, two = encode_example({"a": b"x" * 99}), encode_example({"a": np.array([1])})
    data = shard(one, two, b"no message at all", b"", encode_example({"a": ()})).getvalue()
    summary = describe(io.BytesIO(data[:-1]), "a")
    assert summary.kinds == {"Example": 3, "bytes": 1}
    assert summary.features[0].kind == "bytes|int64"
    assert summary.features[0].first == f"['{'x' * 48}...']"
    assert "is cut" in list(lines(summary))[-1]
    first = next(lines(describe(io.BytesIO(b"text"), "a")))
    assert first.startswith("0 records (none readable; all of the shard)")
