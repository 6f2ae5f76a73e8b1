"""Whole runs over tiny real files: from a spec to a release that other programs read, and what interrupts them."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import onnx
import polars as pl
import pytest
from media_factory import picture, write_image, write_video
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec_file import load_document, load_spec
from cliploom.transforms.encoders.runtime import can_compute_in
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table, table_files

ROOT = Path(__file__).resolve().parent.parent.parent
SPEC = """\
version: 1
name: tiny
store: ./store
sources:
  clips: {kind: media, glob: "media/*"}
encoders:
  light: &light
    kind: onnx
    model: MODEL
    input: {layout: nchw, width: 16, height: 16, fit: squash, scale: 255}
    outputs: {colour: {node: y}}
  other: {<<: *light, input: {layout: nchw, width: 16, height: 16, fit: squash, scale: 128}}
features:
  frames: {source: clips, sample: {every: 200ms}, encoder: light}
indexes:
  frames: {feature: frames}
exports:
  h5: {kind: hdf5, feature: frames}
targets: {local: {workers: 2}}
limits: {max_failed: 50%}
"""


def write_encoder(path: Path) -> Path:
    """An ONNX file: the logarithm of the mean colour, which is no number for a black picture."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Sub", ["mean", "floor"], ["above"]),
        helper.make_node("Log", ["above"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "light",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32(0.05), "floor")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def black(index: int, width: int, height: int) -> NDArray[np.uint8]:
    return np.zeros((height, width, 3), np.uint8)


@dataclass(frozen=True)
class Project:
    """A folder with a spec, an encoder and media."""

    folder: Path

    @property
    def spec(self) -> Path:
        return self.folder / "cliploom.yaml"

    @property
    def store(self) -> ObjectStore:
        return ObjectStore(self.folder / "store")

    def run(self, overrides: Sequence[str] = (), **options: Any) -> RunResult:
        """``cliploom run`` in this process."""
        document = load_document(self.spec, overrides)
        return run_spec(
            load_spec(self.spec, overrides), document, self.folder, RunOptions(**options), lambda text: None
        )

    def command(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start ``cliploom``."""
        return subprocess.Popen(
            [sys.executable, "-m", "cliploom", *map(str, arguments)],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def write_project(folder: Path) -> Project:
    """Three clips of one second and a picture."""
    (folder / "media").mkdir(parents=True)
    for name in ("a", "b", "c"):
        write_video(folder / "media" / f"{name}.mp4", 25, draw=lambda i, w, h, n=name: picture(i + ord(n), w, h))
    write_image(folder / "media" / "still.png")
    model = write_encoder(folder / "light.onnx")
    (folder / "cliploom.yaml").write_text(SPEC.replace("MODEL", str(model)))
    return Project(folder)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project without a store."""
    return write_project(tmp_path / "new")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, RunResult, Path]:
    """A project, what its first run gave, and a copy to put back; items are known by their absolute paths."""
    project = write_project(tmp_path_factory.mktemp("first") / "project")
    result = project.run()
    kept = project.folder.with_name("kept")
    shutil.copytree(project.folder, kept)
    return project, result, kept


@pytest.fixture
def second(first: tuple[Project, RunResult, Path]) -> tuple[Project, RunResult]:
    """The project after its first run, to go on from, and that run's result."""
    project, result, kept = first
    shutil.rmtree(project.folder)
    shutil.copytree(kept, project.folder)
    return project, result


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> size and time of all files but the plans, probes and notes of runs."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in ("plans", "probes", "runs", "lock")
    }


def test_first_run_publishes_rows_index_and_export(second: tuple[Project, RunResult]) -> None:
    _, result = second
    assert result.changed
    assert result.release.release == 1
    assert result.verdicts == {"frames": {"new": 4}}
    assert result.release.features["frames"].rows == 3 * 5 + 1
    assert result.release.indexes["frames"].rows == 16
    assert result.release.exports["h5"].files
    assert result.counters["rows"] == 16
    assert set(result.seconds) == {"list", "models", "probe", "plan", "compute"}


def test_second_run_does_nothing_and_keeps_the_release(second: tuple[Project, RunResult]) -> None:
    project, first = second
    before = files_of(project.folder / "store")
    again = project.run()
    assert not again.changed
    assert again.release == first.release
    assert again.verdicts == {"frames": {"unchanged": 4}}
    assert again.counters == {}
    assert files_of(project.folder / "store") == before


def test_two_encoders_of_one_sampling_decode_once(project: Project) -> None:
    alone = project.run(["store=./alone"])
    both = project.run(["features.again={source: clips, sample: {every: 200ms}, encoder: other}"])
    assert both.counters["rows"] == 2 * alone.counters["rows"]
    assert both.counters["frames_decoded"] == alone.counters["frames_decoded"] > 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only there OpenVINO can hide what the processor has")
def test_processor_without_bf16_is_reported_in_one_sentence(project: Project) -> None:
    bf16 = "encoders.light.precision=bf16"

    def told(command: str) -> str:
        process = project.command(command, project.spec, "--set", bf16, OV_CPU_MAX_ISA="AVX2")
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (1, "")
        (line,) = [line for line in err.splitlines() if not line.startswith("• ")]
        return line

    assert told("plan") == (
        "cliploom: encoders.light.precision: this processor can't compute in bf16; use precision: f32 "
        "(--set encoders.light.precision=f32), or a processor that has it."
    )
    if can_compute_in("bf16"):
        project.run([bf16])
        write_image(project.folder / "media" / "0-first.png", 9)
        assert told("run") == "cliploom: This processor can't compute in bf16; use precision: f32."


def test_new_feature_leaves_the_others_alone(second: tuple[Project, RunResult]) -> None:
    project, first = second
    after = project.run(["features.again={source: clips, sample: {uniform: 1}, encoder: light}"])
    assert after.verdicts == {"again": {"new": 4}, "frames": {"unchanged": 4}}
    assert after.release.features["frames"] == first.release.features["frames"]
    assert after.release.indexes == first.release.indexes


def test_rows_do_not_depend_on_how_work_is_packed(second: tuple[Project, RunResult]) -> None:
    project, first = second
    rows = []
    other = project.run(["store=./other", "targets.local.workers=1", "limits.segment=400ms"])
    for store, result in (("store", first), ("other", other)):
        entry = result.release.features["frames"]
        table = pl.scan_delta(str(project.folder / store / entry.table), version=entry.version).collect()
        rows.append(table.sort("row_id"))
    assert rows[0].drop("colour").equals(rows[1].drop("colour"))
    np.testing.assert_allclose(rows[0]["colour"].to_list(), rows[1]["colour"].to_list(), atol=1e-6)


def test_limit_takes_some_and_deletes_nothing(project: Project) -> None:
    first = project.run(limit=2)
    assert first.release.counts["items"] == 2
    chosen = set(read_table(project.store, "items", first.release.tables["items"])["uid"])
    everything = project.run()
    assert everything.verdicts == {"frames": {"new": 2, "unchanged": 2}}
    again = project.run(limit=1)
    assert again.release.counts["items"] == 4
    assert "deleted" not in again.verdicts["frames"]
    assert chosen < {"a", "b", "c", "still"}


def test_encoder_that_fails_on_one_clip_loses_only_that_clip(project: Project) -> None:
    write_video(project.folder / "media" / "night.mp4", 25, draw=black)
    result = project.run()
    assert result.release.counts["failed"] == 1
    assert result.release.features["frames"].rows == 16
    failures = read_table(project.store, "failures", result.release.tables["failures"])
    assert failures.select("uid", "stage", "type", "transient", "partial", "got", "expected").rows() == [
        ("night", "encode", "Encode", False, False, 0, 5)
    ]
    assert "nan" in failures["message"][0]
    assert not project.run().changed


def test_item_numbers_stay_when_files_come(second: tuple[Project, RunResult]) -> None:
    project, first = second
    write_image(project.folder / "media" / "0-first.png", 9)
    with_more = project.run()
    before = read_table(project.store, "items", first.release.tables["items"]).select("uid", "item_no")
    after = read_table(project.store, "items", with_more.release.tables["items"]).select("uid", "item_no")
    assert before.join(after, on=["uid", "item_no"]).height == before.height
    assert after.filter(pl.col("uid") == "0-first")["item_no"].to_list() == [before["item_no"].max() + 1]


def test_tables_open_without_this_project(second: tuple[Project, RunResult]) -> None:
    project, release = second[0], second[1].release
    entry = release.features["frames"]
    folder = project.folder / "store" / entry.table
    scanned = pl.scan_delta(str(folder), version=entry.version).collect()
    assert scanned.schema["colour"] == pl.List(pl.Float32)
    assert scanned.height == entry.rows
    items = pl.scan_delta(str(project.folder / "store" / "items"), version=release.tables["items"]).collect()
    assert sorted(items["uid"]) == ["a", "b", "c", "still"]
    parts = [str(folder / name) for name in table_files(project.store, entry.table, entry.version)]
    found = duckdb.sql(f"select uid, count(*), min(len(colour)), max(start_s) from read_parquet({parts}) group by uid")
    assert sorted(found.fetchall()) == [("a", 5, 3, 0.8), ("b", 5, 3, 0.8), ("c", 5, 3, 0.8), ("still", 1, 3, 0.0)]


def test_empty_corpus_is_no_release(project: Project) -> None:
    for path in (project.folder / "media").iterdir():
        path.unlink()
    with pytest.raises(SpecError, match="hold no files"):
        project.run()
    assert read_releases(project.store).rows == ()


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """Read stderr until a line holds the text; returns what was read."""
    assert process.stderr is not None
    read = ""
    for line in process.stderr:
        read += line
        if text in line:
            return read
    raise AssertionError(f"{text!r} was never said: {read}")


@pytest.mark.slow
def test_ctrl_c_at_any_moment_leaves_a_store_that_works(project: Project) -> None:
    for stage in ("listing sources", "probing", "computing"):
        process = project.command("run", project.spec)
        wait_for(process, stage)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert out == ""
        assert "Traceback" not in err
        assert err.strip().endswith("finished parts are kept, run the same command again to continue.")
        assert read_releases(project.store).rows == ()
    last = project.command("run", project.spec, "--json")
    out, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    said = json.loads(out)
    assert set(said) == {
            "run", "store", "release", "changed", "verdicts", "counters", "seconds", "failures", "report", "warnings",
        }  # fmt: skip
    assert {"release", "created_at", "features", "indexes", "exports", "tables", "counts"} <= set(said["release"])
    assert said["verdicts"] == {"frames": {"new": 4}}
    assert said["failures"] == []
    assert not list(project.store.list(f"runs/{said['run']}/inflight"))


@pytest.mark.slow
def test_summary_is_read_in_ten_seconds(project: Project) -> None:
    (project.folder / "media" / "notes.mp4").write_text("not a video\n" * 100)
    process = project.command("run", project.spec)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert re.fullmatch(r"Release 1 is published in store \(run \S+\)\.", lines[0])
    assert lines[1].startswith("  frames: 4 new, 1 failed; 16 rows, ")
    assert any(line.startswith("  index frames: 16 rows, flat") for line in lines)
    assert any("open store/hdf5/h5/master-" in line for line in lines)
    assert any(re.match(r"  1 \S+, e\.g\. notes: .*has no video: it is text", line) for line in lines)
    assert any(line.startswith("Time: ") and "compute" in line and "16 rows computed" in line for line in lines)
    assert "Each file that failed: cliploom failures store --list" in lines
    assert len(lines) < 13
    stages = [line for line in err.splitlines() if line.startswith("• ")]
    assert stages[:4] == ["• starting", "• listing sources", "• preparing models", "• probing new files"]
    assert err.splitlines()[-1] == "Next: cliploom search store --like FILE"
    strict = project.command("run", project.spec, "--strict")
    out, err = strict.communicate(timeout=120)
    assert strict.returncode == 1
    assert out.splitlines()[0] == "Nothing to do: release 1 of store is up to date."
