"""Thumbnails: the frame on screen at a moment, upright, in its shape; what is missing says so; the cache is bounded."""

from __future__ import annotations

import io
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_factory import read_index, write_gif, write_image, write_video
from PIL import Image
from stores import SmallStore

from cliploom.schemas.errors import SpecError
from cliploom.schemas.media import MediaLimits
from cliploom.transforms.media.probe import probe
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.search.thumbnails import MissingMediaError, ThumbnailCache, frame_at, thumbnail


def shown_at(path: Path, at_s: float, width: int = 96) -> np.ndarray:
    return frame_at(path, probe(path, MediaLimits()), at_s, width)


@pytest.mark.parametrize(
    ("at_s", "frame"), [(0.0, 0), (0.039, 0), (0.04, 1), (1.0, 25), (1.9, 47), (1.92, 47), (2.5, 47)]
)
def test_the_frame_on_screen_at_the_moment_is_shown(tmp_path: Path, at_s: float, frame: int) -> None:
    assert read_index(shown_at(write_video(tmp_path / "a.mp4"), at_s)) == frame


def test_frames_of_a_variable_rate_are_found_by_their_times(tmp_path: Path) -> None:
    times = [0, 100, 900, 950, 2000]
    path = write_video(tmp_path / "v.mkv", 5, times=times, time_base=Fraction(1, 1000), gop=5, b_frames=0)
    assert [read_index(shown_at(path, t)) for t in (0.05, 0.5, 0.93, 1.5, 2.0)] == [0, 1, 2, 3, 4]


def test_gifs_and_images_are_shown(tmp_path: Path) -> None:
    gif = write_gif(tmp_path / "a.gif", [200, 300, 500])
    assert [read_index(shown_at(gif, t)) for t in (0.1, 0.2, 0.7)] == [0, 1, 2]
    assert read_index(shown_at(write_image(tmp_path / "i.png", 9), 0.0)) == 9
    assert read_index(shown_at(write_image(tmp_path / "i.webp", 9), 7.0)) == 9


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photographs_stand_upright(tmp_path: Path, orientation: int) -> None:
    pixels = shown_at(write_image(tmp_path / "p.jpg", 11, exif_orientation=orientation), 0.0)
    assert (pixels.shape, read_index(pixels)) == ((64, 96, 3), 11)


def test_a_turned_video_stands_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "t.mp4", 10, rotation=90)
    pixels = shown_at(path, 0.12, 64)
    assert pixels.shape == (96, 64, 3)
    # The stored picture turned a quarter counterclockwise, as the display matrix says.
    assert read_index(np.rot90(pixels, -1)) == 3


def test_wide_pixels_make_a_wide_picture(tmp_path: Path) -> None:
    path = tmp_path / "pal.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 72, 56, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)
        for _ in range(3):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((56, 72, 3), np.uint8), format="rgb24")))
        output.mux(stream.encode())
    height, width, _ = shown_at(path, 0.0, 1000).shape
    assert (width, height) == (102, 56)


def test_a_strip_keeps_its_shape_within_the_box(tmp_path: Path) -> None:
    height, width, _ = shown_at(write_image(tmp_path / "s.png", size=(40, 800)), 0.0, 100).shape
    assert (width, height) == (10, 200)


def test_a_moment_far_behind_the_end_has_no_picture(built_store: SmallStore) -> None:
    with pytest.raises(MissingMediaError, match=r"'videos/cat' has no picture at 60 s: .* lasts 3 s"):
        thumbnail(open_store(str(built_store.store)), "videos/cat", 60.0)


def test_a_thumbnail_is_a_webp_of_the_width(built_store: SmallStore) -> None:
    store = open_store(str(built_store.store))
    picture = Image.open(io.BytesIO(thumbnail(store, "videos/cat", 1.0, 80)))
    assert (picture.format, picture.size) == ("WEBP", (80, 60))
    assert Image.open(io.BytesIO(thumbnail(store, "videos/cat", 1.0, 1000))).size == (160, 120)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"uid": "../../etc/passwd"}, "has the uid '../../etc/passwd'"),
        ({"uid": "videos/cat", "source": "other"}, "'other' has no item with the uid 'videos/cat'; these have: clips"),
        ({"uid": "videos/cat", "at_s": float("nan")}, "time of a thumbnail is nan"),
        ({"uid": "videos/cat", "width": 100_000}, "give 16 to 1920 pixels"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(built_store: SmallStore, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        thumbnail(open_store(str(built_store.store)), **arguments)  # type: ignore[arg-type]


def test_a_file_that_was_gone_or_changed_is_not_shown_even_if_cached(small_store: SmallStore, tmp_path: Path) -> None:
    small_store.run()  # lists the media of the copy, which this test changes
    store, cache = open_store(str(small_store.store)), ThumbnailCache(tmp_path / "cache")
    path = Path(store.items_with(uid="page")["uri"][0])
    first = cache.get(store, "page")
    os.utime(path, ns=(1, 1))
    assert cache.get(store, "page") == first
    shutil.copyfile(small_store.media / "both.gif", path)
    with pytest.raises(MissingMediaError, match="has changed since release 2 was made"):
        cache.get(store, "page")
    path.unlink()
    with pytest.raises(MissingMediaError, match=r"page\.png does not exist any more"):
        cache.get(store, "page")


def test_what_failed_to_be_read_has_no_picture(built_store: SmallStore) -> None:
    with pytest.raises(MissingMediaError, match="'noise' has no picture"):
        thumbnail(open_store(str(built_store.store)), "noise")


def test_the_cache_stays_within_its_size_and_forgets_what_was_used_longest_ago(
    built_store: SmallStore, tmp_path: Path
) -> None:
    store = open_store(str(built_store.store))
    size = len(ThumbnailCache(tmp_path / "one").get(store, "videos/cat", 0.0, 64))
    cache = ThumbnailCache(tmp_path / "few", 5 * size)
    for number in range(14):
        cache.get(store, "videos/cat", number / 5, 64)
        files = list((tmp_path / "few").iterdir())
        assert sum(file.stat().st_size for file in files) <= 5 * size
    assert len(files) >= 2


def test_the_second_time_nothing_is_decoded(
    built_store: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cache = open_store(str(built_store.store)), ThumbnailCache(tmp_path)
    first = cache.get(store, "videos/rocket", 1.0, 64)
    monkeypatch.setattr("cliploom.transforms.media.decode.decode", None)
    assert cache.get(store, "videos/rocket", 1.0, 64) == first
