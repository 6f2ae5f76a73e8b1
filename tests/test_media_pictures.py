"""Pictures as they are meant, against independent decodes: fields, pixel aspect, interlacing, high dynamic range."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorTrc
from field_pictures import write_field_pictures, write_mpeg2_fields
from media_factory import busy, picture, read_index, write_video
from numpy.typing import NDArray

from cliploom.schemas.media import MediaFacts, MediaLimits, Preprocess, Sampled
from cliploom.schemas.sampling import Every, EveryFrames, Keyframes, Sampling, Uniform
from cliploom.transforms.media.decode import DecodeReport, Request, decode
from cliploom.transforms.media.deinterlace import with_neighbours
from cliploom.transforms.media.probe import probe

SMALL = Preprocess(48, 32, "squash")
ALL = EveryFrames(every_frames=1)


def facts_of(path: Path) -> MediaFacts:
    return probe(path, MediaLimits())


def run(path: Path, sampling: Sampling = ALL, want: Preprocess = SMALL, **switches: bool) -> list[Sampled]:
    report = DecodeReport()
    rows = list(decode(path, facts_of(path), [Request(sampling, want, **switches)], report=report))  # type: ignore[arg-type]
    assert report.lost == ""
    return rows


def cosine(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Of the pixels without their means, which all pictures have in common."""
    a, b = (pixels.astype(np.float64).ravel() - pixels.mean() for pixels in (one, other))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def photo(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """A smooth coloured picture with edges, which moves."""
    y, x = np.mgrid[0:height, 0:width] / 8.0
    waves = [
        np.sin(x * scale + index / 3 + shift) * np.cos(y / scale) for scale, shift in ((0.6, 0), (0.9, 1), (0.4, 2))
    ]
    smooth = np.stack(waves, axis=2) * 105 + 128
    smooth[height // 3 : height // 2, width // 4 : width // 2] = (230, 240, 235)
    return np.clip(smooth, 0, 255).astype(np.uint8)


# Pixel aspect


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.mpg", "a.mxf"])
def test_a_film_in_other_than_square_pixels_gives_what_it_gives_in_square_ones(name: str, tmp_path: Path) -> None:
    codec = "libx264" if name in ("a.mp4", "a.mkv", "a.ts") else "mpeg4" if name == "a.avi" else "mpeg2video"
    wide = write_video(tmp_path / "wide.mkv", 6, "ffv1", size=(256, 144), draw=photo)

    def squeezed(index: int, width: int, height: int) -> NDArray[np.uint8]:
        frame = av.VideoFrame.from_ndarray(photo(index, 256, 144), format="rgb24")
        return frame.reformat(width=width, height=height, interpolation="BICUBIC").to_ndarray(format="rgb24")

    options = {"crf": "8"} if codec == "libx264" else {"b": "6M"}
    path = write_video(
        tmp_path / name, 6, codec, size=(176, 144), draw=squeezed, options=options, aspect=Fraction(16, 11), b_frames=0
    )
    facts = facts_of(path)
    assert facts.pixel_aspect == Fraction(16, 11)
    assert facts.corrections == "aspect"
    for fit in ("crop", "square"):
        want = Preprocess(64, 64, fit)  # type: ignore[arg-type]
        for row, square in zip(run(path, want=want), run(wide, want=want), strict=True):
            assert cosine(row.pixels, square.pixels) > 0.98


def test_aspect_turns_with_the_picture(tmp_path: Path) -> None:
    wide = write_video(tmp_path / "wide.mp4", 2, size=(256, 144), draw=photo, rotation=90, options={"crf": "8"})

    def squeezed(index: int, width: int, height: int) -> NDArray[np.uint8]:
        frame = av.VideoFrame.from_ndarray(photo(index, 256, 144), format="rgb24")
        return frame.reformat(width=width, height=height, interpolation="BICUBIC").to_ndarray(format="rgb24")

    path = write_video(
        tmp_path / "a.mp4",
        2,
        size=(128, 144),
        draw=squeezed,
        rotation=90,
        options={"crf": "8"},
        aspect=Fraction(2),
    )
    want = Preprocess(64, 64, "crop")
    assert cosine(run(path, want=want)[0].pixels, run(wide, want=want)[0].pixels) > 0.98


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.mkv", "libx265"), ("a.ts", "libx264")])
def test_an_aspect_that_only_the_codec_states_counts(name: str, codec: str, tmp_path: Path) -> None:
    assert facts_of(write_video(tmp_path / name, 6, codec, aspect=Fraction(64, 45))).aspect == "64:45"


def test_absurd_aspects_count_as_square(tmp_path: Path) -> None:
    assert facts_of(write_video(tmp_path / "a.mkv", 3, aspect=Fraction(200))).aspect == ""


def test_facts_of_ordinary_files_name_no_corrections(tmp_path: Path) -> None:
    facts = facts_of(write_video(tmp_path / "a.mp4", 3))
    assert facts.corrections == ""
    assert set(facts.to_dict()).isdisjoint({"aspect", "interlaced", "light", "corrected"})


# Interlaced pictures


def fields_of(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """Lines by turns of the moments 2 * index and 2 * index + 1 of a bar that moves by 4 pixels a moment."""
    result = np.full((height, width, 3), 40, np.uint8)
    for parity in (0, 1):
        at = (8 * index + 4 * parity) % (width - 16)
        result[parity::2, at : at + 12] = 220
    return result


INTERLACED = [
    ("a.mpg", "mpeg2video", {"flags": "+ilme+ildct"}),
    ("a.ts", "mpeg2video", {"flags": "+ilme+ildct"}),
    ("a.mkv", "libx264", {"x264-params": "tff=1"}),
    ("a.ts", "libx264", {"x264-params": "tff=1"}),
    ("a.mp4", "libx264", {"x264-params": "tff=1"}),
]


def combs(pixels: NDArray[np.uint8]) -> float:
    """How much neighbouring lines differ more than those that are two apart."""
    grey = pixels.astype(np.float64).mean(axis=2)
    return float(np.abs(np.diff(grey, axis=0)).mean() - np.abs(grey[2:] - grey[:-2]).mean())


@pytest.mark.parametrize(("name", "codec", "options"), INTERLACED)
def test_interlaced_pictures_have_no_combs_and_are_those_of_the_filter_run_over_the_whole(
    name: str, codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    size, want = (96, 64), Preprocess(96, 64, "squash")
    options = options | ({"crf": "10"} if codec == "libx264" else {"b": "8M"})
    path = write_video(tmp_path / name, 20, codec, size=size, draw=fields_of, options=options, gop=6, interlaced=True)
    facts = facts_of(path)
    assert facts.interlaced
    assert "interlaced" in facts.corrections.split(".")
    as_stored = run(path, want=want, deinterlace=False)
    rows = run(path, want=want)
    assert len(rows) == len(as_stored) == 20
    assert min(combs(row.pixels) for row in as_stored[1:]) > 5
    assert max(combs(row.pixels) for row in rows[1:-1]) < 1
    for row, expected in zip(rows, filtered(path, want), strict=True):
        assert np.array_equal(row.pixels, expected)
    for row in run(path, EveryFrames(every_frames=7), want=want):
        assert np.array_equal(row.pixels, rows[row.frame].pixels)


def filtered(path: Path, want: Preprocess) -> list[NDArray[np.uint8]]:
    """All pictures by libav's own graph from the file, scaled as the scaler does."""
    from cliploom.transforms.media.scale import Scaler

    scaler, found = Scaler(want), []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        graph.link_nodes(
            graph.add_buffer(template=stream), graph.add("bwdif", "send_frame:auto:interlaced"), graph.add("buffersink")
        ).configure()
        for frame in [*container.decode(stream), None]:
            graph.vpush(frame)
            while True:
                try:
                    found.append(scaler(graph.vpull()))
                except (BlockingIOError, EOFError):
                    break
    return found


def test_a_stretch_of_an_interlaced_video_is_that_of_the_whole(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60, draw=fields_of, options={"x264-params": "tff=1"}, gop=6, interlaced=True)
    facts, request = facts_of(path), Request(Every(every="100ms"), SMALL)
    whole = {row.ordinal: row.pixels for row in decode(path, facts, [request])}
    for start in (0.0, 0.8, 1.6):
        for row in decode(path, facts, [request], (start, start + 0.8)):
            assert np.array_equal(row.pixels, whole[row.ordinal])


def test_progressive_video_is_not_filtered(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mpg", 6, "mpeg2video")
    assert not facts_of(path).interlaced
    assert with_neighbours(np.array([3, 4]), 2, 3).tolist() == [2, 3, 4]


# Fields in packets of their own


def decoded_luma(path: Path) -> list[NDArray[np.uint8]]:
    """By libav's own decoding of the whole file."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray()[: frame.height] for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", ["a.ts", "a.mts", "a.mkv", "a.mp4", "a.mpg", "a.mov", "a.avi"])
def test_two_fields_in_two_packets_are_one_frame(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    stored = write_field_pictures(path, 14, picture)
    assert all(np.array_equal(*pair) for pair in zip(decoded_luma(path), stored, strict=True))
    facts = facts_of(path)
    assert (facts.frames, facts.frames_claimed, facts.lost) == (14, 14, "")
    # Libav's parser takes every picture of intra slices for a key frame.
    assert facts.keyframes == 14
    assert facts.fps == pytest.approx(25, abs=0.01)
    assert facts.duration_s == pytest.approx(0.56, abs=0.001)
    assert "fields" in facts.corrections.split(".")
    rows = run(path, deinterlace=False)
    assert [read_index(row.pixels) for row in rows] == list(range(14))
    for sampling in (Every(every="100ms"), EveryFrames(every_frames=3), Uniform(uniform=5), Keyframes()):
        for row in run(path, sampling, deinterlace=False):
            assert read_index(row.pixels) == row.frame
    assert [row.frame for row in run(path, Every(every="200ms"))] == [0, 5, 10]


@pytest.mark.parametrize("joined", [True, False], ids=["in one packet", "in two packets"])
@pytest.mark.parametrize("name", ["a.ts", "a.mpg", "a.mxf", "a.mkv", "a.mp4", "a.mov", "a.avi"])
def test_two_field_pictures_of_mpeg2_are_one_frame(name: str, joined: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    write_mpeg2_fields(path, 14, picture, joined=joined)
    facts = facts_of(path)
    assert (facts.codec, facts.frames, facts.frames_claimed, facts.lost) == ("mpeg2video", 14, 14, "")
    # Parsers of MPEG streams join what comes in two packets.
    own_packets = not joined and name not in ("a.ts", "a.mpg")
    assert facts.corrections == ("fields.interlaced" if own_packets else "interlaced")
    with av.open(str(path)) as container:
        expected = [read_index(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    rows = run(path, deinterlace=False)
    assert [read_index(row.pixels) for row in rows] == expected == list(range(14))
    for sampling in (EveryFrames(every_frames=3), Uniform(uniform=5), Keyframes()):
        for row in run(path, sampling, deinterlace=False):
            assert read_index(row.pixels) == row.frame
    assert len(run(path)) == 14


def test_a_stretch_of_a_video_in_field_packets_is_that_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_field_pictures(path, 50, picture)
    facts, request = facts_of(path), Request(Every(every="100ms"), SMALL)
    whole = {row.ordinal: row for row in decode(path, facts, [request])}
    for start in (0.0, 0.8, 1.6):
        for row in decode(path, facts, [request], (start, start + 0.8)):
            assert np.array_equal(row.pixels, whole[row.ordinal].pixels)
            assert row.frame == whole[row.ordinal].frame


@pytest.mark.parametrize("lacking", [{3}, {4}, {3, 4}, {3, 9}, {19}])
def test_a_field_that_is_lost_costs_no_other_frame_its_place(lacking: set[int], tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_field_pictures(path, 10, picture, without=frozenset(lacking))
    with av.open(str(path)) as container:
        expected = [read_index(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    rows = run(path, deinterlace=False)
    assert [read_index(row.pixels) for row in rows] == expected
    assert facts_of(path).frames == len(expected)


# High dynamic range

TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


def in_pq(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """SDR in PQ by BT.2408 (BT.1886 display light, white at 203 cd/m2), by the formulas of BT.2100."""
    light = ((pixels / 255.0) ** 2.4) @ TO_2020.T * 203 / 10000
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = np.maximum(light, 0) ** m1
    return np.asarray(((c1 + c2 * power) / (1 + c3 * power)) ** m2)


def in_hlg(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """SDR in HLG: the display light of a display of 1000 cd/m2, white at 203, by the formulas of BT.2100."""
    shown = ((pixels / 255.0) ** 2.4) @ TO_2020.T * 203 / 1000
    luminance = np.maximum(shown @ np.array([0.2627, 0.6780, 0.0593]), 1e-9)
    scene = np.maximum(shown * (luminance ** ((1 - 1.2) / 1.2))[..., None], 0)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    with np.errstate(invalid="ignore"):
        return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def in_wide(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray((((pixels / 255.0) ** 2.4) @ TO_2020.T) ** (1 / 2.4))


LIGHTS = {
    "pq": (in_pq, ColorTrc.SMPTE2084),
    "hlg": (in_hlg, ColorTrc.ARIB_STD_B67),
    "bt2020": (in_wide, ColorTrc.BT2020_10),
}


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx265"),
        ("a.mkv", "ffv1"),
        ("a.ts", "libx265"),
        ("b.mp4", "libsvtav1"),
        ("a.mov", "libx264"),
        ("b.mkv", "libvpx-vp9"),
    ],
)
def test_a_film_put_into_high_dynamic_range_comes_back(name: str, codec: str, light: str, tmp_path: Path) -> None:
    encode, transfer = LIGHTS[light]
    options = {} if codec == "ffv1" else {"crf": "10" if codec == "libsvtav1" else "4"}
    path = tmp_path / name
    write_hdr(path, codec, lambda i: encode(photo(i, 192, 128)), transfer, options)
    facts = facts_of(path)
    assert facts.light == light
    assert facts.corrections == light
    want = Preprocess(96, 64, "squash")
    plain = run(write_video(tmp_path / "sdr.mkv", 3, "ffv1", size=(192, 128), draw=photo), want=want)
    worse = run(path, want=want, tone_map=False)
    for row, flat, expected in zip(run(path, want=want), worse, plain, strict=True):
        assert cosine(row.pixels, expected.pixels) >= 0.99
        assert np.abs(row.pixels.astype(int) - expected.pixels).mean() < 6
        assert np.abs(flat.pixels.astype(int) - expected.pixels).mean() > 6
    bgr = run(path, want=Preprocess(96, 64, "squash", order="bgr"))[0].pixels
    assert np.array_equal(bgr[:, :, ::-1], run(path, want=want)[0].pixels)


def write_hdr(path: Path, codec: str, draw: object, transfer: ColorTrc, options: dict[str, str]) -> None:
    """Three pictures of 192 x 128 in 10 bits (VP9: 8), tagged as BT.2020 with this transfer."""
    from media_factory import quiet

    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25, options=quiet(codec) | options)
        # This build of libvpx has no deep encoder; its decoder reads 8 bits only, too.
        layout = "yuv420p" if codec == "libvpx-vp9" else "yuv420p10le"
        stream.width, stream.height, stream.pix_fmt = 192, 128, layout
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = int(transfer), int(ColorPrimaries.BT2020), 9
        context.color_range = 1
        for index in range(3):
            signal = np.round(np.clip(draw(index), 0, 1) * 65535).astype(np.uint16)  # type: ignore[operator]
            frame = av.VideoFrame.from_ndarray(signal, format="rgb48le")
            frame = frame.reformat(format=layout, dst_colorspace=9, dst_color_range=1)
            frame.color_trc, frame.color_primaries = int(transfer), int(ColorPrimaries.BT2020)
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def test_busy_pictures_keep_their_numbers(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 8, draw=busy, aspect=Fraction(4, 3), options={"x264-params": "tff=1"})
    assert [read_index(row.pixels) for row in run(path)] == list(range(8))
