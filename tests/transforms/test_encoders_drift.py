"""Vectors of fixed inputs, kept with a quantised model: the same here, another elsewhere, none without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cliploom.schemas.errors import EncodeError
from cliploom.schemas.media import Preprocess
from cliploom.schemas.models import ModelCard, Output
from cliploom.transforms.encoders.agreement import GOLDEN_SENTENCES, golden_pictures
from cliploom.transforms.encoders.drift import CHECK_FILE, check_inputs, measure_drift, write_check

CARD = ModelCard("mean", "d", "frame", "int8", {"colour": Output(dim=3, space="mean")}, Preprocess(16, 12))


class MeanColour:
    """Mean colours, of which the first channel is ``off`` by so much; the pictures of ``fails`` fail."""

    def __init__(self, off: float = 0.0, fails: frozenset[int] = frozenset()) -> None:
        self.off = np.float32([off, 0, 0])
        self.fails = fails

    def encode(self, batch: Any, report: Any = None) -> list[Any]:
        return [
            EncodeError("encode", "no")
            if place in self.fails
            else {"colour": np.float32(pixels.mean((0, 1))) + self.off}
            for place, pixels in enumerate(batch)
        ]


def test_the_same_processor_gives_the_same_and_another_one_is_seen(tmp_path: Path) -> None:
    write_check(tmp_path, CARD, MeanColour())
    assert measure_drift(tmp_path, CARD, MeanColour()) == pytest.approx(1)
    off = measure_drift(tmp_path, CARD, MeanColour(off=60))
    further = measure_drift(tmp_path, CARD, MeanColour(off=200))
    assert off is not None
    assert further is not None
    assert further < off < 0.999


def test_the_figure_is_the_smallest_cosine_over_all_inputs(tmp_path: Path) -> None:
    write_check(tmp_path, CARD, MeanColour())
    kept = np.stack([pixels.mean((0, 1)) for pixels in golden_pictures(12, 16)]).astype(np.float64)
    now = kept + np.array([50, 0, 0])
    cosines = (kept * now).sum(1) / np.linalg.norm(kept, axis=1) / np.linalg.norm(now, axis=1)
    assert measure_drift(tmp_path, CARD, MeanColour(off=50)) == pytest.approx(cosines.min(), abs=1e-5)


def test_an_input_that_fails_is_left_out_on_both_sides(tmp_path: Path) -> None:
    fails = frozenset({0})
    write_check(tmp_path, CARD, MeanColour(fails=fails))
    assert measure_drift(tmp_path, CARD, MeanColour(fails=fails)) == pytest.approx(1)


def test_nothing_is_measured_without_kept_vectors_or_of_whole_numbers_of_bits(tmp_path: Path) -> None:
    assert measure_drift(tmp_path, CARD, MeanColour()) is None
    write_check(tmp_path, CARD, MeanColour())
    assert (tmp_path / CHECK_FILE).exists()
    for precision in ("f32", "bf16"):
        assert measure_drift(tmp_path, replace(CARD, precision=precision), MeanColour()) is None


def test_inputs_are_pictures_clips_or_sentences_as_the_model_takes_them() -> None:
    pictures, clips = check_inputs(CARD), check_inputs(replace(CARD, modality="clip", clip_frames=4))
    assert {picture.shape for picture in pictures} == {(12, 16, 3)}
    assert {clip.shape for clip in clips} == {(4, 12, 16, 3)}
    assert check_inputs(replace(CARD, modality="text", preprocess=None)) == GOLDEN_SENTENCES
