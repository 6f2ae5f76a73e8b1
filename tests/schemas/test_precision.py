"""The least agreement that is asked of a precision, and the digest of the samples that it was calibrated with."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cliploom.schemas.precision import AgreementSpec, Calibration, OutputFigures, PrecisionFigures, SampleId

SAMPLES = st.builds(SampleId, st.text("0123456789abcdef", min_size=4, max_size=8), st.integers(0, 99), st.booleans())
CALIBRATIONS = st.builds(Calibration, st.lists(SAMPLES, max_size=6).map(tuple), st.booleans())


@pytest.mark.parametrize(
    ("asked", "precision", "limits"),
    [
        ({}, "int8", {"p5": 0.95, "recall": 0.85, "faster": 1.2}),
        ({}, "int8_weights", {"p5": 0.95, "recall": 0.85, "faster": 0.0}),
        ({"p5": 0.5, "faster": 0}, "int8", {"p5": 0.5, "recall": 0.85, "faster": 0.0}),
        ({"recall": 1}, "int8_weights", {"p5": 0.95, "recall": 1.0, "faster": 0.0}),
    ],
)
def test_limits_are_those_asked_for_and_else_the_precision_s_own(
    asked: dict[str, float], precision: str, limits: dict[str, float]
) -> None:
    assert AgreementSpec.model_validate(asked).limits(precision) == limits


@pytest.mark.parametrize("wrong", [{"p5": 1.01}, {"recall": -0.1}, {"faster": float("nan")}, {"p95": 0.9}])
def test_limits_that_nothing_can_reach_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        AgreementSpec.model_validate(wrong)


@given(CALIBRATIONS)
def test_a_calibration_is_read_back_as_it_was_written(calibration: Calibration) -> None:
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again == calibration
    assert again.digest == calibration.digest


@given(CALIBRATIONS, st.lists(SAMPLES, max_size=4))
def test_samples_that_only_measure_do_not_change_the_model(calibration: Calibration, more: list[SampleId]) -> None:
    measured = tuple(replace(sample, held_back=True) for sample in more)
    assert replace(calibration, samples=(*measured, *calibration.samples)).digest == calibration.digest


@given(CALIBRATIONS, SAMPLES)
def test_a_sample_more_or_the_other_range_of_weights_makes_another_model(
    calibration: Calibration, sample: SampleId
) -> None:
    used = replace(sample, held_back=False)
    assert replace(calibration, samples=(*calibration.samples, used)).digest != calibration.digest
    assert replace(calibration, overflow_fix=not calibration.overflow_fix).digest != calibration.digest


def test_figures_are_read_back_as_they_were_written() -> None:
    outputs = {"v": OutputFigures(0.99, 0.97, 0.9, 0.8), "scores": OutputFigures(0.99, 0.97, 0.9, None, 0.93)}
    figures = PrecisionFigures(outputs, 2.5, 300, 200, 41, {"version": "1"}, "x86_64 avx2", 100, 30)
    assert PrecisionFigures.from_dict(json.loads(json.dumps(figures.to_dict()))) == figures
