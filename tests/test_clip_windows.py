"""Own clip features over sliding windows of real small videos, as Ego4D's: 32 frames every 16, at 30 fps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from media_factory import picture, read_index, write_video
from numpy.typing import NDArray

from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.schemas.media import MediaLimits, Preprocess, Sampled
from cliploom.schemas.sampling import Window, WindowShape
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.media.decode import Request, decode
from cliploom.transforms.media.probe import probe
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table
from cliploom.transforms.work.models import SampleEncoder

EGO4D = Window(window=WindowShape(frames=32, stride=16, fps=30.0))
SMALL = Preprocess(16, 16, "squash")
SPEC = """\
version: 1
name: clips
store: ./store
sources:
  mono: {kind: media, glob: "mono.mp4"}
  left: {kind: media, glob: "both.mp4", stereo: left}
encoders: {lite0: {kind: efficientnet_lite0}}
features:
  mono: {source: mono, sample: {window: {frames: 4, stride: 2, fps: 30}}, encoder: lite0, outputs: [pooled]}
  left: {source: left, sample: {window: {frames: 4, stride: 2, fps: 30}}, encoder: lite0, outputs: [pooled]}
  each: {source: mono, sample: {every_frames: 1}, encoder: lite0, outputs: [pooled]}
"""


@pytest.fixture(scope="module")
def longest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """900 frames; shorter ones are written for each test."""
    return write_video(tmp_path_factory.mktemp("long") / "long.mp4", 900, fps=30, size=(32, 32))


def windows(path: Path, stereo: str = "") -> list[Sampled]:
    facts = probe(path, MediaLimits())
    return list(decode(path, facts, [Request(EGO4D, SMALL, stereo)]))  # type: ignore[arg-type]


def numbers(sampled: Sampled) -> list[int]:
    assert isinstance(sampled.pixels, np.ndarray)
    return [read_index(pixels) for pixels in sampled.pixels]


@pytest.mark.parametrize(
    ("frames", "count"), [(1, 1), (31, 1), (32, 1), (33, 2), (39, 2), (48, 2), (49, 3), (300, 18), (301, 18)]
)
def test_real_videos_have_as_many_windows_as_ego4d_says(tmp_path: Path, frames: int, count: int) -> None:
    found = windows(write_video(tmp_path / "a.mp4", frames, fps=30, size=(32, 32)))
    assert len(found) == count
    assert all(np.shape(sampled.pixels) == (32, 16, 16, 3) for sampled in found)
    if frames >= 32:
        # The last window is moved back to end on the last frame.
        assert numbers(found[-1]) == list(range(frames - 32, frames))
        assert numbers(found[0]) == list(range(32))


def test_half_a_minute_has_56_windows(longest: Path) -> None:
    found = windows(longest)
    assert len(found) == 56
    assert [sampled.ordinal for sampled in found] == list(range(56))
    starts = [numbers(sampled)[0] for sampled in found]
    assert starts == [*range(0, 55 * 16, 16), 868]


def test_left_half_of_stereo_is_what_is_seen(tmp_path: Path) -> None:
    def both(index: int, width: int, height: int) -> NDArray[np.uint8]:
        return np.concatenate([picture(index, width // 2, height), picture(999, width // 2, height)], axis=1)

    path = write_video(tmp_path / "both.mp4", 33, fps=30, size=(64, 32), draw=both)
    assert numbers(windows(path, "left")[-1]) == list(range(1, 33))


class MeanColour:
    """Pictures or clips to their mean colour; keeps the shapes that it was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, batch: Sequence[Any], report: Any = None) -> list[Any]:
        self.shapes += [np.shape(pixels) for pixels in batch]
        axes = tuple(range(np.ndim(batch[0]) - 1))
        return [{"colour": pixels.mean(axes, dtype=np.float32)} for pixels in batch]


def test_picture_encoder_is_averaged_over_a_window(tmp_path: Path) -> None:
    found = windows(write_video(tmp_path / "a.mp4", 33, fps=30, size=(32, 32)))
    clips, frames = MeanColour(), MeanColour()
    whole = SampleEncoder(clips, 1, averaged=False).encode([sampled.pixels for sampled in found])
    averaged = SampleEncoder(frames, 1, averaged=True).encode([sampled.pixels for sampled in found])
    assert clips.shapes == [(32, 16, 16, 3)] * 2
    assert frames.shapes == [(16, 16, 3)] * 64
    for one, other in zip(whole, averaged, strict=True):
        np.testing.assert_allclose(one["colour"], other["colour"], rtol=1e-5)  # type: ignore[index]


def test_run_averages_the_frames_of_each_window_and_takes_the_left_half(tmp_path: Path) -> None:
    def both(index: int, width: int, height: int) -> NDArray[np.uint8]:
        return np.concatenate([picture(index, width // 2, height), picture(999, width // 2, height)], axis=1)

    write_video(tmp_path / "mono.mp4", 7, fps=30, size=(32, 32), options={"crf": "0"})
    write_video(tmp_path / "both.mp4", 7, fps=30, size=(64, 32), draw=both, options={"crf": "0"})
    (tmp_path / "spec.yaml").write_text(SPEC)
    document = load_document(tmp_path / "spec.yaml")
    run_spec(parse_document(document), document, tmp_path, RunOptions(), lambda text: None)
    objects = ObjectStore(tmp_path / "store")
    features = read_releases(objects).get(None).features
    mono, left, each = (
        np.stack(
            read_table(objects, features[name].table, features[name].version).sort(pl.col("row_id"))["pooled"].to_list()
        )
        for name in ("mono", "left", "each")
    )
    assert mono.shape == (3, 1280)
    for row, first in zip(mono, (0, 2, 3), strict=True):
        np.testing.assert_allclose(row, each[first : first + 4].mean(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(left, mono, rtol=0.2, atol=0.05)
