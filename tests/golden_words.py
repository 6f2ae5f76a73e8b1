"""A text encoder of eight dimensions for golden stores: the mean of vectors that only depend on the words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cliploom.encoders import Encoder, Family, ModelCard, Output

DIM = 8


class GoldenWords(Family):
    """One output, ``embedding``."""

    kind = "golden_words"

    def modality(self, options: Any) -> Any:
        return "text"

    def output_names(self, options: Any, text: bool) -> tuple[str, ...]:
        return ("embedding",)

    def fingerprint(self, options: Any) -> dict[str, str]:
        return {}

    def prepare(self, options: Any, folder: Path, text: Any) -> ModelCard:
        return self.card(options, {"embedding": Output(dim=DIM, space="golden_words")})

    def open(self, folder: Path, card: ModelCard, threads: int) -> Encoder:
        return WordEncoder()


class WordEncoder:
    """Opened ``golden_words``."""

    def encode(self, batch: Sequence[str], report: Any = None) -> list[Any]:
        return [{"embedding": np.mean([word_vector(word) for word in text.split()], axis=0)} for text in batch]


def word_vector(word: str) -> NDArray[np.float32]:
    """float32 [8] from -1 to 1, the same on every machine."""
    codes = np.frombuffer(hashlib.sha256(word.encode()).digest()[:DIM], np.uint8)
    return ((codes.astype(np.float32) - 127.5) / 127.5).astype(np.float32)


@contextmanager
def words_on_path(folder: Path) -> Iterator[None]:
    """Offer the encoder by an entry point while the block runs, as an installed package would."""
    info = folder / "golden_words-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: golden-words\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[cliploom.encoders]\ngolden_words = golden_words:GoldenWords\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield
