"""``cliploom status``: from the store, and from a server that responds like Flink's."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from commands import Command, command
from media_factory import write_noise
from stores import SmallStore

from cliploom.pipelines.launching.runner import job_name
from cliploom.pipelines.running.flink import flink_masters, flink_state
from cliploom.pipelines.running.publish import publish_plan
from cliploom.pipelines.running.run import RunOptions
from cliploom.pipelines.running.status import follow, is_locked, run_status, status_text
from cliploom.schemas.errors import LimitError, StoreError
from cliploom.schemas.plan import Accept
from cliploom.transforms.store.lock import store_lock
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.upkeep.verifying import verify_release

cliploom = pytest.fixture(command)


class Overview(BaseHTTPRequestHandler):
    """Flink's list of jobs: one that was restarted under its name and goes on, one that failed."""

    def do_GET(self) -> None:
        jobs = [
            {"name": "cliploom-a", "state": "FAILED", "start-time": 1},
            {"name": "cliploom-a", "state": "RUNNING", "start-time": 2},
            {"name": "cliploom-b", "state": "FAILED", "start-time": 3},
        ]
        self.send_response(200 if self.path == "/jobs/overview" else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"jobs": jobs}).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def flink() -> Iterator[str]:
    """Address of such a server."""
    with ThreadingHTTPServer(("localhost", 0), Overview) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"localhost:{server.server_port}"
        server.shutdown()


def forget_outcome(store: SmallStore) -> None:
    """Make the store look as it does before the run's last step."""
    (outcome,) = store.store.glob("runs/*/outcome.json")
    outcome.unlink()


def test_published_run_has_all_parts_and_items(small_store: SmallStore) -> None:
    status = run_status(str(small_store.store))
    assert (status.state, status.message, status.cluster, status.at_work) == ("published", "", "", 0)
    assert status.parts == status.parts_planned > 0
    assert status.items == status.items_planned > 0
    assert status.job == job_name(status.run)
    assert [(each.name, each.state) for each in status.stages] == [
        ("frames", "done"), ("looks", "done"), ("publish", "done"),
    ]  # fmt: skip
    assert sum(each.parts for each in status.stages[:-1]) == status.parts


def test_stages_of_a_run_that_goes_on(small_store: SmallStore) -> None:
    forget_outcome(small_store)
    with store_lock(ObjectStore(small_store.store), "cliploom run"):
        stages = {each.name: each.state for each in run_status(str(small_store.store)).stages}
        assert stages == {"frames": "done", "looks": "done", "publish": "running"}
        for part in small_store.store.glob("features/looks/*/part-*.parquet"):
            part.unlink()
        status = run_status(str(small_store.store))
        assert {each.name: each.state for each in status.stages} == {
            "frames": "done", "looks": "waiting", "publish": "waiting",
        }  # fmt: skip
        assert f"looks: 0/{status.stages[1].parts_planned} parts, waiting" in status_text(status, time.time())


def test_run_without_outcome_has_ended_unless_somebody_holds_the_store(small_store: SmallStore) -> None:
    forget_outcome(small_store)
    objects = ObjectStore(small_store.store)
    assert run_status(str(small_store.store)).state == "ended"
    with store_lock(objects, "cliploom run"):
        assert is_locked(objects)
        assert run_status(str(small_store.store)).state == "running"
    assert not is_locked(objects)


def test_missing_part_is_not_finished(small_store: SmallStore) -> None:
    before = run_status(str(small_store.store))
    next(iter(small_store.store.glob("features/looks/*/part-*.parquet"))).unlink()
    after = run_status(str(small_store.store))
    assert after.parts == before.parts - 1
    assert after.items < before.items
    assert after.parts_planned == before.parts_planned


def test_flink_tells_the_state_of_the_newest_job_of_that_name(flink: str) -> None:
    assert flink_state([flink], "cliploom-a") == "RUNNING"
    assert flink_state([flink], "cliploom-b") == "FAILED"
    assert flink_state([flink], "cliploom-c") == ""


def test_cluster_that_does_not_answer_is_skipped(flink: str) -> None:
    assert flink_state(["localhost:1", flink], "cliploom-a") == "RUNNING"
    assert flink_state(["localhost:1"], "cliploom-a") == ""


def test_masters_come_from_the_targets_of_the_spec() -> None:
    targets = {"a": {"flink_master": "one:8081"}, "b": {"flink_master": "https://two:80/"}, "c": {}, "d": None}
    assert flink_masters({"targets": {name: node for name, node in targets.items() if node is not None}}) == [
        "one:8081",
        "two:80",
    ]
    assert flink_masters({"targets": {"auto": {"flink_master": "[auto]"}}}) == []
    assert flink_masters({}) == []


def test_variables_in_a_master_are_those_of_the_terminal_and_unset_ones_name_no_cluster() -> None:
    document = {"targets": {"flink": {"flink_master": "${MASTER}", "workers": "${MANY}"}}}
    assert flink_masters(document, {"MASTER": "three:8081"}) == ["three:8081"]
    assert flink_masters(document, {}) == []


def test_following_an_ended_run_tells_it_once(small_store: SmallStore) -> None:
    told: list[str] = []
    assert follow(str(small_store.store), told.append).state == "published"
    assert len(told) == 1


def test_text_says_how_to_go_on_after_a_run_that_ended_early(small_store: SmallStore) -> None:
    forget_outcome(small_store)
    status = run_status(str(small_store.store))
    assert "run again" in status_text(status, status.started_at + 75)
    assert "1 min 15 s ago" in status_text(status, status.started_at + 75)


def test_command_prints_text_or_json(small_store: SmallStore, cliploom: Command) -> None:
    assert "published" in cliploom("status", small_store.store).out
    assert json.loads(cliploom("status", small_store.store, "--json").out)["state"] == "published"
    assert "published" in cliploom("status", small_store.store, "--follow").out


def test_folder_that_was_never_run_into_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=str(tmp_path)):
        run_status(str(tmp_path))


def test_run_on_a_job_server_that_is_not_there_says_so_at_once(small_store: SmallStore, cliploom: Command) -> None:
    spec = small_store.spec.read_text(encoding="utf-8")
    targets = 'targets: {far: {runner: FlinkRunner, job_endpoint: "localhost:1", environment_type: LOOPBACK}}\n'
    small_store.spec.write_text(spec + targets, encoding="utf-8")
    ended = cliploom("run", small_store.spec, "--full-refresh")
    assert ended.code == 1
    assert "Nothing answers at the job endpoint localhost:1" in ended.err
    assert "internal error" not in ended.err


def test_a_run_that_a_limit_stopped_says_what_failed_and_why(small_store: SmallStore) -> None:
    shutil.rmtree(small_store.store)
    with pytest.raises(LimitError, match=r"`cliploom status \S+` lists the reasons"):
        small_store.run(["limits.max_failed=0%", "limits.max_failed_first=0%"])
    status = run_status(str(small_store.store))
    (reason,) = status.failures
    assert (status.state, reason["items"], reason["uid"]) == ("stopped", 1, "noise")
    assert "1 item: NoVideo in probe (permanent)\n  e.g. noise: 'noise.mp4' is not a video" in status_text(status, 0.0)
    # What it left is no damage.
    with pytest.raises(StoreError, match="no release yet"):
        verify_release(str(small_store.store))


def test_a_first_run_over_junk_publishes_the_rest_and_later_runs_keep_their_limits(small_store: SmallStore) -> None:
    shutil.rmtree(small_store.store)
    write_noise(small_store.media / "junk.mp4", 1500, seed=1)
    write_noise(small_store.media / "more.mp4", 1500, seed=2)
    limits = ["limits.max_failed=5%"]
    # A run with --limit tries a spec out: the next one is the first over the whole folder.
    assert small_store.run(limits, limit=2).release.counts["limited"] == 2
    first = small_store.run(limits)
    assert first.release.counts["failed"] == 3
    assert "limited" not in first.release.counts
    assert first.report["notes"] == [
        "3 of 9 items failed (33%); the rest is published, as a first run may lose 50% (limits.max_failed_first). "
        "Later runs stop when more than 5% fail (limits.max_failed)."
    ]
    write_noise(small_store.media / "again.mp4", 1500, seed=3)
    with pytest.raises(LimitError, match=r"max_failed \(5%\)"):
        small_store.run(limits)


def test_publishing_what_a_limit_stopped_does_not_say_that_it_computes(small_store: SmallStore) -> None:
    shutil.rmtree(small_store.store)
    with pytest.raises(LimitError, match=r"more than max_failed_first \(10%\)"):
        small_store.run(["limits.max_failed=0%", "limits.max_failed_first=10%"])
    stages: list[str] = []
    publish_plan(str(small_store.store), RunOptions(accept=Accept(failures=True)), stages.append)
    assert stages == ["publishing"]


def test_attaching_to_a_run_whose_launcher_is_gone_ends_as_the_run_did(
    small_store: SmallStore, cliploom: Command, tmp_path: Path
) -> None:
    (report,) = small_store.store.glob("runs/*/report.json")
    before = json.loads(report.read_text())
    report.unlink()
    metrics = tmp_path / "cliploom.prom"
    ended = cliploom("attach", small_store.store, "--json", "--metrics-file", metrics)
    assert ended.code == 0
    result = json.loads(ended.out)
    assert (result["release"]["release"], result["status"]["state"]) == (1, "published")
    after = json.loads(report.read_text())
    assert after.keys() == before.keys()
    assert (after["counts"], after["verdicts"]) == (before["counts"], before["verdicts"])
    assert "cliploom_run_exit_code 0\n" in metrics.read_text()
    forget_outcome(small_store)
    ended = cliploom("attach", small_store.store)
    assert (ended.code, "ended without publishing; run again" in ended.err) == (1, True)
    assert cliploom("attach", small_store.store, "--metrics-file", tmp_path / "no" / "file").code == 2


def test_attaching_to_a_run_that_a_limit_stopped_gives_its_exit_code(
    small_store: SmallStore, cliploom: Command
) -> None:
    shutil.rmtree(small_store.store)
    with pytest.raises(LimitError):
        small_store.run(["limits.max_failed=0%", "limits.max_failed_first=0%"])
    ended = cliploom("attach", small_store.store)
    assert ended.code == 3
    assert "max_failed" in ended.err
