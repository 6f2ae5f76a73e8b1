"""Dropping repeated rows: which rows, how they are counted, and what does not affect them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_factory import write_video
from numpy.typing import NDArray

import cliploom
from cliploom.pipelines.listings import failure_rows
from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.errors import SpecError
from cliploom.schemas.records import MAX_ORDINAL, ORDINAL_BITS
from cliploom.schemas.sampling import Distinct
from cliploom.schemas.spec_file import parse_document
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.repeats import BLOCKS, RepeatFilter, block_means, cosine
from cliploom.transforms.upkeep.verifying import verify_release

SIZE = (96, 64)
SCENES = (0, 0, 1, 1, 1, 2, 0, 0)
"""What is on screen in each half second of ``scenes.mp4``."""
KEPT = [0, 2, 5, 6]
"""Ordinals of the half seconds that show something else than the one before."""


def scene(number: int) -> NDArray[np.uint8]:
    blocks = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8)
    return np.kron(blocks, np.ones((16, 16, 1), np.uint8))


def document(folder: Path, sample: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "repeats",
        "store": str(folder / "store"),
        "sources": {"clips": {"kind": "media", "glob": str(folder / "media" / "*")}},
        "encoders": {"lite0": {"kind": "efficientnet_lite0"}},
        "features": {"frames": {"source": "clips", "sample": sample, "encoder": "lite0", "outputs": ["pooled"]}},
        "indexes": {"frames": {"feature": "frames", "output": "pooled"}},
        "limits": {"segment": "1s", "max_failed": "60%"},
    }


def run(folder: Path, sample: dict[str, Any], **options: Any) -> RunResult:
    written = document(folder, sample)
    return run_spec(parse_document(written), written, folder, RunOptions(**options), lambda text: None)


def rows_of(folder: Path) -> pl.DataFrame:
    table = cliploom.open(str(folder / "store")).table("frames").lazy().collect()
    ordinal = (pl.col("row_id") & MAX_ORDINAL).alias("ordinal")
    return table.with_columns(ordinal, (pl.col("row_id") // (1 << ORDINAL_BITS)).alias("item")).sort("row_id")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two equal films of scenes that stay, and one that is cut off; run once with ``distinct``."""
    folder = tmp_path_factory.mktemp("repeats")
    media = folder / "media"
    media.mkdir()
    film = write_video(media / "scenes.mp4", 200, size=SIZE, draw=lambda index, *_: scene(SCENES[index // 25]), fps=50)
    shutil.copyfile(film, media / "copy.mp4")
    bytes_of = write_video(folder / "whole.mkv", 200, size=SIZE, draw=lambda index, *_: scene(index // 50), fps=50)
    (media / "cut.mkv").write_bytes(bytes_of.read_bytes()[: bytes_of.stat().st_size * 2 // 3])
    run(folder, {"every": "500ms", "distinct": {"pictures": 0.9}})
    return folder


def test_kept_rows_have_their_planned_ordinals_and_times(project: Path) -> None:
    rows = rows_of(project)
    for uid in ("scenes", "copy"):
        mine = rows.filter(pl.col("uid") == uid)
        assert mine["ordinal"].to_list() == KEPT
        assert mine["start_s"].to_list() == [0.5 * ordinal for ordinal in KEPT]
        assert mine["end_s"].to_list() == [0.5 * ordinal + 0.5 for ordinal in KEPT]
    assert not verify_release(str(project / "store"))


def test_dropped_rows_are_counted_and_no_failures(project: Path) -> None:
    store = open_store(str(project / "store"))
    entry = store.release.features["frames"]
    assert entry.repeated == 2 * (len(SCENES) - len(KEPT))
    failed = {row["uid"]: row["message"] for row in failure_rows(str(project / "store"))}
    assert list(failed) == ["cut"]
    assert "samples could not be decoded" not in failed["cut"]


def test_the_next_night_computes_nothing_and_an_added_film_only_itself(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    sample = {"every": "500ms", "distinct": {"pictures": 0.9}}
    # Items are known by their paths; the copy lists the old place.
    written = document(folder, sample)
    written["sources"]["clips"]["glob"] = str(project / "media" / "*")
    result = run_spec(parse_document(written), written, folder, RunOptions(), lambda text: None)
    assert (result.changed, result.counters.get("items_done", 0)) == (False, 0)


@pytest.mark.parametrize(
    "sample",
    [
        {"every": "500ms", "distinct": 0.99},
        {"every_frames": 25, "distinct": 0.99},
        {"keyframes": True, "distinct": 0.99},
        {"uniform": 8, "distinct": {"pictures": 0.9}},
        {"window": {"frames": 10, "stride": 25}, "distinct": {"pictures": 0.9}},
    ],
)
def test_any_sampling_of_several_rows_drops_repeats(tmp_path: Path, sample: dict[str, Any]) -> None:
    (tmp_path / "media").mkdir()
    film = tmp_path / "media" / "scenes.mp4"
    write_video(film, 200, size=SIZE, draw=lambda index, *_: scene(SCENES[index // 25]), fps=50, gop=25)
    result = run(tmp_path, sample)
    assert rows_of(tmp_path)["ordinal"].to_list() == KEPT
    last = "window" in sample  # the last window is moved back to end on the last frame
    assert result.counters["rows_repeated"] == len(SCENES) - len(KEPT) + last


def test_a_moment_between_kept_rows_is_the_row_before_it(project: Path) -> None:
    store = open_store(str(project / "store"))
    for at, start_s in (("0.7s", 0.0), ("2.4s", 1.0), ("3.9s", 3.0)):
        hits = store.search(like=f"scenes@{at}", in_uid="scenes")
        assert hits[0].start_s == start_s
    with pytest.raises(SpecError, match="no row at 9 s"):
        store.search(like="scenes@9s")


def test_a_file_that_asks_drops_its_repeats_too(project: Path) -> None:
    store = open_store(str(project / "store"))
    hits = store.search(like=str(project / "media" / "scenes.mp4"), rank="bimatch", top=3)
    assert hits[0].uid in ("scenes", "copy")
    assert hits[0].score == pytest.approx(1.0, abs=1e-3)


def test_without_distinct_all_rows_come_back(project: Path, tmp_path: Path) -> None:
    written = document(project, {"every": "500ms"})
    written["store"] = str(tmp_path / "store")
    run_spec(parse_document(written), written, project, RunOptions(), lambda text: None)
    assert rows_of(tmp_path).filter(pl.col("uid") == "scenes").height == len(SCENES)
    assert read_releases(open_store(str(tmp_path / "store"))._objects).latest.features["frames"].repeated == 0  # type: ignore[union-attr]


def reference(vectors: Sequence[NDArray[np.float64]], threshold: float) -> list[int]:
    kept: list[int] = []
    for number, vector in enumerate(vectors):
        if not kept or cosine(vectors[kept[-1]], vector) < threshold:
            kept.append(number)
    return kept


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_each_row_is_compared_with_the_last_kept_one(steps: list[int], threshold: float) -> None:
    angles = np.cumsum(steps) * 0.1
    vectors = [np.array([np.cos(angle), np.sin(angle)]) for angle in angles]
    rows = RepeatFilter(Distinct(vectors=threshold), "v")
    kept = [n for n, vector in enumerate(vectors) if not rows.drops_vectors({"v": vector.astype(np.float32)})]
    rounded = [vector.astype(np.float32).astype(np.float64) for vector in vectors]
    assert kept == reference(rounded, threshold)


@pytest.mark.parametrize("shape", [(64, 96, 3), (5, 40, 3), (4, 33, 17, 3), (224, 224, 3)])
def test_block_means_are_means_of_blocks(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    small = block_means(pixels)
    height, width = shape[-3:-1]
    rows, columns = min(BLOCKS, height), min(BLOCKS, width)
    assert small.shape == (*shape[:-3], rows, columns, 3)
    top, bottom = (rows - 1) * height // rows, height
    left, right = 2 * width // columns, 3 * width // columns
    wanted = pixels[..., top:bottom, left:right, :].mean(axis=(-3, -2))
    np.testing.assert_allclose(small[..., rows - 1, 2, :], wanted)


def test_one_block_that_changes_is_no_repeat() -> None:
    still = np.full((64, 64, 3), 100, np.uint8)
    moved = still.copy()
    moved[8:12, 8:12] = 130
    rows = RepeatFilter(Distinct(pictures=0.9), "v")
    assert [rows.drops_picture(each) for each in (still, still + 20, moved, still)] == [False, True, False, False]


@pytest.mark.parametrize(
    ("left", "right", "found"), [([0, 0], [0, 0], 1.0), ([0, 0], [1, 0], 0.0), ([2, 0], [3, 0], 1)]
)
def test_zeros_repeat_zeros_only(left: list[float], right: list[float], found: float) -> None:
    assert cosine(np.array(left, np.float64), np.array(right, np.float64)) == pytest.approx(found)
