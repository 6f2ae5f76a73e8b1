"""A store computed with ``device: cuda``, on ONNX Runtime's processor in place of a graphics one, and without any."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import yaml
from apache_beam.portability import common_urns
from commands import Command, assert_one_sentence, command
from stores import SmallStore, still

from cliploom.pipelines.demo.corpus import CAT, COFFEE, PAGE, ROCKET
from cliploom.pipelines.planning.check import check_encoders, missing_devices
from cliploom.pipelines.running.build import build_run
from cliploom.schemas.devices import DEFAULT_ACCELERATOR, DeviceJob
from cliploom.schemas.errors import SpecError
from cliploom.schemas.jobs import FeatureJob, RunJob
from cliploom.schemas.media import MediaLimits
from cliploom.schemas.spec_file import load_spec
from cliploom.transforms.encoders.accelerators import PROVIDER_VARIABLE
from cliploom.transforms.encoders.device_graphs import graphs_digest, read_graphs_card
from cliploom.transforms.encoders.processor import processor_features
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.upkeep.recompute import recompute_rows
from cliploom.transforms.upkeep.vacuuming import vacuum_store
from cliploom.transforms.upkeep.verifying import verify_release
from cliploom.transforms.work.plan_ref import PlanRef

SPEC: dict[str, Any] = {
    "version": 1,
    "name": "devices",
    "store": "./store",
    "sources": {"photos": {"kind": "media", "glob": "media/*.png"}},
    "encoders": {"lite0": {"kind": "efficientnet_lite0"}},
    "features": {"frames": {"source": "photos", "sample": {"every": "1s"}, "encoder": "lite0", "outputs": ["pooled"]}},
    "limits": {"max_deleted": "100%"},
    "targets": {"local": {"runner": "local", "workers": 1}},
}
CUDA = "encoders.lite0.device=cuda"
AUTO = "encoders.lite0.device=auto"


def write(folder: Path) -> SmallStore:
    (folder / "media").mkdir(parents=True)
    for name, photo in (("cat", CAT), ("coffee", COFFEE), ("page", PAGE)):
        still(photo, folder / "media" / f"{name}.png")
    (folder / "cliploom.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")
    return SmallStore(folder)


@pytest.fixture
def cliploom(capsys: pytest.CaptureFixture[str]) -> Command:
    return command(capsys)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROVIDER_VARIABLE, "CPUExecutionProvider")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """One release, computed on the stand-in."""
    project = write(tmp_path_factory.mktemp("devices") / "p")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PROVIDER_VARIABLE, "CPUExecutionProvider")
        project.run([CUDA])
    return project


@pytest.fixture
def copied(made: SmallStore, tmp_path: Path) -> SmallStore:
    shutil.copytree(made.folder, tmp_path / "p")
    return SmallStore(tmp_path / "p")


def entry_of(project: SmallStore) -> Any:
    return open_store(str(project.store)).release.features["frames"]


def test_rows_say_what_they_were_computed_on_and_agree_with_the_processor(made: SmallStore) -> None:
    entry = entry_of(made)
    ((name, cosine),) = entry.processors.items()
    assert name.startswith("cpu ")
    assert "onnxruntime" in name
    assert cosine == pytest.approx(1, abs=1e-4)
    (drift,) = recompute_rows(str(made.store), 3)
    assert (drift.processor, drift.here) == (name, processor_features())
    assert drift.least is not None
    assert drift.least >= 0.9999


def test_a_release_lists_the_graphs_so_they_are_verified_and_kept(copied: SmallStore) -> None:
    entry = entry_of(copied)
    folder = f"models/{graphs_digest(Path(entry.model).name)}"
    assert {f"{folder}/card.json", f"{folder}/model.onnx"} <= {file.path for file in entry.model_files}
    assert min(read_graphs_card(copied.store / folder).agreement.values()) >= 0.9999
    assert verify_release(str(copied.store)) == []
    vacuum_store(str(copied.store), 1, older_than=0)
    assert (copied.store / folder / "model.onnx").exists()


def test_a_device_changes_no_digest_and_recomputes_nothing(copied: SmallStore, stand_in: None) -> None:
    before = entry_of(copied)
    assert copied.run().verdicts == {"frames": {"unchanged": 3}}
    still(ROCKET, copied.media / "rocket.png")
    copied.run()
    after = entry_of(copied)
    assert (after.config, after.recipe, after.model) == (before.config, before.recipe, before.model)
    assert set(after.processors) == {*before.processors, processor_features()}
    assert not any("model.onnx" in file.path for file in after.model_files)
    for name in ("cat", "coffee", "page"):
        (copied.media / f"{name}.png").unlink()
    copied.run()
    assert set(entry_of(copied).processors) == {processor_features()}  # no row of the device is left


def test_a_worker_without_the_device_stops_the_run_with_one_sentence(
    tmp_path: Path, cliploom: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PROVIDER_VARIABLE, raising=False)
    project = write(tmp_path / "p")
    ended = cliploom("run", project.spec, "--set", CUDA)
    assert_one_sentence(ended, 1, ("can't compute with device: cuda", "has no CUDAExecutionProvider", "device: auto"))


def test_auto_without_a_device_computes_on_the_processor(copied: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROVIDER_VARIABLE, raising=False)
    still(ROCKET, copied.media / "rocket.png")
    copied.run([AUTO])
    assert processor_features() in entry_of(copied).processors


def test_validate_says_that_a_device_is_missing(
    tmp_path: Path, cliploom: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PROVIDER_VARIABLE, raising=False)
    project = write(tmp_path / "p")
    done = cliploom("validate", str(project.spec), "--set", CUDA)
    assert "encoders.lite0.device: cuda is not to be had here: " in " ".join(done.out.split())
    assert "stop the run" in " ".join(done.out.split())
    assert "device" not in cliploom("validate", str(project.spec)).out
    monkeypatch.setenv(PROVIDER_VARIABLE, "CPUExecutionProvider")
    assert missing_devices(check_encoders(load_spec(project.spec, [CUDA]), project.folder)) == {}


@pytest.mark.parametrize("precision", ["int8", "bf16", "int8_weights"])
def test_other_precisions_are_not_computed_on_a_device(tmp_path: Path, precision: str) -> None:
    project = write(tmp_path / "p")
    spec = load_spec(project.spec, [CUDA, f"encoders.lite0.precision={precision}"])
    with pytest.raises(SpecError, match=f"encoders.lite0.device: device: cuda computes in f32; .*{precision}"):
        check_encoders(spec, project.folder)


@pytest.mark.parametrize("required", [True, False])
def test_the_step_that_encodes_asks_the_runner_for_a_device(made: SmallStore, required: bool) -> None:
    entry = entry_of(made)
    job = FeatureJob("frames", "photos", "media", "{}", entry.config, entry.table, entry.model, None, {"pooled": 1280})
    graphs = f"models/{graphs_digest(Path(entry.model).name)}"
    run = RunJob(str(made.store), "r", {"frames": replace(job, device=DeviceJob(required, graphs))}, MediaLimits())
    pipeline = beam.Pipeline()
    build_run(pipeline, PlanRef(str(made.store), "r", ""), run, hints=True)
    graph = pipeline.to_runner_api()
    asking = {
        each.unique_name: graph.components.environments[each.environment_id].resource_hints
        for each in graph.components.transforms.values()
        if each.environment_id
    }
    hint = common_urns.resource_hints.ACCELERATOR.urn
    found = {name.split("/")[0]: bytes(hints[hint]).decode() for name, hints in asking.items() if hint in hints}
    assert found == ({"ComputeShard": DEFAULT_ACCELERATOR} if required else {})
    memory = common_urns.resource_hints.MIN_RAM_BYTES.urn
    assert {name.split("/")[0] for name, hints in asking.items() if memory in hints} == {"ComputeShard"}
