"""Readers and writers of YouTube-8M's records."""

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.schemas.tfrecords import BadRecord, RatedSegment, Yt8mFrames, Yt8mVideo
from cliploom.transforms.store.quantize import decode, encode
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.proto import RecordError
from cliploom.transforms.tfrecords.write import encode_example, encode_frames, encode_video, shard_name, shard_of
from cliploom.transforms.tfrecords.yt8m import Yt8mFormat, parse_frames, parse_video, read_frames, read_videos

SMALL = Yt8mFormat(rgb=8, audio=4)
SEGMENTS = (RatedSegment(10, 15, 3, 1.0), RatedSegment(20, 25, 3, 0.0))


def frames(uid: str = "abcd", count: int = 5, **changes: Any) -> Yt8mFrames:
    random = np.random.default_rng(count)
    rgb, audio = (random.integers(0, 256, (count, width), np.uint8) for width in (8, 4))
    return replace(Yt8mFrames(uid, (3, 300), rgb, audio), **changes)


def video(uid: str = "abcd", **changes: Any) -> Yt8mVideo:
    random = np.random.default_rng(1)
    rgb, audio = (random.normal(size=width).astype(np.float32) for width in (8, 4))
    return replace(Yt8mVideo(uid, (3, 300), rgb, audio), **changes)


def shard(*payloads: bytes) -> io.BytesIO:
    stream = io.BytesIO()
    write_records(stream, payloads)
    return io.BytesIO(stream.getvalue())


def reasons(found: Iterator[Any]) -> list[str]:
    return [record.reason if isinstance(record, BadRecord) else record.id for record in found]


def same(a: Any, b: Any) -> bool:
    return (a.id, a.labels) == (b.id, b.labels) and all(
        x is y is None or (x.dtype == y.dtype and np.array_equal(x, y)) for x, y in ((a.rgb, b.rgb), (a.audio, b.audio))
    )


def test_videos_read_as_written_with_their_offsets() -> None:
    first, second = video("aaaa"), video("bbbb", labels=())
    found = list(read_videos(shard(encode_video(first), encode_video(second)), "a", SMALL))
    assert [record.offset for record in found] == [0, len(encode_video(first)) + 16]
    assert same(found[0], first)
    assert same(found[1], second)


def test_frames_read_as_written() -> None:
    found = list(read_frames(shard(encode_frames(frames("aaaa")), encode_frames(frames("bbbb", 300))), "a", SMALL))
    assert same(found[0], frames("aaaa"))
    assert same(found[1], frames("bbbb", 300))


def test_the_widths_of_the_data_set_are_the_default() -> None:
    record = Yt8mFrames("abcd", (1,), np.zeros((300, 1024), np.uint8), np.ones((300, 128), np.uint8))
    assert same(parse_frames(encode_frames(record)), record)


def test_segments_read_as_written_rated_or_not() -> None:
    rated = frames(segments=SEGMENTS)
    (found,) = read_frames(shard(encode_frames(rated)), "a", SMALL, segments=True)
    assert isinstance(found, Yt8mFrames)
    assert found.segments == SEGMENTS
    unrated = tuple(RatedSegment(segment.start_s, segment.end_s) for segment in SEGMENTS)
    assert parse_frames(encode_frames(frames(segments=unrated)), SMALL).segments == unrated


def test_segments_half_rated_are_not_written() -> None:
    with pytest.raises(ValueError, match="of 2 segments 1 have a label, 1 a score"):
        encode_frames(frames(segments=(SEGMENTS[0], RatedSegment(1, 6))))


def test_float_frames_read_as_written() -> None:
    record = frames(rgb=np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32))
    assert same(parse_frames(encode_frames(record), SMALL), record)


def test_audio_may_be_missing_or_unwanted() -> None:
    form = Yt8mFormat(rgb=8, audio=0)
    assert parse_frames(encode_frames(frames(audio=None)), form).audio is None
    assert parse_frames(encode_frames(frames()), form).audio is None
    assert parse_video(encode_video(video(audio=None)), form).audio is None


@settings(max_examples=30, deadline=None)
@given(
    st.text(min_size=1, max_size=9).filter(lambda text: "\0" not in text),
    st.lists(st.integers(0, 5000), max_size=5),
    st.integers(1, 40),
    st.integers(1, 300),
    st.integers(0, 2**32),
)
def test_any_features_come_back_byte_for_byte(uid: str, labels: list[int], count: int, width: int, seed: int) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (count, width), np.uint8)
    data = encode_frames(Yt8mFrames(uid, tuple(labels), encode(decode(rgb))))
    found = parse_frames(data, Yt8mFormat(rgb=width, audio=0))
    assert (found.id, found.labels) == (uid, tuple(labels))
    assert found.rgb.tobytes() == rgb.tobytes()
    assert encode_frames(found) == data


def test_the_id_may_be_called_video_id() -> None:
    values = {"labels": np.array([1]), "mean_rgb": np.zeros(8, np.float32)}
    form = Yt8mFormat(rgb=8, audio=0)
    assert parse_video(encode_example(values | {"video_id": b"abcd"}), form).id == "abcd"
    with pytest.raises(RecordError, match="neither id nor video_id"):
        parse_video(encode_example(values), form)
    for value, told in ((b"", "id holds an empty text"), ((b"a", b"b"), "not one text")):
        with pytest.raises(RecordError, match=told):
            parse_video(encode_example(values | {"id": value}), form)
    with pytest.raises(RecordError, match="not UTF-8"):
        parse_video(encode_example(values | {"id": b"\xff"}), form)
    with pytest.raises(RecordError, match="id: holds int64 values"):
        parse_video(encode_example(values | {"id": np.array([1])}), form)


def test_bad_frame_records_are_reported_and_the_rest_is_read() -> None:
    form = replace(SMALL, labels=range(3862), max_frames=300)
    found = read_frames(
        shard(
            encode_frames(frames("good")),
            encode_frames(frames("wide", rgb=np.zeros((5, 9), np.uint8))),
            encode_frames(frames("nolabel", labels=(3862,))),
            encode_frames(frames("good")),
            encode_video(video("mean")),
            encode_frames(frames("mute", audio=None)),
            encode_frames(frames("none", 0)),
            encode_frames(frames("long", 301)),
            encode_frames(frames("nan", rgb=np.full((5, 8), np.nan, np.float32))),
            b"\xff\xff",
            encode_frames(frames("last")),
        ),
        "a",
        form,
    )
    assert reasons(found) == [
        "good",
        "a frame of rgb is 9 wide, not 8",
        "label 3862 is not in the vocabulary",
        "id 'good' occurs in this shard before, at byte 0",
        "has mean_rgb, no frames (rgb): this is video level, format yt8m_video",
        "has no audio",
        "has 0 frames (1 to 300 are possible)",
        "has 301 frames (1 to 300 are possible)",
        "rgb holds nan",
        "not a protocol buffer of tf.train: a number at byte 2 of the record has no end",
        "last",
    ]


def test_more_frames_in_rgb_than_in_audio_are_reported_and_not_written() -> None:
    with pytest.raises(ValueError, match="5 frames in rgb but 4 in audio"):
        encode_frames(frames(audio=np.zeros((4, 4), np.uint8)))
    # Messages written one behind the other are merged, so the audio of one can meet the rgb of another.
    long, short = encode_frames(frames(audio=None)), encode_frames(frames(count=4))
    with pytest.raises(RecordError, match="has 4 frames in rgb but 5 in audio"):
        parse_frames(encode_frames(frames()) + encode_frames(frames(count=4, audio=None)), SMALL)
    with pytest.raises(RecordError, match="has 5 frames in rgb but 4 in audio"):
        parse_frames(short + long, SMALL)


def test_bad_video_records_are_reported_and_the_rest_is_read() -> None:
    nan = np.array([0, np.inf, 0, 0, 0, 0, 0, 0], np.float32)
    found = read_videos(
        shard(
            encode_video(video("short", rgb=np.zeros(7, np.float32))),
            encode_video(video("nan", rgb=nan)),
            encode_frames(frames()),
            encode_video(video("minus", labels=(-1,))),
            encode_video(video("mute", audio=None)),
            encode_video(video("last")),
        ),
        "a",
        SMALL,
    )
    assert reasons(found) == [
        "mean_rgb holds 7 numbers, not 8",
        "mean_rgb holds inf",
        "has frames (rgb), no mean_rgb: this is frame level, format yt8m_frame",
        "label -1 is negative; classes count from 0",
        "has no mean_audio",
        "last",
    ]


def test_bad_framing_and_bad_records_come_out_alike() -> None:
    data = shard(encode_video(video("aaaa")), encode_video(video("bbbb"))).getvalue()
    found = list(read_videos(io.BytesIO(data[:-1]), "a.tfrecord", SMALL))
    assert isinstance(found[0], Yt8mVideo)
    assert isinstance(found[1], BadRecord)
    assert found[1].offset == len(data) // 2


def segments_example(**changes: Any) -> bytes:
    """A frame record whose context is taken from an Example, so that segments can be wrong."""
    values = {
        "id": b"abcd",
        "segment_start_times": np.array([10, 20]),
        "segment_end_times": np.array([15, 25]),
        "segment_labels": np.array([3, 3]),
        "segment_scores": np.array([1, 0], np.float32),
    } | changes
    body = encode_frames(frames())
    lists = body[2 + body[1] :]
    return encode_example({name: value for name, value in values.items() if value is not None}) + lists


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"segment_scores": None}, "2 starts, 2 ends, 2 labels, 0 scores"),
        ({"segment_end_times": None}, "2 starts, 0 ends"),
        ({"segment_end_times": np.array([15, 20])}, "lasts from 20 to 20"),
        ({"segment_labels": np.array([3, 9000])}, "segment label 9000 is not in the vocabulary"),
        ({"segment_scores": np.array([1, np.nan], np.float32)}, "segment_scores holds nan"),
        ({"segment_scores": np.array([1, 0])}, "segment_scores: holds int64 values"),
    ],
)
def test_wrong_segments_are_reported(changes: dict[str, Any], told: str) -> None:
    assert len(parse_frames(segments_example(), SMALL).segments) == 2
    with pytest.raises(RecordError, match=told):
        parse_frames(segments_example(**changes), replace(SMALL, labels=range(3862)))


def test_a_shard_of_segments_needs_segments() -> None:
    found = read_frames(shard(encode_frames(frames())), "a", SMALL, segments=True)
    assert reasons(found) == ["has no segments (segment_start_times): use format yt8m_frame"]


def test_shards_are_chosen_by_hash_and_evenly() -> None:
    counts = np.bincount([shard_of(f"v{index}", 10) for index in range(5000)], minlength=10)
    assert counts.min() > 400
    assert shard_of("v1", 10) == shard_of("v1", 10)
    assert shard_name("valid", 0, 2, gzip=True) == "valid-00000-of-00002.tfrecord.gz"
