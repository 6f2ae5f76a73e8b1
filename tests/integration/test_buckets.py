"""The whole life of a store in a bucket, against a real S3 server on this machine."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest
import yaml
from commands import assert_one_sentence, command
from fault_proxy import Fault, Proxy, fault_proxy
from nights import SPEC as TINY
from nights import draw, encoder_on_path, run_here
from s3_server import BUCKET, S3Server, missing, s3_server
from stores import pan, still

import cliploom
from cliploom.pipelines.demo.corpus import CAT, COFFEE, PAGE, ROCKET
from cliploom.pipelines.listings import failure_rows
from cliploom.pipelines.running.child import user_error
from cliploom.pipelines.running.publish import rollback
from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.records import MAX_ORDINAL
from cliploom.schemas.release import Release
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.encoders.accelerators import PROVIDER_VARIABLE
from cliploom.transforms.encoders.device_graphs import graphs_digest
from cliploom.transforms.readers.windows import ClipWindows
from cliploom.transforms.store.buckets import PATIENCE, REQUEST
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table
from cliploom.transforms.upkeep import vacuuming
from cliploom.transforms.upkeep.verifying import verify_release

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

SPEC: dict[str, Any] = {
    "version": 1,
    "name": "bucket",
    "sources": {"clips": {"kind": "media"}, "spoken": {"kind": "narrations", "format": "srt"}},
    "encoders": {"minilm": {"kind": "minilm"}, "lite0": {"kind": "efficientnet_lite0", "text_encoder": "minilm"}},
    "features": {
        "frames": {"source": "clips", "sample": {"every": "1s"}, "encoder": "lite0", "outputs": ["semantic"]},
        "speech": {"source": "spoken", "encoder": "minilm"},
    },
    "indexes": {"frames": {"feature": "frames"}, "speech": {"feature": "speech"}},
    "exports": {
        "h5": {"kind": "hdf5", "feature": "frames"},
        "single": {"kind": "hdf5", "feature": "frames", "single": True},
        "pairs": {"kind": "pairs", "feature": "frames", "text": "speech"},
    },
    "targets": {"local": {"workers": 2}},
    "limits": {"max_failed": "60%", "max_deleted": "60%"},
}
CUE = "1\n00:00:00,000 --> 00:00:01,500\n{}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server, its credentials in the environment, and temporary files of this module's own."""
    with s3_server(tmp_path_factory.mktemp("s3")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment().items():
            patch.setenv(name, value)
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        yield running


@dataclass(frozen=True)
class Project:
    """A folder whose ``media`` and ``texts`` lie in a bucket too, or only here where ``remote`` is empty."""

    folder: Path
    remote: str = ""

    @property
    def store(self) -> str:
        return f"{self.remote}/store" if self.remote else str(self.folder / "store")

    @property
    def objects(self) -> ObjectStore:
        return ObjectStore(self.store)

    def write_spec(self, document: dict[str, Any]) -> Path:
        place = self.remote or str(self.folder)
        document = yaml.safe_load(yaml.safe_dump(document))
        document["store"] = self.store
        for source in document["sources"].values():
            source["glob"] = f"{place}/media/**/*.*" if source["kind"] == "media" else f"{place}/texts/*.srt"
        path = self.folder / "cliploom.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path

    def push(self) -> None:
        """Make the bucket's inputs equal to the folder's; what did not change is not written again."""
        if not self.remote:
            return
        bucket = ObjectStore(self.remote)
        here = {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for top in ("media", "texts")
            for path in (self.folder / top).rglob("*")
            if path.is_file()
        }
        there = {entry.path: entry.size for top in ("media", "texts") for entry in bucket.list(top)}
        bucket.delete(sorted(there.keys() - here.keys()))
        for path, data in here.items():
            if there.get(path) != len(data) or bucket.get(path) != data:
                bucket.put(path, data)

    def run(self, overrides: Sequence[str] = (), **options: Any) -> RunResult:
        self.push()
        return run_here(self.folder / "cliploom.yaml", overrides, RunOptions(**options))

    def release(self, number: int | None = None) -> Release:
        return read_releases(self.objects).get(number)

    def rows(self, feature: str, number: int | None = None) -> list[tuple[Any, ...]]:
        """(uid, ordinal, start, frame, digest, bytes of the vector), sorted: what places and numbers don't change."""
        entry = self.release(number).features[feature]
        frame = read_table(self.objects, entry.table, entry.version)
        plain = frame.with_columns(pl.col("row_id") & MAX_ORDINAL).select("uid", "row_id", "start_s", "frame")
        vectors = [np.asarray(vector, np.float32).tobytes() for vector in frame[next(iter(entry.outputs))]]
        rows = zip(plain.rows(), frame["item_digest"], vectors, strict=True)
        return sorted((*row, digest, vector) for row, digest, vector in rows)


@pytest.fixture(scope="module")
def life(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project, list[RunResult]]:
    """The same two nights in a bucket and in a folder; the results are the bucket's."""
    folder = tmp_path_factory.mktemp("life")
    here, there = Project(folder / "here"), Project(folder / "there", f"s3://{BUCKET}/life")
    for name, photo, frames in (("cat", CAT, 15), ("deep/coffee", COFFEE, 10), ("rocket", ROCKET, 11)):
        (here.folder / "media" / name).parent.mkdir(parents=True, exist_ok=True)
        pan(photo, here.folder / "media" / f"{name}.mp4", frames)
    still(PAGE, here.folder / "media" / "page.png")
    (here.folder / "texts").mkdir()
    for name, text in (("cat", "A cat looks at you."), ("rocket", "The rocket takes off.")):
        (here.folder / "texts" / f"{name}.srt").write_text(CUE.format(text), encoding="utf-8")
    here.write_spec(SPEC)
    shutil.copytree(here.folder, there.folder)
    there.write_spec(SPEC)
    results = []
    here.run()
    results.append(there.run())
    for project in (here, there):
        media = project.folder / "media"
        pan(ROCKET, media / "cat.mp4", 14)
        (media / "deep" / "coffee.mp4").rename(media / "tea.mp4")
        (media / "page.png").unlink()
        (project.folder / "texts" / "rocket.srt").write_text(CUE.format("It flies."), encoding="utf-8")
    here.run()
    results.append(there.run())
    return here, there, results


@pytest.mark.parametrize("number", [1, 2])
def test_a_bucket_holds_the_rows_that_a_folder_holds(life: Any, number: int) -> None:
    here, there, _ = life
    for feature in ("frames", "speech"):
        assert there.rows(feature, number) == here.rows(feature, number)
        assert there.rows(feature, number)


def test_a_night_in_a_bucket_computes_only_what_changed(life: Any) -> None:
    _, there, (first, second) = life
    assert failure_rows(there.store) == []
    assert first.verdicts == {"frames": {"new": 4}, "speech": {"new": 2}}
    assert second.verdicts["frames"] == {"content_changed": 1, "moved": 1, "unchanged": 1, "deleted": 1}
    assert (second.counters["probed"], second.counters["recognized"]) == (1, 1)


def test_nothing_is_prepared_probed_or_published_when_nothing_changed(life: Any) -> None:
    _, there, _ = life
    result = there.run()
    assert not result.changed
    assert "probed" not in result.counters


def test_a_bucket_verifies(life: Any) -> None:
    _, there, _ = life
    assert verify_release(there.store, 1) == []
    assert verify_release(there.store, 2) == []


def test_words_a_uid_and_an_object_find_items_of_a_bucket(life: Any) -> None:
    _, there, _ = life
    store = cliploom.open(there.store)
    assert store.search("a cup of coffee", index=["frames"], top=1)[0].uid == "tea"
    assert store.search("something flies", index=["speech"], top=1)[0].uid == "rocket"
    assert store.search(like="tea", index=["frames"], top=1)[0].uid != "tea"
    found = store.search(like=f"{there.remote}/media/tea.mp4", index=["frames"], top=1)
    assert (found[0].uid, found[0].uri) == ("tea", f"{there.remote}/media/tea.mp4")


def test_filters_give_the_same_hits_in_a_bucket_and_in_a_folder(life: Any) -> None:
    here, there, _ = life
    answers = []
    for project in (here, there):
        store = cliploom.open(project.store)
        asked = {"index": ["frames"], "top": 10}
        kept = store.search("a rocket", where="uid LIKE '%t%' AND duration > 0 AND start_s < 1", **asked)
        one = store.search("a rocket", where="uid = 'tea' OR source = 'nothing'", **asked)
        inside = store.search("a rocket", in_uid="cat", **asked)
        none = store.search("a rocket", where="duration > 1000", **asked)
        answers.append([[(hit.uid, hit.start_s, round(hit.score, 5)) for hit in each] for each in (kept, one, inside)])
        assert none == []
        with pytest.raises(SpecError, match="did you mean"):
            store.search("a rocket", where="durations > 1")
    assert answers[0] == answers[1]
    kept, one, inside = answers[1]
    assert {uid for uid, _, _ in kept} == {"cat", "tea", "rocket"}
    assert all(start_s < 1 for _, start_s, _ in kept)
    assert [[uid for uid, _, _ in each] for each in (one, inside)] == [["tea"], ["cat"]]


def test_windows_of_a_bucket_equal_those_of_a_folder(life: Any) -> None:
    here, there, _ = life
    local, remote = ClipWindows(here.store, "frames"), ClipWindows(there.store, "frames")
    for uid in ("tea", "cat", "rocket"):
        np.testing.assert_array_equal(remote[uid, 0.0, 1.5], local[uid, 0.0, 1.5])


def single_file(project: Project) -> dict[str, bytes]:
    """Vectors by uid of the self-contained export."""
    (entry,) = (file for file in project.release().exports["single"].files if "/single-" in file.path)
    with project.objects.local_copy(entry.path) as local, h5py.File(local) as file:
        return {name: file[name][()].tobytes() for name in file}


def pairs(project: Project) -> list[tuple[Any, ...]]:
    """All pairs, with their vectors."""
    files = [file.path for file in project.release().exports["pairs"].files if file.path.endswith(".parquet")]
    return sorted(row for path in files for row in pl.read_parquet(project.objects.get(path)).rows())


def test_exports_of_a_bucket_hold_what_those_of_a_folder_hold(life: Any) -> None:
    here, there, _ = life
    assert single_file(there) == single_file(here)
    assert set(single_file(there)) == {"cat", "rocket", "tea", "uids"}
    assert pairs(there) == pairs(here)
    assert [pair[0] for pair in pairs(there)] == ["cat", "rocket"]
    assert {file.path.rsplit("/", 1)[1][:5] for file in there.release().exports["h5"].files} == {"part-"}


def test_a_rollback_and_a_vacuum_keep_what_readers_see(life: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, there, _ = life
    before = there.rows("frames", 1)
    rollback(there.store, 1)
    assert there.rows("frames") == before
    monkeypatch.setattr(vacuuming, "FRESH_S", -1.0)
    gone = vacuuming.vacuum_store(there.store, 1, older_than=0)
    assert {entry.path.split("/")[0] for entry in gone} >= {"features", "index", "plans", "probes"}
    assert verify_release(there.store, None) == []
    assert there.rows("frames") == before
    assert [release.release for release in read_releases(there.objects).rows] == [3]
    assert there.run().changed
    assert verify_release(there.store, None) == []


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package of the encoder of ``nights``, on the path of this process and of those that it starts."""
    with encoder_on_path(tmp_path_factory.mktemp("encoder")) as folder:
        yield folder


@pytest.fixture
def tiny(server: S3Server, encoder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Project:
    """Six pictures in a bucket, with one release; each test has a place of its own there."""
    project = Project(tmp_path / "tiny", f"s3://{BUCKET}/{request.node.name.replace('[', '-').strip(']')}")
    for number in range(6):
        draw(project.folder / "media" / f"still{number}.png", number)
    project.write_spec(TINY)
    project.run()
    return project


def go(project: Project, on_stage: Callable[[str], None]) -> RunResult:
    """A run that tells what it is doing."""
    document = load_document(project.folder / "cliploom.yaml")
    return run_spec(parse_document(document), document, project.folder, RunOptions(), on_stage)


def test_of_two_writers_one_wins_and_nothing_is_damaged(tiny: Project) -> None:
    draw(tiny.folder / "media" / "added.png", 77)
    tiny.push()
    both_planned = threading.Barrier(2, timeout=60)
    ended: list[RunResult | StoreError] = []

    def wait(stage: str) -> None:
        if stage.startswith("computing"):
            both_planned.wait()

    def write() -> None:
        try:
            ended.append(go(tiny, wait))
        except StoreError as error:
            ended.append(error)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    (lost,) = (end for end in ended if isinstance(end, StoreError))
    (won,) = (end for end in ended if isinstance(end, RunResult))
    assert (won.changed, lost.exit_code) == (True, 4)
    assert "another run published a release" in str(lost)
    assert [release.release for release in read_releases(tiny.objects).rows] == [1, 2]
    assert verify_release(tiny.store, None) == []
    assert len(tiny.rows("frames")) == 7
    assert not tiny.run().changed


MODELS = Path(__file__).parents[1] / "saved_models"
BIT = {
    "kind": "saved_model",
    "model": str(MODELS / "bit.tar.gz"),
    "input": {"layout": "nhwc", "width": 32, "height": 24, "fit": "squash"},
    "outputs": {"picture": {"node": "output_1"}},
    "golden": str(MODELS / "bit.npz"),
}


def test_quantised_models_and_graphs_for_devices_are_the_buckets(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setenv(PROVIDER_VARIABLE, "CPUExecutionProvider")
    project = Project(tmp_path / "p", f"s3://{BUCKET}/quantised")
    for number in range(104):
        draw(project.folder / "media" / f"still{number}.png", number)
    spec = {
        "version": 1,
        "name": "quantised",
        "sources": {"clips": {"kind": "media"}},
        "encoders": {
            "small": BIT | {"precision": "int8", "agreement": {"p5": 0.5, "recall": 0, "faster": 0}},
            "plain": BIT | {"device": "cuda"},
        },
        "features": {
            name: {"source": "clips", "sample": {"every": "1s"}, "encoder": name} for name in ("small", "plain")
        },
        "targets": {"local": {"workers": 2}},
        "limits": {"max_failed": "60%", "max_deleted": "60%"},
    }
    project.write_spec(spec)
    project.run()
    entries = project.release().features
    assert [project.objects.size(f"{entries['small'].model}/{name}") is not None for name in ("check.npz", "card.json")]
    assert len(list(project.objects.list("calibrations"))) == 1
    graphs = f"models/{graphs_digest(Path(entries['plain'].model).name)}"
    assert f"{graphs}/model.onnx" in {file.path for file in entries["plain"].model_files}
    assert all(name.startswith("cpu ") for name in entries["plain"].processors)
    assert verify_release(project.store, None) == []
    before = entries["small"].model
    # Another machine, whose temporary folder holds no model, on the next night.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert not project.run().changed
    draw(project.folder / "media" / "late.png", 500)
    project.run()
    after = project.release().features
    assert (after["small"].model, after["small"].rows, after["plain"].rows) == (before, 105, 105)
    assert verify_release(project.store, None) == []


@pytest.fixture
def proxied(server: S3Server, tiny: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Project, Proxy]]:
    """The project of ``tiny``, reached through a proxy that breaks nothing yet, by a client that waits a second."""
    with fault_proxy(server.address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.address}")
        monkeypatch.setenv(REQUEST, "1")
        monkeypatch.setenv(PATIENCE, "30")
        yield tiny, proxy


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut", "lost", "hang"])
def test_a_run_outlasts_faults_of_the_store(proxied: tuple[Project, Proxy], fault: Fault) -> None:
    project, proxy = proxied
    draw(project.folder / "media" / "added.png", 78)
    (project.folder / "media" / "still0.png").unlink()
    project.push()
    asked: dict[tuple[str, str], int] = {}
    every = 25 if fault == "hang" else 3

    def rule(method: str, path: str) -> Fault:
        """The first try of every third request; of the release, every first try."""
        first = (method, path) not in asked
        asked.setdefault((method, path), len(asked))
        chosen = asked[method, path] % every == 0 or (method == "PUT" and "releases/_delta_log" in path)
        return fault if first and chosen else ""

    proxy.rule = rule
    result = go(project, lambda text: None)
    proxy.rule = lambda method, path: ""
    assert result.changed
    assert proxy.count(fault) >= 3
    assert any("releases/_delta_log" in path for _, _, path in proxy.seen)
    assert [release.release for release in read_releases(project.objects).rows] == [1, 2]
    assert verify_release(project.store, None) == []
    assert {row[0] for row in project.rows("frames")} == {"added", *(f"still{number}" for number in range(1, 6))}


def test_a_conflict_with_another_request_is_no_sign_that_the_object_is_there(proxied: tuple[Project, Proxy]) -> None:
    project, proxy = proxied
    draw(project.folder / "media" / "added.png", 81)
    project.push()
    asked: set[str] = set()

    def rule(method: str, path: str) -> Fault:
        """The first put of each object: servers say so while a neighbour or the same object is at work."""
        if method != "PUT" or "_delta_log" in path or path in asked:
            return ""
        asked.add(path)
        return "409"

    proxy.rule = rule
    assert go(project, lambda text: None).changed
    assert any("part-" in path for _, _, path in proxy.seen)
    assert any("inflight" in path for _, _, path in proxy.seen)
    assert verify_release(project.store, None) == []
    assert len(project.rows("frames")) == 7


@pytest.mark.parametrize("broken", ["GET", "PUT"])
def test_a_lasting_fault_leaves_the_old_release(
    proxied: tuple[Project, Proxy], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    project, proxy = proxied
    before = project.rows("frames")
    draw(project.folder / "media" / "still0.png", 79)
    project.push()
    monkeypatch.setenv(PATIENCE, "2")
    proxy.rule = lambda method, path: "503" if method == broken else ""
    with pytest.raises(Exception, match="can't be reached after 2 s of trying") as raised:
        go(project, lambda text: None)
    found = user_error(raised.value)
    assert isinstance(found, StoreError)
    assert "\n" not in str(found)
    assert "(HTTP 503)" in str(found) or "(no answer in time)" in str(found)
    proxy.rule = lambda method, path: ""
    monkeypatch.setenv(PATIENCE, "60")
    assert [release.release for release in read_releases(project.objects).rows] == [1]
    assert project.rows("frames") == before
    assert verify_release(project.store, None) == []
    assert project.run().changed


def everything_written(*folders: Path) -> Iterator[tuple[Path, bytes]]:
    for folder in folders:
        yield from ((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())


def test_credentials_are_in_nothing_that_is_written_or_printed(
    server: S3Server,
    tiny: Project,
    encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = command(capsys)
    monkeypatch.setenv("PYTHONPATH", str(encoder))
    spec = tiny.folder / "cliploom.yaml"
    draw(tiny.folder / "media" / "added.png", 80)
    tiny.push()
    ended = [call("run", spec, "--json"), call("verify", tiny.store), call("failures", tiny.store)]
    ended += [call("releases", tiny.store, "--json"), call("status", tiny.store)]
    assert [end.code for end in ended] == [0] * 5
    wrong = "WRONG" + server.secret[5:]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong)
    refused = [call("run", spec), call("releases", tiny.store)]
    for end in refused:
        assert_one_sentence(end, 4, ("AWS_SECRET_ACCESS_KEY does not belong to the key id",))
    ended += [*refused, call("run", spec, "--debug"), call("releases", tiny.store, "--debug")]
    assert "Traceback" in ended[-1].err
    for secret in (server.secret, wrong, server.access):
        assert not any(secret in text for end in ended for text in (end.out, end.err))
        held = [
            path
            for path, data in everything_written(server.folder, tmp_path, Path(tempfile.gettempdir()))
            if secret.encode() in data
        ]
        assert held == []


def test_what_will_not_pass_is_reported_at_once(
    tiny: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = command(capsys)
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    spec = tiny.folder / "cliploom.yaml"
    assert_one_sentence(call("run", spec, "--set", "store=s3://nowhere/store"), 4, ("there is no such bucket",))
    assert_one_sentence(call("run", spec, "--set", "sources.clips.glob=s3://nowhere/*"), 4, ("HTTP 404, NoSuchBucket",))
    monkeypatch.setenv("AWS_REGION", "eu-north-9")
    assert_one_sentence(call("run", spec), 4, ("HTTP 400", "region"))
    assert_one_sentence(call("releases", tiny.store), 4, ("set AWS_REGION=us-east-1",))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert_one_sentence(call("releases", "s3://typo/store"), 4, ("s3://typo/store", "there is no bucket of this name"))
    assert_one_sentence(call("status", f"{tiny.store}-typo"), 4, (f"There is no store at {tiny.store}-typo",))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown-key-id")
    assert_one_sentence(call("releases", tiny.store), 4, ("does not know the key id in AWS_ACCESS_KEY_ID",))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "ht!tp://me:SESAME-SESAME@host")
    ended = call("run", spec)
    assert_one_sentence(ended, 2, ("AWS_ENDPOINT_URL is not a plain address",))
    assert "SESAME" not in ended.err


def test_credentials_in_a_spec_are_refused_without_being_shown(
    server: S3Server, tiny: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    call = command(capsys)
    spec = tiny.folder / "cliploom.yaml"
    store = f"store=s3://{server.access}:{server.secret}@{BUCKET}/x"
    for override in (
        store,
        "store=s3://me:${AWS_SECRET_ACCESS_KEY}@corpus/x",
        f"targets.local.s3_secret_access_key={server.secret}",
    ):
        ended = call("run", spec, "--set", override)
        assert_one_sentence(ended, 2, ("environment",))
        assert server.secret not in ended.err
