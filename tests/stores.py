"""One small store, made by a real run with the built-in encoders over a few tiny files; tests work on copies of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from media_factory import write_noise, write_video
from numpy.typing import NDArray
from PIL import Image

from cliploom.pipelines.demo.corpus import CAT, COFFEE, PAGE, ROCKET
from cliploom.pipelines.demo.media import Photo
from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.spec_file import load_document, parse_document

SIZE = (160, 120)
SPEC = """\
version: 1
name: small
store: ./store
sources:
  clips: {kind: media, glob: "media/**/*.*"}
encoders:
  minilm: {kind: minilm}
  lite0: {kind: efficientnet_lite0, text_encoder: minilm}
features:
  frames: {source: clips, sample: {every: 1s}, encoder: lite0, outputs: [pooled, semantic]}
  looks: {source: clips, sample: {uniform: 2}, encoder: lite0, outputs: [pooled]}
indexes:
  frames: {feature: frames, output: semantic, kind: flat}
  graph: {feature: looks, output: pooled, metric: l2, kind: hnsw}
  lists: {feature: frames, output: semantic, kind: ivf_sq8}
exports:
  frames_h5: {kind: hdf5, feature: frames}
  looks_h5: {kind: hdf5, feature: looks, single: true}
limits: {max_failed: 50%, max_deleted: 100%}
"""


@dataclass(frozen=True)
class SmallStore:
    """A project folder: ``cliploom.yaml``, ``media/`` and ``store/``."""

    folder: Path

    @property
    def spec(self) -> Path:
        return self.folder / "cliploom.yaml"

    @property
    def media(self) -> Path:
        return self.folder / "media"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def run(self, overrides: Sequence[str] = (), **options: Any) -> RunResult:
        """``cliploom run`` in this process."""
        document = load_document(self.spec, overrides)
        return run_spec(parse_document(document), document, self.folder, RunOptions(**options), lambda text: None)


def pan(photo: Photo, path: Path, frames: int) -> Path:
    """A video of ``frames`` pictures, 5 a second, that moves over a photograph."""
    picture = photo.load().resize((SIZE[0] * 5 // 4, SIZE[1] * 5 // 4))

    def draw(index: int, width: int, height: int) -> NDArray[np.uint8]:
        left = index * (picture.width - width) // max(1, frames - 1)
        top = (picture.height - height) // 2
        return np.asarray(picture.crop((left, top, left + width, top + height)))

    return write_video(path, frames, fps=5, size=SIZE, draw=draw)


def write_project(folder: Path) -> SmallStore:
    """The spec and its media: three clips, a GIF, two equal pictures, one damaged file."""
    media = folder / "media"
    (media / "videos").mkdir(parents=True)
    pan(CAT, media / "videos" / "cat.mp4", 15)
    pan(COFFEE, media / "videos" / "coffee.mp4", 10)
    pan(ROCKET, media / "videos" / "rocket.mp4", 11)
    pictures = [CAT.load().resize(SIZE), ROCKET.load().resize(SIZE)]
    pictures[0].save(media / "both.gif", save_all=True, append_images=pictures[1:], duration=[1000, 1000])
    PAGE.load().resize(SIZE).save(media / "page.png")
    shutil.copyfile(media / "page.png", media / "page-again.png")
    write_noise(media / "noise.mp4", 2000)
    (folder / "cliploom.yaml").write_text(SPEC, encoding="utf-8")
    return SmallStore(folder)


def still(photo: Photo, path: Path) -> Path:
    """A small picture of a photograph."""
    image: Image.Image = photo.load().resize(SIZE)
    image.save(path)
    return path
