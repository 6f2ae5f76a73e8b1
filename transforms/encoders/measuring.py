"""Measures the agreement of a prepared model of pixels, and of its text tower, with the original or golden vectors."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from cliploom.schemas.models import ModelCard
from cliploom.transforms.encoders.agreement import agreement, smallest_cosine
from cliploom.transforms.encoders.base import Encoder
from cliploom.transforms.encoders.golden import Expected, read_golden
from cliploom.transforms.encoders.text import TextTower
from cliploom.transforms.encoders.word_tokens import WordTokens

TEXT = "text tower"
UNMEASURED = (
    "agreement with the original was not measured; install TensorFlow (pip install 'cliploom[tensorflow]') or give "
    "golden: vectors.npz"
)
_SENTENCES = (
    "",
    "Playing guitar",
    "A cup of coffee, on a wooden table!",
    "the cat's whiskers don't   move",
    "¿Dónde está la biblioteca? Zürich, naïve café ÄÖÜ",
    "1,234.56 metres at 25 fps (29.97i); SHOUTING\twith odd\nspacing_and-signs \N{NO-BREAK SPACE} \N{SNOWMAN}",
)


def unmeasured(untrusted: list[str]) -> str:
    """Return the note for a model that was not measured.

    Args:
        untrusted: the operations because of which the original was not run; empty if TensorFlow is not installed.
    """
    if not untrusted:
        return UNMEASURED
    return (
        f"agreement with the original was not measured: it can touch files or call Python ({', '.join(untrusted)}), so "
        "TensorFlow was not asked to run it; give golden: vectors.npz"
    )


def golden_sentences(folder: Path) -> tuple[str, ...]:
    """Return sentences for a text tower with a vocabulary: unusual ones, and words of the vocabulary."""
    tokens = WordTokens.read(folder)
    chosen = random.Random(0).choices(sorted(tokens.known), k=5 * tokens.rules.tokens)  # noqa: S311
    size = tokens.rules.tokens
    own = [" ".join(chosen[begin : begin + length]) for begin, length in ((0, 1), (1, 3), (4, size), (size, 2 * size))]
    return (*_SENTENCES, *own, f"{own[1].upper()} {own[0].title()}? unheard-of")


def measured(
    encoder: Encoder,
    folder: Path,
    card: ModelCard,
    expected: Expected | None,
    golden: str | None = None,
    untrusted: list[str] | None = None,
) -> ModelCard:
    """Return the card with the smallest cosines by output and of the text tower, or a note that nothing was measured.

    Args:
        encoder: the newly prepared encoder.
        folder: the folder that it was opened from.
        card: the card of the model.
        expected: the results of the original, if it could be run.
        golden: the user's file of golden vectors.
        untrusted: the operations because of which the original was not run.
    """
    given = [] if expected is None else [expected]
    if golden is not None:
        given.append(read_golden(Path(golden).expanduser(), tuple(card.outputs)))
    found: dict[str, float] = {}
    for each in given:
        now = agreement(encoder, list(each.items), each.vectors)
        if each.text is not None and card.text_tower:
            tower = TextTower(folder, card.precision)
            now[TEXT] = smallest_cosine(tower.encode(each.sentences, query=True), each.text)
        found |= {name: min(value, found.get(name, value)) for name, value in now.items()}
    return replace(card, agreement=found, note="" if given else unmeasured(untrusted or []))
