"""Hashes of model files that are kept: when they are used, when files are read again; models whose files are gone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_encoders_onnx import SIZE, linear_model, picture_options
from test_encoders_saved_model import MODELS, s3d
from waiting import wait_until

from cliploom.pipelines.planning.preparing import prepare_safely
from cliploom.schemas.errors import CliploomError
from cliploom.schemas.spec import Limits
from cliploom.transforms.encoders import known_hashes, registry, tensorflow_reference, weights
from cliploom.transforms.encoders.known_hashes import KNOWN_FILE, KnownHashes
from cliploom.transforms.encoders.weights import sha256_of

Read = list[str]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Names of the files whose content is hashed."""
    names: Read = []
    original = weights._sha256

    def counting(path: Path) -> str:
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(weights, "_sha256", counting)
    # As if the files had been written long ago; the time at which an inode changed can't be set back.
    monkeypatch.setattr(known_hashes, "RACY_S", -1e9)
    return names


def hashed(folder: Path, path: Path) -> str:
    with known_hashes.known_hashes(folder):
        return sha256_of(path)


def test_an_unchanged_file_is_read_once(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    found = [hashed(tmp_path / "models", path) for _ in range(3)]
    assert found == [sha256_of(path)] * 3  # the last one outside of the context: read again
    assert read == ["weights.bin"] * 2


def rewrite(path: Path) -> None:
    before = path.stat()

    def has_another_time() -> bool:
        path.write_bytes(b"two")
        return path.stat().st_mtime_ns != before.st_mtime_ns

    # The clock of the file system ticks every few milliseconds.
    wait_until(has_another_time, "another time of the file", every_s=0.002)


def replace_keeping_time(path: Path) -> None:
    """Another file of the same size and time in its place."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def rewrite_keeping_time(path: Path) -> None:
    """Other bytes in the same file, its time set back."""
    before = path.stat()

    def is_changed() -> bool:
        path.write_bytes(b"two")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return path.stat().st_ctime_ns != before.st_ctime_ns

    wait_until(is_changed, "another time of change", every_s=0.002)


def link_elsewhere(path: Path) -> None:
    """A link to another file, as the hub's cache has them."""
    other = path.with_name("blob")
    other.write_bytes(b"two")
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("change", [rewrite, replace_keeping_time, rewrite_keeping_time, link_elsewhere])
def test_a_file_that_changed_is_read_again(tmp_path: Path, read: Read, change: Any) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    before = hashed(tmp_path / "models", path)
    change(path)
    after = hashed(tmp_path / "models", path)
    assert after == weights._sha256(path) != before


def test_a_file_that_changed_a_moment_ago_is_not_kept(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_hashes, "RACY_S", 3600.0)
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    for _ in range(2):
        hashed(tmp_path / "models", path)
    assert read == ["weights.bin"] * 2
    assert not (tmp_path / "models" / KNOWN_FILE).exists()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "files": {}, "models": {}}',
        b'{"version": 1, "files": {"a": 3}, "models": {}}',
        b'{"version": 1, "files": {"a": [["x", 1, 1, 1, 1], "y"]}, "models": {}}',
        b'{"version": 1, "files": {}, "models": {"k": {"files": [3], "fingerprint": {}}}}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_file_of_hashes_does_no_harm(tmp_path: Path, read: Read, damage: bytes) -> None:
    path, models = tmp_path / "weights.bin", tmp_path / "models"
    path.write_bytes(b"one")
    models.mkdir()
    (models / KNOWN_FILE).write_bytes(damage)
    assert hashed(models, path) == weights._sha256(path)
    assert json.loads((models / KNOWN_FILE).read_text())["version"] == 1


def test_a_missing_file_is_named_as_before(tmp_path: Path, read: Read) -> None:
    with pytest.raises(CliploomError, match="can't be read: No such file"):
        hashed(tmp_path, tmp_path / "none")


def test_a_folder_that_can_not_be_written_to_is_left_alone(tmp_path: Path, read: Read) -> None:
    (tmp_path / "models").write_text("a file stands here")
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    assert hashed(tmp_path / "models", path) == weights._sha256(path)


def prepare(kind: str, values: dict[str, Any], models: Path) -> tuple[Path, Any]:
    chosen = registry.family(kind).Options.model_validate(values)
    return prepare_safely("mine", kind, chosen, models, None, Limits(), None, values)


def onnx(tmp_path: Path) -> tuple[str, dict[str, Any], Path]:
    path = linear_model(tmp_path / "source" / "m.onnx", [2, 3], ["n", 3, SIZE, SIZE])
    return "onnx", picture_options(path), tmp_path / "source"


def archive(tmp_path: Path) -> tuple[str, dict[str, Any], Path]:
    path = Path(shutil.copy(MODELS / "s3d.tar.gz", tmp_path / "source"))
    return "saved_model", s3d(path), tmp_path / "source"


def words(tmp_path: Path) -> tuple[str, dict[str, Any], Path]:
    path = tmp_path / "source" / "words.vec"
    path.write_text("2 3\ncat 1 0 0\ndog 0 1 0\n")
    return "word_vectors", {"model": str(path)}, tmp_path / "source"


@pytest.mark.parametrize("model", [onnx, archive, words])
def test_a_prepared_model_stays_in_use_when_its_files_are_gone(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    monkeypatch.setattr(tensorflow_reference, "has_tensorflow", lambda: False)
    monkeypatch.setattr("cliploom.transforms.encoders.pixel_family.PixelFamily.foreign_bytes", lambda *_: None)
    (tmp_path / "source").mkdir()
    kind, values, source = model(tmp_path)
    models = tmp_path / "models"
    folder, card = prepare(kind, values, models)
    read.clear()
    assert prepare(kind, values, models) == (folder, card)
    assert read == []
    source.rename(tmp_path / "elsewhere")
    again, noted = prepare(kind, values, models)
    assert (again, noted.digest) == (folder, card.digest)
    assert "its files are gone" in noted.note
    with pytest.raises(CliploomError):  # other options were never prepared
        prepare(kind, values | {"precision": "bf16"}, models)
    shutil.rmtree(folder)
    with pytest.raises(CliploomError, match="There is no"):
        prepare(kind, values, models)


def test_a_model_of_which_a_file_is_left_is_not_taken_for_gone(tmp_path: Path, read: Read) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    known = KnownHashes(tmp_path)
    known.fingerprint(
        "k", {"x": 1}, lambda: {each.name: known.get(each, "sha256", each.name.upper) for each in (first, second)}
    )
    assert known.of_vanished("k", {"x": 1}) is None
    first.unlink()
    assert known.of_vanished("k", {"x": 1}) is None
    second.unlink()
    assert known.of_vanished("k", {"x": 1}) == ({"a": "A", "b": "B"}, [str(first), str(second)])
    assert known.of_vanished("k", {"x": 2}) is None
    assert known.of_vanished("other", {"x": 1}) is None


def test_a_model_that_changed_is_prepared_again(tmp_path: Path, read: Read) -> None:
    (tmp_path / "source").mkdir()
    kind, values, _ = onnx(tmp_path)
    folder, _ = prepare(kind, values, tmp_path / "models")
    path = Path(values["model"])
    linear_model(path, [2, 3], [1, 3, SIZE, SIZE])
    other, _ = prepare(kind, values, tmp_path / "models")
    assert other != folder
