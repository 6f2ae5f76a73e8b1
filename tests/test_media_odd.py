"""Media as corpora hold them: broken clocks, joined recordings, codecs without times, files that are no video."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_factory import busy, picture, read_index, write_audio, write_gif, write_image, write_video
from PIL import Image, features

from cliploom.schemas.errors import NoVideoError, TooLargeError
from cliploom.schemas.media import MediaLimits, Preprocess, Sampled
from cliploom.schemas.sampling import Every, EveryFrames, Keyframes, Sampling
from cliploom.transforms.media.clock import NO_TIME, follows_keys, joined, references_last
from cliploom.transforms.media.decode import DecodeReport, Request, decode
from cliploom.transforms.media.probe import probe

SMALL = Preprocess(48, 32, "squash")
ALL = EveryFrames(every_frames=1)


def run(path: Path, sampling: Sampling) -> list[Sampled]:
    report = DecodeReport()
    rows = list(decode(path, probe(path, MediaLimits()), [Request(sampling, SMALL)], report=report))
    assert report.lost == ""
    return rows


def shown(rows: list[Sampled]) -> list[int]:
    return [read_index(row.pixels) for row in rows]


def retimed(path: Path, source: Path, change: dict[int, int]) -> Path:
    """``source`` with packet i presented ``change[i]`` frames later, and otherwise as it was."""
    with av.open(str(source)) as read, av.open(str(path), "w") as write:
        stream = read.streams.video[0]
        assert stream.time_base is not None
        copy = write.add_stream_from_template(stream)
        step = int(1 / stream.time_base / 25)
        for number, packet in enumerate(p for p in read.demux(stream) if p.size):
            assert packet.pts is not None
            packet.pts += change.get(number, 0) * step
            packet.stream = copy
            write.mux(packet)
    return path


def test_frames_that_share_a_time_come_in_the_decoders_order(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", 40, gop=250, b_frames=2, draw=busy)
    with av.open(str(source)) as container:
        pts = [p.pts for p in container.demux(video=0) if p.size and p.pts is not None]
    # A frame that others waited for gets the time of its successor in presentation.
    later = next(i for i in range(10, 30) if pts[i] > pts[i + 1])
    path = retimed(tmp_path / "a.mp4", source, {later: 1})
    assert shown(run(path, ALL)) == list(range(40))
    assert shown(run(path, EveryFrames(every_frames=7))) == list(range(0, 40, 7))
    for row in run(path, Every(every="80ms")):
        assert read_index(row.pixels) == row.frame


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_clock_that_goes_back_at_a_key_frame_loses_no_frame(name: str, tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", 48, gop=12, b_frames=2)
    with av.open(str(source)) as container:
        keys = [i for i, p in enumerate(q for q in container.demux(video=0) if q.size) if p.is_keyframe]
    path = retimed(tmp_path / name, source, {keys[2]: -1, keys[2] - 1: 2})
    assert shown(run(path, ALL)) == list(range(48))
    rows = run(path, Every(every="200ms"))
    assert shown(rows) == [row.frame for row in rows]
    assert [row.start_s for row in rows] == sorted(row.start_s or 0.0 for row in rows)


def test_damaged_timestamps_are_put_where_their_frames_belong() -> None:
    times = np.arange(6, dtype=np.int64) * 40
    length = np.full(6, 40, np.int64)
    far = times.copy()
    far[2] += 2**40
    assert joined(far, far, length, Fraction(1, 1000)).tolist() == times.tolist()
    assert joined(far, times, length, Fraction(1, 1000)).tolist() == times.tolist()
    assert joined(far, np.full(6, NO_TIME), length, Fraction(1, 1000)).tolist() == times.tolist()


def test_a_clock_that_leaps_ahead_makes_no_video_too_long(tmp_path: Path) -> None:
    path = tmp_path / "leap.mkv"
    times = [number * 100 + (number > 14) * 2**30 for number in range(20)]
    write_video(path, 20, fps=10, times=times, time_base=Fraction(1, 1000), b_frames=0)
    facts = probe(path, MediaLimits())
    assert (facts.frames, facts.lost) == (20, "")
    assert facts.end_s == pytest.approx(2.0, abs=0.11)
    assert shown(run(path, ALL)) == list(range(20))
    assert shown(run(path, Every(every="500ms"))) == [0, 5, 10, 15]
    damaged = retimed(tmp_path / "damaged.mkv", write_video(tmp_path / "whole.mkv", 48, b_frames=2), {20: 10**8})
    assert shown(run(damaged, ALL)) == list(range(48))


def jumped(path: Path, source: Path, at: int, until: int, by_s: float) -> Path:
    """``source`` with the clock of packets ``at`` to ``until`` set ``by_s`` ahead."""
    with av.open(str(source)) as read, av.open(str(path), "w") as write:
        stream = read.streams.video[0]
        copy = write.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in read.demux(stream) if p.size):
            assert packet.time_base is not None
            if at <= number < until:
                packet.pts += int(by_s / packet.time_base)
                packet.dts = None if packet.dts is None else packet.dts + int(by_s / packet.time_base)
            packet.stream = copy
            write.mux(packet)
    return path


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.flv"])
def test_a_jump_of_the_clock_becomes_no_rows_and_is_said(name: str, tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mkv", 100, gop=20)
    path = jumped(tmp_path / name, source, 40, 100, 1000.0)
    facts = probe(path, MediaLimits())
    assert facts.duration_s == pytest.approx(4.0, abs=0.05)
    assert facts.lost.startswith("The clock jumps ahead by 1,000")
    assert facts.corrections == "clock"
    rows = list(decode(path, facts, [Request(Every(every="400ms"), SMALL)]))
    assert shown(rows) == list(range(0, 100, 10))
    assert rows[-1].start_s == pytest.approx(3.6)
    assert shown(list(decode(path, facts, [Request(ALL, SMALL)]))) == list(range(100))


@pytest.mark.parametrize("by", [1000, -1000])
def test_a_fragment_with_a_wrong_time_becomes_no_frozen_rows_and_is_said(by: int, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    times = [100_000 + 4 * number for number in range(100)]
    write_video(path, 100, gop=20, b_frames=0, times=times, time_base=Fraction(1, 100), container_options=fragments)
    data = bytearray(path.read_bytes())
    place = [at for at in range(len(data)) if data[at : at + 4] == b"tfdt"][2]
    with av.open(str(path)) as container:
        scale = container.streams.video[0].time_base.denominator  # type: ignore[union-attr]
    start = int.from_bytes(data[place + 8 : place + 16], "big")
    data[place + 8 : place + 16] = max(0, start + by * scale).to_bytes(8, "big")
    path.write_bytes(data)
    facts = probe(path, MediaLimits())
    assert facts.duration_s < 4.1
    assert "20 frames are not shown" in facts.lost
    rows = shown(list(decode(path, facts, [Request(ALL, SMALL)])))
    assert len(rows) == 80
    assert rows == sorted(set(rows))


def test_a_slide_that_is_held_for_minutes_is_no_jump(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    times = [0, 3000, 3500, 200_000, *range(203_000, 300_000, 4_000)]
    write_video(path, len(times), times=times, time_base=Fraction(1, 1000), b_frames=0)
    facts = probe(path, MediaLimits())
    assert facts.lost == ""
    assert facts.duration_s > 290


def test_an_animated_png_without_delays_is_played_as_browsers_do(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture(number)) for number in range(4)]
    path = tmp_path / "a.png"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[0, 50, 10, 200])
    facts = probe(path, MediaLimits())
    assert facts.duration_s == pytest.approx(0.1 + 0.05 + 0.1 + 0.2, abs=1e-3)
    assert facts.corrections == "canvas"
    rows = run(path, ALL)
    assert shown(rows) == [0, 1, 2, 3]
    assert [row.start_s for row in rows] == pytest.approx([0, 0.1, 0.15, 0.25], abs=1e-3)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    assert probe(path, MediaLimits()).corrections == ""


def test_key_frames_lead_what_is_decoded_after_them() -> None:
    key = np.array([True, False, False, True])
    assert follows_keys(np.array([0, 3, 1, 4]), key)
    assert follows_keys(np.array([0, 3, 1, 3]), key)
    assert not follows_keys(np.array([0, 3, 1, 2]), key)
    assert follows_keys(np.array([], np.int64), key[:0])


def test_short_recordings_joined_byte_by_byte_follow_one_another(tmp_path: Path) -> None:
    parts = [
        write_video(tmp_path / f"{first}.ts", 50, gop=12, draw=lambda i, w, h, first=first: picture(first + i, w, h))
        for first in (0, 1000)
    ]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert shown(run(path, ALL)) == [*range(50), *range(1000, 1050)]
    rows = run(path, Every(every="1s"))
    assert shown(rows) == [0, 25, 1000, 1025]
    assert probe(path, MediaLimits()).duration_s == pytest.approx(4.0, abs=1e-3)


@pytest.mark.parametrize(("codec", "name"), [("mpeg4", "a.avi"), ("libx264", "a.h264"), ("libx265", "a.hevc")])
def test_key_frames_of_files_without_times_are_the_right_pictures(codec: str, name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, 48, codec, gop=12, b_frames=2)
    with av.open(str(path)) as container:
        expected = [i for i, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    rows = run(path, Keyframes())
    assert len(expected) > 1
    assert [row.frame for row in rows] == shown(rows) == expected


@pytest.mark.parametrize(("codec", "name"), [("h263p", "a.avi"), ("h261", "a.h261"), ("h263", "a.h263")])
def test_pictures_of_codecs_that_tell_no_key_frames_are_decoded_from_the_start(
    codec: str, name: str, tmp_path: Path
) -> None:
    path = write_video(tmp_path / name, 40, codec, size=(176, 144), draw=busy, b_frames=0)
    whole = run(path, ALL)
    for row in run(path, EveryFrames(every_frames=17)):
        assert np.array_equal(row.pixels, whole[row.frame].pixels)


def test_jpegs_in_a_row_are_a_video(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.avi", 30, "mjpeg", pix_fmt="yuvj420p")
    path = tmp_path / "a.jpg"
    with av.open(str(source)) as container:
        path.write_bytes(b"".join(bytes(p) for p in container.demux(video=0) if p.size))
    facts = probe(path, MediaLimits())
    assert (facts.type, facts.frames) == ("video", 30)
    assert shown(run(path, EveryFrames(every_frames=7))) == [0, 7, 14, 21, 28]


def test_a_photograph_with_further_pictures_in_its_directory_is_a_photograph(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    first, second = (Image.fromarray(picture(index)) for index in (5, 6))
    first.save(path, format="MPO", save_all=True, append_images=[second])
    assert probe(path, MediaLimits()).type == "image"
    assert shown(run(path, ALL)) == [5]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif_is_an_image(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.avif", 9, exif_orientation=6)
    facts = probe(path, MediaLimits())
    assert (facts.type, facts.frames, facts.lost) == ("image", 1, "")
    assert shown(run(path, ALL)) == [9]


def test_tiled_heif_without_its_boxes_is_a_failure(tmp_path: Path) -> None:
    entry = struct.pack(">I4sIHH4sB", 21, b"infe", 2 << 24, 1, 0, b"grid", 0)
    path = tmp_path / "a.heic"
    path.write_bytes(struct.pack(">I4s4sI4s", 20, b"ftyp", b"heic", 0, b"mif1") + entry + bytes(200))
    with pytest.raises(NoVideoError, match=r"tiles|boxes"):
        probe(path, MediaLimits())


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"ID3\x04\0\0\0\0\0\x10" + bytes(500), "sound only"),
        (b"RIFF\x24\x08\0\0WAVEfmt " + bytes(500), "sound only"),
        (b"fLaC\0\0\0\x22" + bytes(500), "sound only"),
        (b"#EXTM3U\n#EXTINF:4,\nhttp://example.org/a.ts\n", "a playlist"),
        (b"<!DOCTYPE html><html>Not found</html>", "a web page"),
        ("1\n00:00:00,000 --> 00:00:01,000\nGrüße\n".encode() * 30, "text"),
        (b"PK\x03\x04" + bytes(500), "a ZIP archive"),
    ],
)
def test_what_is_no_video_is_called_what_it_is(data: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    with pytest.raises(NoVideoError, match=f"'a.mp4' has no video: it is {what}"):
        probe(path, MediaLimits())


def test_sound_in_a_video_container_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(NoVideoError, match="only audio"):
        probe(write_audio(tmp_path / "a.mp4"), MediaLimits())


def test_a_picture_of_one_pixel_is_a_picture(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 3, "ffv1", size=(1, 1), pix_fmt="yuv444p", fps=Fraction(1, 2))
    assert len(run(path, Every(every="1s"))) == 6


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_a_damaged_avif_is_a_failure_of_one_item(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.avif", 9)
    path.write_bytes(path.read_bytes().replace(b"av01", b"av0?"))
    with pytest.raises(NoVideoError):
        run(path, ALL)


def with_edits(path: Path, *edits: tuple[int, int]) -> Path:
    """Give an mp4 whose index stands last an edit list of (milliseconds, first frame or -1 for none), in place."""
    data = path.read_bytes()
    place = data.find(b"elst")
    first_time = struct.unpack(">i", data[place + 16 : place + 20])[0]
    step = struct.unpack(">I", data[(at := data.find(b"mdhd")) + 16 : at + 20])[0] // 25
    entries = [struct.pack(">IiI", ms, -1 if start < 0 else first_time + start * step, 1 << 16) for ms, start in edits]
    content = struct.pack(">II", 0, len(entries)) + b"".join(entries)

    def rebuilt(boxes: bytes, way: tuple[bytes, ...]) -> bytes:
        if not way:
            return content
        out, at = b"", 0
        while at < len(boxes):
            size, kind = struct.unpack(">I4s", boxes[at : at + 8])
            inside = boxes[at + 8 : at + size]
            inside = rebuilt(inside, way[1:]) if kind == way[0] else inside
            out += struct.pack(">I4s", len(inside) + 8, kind) + inside
            at += size
        return out

    path.write_bytes(rebuilt(data, (b"moov", b"trak", b"edts", b"elst")))
    return path


@pytest.mark.parametrize(
    ("edits", "frames", "start"),
    [
        ([(400, 10), (800, 40)], [*range(10, 20), *range(40, 60)], 0.0),
        ([(400, 0), (400, 0)], [*range(10), *range(10)], 0.0),
        ([(400, 40), (400, 12)], [*range(40, 50), *range(12, 22)], 0.0),
        ([(480, -1), (800, 20)], list(range(20, 40)), 0.48),
    ],
    ids=["skip", "repeat", "back", "late"],
)
def test_edit_lists_of_several_parts_play_one_after_the_other(
    edits: list[tuple[int, int]], frames: list[int], start: float, tmp_path: Path
) -> None:
    path = with_edits(write_video(tmp_path / "a.mp4", 60, gop=12, b_frames=2), *edits)
    facts = probe(path, MediaLimits())
    assert (facts.start_s, facts.lost) == (start, "")
    assert facts.duration_s == pytest.approx(len(frames) / 25, abs=1e-3)
    assert shown(run(path, ALL)) == frames
    assert shown(run(path, Every(every="200ms"))) == frames[::5]
    rows = list(decode(path, facts, [Request(Every(every="80ms"), SMALL)], (0.3, 10.0)))
    assert shown(rows) == frames[::2][4:]


def test_an_edit_list_that_shows_nothing_is_named(tmp_path: Path) -> None:
    path = with_edits(write_video(tmp_path / "a.mp4", 60), (400, -1))
    with pytest.raises(NoVideoError, match="its edit list shows none of its 60 frames"):
        probe(path, MediaLimits())


def palette_picture(index: int, width: int, height: int) -> np.ndarray:
    return picture(index, width, height)[:, :, 0]


@pytest.mark.parametrize(("codec", "name"), [("qtrle", "a.mov"), ("rawvideo", "a.mov")])
def test_palettes_are_there_wherever_decoding_begins(codec: str, name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, 40, codec, pix_fmt="gray", draw=palette_picture, source_format="gray", gop=8)
    assert shown(run(path, ALL)) == list(range(40))
    assert shown(run(path, EveryFrames(every_frames=30))) == [0, 30]
    facts = probe(path, MediaLimits())
    assert shown(list(decode(path, facts, [Request(Every(every="400ms"), SMALL)], (1.0, 2.0)))) == [30]


def test_a_codec_header_that_changes_midway_is_heeded_wherever_decoding_begins(tmp_path: Path) -> None:
    first = write_video(tmp_path / "a.flv", 50, gop=10)
    second = write_video(tmp_path / "b.flv", 50, gop=10, size=(192, 128), options={"x264-params": "cabac=0"})
    path = tmp_path / "c.flv"
    path.write_bytes(first.read_bytes() + second.read_bytes()[13:])
    assert shown(run(path, ALL)) == [*range(50), *range(50)]
    for start in (60, 75, 90):
        assert shown(run(path, EveryFrames(every_frames=start))) == [0, start - 50]


def gif_blocks(comment: bytes = b"written by hand") -> bytes:
    return b"\x21\xfe" + bytes([len(comment)]) + comment + b"\0"


def test_a_comment_behind_the_last_picture_of_a_gif_is_no_frame(tmp_path: Path) -> None:
    path = write_gif(tmp_path / "a.gif", [50] * 5)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + gif_blocks() + data[-1:])
    facts = probe(path, MediaLimits())
    assert (facts.frames, facts.end_s, facts.lost) == (5, 0.25, "")
    assert shown(run(path, ALL)) == list(range(5))


def test_frames_of_an_animated_png_last_as_long_as_browsers_show_them(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture(index)) for index in range(4)]
    path = tmp_path / "a.png"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[1, 10, 300, 50])
    assert [row.start_s for row in run(path, ALL)] == [0.0, 0.1, 0.2, 0.5]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_all_pictures_of_an_animated_avif_are_there(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture(index)) for index in range(6)]
    path = tmp_path / "a.avif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    assert probe(path, MediaLimits()).duration_s == pytest.approx(0.6)
    assert shown(run(path, ALL)) == list(range(6))


def test_a_document_with_a_photograph_in_it_is_no_video(tmp_path: Path) -> None:
    Image.fromarray(picture(5)).save(tmp_path / "a.pdf")
    with pytest.raises(NoVideoError, match=r"'a.pdf' has no video: it is a PDF document"):
        probe(tmp_path / "a.pdf", MediaLimits())


def test_a_big_tiff_is_an_image(tmp_path: Path) -> None:
    Image.fromarray(picture(5)).save(tmp_path / "a.tif", big_tiff=True)
    assert shown(run(tmp_path / "a.tif", ALL)) == [5]


@pytest.mark.parametrize("head", [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\xf8\xff\xff\x3fWEBP"])
def test_a_gigabyte_of_nothing_after_an_images_first_bytes_is_refused_at_once(head: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(1 << 30)
    with pytest.raises(NoVideoError, match="begins like an image, but"):
        probe(path, MediaLimits())
    with pytest.raises(TooLargeError, match="more than the 16,000 of an image of 1,000 pixels"):
        probe(path, MediaLimits(max_pixels=1000))


def test_the_specs_limit_of_pixels_is_the_only_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 10_001)).save(path)
    with pytest.raises(TooLargeError, match="20000 x 10001, beyond 200,000,000 pixels"):
        probe(path, MediaLimits())
    assert probe(path, MediaLimits(max_pixels=300_000_000)).width == 20_000


@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
def test_pictures_of_program_streams_keep_their_order_where_two_are_given_one_time(codec: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mpg", 150, codec, b_frames=2, draw=busy, size=(192, 128))
    assert shown(run(path, ALL)) == list(range(150))
    assert shown(run(path, EveryFrames(every_frames=7))) == list(range(0, 150, 7))


def test_a_picture_that_others_wait_for_comes_after_them() -> None:
    # In the order of decoding: I0 P3 B1 B2 P6 B4 B5; the time of P3 is given as that of B1.
    pts, dts = np.array([0, 1, 1, 2, 6, 4, 5]), np.array([-1, 0, 1, 2, 3, 4, 5])
    assert references_last(pts, dts).tolist() == [0, 3, 1, 2, 6, 4, 5]
    assert references_last(np.array([0, 3, 1, 2, 6, 4, 5]), dts).tolist() == [0, 3, 1, 2, 6, 4, 5]


def test_pictures_of_an_mxf_without_offsets_come_in_the_order_of_presentation(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mxf", 48, "libx264", b_frames=3, draw=busy)
    assert shown(run(path, ALL)) == list(range(48))
    assert shown(run(path, EveryFrames(every_frames=7))) == list(range(0, 48, 7))
    assert shown(run(path, Every(every="200ms"))) == list(range(0, 48, 5))


def test_an_index_that_calls_every_h263_picture_a_key_frame_is_not_believed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mov", 40, "h263", size=(176, 144), draw=busy, b_frames=0, gop=20)
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    whole = run(path, ALL)
    for row in run(path, EveryFrames(every_frames=17)):
        assert np.array_equal(row.pixels, whole[row.frame].pixels)


def test_a_recording_of_a_picture_each_quarter_minute_is_one_recording(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 40, fps=Fraction(1, 15), b_frames=3, gop=250)
    facts = probe(path, MediaLimits())
    assert (facts.frames, facts.duration_s, facts.lost) == (40, 600.0, "")
    assert shown(run(path, Every(every="30s"))) == list(range(0, 40, 2))


def test_an_ivf_that_counts_ticks_has_lost_nothing_unless_it_is_cut(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.ivf", 50, "libvpx-vp9", b_frames=0)
    data = bytearray(path.read_bytes())
    # Rate, scale and length of the header; then of each frame its size and time.
    data[16:32] = struct.pack("<IIII", 1000, 1, 2000, 0)
    at = 32
    while at < len(data):
        size, number = struct.unpack("<IQ", data[at : at + 12])
        data[at + 4 : at + 12] = struct.pack("<Q", number * 40)
        at += 12 + size
    path.write_bytes(data)
    assert (probe(path, MediaLimits()).frames, probe(path, MediaLimits()).lost) == (50, "")
    path.write_bytes(data[: len(data) * 2 // 3])
    assert "missing" in probe(path, MediaLimits()).lost


def test_pictures_refreshed_bit_by_bit_are_the_same_in_a_segment(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mp4",
        150,
        draw=busy,
        gop=30,
        options={"x264-params": "intra-refresh=1:keyint=30"},
        size=(192, 128),
    )
    facts, every = probe(path, MediaLimits()), Every(every="80ms")
    whole = {row.ordinal: row for row in run(path, every)}
    for start in (0.5, 1.3, 2.9, 4.1):
        rows = list(decode(path, facts, [Request(every, SMALL)], (start, 9.0)))
        assert [row.ordinal for row in rows] == [o for o, row in whole.items() if (row.start_s or 0.0) >= start]
        assert all(np.array_equal(row.pixels, whole[row.ordinal].pixels) for row in rows)


def test_frames_whose_clock_trembles_are_all_there(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", 40, gop=250, b_frames=0)
    path = retimed(tmp_path / "a.mp4", source, {20: 2})
    assert sorted(shown(run(path, ALL))) == list(range(40))


def test_pictures_with_exif_in_a_video_are_pictures(tmp_path: Path) -> None:
    path, exif = tmp_path / "a.avi", Image.Exif()
    exif[0x010F] = "A camera"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for number in range(10):
            jpeg = io.BytesIO()
            Image.fromarray(picture(number)).save(jpeg, "JPEG", exif=exif)
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.pts, packet.time_base = stream, number, Fraction(1, 10)
            container.mux(packet)
    assert probe(path, MediaLimits()).lost == ""
    assert shown(run(path, ALL)) == list(range(10))
