"""Videos that browsers do not play: converted by a process of its own within limits, cached, sent in byte ranges."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media_factory import damage, read_index, write_video
from page_server import PageServer, page_server
from stores import SmallStore
from waiting import wait_until

from cliploom.schemas.media import MediaFacts, MediaLimits
from cliploom.serving.conversions import Conversion, Conversions
from cliploom.serving.converting import convert, picture_size
from cliploom.serving.lanes import BusyError
from cliploom.serving.playback import ConversionLimits, playback
from cliploom.serving.served_store import ServedStore, open_served
from cliploom.transforms.media.probe import probe
from cliploom.transforms.search.thumbnails import find_media, frame_at

FRAMES = 30
LIMITS = ConversionLimits()
AVI = MediaFacts("video", "avi", "mpeg4", 640, 480, 0, 100, 100, 0.0, 4.0, 25.0)
CASES: list[tuple[str, str, dict[str, Any], str]] = [
    ("mpeg4.avi", "mpeg4", {"audio": True}, "encoded"),
    ("reordered.avi", "libx264", {}, "encoded"),
    ("plain.avi", "libx264", {"b_frames": 0}, "copied"),
    ("h264.mkv", "libx264", {"audio": True}, "copied"),
    ("h264.ts", "libx264", {"audio": True}, "copied"),
    ("mpeg2.mpg", "mpeg2video", {}, "encoded"),
    ("hevc.mp4", "libx265", {}, "encoded"),
    ("full-chroma.mp4", "libx264", {"pix_fmt": "yuv444p"}, "encoded"),
    ("turned.mov", "mpeg4", {"rotation": 90}, "encoded"),
    ("wide.mkv", "mpeg4", {"aspect": Fraction(4, 3)}, "encoded"),
]


@pytest.mark.parametrize(("name", "codec", "options", "how"), CASES, ids=[case[0] for case in CASES])
def test_a_converted_video_shows_the_same_pictures_at_the_same_times(
    name: str, codec: str, options: dict[str, Any], how: str, tmp_path: Path
) -> None:
    path = write_video(tmp_path / name, FRAMES, codec, size=(320, 240), **options)
    facts = probe(path, MediaLimits())
    shares: list[float] = []
    made = tmp_path / "made.mp4"
    assert convert(path, made, facts, LIMITS, shares.append) == how
    assert shares == sorted(shares)
    found = probe(made, MediaLimits())
    assert playback(found, 1, LIMITS).how == "as_is"
    assert (found.frames, found.start_s) == (FRAMES, 0.0)
    assert found.duration_s == pytest.approx(facts.duration_s, abs=0.05)
    assert (found.width, found.height) == picture_size(facts)
    with av.open(str(made)) as container:
        assert len(container.streams.audio) == bool(options.get("audio"))
    for at in (0.02, 0.5, 1.1):
        assert read_index(frame_at(made, found, at, 320)) == read_index(frame_at(path, facts, at, 320))


def test_damage_in_the_middle_is_skipped(tmp_path: Path) -> None:
    path = damage(write_video(tmp_path / "a.avi", 60, "mpeg4", gop=5), 0.4, 0.5)
    facts = probe(path, MediaLimits())
    assert convert(path, tmp_path / "made.mp4", facts, LIMITS, lambda share: None) == "encoded"
    found = probe(tmp_path / "made.mp4", MediaLimits())
    assert found.frames > 30
    assert found.duration_s == pytest.approx(facts.duration_s, abs=0.3)


@pytest.mark.parametrize(
    ("facts", "size", "how"),
    [
        (replace(AVI, container="mov,mp4,m4a,3gp,3g2,mj2", codec="h264"), 1, "as_is"),
        (replace(AVI, container="matroska,webm", codec="vp9"), 1, "as_is"),
        (replace(AVI, type="gif", codec="gif", container="gif"), 1, "as_is"),
        (AVI, 1, "converted"),
        (replace(AVI, container="mov,mp4,m4a,3gp,3g2,mj2", codec="hevc"), 1, "converted"),
        (AVI, LIMITS.source_bytes + 1, "stills"),
        (replace(AVI, frames=10**6), 1, "stills"),
        (replace(AVI, width=8192, height=8192), 1, "stills"),
        (replace(AVI, codec="h264", frames=10**6), 1, "converted"),  # its packets are copied
    ],
)
def test_how_an_item_is_played(facts: MediaFacts, size: int, how: str) -> None:
    found = playback(facts, size, LIMITS)
    assert found.how == how
    assert bool(found.why) == (how != "as_is")
    assert playback(facts, size, ConversionLimits(running=0)).how == ("as_is" if how == "as_is" else "stills")


@pytest.fixture(scope="module")
def project(built_store: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    folder = tmp_path_factory.mktemp("converted") / "project"
    shutil.copytree(built_store.folder, folder, symlinks=True)
    found = SmallStore(folder)
    write_video(found.media / "old.avi", FRAMES, "mpeg4", size=(160, 120), fps=10)
    write_video(found.media / "other.mkv", FRAMES, "libx264", size=(160, 120), fps=10)
    found.run()
    return found


@pytest.fixture(scope="module")
def server(project: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("cache")))
        with page_server(project.store) as found:
            yield found


@pytest.fixture(scope="module")
def store(project: SmallStore) -> ServedStore:
    return open_served(str(project.store))


def test_a_video_is_converted_once_and_sent_in_ranges(server: PageServer, project: SmallStore) -> None:
    item = server.get("/api/items/old").json()
    assert (item["plays"], item["playback"]["how"]) == (False, "converted")
    whole = server.get("/api/converted/old")
    assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
    assert probe_bytes(whole.content).codec == "h264"
    part = server.get("/api/converted/old", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole.content)}"
    assert server.get("/api/converted/old", headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert server.get("/api/converted/old", headers={"Range": "bytes=99999999-"}).status_code == 416
    (kept,) = Path(tempfile.gettempdir()).glob("cliploom-converted-*/*.mp4")
    assert kept.read_bytes() == whole.content
    state = server.get("/api/playback/old").json()
    assert (state["how"], state["state"]) == ("converted", "ready")
    assert "cliploom_serve_conversions 0" in server.get("/metrics").text
    with page_server(project.store) as again:  # another process or a restart finds the copy
        assert again.get("/api/playback/old").json()["state"] == "ready"


def test_packets_that_browsers_play_are_copied(server: PageServer) -> None:
    def playback() -> dict[str, Any]:
        found: dict[str, Any] = server.get("/api/playback/other").json()
        return found

    wait_until(lambda: playback()["state"] not in ("waiting", "running"), "the end of a conversion")
    state = playback()
    assert state == {"how": "converted", "state": "ready", "share": state["share"], "message": ""}
    assert probe_bytes(server.get("/api/converted/other").content).frames == FRAMES


def test_what_browsers_play_is_converted_only_when_asked(server: PageServer) -> None:
    assert server.get("/api/playback/videos/cat").json()["how"] == "as_is"
    assert server.get("/api/playback/both").json()["how"] == "as_is"  # a GIF
    assert server.get("/api/playback/videos/cat?convert=true").json()["how"] == "converted"
    refused = server.get("/api/converted/page")
    assert (refused.status_code, "not a video" in refused.json()["error"]) == (404, True)
    assert server.get("/api/converted/nothing").status_code in (400, 404)


def test_the_page_plays_converted_videos_without_javascript(server: PageServer, project: SmallStore) -> None:
    assert 'src="/api/converted/old?source=clips#t=' in server.get("/item/old?t=1").text
    with page_server(project.store, conversion=ConversionLimits(running=0)) as stills:
        page = stills.get("/item/old?t=1").text
        assert "<video" not in page
        assert 'id="still"' in page
        assert "does not convert videos" in page
        assert stills.get("/api/converted/old").status_code == 404
        assert stills.get("/api/playback/old").json()["how"] == "stills"


def ended(conversions: Conversions, conversion: Conversion) -> Conversion:
    wait_until(lambda: conversion.is_ended, "the end of a conversion")
    conversions.close()
    return conversion


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (ConversionLimits(seconds=0.01), "exceeded"),
        (ConversionLimits(result_bytes=2000), "cannot be converted"),
        (ConversionLimits(memory=1_000_000), "memory"),
        (ConversionLimits(all_pixels=1), "too long"),
    ],
    ids=["time", "size", "memory", "pixels"],
)
def test_limits_end_in_a_sentence_and_leave_nothing(
    store: ServedStore, limits: ConversionLimits, said: str, tmp_path: Path
) -> None:
    conversions = Conversions(limits, tmp_path)
    found = ended(conversions, conversions.request(store, find_media(store, "old", None)))
    assert found.state == "failed"
    assert said in found.message or "process crashed" in found.message
    assert list(tmp_path.iterdir()) == []


def test_more_than_may_wait_are_refused_and_the_cache_is_bounded(store: ServedStore, tmp_path: Path) -> None:
    limits = ConversionLimits(waiting=1, cache_bytes=1)
    conversions = Conversions(limits, tmp_path)
    conversions._start = lambda: None  # type: ignore[method-assign]  # nobody takes them
    old, other = (find_media(store, uid, None) for uid in ("old", "other"))
    waiting = conversions.request(store, old)
    assert conversions.request(store, old) is waiting
    with pytest.raises(BusyError, match="1 videos are waiting"):
        conversions.request(store, other)
    del conversions._start
    conversions._start()
    wait_until(lambda: waiting.is_ended, "the end of a conversion")
    last = ended(conversions, conversions.request(store, other))
    assert last.state == "ready"
    assert [path.name for path in tmp_path.iterdir()] == [last.name]
    again = Conversions(limits, tmp_path)
    assert ended(again, again.request(store, old)).state == "ready"  # made again after it was removed


def test_a_file_that_was_replaced_is_not_converted(project: SmallStore, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project.folder, folder, symlinks=True)
    store = open_served(str(folder / "store"))
    media = find_media(store, "old", None)
    media = replace(media, uri=str(folder / "media" / "old.avi"))
    write_video(folder / "media" / "old.avi", 3, "mpeg4")
    with pytest.raises(Exception, match="has changed"):
        Conversions(LIMITS, tmp_path / "cache").request(store, media)


def probe_bytes(data: bytes) -> MediaFacts:
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(data)
        file.flush()
        with av.open(io.BytesIO(data)) as container:
            first = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert np.asarray(first).any()
        return probe(Path(file.name), MediaLimits())
