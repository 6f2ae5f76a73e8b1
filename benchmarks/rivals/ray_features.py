"""Ray Data: one frame a second of a folder's clips through EfficientNet-Lite0 into Parquet.

``documented``: read the bytes, ``flat_map`` to frames, ``map_batches`` with an actor class. ``fused``: each file whole
in an actor, by cliploom's own decoder and encoder.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import lite0
import numpy as np
import ray

WORKERS = 2


def frames(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of one file."""
    for at, pixels in lite0.each_second(io.BytesIO(row["bytes"])):
        yield {"path": row["path"], "start_s": at, "frame": pixels}


class Encode:
    """An actor that holds the model."""

    def __init__(self, model: str) -> None:
        self._model = lite0.Lite0(model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of a batch of pictures."""
        pooled = np.stack([self._model(picture) for picture in batch.pop("frame")])
        return {**batch, "pooled": pooled}


class Whole:
    """An actor that does all of a file."""

    def __init__(self, model: str) -> None:
        self._fused = lite0.Fused(model)

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Of one file."""
        return [{"path": row["item"], "start_s": at, "pooled": pooled} for at, pooled in self._fused.rows(row["item"])]


def main(way: str, folder: str, model: str, out: str) -> None:
    """Write the features."""
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    if way == "documented":
        files = ray.data.read_binary_files(folder, include_paths=True)
        found = files.flat_map(frames).map_batches(
            Encode, fn_constructor_args=(model,), batch_size=16, concurrency=WORKERS, num_cpus=0.5
        )
    else:
        from pathlib import Path

        files = ray.data.from_items(
            [str(path) for path in sorted(Path(folder).iterdir())], override_num_blocks=WORKERS * 4
        )
        found = files.flat_map(Whole, fn_constructor_args=(model,), concurrency=WORKERS)
    found.write_parquet(out)
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
