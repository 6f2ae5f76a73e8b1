"""Which index finds the original of a copy: ``pooled`` against ``semantic``, and what ``--like`` asks by itself.

Run with ``python -m benchmarks copies``, or with ``--photos FOLDER`` on photographs of your own. Without them, the
store holds tiles of the demo's photographs; neighbouring tiles of one photograph look alike, so the right one is hard
to find. The store is made by a run of the spec that ``cliploom init`` writes. Each picture is searched by copies that
were changed as copies on the web are. R@1 is the share of copies whose first hit is their original.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from benchmarks.measure import table
from cliploom.pipelines.cli.scaffold import write_spec
from cliploom.pipelines.demo import corpus
from cliploom.pipelines.demo.media import Photo
from cliploom.pipelines.running.run import RunOptions, run_spec
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.search.query_model import Query, QueryPart
from cliploom.transforms.search.searching import Store, open_store

GRID, SIDE, LONGEST = 4, 256, 512
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}

Change = Callable[[Image.Image], bytes]


def main(arguments: Sequence[str]) -> int:
    """Make the store, ask it, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks copies", description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="a folder of photographs")
    parser.add_argument("--most", type=int, default=240, help="take so many pictures")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cliploom-copies-") as name:
        folder = Path(name)
        pictures = dict(zip(range(options.most), found(options.photos), strict=False))
        media = folder / "media"
        media.mkdir()
        for number, picture in pictures.items():
            picture.save(media / f"{number:05d}.png")
        store = make_store(media, folder / "cliploom.yaml")
        columns: list[tuple[str, tuple[str, ...] | None]]
        columns = [("pooled", ("looks",)), ("semantic", ("frames",)), ("--like by itself", None)]
        rows = []
        for title, change in CHANGES.items():
            shares = []
            for _, index in columns:
                right = sum(
                    first_hit(store, change(picture), index) == f"{number:05d}.png"
                    for number, picture in pictures.items()
                )
                shares.append(f"{right / len(pictures):.3f}")
            rows.append([title, *shares])
        print(f"R@1 of the original among {len(pictures)} pictures")
        table(["copy", *(title for title, _ in columns)], rows)
    return 0


def found(photos: Path | None) -> Iterator[Image.Image]:
    """Pictures: those of a folder, at most 512 pixels wide and high, or tiles of the demo's photographs."""
    if photos is not None:
        for path in sorted(path for path in photos.rglob("*") if path.suffix.lower() in SUFFIXES):
            picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
            picture.thumbnail((LONGEST, LONGEST))
            yield picture
        return
    for photo in (each for each in vars(corpus).values() if isinstance(each, Photo)):
        whole = photo.load().convert("RGB").resize((GRID * SIDE, GRID * SIDE))
        for row in range(GRID):
            for column in range(GRID):
                left, top = column * SIDE, row * SIDE
                yield whole.crop((left, top, left + SIDE, top + SIDE))


def make_store(media: Path, spec: Path) -> Store:
    """Return the store that a user gets by ``init`` and ``run``."""
    write_spec(media, spec, force=False)
    began = time.perf_counter()
    document = load_document(spec, [])
    run_spec(parse_document(document), document, spec.parent, RunOptions(), lambda text: None)
    print(f"The store took {time.perf_counter() - began:.0f} s.")
    return open_store(str(spec.parent / "store"))


def first_hit(store: Store, data: bytes, index: tuple[str, ...] | None) -> str:
    """Return the uid of the best hit for a file; empty when there is none."""
    hits = store.ask(Query((QueryPart("bytes", data),), index=index, top=1)).hits
    return hits[0].uid if hits else ""


def cropped(picture: Image.Image, share: float) -> Image.Image:
    """Return the picture without its edges."""
    width, height = picture.size
    left, top = round(width * (1 - share) / 2), round(height * (1 - share) / 2)
    return picture.crop((left, top, width - left, height - top))


def jpeg(picture: Image.Image, quality: int) -> bytes:
    """As a JPEG file."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def half(picture: Image.Image) -> Image.Image:
    """Return the picture of half the size."""
    return picture.resize((picture.width // 2, picture.height // 2))


def video(picture: Image.Image) -> bytes:
    """As a video of one second, H.264 of low quality."""
    width, height = picture.width // 2 * 2, picture.height // 2 * 2
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=Fraction(5), options={"crf": "35", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        pixels = np.asarray(picture.crop((0, 0, width, height)))
        for _ in range(5):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    return file.getvalue()


CHANGES: dict[str, Change] = {
    "re-encoded: JPEG 40": lambda picture: jpeg(picture, 40),
    "half size, JPEG 60": lambda picture: jpeg(half(picture), 60),
    "cropped to 80 %": lambda picture: jpeg(cropped(picture, 0.8), 90),
    "cropped to 60 %": lambda picture: jpeg(cropped(picture, 0.6), 90),
    "cropped to 80 %, half size, JPEG 40": lambda picture: jpeg(half(cropped(picture, 0.8)), 40),
    "mirrored": lambda picture: jpeg(ImageOps.mirror(picture), 90),
    "grey": lambda picture: jpeg(picture.convert("L").convert("RGB"), 90),
    "video, H.264 CRF 35": video,
}
