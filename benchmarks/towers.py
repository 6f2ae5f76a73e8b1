"""Two-tower training beside Ego4D's tutorial and a bare loop of the same framework; part of ``benchmarks heads``.

Pairs of the loaders and of an epoch are those of one store: precomputed features of 1,536 numbers and sentences of
MiniLM. The tutorial's loader opens a file a text and the features' HDF5 file, as its notebook does, under PyTorch's
``DataLoader``; the bare loop has all vectors in memory and does nothing but the same step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cliploom.pipelines.launching.target import open_store
from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.pipelines.training.train_towers import pairs_of, prepare_towers
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.schemas.vector_heads import TRAIN, VALIDATION, TwoTowerSpec
from cliploom.transforms.pair_training.pair_data import PairSet
from cliploom.transforms.readers.pair_reading import Pairs
from cliploom.transforms.store.releases import read_releases

VIDEOS, EACH, DIM, BATCH, RATE = 60, 50, 1536, 128, 1.875
FOLDER = "towers"
SPEC = """\
version: 1
name: towers
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
heads: {joint: {kind: two_tower, pairs: pairs, most_validation: 64}}
"""


def make_pairs(folder: Path) -> None:
    """A store with pairs, and the same pairs as the tutorial's files."""
    import torch

    folder = folder / FOLDER
    (folder / "feats").mkdir(parents=True)
    (folder / "texts").mkdir()
    random = np.random.default_rng(0)
    narrations = {}
    for number in range(VIDEOS):
        np.save(folder / "feats" / f"v{number:03}.npy", random.normal(size=(8 * EACH, DIM)).astype(np.float32))
        rows = [
            {"timestamp_sec": 4.0 * place + 2, "narration_text": f"#C C lifts box {random.integers(200)}"}
            for place in range(EACH)
        ]
        narrations[f"v{number:03}"] = {"narration_pass_1": {"narrations": rows, "summaries": []}}
    (folder / "narration.json").write_text(json.dumps(narrations))
    (folder / "spec.yaml").write_text(SPEC)
    document = load_document(folder / "spec.yaml")
    run_spec(parse_document(document), document, folder, RunOptions(), lambda text: None)
    found = Pairs(str(folder / "store"), "pairs")
    meta = []
    for number in range(len(found)):
        torch.save(torch.from_numpy(found.batch([number])[1][0]), folder / "texts" / f"{number}.pt")
        meta.append([f"v{number % VIDEOS:03}", 4.0 * (number % EACH) + 2])
    with h5py.File(folder / "features.h5", "w") as file:
        for path in sorted((folder / "feats").glob("*.npy")):
            file.create_dataset(path.stem, data=np.load(path))
    (folder / "meta.json").write_text(json.dumps(meta))


def _pairs(folder: Path) -> dict[str, PairSet]:
    folder = folder / FOLDER
    spec = parse_document(load_document(folder / "spec.yaml"))
    objects = open_store(spec, folder)
    training = prepare_towers(spec, folder, "joint", objects, read_releases(objects).get(None))
    return pairs_of(training, spec, folder, objects, folder / "work", lambda text: None)


def _learner(pairs: dict[str, PairSet]) -> Any:
    from cliploom.transforms.pair_training.two_tower import TwoTowerLearner

    spec = TwoTowerSpec.model_validate({"kind": "two_tower", "pairs": "pairs", "batch": BATCH})
    return TwoTowerLearner(spec, pairs[TRAIN], pairs[VALIDATION])


def tutorial_loader(folder: Path) -> Callable[[], int]:
    """Return a file a text, and the mean of its rows of the features' file."""
    import torch

    folder = folder / FOLDER
    meta = json.loads((folder / "meta.json").read_text())

    class Narrations(torch.utils.data.Dataset[Any]):
        def __init__(self) -> None:
            self.features = h5py.File(folder / "features.h5", "r")

        def __len__(self) -> int:
            return len(meta)

        def __getitem__(self, number: int) -> Any:
            uid, t = meta[number]
            text = torch.load(folder / "texts" / f"{number}.pt")
            first, end = int((t - 2) * RATE), int((t + 2) * RATE) + 1
            return torch.from_numpy(self.features[uid][first:end]).mean(0), text

    loader = torch.utils.data.DataLoader(Narrations(), BATCH, shuffle=True)
    return lambda: sum(len(texts) for _, texts in loader)


def our_loader(folder: Path) -> Callable[[], int]:
    """Return the batches that ``cliploom train`` takes."""
    learner = _learner(_pairs(folder))
    return lambda: sum(len(clips) for clips, _, _ in learner.batches(1))


def bare_epoch(folder: Path) -> Callable[[], int]:
    """Return the same step over batches that are in memory as tensors."""
    learner = _learner(_pairs(folder))
    batches = list(learner.batches(1))

    def job() -> int:
        losses = [learner._step(*batch) for batch in batches]
        return sum(len(clips) for clips, _, _ in batches) if np.isfinite(float(losses[-1])) else 0

    return job


def our_epoch(folder: Path) -> Callable[[], int]:
    """Return an epoch of ``cliploom train``."""
    learner = _learner(_pairs(folder))

    def job() -> int:
        learner.run_epoch(1)
        return len(learner._pairs)

    return job


JOBS: dict[str, Callable[[Path], Callable[[], int]]] = {
    "pairs, the tutorial's loader": tutorial_loader,
    "pairs, cliploom's loader": our_loader,
    "towers, a bare loop": bare_epoch,
    "towers, an epoch of train": our_epoch,
}
