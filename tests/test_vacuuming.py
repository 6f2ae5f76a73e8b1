"""Vacuum: unused files are deleted and kept releases stay valid, whenever it is interrupted."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from commands import assert_one_sentence, command
from stores import SmallStore

from cliploom.schemas.errors import SpecError, StoreError
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.store.lock import store_lock
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import append_release, keep_releases, read_releases
from cliploom.transforms.store.tables import table_files
from cliploom.transforms.upkeep.vacuuming import (
    FRESH_S,
    doomed_entries,
    everything,
    kept_by,
    vacuum_store,
    with_releases,
)
from cliploom.transforms.upkeep.verifying import verify_release


def files(store: Path) -> set[str]:
    return {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}


def delete_rocket(project: SmallStore) -> list[bytes]:
    """Delete a video, as a run does it; returns its uid and its vectors' bytes."""
    store = open_store(str(project.store))
    needles = [b"rocket"]
    for feature in store.features:
        rows = store.table(feature).filter(pl.col("uid") == "videos/rocket").collect()
        for output in store.features[feature].outputs:
            needles += [np.array(vector, np.float32).tobytes() for vector in rows[output].to_list()]
    (project.media / "videos" / "rocket.mp4").unlink()
    project.run()
    return needles


def found_in(store: Path, needles: list[bytes]) -> list[str]:
    """Files that hold any of the needles; the labels and words of models are not the store's content."""
    held = (path for path in store.rglob("*") if path.is_file() and "models" not in path.parts)
    return [str(path) for path in held if any(needle in path.read_bytes() for needle in needles)]


def test_a_deleted_video_is_in_no_file_afterwards(small_store: SmallStore) -> None:
    needles = delete_rocket(small_store)
    assert len(needles) > 5
    assert len(found_in(small_store.store, needles)) > 10
    vacuum_store(str(small_store.store), 1, older_than=0)
    assert found_in(small_store.store, needles) == []
    assert verify_release(str(small_store.store)) == []
    assert open_store(str(small_store.store)).search("a rocket", index=["frames"])
    with pytest.raises(StoreError, match="no release 1; the store has 2 to 2"):
        open_store(str(small_store.store), 1)


def test_a_dry_run_says_what_would_go_and_touches_nothing(small_store: SmallStore) -> None:
    delete_rocket(small_store)
    before = files(small_store.store)
    said = vacuum_store(str(small_store.store), 1, dry_run=True, older_than=0)
    assert files(small_store.store) == before
    done = vacuum_store(str(small_store.store), 1, older_than=0)
    assert [entry.path for entry in done] == [entry.path for entry in said]
    assert all(entry.size >= 0 for entry in done)
    assert before - files(small_store.store) == {entry.path for entry in done}


def test_a_reader_of_the_release_before_reads_on_for_a_day(small_store: SmallStore) -> None:
    before = open_store(str(small_store.store))
    [master] = [file.path for file in before.release.exports["frames_h5"].files if "master" in file.path] or [
        before.release.exports["frames_h5"].files[0].path
    ]
    table = before.table("frames").collect()
    delete_rocket(small_store)
    with h5py.File(small_store.store / master) as opened:
        vacuum_store(str(small_store.store), 1, older_than=24 * 3600)
        linked = [name for name in opened if isinstance(opened[name], h5py.Dataset | h5py.Group)]
        assert len(linked) == len(opened) > 0
    assert verify_release(str(small_store.store), 1) == []
    assert before.table("frames").collect().equals(table)
    assert before.search("a rocket", index=["frames"])
    # A microsecond is over: the release that was replaced goes, the newest one stays.
    vacuum_store(str(small_store.store), 1, older_than=1e-6)
    assert [release.release for release in open_store(str(small_store.store)).releases] == [2]
    assert verify_release(str(small_store.store)) == []


def test_a_release_that_was_replaced_long_ago_goes_though_the_newest_is_young(small_store: SmallStore) -> None:
    objects = ObjectStore(small_store.store)
    rows = read_releases(objects).rows
    delete_rocket(small_store)
    newest = read_releases(objects).rows[-1]
    long_ago = newest.created_at - timedelta(hours=25)
    old = rows[-1].model_copy(update={"created_at": long_ago - timedelta(hours=3)})
    middle = old.model_copy(update={"release": 2, "run": "middle", "created_at": long_ago})
    newest = newest.model_copy(update={"release": 3})
    keep_releases(objects, [old, middle, newest], read_releases(objects).version)
    vacuum_store(str(small_store.store), 1)
    assert [release.release for release in read_releases(objects).rows] == [2, 3]


def test_what_a_killed_run_left_today_stays_and_older_leftovers_go(small_store: SmallStore) -> None:
    store = small_store.store
    part = sorted((store / "features" / "frames").glob("*/part-*.parquet"))[0]
    young, old = (part.parent / f"part-{digit * 40}.parquet" for digit in "01")
    plan = store / "plans" / "20200101T000000-0000"
    plan.mkdir()
    for path in (young, old, plan / "plan.json", plan / "items.parquet"):
        path.write_bytes(b"x")
    day_ago = time.time() - 25 * 3600
    for path in (old, plan / "items.parquet"):
        os.utime(path, (day_ago, day_ago))
    vacuum_store(str(store), 1)
    assert young.exists()
    assert not old.exists()
    assert (plan / "items.parquet").exists()


def test_a_table_that_comes_back_after_a_young_vacuum_is_whole(small_store: SmallStore) -> None:
    first = open_store(str(small_store.store)).features["looks"]
    for path in (small_store.store / first.table).rglob("*.json"):
        day_ago = time.time() - 25 * 3600
        os.utime(path, (day_ago, day_ago))
        break
    small_store.run(["features.looks.sample={uniform: 3}"])
    vacuum_store(str(small_store.store), 1, older_than=3600)
    small_store.run()
    assert verify_release(str(small_store.store)) == []


def test_files_of_a_clock_that_was_put_back_go_when_asked_at_once(small_store: SmallStore) -> None:
    needles = delete_rocket(small_store)
    future = time.time() + 400 * 24 * 3600
    for path in small_store.store.rglob("*"):
        if path.is_file():
            os.utime(path, (future, future))
    vacuum_store(str(small_store.store), 1, older_than=0)
    assert found_in(small_store.store, needles) == []


def test_the_command_leaves_a_day_and_takes_other_ages(
    small_store: SmallStore, capsys: pytest.CaptureFixture[str]
) -> None:
    delete_rocket(small_store)
    call = command(capsys)
    assert call("vacuum", small_store.store, "--keep-releases", "1").code == 0
    assert len(read_releases(ObjectStore(small_store.store)).rows) == 2
    assert_one_sentence(call("vacuum", small_store.store, "--older-than", "soon"), 2, ("--older-than: 'soon'", "h)"))
    assert call("vacuum", small_store.store, "--keep-releases", "1", "--older-than", "0").code == 0
    assert len(read_releases(ObjectStore(small_store.store)).rows) == 1


def test_a_second_vacuum_finds_nothing(small_store: SmallStore) -> None:
    delete_rocket(small_store)
    vacuum_store(str(small_store.store), 1, older_than=0)
    assert vacuum_store(str(small_store.store), 1, older_than=0) == []


def test_kept_releases_verify_roll_back_and_stay_readable_by_delta(small_store: SmallStore) -> None:
    from cliploom.pipelines.running.publish import rollback

    delete_rocket(small_store)
    vacuum_store(str(small_store.store), 2, older_than=0)
    assert verify_release(str(small_store.store), 1) == []
    assert verify_release(str(small_store.store), 2) == []
    rollback(str(small_store.store), 1)
    vacuum_store(str(small_store.store), 1, older_than=0)
    store = open_store(str(small_store.store))
    assert [release.release for release in store.releases] == [3]
    assert verify_release(str(small_store.store)) == []
    for feature in store.features.values():
        frame = pl.scan_delta(str(small_store.store / feature.table), version=feature.version).collect()
        assert frame.height == feature.rows


def test_runs_go_on_after_it_with_numbers_that_never_come_again(small_store: SmallStore) -> None:
    delete_rocket(small_store)
    vacuum_store(str(small_store.store), 1, older_than=0)
    assert not small_store.run().changed
    taken = open_store(str(small_store.store)).release.next_item_no
    (small_store.media / "page.png").rename(small_store.media / "new.png")
    result = small_store.run()
    assert result.release.release == 3
    assert verify_release(str(small_store.store)) == []
    items = open_store(str(small_store.store)).items.collect()
    assert items.filter(pl.col("uid") == "new")["item_no"].to_list() == [taken]


def test_a_config_that_no_kept_release_has_goes_with_its_table_and_can_come_back(small_store: SmallStore) -> None:
    first = open_store(str(small_store.store)).features["looks"]
    small_store.run(["features.looks.sample={uniform: 3}"])
    vacuum_store(str(small_store.store), 1, older_than=0)
    assert not (small_store.store / first.table).exists()
    small_store.run()
    again = open_store(str(small_store.store)).features["looks"]
    assert (again.table, again.rows) == (first.table, first.rows)
    assert verify_release(str(small_store.store)) == []


def test_what_killed_runs_left_goes_and_what_others_put_there_stays(small_store: SmallStore) -> None:
    store = small_store.store
    part = sorted((store / "features" / "frames").glob("*/part-*.parquet"))[0]
    left = [
        part.parent / ".writing-abc.parquet",
        part.parent / f"part-{'0' * 40}.parquet",
        part.with_name(part.name + "#1"),
        store / "items" / "_delta_log" / "_commit_123.json.tmp",
        store / "models" / ".0123456789ab-xyz" / "model.bin",
        store / "runs" / "20200101T000000-0000" / "inflight" / "a",
        store / "plans" / "20200101T000000-0000" / "items.parquet",
        store / "probes" / f"{'a' * 40}.parquet",
        store / "index" / "gone" / f"shard-{'b' * 40}.faiss",
    ]
    theirs = [
        store / "notes.txt",
        store / "models" / "mine" / "weights.bin",
        store / "index" / "readme.md",
        store / "media" / "cat.mp4",
        store / "features" / "table.csv",
    ]
    for path in (*left, *theirs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    removed = {entry.path for entry in vacuum_store(str(store), 7, older_than=0)}
    assert removed >= {str(path.relative_to(store)) for path in left}
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in theirs)
    assert not (store / "index" / "gone").exists()
    assert not (store / "plans").exists()
    assert verify_release(str(store)) == []


def test_reports_of_kept_releases_stay(small_store: SmallStore) -> None:
    run = open_store(str(small_store.store)).release.run
    vacuum_store(str(small_store.store), 1, older_than=0)
    assert sorted(path.name for path in (small_store.store / "runs" / run).iterdir()) == ["outcome.json", "report.json"]


def test_interrupted_anywhere_the_kept_release_verifies_and_the_next_vacuum_finishes(
    small_store: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_store.run(["features.looks.sample={uniform: 3}"])
    whole = len(vacuum_store(str(small_store.store), 1, dry_run=True, older_than=0))
    real, left = Path.unlink, 0

    def unlink(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    for _ in range(40):
        left = max(2, whole // 8)
        try:
            vacuum_store(str(small_store.store), 1, older_than=0)
            break
        except KeyboardInterrupt:
            assert verify_release(str(small_store.store)) == []
            for log in (small_store.store / "features" / "looks").glob("*/_delta_log"):
                versions = sorted(int(path.stem) for path in log.glob("*.json"))
                assert versions == list(range(versions[0], versions[-1] + 1)) if versions else True
    left = 1_000_000
    assert vacuum_store(str(small_store.store), 1, older_than=0) == []
    assert not small_store.run(["features.looks.sample={uniform: 3}"]).changed


def test_while_a_run_works_it_is_refused(small_store: SmallStore) -> None:
    with (
        store_lock(ObjectStore(small_store.store), "cliploom run x.yaml"),
        pytest.raises(StoreError, match="is in use by"),
    ):
        vacuum_store(str(small_store.store), 1, older_than=0)


def test_a_plan_that_saw_the_releases_before_it_can_not_publish(small_store: SmallStore) -> None:
    delete_rocket(small_store)
    objects = ObjectStore(small_store.store)
    seen = read_releases(objects)
    vacuum_store(str(small_store.store), 1, older_than=0)
    with pytest.raises(StoreError, match="another run published"):
        append_release(objects, seen.rows[-1].model_copy(update={"release": 3}), seen.version)


@pytest.mark.parametrize("keep", [0, -1])
def test_the_newest_release_always_stays(small_store: SmallStore, keep: int) -> None:
    with pytest.raises(SpecError, match=f"keep_releases is {keep}"):
        vacuum_store(str(small_store.store), keep, older_than=0)


def test_a_damaged_kept_release_stops_it(small_store: SmallStore) -> None:
    next((small_store.store / "parts").glob("rows-*.parquet")).unlink()
    before = files(small_store.store)
    with pytest.raises(StoreError, match="parts can't be read"):
        vacuum_store(str(small_store.store), 1, older_than=0)
    assert files(small_store.store) == before


def test_there_must_be_a_store_with_a_release(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no store"):
        vacuum_store(str(tmp_path / "none"), 1, older_than=0)
    with pytest.raises(StoreError, match="is not a store"):
        vacuum_store(str(tmp_path), 1, older_than=0)


def test_in_a_bucket_a_run_with_fresh_signs_and_files_just_written_are_left_alone() -> None:
    from cliploom.transforms.upkeep.vacuuming import _refuse_live_runs

    bucket = ObjectStore("memory:///")
    bucket.put("plans/20260101T000000-aaaa/listing.parquet", b"x")
    with pytest.raises(StoreError, match="run 20260101T000000-aaaa was active 0 s ago"):
        _refuse_live_runs(bucket)
    bucket.put("runs/20260101T000000-aaaa/outcome.json", b"{}")
    _refuse_live_runs(bucket)
    assert list(everything(bucket)) == []
    assert len(list(everything(bucket, settled=False))) == 2
    assert FRESH_S > 600


def test_nothing_that_the_release_names_is_ever_doomed(built_store: SmallStore) -> None:
    objects = ObjectStore(built_store.store)
    releases = read_releases(objects)
    kept = with_releases(objects, kept_by(objects, releases.rows), releases, releases.rows)
    doomed = {entry.path for entry in doomed_entries(everything(objects), kept, objects)}
    assert doomed
    release = releases.get(None)
    named = {shard.file.path for index in release.indexes.values() for shard in index.shards}
    named |= {file.path for export in release.exports.values() for file in export.files}
    for feature in release.features.values():
        named |= {f"{feature.table}/{name}" for name in table_files(objects, feature.table, feature.version)}
    named |= {f"runs/{release.run}/report.json"}
    assert named
    assert doomed.isdisjoint(named)
    # A checkpoint at version 1 takes the place of the entry before it; other tests may have left runs of their own.
    logs = {path for path in doomed if "/_delta_log/" in path}
    assert all(path.endswith(f"_delta_log/{0:020d}.json") for path in logs)
