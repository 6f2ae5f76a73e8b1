"""``cliploom inspect`` on every kind of file, and on unsupported ones."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import polars as pl
import pytest
from media_factory import damage, truncate, write_audio, write_gif, write_image, write_noise, write_video
from stores import SmallStore
from typer.testing import CliRunner

from cliploom.pipelines.cli.inspecting import inspect, inspect_text
from cliploom.pipelines.cli.main import app
from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.tfrecords import Yt8mFrames
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.write import encode_example, encode_frames


def test_a_tfrecord_shows_its_features_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "any.name"
    with path.open("wb") as stream:
        payloads = [encode_frames(Yt8mFrames("first", (7,), np.zeros((3, 4), np.uint8))), encode_example({"v": b"x"})]
        write_records(stream, payloads, gzip=True)
    found = inspect(str(path))
    assert found["kind"] == "tfrecord"
    assert found["compression"] == "gzip"
    text = inspect_text(json.loads(json.dumps(found)))
    assert "2 records (1 SequenceExample, 1 Example" in text
    assert "frames rgb: bytes[3 frames][1] of 4 bytes" in text


def test_a_store_shows_its_release(built_store: SmallStore) -> None:
    text = inspect_text(inspect(str(built_store.store)))
    assert "store, release 1 of 1" in text
    assert "feature frames of clips by efficientnet_lite0" in text
    assert "pooled [1280], semantic [384]" in text
    assert "export frames_h5: hdf5" in text


def test_a_part_shows_its_footer_columns_and_first_rows(built_store: SmallStore) -> None:
    part = next(built_store.store.glob("features/frames/*/part-*.parquet"))
    found = inspect(str(part))
    assert found["part"]["feature"] == "frames"
    assert found["columns"]["semantic"] == "list<element: float>"
    assert found["first"][0]["semantic"][-1] == "..."
    assert "part of feature frames" in inspect_text(found)


def test_any_parquet_file_shows_its_columns(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1, 2]}).write_parquet(tmp_path / "plain")
    found = inspect(str(tmp_path / "plain"))
    assert (found["rows"], found["columns"], found["first"]) == (2, {"a": "int64"}, [{"a": 1}, {"a": 2}])
    assert "2 rows" in inspect_text(found)


def test_an_hdf5_file_shows_its_arrays_also_behind_links(built_store: SmallStore, tmp_path: Path) -> None:
    master = next(built_store.store.glob("hdf5/frames_h5/master-*.h5"))
    text = inspect_text(inspect(str(master), limit=2))
    assert "float32[" in text
    assert "more" in text
    with h5py.File(tmp_path / "broken.h5", "w") as file:
        file["gone"] = h5py.ExternalLink("nowhere.h5", "/x")
    assert "gone: links to a file that does not exist" in inspect_text(inspect(str(tmp_path / "broken.h5")))


def test_an_hdf5_file_whose_groups_contain_themselves_is_shown(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["g/a"] = [1.0]
        file["g/again"] = file["/"]
        file["soft"] = h5py.SoftLink("/g")
        file["none"] = h5py.Empty("f4")
    text = inspect_text(inspect(str(tmp_path / "odd.h5")))
    assert "g/a" in text
    assert "soft: links to a group" in text


def test_what_is_nothing_known_is_reported(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("neither of these kinds of files, though long enough")
    (tmp_path / "half.parquet").write_bytes(b"PAR1....")
    with pytest.raises(SpecError, match="not a TFRecord, Parquet or HDF5"):
        inspect(str(tmp_path / "text"))
    with pytest.raises(SpecError, match="no file or store"):
        inspect(str(tmp_path / "none"))
    with pytest.raises(StoreError, match="damaged Parquet"):
        inspect(str(tmp_path / "half.parquet"))
    with pytest.raises(StoreError, match="not a store with a release"):
        inspect(str(tmp_path))


def test_the_command_prints_json(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "plain")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "plain"), "--json"])
    assert json.loads(done.stdout)["rows"] == 1


def media(path: Path, *samples: str, decoded: bool = False) -> tuple[dict[str, Any], str]:
    """What is found of a file, JSON-able, and its text, which fits 80 columns but for the file's name."""
    found = json.loads(json.dumps(inspect(str(path), samples=samples, decoded=decoded)))
    lines = inspect_text(found).splitlines()
    assert lines[0] == str(path)
    assert max(map(len, lines[1:])) <= 80
    return found, " ".join(" ".join(lines[1:]).split())


def test_a_video_shows_streams_times_rotation_and_what_samplings_take(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60, fps=Fraction(30000, 1001), gop=12, audio=True, rotation=90)
    found, text = media(path, "every: 500ms", "{window: {frames: 16, stride: 8}}", "keyframes")
    assert (found["kind"], found["codec"], found["frames"], found["keyframes"]) == ("video", "h264", 60, 5)
    assert [stream["type"] for stream in found["streams"]] == ["video", "audio"]
    assert (found["rotation"], found["shown"]) == (270, [64, 96])
    assert found["constant_rate"]
    assert [sample["rows"] for sample in found["samples"]] == [5, 7, 5]
    assert found["samples"][0]["sample"] == {"every": "0.5s"}
    assert found["samples"][0]["first"][1] == {"start_s": 0.5, "end_s": 1.0, "frame": 14}
    assert found["samples"][1]["frames_in_a_row"] == 16
    assert "video in QuickTime / MOV" in text
    assert "0:00:02.002" in text
    assert "turned by 270 degrees clockwise, square pixels, shown as 64 x 96" in text
    assert "29.97 fps, constant rate" in text
    assert "sample every: 0.5s: 5 rows from 5 of 60 frames; at 0, 0.5, 1, 1.5, 2 s" in text
    assert "damage: none found without decoding" in text


def test_a_variable_rate_and_oblong_pixels_are_reported(tmp_path: Path) -> None:
    times = [number * 40 + number % 3 * 7 for number in range(40)]
    found, text = media(write_video(tmp_path / "v.mkv", 40, times=times, time_base=Fraction(1, 1000)))
    assert not found["constant_rate"]
    assert "variable rate (0.026 to 0.047 s apart)" in text
    with av.open(str(tmp_path / "oblong.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8))))
        output.mux(stream.encode())
    found, text = media(tmp_path / "oblong.mp4")
    assert found["shown"] == [128, 64]
    assert "pixels 4:3, shown as 128 x 64" in text


def test_damage_is_reported_and_decoding_finds_more(tmp_path: Path) -> None:
    cut, text = media(truncate(write_video(tmp_path / "cut.avi", 100, "mpeg4"), 0.6))
    assert "of 100 frames are missing: it is cut off" in cut["damage"]
    assert "of 100 promised" in text
    path = damage(write_video(tmp_path / "damaged.mp4", 100), 0.4, 0.6)
    assert media(path)[0]["damage"] == ""
    looked, text = media(path, decoded=True)
    assert looked["samples"][0]["rows_decoded"] < looked["samples"][0]["rows"] == 4
    assert "wanted frames could not be decoded" in looked["damage"]
    assert "damage: 2 of 4 wanted frames could not be decoded." in text
    assert "all decode" in media(write_video(tmp_path / "whole.mp4"), decoded=True)[1]


@pytest.mark.parametrize("name", ["g.gif", "i.png", "i.jpg", "w.webp"])
def test_gifs_and_images_are_shown(tmp_path: Path, name: str) -> None:
    path = (write_gif if name == "g.gif" else write_image)(tmp_path / name)
    found, text = media(path, "uniform: 2", decoded=True)
    assert found["kind"] == ("gif" if name == "g.gif" else "image")
    assert "96 x 64, square pixels" in text
    assert "all decode" in text
    assert ("fps" in text) == (name == "g.gif")


def test_a_video_without_a_mark_at_its_beginning_is_found_too(tmp_path: Path) -> None:
    assert media(write_video(tmp_path / "a.ts", 60, container="mpegts"))[0]["container"] == "mpegts"


def test_what_is_no_media_or_no_sampling_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"'s\.m4a' has no video: only audio"):
        inspect(str(write_audio(tmp_path / "s.m4a")))
    with pytest.raises(SpecError, match=r"as media: 'noise\.mp4' is not a video"):
        inspect(str(write_noise(tmp_path / "noise.mp4")))
    path = str(write_image(tmp_path / "i.png"))
    for text in ("every: 1", "nothing", "{every: 1s, uniform: 2}", "[", "1"):
        with pytest.raises(SpecError, match="such as"):
            inspect(path, samples=[text])
    assert inspect(path, samples=["every:1s"])["samples"][0]["rows"] == 1
