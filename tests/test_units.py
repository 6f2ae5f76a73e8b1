"""Durations, sizes and shares: parsing and writing round-trip."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from cliploom.schemas.units import (
    Bytes,
    Count,
    PositiveSeconds,
    Share,
    format_duration,
    parse_duration,
    parse_share,
    parse_size,
)


class Values(BaseModel):
    seconds: PositiveSeconds = 1.0
    size: Bytes = 1
    share: Share = 0.0
    count: Count = 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("500ms", 0.5), ("250us", 0.00025), ("1.5m", 90.0), ("2h", 7200.0), (".5s", 0.5), (" 1 s ", 1.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("1B", 1), ("16MB", 16_000_000), ("1.5GiB", 1_610_612_736), ("2 KiB", 2048), ("1TB", 10**12)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "share"), [("0%", 0.0), ("10%", 0.1), ("100%", 1.0), ("0.5 %", 0.005)])
def test_shares(text: str, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize(
    "value", ["", "1", "s", "1 sec", "-1s", "1e3s", "1,5s", "1s\n1s", "\u0661s", True, 1, 1.5, None, ["1s"]]
)
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{value!r} is not a duration with a unit (us, ms, s, m, h)")):
        parse_duration(value)


def test_number_without_unit_is_answered_with_the_unit() -> None:
    with pytest.raises(ValueError, match="write 2s"):
        parse_duration(2)


@pytest.mark.parametrize("value", ["16", "16 megabytes", "-1MB", "1mb", 16, None, "9" * 400 + "TB"])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="is not a size with a unit"):
        parse_size(value)


@pytest.mark.parametrize(("value", "said"), [("10", "such as 10%"), (0.1, "such as 10%"), ("101%", "more than 100%")])
def test_what_is_no_share(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_share(value)


@given(st.integers(1, 10**15))
def test_durations_survive_to_the_microsecond(microseconds: int) -> None:
    seconds = microseconds / 1e6
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.integers(0, 10_000))
def test_values_are_written_as_they_are_read(microseconds: int, size: int, share: int) -> None:
    values = Values.model_validate({"seconds": f"{microseconds}us", "size": f"{size}B", "share": f"{share / 100}%"})
    assert Values.model_validate(values.model_dump(mode="json")) == values


@pytest.mark.parametrize("count", [0, -1, 1 << 24])
def test_counts_are_those_that_a_row_id_can_hold(count: int) -> None:
    with pytest.raises(ValidationError):
        Values.model_validate({"count": count})
