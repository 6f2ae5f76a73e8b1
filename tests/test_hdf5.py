"""HDF5 parts, masters and single files; names, bytes, and parts that are gone."""

from __future__ import annotations

import resource
from contextlib import contextmanager

import h5py
import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cliploom.schemas.errors import StoreError
from cliploom.transforms.store.hdf5 import (
    ItemVectors,
    read_uid,
    read_uids,
    write_hdf5_part,
    write_master,
    write_single,
)
from cliploom.transforms.store.hdf5_names import escape, folder_clash, readable, unescape, unreadable

ANY_TEXT = st.text(st.characters(exclude_categories=()), min_size=1)


def item(uid, rows=3, outputs=("pooled",), seed=0):
    rng = np.random.default_rng([seed, rows, len(uid)])
    vectors = {name: rng.normal(size=(rows, 4 + at)).astype(np.float32) for at, name in enumerate(outputs)}
    return ItemVectors(uid, 1.875, 0.5, "lite0", "ab" * 20, vectors)


def assert_same(found, right, outputs=("pooled",)):
    assert (found.uid, found.fps, found.start, found.encoder, found.digest) == (
        right.uid,
        right.fps,
        right.start,
        right.encoder,
        right.digest,
    )
    assert list(found.outputs) == list(outputs)
    for name in outputs:
        assert found.outputs[name].dtype == np.float32
        assert np.array_equal(found.outputs[name], right.outputs[name])


@given(ANY_TEXT)
@example("\x00/.%")
@example("\ud83d\ude00 😀")
def test_escaping_is_undone_and_leaves_nothing_that_hdf5_reads(uid):
    name = escape(uid)
    assert unescape(name) == uid
    assert not set(name) & set("/.\x00")
    name.encode("utf-8")


@given(ANY_TEXT, ANY_TEXT)
def test_different_uids_have_different_names(one, other):
    assert (escape(one) == escape(other)) == (one == other)


def test_escaped_names_are_percent_codes():
    assert escape("a/b.mp4") == "a%2Fb%2Emp4"
    assert escape("100%\x00") == "100%25%00"
    assert escape("\udcff") == "%ED%B3%BF"
    assert escape("Füße 猫") == "Füße 猫"
    assert unescape("a%2fb") == "a/b"


@pytest.mark.parametrize("name", ["", "%", "a%2", "a/b", "a.b", "%zz", "%FF"])
def test_names_that_no_uid_has_are_refused(name):
    with pytest.raises(ValueError, match="is not an escaped uid"):
        unescape(name)


def test_an_empty_uid_is_refused():
    with pytest.raises(ValueError, match="empty uid"):
        escape("")


def test_a_part_is_plain_hdf5_with_a_dataset_a_uid(tmp_path):
    path = tmp_path / "part.h5"
    right = item("dir/clip.1")
    assert write_hdf5_part(path, iter([right]), ("pooled",)) == 1
    with h5py.File(path) as file:
        dataset = file["dir%2Fclip%2E1"]
        assert list(file) == ["dir%2Fclip%2E1"]
        assert dataset.dtype == np.float32
        assert np.array_equal(dataset[1:3], right.outputs["pooled"][1:3])
        assert dict(dataset.attrs) == {"fps": 1.875, "start": 0.5, "encoder": b"lite0", "digest": b"ab" * 20}
        assert dataset.chunks is None
    assert_same(read_uid(path, "dir/clip.1"), right)


def test_several_outputs_have_a_group_each(tmp_path):
    path = tmp_path / "part.h5"
    outputs = ("pooled", "semantic")
    items = [item("b", 2, outputs), item("a", 5, outputs)]
    write_hdf5_part(path, items, outputs)
    with h5py.File(path) as file:
        assert {name: sorted(file[name]) for name in file} == {"pooled": ["a", "b"], "semantic": ["a", "b"]}
    assert read_uids(path) == ["a", "b"]
    for right in items:
        assert_same(read_uid(path, right.uid), right, outputs)


@settings(max_examples=25, deadline=None)
@given(
    uids=st.lists(ANY_TEXT, unique=True, max_size=8),
    rows=st.integers(0, 4),
    outputs=st.sampled_from([("x",), ("x", "y")]),
)
def test_whatever_is_written_is_read_from_part_master_and_single(uids, rows, outputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("h5")
    items = [item(uid, rows, outputs) for uid in uids]
    half = len(items) // 2
    write_hdf5_part(folder / "one.h5", items[:half], outputs)
    write_hdf5_part(folder / "two.h5", items[half:], outputs)
    parts = {right.uid: "one.h5" if at < half else "two.h5" for at, right in enumerate(items)}
    write_master(folder / "master.h5", parts, outputs)
    write_single(folder / "single.h5", {uid: folder / part for uid, part in parts.items()}, outputs)
    for name in ("master.h5", "single.h5"):
        assert read_uids(folder / name) == sorted(uids)
        for right in items:
            assert_same(read_uid(folder / name, right.uid), right, outputs)


@pytest.mark.parametrize("outputs", [("pooled",), ("pooled", "semantic")])
def test_the_same_items_give_the_same_bytes_and_no_times_are_stored(outputs, tmp_path):
    for folder, backwards in ((tmp_path / "a", False), (tmp_path / "b", True)):
        folder.mkdir()
        write_hdf5_part(folder / "p.h5", [item(f"clip{n}", n % 5, outputs) for n in range(300)], outputs)
        uids = sorted((f"clip{n}" for n in range(300)), reverse=backwards)
        write_master(folder / "m.h5", dict.fromkeys(uids, "p.h5"), outputs)
        write_single(folder / "s.h5", dict.fromkeys(uids, folder / "p.h5"), outputs)
    for name in ("p.h5", "m.h5", "s.h5"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        with h5py.File(tmp_path / "a" / name) as file:
            found = ["/"]
            file.visit(found.append)
            assert {h5py.h5g.get_objinfo(file.id, at.encode()).mtime for at in found} == {0}


def test_a_master_works_wherever_the_folder_is_moved_and_from_any_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here" / "parts").mkdir(parents=True)
    right = item("a")
    write_hdf5_part(tmp_path / "here" / "parts" / "p.h5", [right], ("pooled",))
    write_master(tmp_path / "here" / "m.h5", {"a": "parts/p.h5"}, ("pooled",))
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir("/")
    assert_same(read_uid(tmp_path / "there" / "m.h5", "a"), right)
    with h5py.File(tmp_path / "there" / "m.h5") as file:
        assert np.array_equal(file["a"][()], right.outputs["pooled"])


def test_a_missing_part_is_an_error_and_never_zeros(tmp_path):
    write_hdf5_part(tmp_path / "p.h5", [item("a"), item("b")], ("pooled",))
    write_master(tmp_path / "m.h5", {"a": "p.h5", "b": "p.h5"}, ("pooled",))
    (tmp_path / "p.h5").unlink()
    with pytest.raises(StoreError, match=r"m\.h5 links 'a' to .*p\.h5, which is missing or damaged"):
        read_uid(tmp_path / "m.h5", "a")
    assert read_uids(tmp_path / "m.h5") == ["a", "b"]
    with h5py.File(tmp_path / "m.h5") as file, pytest.raises(KeyError):
        file["a"]


def test_a_part_without_the_uid_is_an_error(tmp_path):
    write_hdf5_part(tmp_path / "p.h5", [item("a")], ("pooled",))
    write_master(tmp_path / "m.h5", {"b": "p.h5"}, ("pooled",))
    with pytest.raises(StoreError, match=r"links 'b' to .*p\.h5"):
        read_uid(tmp_path / "m.h5", "b")
    with pytest.raises(StoreError, match=r"p\.h5 has no uid 'b'"):
        read_uid(tmp_path / "p.h5", "b")
    with pytest.raises(StoreError, match=r"p\.h5 has no uid 'b'"):
        write_single(tmp_path / "s.h5", {"b": tmp_path / "p.h5"}, ("pooled",))
    with pytest.raises(StoreError, match=r"gone\.h5 is missing, damaged"):
        write_single(tmp_path / "s.h5", {"b": tmp_path / "gone.h5"}, ("pooled",))


def test_a_single_file_stands_alone(tmp_path):
    right = item("a")
    write_hdf5_part(tmp_path / "p.h5", [right], ("pooled",))
    write_single(tmp_path / "s.h5", {"a": tmp_path / "p.h5"}, ("pooled",))
    (tmp_path / "p.h5").unlink()
    assert_same(read_uid(tmp_path / "s.h5", "a"), right)


def test_an_item_without_rows_is_kept(tmp_path):
    write_hdf5_part(tmp_path / "p.h5", [item("a", 0)], ("pooled",))
    assert read_uid(tmp_path / "p.h5", "a").outputs["pooled"].shape == (0, 4)


def test_wrong_items_are_refused_by_name(tmp_path):
    path = tmp_path / "p.h5"
    with pytest.raises(ValueError, match="uid 'a' comes twice"):
        write_hdf5_part(path, [item("a"), item("a")], ("pooled",))
    with pytest.raises(ValueError, match="'a' has no output 'semantic', only pooled"):
        write_hdf5_part(path, [item("a")], ("semantic",))
    wide = ItemVectors("a", 1, 0, "e", "d", {"pooled": np.zeros((2, 3))})
    with pytest.raises(ValueError, match=r"'pooled' of 'a' is float64 \(2, 3\)"):
        write_hdf5_part(path, [wide], ("pooled",))
    with pytest.raises(ValueError, match="no output"):
        write_hdf5_part(path, [], ())
    with pytest.raises(ValueError, match=r"/x/p\.h5 is an absolute path"):
        write_master(path, {"a": "/x/p.h5"}, ("pooled",))


def test_damaged_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "p.h5"
    write_hdf5_part(path, [item(f"clip{n}") for n in range(50)], ("pooled",))
    whole = path.read_bytes()
    for size in (0, 10, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(StoreError, match=r"p\.h5 is missing, damaged"):
            read_uid(path, "clip7")
    with h5py.File(path, "w") as file:
        file["a"] = [1.0]
    single = tmp_path / "s.h5"
    for read in (
        lambda: read_uids(path),
        lambda: read_uid(path, "a"),
        lambda: write_single(single, {"a": path}, ("x", "y")),
    ):
        with pytest.raises(StoreError, match=r"p\.h5 is missing, damaged, or not written by cliploom"):
            read()


def test_flipped_bytes_are_an_error_or_other_numbers_but_never_a_crash(tmp_path):
    path = tmp_path / "p.h5"
    write_hdf5_part(path, [item("clip")], ("pooled",))
    whole = path.read_bytes()
    assert len(whole) < 3000
    refused = 0
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x81]) + whole[at + 1 :])
        try:
            read_uid(path, "clip")
        except StoreError:
            refused += 1
    assert refused > 50


def test_files_of_a_newer_program_are_refused(tmp_path):
    path = tmp_path / "p.h5"
    write_hdf5_part(path, [item("a")], ("pooled",))
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = 3
    with pytest.raises(StoreError, match="has format 3; this program reads up to 2"):
        read_uid(path, "a")


@given(ANY_TEXT)
@example("a//b")
@example("/a/")
@example("././.")
@example("uids")
@example("uids/x")
@example("a%2Fb")
@example("%/")
@example("%2%2F")
def test_readable_paths_are_undone_and_can_be_named(uid):
    path = readable(uid)
    assert unreadable(path) == uid
    assert all(piece not in ("", ".") for piece in path.split("/"))
    assert "\0" not in path
    assert path.split("/")[0] != "uids"
    path.encode("utf-8")


@given(st.text("ab/.%2Fuids", min_size=1), st.text("ab/.%2Fuids", min_size=1))
def test_different_uids_have_different_readable_paths(one, other):
    assert (readable(one) == readable(other)) == (one == other)


@pytest.mark.parametrize("uid", ["a/b", "v1.5", "50%", "100% of a/b.mp4", "..", "a/../b", "a b", "Füße/猫", "my/uids"])
def test_readable_paths_are_the_uids_themselves(uid):
    assert readable(uid) == uid


@pytest.mark.parametrize(
    ("uid", "path"),
    [
        ("/a", "%2Fa"),
        ("//a", "%2F%2Fa"),
        ("a/", "a%2F"),
        ("a//b", "a%2F%2Fb"),
        (".", "%2E"),
        ("a/./b", "a/%2E/b"),
        ("a%2Fb", "a%252Fb"),
        ("uids/b", "%75ids/b"),
    ],
)
def test_what_hdf5_can_not_name_is_escaped(uid, path):
    assert readable(uid) == path


@pytest.mark.parametrize("path", ["", "a//b", "a%2Fb/.", "uids", "%61", "%FF"])
def test_paths_that_no_uid_has_are_refused(path):
    with pytest.raises(ValueError, match="is not the path of a uid"):
        unreadable(path)


@given(st.lists(st.text("ab/!.", min_size=1, max_size=6), unique=True, max_size=12))
def test_a_uid_that_is_a_folder_of_another_is_found(uids):
    paths = sorted(map(readable, uids))
    wanted = {(one, other) for one in paths for other in paths if other.startswith(f"{one}/")}
    found = folder_clash(pl.Series(uids, dtype=pl.String))
    assert (found is None) == (not wanted)
    assert found is None or found in wanted


NAMED = ["a/b", "v1.5", "x/y/z.mp4", "x/y2", "50%", "/lead", "dot/./s", "uids", "uids/2", "Füße"]


@pytest.mark.parametrize("outputs", [("pooled",), ("pooled", "v1.5/uids")])
@pytest.mark.parametrize("kind", ["master", "single"])
def test_readable_files_are_asked_by_uid_and_list_them(outputs, kind, tmp_path):
    uids = [uid for uid in NAMED if uid != "uids"]
    items = {uid: item(uid, at, outputs) for at, uid in enumerate(uids)}
    (tmp_path / "parts").mkdir()
    write_hdf5_part(tmp_path / "parts" / "p.h5", items.values(), outputs)
    path = tmp_path / f"{kind}.h5"
    if kind == "master":
        write_master(path, dict.fromkeys(uids, "parts/p.h5"), outputs, is_readable=True)
    else:
        write_single(path, dict.fromkeys(uids, tmp_path / "parts" / "p.h5"), outputs, is_readable=True)
    with h5py.File(path) as file:
        listed = file["uids"].asstr()[()].tolist()
        assert listed == sorted(uids)
        group = file if len(outputs) == 1 else file["pooled"]
        for uid in listed:
            if readable(uid) == uid:
                assert np.array_equal(group[uid][()], items[uid].outputs["pooled"])
        assert np.array_equal(group["x"]["y"]["z.mp4"][()], items["x/y/z.mp4"].outputs["pooled"])
    assert read_uids(path) == sorted(uids)
    for uid, right in items.items():
        assert_same(read_uid(path, uid), right, outputs)
    for absent in ("x", "x/y", "a", "b", "a/b/c"):
        with pytest.raises(StoreError):
            read_uid(path, absent)


def test_readable_files_of_the_same_items_have_the_same_bytes(tmp_path):
    uids = [f"{n % 7}/{n % 3}/clip{n}.mp4" for n in range(300)]
    for folder, order in ((tmp_path / "a", uids), (tmp_path / "b", uids[::-1])):
        folder.mkdir()
        write_hdf5_part(folder / "p.h5", [item(uid) for uid in uids], ("pooled",))
        write_master(folder / "m.h5", dict.fromkeys(order, "p.h5"), ("pooled",), is_readable=True)
        write_single(folder / "s.h5", dict.fromkeys(order, folder / "p.h5"), ("pooled",), is_readable=True)
    for name in ("m.h5", "s.h5"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        with h5py.File(tmp_path / "a" / name) as file:
            found = ["/"]
            file.visit(found.append)
            assert {h5py.h5g.get_objinfo(file.id, at.encode()).mtime for at in found} == {0}


def test_a_list_of_other_uids_is_damage(tmp_path):
    write_hdf5_part(tmp_path / "p.h5", [item("a"), item("b")], ("pooled",))
    write_single(tmp_path / "s.h5", dict.fromkeys("ab", tmp_path / "p.h5"), ("pooled",), is_readable=True)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        del file["b"]
    with pytest.raises(StoreError, match="lists others than it has"):
        read_uids(tmp_path / "s.h5")


def test_a_missing_part_of_a_readable_master_is_named(tmp_path):
    write_hdf5_part(tmp_path / "p.h5", [item("a/b")], ("pooled",))
    write_master(tmp_path / "m.h5", {"a/b": "p.h5"}, ("pooled",), is_readable=True)
    (tmp_path / "p.h5").unlink()
    with pytest.raises(StoreError, match=r"m\.h5 links 'a/b' to .*p\.h5, which is missing or damaged"):
        read_uid(tmp_path / "m.h5", "a/b")
    assert read_uids(tmp_path / "m.h5") == ["a/b"]


@contextmanager
def largest_file(size):
    """No file of this process grows beyond ``size`` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_finds_no_room_is_an_error_wherever_the_room_ends(tmp_path):
    items = [item(f"clip/{number}", rows=40, seed=number) for number in range(12)]
    part = tmp_path / "p.h5"
    write_hdf5_part(part, items, ("pooled",))
    parts = {each.uid: part for each in items}
    names = dict.fromkeys(parts, "p.h5")
    writers = {
        "part": lambda path: write_hdf5_part(path, items, ("pooled",)),
        "single": lambda path: write_single(path, parts, ("pooled",), is_readable=True),
        "master": lambda path: write_master(path, names, ("pooled",), is_readable=True),
    }
    for kind, write in writers.items():
        whole = tmp_path / kind
        write(whole)
        size = whole.stat().st_size
        for room in sorted({*range(0, size, size // 9), size - 1}):
            with largest_file(room), pytest.raises(OSError, match="File too large"):
                write(tmp_path / "small.h5")
        with largest_file(size):
            write(tmp_path / "small.h5")
        assert (tmp_path / "small.h5").read_bytes() == whole.read_bytes()
