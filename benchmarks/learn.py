"""Does training learn? Two towers of ``cliploom train`` beside the same by hand: ``python -m benchmarks learn``.

Data of Ego4D's shape: videos with a sentence every four seconds, MiniLM's vectors of the sentences, and clip features
of 1,536 numbers, 1.875 a second. A clip's features are a seeded random non-linear map of its sentence's vector, and
noise: of the moment, of the video, and of the row. All sentences of a video share its place and a handful of verbs,
things and colours, so the sentences that are most alike are of the same video. A tenth of the videos is held out.

cliploom does the whole way: run, export of pairs, ``train`` with the defaults of a head of kind two_tower. By hand is
what Ego4D's tutorial does, in PyTorch, in a process of its own, over the same pairs in memory. Both keep the epoch with
the best recall@10 on the held-out pairs. Recall is that of all held-out pairs, in both directions.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import table
from cliploom.pipelines.launching.target import open_store
from cliploom.pipelines.planning.compile_jobs import prepared_text_encoder
from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.schemas.spec_file import load_document, load_spec, parse_document

DIM, RATE, SPACING_S = 1536, 1.875, 4.0
SAME_VIDEO, SAME_MOMENT, EACH_ROW = 0.5, 2.5, 2.0
"""Standard deviations of the noise: of a video, a moment and a row; the signal's is 1."""

VERBS = """\
opens closes lifts drops washes wipes cuts paints throws catches folds carries pushes pulls turns shakes fills
empties breaks mends counts hides weighs measures"""
THINGS = """\
box cup bowl plate knife spoon bottle towel brush bucket rope ladder hammer drill plank tile brick pipe lamp chair
table shelf basket bag jar lid tray cloth glove boot hat jacket book paper pencil phone camera guitar ball wheel
tyre chain pump hose flower pot leaf apple onion carrot potato egg loaf fish pan kettle sponge candle"""
COLOURS = """\
red blue green yellow white black brown grey orange purple pink golden"""
PLACES = """\
kitchen garage garden workshop bathroom bedroom office street park shop barn attic cellar corridor library
laboratory bakery studio classroom yard"""

SPEC = """\
version: 1
name: learn
store: ./store
sources:
  spoken: {kind: narrations, format: ego4d, path: narration.json}
  omni: {kind: precomputed, glob: "feats/*", window: {fps: 30, window: 32, stride: 16}, dim: 1536}
encoders: {minilm: {kind: minilm}}
features:
  speech: {source: spoken, encoder: minilm}
  clips: {source: omni}
exports:
  pairs: {kind: pairs, feature: clips, text: speech, format: hdf5, splits: {shares: {train: 90%, validation: 10%}}}
heads:
  joint: {kind: two_tower, pairs: pairs, dims: [1536, 1536], learning_rate: 1e-4}
"""


def sentences_of(video: int, count: int) -> list[str]:
    """Return the sentences of a video: different ones, of a few words that they share."""
    random = np.random.default_rng([1, video])
    places = PLACES.split()
    place = places[video % len(places)]
    verbs, things, colours = (
        random.choice(words.split(), size, replace=False) for words, size in ((VERBS, 6), (THINGS, 5), (COLOURS, 3))
    )
    combined = [f"{verb} the {colour} {thing}" for verb in verbs for colour in colours for thing in things]
    return [f"#C C {combined[number]} in the {place}" for number in random.permutation(len(combined))[:count]]


def clip_features(vectors: NDArray[np.float32], video: int, noise: float = 1.0) -> NDArray[np.float32]:
    """Return the features of a whole video, float32 [rows, 1536].

    Args:
        vectors: of its sentences, float32 [sentences, 384], of length 1; sentence i is at ``SPACING_S`` * i + 2 s.
        video: its number, the seed of its noise.
        noise: all of it is multiplied by this.
    """
    shared = np.random.default_rng(0).normal(size=(vectors.shape[1], DIM)) * 2
    random = np.random.default_rng([2, video])
    signal = np.tanh(vectors @ shared)
    signal += noise * (SAME_MOMENT * random.normal(size=signal.shape) + SAME_VIDEO * random.normal(size=DIM))
    rows = math.ceil(len(vectors) * SPACING_S * RATE)
    moments = np.minimum((np.arange(rows) / RATE / SPACING_S).astype(int), len(vectors) - 1)
    return np.asarray(signal[moments] + noise * EACH_ROW * random.normal(size=(rows, DIM)), np.float32)


def write_project(
    folder: Path, videos: int, each: int, dims: tuple[int, int] = (DIM, DIM), noise: float = 1.0, rate: float = 1e-4
) -> None:
    """Narrations, features and the spec.

    Args:
        folder: made when missing.
        videos: how many.
        each: sentences of a video.
        dims: the dims of the towers.
        noise: the noise of the features, see ``clip_features``.
        rate: the learning rate.
    """
    (folder / "feats").mkdir(parents=True)
    spec_text = SPEC.replace("[1536, 1536]", str(list(dims))).replace("1e-4", f"{rate:g}")
    (folder / "spec.yaml").write_text(spec_text)
    spec = load_spec(folder / "spec.yaml")
    _, minilm = prepared_text_encoder(spec, folder, "minilm", open_store(spec, folder))
    narrations = {}
    for video in range(videos):
        uid, said = f"v{video:04}", sentences_of(video, each)
        vectors = minilm.encode([text.replace("#C", "Camera wearer") for text in said])
        np.save(folder / "feats" / f"{uid}.npy", clip_features(np.asarray(vectors, np.float32), video, noise))
        rows = [
            {"timestamp_sec": SPACING_S * place + 2, "narration_text": text, "annotation_uid": uid}
            for place, text in enumerate(said)
        ]
        narrations[uid] = {"narration_pass_1": {"narrations": rows, "summaries": []}}
    (folder / "narration.json").write_text(json.dumps(narrations))


def train_by_hand(
    store: str, epochs: int, seed: int, dims: tuple[int, int] = (DIM, DIM), rate: float = 1e-4
) -> dict[str, float]:
    """Return the tutorial's model, loss and optimizer in PyTorch, over pairs in memory.

    Args:
        store: with the export ``pairs``.
        epochs: all are run.
        seed: the seed of weights and order.
        dims: the dims of the towers.
        rate: the learning rate.

    Returns:
        ``recall@10`` of the best epoch, its number, and the seconds of all.
    """
    import torch
    from torch import nn

    from cliploom.transforms.readers.pair_reading import Pairs

    torch.manual_seed(seed)
    torch.set_num_threads(2)
    data = {}
    for split in ("train", "validation"):
        pairs = Pairs(store, "pairs", split)
        data[split] = [torch.from_numpy(np.array(each)) for each in pairs.batch(range(len(pairs)))]

    def tower(width: int) -> nn.Sequential:
        made = nn.Sequential(nn.Linear(width, dims[0]), nn.ReLU(), nn.Linear(*dims))
        for layer in (made[0], made[2]):
            nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("relu"))
            nn.init.zeros_(layer.bias)
        return made

    clips, texts = data["train"]
    clip, text = tower(clips.shape[1]), tower(texts.shape[1])
    scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    optimizer = torch.optim.AdamW([*clip.parameters(), *text.parameters(), scale], lr=rate, betas=(0.98, 0.9), eps=1e-6)
    began, best = time.perf_counter(), {"recall@10": 0.0, "epoch": 0.0}
    for epoch in range(1, epochs + 1):
        for chosen in torch.randperm(len(clips)).split(128):
            logits = scale * clip(clips[chosen]) @ text(texts[chosen]).T
            own = torch.arange(len(chosen))
            loss = (nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                scale.clamp_(0, math.log(100))
        with torch.no_grad():
            scores = text(data["validation"][1]) @ clip(data["validation"][0]).T
        own = scores.diagonal()
        found = [((scores > own[:, None]).sum(1) < 10), ((scores > own).sum(0) < 10)]
        recall = float(torch.stack(found).double().mean())
        if recall > best["recall@10"]:
            best = {"recall@10": recall, "epoch": float(epoch)}
    return best | {"seconds": time.perf_counter() - began}


def in_child(
    folder: Path, epochs: int, seed: int, dims: tuple[int, int] = (DIM, DIM), rate: float = 1e-4
) -> dict[str, float]:
    """``train_by_hand`` in a process of its own: PyTorch and TensorFlow don't share one well."""
    settings = [str(folder / "store"), epochs, seed, *dims, rate]
    command = [sys.executable, "-m", "benchmarks.learn", "--by-hand", json.dumps(settings)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_project(folder: Path) -> None:
    """``cliploom run``."""
    document = load_document(folder / "spec.yaml")
    run_spec(parse_document(document), document, folder, RunOptions(), lambda text: None)


def train_project(folder: Path, epochs: int, seed: int) -> Any:
    """``cliploom train --head joint``: the card."""
    from cliploom.pipelines.training.train import train_head

    overrides = [f"heads.joint.epochs={epochs}", f"heads.joint.seed={seed}"]
    return train_head(load_spec(folder / "spec.yaml", overrides), folder, "joint", lambda text: None).card


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks learn", description=__doc__)
    parser.add_argument("--videos", type=int, default=400)
    parser.add_argument("--each", type=int, default=50, help="sentences a video")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--by-hand", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help="folder that keeps the data for the next run")
    options = parser.parse_args(argv)
    if options.by_hand:
        store, epochs, seed, first, second, rate = json.loads(options.by_hand)
        print(json.dumps(train_by_hand(store, epochs, seed, (first, second), rate)))
        return 0
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as scratch:
        root = options.root or Path(scratch)
        if not (root / "narration.json").exists():
            write_project(root, options.videos, options.each)
        run_project(root)
        theirs = in_child(root, options.epochs, options.seed)
        card = train_project(root, options.epochs, options.seed)
        held = card.counts["validation pairs"]
        chance = 10 / held
        print(f"{card.counts['train pairs']} pairs to learn from, {held} held out; R@10 by chance {chance:.4f}")
        lines = [
            (name, f"{recall:.4f}", f"{recall / chance:.0f}", str(epoch), f"{seconds:.0f}")
            for name, recall, epoch, seconds in (
                ("cliploom train", card.metrics["recall@10"], card.best, card.seconds),
                ("by hand, PyTorch", theirs["recall@10"], int(theirs["epoch"]), theirs["seconds"]),
            )
        ]
        table(["", "R@10", "times chance", "best epoch", "seconds"], lines)
        print(f"Difference: {100 * (card.metrics['recall@10'] - theirs['recall@10']):+.1f} points")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
