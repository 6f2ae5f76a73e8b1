"""TFRecords into a store and out of it, beside TensorFlow doing the same: ``python -m benchmarks tfrecords``.

Every job is a process of its own on one shard of YouTube-8M's size, and is counted in records per CPU second, since
tf.data always uses helper threads. *Into the store* is what a worker does with a shard: read, check, write Parquet and
hash it. *Out* is both rounds of an export. Two rows in between say what float32 can reach at best: numbers that are in
memory already, by Arrow's writer of Parquet alone, and as plain bytes that are written and hashed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.tfrecords_data import JOBS as PURE
from benchmarks.tfrecords_data import VIDEOS, videos, write_shard
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.records import Duplicate, Shard, ShardItem
from cliploom.schemas.sources import TfrecordSource
from cliploom.transforms.store import quantize
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.part_builder import Timings
from cliploom.transforms.store.parts import part_path, vectors_to_arrow
from cliploom.transforms.tfrecords.export import PieceTask, RecordLayout, ShardTask
from cliploom.transforms.tfrecords.settings import ShardSettings
from cliploom.transforms.work.compute import compute_item, compute_parts

REPEATS = 3
_FEW = 20


def job_of(quantized: str) -> FeatureJob:
    """Return a feature of frame-level shards."""
    source = TfrecordSource.model_validate(
        {"kind": "tfrecord", "format": "yt8m_frame", "glob": ["*"], "quantized": quantized}
    )
    settings = ShardSettings.of(source, None)
    return FeatureJob(
        name="yt",
        source="yt",
        kind="tfrecord",
        settings=settings.to_json(),
        config="0" * 40,
        table=f"features/yt/{quantized}",
        model="",
        card=None,
        outputs=settings.outputs,
        compact=settings.compact,
        records=True,
    )


def shard_of(path: Path) -> Shard:
    """Return the whole file as a shard of work."""
    status = path.stat()
    signature = f"{status.st_size}:{status.st_mtime_ns}"
    return Shard(("yt",), (ShardItem(str(path), signature, "1" * 40, "{}", (Duplicate(1, path.stem),)),))


def read_into_store(path: Path, quantized: str, store: Path) -> str:
    """Make the part of one shard in a store that has none; returns its name."""
    job, shard, objects, timings = job_of(quantized), shard_of(path), ObjectStore(store), Timings()
    (record,) = compute_parts(
        shard,
        [job],
        {},
        lambda each, part: objects.create_file(part_path(each.table, part)),
        lambda item, builders: compute_item(item, builders, timings),
        lambda item, rows: None,
        "benchmark",
        timings,
    )
    assert not record.failures
    return record.part


def write_out(store: Path, quantized: str, part: str) -> None:
    """Both rounds of an export of one part into one shard."""
    job, objects = job_of(quantized), ObjectStore(store)
    dims = job.outputs
    layout = RecordLayout("yt8m_frame", "rgb", dims["rgb"], "audio", dims["audio"], 1, "yt", records=True, labels=None)
    piece = PieceTask("out", job.table, (part,), layout)
    shard = ShardTask("out", "yt", (piece.path,), 0, 1, gzip=False)
    objects.delete([piece.path, shard.path])
    piece.write(objects)
    shard.write(objects)


def _fresh(path: Path) -> Path:
    """Return a folder for a store that isn't there yet; the last one lies beside, so that removing it isn't timed."""
    return path.parent / f"store-{len(list(path.parent.glob('store-*')))}"


def _into_keep(path: Path, count: int) -> None:
    read_into_store(path, "keep", _fresh(path))


def _into_decode(path: Path, count: int) -> None:
    read_into_store(path, "decode", _fresh(path))


@cache
def _few_floats() -> tuple[pa.Table, memoryview]:
    """Some videos as float32: a table of lists, and the bytes of the numbers."""
    blocks: dict[str, list[NDArray[np.float32]]] = {"rgb": [], "audio": []}
    for each in videos(_FEW):
        blocks["rgb"].append(quantize.decode(each.rgb.view(np.uint8)))
        blocks["audio"].append(quantize.decode(np.asarray(each.audio).view(np.uint8)))
    values = {name: np.concatenate(rows) for name, rows in blocks.items()}
    data = np.concatenate(list(values.values()), axis=1)
    return pa.table({name: vectors_to_arrow(rows) for name, rows in values.items()}), data.data.cast("B")


def _bare_parquet(path: Path, count: int) -> None:
    table, _ = _few_floats()
    with pq.ParquetWriter(
        path.with_suffix(".parquet"), table.schema, compression="none", use_dictionary=False, write_statistics=False
    ) as writer:
        for _ in range(max(1, count // _FEW)):
            writer.write_table(table, row_group_size=1700)


def _bare_bytes(path: Path, count: int) -> None:
    _, data = _few_floats()
    digest = hashlib.sha256()
    with path.with_suffix(".bytes").open("wb", buffering=0) as file:
        for _ in range(max(1, count // _FEW)):
            file.write(data)
            digest.update(data)


def _out(path: Path, count: int) -> None:
    job = job_of("keep")
    write_out(path.parent / "store-0", "keep", shard_of(path).part_name(job.config))


JOBS: dict[str, Callable[[Path, int], None]] = {
    "read and parse, tf.data": PURE["read and parse, tf.data"],
    "into the store, codes kept": _into_keep,
    "into the store, float32": _into_decode,
    "  its floats, bare pq.write_table": _bare_parquet,
    "  its bytes, written and hashed": _bare_bytes,
    "write, TFRecordWriter": PURE["write, TFRecordWriter"],
    "out of the store": _out,
}


def _measure_here(name: str, path: Path, count: int) -> dict[str, float]:
    """Return the best of some runs; the first loads libraries and isn't counted."""
    JOBS[name](path, count)
    rates = []
    for _ in range(REPEATS):
        start = time.process_time()
        JOBS[name](path, count)
        rates.append(count / (time.process_time() - start))
    return {"rate": max(rates), "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def measure(count: int) -> dict[str, dict[str, float]]:
    """Return the records per CPU second and peak memory of every job."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = write_shard(Path(folder) / "frames.tfrecord", count)
        for name in JOBS:
            command = [sys.executable, "-m", "benchmarks.tfrecords", "--job", name, str(path), str(count)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks tfrecords", description=__doc__)
    parser.add_argument("--videos", type=int, default=VIDEOS, help="records of 300 frames in the shard")
    parser.add_argument("--job", nargs=3, metavar=("NAME", "SHARD", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.job:
        name, path, count = arguments.job
        print(json.dumps(_measure_here(name, Path(path), int(count))))
        return 0
    found = measure(arguments.videos)
    print(f"{'':34} records/CPU s   of TensorFlow   peak MB")
    base = 0.0
    for name, row in found.items():
        theirs = name.endswith(("tf.data", "TFRecordWriter"))
        base = row["rate"] if theirs else base
        ratio = "" if theirs else f"{row['rate'] / base:.2f}"
        print(f"{name:34} {row['rate']:13,.0f} {ratio:>15} {row['peak_mb']:9,.0f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
