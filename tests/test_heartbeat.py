"""Heartbeats of workers and launcher, and what readers of a store derive from them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stores import SmallStore

from cliploom.pipelines.running.relay import Relay
from cliploom.pipelines.running.status import run_status, status_text
from cliploom.schemas.records import Duplicate, Shard, ShardItem
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work import heartbeat
from cliploom.transforms.work.heartbeat import FRESH_S, Heartbeat, folder_of, launcher_heartbeat, read_heartbeats
from cliploom.transforms.work.progress import ItemProgress, ProgressSum, shard_name

RUN = "20261130T000000-0001"


def item(uid: str, number: int) -> ShardItem:
    return ShardItem(f"{uid}.mp4", "", uid, "", (Duplicate(number, uid),), cost_ms=100)


ONE, TWO = Shard(("frames",), (item("a", 1), item("b", 2))), Shard(("frames",), (item("c", 3),))


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "store")


def work(shard: Shard, beat: Heartbeat, items: int, rows: int) -> None:
    progress = ItemProgress(shard, beat)
    progress.start()
    for each in shard.items[:items]:
        progress.begin(each)
        progress.rows(each, 0.0, rows)
        progress.end(each)


def beats(objects: ObjectStore) -> list[Path]:
    assert objects.root is not None
    return sorted((objects.root / folder_of(RUN)).glob("*.json"))


def test_two_workers_are_added_up_and_a_shard_that_both_tried_counts_once(objects: ObjectStore) -> None:
    first, second = Heartbeat(objects, RUN, "worker-1"), Heartbeat(objects, RUN, "worker-2")
    work(ONE, first, 1, 4)
    work(ONE, second, 2, 4)
    work(TWO, second, 1, 4)
    ItemProgress(TWO, second).begin(TWO.items[0])
    first.write()
    second.write()
    heard = read_heartbeats(objects, RUN, time.time())
    assert (heard.tally.items, heard.tally.rows, heard.workers, heard.launcher) == (3, 12, 2, False)
    assert list(heard.tally.at) == ["c"]
    assert heard.shards[shard_name(ONE)]["items"] == 2


def test_old_heartbeats_and_those_of_ended_processes_are_nobody(objects: ObjectStore) -> None:
    worker = Heartbeat(objects, RUN, "worker-1")
    work(ONE, worker, 2, 1)
    worker.write()
    assert read_heartbeats(objects, RUN, time.time()).alive
    late = read_heartbeats(objects, RUN, time.time() + FRESH_S + 1)
    assert (late.alive, late.tally.items) == (False, 2)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (path,) = beats(objects)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": ended.pid}))
    assert not read_heartbeats(objects, RUN, time.time()).alive
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "another machine"}))
    assert read_heartbeats(objects, RUN, time.time()).alive


def test_damaged_heartbeats_are_skipped(objects: ObjectStore) -> None:
    for number, body in enumerate([b"", b"[]", b"{}", b'{"at": "x", "shards": {}, "stage": ""}', b"\xff"]):
        objects.put(f"{folder_of(RUN)}/worker-{number}.json", body)
    assert not read_heartbeats(objects, RUN, time.time()).alive


def test_a_launcher_takes_its_heartbeat_away_and_that_of_its_own_worker(objects: ObjectStore) -> None:
    with launcher_heartbeat(objects, RUN, "computing") as launcher:
        worker = heartbeat.heartbeat_of(objects, RUN)
        assert heartbeat.heartbeat_of(objects, RUN) is worker
        launcher.write()
        worker.write()
        assert read_heartbeats(objects, RUN, time.time()).stage == "computing"
        assert len(beats(objects)) == 2
    assert beats(objects) == []
    assert heartbeat.heartbeat_of(objects, RUN) is not worker


def test_a_heartbeat_is_written_in_time(objects: ObjectStore) -> None:
    worker = Heartbeat(objects, RUN, "worker-1", every_s=0.01)
    worker.start()
    work(ONE, worker, 2, 1)
    ends = time.monotonic() + 60
    while read_heartbeats(objects, RUN, time.time()).tally.items < 2:
        assert time.monotonic() < ends
    worker.stop()


def test_the_terminal_of_a_run_elsewhere_is_reported_what_workers_left(objects: ObjectStore) -> None:
    class Sink:
        def __init__(self) -> None:
            self.sum, self.lines = ProgressSum(), 0

        def add(self, **counts: object) -> None:
            self.lines += 1
            self.sum.add(counts)

    sink, worker = Sink(), Heartbeat(objects, RUN, "worker-1")
    relay = Relay(objects, RUN, sink)
    for done in (1, 2):
        work(ONE, worker, done, 5)
        worker.write()
        relay.look()
        assert (sink.sum.tally.items, sink.sum.tally.rows) == (done, 5 * done)
    lines = sink.lines
    relay.look()
    assert sink.lines == lines + 1


def test_status_believes_workers_of_other_machines(small_store: SmallStore) -> None:
    objects = ObjectStore(small_store.store)
    (outcome,) = small_store.store.glob("runs/*/outcome.json")
    outcome.unlink()
    ended = run_status(str(small_store.store))
    assert (ended.state, ended.workers, ended.heard_s) == ("ended", 0, None)
    body = {"at": time.time(), "host": "elsewhere", "pid": 1, "stage": "", "shards": {"x": [2, 70, 1, 0, 0, 0]}}
    objects.put(f"{folder_of(ended.run)}/worker-1.json", json.dumps(body).encode())
    status = run_status(str(small_store.store))
    assert (status.state, status.workers, status.rows, status.failed) == ("running", 1, 70, 1)
    assert "1 worker, 70 rows, 1 failed; last heard of" in status_text(status, time.time())
