"""Narrations and clip features to training pairs, and a loop that reads them: python main.py.

The data are made up in the layout of Ego4D. With the real data, leave ``write_data`` out and change two paths and
``dim`` in cliploom.yaml. To learn a joint space from the pairs, add
``heads: {joint: {kind: two_tower, pairs: pairs}}``; see docs/heads.md.
"""

import json
from pathlib import Path

import numpy as np

import cliploom

SENTENCES = ("#C C cuts an onion", "#C C opens the fridge", "#C C washes a plate", "#O A man waters flowers")


def write_data(folder: Path, videos: int = 6, seconds: int = 30) -> None:
    """Write ``narration.json`` and ``features/<uid>.npy``, float32 [windows, 8], one window each 16/30 s."""
    (folder / "features").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    narrations = {}
    for number in range(videos):
        uid = f"video-{number}"
        np.save(folder / "features" / f"{uid}.npy", random.normal(size=(seconds * 30 // 16, 8)).astype(np.float32))
        said = [
            {"timestamp_sec": 3.0 + 6 * place, "timestamp_frame": 90 + 180 * place, "narration_text": text}
            for place, text in enumerate(SENTENCES)
        ]
        narrations[uid] = {"narration_pass_1": {"narrations": said}}
    (folder / "narration.json").write_text(json.dumps(narrations), encoding="utf-8")


def main(folder: Path) -> int:
    """Make the pairs, read them, and return how many there are."""
    if not (folder / "narration.json").exists():
        write_data(folder)
    cliploom.run(folder / "cliploom.yaml", on_stage=print)
    seen = 0
    for split in ("train", "val"):
        pairs = cliploom.Pairs(str(folder / "store"), "pairs", split)
        for number in range(len(pairs)):
            features, embedding = pairs[number]  # float32 [8] and [384], mapped from the export's files
            seen += features.shape == (8,) and embedding.shape == (384,)
        if len(pairs):
            print(f"{split}: {len(pairs)} pairs, the first says {pairs[0].text!r} in {pairs[0].uid}")
    return seen


if __name__ == "__main__":
    main(Path(__file__).resolve().parent)
