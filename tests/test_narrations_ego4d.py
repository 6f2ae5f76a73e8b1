import io
import json
import math
import pickle
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.schemas.errors import SpecError
from cliploom.schemas.narrations import BadRow, BrokenFileError, Narration
from cliploom.transforms.narrations import json_stream
from cliploom.transforms.narrations.ego4d import read_ego4d
from cliploom.transforms.narrations.json_stream import BROKEN, RepairedJson

NARRATION = {
    "timestamp_sec": 1.25,
    "timestamp_frame": 37,
    "narration_text": "#C C opens a door",
    "annotation_uid": "a1",
}
SUMMARY = {"start_sec": 0, "end_sec": 300.5, "summary_text": "#C C was in a room", "annotation_uid": "a2"}


def v1(*narrations, uid="v", pass_="narration_pass_1"):
    return {uid: {pass_: {"narrations": list(narrations), "summaries": [SUMMARY]}, "status": "complete"}}


def rows_of(value, **options):
    text = value if isinstance(value, str | bytes) else json.dumps(value)
    data = text.encode() if isinstance(text, str) else text
    return list(read_ego4d(io.BytesIO(data), **options))


def only_bad(rows):
    (bad,) = [row for row in rows if isinstance(row, BadRow)]
    return bad


class Slices(io.BytesIO):
    """A file that gives a few bytes at a time."""

    size = 1

    def read(self, size=-1):
        return super().read(min(self.size, size) if size > 0 else self.size)


def test_version_1_gives_the_narrations_of_both_passes():
    video = v1(NARRATION)["v"] | v1(NARRATION | {"timestamp_sec": 2}, pass_="narration_pass_2")["v"]
    assert rows_of({"v": video}) == [
        Narration("v", 1, 0, 1.25, None, "#C C opens a door", "a1"),
        Narration("v", 2, 0, 2.0, None, "#C C opens a door", "a1"),
    ]


def test_version_1_summaries_are_stretches():
    assert rows_of(v1(NARRATION), kind="summaries") == [Narration("v", 1, 0, 0.0, 300.5, "#C C was in a room", "a2")]


def test_version_2_is_distinguished_by_content():
    video = {
        "narrations": [{"text": "#C C walks", "time": 3.5, "_clip_time_start": 1}],
        "summaries": [{"text": "s", "start_time": 0, "end_time": 9}],
    }
    value = {"version": "v2", "date": [2023], "videos": {"w": video}}
    assert rows_of(value) == [Narration("w", 0, 0, 3.5, None, "#C C walks")]
    assert rows_of(value, kind="summaries") == [Narration("w", 0, 0, 0.0, 9.0, "s")]


V2_VIDEO = {"narrations": [{"text": "#C C walks", "time": 3.5}], "summaries": []}


@pytest.mark.parametrize(
    "value",
    [
        {"videos": {"v": V2_VIDEO}},
        {"v": V2_VIDEO},
        {"version": "1", "date": "2020", "v": V2_VIDEO},
        {"info": {"year": 1}, "videos": {"v": V2_VIDEO}},
        {"videos": {"v": {"narration_pass_1": {"narrations": V2_VIDEO["narrations"]}}}},
        {"version": "v2", "v": {"narration_pass_1": {"narrations": V2_VIDEO["narrations"]}}},
        {"videos": {"v": {"narrations": [{"narration_text": "#C C walks", "timestamp_sec": 3.5}]}}},
    ],
)
def test_the_layout_is_reported_by_the_keys_that_are_there(value):
    assert [(row.uid, row.start_s, row.text) for row in rows_of(value)] == [("v", 3.5, "#C C walks")]


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        ({"annotations": {"a": {"x": 1}}, "licenses": {"b": 1}}, "its keys are annotations, licenses"),
        ({"version": "v2", "videos": [{"video_uid": "v", "clips": []}]}, "its keys are version, videos"),
        ({"videos": {"v": {"clips": [], "split": "val"}}}, "the videos have the keys clips, split"),
        ([{"video_uid": "v"}], "it is a list, not an object"),
    ],
)
def test_another_layout_is_an_error_that_names_its_keys(value, keys):
    with pytest.raises(BrokenFileError, match=f"neither .*; {keys}"):
        rows_of(value)


def test_absent_and_null_passes_and_lists_are_no_rows():
    value = {"a": {}, "b": {"narration_pass_1": None}, "c": {"narration_pass_2": {"narrations": None}}} | v1(NARRATION)
    assert [row.uid for row in rows_of(value)] == ["v"]


def test_a_file_without_any_video_has_no_rows():
    assert rows_of("{}") == []
    assert rows_of('{"videos": {}}') == []


def test_several_narrations_may_share_an_annotation_uid():
    rows = rows_of(v1(NARRATION, NARRATION))
    assert [(row.idx, row.annotation_uid) for row in rows] == [(0, "a1"), (1, "a1")]


def test_a_slightly_negative_time_is_usable_and_one_beyond_the_offset_is_not():
    rows = rows_of(v1(NARRATION | {"timestamp_sec": -1.5}, NARRATION | {"timestamp_sec": -2.5}))
    assert rows[0].start_s == -1.5
    assert only_bad(rows).position == "v.narration_pass_1.narrations[1]"
    assert "-2.5" in only_bad(rows).message
    assert not isinstance(rows_of(v1(NARRATION | {"timestamp_sec": -2.5}), offset_s=3)[0], BadRow)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"narration_text": None}, "there is no text"),
        ({"narration_text": "  "}, "there is no text"),
        ({"narration_text": 5}, "the text is not a string"),
        ({"timestamp_sec": None}, "there is no timestamp_sec"),
        ({"time": 2, "text": "two", "timestamp_sec": None}, "there is no timestamp_sec"),
        ({"timestamp_sec": "1.5"}, "the timestamp_sec is not a number"),
        ({"timestamp_sec": True}, "the timestamp_sec is not a number"),
        ({"timestamp_sec": [1]}, "the timestamp_sec is not a number"),
        ({"timestamp_sec": float("nan")}, "the timestamp_sec is not finite"),
        ({"timestamp_sec": float("-inf")}, "the timestamp_sec is not finite"),
        ({"timestamp_sec": 10**400}, "the timestamp_sec is not finite"),
    ],
)
def test_a_bad_value_costs_only_its_row(change, reason):
    rows = rows_of(v1(NARRATION, NARRATION | change, NARRATION))
    assert [row.idx for row in rows if isinstance(row, Narration)] == [0, 2]
    bad = only_bad(rows)
    assert (bad.reason, bad.position, bad.uid) == (reason, "v.narration_pass_1.narrations[1]", "v")


def test_a_number_beyond_float_costs_only_its_row():
    text = json.dumps(v1(NARRATION, NARRATION)).replace("1.25", "1e999", 1)
    assert only_bad(rows_of(text)).reason == "the timestamp_sec is not finite"


@pytest.mark.parametrize(
    ("value", "position"),
    [
        ({"v": 1} | v1(NARRATION, uid="w"), "v"),
        ({"v": {"narration_pass_1": []}}, "v.narration_pass_1"),
        ({"v": {"narration_pass_1": {"narrations": {}}}}, "v.narration_pass_1.narrations"),
        (v1("text"), "v.narration_pass_1.narrations[0]"),
        ({"": {"narration_pass_1": {}}}, ""),
    ],
)
def test_a_wrong_type_is_a_bad_row_at_its_json_path(value, position):
    value = {"first": v1(NARRATION)["v"]} | value
    assert only_bad(rows_of(value)).position == position


def test_broken_utf8_in_a_text_costs_only_its_row():
    data = json.dumps(v1(NARRATION, NARRATION | {"narration_text": "caf@ bar"}, NARRATION)).encode()
    rows = rows_of(data.replace(b"@", b"\xe9"))
    assert [row.idx for row in rows if isinstance(row, Narration)] == [0, 2]
    assert only_bad(rows).reason == "the bytes are not UTF-8"
    assert "caf\ufffd bar" in only_bad(rows).value


def test_broken_utf8_in_a_uid_costs_only_its_video():
    data = json.dumps(v1(NARRATION, uid="x@") | v1(NARRATION)).encode().replace(b"@", b"\xff")
    rows = rows_of(data)
    assert only_bad(rows).reason == "the bytes are not UTF-8"
    assert [row.uid for row in rows if isinstance(row, Narration)] == ["v"]


def test_a_uid_comes_in_nfc():
    assert rows_of(v1(NARRATION, uid="cafe\u0301"))[0].uid == "caf\u00e9"


def test_a_uid_that_occurs_twice_is_refused_the_second_time():
    one = json.dumps(v1(NARRATION))
    rows = rows_of(one[:-1] + "," + one[1:])
    assert isinstance(rows[0], Narration)
    assert "twice" in only_bad(rows).message


def test_a_byte_order_mark_is_skipped():
    assert len(rows_of(b"\xef\xbb\xbf" + json.dumps(v1(NARRATION)).encode())) == 1


def test_nan_as_a_word_in_a_text_stays_a_word():
    text = 'she says "NaN, -Infinity" \\ NaN'
    assert (
        rows_of(v1(NARRATION | {"narration_text": text}, NARRATION | {"timestamp_sec": float("nan")}))[0].text == text
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_values_are_repaired_wherever_the_reads_cut_them(size):
    texts = ['a "NaN" \\ b', "caf\u00e9 \U0001f600", "\\\\", '\\"NaN']
    narrations = [NARRATION | {"narration_text": text, "timestamp_sec": float("inf")} for text in texts]
    narrations += [NARRATION | {"narration_text": text} for text in texts]
    data = json.dumps(v1(*narrations), ensure_ascii=False).encode()
    file = Slices(data)
    file.size = size
    rows = list(read_ego4d(file))
    assert [row.text for row in rows if isinstance(row, Narration)] == texts
    assert sum(isinstance(row, BadRow) for row in rows) == 4


def repaired(node):
    """What a value should be after the repair, paddings stripped."""
    if isinstance(node, float) and not math.isfinite(node):
        return BROKEN
    if isinstance(node, str):
        return node.rstrip() if node.startswith(BROKEN) else node
    if isinstance(node, list):
        return [repaired(child) for child in node]
    if isinstance(node, dict):
        return {repaired(key): repaired(child) for key, child in node.items()}
    return node


@given(st.recursive(st.floats() | st.text() | st.none(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
@settings(max_examples=150, deadline=None)
def test_repairing_keeps_length_and_leaves_sound_values_alone(value):
    data = json.dumps(value, ensure_ascii=False).encode()
    stream = RepairedJson(io.BytesIO(data))
    out = b"".join(iter(stream.read, b""))
    assert len(out) == len(data) == stream.offset
    assert repaired(json.loads(out, parse_constant=pytest.fail)) == repaired(value)


@given(st.binary(max_size=60))
def test_any_bytes_become_utf8_of_the_same_length(data):
    file = Slices(data)
    out = b"".join(iter(RepairedJson(file).read, b""))
    assert len(out) == len(data)
    assert out.decode() is not None


@pytest.mark.parametrize(
    ("broken", "byte"),
    [
        (lambda data: data[:-30], lambda data: len(data) - 30),
        (lambda data: data[:400] + b"\x00" + data[401:], lambda data: 400),
        (lambda data: data + b" x", lambda data: len(data) + 1),
    ],
)
def test_a_broken_file_names_the_byte_after_the_videos_before_it(broken, byte, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 64)
    value = v1(NARRATION, uid="a") | v1(NARRATION, uid="b")
    data = json.dumps(value).encode()
    rows = []
    with pytest.raises(BrokenFileError) as caught:
        rows.extend(read_ego4d(io.BytesIO(broken(data))))
    assert caught.value.byte == byte(data)
    assert f"byte {byte(data)}" in str(caught.value)


def test_videos_before_a_break_are_read():
    data = json.dumps(v1(NARRATION, uid="a") | v1(NARRATION, uid="b")).encode()[:-20]
    reader = read_ego4d(io.BytesIO(data))
    assert next(reader).uid == "a"
    with pytest.raises(BrokenFileError):
        next(reader)


@pytest.mark.parametrize("text", ["[]", '"x"', '{"info": {}, "images": [1]}', '{"a": 1}', '{"videos": []}'])
def test_json_of_another_kind_is_refused(text):
    with pytest.raises(BrokenFileError, match="neither"):
        rows_of(text)


def test_an_empty_file_is_broken_at_byte_0():
    with pytest.raises(BrokenFileError, match="byte 0"):
        rows_of(b"")


def test_a_missing_file_is_a_spec_error_that_names_it(tmp_path: Path):
    with pytest.raises(SpecError, match=r"absent\.json"):
        list(read_ego4d(tmp_path / "absent.json"))


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(BrokenFileError("f", 3, "cut")))
    assert (error.file, error.byte, str(error)) == ("f", 3, str(BrokenFileError("f", 3, "cut")))


def test_memory_holds_one_video_not_the_file(tmp_path: Path):
    path = tmp_path / "narration.json"
    with path.open("w") as file:
        file.write("{")
        for number in range(200):
            file.write("," * bool(number) + json.dumps(v1(*[NARRATION] * 300, uid=f"v{number}"))[1:-1])
        file.write("}")
    tracemalloc.start()
    assert sum(1 for _ in read_ego4d(path)) == 60_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 4_000_000
    assert peak < 2_000_000


def test_uids_that_only_look_different_are_one_video():
    rows = rows_of(v1(NARRATION, uid="caf\u00e9") | v1(NARRATION, uid=" cafe\u0301 "))
    assert [row.uid for row in rows if isinstance(row, Narration)] == ["caf\u00e9"]
    assert "twice" in only_bad(rows).message


def test_a_row_of_other_keys_names_them():
    bad = only_bad(rows_of(v1({"sentence": "a", "at": 1})))
    assert bad.reason == "the row has neither timestamp_sec nor time; its keys are"
    assert bad.value == "'sentence, at'"


def until_refused(data, size=None):
    """The rows that come before the file is refused, and the refusal."""
    stream = io.BytesIO(data)
    if size is not None:
        stream = Slices(data)
        stream.size = size
    rows = []
    with pytest.raises(BrokenFileError) as caught:
        rows.extend(_kept(read_ego4d(stream), rows))
    return rows, caught.value


def _kept(found, rows):
    """All into ``rows``, which has them also when the reader raises."""
    for row in found:
        rows.append(row)
    return ()


DEEP = [b"[" * 100_000, b'{"a":' * 100_000, b'[{"b":' * 50_000, b"[" * 65 + b"]" * 65]


@pytest.mark.parametrize("deep", DEEP, ids=["lists", "objects", "both", "closed"])
@pytest.mark.parametrize("size", [None, 7])
def test_values_that_are_nested_too_deep_end_the_file_there(deep, size):
    head = json.dumps(v1(NARRATION, uid="first"))[:-1].encode() + b', "second": {"narration_pass_1": {"x": '
    data = head + (deep if size is None else deep[:600])
    rows, error = until_refused(data, size)
    assert [row.uid for row in rows] == ["first"]
    assert "nested deeper than 64 levels" in str(error)
    step = {91: 1, 123: 5}[deep[0]] if b"[{" not in deep else None
    if step is not None:
        assert error.byte == len(head) + 61 * step


def test_a_file_of_nothing_but_brackets_is_refused():
    for data in (b"[" * 1_000_000, b'{"a":' * 200_000):
        with pytest.raises(BrokenFileError):
            rows_of(data)


def test_brackets_in_texts_are_no_depth():
    text = '[{"' * 500 + "\\"
    rows = rows_of(v1(NARRATION | {"narration_text": text}, NARRATION))
    assert [row.text for row in rows] == [text, NARRATION["narration_text"]]


@pytest.mark.parametrize("number", [b"1" * 5000, b"-1" + b"0" * 200_000, b"1e" + b"9" * 30, b"0." + b"1" * 5000])
@pytest.mark.parametrize("size", [None, 7])
def test_numbers_that_no_one_wrote_end_the_file_there(number, size):
    head = json.dumps(v1(NARRATION, uid="first"))[:-1].encode()
    head += b', "second": {"narration_pass_1": {"narrations": [{"narration_text": "1e9999999999999", "timestamp_sec": '
    rows, error = until_refused(head + (number if size is None else number[:3000]) + b"}]}}}", size)
    assert [row.uid for row in rows] == ["first"]
    assert re.search("a number of (more than 1000 digits|too large an exponent)", str(error))


def test_numbers_of_many_digits_are_read():
    (row,) = rows_of(json.dumps(v1(NARRATION)).replace("1.25", "1.25" + "0" * 900))
    assert row.start_s == 1.25


def test_texts_and_uids_of_megabytes_cost_only_their_row(monkeypatch):
    rows = rows_of(v1(NARRATION | {"narration_text": "a " * 100_000}, NARRATION))
    assert only_bad(rows).reason == "the text has 200000 characters, more than 131072"
    assert len(rows) == 2
    rows = rows_of(v1(NARRATION, uid="u" * 5000) | v1(NARRATION))
    assert only_bad(rows).reason == "the uid has 5000 characters, more than 4096"
    monkeypatch.setattr(json_stream, "MAX_STRING_BYTES", 100_000)
    data = json.dumps(v1(NARRATION, uid="first"))[:-1].encode() + b', "second": "' + b"x" * 1_000_000
    rows, error = until_refused(data)
    assert [row.uid for row in rows] == ["first"]
    assert "a text of more than" in str(error)


def test_a_megabyte_of_broken_bytes_is_replaced_in_one_step():
    data = json.dumps(v1(NARRATION | {"narration_text": "BAD"}, NARRATION)).encode()
    rows = rows_of(data.replace(b"BAD", b"\xff" * 1_000_000))
    assert [type(row) for row in rows] == [BadRow, Narration]


def test_a_value_that_can_not_be_shown_is_named_by_its_type():
    row = only_bad(rows_of(v1(NARRATION | {"narration_text": [[[]] * 50] * 50})))
    assert row.reason == "the text is not a string"
