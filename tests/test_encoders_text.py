"""Text encoders: each distinct sentence is encoded once, and its vector is the same in any company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cliploom.schemas.errors import EncodeError
from cliploom.schemas.models import ModelCard
from cliploom.transforms.encoders.base import EncodeReport
from cliploom.transforms.encoders.prepare import prepare_model
from cliploom.transforms.encoders.registry import family
from cliploom.transforms.encoders.text import LONGEST_RECENT, RecentSentences, TextEncoder

SENTENCES = [
    "a cup of coffee",
    "Camera wearer C opens a door",
    "a",
    "two dogs run over a field of grass in the evening",
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelCard]:
    return prepare_model("minilm", family("minilm").Options(), tmp_path_factory.mktemp("models"))


def vectors(encoder: TextEncoder, texts: list[str]) -> np.ndarray:
    return np.stack([row["embedding"] for row in encoder.encode(texts) if not isinstance(row, EncodeError)])


def test_sentences_that_come_again_have_the_same_vectors(prepared: tuple[Path, ModelCard]) -> None:
    encoder, fresh = (TextEncoder(*prepared, threads=1) for _ in range(2))
    first = vectors(encoder, SENTENCES)
    np.testing.assert_array_equal(vectors(encoder, [*reversed(SENTENCES), *SENTENCES])[4:], first)
    alone = np.concatenate([vectors(fresh, [text]) for text in SENTENCES])
    np.testing.assert_allclose(first, alone, atol=1e-6)


def test_vectors_handed_out_are_their_own(prepared: tuple[Path, ModelCard]) -> None:
    encoder = TextEncoder(*prepared, threads=1)
    first = vectors(encoder, SENTENCES)
    row = encoder.encode(SENTENCES[:1])[0]
    assert not isinstance(row, EncodeError)
    row["embedding"][:] = 0
    np.testing.assert_array_equal(vectors(encoder, SENTENCES), first)


def test_what_is_no_text_fails_alone(prepared: tuple[Path, ModelCard]) -> None:
    encoder, report = TextEncoder(*prepared, threads=1), EncodeReport()
    results = encoder.encode(["a cat", None, "\ud800", "a cat", ["a list"]], report)
    assert [isinstance(result, EncodeError) for result in results] == [False, True, True, False, True]
    assert (report.done, report.failed) == (2, 3)


def test_recent_sentences_are_the_last_ones_asked_for() -> None:
    recent = RecentSentences(2)
    one, two, three = (np.full(3, number, np.float32) for number in (1, 2, 3))
    recent.keep({"one": one, "two": two})
    assert set(recent.known(["one", "other"])) == {"one"}
    recent.keep({"three": three, "long" * LONGEST_RECENT: one})
    assert set(recent.known(["one", "two", "three", "long" * LONGEST_RECENT])) == {"one", "three"}
