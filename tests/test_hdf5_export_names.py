"""HDF5 exports of a run: datasets by uid, escaped names on request, and uids that no HDF5 file can hold together."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.digests import digest_of
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.precomputed.listing import list_features
from cliploom.transforms.precomputed.read import read_features
from cliploom.transforms.upkeep.verifying import verify_release

SPEC = """\
version: 1
name: feats
store: ./store
sources:
  omni: {kind: precomputed, glob: "feats/*", window: {fps: 30, window: 32, stride: 16}, dim: 4}
features:
  clips: {source: omni}
exports:
  master: {kind: hdf5, feature: clips NAMES}
  single: {kind: hdf5, feature: clips, single: true NAMES}
limits: {max_deleted: 100%}
"""
READABLE, ESCAPED = SPEC.replace(" NAMES", ""), SPEC.replace(" NAMES", ", names: escaped")
UIDS = ("a/b", "a/c.mp4", "v1.5", "50%", "plain", "deep/er/d")


def rows(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=(6, 4)).astype(np.float32)


def write(folder: Path, *uids: str) -> None:
    (folder / "feats").mkdir(exist_ok=True)
    with h5py.File(folder / "feats" / "all.h5", "w") as file:
        for seed, uid in enumerate(uids):
            file[uid.replace("%", "%25")] = rows(seed)


def run(folder: Path, spec: str) -> RunResult:
    path = folder / "spec.yaml"
    path.write_text(spec)
    document = load_document(path)
    return run_spec(parse_document(document), document, folder, RunOptions(), lambda _: None)


def test_files_that_people_open_are_asked_by_uid_and_nothing_is_computed_again(tmp_path: Path) -> None:
    write(tmp_path, *UIDS)
    escaped = run(tmp_path, ESCAPED).release
    for name, single in (("master", False), ("single", True)):
        opened, *parts = escaped.exports[name].files
        # what it was before there was a choice
        recipe = digest_of([single, [part.path for part in parts]])
        assert opened.path == f"hdf5/{name}/{name}-{recipe}.h5"
        with h5py.File(tmp_path / "store" / opened.path) as file:
            assert sorted(file) == ["50%25", "a%2Fb", "a%2Fc%2Emp4", "deep%2Fer%2Fd", "plain", "v1%2E5"]
            assert file.attrs["format"] == 1

    readable = run(tmp_path, READABLE)
    assert readable.changed
    assert readable.counters.get("bytes_written", 0) == 0
    assert readable.release.features == escaped.features
    for name in ("master", "single"):
        opened, *parts = readable.release.exports[name].files
        assert parts == escaped.exports[name].files[1:]
        assert opened.path != escaped.exports[name].files[0].path
        with h5py.File(tmp_path / "store" / opened.path) as file:
            assert file["uids"].asstr()[()].tolist() == sorted(UIDS)
            for seed, uid in enumerate(UIDS):
                np.testing.assert_array_equal(file[uid][()], rows(seed))
            assert sorted(file["a"]) == ["b", "c.mp4"]
    assert not verify_release(str(tmp_path / "store"), None)
    assert not run(tmp_path, READABLE).changed


def test_our_own_files_are_read_as_features_again(tmp_path: Path) -> None:
    write(tmp_path, *UIDS)
    release = run(tmp_path, READABLE).release
    for name in ("master", "single"):
        items = {
            item.uid: item for item in list_features([tmp_path / "store" / release.exports[name].files[0].path]).items
        }
        assert sorted(items) == sorted(UIDS)
        for seed, uid in enumerate(UIDS):
            np.testing.assert_array_equal(read_features(items[uid]), rows(seed))


@pytest.mark.parametrize("kind", ["master", "single"])
def test_a_uid_that_is_a_folder_of_another_stops_the_plan(kind: str, tmp_path: Path) -> None:
    write(tmp_path, "x", "y")
    np.save(tmp_path / "feats" / "a.npy", rows(7))
    with h5py.File(tmp_path / "feats" / "more.h5", "w") as file:
        file["a/b"] = rows(8)
    other = "single" if kind == "master" else "master"
    spec = "".join(line for line in READABLE.splitlines(keepends=True) if f"  {other}:" not in line)
    with pytest.raises(SpecError, match=rf"exports\.{kind}: 'a' is the uid .* of the uid 'a/b'.*names: escaped"):
        run(tmp_path, spec)
    assert not list((tmp_path / "store").glob("features/**/*.parquet"))
    release = run(tmp_path, spec.replace("feature: clips", "feature: clips, names: escaped")).release
    with h5py.File(tmp_path / "store" / release.exports[kind].files[0].path) as file:
        assert {"a", "a%2Fb"} <= set(file)
