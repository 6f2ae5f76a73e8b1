"""Samples drawn for quantised encoders: the same for the same bytes, spread, bounded, and kept apart."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from media_factory import write_noise, write_video

from cliploom.pipelines.running.model_bench import bench_text
from cliploom.schemas.digests import digest_file
from cliploom.schemas.errors import CliploomError
from cliploom.schemas.media import MediaLimits, Preprocess
from cliploom.schemas.precision import Calibration, OutputFigures, PrecisionFigures, SampleId
from cliploom.transforms.inputs.listing import find
from cliploom.transforms.work.calibration import (
    DrawingRequest,
    SampledItem,
    drawn_samples,
    in_digest_order,
    spread,
    with_overflow_fix,
)
from cliploom.transforms.work.model_bench import BenchRow

SHAPE = (12, 16, 3)
PREPROCESS = Preprocess(16, 12, fit="squash")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for number in range(12):
        colour = np.random.default_rng(number).integers(0, 256, 3)

        def draw(index: int, width: int, height: int, colour: np.ndarray = colour) -> np.ndarray:
            return np.broadcast_to((colour + 5 * index) % 256, (height, width, 3)).astype(np.uint8)

        write_video(folder / f"{number:02}.mp4", 20, fps=5, size=(32, 24), draw=draw)
    write_noise(folder / "noise.mp4", 2000)
    return folder


def items(folder: Path) -> list[SampledItem]:
    source = '{"kind": "media"}'
    return [
        SampledItem(digest_file(Path(found.uri)), found.uri, found.signature, "", source, '{"every": "200ms"}')
        for found in find(str(folder / "*.mp4"), folder, "here")
    ]


def request(found: list[SampledItem], known: Calibration | None = None) -> DrawingRequest:
    return DrawingRequest(tuple(in_digest_order(found)), True, known, 60.0, MediaLimits())


def draw(asked: DrawingRequest) -> tuple[tuple[SampleId, ...], np.ndarray]:
    asked = DrawingRequest.from_dict(asked.to_dict())
    with drawn_samples(asked, PREPROCESS, SHAPE) as (drawn, names):
        assert [names[place].held_back for place in range(len(names))] == [
            place in set(drawn.held_back) for place in range(len(names))
        ]
        return names, np.stack(list(drawn.items))


def test_samples_follow_from_bytes_alone(media: Path, tmp_path: Path) -> None:
    names, pixels = draw(request(items(media)))
    assert len(names) == len(set(names)) == 240
    others = list(media.glob("*.mp4"))
    random.Random(1).shuffle(others)
    for number, path in enumerate(others):
        shutil.copyfile(path, tmp_path / f"clip-{number}.mp4")
    shutil.copyfile(others[0], tmp_path / "again.mp4")
    again, same = draw(request(items(tmp_path)))
    assert again == names
    np.testing.assert_array_equal(same, pixels)


def test_files_that_measure_do_not_calibrate(media: Path) -> None:
    names, _ = draw(request(items(media)))
    sides = Counter((name.item, name.held_back) for name in names)
    assert len(sides) == len({item for item, _ in sides}) == 12
    assert 0 < sum(held for _, held in sides) < 6


def test_samples_of_before_are_taken_again_until_a_file_is_gone(media: Path, tmp_path: Path) -> None:
    names, pixels = draw(request(items(media)))
    chosen = Calibration(names[5:140:2], overflow_fix=True)
    again, some = draw(replace(request(items(media), chosen), calibrate=False))
    assert set(again) == set(chosen.samples)
    place = {name: number for number, name in enumerate(names)}
    np.testing.assert_array_equal(some, pixels[[place[name] for name in again]])
    assert with_overflow_fix(again, chosen, overflow_fix=False).overflow_fix
    fewer = [item for item in items(media) if item.digest != chosen.samples[0].item]
    fresh, _ = draw(request(fewer, chosen))
    assert set(fresh) != set(chosen.samples)


def test_fewer_than_a_hundred_are_refused(media: Path) -> None:
    with pytest.raises(CliploomError, match="of which there are 80, fewer than 100"):
        draw(request([item for item in items(media) if Path(item.uri).stem in ("00", "01", "02", "03")]))


def test_one_file_gives_both_sides(tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", 120, fps=5, size=(32, 24))
    names, _ = draw(request(items(tmp_path)))
    assert len(names) == 120
    assert Counter(name.held_back for name in names) == {False: 72, True: 48}


def test_places_are_spread() -> None:
    for length in (1, 7, 100):
        for count in (1, 3, 7, 200):
            found = spread(length, count)
            assert len(found) == len(set(found)) == min(length, count)
            assert all(0 <= place < length for place in found)


def test_the_table_of_precisions_says_what_is_refused() -> None:
    figures = PrecisionFigures({"v": OutputFigures(0.98, 0.91, 0.8, 0.7)}, 2.1, 300, 200, 41)
    rows = [
        BenchRow("lite0", "f32", 180.0, None, 20.1),
        BenchRow("lite0", "int8", 378.0, figures, 5.2, "v: p5 0.910, below 0.95."),
        BenchRow("lite0", "bf16", None, None, None, "This processor can't compute in bf16."),
    ]
    assert [BenchRow.from_dict(row.to_dict()) for row in rows] == rows
    said = bench_text(rows)
    assert "refused" in said
    assert "not here" in said
    assert "lite0 int8: v: p5 0.910, below 0.95." in said
    assert max(map(len, said.splitlines())) <= 90
