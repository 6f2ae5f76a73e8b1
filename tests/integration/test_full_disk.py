"""A disk, a temporary folder or a limit without room: one sentence, exit code 4, no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forks import ROOT
from nights import Project, assert_sound, draw, encoder_on_path, write_encoder

from cliploom.transforms.store.object_store import TEMPORARY

FULL = "the disk is full; free some space and run again."


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and the last line that it printed for a person."""

    code: int
    last: str
    printed: str


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "project")
    made.write_spec({"targets": {"local": {"workers": 2}}})
    write_encoder(tmp_path / "encoder")
    for number in range(6):
        draw(made.media / f"still{number}.png", number)
    return made


def run_cliploom(project: Project, store: Path, before: str = "", **environment: str) -> Ended:
    """``cliploom run`` after a command of the shell, such as ``ulimit``."""
    encoder = project.folder.parent / "encoder"
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(encoder)])} | environment
    command = [sys.executable, "-m", "cliploom", "run", str(project.spec), "--set", f"store={store}"]
    ended = subprocess.run(
        ["bash", "-c", f'{before or ":"} && exec "$@"', "bash", *command],
        env=variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Ended(ended.returncode, ended.stderr.strip().splitlines()[-1], ended.stderr)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size."""
    folder.mkdir(exist_ok=True)
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=False).returncode
    ):
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_store_on_a_full_disk_is_reported_in_one_sentence_at_every_stage(project: Project, tmp_path: Path) -> None:
    codes = []
    for size in ("4k", "60k", "100k", "140k", "160k", "200k"):
        with small_disk(tmp_path / "disk", size) as disk:
            ended = run_cliploom(project, disk / "store")
        codes.append(ended.code)
        assert "Traceback" not in ended.printed, (size, ended.printed)
        if ended.code:
            assert ended.code == 4, (size, ended)
            assert ended.last.startswith(f"cliploom: {disk}"), (size, ended)
            assert ended.last.endswith(FULL), (size, ended)
    assert 4 in codes[:4]


def test_a_full_temporary_folder_is_named(project: Project, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "16k") as disk:
        ended = run_cliploom(project, project.store, TMPDIR=str(disk))
    assert ended.code == 4
    assert ended.last == (
        f"cliploom: TMPDIR is {str(disk)!r}, and its disk is full; free some space or choose another folder."
    )


def test_a_limit_of_file_sizes_is_reported_in_one_sentence(project: Project) -> None:
    ended = run_cliploom(project, project.store, "ulimit -f 8")
    assert ended.code == 4, ended
    assert "a file may have at most 8192 bytes here (ulimit -f); raise the limit and run again." in ended.last
    assert "Traceback" not in ended.printed


def test_too_few_open_files_are_reported_in_one_sentence(project: Project) -> None:
    for limit in (12, 24, 48):
        ended = run_cliploom(project, project.store, f"ulimit -n {limit}")
        assert "Traceback" not in ended.printed, (limit, ended.printed)
        assert not ended.code or "ulimit -n 4096" in ended.last, (limit, ended)


def test_too_little_memory_is_reported_in_one_sentence(project: Project) -> None:
    for limit in (250_000, 500_000, 1_200_000):
        ended = run_cliploom(project, project.store, f"ulimit -v {limit}")
        assert "Traceback" not in ended.printed, (limit, ended.printed)
        assert not ended.code or "too little memory" in ended.last, (limit, ended)


STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "flat": ("index", {"indexes": {"frames": {"feature": "frames", "metric": "l2"}}}),
    "hdf5": ("hdf5", {"exports": {"h5": {"kind": "hdf5", "feature": "frames", "single": True}}}),
    "tfrecord": ("tfrecords", {"exports": {"y8": {"kind": "tfrecord", "feature": "frames", "format": "yt8m_frame"}}}),
}
"""What a second night adds: the folder whose disk is full, and the nodes of the spec."""


@pytest.mark.parametrize("name", STAGES)
def test_a_full_disk_of_indexes_or_exports_publishes_nothing_by_halves(
    project: Project, tmp_path: Path, name: str
) -> None:
    where, nodes = STAGES[name]
    bare = {"targets": {"local": {"workers": 2}}, "indexes": None, "exports": None}
    project.write_spec(bare)
    # Their index takes one page of memory and some bytes of a second one.
    for number in range(215):
        draw(project.media / f"many{number}.png", 100 + number)
    with encoder_on_path(tmp_path / "encoder"):
        project.run()
        before = project.snapshot()
        project.write_spec(bare | nodes)
        with small_disk(project.store / where, "4k") as disk:
            ended = run_cliploom(project, project.store)
            assert ended.code == 4, ended
            assert ended.last.startswith(f"cliploom: {disk}{os.sep}"), ended
            assert ended.last.endswith(FULL), ended
            assert "Traceback" not in ended.printed
            assert project.releases() == [1]
            assert project.snapshot() == before
            assert_sound(project)
            subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
            project.run()
            assert project.releases() == [1, 2]
            assert_sound(project)
            assert not [
                path
                for path in disk.rglob("*")
                if path.suffix in (".partial", ".tmp") or path.name.startswith(TEMPORARY)
            ]
