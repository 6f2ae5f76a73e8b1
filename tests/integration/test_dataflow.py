"""gs:// stores, and Dataflow jobs built, checked and staged, against a Cloud Storage of the tests' own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as beam_api
from gcs_server import BUCKET, gcs_server
from nights import SPEC, draw, run_here, write_encoder

import cliploom
from cliploom.pipelines.running.run import RunOptions, RunResult
from cliploom.schemas.errors import CliploomError, StoreError
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import append_release, read_releases
from cliploom.transforms.store.tables import read_table
from cliploom.transforms.upkeep import vacuuming
from cliploom.transforms.upkeep.verifying import verify_release

pytest.importorskip("google.cloud.storage", reason="Dataflow needs the extra 'gcp': pip install 'cliploom[gcp]'")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
REMOTE = f"gs://{BUCKET}/life"
STORE = f"{REMOTE}/store"
TEMPLATE = f"gs://{BUCKET}/templates/nightly"
TARGET = {
    "runner": "DataflowRunner",
    "project": "some-project",
    "region": "europe-west1",
    "temp_location": f"gs://{BUCKET}/tmp",
    "staging_location": f"gs://{BUCKET}/staging",
    "setup_file": "./setup.py",
    "no_auth": True,
}


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """The server's bucket; the environment names it, and the tiny encoder is on the path."""
    folder = tmp_path_factory.mktemp("gcs")
    encoder = write_encoder(folder / "encoder")
    with gcs_server(folder) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        patch.syspath_prepend(str(encoder))
        patch.chdir(packaged(folder / "checkout"))
        yield ObjectStore(f"gs://{BUCKET}")


def packaged(folder: Path) -> Path:
    """What ``--setup_file=./setup.py`` is run on: the checkout without its tests."""
    folder.mkdir()
    for name in ("setup.py", "README.md", "MANIFEST.in", "LICENSE", "pyproject.toml"):
        shutil.copyfile(ROOT / name, folder / name)
    for name in ("cliploom", "schemas", "transforms", "pipelines"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def remove(gcs: ObjectStore, folder: str) -> None:
    """Empty a folder of the bucket."""
    gcs.delete([entry.path for entry in gcs.list(folder)])


def push(gcs: ObjectStore, folder: Path) -> None:
    """Make the bucket's pictures equal to the folder's."""
    remove(gcs, "life/media")
    for path in sorted(folder.glob("*.*")):
        if path.suffix != ".yaml":
            gcs.put(f"life/media/{path.name}", path.read_bytes())


def run(folder: Path, target: str = "local", extra: tuple[str, ...] = (), **changes: Any) -> RunResult:
    document = SPEC | {"store": STORE, "sources": {"clips": {"kind": "media", "glob": f"{REMOTE}/media/*.*"}}}
    document |= {"targets": {"local": {"workers": 1}, "dataflow": TARGET}} | changes
    spec = folder / "cliploom.yaml"
    spec.write_text(yaml.safe_dump(document), encoding="utf-8")
    return run_here(spec, (), RunOptions(target=target, extra=extra))


@pytest.fixture(scope="module")
def night(gcs: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures with a release; the folder that the bucket's inputs are copied from."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        draw(folder / f"still{number}.png", number)
    push(gcs, folder)
    run(folder)
    return folder


Staged = tuple[beam_api.Pipeline, dict[str, Any]]
NEW_FEATURE = SPEC["features"] | {"few": {"source": "clips", "sample": {"uniform": 1}, "encoder": "tiny"}}


def stage(folder: Path, gcs: ObjectStore, targets: dict[str, Any] | None = None) -> Staged:
    """Stage the job that computes a new feature of all pictures; its graph and its template."""
    for top in ("staging", "templates"):
        remove(gcs, top)
    changes = {"features": NEW_FEATURE} | ({"targets": targets} if targets else {})
    with pytest.raises(CliploomError, match=r"was staged as gs://corpus/templates/nightly and not run; nothing was"):
        run(folder, "dataflow", (f"--template_location={TEMPLATE}",), **changes)
    (graph,) = (entry.path for entry in gcs.list("staging") if entry.path.endswith("/pipeline.pb"))
    return beam_api.Pipeline.FromString(gcs.get(graph)), json.loads(gcs.get("templates/nightly"))


@pytest.fixture(scope="module")
def staged(gcs: ObjectStore, night: Path) -> Staged:
    """A staged job of few files."""
    return stage(night, gcs)


def test_a_store_lives_in_google_cloud_storage(gcs: ObjectStore, night: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(night / "added.gif", 90)
    (night / "still0.png").rename(night / "renamed.png")
    (night / "still1.png").unlink()
    push(gcs, night)
    result = run(night)
    assert result.changed
    assert verify_release(STORE, None) == []
    monkeypatch.setattr(vacuuming, "FRESH_S", -1.0)
    assert vacuuming.vacuum_store(STORE, 1, older_than=0)
    assert verify_release(STORE, None) == []
    assert not run(night).changed


def test_items_of_google_cloud_storage_are_found_and_of_two_writers_one_wins(gcs: ObjectStore, night: Path) -> None:
    place = f"{REMOTE}/two"
    release = run(night, store=place).release
    uid = min(read_table(ObjectStore(place), "items", release.tables["items"])["uid"])
    (itself, *_) = cliploom.open(place).search(like=uid, top=2)
    assert itself.uri.startswith(f"{REMOTE}/media/")
    seen = read_releases(ObjectStore(place)).version
    append_release(ObjectStore(place), release.model_copy(update={"release": 2, "run": "first"}), seen)
    with pytest.raises(StoreError, match="another run published a release"):
        append_release(ObjectStore(place), release.model_copy(update={"release": 2, "run": "second"}), seen)
    assert [(row.release, row.run) for row in read_releases(ObjectStore(place)).rows][1:] == [(2, "first")]


def test_a_dry_run_builds_the_job_and_publishes_nothing(gcs: ObjectStore, night: Path) -> None:
    before = len(read_releases(ObjectStore(STORE)).rows)
    with pytest.raises(CliploomError, match="was built for DataflowRunner and not run"):
        run(night, "dataflow", ("--dry_run=True",), features=NEW_FEATURE)
    assert len(read_releases(ObjectStore(STORE)).rows) == before


def test_a_template_brings_the_package_and_names_the_run(gcs: ObjectStore, staged: Staged) -> None:
    _, template = staged
    assert template["name"].startswith("cliploom-2")
    packages = [gcs.get(entry.path) for entry in gcs.list("staging")]
    archives = [data for data in packages if data[:2] == b"\x1f\x8b"]
    inside = set()
    for data in archives:
        with tarfile.open(fileobj=BytesIO(data)) as archive:
            inside |= {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "setup.py",
        "pipelines/running/build.py",
        "transforms/work/shards.py",
        "schemas/plan.py",
        "cliploom/__init__.py",
    } <= inside
    assert not any(name.startswith("tests/") for name in inside)


def test_a_wheel_is_staged_as_it_is_with_the_list_of_what_it_needs(
    gcs: ObjectStore, night: Path, tmp_path: Path
) -> None:
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], check=True, capture_output=True)  # in the fixture's copy
    (wheel,) = tmp_path.glob("*.whl")
    target = {name: value for name, value in TARGET.items() if name != "setup_file"} | {
        "extra_package": str(wheel),
        "requirements_file": str(ROOT / "requirements.lock"),
        "requirements_cache": "skip",
    }
    graph, _ = stage(night, gcs, {"local": {}, "dataflow": target})
    staged = {entry.path.rpartition("/")[2]: gcs.get(entry.path) for entry in gcs.list("staging")}
    assert wheel.read_bytes() in staged.values()
    assert (ROOT / "requirements.lock").read_bytes() in staged.values()
    (names,) = {
        frozenset(
            beam_api.ArtifactStagingToRolePayload.FromString(artifact.role_payload).staged_name
            for artifact in environment.dependencies
        )
        for environment in graph.components.environments.values()
        if environment.dependencies
    }
    assert {wheel.name, "requirements.txt", "extra_packages.txt"} <= names
    assert not any(name.endswith(".tar.gz") for name in names)


def do_fns(graph: beam_api.Pipeline) -> dict[str, tuple[beam_api.PTransform, beam_api.ParDoPayload]]:
    """The graph's ParDos by name."""
    return {
        transform.unique_name: (transform, beam_api.ParDoPayload.FromString(transform.spec.payload))
        for transform in graph.components.transforms.values()
        if transform.spec.urn == common_urns.primitives.PAR_DO.urn
    }


def side_inputs(graph: beam_api.Pipeline) -> dict[str, set[str]]:
    """Who has side inputs, and which transforms make them."""
    maker = {
        output: transform.unique_name
        for transform in graph.components.transforms.values()
        if not transform.subtransforms
        for output in transform.outputs.values()
    }
    return {
        name: {maker[transform.inputs[tag]] for tag in payload.side_inputs}
        for name, (transform, payload) in do_fns(graph).items()
        if payload.side_inputs
    }


def test_no_side_input_grows_with_the_corpus(staged: Staged) -> None:
    graph, _ = staged
    found = {
        (reader.partition("/ParDo")[0].partition("/Map(")[0], maker)
        for reader, makers in side_inputs(graph).items()
        for maker in makers
    }
    # At most MOST_FILES names of files; nothing, since WaitOn filters; entries of the spec's indexes, exports,
    # evaluations, and of the words' shards, each of many items.
    files = {
        ("Assemble", "GatherParts/WriteRecords"),
        ("CommitTables", "GatherParts/WriteRecords"),
        ("CommitTables", "GatherRewrites/WriteRecords"),
    }
    nothing = {
        (barrier, f"{barrier}/WaitOn0/GroupByKey")
        for barrier in ("PartsProjected", "LabelsMade", "Exports/PartsMade", "Exports/FilesMade")
    }
    entries = {
        ("Indexes/FinishIndexes", "Indexes/BuildIndexShard"),
        ("Publish", "Indexes/FinishIndexes"),
        ("Publish", "Exports/FinishExports"),
        ("Publish", "MeasureRelease"),
        ("MeasureRelease", "Indexes/FinishIndexes"),
        ("CommitWords", "BuildWords"),
    }
    assert {(name.split("/ParDo(")[0], maker.split("/ParDo(")[0]) for name, maker in found} == files | nothing | entries


def test_the_graph_of_many_files_is_as_large_as_that_of_few(gcs: ObjectStore, night: Path, staged: Staged) -> None:
    few, _ = staged
    for number in range(40):
        draw(night / f"more{number}.png", 1000 + number)
    push(gcs, night)
    run(night)
    many, _ = stage(night, gcs)
    assert len(many.components.transforms) == len(few.components.transforms)
    assert abs(many.ByteSize() - few.ByteSize()) < 500  # names are pickled, and pickles packed
    assert few.ByteSize() < 200_000


def test_encoders_ask_for_memory_and_nothing_else_does(staged: Staged) -> None:
    graph, _ = staged
    asking = {}
    for name, (transform, _) in do_fns(graph).items():
        hints = graph.components.environments[transform.environment_id].resource_hints
        if common_urns.resource_hints.MIN_RAM_BYTES.urn in hints:
            asking[name] = int(hints[common_urns.resource_hints.MIN_RAM_BYTES.urn])
    assert set(asking) == {"ComputeShard"}
    assert 1 << 30 < asking["ComputeShard"] < 4 << 30


def test_new_files_have_to_be_probed_before_a_template_is_of_use(gcs: ObjectStore, night: Path) -> None:
    draw(night / "late.png", 5000)
    push(gcs, night)
    with pytest.raises(CliploomError, match=r"The job cliploom-\S+-probe was staged"):
        run(night, "dataflow", (f"--template_location={TEMPLATE}",))
