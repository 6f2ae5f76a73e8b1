"""Framing of TFRecords: reading, writing, compression and every kind of damage."""

import gzip
import io
import struct
import zlib
from collections.abc import Callable

import pytest
from apache_beam.io.tfrecordio import _TFRecordUtil
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.schemas.tfrecords import BadRecord, Record
from cliploom.transforms.tfrecords.framing import compression_of, frame, masked_crc, read_records, write_records

PAYLOADS = [bytes([65 + i]) * (50 + 1000 * i) for i in range(5)]
OFFSETS = [0]
for _payload in PAYLOADS:
    OFFSETS.append(OFFSETS[-1] + len(_payload) + 16)


def shard(payloads: list[bytes] = PAYLOADS, *, packed: bool = False) -> bytes:
    stream = io.BytesIO()
    assert write_records(stream, payloads, gzip=packed) == len(payloads)
    return stream.getvalue()


def read(data: bytes, **options: int) -> tuple[list[bytes], list[BadRecord]]:
    found = list(read_records(io.BytesIO(data), "a.tfrecord", **options))
    good = [record.data for record in found if isinstance(record, Record)]
    return good, [record for record in found if isinstance(record, BadRecord)]


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


class Dribble:
    """Gives at most seven bytes a call, as a network may."""

    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)

    def read(self, size: int, /) -> bytes:
        return self.stream.read(min(size, 7))


class View(io.BytesIO):
    """Gives memory views, as obstore's readers give buffers."""

    def read(self, size: int | None = -1, /) -> bytes:
        return memoryview(super().read(size))  # type: ignore[return-value]


def test_masked_crc_is_that_of_apache_beam() -> None:
    for data in (b"", b"clip", bytes(32), bytes(range(256))):
        assert masked_crc(data) == _TFRecordUtil._masked_crc32c(data)


def test_frame_has_the_published_layout() -> None:
    data = frame(b"clip")
    assert data[:8] == struct.pack("<Q", 4)
    assert data[8:12] == struct.pack("<I", masked_crc(struct.pack("<Q", 4)))
    assert data[12:16] == b"clip"
    assert data[16:] == struct.pack("<I", masked_crc(b"clip"))


def test_beam_reads_what_is_written() -> None:
    stream = io.BytesIO(shard())
    assert [_TFRecordUtil.read_record(stream) for _ in PAYLOADS] == PAYLOADS


def test_records_come_with_their_offsets() -> None:
    found = list(read_records(io.BytesIO(shard()), "a"))
    assert found == [Record(offset, data) for offset, data in zip(OFFSETS, PAYLOADS, strict=False)]


def test_an_empty_shard_has_no_records() -> None:
    assert read(b"") == ([], [])


def test_an_empty_record_is_a_record() -> None:
    assert read(shard([b"", b"a", b""])) == ([b"", b"a", b""], [])


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, zlib.compress, lambda data: gzip.compress(data[:999]) + gzip.compress(data[999:]) + bytes(512)],
)
def test_compression_is_found_by_itself(pack: Callable[[bytes], bytes]) -> None:
    data = pack(shard())
    assert read(data) == (PAYLOADS, [])
    assert compression_of(data[:12]) == ("zlib" if data[:1] == b"\x78" else "gzip")


def test_compressed_shards_larger_than_the_buffer_are_read() -> None:
    big = [bytes([i]) * 3_000_000 for i in range(5)]
    assert read(gzip.compress(shard(big))) == (big, [])


def test_an_uncompressed_shard_that_starts_like_gzip_is_not_unpacked() -> None:
    data = [bytes(0x8B1F)]
    assert shard(data)[:2] == b"\x1f\x8b"
    assert read(shard(data)) == (data, [])
    assert compression_of(shard(data)) == "none"


def test_written_gzip_is_the_same_each_time_and_reads_back() -> None:
    assert shard(packed=True) == shard(packed=True)
    assert gzip.decompress(shard(packed=True)) == shard()


def test_short_reads_and_buffers_are_fine() -> None:
    for stream in (Dribble(shard()), View(shard())):
        found = list(read_records(stream, "a"))
        assert [record.data for record in found if isinstance(record, Record)] == PAYLOADS


def test_a_wrong_data_crc_loses_that_record_only() -> None:
    good, bad = read(changed(shard(), OFFSETS[2] + 100))
    assert good == PAYLOADS[:2] + PAYLOADS[3:]
    assert bad == [BadRecord("a.tfrecord", OFFSETS[2], "wrong CRC of a record's data (2050 bytes)")]
    assert str(bad[0]).startswith(f"a.tfrecord at byte {OFFSETS[2]}: wrong CRC")


def test_a_wrong_length_loses_that_record_only() -> None:
    good, bad = read(changed(shard(), OFFSETS[1]))
    assert good == PAYLOADS[:1] + PAYLOADS[2:]
    assert [record.offset for record in bad] == [OFFSETS[1]]
    assert f"reading goes on at byte {OFFSETS[2]}" in bad[0].reason


def test_the_first_header_may_be_the_wrong_one() -> None:
    assert read(changed(shard(), 9))[0] == PAYLOADS[1:]


def test_missing_bytes_inside_a_record_lose_that_record_only() -> None:
    data = shard()
    good, bad = read(data[: OFFSETS[2] + 30] + data[OFFSETS[2] + 40 :])
    assert good == PAYLOADS[:2] + PAYLOADS[3:]
    assert [record.offset for record in bad] == [OFFSETS[2]]


def test_bytes_missing_near_the_end_lose_that_record_only() -> None:
    data = shard([b"a" * 100, b"b" * 1000, b"c" * 5])
    good, bad = read(data[:200] + data[700:])
    assert good == [b"a" * 100, b"c" * 5]
    assert "is cut" in bad[0].reason


@pytest.mark.parametrize(("cut", "told"), [(5, "after 5 of 12"), (12, "0 of 4054 bytes"), (100, "88 of 4054 bytes")])
def test_a_cut_shard_gives_all_whole_records(cut: int, told: str) -> None:
    good, bad = read(shard()[: OFFSETS[4] + cut])
    assert good == PAYLOADS[:4]
    assert [record.offset for record in bad] == [OFFSETS[4]]
    assert told in bad[0].reason


def test_an_absurd_length_with_a_right_crc_is_not_believed() -> None:
    length = struct.pack("<Q", 1 << 60)
    data = frame(b"first") + length + struct.pack("<I", masked_crc(length)) + b"junk" + frame(b"last")
    good, bad = read(data)
    assert good == [b"first", b"last"]
    assert f"absurd record length {1 << 60}" in bad[0].reason
    assert read(shard(), max_length=2000)[0] == PAYLOADS[:2]


def test_what_is_no_tfrecord_is_one_bad_record() -> None:
    good, bad = read(b"no TFRecord at all, but a text of some length")
    assert good == []
    assert bad == [BadRecord("a.tfrecord", 0, "wrong CRC of a record's length; nothing readable behind it")]


def test_damage_is_searched_beyond_the_buffer_and_through_zeros() -> None:
    data = shard([bytes(1_500_000), b"last"])
    good, bad = read(changed(data, 3))
    assert good == [b"last"]
    assert len(bad) == 1


def test_a_cut_gzip_shard_gives_what_can_be_unpacked() -> None:
    packed = gzip.compress(shard([bytes([i]) * 500 for i in range(200)]))
    good, bad = read(packed[: len(packed) // 2])
    assert 0 < len(good) < 200
    assert bad[-1].reason == "the compressed shard is cut"


def test_a_damaged_gzip_shard_gives_what_stands_before_the_damage() -> None:
    payloads = [bytes([i]) * 500 + b"%d" % i for i in range(200)]
    packed = bytearray(gzip.compress(shard(payloads)))
    packed[len(packed) // 2] ^= 0xFF
    packed[len(packed) // 2 + 1] ^= 0xFF
    good, bad = read(bytes(packed))
    assert good
    assert good == payloads[: len(good)]
    assert bad[-1].reason.startswith("the compressed shard is damaged")


def test_gzip_with_rubbish_behind_it_keeps_all_records() -> None:
    good, bad = read(gzip.compress(shard()) + b"rubbish")
    assert good == PAYLOADS
    assert "damaged" in bad[0].reason


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=8), st.booleans())
def test_what_is_written_is_read(payloads: list[bytes], packed: bool) -> None:
    assert read(shard(payloads, packed=packed)) == (payloads, [])


@settings(deadline=None)
@given(st.data())
def test_one_changed_byte_loses_at_most_two_records_and_invents_none(data: st.DataObject) -> None:
    payloads = [b"%03d" % i * 20 for i in range(6)]
    whole = shard(payloads)
    good, bad = read(changed(whole, data.draw(st.integers(0, len(whole) - 1))))
    assert bad
    assert len(good) == 5
    assert set(good) < set(payloads)
