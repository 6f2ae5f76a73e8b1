"""Samplings as a spec writes them: one kind each, read back as written."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from cliploom.schemas.sampling import (
    Every,
    EveryFrames,
    First,
    Keyframes,
    Sampling,
    SamplingBase,
    Uniform,
    Window,
    Yt8m,
)

READ: TypeAdapter[Any] = TypeAdapter(Sampling)
WRITTEN: list[tuple[Any, type[SamplingBase], bool, bool]] = [
    ({"every": "1s"}, Every, True, False),
    ({"every": "40ms", "max_frames": 300}, Every, True, False),
    ({"every_frames": 5, "max_frames": 100}, EveryFrames, False, False),
    ({"window": {"frames": 32, "stride": 16, "fps": 30}}, Window, False, True),
    ({"window": {"frames": 8, "stride": 4}, "pad": "zero"}, Window, False, True),
    ({"first": {"frames": 32}}, First, False, True),
    ({"uniform": 8}, Uniform, False, False),
    ({"keyframes": True}, Keyframes, False, False),
    ("keyframes", Keyframes, False, False),
    ({"yt8m": True}, Yt8m, False, False),
    ("yt8m", Yt8m, False, False),
    ({"every": "1s", "distinct": 0.95}, Every, False, False),
    ({"every_frames": 2, "distinct": {"pictures": 0.98}}, EveryFrames, False, False),
    ({"uniform": 8, "distinct": {"vectors": 1, "output": "pooled"}}, Uniform, False, False),
    ({"keyframes": True, "distinct": 0.9}, Keyframes, False, False),
    ({"window": {"frames": 8, "stride": 4}, "distinct": 0.9}, Window, False, True),
]


@pytest.mark.parametrize(("written", "kind", "splittable", "windowed"), WRITTEN)
def test_each_kind_is_reported_by_its_key(
    written: Any, kind: type[SamplingBase], splittable: bool, windowed: bool
) -> None:
    sampling = READ.validate_python(written)
    assert type(sampling) is kind
    assert (sampling.splittable, sampling.windowed) == (splittable, windowed)


@pytest.mark.parametrize("written", [written for written, *_ in WRITTEN])
def test_samplings_are_written_as_they_are_read(written: Any) -> None:
    sampling = READ.validate_python(written)
    assert READ.validate_python(READ.dump_python(sampling, mode="json")) == sampling
    assert READ.validate_json(READ.dump_json(sampling)) == sampling


@pytest.mark.parametrize(
    "written", ["every", "uniform", {}, {"every": "1s", "uniform": 2}, {"seconds": 1}, [], None, 3, {"max_frames": 3}]
)
def test_anything_but_one_kind_is_refused_with_all_names(written: Any) -> None:
    with pytest.raises(ValidationError, match="exactly one of every, every_frames, window, first, uniform, keyframes"):
        READ.validate_python(written)


@pytest.mark.parametrize(
    "written",
    [
        {"uniform": True},
        {"uniform": 1 << 24},
        {"every": 1},
        {"every": "0s"},
        {"keyframes": False},
        {"window": {"frames": 8, "stride": 4, "fps": 0}},
        {"window": {"frames": 8, "stride": 0}},
        {"first": {"frames": 8, "stride": 4}},
        {"first": {"frames": 8}, "distinct": 0.9},
        {"yt8m": True, "distinct": 0.9},
        {"every": "1s", "distinct": 0},
        {"every": "1s", "distinct": 1.5},
        {"every": "1s", "distinct": True},
        {"every": "1s", "distinct": "95%"},
        {"every": "1s", "distinct": {}},
        {"every": "1s", "distinct": {"vectors": 0.9, "pictures": 0.9}},
        {"every": "1s", "distinct": {"pictures": 0.9, "output": "pooled"}},
    ],
)
def test_values_out_of_range_are_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        READ.validate_python(written)


def test_a_number_alone_compares_vectors() -> None:
    rule = READ.validate_python({"every": "1s", "distinct": 0.95}).repeats
    assert (rule.vectors, rule.pictures, rule.output) == (0.95, None, None)


@pytest.mark.parametrize("written", [written for written, *_ in WRITTEN])
def test_digests_know_of_distinct_only_where_it_is_used(written: Any) -> None:
    sampling = READ.validate_python(written)
    assert ("distinct" in sampling.values()) == (sampling.repeats is not None)
