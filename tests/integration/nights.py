"""A small project that lives through nights: media that change, runs in this process or killed in another one.

The encoder is a third party's, found by its entry point: it gives each picture its mean colour. Pictures of one pure
colour are poison to it: red ends the process, green breaks its memory, blue raises, yellow runs out of memory as long
as the file that CLIPLOOM_TEST_FULL names is there, cyan waits for ever, magenta does so and holds the interpreter.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from PIL import Image

from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.index import IndexRecipe
from cliploom.schemas.records import MAX_ORDINAL
from cliploom.schemas.release import Release
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.index.verify import shard_ids
from cliploom.transforms.store.hdf5 import read_uid, read_uids
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table
from cliploom.transforms.upkeep.verifying import verify_release

ENCODER = """
import ctypes
import os
import threading

import numpy as np

from cliploom.schemas.media import Preprocess
from cliploom.schemas.models import Output
from cliploom.transforms.encoders.base import EncoderOptions, Family


class Options(EncoderOptions):
    shade: float = 1.0


class MeanColour(Family):
    kind = "shaded_colour"
    Options = Options

    def modality(self, options):
        return "frame"

    def output_names(self, options, text):
        return ("colour",)

    def fingerprint(self, options):
        return {}

    def prepare(self, options, folder, text):
        (folder / "shade").write_text(str(options.shade))
        outputs = {"colour": Output(dim=3, space="mean_colour")}
        return self.card(options, outputs=outputs, preprocess=Preprocess(8, 8, fit="squash"))

    def open(self, folder, card, threads):
        return ColourEncoder(float((folder / "shade").read_text()))


class ColourEncoder:
    def __init__(self, shade):
        self.shade = shade

    def encode(self, batch, report=None):
        return [{"colour": self.shade * self.colour(pixels)} for pixels in batch]

    def colour(self, pixels):
        colour = pixels.mean((0, 1), dtype=np.float32)
        pure = tuple(int(value) for value in colour > 250)
        if colour[colour <= 250].max(initial=0) < 5:
            if pure == (1, 0, 0):
                os._exit(7)
            if pure == (0, 1, 0):
                ctypes.string_at(0)
            if pure == (0, 0, 1):
                raise ValueError("blue")
            if pure == (1, 1, 0) and os.path.exists(os.environ.get("CLIPLOOM_TEST_FULL", "")):
                raise MemoryError
            if pure == (0, 1, 1):
                threading.Event().wait()
            if pure == (1, 0, 1):
                ctypes.PyDLL(None).pause()
        return colour
"""
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
CYAN, MAGENTA = (0, 255, 255), (255, 0, 255)


@contextmanager
def encoder_on_path(folder: Path) -> Iterator[Path]:
    """The encoder's package in a new folder, which is on the path of this process for the time of the block."""
    write_encoder(folder)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def write_encoder(folder: Path) -> Path:
    """The package of the encoder, to be put on the path."""
    info = folder / "mean_colour-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (folder / "mean_colour.py").write_text(ENCODER, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mean-colour\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[cliploom.encoders]\nshaded_colour = mean_colour:MeanColour\n")
    return folder


def draw(path: Path, seed: int) -> Path:
    """A picture that no other seed gives: a still image, or a GIF of one to three pictures a second apart."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        count = 2 + seed % 2
        pictures = [Image.fromarray(rng.integers(0, 250, (8, 8, 3), np.uint8)) for _ in range(count)]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=1000, optimize=False)
    else:
        Image.fromarray(rng.integers(0, 250, (8, 8, 3), np.uint8)).save(path)
    return path


def paint(path: Path, colour: tuple[int, int, int]) -> Path:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def age(path: Path, seconds: int) -> Path:
    """Give a file another time of change; the bytes stay."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 1_000_000_000))
    return path


SPEC: dict[str, Any] = {
    "version": 1,
    "name": "nights",
    "store": "./store",
    "sources": {"clips": {"kind": "media", "glob": "media/**/*.*"}},
    "encoders": {"tiny": {"kind": "shaded_colour"}},
    "features": {"frames": {"source": "clips", "sample": {"every": "1s"}, "encoder": "tiny"}},
    "indexes": {"frames": {"feature": "frames", "metric": "l2"}},
    "exports": {"h5": {"kind": "hdf5", "feature": "frames"}},
    "targets": {"local": {"workers": 1}},
    "limits": {"max_failed": "60%", "max_deleted": "60%"},
}


@dataclass(frozen=True)
class Project:
    """A folder with ``cliploom.yaml``, ``media/`` and, after the first run, ``store/``."""

    folder: Path

    @property
    def media(self) -> Path:
        return self.folder / "media"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def spec(self) -> Path:
        return self.folder / "cliploom.yaml"

    @property
    def objects(self) -> ObjectStore:
        return ObjectStore(self.store)

    def write_spec(self, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        """The spec, with whole sections replaced; a section of None is left out."""
        document = {key: value for key, value in (SPEC | (changes or {})).items() if value is not None}
        self.spec.parent.mkdir(parents=True, exist_ok=True)
        self.spec.write_text(yaml.safe_dump(document), encoding="utf-8")
        return document

    def run(self, overrides: Sequence[str] = (), **options: Any) -> RunResult:
        """``cliploom run`` in this process."""
        return run_here(self.spec, overrides, RunOptions(**options))

    def copy(self, folder: Path) -> Project:
        """The same project elsewhere, files' times and all; only to look at, or with the store of another place."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def release(self, number: int | None = None) -> Release:
        return read_releases(self.objects).get(number)

    def releases(self) -> list[int]:
        return [release.release for release in read_releases(self.objects).rows]

    def rows(self, feature: str = "frames", number: int | None = None) -> pl.DataFrame:
        """The rows of a feature, read from the files that the release's table names."""
        entry = self.release(number).features[feature]
        return read_table(self.objects, entry.table, entry.version).sort("row_id")

    def uids(self, feature: str = "frames", number: int | None = None) -> list[str]:
        return sorted(set(self.rows(feature, number)["uid"]))

    def parts(self, number: int | None = None) -> set[str]:
        release = self.release(number)
        return set(read_table(self.objects, "parts", release.tables["parts"])["part"])

    def failures(self, number: int | None = None) -> pl.DataFrame:
        release = self.release(number)
        return read_table(self.objects, "failures", release.tables["failures"])

    def snapshot(self, number: int | None = None) -> Snapshot:
        """Everything that readers see of a release."""
        return snapshot(self.objects, self.release(number))


def run_here(spec: Path, overrides: Sequence[str], options: RunOptions) -> RunResult:
    """A run without a supervisor."""
    document = load_document(spec, overrides)
    return run_spec(parse_document(document), document, spec.absolute().parent, options, lambda text: None)


@dataclass(frozen=True)
class Snapshot:
    """What readers see of a release, whatever its files are called.

    Attributes:
        rows: feature -> (row_id, uid, start_s, frame, item_digest, bytes of the vector), sorted.
        items: (item_no, source, uid, digest).
        failures: (feature, uid, type, message, partial).
        indexes: index -> the row ids that it holds.
        exports: export -> uid -> bytes of its vectors.
    """

    rows: dict[str, list[tuple[Any, ...]]]
    items: list[tuple[Any, ...]]
    failures: list[tuple[Any, ...]]
    indexes: dict[str, list[int]]
    exports: dict[str, dict[str, bytes]]

    def by_name(self) -> dict[str, list[tuple[Any, ...]]]:
        """Rows with ordinals instead of ids: what two stores with other item numbers have in common."""
        return {
            feature: sorted((uid, row_id & MAX_ORDINAL, *rest) for row_id, uid, *rest in rows)
            for feature, rows in self.rows.items()
        }


def snapshot(objects: ObjectStore, release: Release) -> Snapshot:
    """Read all of a release."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for name, entry in release.features.items():
        frame = read_table(objects, entry.table, entry.version).sort("row_id")
        plain = frame.select("row_id", "uid", "start_s", "frame", "item_digest").rows()
        vectors = [np.asarray(vector, np.float32).tobytes() for vector in frame[next(iter(entry.outputs))]]
        rows[name] = [(*row, vector) for row, vector in zip(plain, vectors, strict=True)]
    items = read_table(objects, "items", release.tables["items"])
    failures = read_table(objects, "failures", release.tables["failures"])
    return Snapshot(
        rows,
        sorted(items.select("item_no", "source", "uid", "digest").rows()),
        sorted(failures.select("feature", "uid", "type", "message", "partial").rows()),
        {name: list(_index_ids(objects, release, name)) for name in release.indexes},
        {name: _exported(objects, release, name) for name in release.exports},
    )


def _index_ids(objects: ObjectStore, release: Release, name: str) -> Iterator[int]:
    entry = release.indexes[name]
    dim = release.features[entry.feature].outputs[entry.output].dim
    recipe = IndexRecipe(entry.metric, entry.kind, dim, entry.nprobe)  # type: ignore[arg-type]
    found: list[int] = []
    for shard in entry.shards:
        with objects.local_copy(shard.file.path) as local:
            found += shard_ids(local, recipe).tolist()
    yield from sorted(found)


def _exported(objects: ObjectStore, release: Release, name: str) -> dict[str, bytes]:
    entry = release.exports[name]
    if not entry.files:
        return {}
    with objects.local_copy(entry.files[0].path) as local:
        return {uid: next(iter(read_uid(local, uid).outputs.values())).tobytes() for uid in read_uids(local)}


def assert_sound(project: Project, number: int | None = None) -> None:
    """The release opens, and every file that it names is as it was written."""
    problems = verify_release(str(project.store), number)
    assert not problems, problems
