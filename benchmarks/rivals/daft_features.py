"""Daft: one frame a second of a folder's clips through EfficientNet-Lite0 into Parquet.

``documented``: the expression ``video_frames`` and a class of a batch method (``daft.read_video_frames``, which is
shorter, stood still in 0.7.26 on two cores: 60 clips, six minutes, 2 s of CPU, waiting in ``File.exists``). ``fused``:
each file whole in such a class, by cliploom's own decoder and encoder.
"""

from __future__ import annotations

import sys
from typing import Any

import daft
import lite0
import numpy as np
from daft import DataType, col
from daft.functions import video_file, video_frames

WORKERS = 2
WIDTH, HEIGHT = 455, 256
POOLED = DataType.embedding(DataType.float32(), 1280)
ROW = DataType.struct({"start_s": DataType.float64(), "pooled": POOLED})


@daft.cls(max_concurrency=WORKERS)
class Encode:
    """Holds the model."""

    def __init__(self, model: str) -> None:
        self._model = lite0.Lite0(model)

    @daft.method.batch(return_dtype=POOLED, batch_size=16)
    def pooled(self, frames: daft.Series) -> list[np.ndarray]:
        """Of pictures."""
        return [self._model(lite0.crop(picture)) for picture in frames.to_pylist()]


@daft.cls(max_concurrency=WORKERS, use_process=True)
class Whole:
    """Does all of a file."""

    def __init__(self, model: str) -> None:
        self._fused = lite0.Fused(model)

    @daft.method.batch(return_dtype=DataType.list(ROW), batch_size=4)
    def rows(self, paths: daft.Series) -> list[list[dict[str, Any]]]:
        """Of files."""
        return [
            [{"start_s": at, "pooled": pooled} for at, pooled in self._fused.rows(path)] for path in paths.to_pylist()
        ]


def main(way: str, folder: str, model: str, out: str) -> None:
    """Write the features."""
    if way == "documented":
        files = daft.from_glob_path(f"{folder}/*.mp4").select("path")
        sampled = video_frames(video_file(col("path")), width=WIDTH, height=HEIGHT, sample_interval_seconds=1.0)
        frames = files.into_batches(4).with_column("frame", sampled).explode("frame")
        pooled = Encode(model).pooled(col("frame")["data"]).alias("pooled")
        found = frames.select("path", col("frame")["frame_time"], pooled)
    else:
        from pathlib import Path

        files = daft.from_pydict({"path": [str(path) for path in sorted(Path(folder).iterdir())]})
        rows = files.into_batches(4).with_column("row", Whole(model).rows(col("path"))).explode("row")
        found = rows.select("path", col("row")["start_s"], col("row")["pooled"])
    found.write_parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
