"""Probing: facts from the actual content, and one clear sentence for every unusable file."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_factory import (
    picture,
    rename_codec,
    truncate,
    write_audio,
    write_gif,
    write_image,
    write_noise,
    write_video,
)
from PIL import Image

from cliploom.schemas.errors import ItemError, NoVideoError, TooLargeError, UnreadableError, UnsupportedCodecError
from cliploom.schemas.media import PROBE_REVISION, MediaFacts, MediaLimits, Preprocess
from cliploom.schemas.sampling import Every, EveryFrames
from cliploom.transforms.media.container import explained
from cliploom.transforms.media.decode import DecodeReport, Request, decode
from cliploom.transforms.media.headers import cut_short, gif_frames
from cliploom.transforms.media.probe import probe

LIMITS = MediaLimits()


def refusal(path: Path, limits: MediaLimits = LIMITS) -> ItemError:
    """The error of a probe, which must be one sentence that names the file."""
    with pytest.raises(ItemError) as caught:
        probe(path, limits)
    message = str(caught.value)
    assert path.name in message
    assert message.endswith(".")
    assert "\n" not in message
    assert caught.value.stage == "probe"
    assert not caught.value.transient
    return caught.value


def test_facts_of_a_video(tmp_path: Path) -> None:
    facts = probe(write_video(tmp_path / "a.mp4", 60, fps=Fraction(30000, 1001), gop=12, audio=True), LIMITS)
    assert facts == MediaFacts(
        type="video",
        container="mov",
        codec="h264",
        width=96,
        height=64,
        rotation=0,
        frames=60,
        frames_claimed=60,
        start_s=0.0,
        end_s=2.002,
        fps=29.97003,
        lost="",
        keyframes=5,
        revision=PROBE_REVISION,
    )


def test_kind_is_found_by_content_not_by_name(tmp_path: Path) -> None:
    made = {
        "video": write_video(tmp_path / "v.mp4", 5),
        "gif": write_gif(tmp_path / "g.gif"),
        "image": write_image(tmp_path / "i.jpg"),
    }
    for kind, path in made.items():
        for suffix in (".mp4", ".gif", ".jpg", ".txt", ""):
            renamed = Path(shutil.copy(path, tmp_path / f"{kind}-renamed{suffix}"))
            assert probe(renamed, LIMITS).type == kind


def test_names_that_look_like_addresses_are_files(tmp_path: Path) -> None:
    folder = tmp_path / "http:"
    folder.mkdir()
    assert probe(write_video(folder / "concat:a|b.mp4", 5, container="mp4"), LIMITS).frames == 5


def test_names_that_are_not_utf8_are_opened(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    shutil.copy(write_video(tmp_path / "a.mp4", 5), path)
    assert probe(path, LIMITS).frames == 5


def test_rotation_is_read_from_the_display_matrix(tmp_path: Path) -> None:
    for degrees in (90, 180, 270):
        path = write_video(tmp_path / "a.mp4", 3, rotation=degrees)
        assert probe(path, LIMITS).rotation == 360 - degrees


def test_animated_webp_is_an_equal_input(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture(index)) for index in range(4)]
    path = tmp_path / "a.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[0, 100, 300, 40], lossless=True)
    facts = probe(path, LIMITS)
    assert (facts.type, facts.frames, facts.end_s, facts.keyframes) == ("gif", 4, 0.54, 1)
    rows = list(decode(path, facts, [Request(EveryFrames(every_frames=1), Preprocess(96, 64, "squash"))]))
    assert [row.start_s for row in rows] == [0.0, 0.1, 0.2, 0.5]
    assert all(np.array_equal(row.pixels, picture(row.frame)) for row in rows)


def test_animated_png_is_an_equal_input(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture(index)) for index in range(4)]
    path = tmp_path / "a.png"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100, 100, 300, 50])
    facts = probe(path, LIMITS)
    assert (facts.type, facts.frames) == ("gif", 4)
    rows = list(decode(path, facts, [Request(EveryFrames(every_frames=1), Preprocess(96, 64, "squash"))]))
    assert all(np.array_equal(row.pixels, picture(row.frame)) for row in rows)
    assert len(rows) == 4


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    """An mp3 with a picture: the picture's stream is marked as attached."""
    cover = write_image(tmp_path / "cover.jpg", size=(64, 64)).read_bytes()
    path = tmp_path / "song.m4a"
    with av.open(str(write_audio(tmp_path / "plain.m4a"))) as source, av.open(str(path), "w", format="mp4") as output:
        sound = output.add_stream_from_template(source.streams.audio[0])
        art = output.add_stream("mjpeg")
        art.width, art.height, art.pix_fmt = 64, 64, "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = sound
                output.mux(packet)
        packet = av.Packet(cover)
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = art, 0, 0, True
        output.mux(packet)
    assert "has no video: only audio and a cover picture." in str(refusal(path))


def test_a_file_with_sound_only_has_no_video(tmp_path: Path) -> None:
    error = refusal(write_audio(tmp_path / "a.mp4"))
    assert isinstance(error, NoVideoError)
    assert str(error) == "'a.mp4' has no video: only audio."


def test_an_empty_file_has_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert str(refusal(tmp_path / "a.mp4")) == "'a.mp4' is empty (0 bytes)."


@pytest.mark.parametrize(
    "content",
    [
        b"not a video\n" * 50,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nhttp://example.invalid/a.ts\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"1\n00:00:01,000 --> 00:00:02,000\nhello\n",
        b"\x1b[31mtext art\x1b[0m\n" * 20,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"x",
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.txt", "a.m3u8"])
def test_text_is_no_video_whatever_its_name(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert isinstance(refusal(tmp_path / name), NoVideoError)


def test_noise_is_no_video(tmp_path: Path) -> None:
    assert isinstance(refusal(write_noise(tmp_path / "a.mp4")), NoVideoError)


def test_a_directory_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    assert str(refusal(tmp_path / "a.mp4")) == "'a.mp4' is a directory, not a media file."


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    assert isinstance(refusal(tmp_path / "gone.mp4"), UnreadableError)


def test_a_pipe_is_unreadable_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    assert isinstance(refusal(tmp_path / "a.mp4"), UnreadableError)


@pytest.mark.parametrize(
    ("error", "words"), [(PermissionError(13, "no"), "permission denied"), (OSError(5, "I/O error"), "I/O error")]
)
def test_what_the_system_refuses_is_unreadable(error: OSError, words: str) -> None:
    """Root may read everything, so the refusal itself is given."""
    with pytest.raises(UnreadableError, match=words), explained(Path("a.mp4"), "probe"):
        raise error


def test_a_codec_that_this_build_lacks_is_named(tmp_path: Path) -> None:
    path = rename_codec(write_video(tmp_path / "a.mp4", 5), b"avc1", b"zzz9")
    error = refusal(path)
    assert isinstance(error, UnsupportedCodecError)
    assert "zzz9" in str(error)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (MediaLimits(max_bytes=100), "max_bytes"),
        (MediaLimits(max_pixels=96 * 64 - 1), "max_pixels"),
        (MediaLimits(max_seconds=0.5), "limits.media.max_duration"),
        (MediaLimits(max_frames=29), "max_frames"),
    ],
)
def test_absurd_sizes_name_the_limit(limits: MediaLimits, words: str, tmp_path: Path) -> None:
    error = refusal(write_video(tmp_path / "a.mp4", 30), limits)
    assert isinstance(error, TooLargeError)
    assert words in str(error)


def test_absurd_images_name_the_limit(tmp_path: Path) -> None:
    assert "96 x 64" in str(refusal(write_image(tmp_path / "a.png"), MediaLimits(max_pixels=100)))
    # A PNG whose header claims 60,000 x 60,000.
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "bomb.png").write_bytes(data)
    assert isinstance(refusal(tmp_path / "bomb.png"), TooLargeError)


def test_a_damaged_image_header_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff" + bytes(50))
    assert isinstance(refusal(tmp_path / "a.jpg"), NoVideoError)


def test_a_recording_without_its_index_says_so(tmp_path: Path) -> None:
    path = truncate(write_video(tmp_path / "a.mp4", 50), 0.5)
    assert str(refusal(path)) == (
        "'a.mp4' can't be played: it is cut off or was never finished: its index (moov) is missing."
    )


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.avi", "a.mp4"])
def test_silent_truncation_is_found_against_the_header(name: str, tmp_path: Path) -> None:
    codec = "libvpx-vp9" if name == "a.webm" else "mjpeg" if name == "a.avi" else "libx264"
    how = {"container_options": {"movflags": "faststart"}} if name == "a.mp4" else {}
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / name, 100, codec, pix_fmt=pix_fmt, **how)
    assert probe(path, LIMITS).lost == ""
    assert cut_short(path) == ""
    truncate(path, 0.6)
    facts = probe(path, LIMITS)
    assert 0 < facts.frames < 100
    assert "cut off" in facts.lost
    if name in ("a.mp4", "a.avi"):
        assert facts.frames_claimed == 100
        assert facts.lost.startswith(f"{100 - facts.frames} of 100 frames are missing")


def test_a_cut_gif_keeps_its_whole_frames(tmp_path: Path) -> None:
    path = write_gif(tmp_path / "a.gif", [50] * 10)
    assert (gif_frames(path), cut_short(path)) == (10, "")
    truncate(path, 0.55)
    facts = probe(path, LIMITS)
    assert 0 < facts.frames < 10
    assert "before the GIF trailer" in facts.lost


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp"])
def test_a_cut_image_says_so_or_is_kept_in_part(name: str, tmp_path: Path) -> None:
    size = (640, 480)
    noise = np.random.default_rng(0).integers(0, 40, (size[1], size[0], 3))
    Image.fromarray((picture(0x9009, *size) * 0.8 + noise).astype(np.uint8)).save(tmp_path / name)
    path = truncate(tmp_path / name, 0.7)
    if name == "a.webp":
        assert "cut off" in str(refusal(path))
        return
    facts = probe(path, LIMITS)
    report = DecodeReport()
    (row,) = decode(path, facts, [Request(Every(every="1s"), Preprocess(64, 64, "squash"))], report=report)
    assert "incomplete" in report.lost
    assert ("cut off" in facts.lost) == (name != "a.bmp")
    # The rows that came first are there: the top, but in a BMP the bottom.
    first, last = (row.pixels[:16], row.pixels[-16:]) if name != "a.bmp" else (row.pixels[-16:], row.pixels[:16])
    assert np.ptp(first) > 100
    assert np.ptp(last) < 60


def test_an_image_cut_before_its_pixels_has_nothing_to_see(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", size=(400, 300))
    truncate(path, 0.08)
    with pytest.raises(NoVideoError):
        list(decode(path, probe(path, LIMITS), [Request(Every(every="1s"), Preprocess(64, 64))]))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(12))
def test_damaged_bytes_never_crash_a_probe(seed: int, tmp_path: Path) -> None:
    """Flip bytes anywhere: facts or an ItemError, nothing else."""
    random = np.random.default_rng(seed)
    made = [
        write_video(tmp_path / "a.mp4", 20),
        write_video(tmp_path / "a.mkv", 20),
        write_gif(tmp_path / "a.gif"),
        write_image(tmp_path / "a.jpg"),
        write_image(tmp_path / "a.png"),
        write_image(tmp_path / "a.webp"),
    ]
    for path in made:
        data = bytearray(path.read_bytes())
        for at in random.integers(0, len(data), 12):
            data[at] = random.integers(256)
        path.write_bytes(data)
        with suppress(ItemError):
            facts = probe(path, MediaLimits(max_pixels=4_000_000))
            list(decode(path, facts, [Request(EveryFrames(every_frames=3), Preprocess(32, 32))]))
