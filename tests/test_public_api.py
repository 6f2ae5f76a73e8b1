"""The public Python API, and the plain files behind it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest
from stores import SmallStore

import cliploom
from cliploom.pipelines.listings import (
    failure_groups,
    failure_rows,
    failure_text,
    hit_table,
    release_rows,
    release_table,
)

ROOT = Path(__file__).parents[1]


def test_everything_that_is_public_is_there_and_documented() -> None:
    for name in cliploom.__all__:
        assert getattr(cliploom, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        cliploom.serach  # noqa: B018


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = ("apache_beam", "polars", "pyarrow", "openvino", "faiss", "av", "deltalake", "numpy")
    code = f"import sys, cliploom; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_a_store_says_what_is_in_it(built_store: SmallStore) -> None:
    store = cliploom.open(built_store.store)
    assert isinstance(store, cliploom.Store)
    assert repr(store) == f"Store('{built_store.store}', release=1)"
    assert {name: entry.rows for name, entry in store.features.items()} == {"frames": 12, "looks": 12}
    assert [release.release for release in store.releases] == [1]
    uids = store.items.select("uid").collect()["uid"].sort().to_list()
    assert uids == ["both", "noise", "page", "page-again", "videos/cat", "videos/coffee", "videos/rocket"]
    assert isinstance(store.search("a cat", top=1)[0], cliploom.Hit)


def test_a_table_is_a_lazy_frame_over_exactly_the_files_of_the_release(small_store: SmallStore) -> None:
    before = cliploom.open(small_store.store)
    frame = before.table("frames").collect()
    assert frame.columns == ["row_id", "uid", "start_s", "end_s", "frame", "item_digest", "pooled", "semantic"]
    assert frame.schema["semantic"] == pl.List(pl.Float32)
    assert frame["row_id"].is_unique().all()
    small_store.run(["sources.clips.glob=media/*.png"])
    assert before.table("frames").collect().equals(frame)
    assert set(cliploom.open(small_store.store).table("frames").collect()["uid"]) == {"page", "page-again"}
    assert cliploom.open(small_store.store, 1).table("frames").collect().height == frame.height


def test_an_unknown_feature_is_an_error_with_the_nearest(built_store: SmallStore) -> None:
    with pytest.raises(cliploom.SpecError, match="did you mean 'frames'"):
        cliploom.open(built_store.store).table("frame")


def test_a_feature_without_rows_is_an_empty_frame_and_gives_no_hits(small_store: SmallStore) -> None:
    for path in small_store.media.rglob("*.*"):
        if path.name != "noise.mp4":
            path.unlink()
    small_store.run(["limits.max_failed=100%"])
    store = cliploom.open(small_store.store)
    assert store.table("frames").collect().is_empty()
    assert store.search("a cat") == []


def test_polars_and_duckdb_read_the_tables_without_this_project(built_store: SmallStore) -> None:
    entry = cliploom.open(built_store.store).features["frames"]
    ours = cliploom.open(built_store.store).table("frames").collect().sort("row_id")
    theirs = pl.scan_delta(str(built_store.store / entry.table), version=entry.version).collect().sort("row_id")
    assert theirs.equals(ours)
    files = str(built_store.store / entry.table / "*.parquet")
    found = duckdb.sql(f"select uid, count(*), any_value(len(semantic)) from read_parquet('{files}') group by uid")
    assert sorted(found.fetchall()) == sorted((uid, rows, 384) for uid, rows in ours["uid"].value_counts().rows())


def test_plan_says_what_run_then_does(small_store: SmallStore) -> None:
    (small_store.media / "page.png").unlink()
    plan = cliploom.plan(small_store.spec)
    assert plan["verdicts"]["frames"]["deleted"] == 1
    result = cliploom.run(small_store.spec, supervised=False)
    assert result.verdicts == plan["verdicts"]
    assert (result.release.release, result.changed) == (2, True)


def test_a_supervised_run_is_the_same_run_in_a_process_of_its_own(small_store: SmallStore) -> None:
    told: list[str] = []
    result = cliploom.run(small_store.spec, overrides=["sources.clips.glob=media/*.png"], on_stage=told.append)
    assert isinstance(result, cliploom.RunResult)
    assert (result.release.release, result.release.counts["items"]) == (2, 2)
    assert "listing sources" in told
    with pytest.raises(cliploom.SpecError, match="no target 'flink'"):
        cliploom.run(small_store.spec, target="flink")


def test_release_rows_tell_what_changed(small_store: SmallStore) -> None:
    from cliploom.pipelines.running.publish import rollback

    (small_store.media / "page.png").unlink()
    small_store.run(["features.looks.sample={uniform: 3}"])
    rollback(str(small_store.store), 1)
    rows = release_rows(str(small_store.store))
    assert list(rows[0]) == [
        "release",
        "created_at",
        "run",
        "items",
        "rows",
        "failed",
        "bytes",
        "seconds",
        "changed",
        "note",
    ]
    assert [(row["release"], row["items"], row["failed"], row["rows"]) for row in rows[:2]] == [
        (1, 7, 1, 24),
        (2, 6, 1, 26),
    ]
    assert [row["changed"] for row in rows] == [
        "first release",
        "-1 item, frames -1 row, feature looks computed anew",
        "+1 item, frames +1 row, feature looks computed anew",
    ]
    assert rows[2]["note"] == "rollback to release 1"
    lines = release_table(rows).splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["release", "created_at", "items", "rows", "failed", "size", "took", "changed", "note"]
    assert release_table([]) == "No release yet."


def test_failures_are_listed_and_grouped(built_store: SmallStore) -> None:
    (row,) = failure_rows(str(built_store.store))
    assert (row["uid"], row["stage"], row["type"], row["transient"]) == ("noise", "probe", "NoVideo", False)
    (group,) = failure_groups(str(built_store.store))
    assert (group["items"], group["uid"], group["partial"]) == (1, "noise", False)
    assert failure_text([group]).startswith("1 item: NoVideo in probe (permanent)\n  e.g. noise: ")
    assert failure_text([]) == "No failures."


def test_hits_are_shown_as_a_table(built_store: SmallStore) -> None:
    hits = cliploom.open(built_store.store).search("a cup of coffee", top=2, index=["frames"])
    lines = hit_table(hits).splitlines()
    assert lines[0].split() == ["#", "score", "fit", "uid", "at", "file"]
    assert lines[1].split()[3] == "videos/coffee"
    assert lines[1].endswith("coffee.mp4")
    assert hit_table([]) == "No hits."
    untimed = hits[0].__class__("speech", "spoken", "a", 0.5, None, None, None, "a.json", {"lang": "en"}, 1, "hello")
    assert hit_table([untimed]).splitlines()[1].split() == ["1", "0.500", "a", "hello", "lang=en", "a.json"]


def test_hits_of_several_sources_show_theirs(built_store: SmallStore) -> None:
    (hit,) = cliploom.open(built_store.store).search("a cup of coffee", top=1, index=["frames"])
    said = hit.__class__("speech", "spoken", hit.uid, 0.5, None, None, None, "a.json", {}, 1, "a cup of coffee")
    lines = [line.split() for line in hit_table([hit, said]).splitlines()]
    assert lines[0][:5] == ["#", "score", "fit", "source", "uid"]
    assert lines[1][3:5] == ["clips", "videos/coffee"]
    assert lines[2][2:4] == ["spoken", "videos/coffee"]  # without a fit
