"""Releases: appended to the version that the plan used, by one of two runs; one run at a time in a folder."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cliploom.schemas.errors import StoreError
from cliploom.schemas.release import STORE_FORMAT, FeatureEntry, FileEntry, Release
from cliploom.transforms.store.lock import store_lock
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import append_release, keep_releases, read_releases

ROOT = Path(__file__).resolve().parent.parent


def release(number: int, **values: object) -> Release:
    plain = {
        "release": number,
        "run": f"run-{number}",
        "created_at": datetime.now(UTC),
        "program": "1",
        "spec": {"version": 1},
    }
    return Release.model_validate(plain | {"tables": {"items": number}} | values)


def test_new_store_has_none(tmp_path: Path) -> None:
    found = read_releases(ObjectStore(tmp_path / "store"))
    assert (found.version, found.rows, found.latest) == (-1, (), None)
    assert not (tmp_path / "store").exists()
    with pytest.raises(StoreError, match="no release yet; `cliploom run SPEC` makes the first one"):
        found.get(None)


def test_releases_come_back_whole_in_their_order(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    entry = FeatureEntry(
        source="s",
        encoder="e",
        config="c",
        table="t",
        version=3,
        rows=4,
        parts=1,
        size=5,
        model="m",
        outputs={},
        recipe={},
    )
    first, second = release(1, features={"f": entry}, note="d\u00e9j\u00e0 vu"), release(2)
    append_release(objects, first, -1)
    append_release(objects, second, read_releases(objects).version)
    found = read_releases(objects)
    assert found.rows == (first, second)
    assert found.get(None) == second
    assert found.get(1) == first
    with pytest.raises(StoreError, match="no release 3; the store has 1 to 2"):
        found.get(3)


def test_of_two_runs_that_saw_the_same_one_wins(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    append_release(objects, release(1), -1)
    seen = read_releases(objects).version
    append_release(objects, release(2, run="winner"), seen)
    with pytest.raises(StoreError, match="another run published a release"):
        append_release(objects, release(2, run="loser"), seen)
    with pytest.raises(StoreError, match="another run published a release"):
        append_release(objects, release(1, run="late"), -1)
    assert [found.run for found in read_releases(objects).rows] == ["run-1", "winner"]


def test_old_releases_can_be_dropped(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    append_release(objects, release(1), -1)
    append_release(objects, release(2), read_releases(objects).version)
    keep_releases(objects, [release(2)], read_releases(objects).version)
    assert [found.release for found in read_releases(objects).rows] == [2]


def test_newer_format_is_refused(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    append_release(objects, release(1, format=STORE_FORMAT + 1), -1)
    with pytest.raises(StoreError, match=rf"has format {STORE_FORMAT + 1}, this program knows {STORE_FORMAT}.*upgrade"):
        read_releases(objects)


def test_keys_of_newer_programs_are_ignored() -> None:
    plain = release(1).model_dump(mode="json") | {"colour": "blue"}
    assert Release.model_validate(plain) == Release.model_validate(release(1, created_at=plain["created_at"]))


def test_file_entries_say_path_size_and_digest() -> None:
    assert FileEntry(path="a", size=1, digest="d").model_dump() == {"path": "a", "size": 1, "digest": "d"}


def test_second_run_is_reported_who_has_the_store(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from cliploom.transforms.store.lock import store_lock\n"
        "from cliploom.transforms.store.object_store import ObjectStore\n"
        "with store_lock(ObjectStore(sys.argv[1]), 'cliploom run x.yaml'):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(StoreError, match=rf"in use by `cliploom run x.yaml` \(process {other.pid} of .*wait until"),
            store_lock(ObjectStore(tmp_path), "cliploom plan"),
        ):
            pass
        other.kill()
        other.wait()
        with store_lock(ObjectStore(tmp_path), "cliploom plan"):
            pass


def test_lock_without_a_note_still_refuses(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    with store_lock(objects, "a"):
        (tmp_path / "lock").write_text("")
        with pytest.raises(StoreError, match="in use by another process"), store_lock(objects, "b"):
            pass


def test_buckets_have_no_lock() -> None:
    objects = ObjectStore("memory://")
    with store_lock(objects, "a"), store_lock(objects, "b"):
        pass
