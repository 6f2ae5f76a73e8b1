"""Inputs are the listed bytes, or a failure that says what happened to them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from cliploom.schemas.errors import UnreadableError
from cliploom.transforms.inputs.spool import open_input
from cliploom.transforms.store.local_folder import evict
from cliploom.transforms.store.uris import is_remote


def signature(path: Path) -> str:
    return f"{path.stat().st_size}:{path.stat().st_mtime_ns}"


def test_local_file_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("x")
    with open_input(str(path), signature(path), "decode") as found:
        assert found == path


def test_name_that_is_no_text_is_found(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.mp4"))
    path.write_text("x")
    with open_input(f"file://{tmp_path}/bad%FF.mp4", signature(path), "decode") as found:
        assert found == path


def test_missing_file_may_come_back(tmp_path: Path) -> None:
    with (
        pytest.raises(UnreadableError, match=r"a\.mp4 is not there \(any more\)") as told,
        open_input(str(tmp_path / "a.mp4"), "1:1", "probe"),
    ):
        pass
    assert told.value.transient
    assert told.value.stage == "probe"


def test_link_to_nothing_is_lasting(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to(tmp_path / "nowhere")
    with (
        pytest.raises(UnreadableError, match="link to a file that is not there") as told,
        open_input(str(tmp_path / "a.mp4"), "missing", "probe"),
    ):
        pass
    assert not told.value.transient


def test_file_below_a_file_is_lasting(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with (
        pytest.raises(UnreadableError, match="can't be read: Not a directory"),
        open_input(str(tmp_path / "a" / "b.mp4"), "1:1", "probe"),
    ):
        pass


def test_file_that_changes_while_it_is_read_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("x")
    with (
        pytest.raises(UnreadableError, match="changed while the run was reading it") as told,
        open_input(str(path), signature(path), "decode"),
    ):
        path.write_text("longer")
    assert told.value.transient


@pytest.mark.parametrize(
    ("uri", "remote"), [("/a/b", False), ("a", False), ("file:///a", False), ("s3://b/k", True), ("gs://b/k", True)]
)
def test_remote_uris(uri: str, remote: bool) -> None:
    assert is_remote(uri) is remote


@pytest.fixture
def spool_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fetched files go, small enough for two of them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"cliploom-spool-{os.getuid()}"


def test_spool_keeps_the_files_used_last(spool_folder: Path) -> None:
    spool_folder.mkdir()
    for number, name in enumerate(("old", "new", "newest")):
        (spool_folder / name).write_bytes(bytes(1000))
        os.utime(spool_folder / name, (number, number))
    evict(spool_folder, spool_folder / "newest", 2500)
    assert sorted(path.name for path in spool_folder.iterdir()) == ["new", "newest"]


def test_missing_object_is_a_failure_that_may_pass(spool_folder: Path) -> None:
    with (
        pytest.raises(UnreadableError, match=r"memory:///a\.mp4 is not there") as told,
        open_input("memory:///a.mp4", "e", "probe"),
    ):
        pass
    assert told.value.transient
    assert not list(spool_folder.iterdir())
