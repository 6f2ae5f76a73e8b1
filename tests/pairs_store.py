"""A store with pairs of clip features and narrations, for the views of PyTorch and TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.schemas.spec_file import load_document, parse_document

DIM = 4
SPEC = """\
version: 1
name: pairs
store: ./store
sources:
  said: {kind: narrations, format: csv, path: said.csv}
  omni: {kind: precomputed, glob: "feats/*.npy", window: {fps: 30, window: 32, stride: 16}, dim: 4}
encoders: {minilm: {kind: minilm}}
features: {clips: {source: omni}, speech: {source: said, encoder: minilm}}
exports:
  hdf5: {kind: pairs, feature: clips, text: speech, format: hdf5, shards: 2}
  parquet: {kind: pairs, feature: clips, text: speech, pool: {take: 3}}
"""


def write_pairs_store(folder: Path) -> str:
    """Two videos with five narrations each; returns the store's folder."""
    (folder / "feats").mkdir()
    rng = np.random.default_rng(0)
    for name in ("v0", "v1"):
        np.save(folder / "feats" / f"{name}.npy", rng.normal(size=(40, DIM)).astype(np.float32))
    rows = [f"{uid},{4 * second},someone does thing {second} of {uid}" for uid in ("v0", "v1") for second in range(5)]
    (folder / "said.csv").write_text("uid,start_s,text\n" + "\n".join(rows) + "\n")
    (folder / "spec.yaml").write_text(SPEC)
    document = load_document(folder / "spec.yaml")
    run_spec(parse_document(document), document, folder, RunOptions(), lambda text: None)
    return str(folder / "store")
