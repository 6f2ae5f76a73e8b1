"""A damaged HDF5 file of features is one failure; its known items keep their rows until it is repaired."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest

from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table

SPEC = """\
version: 1
name: feats
store: ./store
sources:
  omni: {kind: precomputed, glob: "feats/*", window: {fps: 30, window: 32, stride: 16}, dim: 4}
features:
  clips: {source: omni}
"""


def rows(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=(6, 4)).astype(np.float32)


@dataclass(frozen=True)
class Project:
    folder: Path

    def write(self, name: str, **datasets: int) -> None:
        (self.folder / "feats").mkdir(exist_ok=True)
        with h5py.File(self.folder / "feats" / name, "w") as file:
            for uid, seed in datasets.items():
                file[uid] = rows(seed)

    def damage(self, name: str) -> None:
        path = self.folder / "feats" / name
        path.write_bytes(path.read_bytes()[:100] if path.exists() else b"not HDF5")

    def run(self, spec: str = SPEC) -> RunResult:
        path = self.folder / "spec.yaml"
        path.write_text(spec)
        document = load_document(path)
        return run_spec(parse_document(document), document, self.folder, RunOptions(), lambda _: None)

    def table(self, name: str) -> pl.DataFrame:
        objects = ObjectStore(str(self.folder / "store"))
        release = read_releases(objects).get(None)
        if name in release.features:
            return read_table(objects, release.features[name].table, release.features[name].version)
        return read_table(objects, name, release.tables[name])


def test_a_damaged_file_is_one_failure_and_its_items_stay(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("one.h5", a=1, b=2, c=3)
    project.write("two.h5", **{f"d{number}": number for number in range(12)})
    project.run()
    before = project.table("clips")
    assert before["uid"].n_unique() == 15

    project.damage("one.h5")
    project.write("new.h5", e=7)
    project.run()
    failures = project.table("failures")
    assert failures.select("source", "uid", "stage", "transient").rows() == [("omni", "one.h5", "list", False)]
    assert "can't be read as HDF5" in failures["message"][0]
    after = project.table("clips")
    assert after.filter(pl.col("uid") != "e").equals(before)

    assert not project.run().changed

    project.write("one.h5", a=1, b=8)
    project.run()
    assert project.table("failures").is_empty()
    repaired = project.table("clips")
    assert set(before["uid"]) - set(repaired["uid"]) == {"c"}
    assert repaired.filter(pl.col("uid") == "a").equals(before.filter(pl.col("uid") == "a"))
    (output,) = (name for name in repaired.columns if repaired[name].dtype == pl.List)
    assert repaired.filter(pl.col("uid") == "b")[output].to_list() == rows(8).tolist()


def test_a_damaged_file_in_the_first_run_is_one_failure(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("good.h5", **{f"d{number}": number for number in range(12)})
    project.damage("bad.h5")
    project.run()
    assert project.table("failures")["uid"].to_list() == ["bad.h5"]
    assert project.table("clips")["uid"].n_unique() == 12


def test_a_group_that_no_file_has_is_an_error_of_the_spec(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("good.h5", a=1)
    with pytest.raises(SpecError, match="has no group 'rgb'"):
        project.run(SPEC.replace("dim: 4", "dim: 4, group: rgb"))


def test_what_points_elsewhere_fails_alone_and_is_not_copied(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("good.h5", **{f"d{number}": number for number in range(12)})
    secret = tmp_path / "secret.bin"
    secret.write_bytes(rows(99).tobytes())
    with h5py.File(tmp_path / "feats" / "evil.h5", "w") as file:
        file.create_dataset("stolen", (6, 4), "<f4", external=[(str(secret), 0, 96)])
    project.run()
    failures = project.table("failures")
    assert failures["uid"].to_list() == ["stolen"]
    assert "external storage" in failures["message"][0]
    assert not any(rows(99).tobytes()[:16] in path.read_bytes() for path in (tmp_path / "store").rglob("*.parquet"))


def test_a_run_over_hostile_files_ends_with_a_failure_each(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("good.h5", **{f"d{number}": number for number in range(12)})
    feats = tmp_path / "feats"
    text = b"{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000000, 4), }\n"
    (feats / "void.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    (feats / "empty.npy").write_bytes(b"")
    (feats / "cut.pt").write_bytes(b"PK\x03\x04")
    np.save(feats / "overflow.npy", rows(1).astype(np.float64) * 1e200)
    with h5py.File(feats / "odd.h5", "w") as file:
        file.create_dataset("unwritten", (10**15, 4), "<f4", chunks=(1024, 4))
        file["link"] = h5py.ExternalLink("/etc/hostname", "/v")
        file["numbers"] = np.ones((3, 4), np.int64)
    project.run(SPEC + "limits: {max_failed: 100%}\n")
    failures = dict(project.table("failures").select("uid", "message").iter_rows())
    assert sorted(failures) == sorted(["void", "empty", "cut", "overflow", "unwritten", "link", "numbers"])
    assert "plain numbers" in failures["void"]
    assert "beyond float32" in failures["overflow"]
    assert "holds int64 values" in failures["numbers"]
    assert sorted(project.table("clips")["uid"].unique()) == sorted(f"d{number}" for number in range(12))
