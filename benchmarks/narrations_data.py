"""A seeded generator of narrations like Ego4D's, for the benchmarks of text features.

Sentences follow Ego4D's grammar of tag, verb, object and an optional phrase, with verbs and objects drawn by Zipf's
law, so that short common sentences recur and long ones seldom do. Two annotators narrate each video, one sentence every
4.5 s. The published facts that it aims at: 13.2 sentences a minute, 50,206 narrations in 100 videos. The share of
distinct sentences is a stand-in; ``main`` prints what comes out.

    python -m benchmarks narrations_data narration.json
"""

from __future__ import annotations

import argparse
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.replace("_", " ") for word in text.split())


VERBS = _words(
    "picks holds puts drops lifts places moves touches looks_at turns opens closes cuts washes removes adjusts wipes "
    "stirs pours throws pulls pushes folds presses shakes rubs peels hits rolls ties carries inserts scoops cleans "
    "arranges fixes passes spreads hangs measures paints drills screws sews ties_up rinses dips draws taps squeezes"
)
OBJECTS = _words(
    "hand knife bowl plate cloth phone paper bag spoon door card bottle cup table board book pot tool wood brush lid "
    "container tray water food dough onion tap sponge pen box stick chair drawer carrot rope wire cable brick plank "
    "screw hammer ball clay needle thread fabric scissors shelf fridge bucket glove hose stone leaf plant soil shirt "
    "shoe towel pan pepper tomato potato egg bread fork ladder wall mower wheel bicycle laptop keyboard remote"
)
MODIFIERS = _words("small white red black metal wooden plastic green big blue old second")
PHRASES = _words(
    "with_his_right_hand with_her_left_hand with_both_hands from_the_table on_the_table in_the_bowl into_the_sink "
    "on_the_floor in_her_right_hand in_his_left_hand from_the_shelf on_the_chopping_board on_the_counter to_the_left "
    "around_the_room in_front_of_him beside_the_wall under_the_tap towards_the_window out_of_the_bag"
)
SUBJECTS = ("#C C", "#O a man X", "#O a woman Y", "#O a person X")
SUBJECT_SHARES = (0.86, 0.06, 0.05, 0.03)
SECONDS_BETWEEN = 60 / 13.2


@dataclass(frozen=True)
class Corpus:
    """What to generate.

    Attributes:
        repetition: draw with Zipf's law; otherwise each sentence comes once.
    """

    videos: int = 100
    narrations: int = 50_000
    seed: int = 0
    repetition: bool = True


def sentences(corpus: Corpus) -> Iterator[str]:
    """Yield all texts, video by video."""
    rng = np.random.default_rng(corpus.seed)
    seen: set[str] = set()
    while len(seen) < corpus.narrations or corpus.repetition:
        for text in _draw(rng, 4096, corpus.repetition):
            if corpus.repetition or text not in seen:
                seen.add(text)
                yield text


def _draw(rng: np.random.Generator, number: int, repetition: bool) -> list[str]:
    subjects = rng.choice(len(SUBJECTS), number, p=SUBJECT_SHARES)
    verbs = rng.choice(len(VERBS), number, p=_zipf(len(VERBS), repetition))
    objects = rng.choice(len(OBJECTS), number, p=_zipf(len(OBJECTS), repetition))
    modifiers = rng.integers(0, len(MODIFIERS), number)
    phrases = rng.integers(0, len(PHRASES), number)
    others = rng.choice(len(OBJECTS), number, p=_zipf(len(OBJECTS), repetition))
    modified = rng.random(number) < 0.2
    phrased = rng.random(number) < 0.4
    joined = rng.random(number) < 0.15
    texts = []
    for i in range(number):
        words = [SUBJECTS[subjects[i]], VERBS[verbs[i]], "the"]
        words += [MODIFIERS[modifiers[i]]] if modified[i] else []
        words += [OBJECTS[objects[i]]]
        words += ["and the", OBJECTS[others[i]]] if joined[i] else []
        words += [PHRASES[phrases[i]]] if phrased[i] else []
        texts.append(" ".join(words))
    return texts


def _zipf(number: int, repetition: bool) -> np.ndarray[Any, np.dtype[np.float64]]:
    weights = np.arange(1, number + 1, dtype=np.float64) ** -float(repetition)
    shares: np.ndarray[Any, np.dtype[np.float64]] = weights / weights.sum()
    return shares


def videos(corpus: Corpus) -> Iterator[tuple[str, dict[str, Any]]]:
    """(uid, version 1 JSON object) of each video."""
    rng = np.random.default_rng((corpus.seed, 1))
    texts = sentences(corpus)
    for number in range(corpus.videos):
        count = corpus.narrations * (number + 1) // corpus.videos - corpus.narrations * number // corpus.videos
        passes = {}
        for pass_, size in ((1, count - count // 2), (2, count // 2)):
            times = np.cumsum(rng.exponential(SECONDS_BETWEEN, size))
            rows = [
                {
                    "timestamp_sec": round(float(t), 6),
                    "timestamp_frame": int(t * 30),
                    "narration_text": next(texts),
                    "annotation_uid": _uid(rng),
                }
                for t in times
            ]
            passes[f"narration_pass_{pass_}"] = {"narrations": rows, "summaries": []}
        yield _uid(rng), passes | {"status": "complete"}


def _uid(rng: np.random.Generator) -> str:
    return str(uuid.UUID(bytes=rng.bytes(16)))


def write_narrations(path: Path, corpus: Corpus) -> None:
    """Write a version 1 narration file, one video in memory at a time."""
    with path.open("w", encoding="utf-8") as file:
        for number, (uid, video) in enumerate(videos(corpus)):
            file.write(f"{',' if number else '{'}{json.dumps(uid)}: {json.dumps(video)}")
        file.write("}")


def main(argv: list[str]) -> int:
    """Write a file and print what it is like."""
    parser = argparse.ArgumentParser("benchmarks narrations_data", description="Generate narrations like Ego4D's.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--videos", type=int, default=Corpus.videos)
    parser.add_argument("--narrations", type=int, default=Corpus.narrations)
    parser.add_argument("--seed", type=int, default=Corpus.seed)
    parser.add_argument("--distinct", action="store_true", help="no sentence twice")
    options = parser.parse_args(argv)
    corpus = Corpus(options.videos, options.narrations, options.seed, not options.distinct)
    write_narrations(options.path, corpus)
    texts = [
        row["narration_text"]
        for _, video in videos(corpus)
        for key in ("narration_pass_1", "narration_pass_2")
        for row in video[key]["narrations"]
    ]
    words = sum(len(text.split()) for text in texts) / len(texts)
    print(f"{len(texts)} narrations, {len(set(texts))} distinct, {words:.2f} words each on average, in {options.path}")
    return 0
