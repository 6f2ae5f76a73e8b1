"""The pace at which one host or bucket is asked: turns and bytes, of all processes of a machine together."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliploom.schemas.spec_file import parse_document
from cliploom.transforms.inputs import pace
from cliploom.transforms.inputs.pace import take_bytes, take_turn


class Clock:
    now = 1_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(pace, "time", found)
    return found


def test_bytes_of_one_bucket_are_paid_for_before_the_next_file(tmp_path: Path, clock: Clock) -> None:
    # 30 MB at 10 MB a second: the next file has to wait for three seconds, less what passed meanwhile.
    assert take_bytes(tmp_path, "s3://one", 30_000_000, 10_000_000) == 0
    clock.now += 1
    assert take_bytes(tmp_path, "s3://one", 5_000_000, 10_000_000) == pytest.approx(2)
    assert take_bytes(tmp_path, "s3://two", 5_000_000, 10_000_000) == 0
    clock.now += 60
    assert take_bytes(tmp_path, "s3://one", 0, 10_000_000) == 0


def test_bytes_and_requests_of_a_host_are_counted_apart(tmp_path: Path, clock: Clock) -> None:
    assert take_turn(tmp_path, "host", 0.1) == 0
    assert take_bytes(tmp_path, "host", 1_000, 10) == 0
    assert take_turn(tmp_path, "host", 0.1) == pytest.approx(10)


def test_bandwidth_is_a_size_in_the_spec() -> None:
    document = {
        "version": 1,
        "name": "slow",
        "store": "./store",
        "sources": {"clips": {"kind": "media", "glob": "s3://bucket/**/*.mp4", "http": {"bandwidth": "20MB"}}},
        "encoders": {"lite0": {"kind": "efficientnet_lite0"}},
        "features": {"frames": {"source": "clips", "sample": {"every": "1s"}, "encoder": "lite0"}},
    }
    source = parse_document(document).sources["clips"]
    assert source.kind == "media"
    assert source.http.bandwidth == 20_000_000
