"""Zero-shot labels, retrieval and readers beside the same by hand; a part of ``python -m benchmarks heads``.

Each pair of rows does the same on the same arrays in a process of its own, in things a CPU second; a job that takes
more than five CPU seconds runs once. The peak is the largest resident set of the process.
*Labels*: the 10 best of 400 classes for each row of a Parquet part, beside numpy's matrix product and argpartition over
arrays that pyarrow reads. *Ranks*: those of texts among rows in both directions, beside FAISS's exact 10 nearest, which
give R@1, 5 and 10 in one direction and no median. *Examples*: from a shuffled PyTorch DataLoader, HDF5 beside Parquet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.measure import table
from cliploom.schemas.heads import HeadCard, HeadClass, InputColumn
from cliploom.transforms.heads.plain import PlainHead
from cliploom.transforms.metrics.ranks import Gallery, Relevance, exact_ranks
from cliploom.transforms.store.parts import PartWriter, arrow_to_vectors, read_rows, vectors_to_arrow

DIM, LABELS, TOP, REPEATS, LONG_S = 384, 400, 10, 2, 5.0
_BATCH = 4096


def unit_vectors(rows: int, seed: int) -> NDArray[np.float32]:
    """Random directions, float32 [rows, DIM]."""
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((rows, DIM), np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def write_part(path: Path, rows: int) -> None:
    """A part of one output."""
    with PartWriter(path, {"semantic": DIM}) as writer:
        for begin in range(0, rows, 20_000):
            count = min(20_000, rows - begin)
            writer.write_table(
                pa.table(
                    {
                        "row_id": np.arange(begin, begin + count),
                        "uid": pa.array(["v"] * count),
                        "start_s": np.arange(count, dtype=np.float64),
                        "end_s": np.arange(count, dtype=np.float64),
                        "frame": np.zeros(count, np.int64),
                        "item_digest": pa.array(["d"] * count),
                        "semantic": vectors_to_arrow(unit_vectors(count, begin)),
                    }
                )
            )
        writer.finish({})


def head() -> PlainHead:
    """Return a zero-shot head of 400 classes."""
    classes = tuple(HeadClass(number, f"class {number}") for number in range(LABELS))
    inputs = (InputColumn("frames", "semantic", "mean_semantic", DIM, ""),)
    settings = {"kind": "zero_shot", "feature": "frames", "labels": "names", "scores": "similarity"}
    card = HeadCard("names", "", "", "", 0, "", "", "", inputs, classes, settings, {}, 0.0, {}, (), 0)
    kernel = np.ascontiguousarray(unit_vectors(LABELS, 1).T)
    return PlainHead(card, kernel, np.zeros(LABELS, np.float32))


def _labels(folder: Path, rows: int) -> Callable[[], int]:
    made = head()

    def job() -> int:
        done = 0
        for group in read_rows(folder / "part.parquet", ["semantic"]):
            vectors = arrow_to_vectors(group["semantic"], DIM)
            places, _ = made.best(made.probabilities(vectors), TOP)
            done += len(places)
        return done

    return job


def _labels_by_hand(folder: Path, rows: int) -> Callable[[], int]:
    kernel = np.ascontiguousarray(unit_vectors(LABELS, 1).T)

    def job() -> int:
        done = 0
        with pq.ParquetFile(folder / "part.parquet") as file:
            for batch in file.iter_batches(_BATCH, columns=["semantic"]):
                vectors = batch.column(0).flatten().to_numpy().reshape(-1, DIM)
                norms = np.linalg.norm(vectors, axis=1, keepdims=True)
                scores = (vectors / norms) @ kernel
                best = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
                order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
                done += len(np.take_along_axis(best, order, axis=1))
        return done

    return job


def write_gallery(path: Path, rows: int) -> None:
    """Random directions in a .npy file, some at a time."""
    made = np.lib.format.open_memmap(path, "w+", np.float32, (rows, DIM))
    for begin in range(0, rows, 20_000):
        made[begin : begin + 20_000] = unit_vectors(min(20_000, rows - begin), begin + 2)
    made.flush()


def _ranks(folder: Path, rows: int) -> Callable[[], int]:
    gallery, texts = np.load(folder / "gallery.npy", mmap_mode="r"), unit_vectors(max(1, rows // 20), 3)
    relevance = Relevance.of_pairs(np.arange(len(texts)), np.arange(len(texts)) * 20)

    def job() -> int:
        forward, _ = exact_ranks(texts, Gallery.of_rows(gallery), relevance)
        return len(forward.ranks)

    return job


def _ranks_faiss(folder: Path, rows: int) -> Callable[[], int]:
    import faiss

    gallery, texts = np.load(folder / "gallery.npy"), unit_vectors(max(1, rows // 20), 3)

    def job() -> int:
        index = faiss.IndexFlatIP(DIM)
        index.add(gallery)
        _, found = index.search(texts, 10)
        right = np.arange(len(texts))[:, None] * 20
        return len((found == right).any(axis=1))

    return job


def _examples(name: str) -> Callable[[Path, int], Callable[[], int]]:
    def prepare(folder: Path, rows: int) -> Callable[[], int]:
        import torch
        from torch.utils.data import DataLoader

        from cliploom.transforms.readers.pair_reading import Pairs
        from cliploom.transforms.readers.training_views import torch_dataset

        torch.set_num_threads(1)
        loader = DataLoader(torch_dataset(Pairs(str(folder / "store"), name)), batch_size=128, shuffle=True)
        return lambda: sum(len(features) for features, _ in loader)

    return prepare


JOBS: dict[str, Callable[[Path, int], Callable[[], int]]] = {
    "zero-shot labels, numpy": _labels_by_hand,
    "zero-shot labels of a head": _labels,
    "10 nearest, FAISS": _ranks_faiss,
    "exact ranks, both ways": _ranks,
    "examples of hdf5 pairs": _examples("hdf5"),
    "examples of parquet pairs": _examples("parquet"),
}


def _rate(name: str, folder: Path, rows: int) -> dict[str, float]:
    """Things a CPU second, the best of some runs after the first, and the peak of memory in MB."""
    job = JOBS[name](folder, rows)
    rates = []
    for number in range(1 + REPEATS):
        start = time.process_time()
        done = job()
        spent = time.process_time() - start
        if number or spent > LONG_S:
            rates.append(done / spent)
        if spent > LONG_S:
            break
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    return {"rate": max(rates), "peak_mb": int(status.split("VmHWM:")[1].split()[0]) / 1024}


def write_pairs(folder: Path, videos: int, texts: int) -> None:
    """A store with the same pairs in both formats."""
    from cliploom.pipelines.running.run import RunOptions, run_spec
    from cliploom.schemas.spec_file import load_document, parse_document

    (folder / "feats").mkdir()
    for number in range(videos):
        rng = np.random.default_rng(number)
        np.save(folder / "feats" / f"v{number}.npy", rng.standard_normal((400, 1536), np.float32))
    lines = [
        f"v{video},{0.4 * text},someone does thing {text % 97}" for video in range(videos) for text in range(texts)
    ]
    (folder / "said.csv").write_text("uid,start_s,text\n" + "\n".join(lines) + "\n")
    (folder / "spec.yaml").write_text(
        "version: 1\nname: pairs\nstore: ./store\nsources:\n"
        "  said: {kind: narrations, format: csv, path: said.csv}\n"
        '  omni: {kind: precomputed, glob: "feats/*.npy", window: {fps: 30, window: 32, stride: 16}, dim: 1536}\n'
        "encoders: {minilm: {kind: minilm}}\n"
        "features: {clips: {source: omni}, speech: {source: said, encoder: minilm}}\n"
        "exports:\n  hdf5: {kind: pairs, feature: clips, text: speech, format: hdf5}\n"
        "  parquet: {kind: pairs, feature: clips, text: speech}\n"
    )
    document = load_document(folder / "spec.yaml")
    run_spec(parse_document(document), document, folder, RunOptions(), lambda text: None)


def show(rows: int, label_rows: int) -> None:
    """Print the table.

    Args:
        rows: the rows of the retrieval; a text for 20 rows.
        label_rows: of the zero-shot labels.
    """
    lines: list[list[str]] = []
    base = 0.0
    with tempfile.TemporaryDirectory(prefix="cliploom-benchmark-") as name:
        folder = Path(name)
        write_part(folder / "part.parquet", label_rows)
        write_gallery(folder / "gallery.npy", rows)
        write_pairs(folder, 20, 500)
        for number, job in enumerate(JOBS):
            command = [sys.executable, "-m", "benchmarks.heads_search", job, str(folder), str(rows)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
            found = json.loads(done.stdout.splitlines()[-1])
            base = base if number % 2 else found["rate"]
            share = f"{found['rate'] / base:.2f}" if number % 2 else ""
            lines.append([job, f"{found['rate']:,.0f}", share, f"{found['peak_mb']:,.0f}"])
    print(f"{label_rows:,} rows x {LABELS} labels; {max(1, rows // 20):,} texts, {rows:,} rows")
    table(["", "a CPU second", "of the other", "peak MB"], lines)


if __name__ == "__main__":
    print(json.dumps(_rate(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
