"""video2dataset: one frame a second of the clips in a tar, by the worker of its stage ``subset`` and its subsamplers.

``fps``: clips of one frame a second, encoded again, as its documentation has it. ``jpg``: a picture for every second,
each by an ffmpeg of its own that seeks; its only way to pictures at given times is to call them subtitles. The worker
is called in this process: the whole program starts others and a logger that waits for them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from video2dataset.data_writer import WebDatasetSampleWriter
from video2dataset.workers import SubsetWorker

METHODS: dict[str, dict[str, Any]] = {
    "fps": {"frame_rate": 1},
    "jpg": {"frame_rate": 1, "downsample_method": "yt_subtitle", "encode_format": "jpg"},
}


def main(method: str, tar: str, out: str) -> None:
    """Write the frames."""
    config = {
        "subsampling": {"FrameSubsampler": {"args": METHODS[method]}},
        "reading": {"timeout": 60, "sampler": None},
        "storage": {"number_sample_per_shard": 1000, "oom_shard_count": 5, "captions_are_subtitles": False},
    }
    Path(out).mkdir(parents=True)
    done, _ = SubsetWorker(WebDatasetSampleWriter, out, {"video": "mp4"}, config)((tar, 0))
    if not done:
        raise SystemExit("video2dataset failed")


if __name__ == "__main__":
    main(*sys.argv[1:])
