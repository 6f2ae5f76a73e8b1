"""The store's bytes on a local folder: creating only if absent, errors that a person can act on."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import python_without_override

from cliploom.schemas.digests import digest_bytes
from cliploom.schemas.errors import CliploomError, SpecError, StoreError
from cliploom.transforms.store.object_store import TEMPORARY, ObjectStore


def test_put_new_keeps_what_is_there(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    assert objects.put_new("a/b", b"first")
    assert not objects.put_new("a/b", b"second")
    assert objects.get("a/b") == b"first"


def test_put_replaces(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    objects.put("a", b"first")
    objects.put("a", b"second")
    assert objects.get("a") == b"second"


def test_created_file_appears_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    with objects.create_file("deep/er/part.parquet") as local:
        assert local.suffix == ".parquet"
        local.write_bytes(b"rows")
        assert objects.size("deep/er/part.parquet") is None
        assert not list(objects.list())
    assert objects.get("deep/er/part.parquet") == b"rows"
    assert [path.name for path in (tmp_path / "deep/er").iterdir()] == ["part.parquet"]


def test_created_file_loses_against_one_that_was_finished_first(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    with objects.create_file("part") as slow:
        with objects.create_file("part") as quick:
            quick.write_bytes(b"quick")
        slow.write_bytes(b"slow")
    assert objects.get("part") == b"quick"
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_created_file_is_dropped_when_its_block_fails(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    with pytest.raises(ZeroDivisionError), objects.create_file("part") as local:
        local.write_bytes(b"%d" % (1 // 0))
    assert objects.size("part") is None
    assert not list(tmp_path.iterdir())


def test_created_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with ObjectStore(tmp_path).create_file("part") as local:
            local.write_bytes(b"rows")
    finally:
        os.umask(before)
    assert (tmp_path / "part").stat().st_mode & 0o777 == 0o640


def test_listing_leaves_out_what_is_being_written(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    objects.put("a/one", b"1")
    objects.put("ab/two", b"22")
    (tmp_path / "a" / f"{TEMPORARY}x").write_bytes(b"half")
    assert sorted((entry.path, entry.size) for entry in objects.list()) == [("a/one", 1), ("ab/two", 2)]
    assert [entry.path for entry in objects.list("a")] == ["a/one"]
    assert list(objects.list("nowhere")) == []


def test_deleting_twice_is_no_error(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    objects.put("a", b"")
    objects.delete(["a", "a"])
    assert objects.size("a") is None


def test_size_digest_and_copy_agree_with_the_bytes(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path / "store")
    data = os.urandom(5_000_000)
    objects.put("big", data)
    assert objects.size("big") == len(data)
    assert objects.digest("big") == digest_bytes(data)
    with objects.local_copy("big") as local:
        assert local.read_bytes() == data
    objects.download("big", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize(
    "read", [ObjectStore.get, ObjectStore.digest, lambda objects, path: objects.local_copy(path).__enter__()]
)
def test_what_is_not_there_is_file_not_found(tmp_path: Path, read: Callable[[ObjectStore, str], object]) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        read(ObjectStore(tmp_path), "nothing")


def test_uri_is_absolute_whatever_way_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        ObjectStore("store").uri == ObjectStore(f"file://{tmp_path}/store").uri == ObjectStore(tmp_path / "store").uri
    )
    assert ObjectStore("s3://bucket/prefix/").uri == "s3://bucket/prefix"
    assert ObjectStore("s3://bucket/prefix").uri_of("a/b") == "s3://bucket/prefix/a/b"


def test_unknown_scheme_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"'ftp://host/x'.*use a folder, s3:// or gs://"):
        ObjectStore("ftp://host/x")


def test_objects_travel_to_workers(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    objects.put("a", b"1")
    assert pickle.loads(pickle.dumps(objects)).get("a") == b"1"


def test_bucket_keeps_the_rules_of_a_folder(tmp_path: Path) -> None:
    objects = ObjectStore("memory://")
    assert objects.root is None
    with objects.create_file("a/part") as local:
        local.write_bytes(b"rows")
    with objects.create_file("a/part") as local:
        local.write_bytes(b"other")
    assert not objects.put_new("a/part", b"third")
    with objects.local_copy("a/part") as copy:
        assert copy.read_bytes() == b"rows"
        assert copy.name == "part"
    assert not copy.exists()
    assert [entry.path for entry in objects.list("a")] == ["a/part"]
    objects.delete(["a/part", "a/part"])
    assert objects.size("a/part") is None


@pytest.mark.parametrize(
    "use",
    [
        lambda objects: objects.put("a", b""),
        lambda objects: list(objects.list()),
        lambda objects: objects.size("a"),
        lambda objects: objects.create_file("a/b").__enter__(),
    ],
)
def test_a_file_where_the_store_should_be_is_one_sentence(tmp_path: Path, use: Callable[[ObjectStore], object]) -> None:
    (tmp_path / "store").write_text("hello")
    with pytest.raises(CliploomError, match=r"store: a file exists where the store needs a folder; move it"):
        use(ObjectStore(tmp_path / "store"))


def test_a_file_inside_the_path_of_the_store_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    with pytest.raises(StoreError, match="a file exists where the store needs a folder"):
        ObjectStore(tmp_path / "file" / "store").put("a", b"")


def test_missing_rights_are_one_sentence(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    objects.put("a/secret", b"1")
    (tmp_path / "a" / "secret").chmod(0o000)
    for folder in (tmp_path / "a", tmp_path):
        folder.chmod(0o500)
    code = (
        "import sys\n"
        "from cliploom.schemas.errors import StoreError\n"
        "from cliploom.transforms.store.object_store import ObjectStore\n"
        "objects = ObjectStore(sys.argv[1])\n"
        "uses = [\n"
        "    lambda: objects.put('a/b', b''),\n"
        "    lambda: objects.put_new('a/b', b''),\n"
        "    lambda: objects.get('a/secret'),\n"
        "    lambda: objects.delete(['a/secret']),\n"
        "    lambda: objects.create_file('a/c').__enter__(),\n"
        "    lambda: ObjectStore(objects.root / 'new').put('a', b''),\n"
        "]\n"
        "for use in uses:\n"
        "    try:\n"
        "        use()\n"
        "    except StoreError as error:\n"
        "        print(error)\n"
    )
    ended = python_without_override("-c", code, tmp_path)
    for folder in (tmp_path, tmp_path / "a"):
        folder.chmod(0o700)
    assert (ended.code, ended.err) == (0, "")
    said = ended.out.splitlines()
    assert len(said) == 6
    assert all(
        re.fullmatch(rf"{tmp_path}\S*: no permission; check the rights of this user on the store\.", line)
        for line in said
    )
