"""The public Python API, and the plain files behind it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest
from stores import SmallStore

import cliploom
from cliploom.errors import UnknownNameError, UnknownReleaseError
from cliploom.pipelines.listings import (
    failure_groups,
    failure_rows,
    failure_text,
    hit_table,
    release_rows,
    release_table,
)
from cliploom.schemas.table_notes import STORE_TABLES

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
    assert repr(store) == (
        f"Store('{built_store.store}', release=1, items=7, features=['frames', 'looks'], "
        "indexes=['frames', 'graph', 'lists'])"
    )
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


def test_every_table_of_a_release_is_read_by_its_name(built_store: SmallStore) -> None:
    store = cliploom.open(built_store.store)
    assert store.tables == ("frames", "looks", "items", "failures", "contents", "parts", "releases")
    tables = {name: store.table(name).collect() for name in store.tables}
    assert tables["items"].equals(store.items.collect())
    assert tables["items"].height == 7
    assert tables["failures"]["uid"].to_list() == ["noise"]
    assert store.failures.collect().equals(tables["failures"])
    assert tables["contents"].filter(feature="frames")["rows"].sum() == tables["frames"].height
    assert tables["releases"]["release"].to_list() == [1]
    for name, note in STORE_TABLES.items():
        assert list(note.columns) == note.schema.names
        if name in tables:
            assert tables[name].columns == note.schema.names


def test_an_unknown_name_is_an_error_with_the_nearest_and_a_key_error(built_store: SmallStore) -> None:
    store = cliploom.open(built_store.store)
    for call, message in (
        (lambda: store.table("frame"), "Release 1 has no table 'frame'; did you mean 'frames'?"),
        (lambda: store.table("zzz"), "known: contents, failures, frames, items, looks, parts, releases."),
        (lambda: store.table("narrations"), "no source of the spec gives narrations; it has frames, looks, items, "),
        (lambda: store.search("a cat", index=["frame"]), "There is no index 'frame'; did you mean 'frames'?"),
        (lambda: store.search(like="videos/cta"), "'videos/cta' is neither a file nor a uid of release 1"),
        (lambda: store.search("a cat", in_uid="cta"), "Release 1 has no item 'cta'"),
        (lambda: store.search("a cat", group="yaer"), "There is no column 'yaer' to group by"),
        (lambda: cliploom.ClipWindows(str(built_store.store), "frame"), "has no feature 'frame'; did you mean"),
        (lambda: cliploom.Pairs(str(built_store.store), "pairs"), "Release 1 has no export of pairs 'pairs'"),
    ):
        with pytest.raises(KeyError) as caught:
            call()
        assert isinstance(caught.value, UnknownNameError)
        assert isinstance(caught.value, cliploom.SpecError)
        assert message in str(caught.value)
    windows = cliploom.ClipWindows(str(built_store.store), "frames", output="pooled", hdf5=False)
    with pytest.raises(cliploom.CliploomError, match=r"^'nobody' has no features in this release"):
        windows["nobody", 0.0, 1.0]
    with pytest.raises(UnknownReleaseError, match=r"^There is no release 7; the store has 1 to 1 "):
        cliploom.open(built_store.store, 7)
    assert issubclass(UnknownReleaseError, KeyError)
    assert issubclass(UnknownReleaseError, cliploom.StoreError)


def test_objects_say_in_a_line_what_they_are(built_store: SmallStore) -> None:
    store = cliploom.open(built_store.store)
    part = cliploom.QueryPart("bytes", b"x" * 1000, negative=True)
    query = cliploom.Query((cliploom.QueryPart("text", "a cat"), part), top=2, moments=1)
    assert repr(query) == (
        "Query((QueryPart('text', 'a cat'), QueryPart('bytes', <1,000 bytes>, negative=True)), top=2, moments=1)"
    )
    assert repr(cliploom.QueryPart("vector", [[0.0] * 384] * 3)) == "QueryPart('vector', <3 x 384 numbers>)"
    answer = store.ask(cliploom.Query((cliploom.QueryPart("text", "a cat"),), top=1, index=("frames",)))
    assert repr(answer).startswith("Answer(release=1, hits=1, total=6, fit=")
    assert repr(answer.hits[0]).startswith("Hit('")
    assert "index='frames'" in repr(answer.hits[0])
    assert repr(store.release).startswith("Release(release=1, created_at='20")
    assert "features=['frames', 'looks']" in str(store.release)
    entry = store.features["frames"]
    assert repr(entry) == (
        "FeatureEntry(source='clips', encoder='efficientnet_lite0', rows=12, outputs={'pooled': 1280, 'semantic': 384})"
    )
    assert entry.model_validate_json(entry.model_dump_json()) == entry
    windows = cliploom.ClipWindows(str(built_store.store), "frames", output="pooled", hdf5=False)
    assert repr(windows) == (
        f"ClipWindows('{built_store.store}', 'frames', release=1, output='pooled', videos=6, dim=1280, rate=1)"
    )


def test_a_store_keeps_the_models_that_it_was_asked_with(
    built_store: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cliploom.transforms.encoders import graph, text

    loaded: list[str] = []

    def counted(kind: type, name: str) -> None:
        original = kind.__init__

        def opened(self: object, *args: object, **options: object) -> None:
            loaded.append(name)
            original(self, *args, **options)

        monkeypatch.setattr(kind, "__init__", opened)

    counted(text.TextTower, "text")
    counted(graph.GraphEncoder, "pictures")
    store = cliploom.open(built_store.store)
    for words in ("a cat", "a cup of coffee", "a rocket"):
        store.search(words)
    for name in ("page.png", "videos/cat.mp4"):
        store.search(like=str(built_store.media / name))
    assert sorted(loaded) == ["pictures", "text"]


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
    assert repr(plan).startswith("Plan(items=6, compute_items=0, rows=0, ")
    assert str(plan).startswith("frames: ")
    assert json.loads(json.dumps(plan)) == plan
    result = cliploom.run(small_store.spec, supervised=False)
    assert result.verdicts == plan["verdicts"]
    assert repr(result).startswith("RunResult(changed=True, seconds=")
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
        "precision",
        "quantised",
    ]
    assert [(row["release"], row["items"], row["failed"], row["rows"]) for row in rows[:2]] == [
        (1, 7, 1, 24),
        (2, 6, 1, 26),
    ]
    assert [row["changed"] for row in rows] == [
        "first release",
        "-1 item, frames -1 row, feature looks recomputed",
        "+1 item, frames +1 row, feature looks recomputed",
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
