"""Silent loss: the probe reports what truncated or damaged files lack, and nothing for intact files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_factory import picture, read_index, truncate, write_gif, write_video
from PIL import Image

from cliploom.schemas.media import MediaLimits, Preprocess, Sampled
from cliploom.schemas.sampling import EveryFrames
from cliploom.transforms.media.decode import Request, decode
from cliploom.transforms.media.headers import cut_short
from cliploom.transforms.media.loss import signs_of_loss
from cliploom.transforms.media.packets import PacketTable
from cliploom.transforms.media.probe import probe

LIMITS = MediaLimits()
FRAMES = 100
STREAMED = [
    ("libvpx", "a.ogv", {}),
    ("libx264", "a.ts", {}),
    ("libx264", "a.m2ts", {"container": "mpegts", "container_options": {"mpegts_m2ts_mode": "1"}}),
    ("wmv2", "a.wmv", {"b_frames": 0}),
    ("flv", "a.flv", {"b_frames": 0}),
    ("flv", "a.swf", {"b_frames": 0}),
    ("mpeg2video", "a.mxf", {}),
    ("libvpx", "a.webm", {"container_options": {"live": "1"}}),
    ("libx264", "a.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}}),
    ("libx264", "a.mkv", {}),
]


def lost(path: Path) -> str:
    return probe(path, LIMITS).lost


def rows(path: Path) -> list[Sampled]:
    request = Request(EveryFrames(every_frames=1), Preprocess(48, 32, "squash"))
    return list(decode(path, probe(path, LIMITS), [request]))


def cut_out(path: Path, first: float, last: float, fill: bytes = b"") -> Path:
    """Take the bytes between two shares of the file away, or overwrite them."""
    data = path.read_bytes()
    start, stop = int(len(data) * first), int(len(data) * last)
    path.write_bytes(data[:start] + fill * (stop - start) + data[stop:])
    return path


@pytest.mark.parametrize(("codec", "name", "how"), STREAMED, ids=[name for _, name, _ in STREAMED])
def test_a_cut_recording_is_reported_from_a_whole_one(codec: str, name: str, how: dict, tmp_path: Path) -> None:
    whole = write_video(tmp_path / name, FRAMES, codec, **how).read_bytes()
    path = tmp_path / name
    assert (probe(path, LIMITS).frames, lost(path), cut_short(path)) == (FRAMES, "", "")
    for share in (0.41, 0.7, 0.93):
        # Not where a packet ends: that can't be told.
        path.write_bytes(whole[: int(len(whole) * share) - 5])
        assert "missing" in lost(path), share
        assert 0 < probe(path, LIMITS).frames <= FRAMES


@pytest.mark.parametrize(("codec", "name", "how"), STREAMED, ids=[name for _, name, _ in STREAMED])
@pytest.mark.parametrize("fill", [b"", b"\0"], ids=["gone", "zeros"])
def test_a_hole_in_a_recording_is_reported(codec: str, name: str, how: dict, fill: bytes, tmp_path: Path) -> None:
    path = cut_out(write_video(tmp_path / name, FRAMES, codec, **how), 0.4, 0.6, fill)
    facts = probe(path, LIMITS)
    assert facts.lost or (name == "a.swf" and fill), facts
    assert facts.frames < FRAMES


def test_dv_frames_have_one_length(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.dv", 3, "dvvideo", size=(720, 576), b_frames=0)
    assert lost(path) == ""
    truncate(path, 0.9)
    assert "its last frame is cut off: 100,800 of 144,000 bytes are there" in lost(path)


def test_fragments_that_are_not_there_are_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 144, container_options={"movflags": "frag_keyframe+empty_moov"})
    data = path.read_bytes()
    starts = [at - 4 for at in range(len(data)) if data[at : at + 4] == b"moof"]
    assert len(starts) == 12
    path.write_bytes(data[: starts[5]] + data[starts[7] :])
    assert lost(path).endswith("missing: 2 fragments are not there, by the numbers of those that are.")


def test_parts_of_a_recording_that_follow_one_another_have_lost_nothing(tmp_path: Path) -> None:
    parts = [write_video(tmp_path / f"{number}.ts", 48, gop=12) for number in range(3)]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert (probe(path, LIMITS).frames, lost(path)) == (144, "")


@pytest.mark.parametrize("tail", [bytes(5000), b"GARBAGE" * 700], ids=["zeros", "text"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.wmv"])
def test_bytes_behind_the_video_are_no_loss(name: str, tail: bytes, tmp_path: Path) -> None:
    codec = "wmv2" if name == "a.wmv" else "libx264"
    path = write_video(tmp_path / name, 50, codec, b_frames=0)
    path.write_bytes(path.read_bytes() + tail)
    assert lost(path) == ""


def table_of(ticks: list[int]) -> PacketTable:
    pts = np.array(ticks, np.int64)
    ones = np.ones(len(pts), np.int64)
    key, base = np.zeros(len(pts), np.bool_), Fraction(1, 1000)
    return PacketTable(pts, pts, 0 * ones, ones, key, ones.astype(bool), base, Fraction(25))


def test_an_even_clock_with_a_hole_has_lost_pictures() -> None:
    ticks = [number * 40 for number in range(60)]
    assert signs_of_loss(table_of(ticks), "flv") == ""
    hole = ticks[:30] + [tick + 1000 for tick in ticks[30:]]
    said = "no pictures come from 1.16 s to 2.20 s, where about 25 are due"
    assert signs_of_loss(table_of(hole), "flv") == said
    twice = hole[:50] + [tick + 800 for tick in hole[50:]]
    assert signs_of_loss(table_of(twice), "flv") == said.replace(
        ", where about 25", " and in 1 other stretches, where about 45"
    )
    # The index of an mp4 says how long a picture stays.
    assert signs_of_loss(table_of(hole), "mov,mp4,m4a,3gp,3g2,mj2") == ""


def test_an_uneven_clock_may_pause() -> None:
    steps = np.random.default_rng(0).integers(10, 90, 200)
    steps[100] = 3000
    assert signs_of_loss(table_of(np.cumsum(steps).tolist()), "matroska,webm") == ""
    slides = [number * 5000 for number in range(30)]
    assert signs_of_loss(table_of(slides[:10] + slides[20:]), "matroska,webm") == ""


def test_chunks_without_bytes_keep_the_picture_of_an_avi(tmp_path: Path) -> None:
    times = [*range(20), *range(25, 45)]
    path = write_video(tmp_path / "a.avi", 40, "mpeg4", b_frames=0, times=times, time_base=Fraction(1, 25))
    facts = probe(path, LIMITS)
    assert (facts.frames, facts.frames_claimed, facts.lost) == (40, 40, "")
    assert facts.duration_s == pytest.approx(45 / 25)


def test_a_cut_webp_animation_keeps_its_whole_frames(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture(index)) for index in range(10)]
    path = tmp_path / "a.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
    truncate(path, 0.65)
    facts = probe(path, LIMITS)
    assert 2 < facts.frames < 10
    assert "cut off" in facts.lost
    assert [read_index(row.pixels) for row in rows(path)] == list(range(facts.frames))


def test_a_webp_animation_with_a_hole_says_where(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture(index)) for index in range(10)]
    path = tmp_path / "a.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
    cut_out(path, 0.5, 0.7, b"\0")
    assert "it is damaged after byte" in lost(path)
    assert [read_index(row.pixels) for row in rows(path)][:3] == [0, 1, 2]


def test_less_than_half_a_second_gone_before_a_key_frame_of_a_stream_is_reported(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.ts", FRAMES, gop=10, b_frames=0)
    data = path.read_bytes()
    with av.open(str(path)) as container:
        places = [p.pos for p in container.demux(video=0) if p.size]
    # Six pictures, up to the next key frame.
    path.write_bytes(data[: places[44]] + data[places[50] :])
    assert "damaged" in lost(path)


def test_a_gif_that_ends_in_its_middle_by_chance_is_reported(tmp_path: Path) -> None:
    path = write_gif(tmp_path / "a.gif", [100] * 12)
    whole = path.read_bytes()
    starts = [place for place in range(len(whole)) if whole.startswith(b"!\xf9\x04", place)]
    assert lost(path) == ""
    path.write_bytes(whole[: starts[6]] + b";" + whole[starts[6] :])
    assert f"pictures follow after byte {starts[6] + 1:,}, where it ends" in lost(path)
    # Another program's data behind the end is none of it, nor is a GIF joined to a GIF.
    path.write_bytes(whole + bytes(range(256)) * 40)
    assert lost(path) == ""
    path.write_bytes(whole + whole)
    assert lost(path) == ""


def test_a_clock_that_flipped_bits_prolong_is_said(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 50, gop=10, b_frames=0, container_options={"cluster_time_limit": "400"})
    assert lost(path) == ""
    data = bytearray(path.read_bytes())
    cluster = data.rindex(b"\x1f\x43\xb6\x75")
    at = data.index(b"\xe7", cluster + 4)
    width = data[at + 1] & 0x7F
    stamp = int.from_bytes(data[at + 2 : at + 2 + width], "big") | 1 << 13
    data[at + 2 : at + 2 + width] = stamp.to_bytes(width, "big")
    path.write_bytes(data)
    assert "though its header says that it ends at 2.00 s" in lost(path)
