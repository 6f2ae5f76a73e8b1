"""``cliploom inspect`` on every kind of file, and on what is none."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from stores import SmallStore
from typer.testing import CliRunner

from cliploom.pipelines.cli.inspecting import inspect, inspect_text
from cliploom.pipelines.cli.main import app
from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.tfrecords import Yt8mFrames
from cliploom.transforms.tfrecords.framing import write_records
from cliploom.transforms.tfrecords.write import encode_example, encode_frames


def test_a_tfrecord_shows_its_features_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "any.name"
    with path.open("wb") as stream:
        payloads = [encode_frames(Yt8mFrames("first", (7,), np.zeros((3, 4), np.uint8))), encode_example({"v": b"x"})]
        write_records(stream, payloads, gzip=True)
    found = inspect(str(path))
    assert found["kind"] == "tfrecord"
    assert found["compression"] == "gzip"
    text = inspect_text(json.loads(json.dumps(found)))
    assert "2 records (1 SequenceExample, 1 Example" in text
    assert "frames rgb: bytes[3 frames][1] of 4 bytes" in text


def test_a_store_shows_its_release(built_store: SmallStore) -> None:
    text = inspect_text(inspect(str(built_store.store)))
    assert "store, release 1 of 1" in text
    assert "feature frames of clips by efficientnet_lite0" in text
    assert "pooled [1280], semantic [384]" in text
    assert "export frames_h5: hdf5" in text


def test_a_part_shows_its_footer_columns_and_first_rows(built_store: SmallStore) -> None:
    part = next(built_store.store.glob("features/frames/*/part-*.parquet"))
    found = inspect(str(part))
    assert found["part"]["feature"] == "frames"
    assert found["columns"]["semantic"] == "list<element: float>"
    assert found["first"][0]["semantic"][-1] == "..."
    assert "part of feature frames" in inspect_text(found)


def test_any_parquet_file_shows_its_columns(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1, 2]}).write_parquet(tmp_path / "plain")
    found = inspect(str(tmp_path / "plain"))
    assert (found["rows"], found["columns"], found["first"]) == (2, {"a": "int64"}, [{"a": 1}, {"a": 2}])
    assert "2 rows" in inspect_text(found)


def test_an_hdf5_file_shows_its_arrays_also_behind_links(built_store: SmallStore, tmp_path: Path) -> None:
    master = next(built_store.store.glob("hdf5/frames_h5/master-*.h5"))
    text = inspect_text(inspect(str(master), limit=2))
    assert "float32[" in text
    assert "more" in text
    with h5py.File(tmp_path / "broken.h5", "w") as file:
        file["gone"] = h5py.ExternalLink("nowhere.h5", "/x")
    assert "gone: links to a file that is not there" in inspect_text(inspect(str(tmp_path / "broken.h5")))


def test_what_is_nothing_known_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("neither of these kinds of files, though long enough")
    (tmp_path / "half.parquet").write_bytes(b"PAR1....")
    with pytest.raises(SpecError, match="no TFRecord, Parquet or HDF5"):
        inspect(str(tmp_path / "text"))
    with pytest.raises(SpecError, match="no file or store"):
        inspect(str(tmp_path / "none"))
    with pytest.raises(StoreError, match="damaged Parquet"):
        inspect(str(tmp_path / "half.parquet"))
    with pytest.raises(StoreError, match="no store with a release"):
        inspect(str(tmp_path))


def test_the_command_prints_json(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "plain")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "plain"), "--json"])
    assert json.loads(done.stdout)["rows"] == 1
