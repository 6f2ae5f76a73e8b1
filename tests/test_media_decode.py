"""Decoding: every sampling, codec and container against decoding everything, bit for bit."""

from __future__ import annotations

import threading
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from media_factory import (
    busy,
    damage,
    picture,
    read_index,
    trim_by_edit_list,
    truncate,
    write_gif,
    write_image,
    write_noise,
    write_video,
)
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from cliploom.schemas.errors import MediaError, NoVideoError
from cliploom.schemas.media import MediaLimits, Preprocess, Sampled
from cliploom.schemas.sampling import Every, EveryFrames, First, Keyframes, Sampling, Uniform, Window, Yt8m
from cliploom.transforms.media.container import open_container, video_stream
from cliploom.transforms.media.decode import DecodeReport, Request, decode
from cliploom.transforms.media.packets import gives_frame, walk
from cliploom.transforms.media.probe import probe
from cliploom.transforms.media.reader import LostPlaceError, PacketReader
from cliploom.transforms.media.sampling import Samples, Timeline, choose
from cliploom.transforms.media.scale import Scaler

SMALL = Preprocess(48, 32, "squash")
SAMPLINGS: list[Sampling] = [
    Every(every="300ms"),
    Every(every="1s"),
    EveryFrames(every_frames=7),
    Uniform(uniform=5),
    Keyframes(),
    Yt8m(),
    Window.model_validate({"window": {"frames": 8, "stride": 4}}),
    First.model_validate({"first": {"frames": 5}}),
]
MATRIX = [
    ("libx264", "a.mp4", {}),
    ("libx264", "a.mp4", {"gop": 1}),
    ("libx264", "a.mp4", {"gop": 250}),
    ("libx264", "a.mp4", {"options": {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:keyint=10:scenecut=0"}}),
    ("libx264", "a.mp4", {"options": {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}}),
    ("libx264", "a.mp4", {"options": {"x264-params": "tff=1:bframes=2"}}),
    ("libx264", "a.mp4", {"pix_fmt": "yuv420p10le"}),
    ("libx264", "a.mp4", {"pix_fmt": "gray"}),
    ("libx264", "a.mp4", {"size": (95, 67), "pix_fmt": "yuv444p"}),
    ("libx264", "a.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    ("libx264", "a.mp4", {"audio": True, "fps": Fraction(30000, 1001)}),
    ("libx264", "a.mov", {}),
    ("libx264", "a.mkv", {}),
    ("libx264", "a.mkv", {"options": {"x264-params": "open-gop=1:bframes=3:keyint=10:scenecut=0"}}),
    ("libx264", "a.ts", {}),
    ("libx264", "a.flv", {}),
    ("libx264", "a.avi", {}),
    ("libx264", "a.h264", {}),
    ("libx265", "a.mp4", {"options": {"x265-params": "log-level=none:pools=1:keyint=10:bframes=4:b-pyramid=1"}}),
    ("libx265", "a.mp4", {"options": {"x265-params": "log-level=none:pools=1:keyint=10:open-gop=1:bframes=4"}}),
    ("libx265", "a.mkv", {"options": {"x265-params": "log-level=none:pools=1:keyint=10:temporal-layers=3:bframes=4"}}),
    ("libx265", "a.ts", {}),
    ("libx265", "a.hevc", {}),
    ("mpeg4", "a.avi", {}),
    ("mpeg4", "a.mp4", {"b_frames": 0}),
    ("mpeg4", "a.mkv", {}),
    ("mpeg2video", "a.ts", {}),
    ("mpeg2video", "a.mpg", {}),
    ("mpeg1video", "a.mpg", {}),
    ("libvpx", "a.webm", {}),
    ("libvpx-vp9", "a.webm", {}),
    ("libsvtav1", "a.mp4", {}),
    ("libsvtav1", "a.mkv", {}),
    ("mjpeg", "a.avi", {"pix_fmt": "yuvj420p"}),
    ("ffv1", "a.mkv", {}),
]


def everything(path: Path) -> tuple[list[av.VideoFrame], Timeline]:
    """All frames by the plainest loop there is, and their times."""
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = list(container.decode(stream))
        base = stream.time_base
        assert base is not None
    timed = [frame.pts is not None for frame in frames]
    if not all(timed) or container.format.name == "avi":
        step = int(Fraction(1, 25) / base)
        ticks = np.arange(len(frames), dtype=np.int64) * step
    else:
        ticks = np.array([frame.pts for frame in frames], np.int64)
    last = frames[-1].duration or int(np.median(np.diff(ticks)))
    keys = np.array([frame.key_frame for frame in frames], np.bool_)
    return frames, Timeline(ticks, base, int(ticks[-1]) + last, keys)


def run(path: Path, *requests: Request, segment: tuple[float, float] | None = None) -> list[Sampled]:
    return list(decode(path, probe(path, MediaLimits()), requests, segment))


def shown(rows: list[Sampled]) -> list[int]:
    return [read_index(row.pixels) for row in rows]


def expected_pixels(samples: Samples, frames: list[av.VideoFrame], windowed: bool) -> list[NDArray[np.uint8]]:
    scaler = Scaler(SMALL)
    scaled = [scaler(frame) for frame in frames]
    rows = [np.stack([scaled[index] for index in row]) for row in samples.frames.tolist()]
    return rows if windowed else [row[0] for row in rows]


def assert_same_rows(found: list[Sampled], expected: list[Sampled]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.ordinal, one.start_s, one.end_s, one.frame) == (
            other.ordinal,
            other.start_s,
            other.end_s,
            other.frame,
        )
        assert np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize(("codec", "name", "how"), MATRIX, ids=lambda value: str(value)[:60])
def test_every_sampling_is_what_decoding_everything_gives(codec: str, name: str, how: dict, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, 48, codec, draw=busy, **how)
    frames, timeline = everything(path)
    assert [read_index(frame.to_ndarray(format="rgb24")) for frame in frames] == list(range(48))
    facts = probe(path, MediaLimits())
    assert (facts.frames, facts.lost) == (48, "")
    assert facts.duration_s == pytest.approx(timeline.duration_us / 1e6, abs=2e-6)
    for sampling in SAMPLINGS:
        if isinstance(sampling, Keyframes) and frames[0].pts is not None and not name.endswith("avi"):
            # What the container marks, not what the decoder says of a picture; without times only that one knows.
            with av.open(str(path)) as container:
                packets = sorted(
                    (p for p in container.demux(video=0) if p.size), key=lambda p: (p.pts, p.pts - (p.dts or p.pts))
                )
            keys = np.array([packet.is_keyframe for packet in packets], np.bool_)
            timeline = Timeline(timeline.ticks, timeline.time_base, timeline.end_tick, keys)
        samples = choose(sampling, timeline)
        report = DecodeReport()
        rows = list(decode(path, facts, [Request(sampling, SMALL, deinterlace=False)], report=report))
        assert [row.ordinal for row in rows] == samples.ordinals.tolist()
        assert [row.frame for row in rows] == samples.frames[:, 0].tolist()
        assert [row.start_s for row in rows] == pytest.approx((samples.start_us / 1e6).tolist(), abs=2e-6)
        for row, pixels in zip(rows, expected_pixels(samples, frames, sampling.windowed), strict=True):
            assert np.array_equal(row.pixels, pixels), (sampling, row.ordinal)
        assert (report.frames_got, report.errors, report.lost) == (report.frames_expected, 0, "")


def test_all_samplings_together_give_what_each_gives_alone(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60, draw=busy)
    requests = [Request(sampling, SMALL) for sampling in SAMPLINGS]
    together = run(path, *requests)
    for number, request in enumerate(requests):
        assert_same_rows([row for row in together if row.request == number], run(path, request))


def test_a_frame_wanted_by_two_encoders_is_decoded_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60)
    facts = probe(path, MediaLimits())
    requests = [Request(EveryFrames(every_frames=1), Preprocess(size, size)) for size in (32, 48)]
    report = DecodeReport()
    rows = list(decode(path, facts, requests, report=report))
    assert [row.pixels.shape for row in rows[:2]] == [(32, 32, 3), (48, 48, 3)]
    assert (report.frames_decoded, report.frames_got, report.planned) == (60, 60, [60, 60])


def test_requests_that_want_the_same_pixels_share_them(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 3)
    other = Preprocess(48, 32, "squash", offset=(127.0, 127.0, 127.0), scale=(128.0, 128.0, 128.0))
    rows = run(path, Request(EveryFrames(every_frames=1), SMALL), Request(EveryFrames(every_frames=1), other))
    assert rows[0].pixels is rows[1].pixels


def test_groups_without_a_wanted_frame_are_not_sent_to_the_decoder(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 240, gop=12)
    report = DecodeReport()
    rows = list(decode(path, probe(path, MediaLimits()), [Request(Uniform(uniform=2), SMALL)], report=report))
    assert shown(rows) == [60, 180]
    assert report.packets_sent == 2


def test_unwanted_pictures_that_no_other_needs_are_not_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 100, gop=250, b_frames=2)
    report = DecodeReport()
    list(decode(path, probe(path, MediaLimits()), [Request(Every(every="1s"), SMALL)], report=report))
    assert report.frames_decoded < report.packets_sent < 100


@pytest.mark.parametrize(
    ("codec", "name", "how"),
    [
        ("ffv1", "a.mkv", {}),
        ("ffv1", "a.avi", {}),
        ("libx264", "a.ts", {"gop": 4, "options": {"qp": "1"}}),
        ("libx264", "a.mp4", {"gop": 4, "options": {"qp": "1"}}),
        ("libx264", "a.mkv", {"gop": 4, "options": {"qp": "1"}}),
    ],
)
def test_long_gaps_are_jumped_over_exactly(codec: str, name: str, how: dict, tmp_path: Path) -> None:
    """More than a megabyte lies between wanted frames, so the reader seeks."""
    path = write_video(tmp_path / name, 40, codec, size=(480, 320), draw=busy, **how)
    assert path.stat().st_size > 4_000_000
    frames, _ = everything(path)
    rows = run(path, Request(Uniform(uniform=3), SMALL))
    assert shown(rows) == [row.frame for row in rows] == [6, 20, 33]
    assert all(np.array_equal(row.pixels, Scaler(SMALL)(frames[row.frame])) for row in rows)


def test_a_file_that_changed_since_its_walk_is_not_read_wrongly(tmp_path: Path) -> None:
    first, second = write_video(tmp_path / "a.mp4", 30), write_video(tmp_path / "b.mp4", 30, draw=busy)
    with open_container(first, "decode") as one, open_container(second, "decode") as other:
        table = walk(one, video_stream(one, first, "decode"), "a.mp4", 1000)
        reader = PacketReader(second, other, video_stream(other, second, "decode"), table, "decode")
        with pytest.raises(LostPlaceError):
            list(reader.read(0, 30))
        reader.close()


@pytest.mark.parametrize(
    ("first", "last", "gives"),
    [
        (0b10_00_0_0_1_0, 0, True),
        (0b10_00_0_1_0_0, 0, False),
        (0b10_00_1_000, 0, True),
        (0b10_00_0_1_0_0, 0b110_00001, True),
        (0b10_11_0_0_0_1, 0, True),
        (0b10_11_0_0_1_0, 0, False),
    ],
)
def test_vp9_headers_tell_which_packets_are_shown(first: int, last: int, gives: bool) -> None:
    assert gives_frame("vp9", av.Packet(bytes([first, 0, 0, last]))) is gives


def test_variable_frame_rates_show_what_is_on_screen(tmp_path: Path) -> None:
    times = np.cumsum([0, *np.random.default_rng(3).integers(5, 400, 39)]).tolist()
    for name in ("a.mp4", "a.mkv"):
        path = write_video(tmp_path / name, 40, times=times, time_base=Fraction(1, 1000), fps=1000)
        rows = run(path, Request(Every(every="250ms"), SMALL))
        expected = [max(i for i in range(40) if times[i] <= 250 * k) for k in range(len(rows))]
        assert shown(rows) == expected
        assert len(rows) >= times[-1] // 250


@pytest.mark.parametrize(
    ("name", "options", "start"),
    [("a.mp4", {}, 250), ("a.mkv", {}, 250), ("a.ts", {"avoid_negative_ts": "disabled"}, -30)],
)
def test_sampling_counts_from_the_videos_start(name: str, options: dict[str, str], start: int, tmp_path: Path) -> None:
    times = list(range(start, start + 50))
    path = write_video(
        tmp_path / name, 50, times=times, time_base=Fraction(1, 25), b_frames=0, container_options=options
    )
    facts = probe(path, MediaLimits())
    assert facts.start_s == pytest.approx(start / 25, abs=1e-3)
    rows = run(path, Request(Every(every="400ms"), SMALL))
    assert shown(rows) == [0, 10, 20, 30, 40]
    assert [row.start_s for row in rows] == [0.0, 0.4, 0.8, 1.2, 1.6]


def test_frames_cut_away_by_an_edit_list_are_not_there(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 50, gop=12, draw=busy)
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
    assert base is not None
    trim_by_edit_list(path, int(Fraction(17, 25) / base), 1000)
    facts = probe(path, MediaLimits())
    assert (facts.frames, facts.start_s, facts.end_s, facts.lost) == (25, 0.0, 1.0, "")
    rows = run(path, Request(EveryFrames(every_frames=1), SMALL))
    assert shown(rows) == list(range(17, 42))


@pytest.mark.parametrize(
    ("rotation", "hflip"),
    [(0, False), (90, False), (180, False), (270, False), (0, True), (90, True), (180, True), (270, True)],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_pictures_stand_upright(rotation: int, hflip: bool, name: str, tmp_path: Path) -> None:
    """The display matrix turns the stored picture, then mirrors it (if so)."""

    def stored(index: int, width: int, height: int) -> NDArray[np.uint8]:
        turned = rotation in (90, 270)
        upright = picture(index, *((height, width) if turned else (width, height)))
        return np.ascontiguousarray(np.rot90(upright[:, ::-1] if hflip else upright, -rotation // 90))

    path = write_video(tmp_path / name, 3, rotation=rotation, hflip=hflip, draw=stored)
    if not hflip:
        assert probe(path, MediaLimits()).rotation == (360 - rotation) % 360
    assert shown(run(path, Request(EveryFrames(every_frames=1), SMALL))) == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "codec", "how"),
    [
        ("a.mp4", "libx264", {"gop": 12}),
        ("a.mp4", "libx264", {"gop": 250}),
        ("a.mp4", "libx264", {"options": {"x264-params": "open-gop=1:bframes=3:keyint=10:scenecut=0"}}),
        ("a.mp4", "libx265", {"options": {"x265-params": "log-level=none:pools=1:keyint=10:open-gop=1:bframes=4"}}),
        ("a.mp4", "libx264", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("a.mkv", "libx264", {}),
        ("a.ts", "libx264", {}),
        ("a.avi", "libx264", {}),
        ("a.h264", "libx264", {}),
        ("a.webm", "libvpx-vp9", {}),
    ],
)
def test_segments_give_the_rows_of_the_whole_file(name: str, codec: str, how: dict, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, 120, codec, draw=busy, **how)
    request = Request(Every(every="130ms"), SMALL)
    whole = run(path, request)
    assert len(whole) == 37
    borders = [0.0, 0.9, 1.3, 3.333, 100.0]
    parts = [row for pair in pairwise(borders) for row in run(path, request, segment=pair)]
    assert_same_rows(parts, whole)


def test_segments_of_a_trimmed_video_count_its_shown_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 120, draw=busy)
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
    assert base is not None
    trim_by_edit_list(path, int(Fraction(17, 25) / base), 3000)
    request = Request(Every(every="130ms"), SMALL)
    parts = [row for pair in ((0, 0.5), (0.5, 2.0), (2.0, 9.0)) for row in run(path, request, segment=pair)]
    assert_same_rows(parts, run(path, request))


def test_a_late_segment_of_an_indexed_file_is_reached_by_seeking(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 500, gop=25)
    facts = probe(path, MediaLimits())
    report = DecodeReport()
    rows = list(decode(path, facts, [Request(Every(every="1s"), SMALL)], (18.0, 20.0), report))
    assert [(row.ordinal, row.frame) for row in rows] == [(18, 450), (19, 475)]
    assert (report.planned, report.packets_sent) == ([2], 2)


def test_a_segment_without_a_row_is_no_failure(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 50)
    assert run(path, Request(Every(every="1s"), SMALL), segment=(0.1, 0.2)) == []


def test_windows_are_filled_with_black_at_the_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 6)
    window = Window.model_validate({"window": {"frames": 4, "stride": 4}, "pad": "zero"})
    rows = run(path, Request(window, SMALL))
    assert [[read_index(frame) for frame in row.pixels] for row in rows] == [[0, 1, 2, 3], [4, 5, 0, 0]]
    assert rows[1].pixels[2:].max() == 0


def test_the_left_half_of_a_stereo_picture_is_kept(tmp_path: Path) -> None:
    def stereo(index: int, width: int, height: int) -> NDArray[np.uint8]:
        return np.hstack([picture(index, width // 2, height), picture(index + 100, width // 2, height)])

    path = write_video(tmp_path / "a.mp4", 4, size=(192, 64), draw=stereo)
    assert shown(run(path, Request(EveryFrames(every_frames=1), SMALL, "left"))) == [0, 1, 2, 3]


def test_gif_frames_last_as_long_as_browsers_show_them(tmp_path: Path) -> None:
    path = write_gif(tmp_path / "a.gif", [0, 10, 20, 50, 100, 300])
    facts = probe(path, MediaLimits())
    assert (facts.type, facts.frames, facts.end_s) == ("gif", 6, 0.67)
    rows = run(path, Request(EveryFrames(every_frames=1), SMALL))
    assert [row.start_s for row in rows] == [0.0, 0.1, 0.2, 0.22, 0.27, 0.37]
    assert shown(rows) == list(range(6))
    assert shown(run(path, Request(Every(every="100ms"), SMALL))) == [0, 1, 2, 4, 5, 5, 5]


@pytest.mark.parametrize("disposal", [1, 2, 3])
@pytest.mark.parametrize(("alpha", "clear"), [("white", 255), ("black", 0)])
def test_transparent_gif_pixels_show_the_declared_background(
    disposal: int, alpha: str, clear: int, tmp_path: Path
) -> None:
    """White blocks on nothing; over black, the numbers are those that Pillow's reader shows."""
    path = write_gif(tmp_path / "a.gif", [50] * 4, transparent=True, disposal=disposal)
    rows = run(path, Request(EveryFrames(every_frames=1), Preprocess(96, 64, "squash", alpha=alpha)))  # type: ignore[arg-type]
    assert len(rows) == 4
    assert int(rows[0].pixels[60, 90].max()) == clear
    if alpha == "black":
        with Image.open(path) as image:
            other = [np.asarray(ImageSequence.Iterator(image)[n].convert("RGBA")) for n in range(4)]
        assert shown(rows) == [read_index(frame[:, :, :3] * (frame[:, :, 3:] > 0)) for frame in other]


def test_gifs_with_comments_in_any_encoding_are_read(tmp_path: Path) -> None:
    path = write_gif(tmp_path / "a.gif", comment=b"caf\xe9 \xff\xfe")
    assert shown(run(path, Request(EveryFrames(every_frames=1), SMALL))) == list(range(8))


def test_vp9_alpha_is_composited(tmp_path: Path) -> None:
    def half(index: int, width: int, height: int) -> NDArray[np.uint8]:
        opacity = np.zeros((height, width), np.uint8)
        opacity[:, : width // 2] = 255
        return np.dstack([np.full((height, width, 3), (200, 40, 40), np.uint8), opacity])

    path = write_video(
        tmp_path / "a.webm", 4, "libvpx-vp9", pix_fmt="yuva420p", draw=half, source_format="rgba",
        options={"auto-alt-ref": "0"},
    )  # fmt: skip
    rows = run(path, Request(EveryFrames(every_frames=1), Preprocess(96, 64, "squash")))
    assert len(rows) == 4
    assert rows[0].pixels[32, 80].tolist() == [255, 255, 255]
    assert abs(rows[0].pixels[32, 10].astype(int) - (200, 40, 40)).max() < 8


def test_hidden_vp8_pictures_are_no_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 20, "libvpx", options={"error-resilient": "1"})
    hidden = tmp_path / "hidden.mkv"
    with av.open(str(path)) as source, av.open(str(hidden), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                data = bytearray(bytes(packet))
                data[0] &= 0xFF if number != 5 else ~0x10
                copy = av.Packet(bytes(data))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                output.mux(copy)
    assert probe(hidden, MediaLimits()).frames == 19
    rows = run(hidden, Request(EveryFrames(every_frames=1), SMALL))
    assert shown(rows) == [0, 1, 2, 3, 4, *range(6, 20)]


def test_joined_recordings_follow_one_another(tmp_path: Path) -> None:
    parts = [
        write_video(tmp_path / f"{n}.ts", 50, times=range(t, t + 50), time_base=Fraction(1, 25))
        for n, t in ((0, 5000), (1, 0))
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    facts = probe(path, MediaLimits())
    assert facts.frames == 100
    assert facts.duration_s == pytest.approx(4.0, abs=0.1)
    assert shown(run(path, Request(EveryFrames(every_frames=1), SMALL))) == [*range(50), *range(50)]


def test_a_cut_file_gives_what_is_left(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 100, container_options={"movflags": "faststart"}, draw=busy)
    truncate(path, 0.6)
    facts = probe(path, MediaLimits())
    assert 0 < facts.frames < facts.frames_claimed == 100
    assert "are missing: it is cut off" in facts.lost
    rows = run(path, Request(EveryFrames(every_frames=1), SMALL))
    assert len(rows) >= facts.frames - 3
    assert shown(rows) == [row.frame for row in rows]


def test_damage_costs_the_frames_around_it_and_is_counted(tmp_path: Path) -> None:
    path = damage(
        write_video(tmp_path / "a.mp4", 100, draw=busy, container_options={"movflags": "faststart"}), 0.4, 0.5
    )
    report = DecodeReport()
    rows = list(decode(path, probe(path, MediaLimits()), [Request(EveryFrames(every_frames=1), SMALL)], report=report))
    assert len(rows) == report.frames_got > 70
    assert report.lost == f"{100 - len(rows)} of 100 wanted frames could not be decoded."
    good = [row for row in rows if read_index(row.pixels) == row.frame]
    assert len(good) > 70
    ordinals = [row.ordinal for row in rows]
    assert ordinals == sorted(set(ordinals))


def test_a_lost_frame_leaves_its_ordinal_free(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 30, "ffv1")
    whole = tmp_path / "broken.mkv"
    with av.open(str(path)) as source, av.open(str(whole), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                copy = av.Packet(b"\xff\xff" if number == 10 else bytes(packet))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                output.mux(copy)
    report = DecodeReport()
    facts = probe(whole, MediaLimits())
    rows = list(decode(whole, facts, [Request(EveryFrames(every_frames=5), SMALL)], report=report))
    assert [row.ordinal for row in rows] == [0, 1, 3, 4, 5]
    assert shown(rows) == [0, 5, 15, 20, 25]
    assert report.lost == "1 of 6 wanted frames could not be decoded."


def test_a_file_with_nothing_decodable_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 30, "ffv1")
    facts = probe(path, MediaLimits())
    damage(path, 0.05, 0.98)
    with pytest.raises(NoVideoError):
        list(decode(path, facts, [Request(Every(every="1s"), SMALL)]))


def test_a_file_overwritten_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 40, "ffv1", size=(480, 320), draw=busy)
    other = write_video(tmp_path / "b.mkv", 40, "ffv1", size=(480, 320)).read_bytes()
    rows = decode(path, probe(path, MediaLimits()), [Request(EveryFrames(every_frames=1), SMALL)])
    next(rows)
    with open(path, "r+b") as file:
        file.write(other)
        file.truncate()
    with pytest.raises(MediaError, match="changed while it was read") as caught:
        list(rows)
    assert caught.value.transient


def test_noise_in_place_of_a_probed_file_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 10)
    facts = probe(path, MediaLimits())
    write_noise(path)
    with pytest.raises(NoVideoError, match="is not a video"):
        list(decode(path, facts, [Request(Every(every="1s"), SMALL)]))


def test_two_threads_decode_at_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 120, draw=busy)
    request = Request(EveryFrames(every_frames=1), SMALL)
    results: dict[int, list[Sampled]] = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: run(path, request)})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows in results.values():
        assert_same_rows(rows, results[0])


def test_at_most_one_window_is_held(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 200, gop=25)
    window = Window.model_validate({"window": {"frames": 8, "stride": 8}})
    report = DecodeReport()
    rows = decode(path, probe(path, MediaLimits()), [Request(window, SMALL)], report=report)
    for seen, row in enumerate(rows, 1):
        # Decoding goes no further than the rows that were drawn, but for the decoder's own delay.
        assert report.frames_got == 8 * seen
        assert row.frame == 8 * (seen - 1)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = damage(write_video(tmp_path / "a.mp4", 60, container_options={"movflags": "faststart"}, draw=busy), 0.5, 0.6)
    list(decode(path, probe(path, MediaLimits()), [Request(EveryFrames(every_frames=1), SMALL)]))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright_by_their_exif_orientation(orientation: int, tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.webp"):
        path = write_image(tmp_path / name, 0x5A31, exif_orientation=orientation)
        facts = probe(path, MediaLimits())
        assert (facts.type, facts.frames, facts.fps, facts.duration_s) == ("image", 1, 0.0, 0.0)
        (row,) = run(path, Request(Every(every="1s"), SMALL))
        assert read_index(row.pixels) == 0x5A31
        assert (row.ordinal, row.start_s, row.end_s, row.frame) == (0, 0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.jpg", "L"),
        ("a.jpg", "CMYK"),
        ("a.png", "L"),
        ("a.png", "P"),
        ("a.png", "1"),
        ("a.png", "I;16"),
        ("a.tif", "RGB"),
        ("a.bmp", "RGB"),
        ("a.webp", "RGB"),
    ],
)
def test_images_of_every_mode_are_read(name: str, mode: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / name, 0x1234, mode=mode)
    (row,) = run(path, Request(First.model_validate({"first": {"frames": 1}}), SMALL))
    assert read_index(row.pixels[0]) == 0x1234
    assert int(row.pixels.max()) > 200
    assert int(row.pixels.min()) < 60
