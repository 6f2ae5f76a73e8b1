"""One sentence of the nightly promise a test: what a run computes, copies, keeps and refuses, by real runs."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from nights import BLUE, SPEC, YELLOW, Project, age, assert_sound, draw, encoder_on_path, paint

from cliploom.pipelines.running.action import run_action
from cliploom.pipelines.running.metrics import metrics_text, write_metrics
from cliploom.pipelines.running.observers import Observers
from cliploom.pipelines.running.preview import pace_of, plan_preview, preview_text
from cliploom.pipelines.running.publish import publish_plan, rollback
from cliploom.pipelines.running.report import summary_lines
from cliploom.pipelines.running.run import RunOptions, RunResult
from cliploom.schemas.errors import LimitError, SpecError, StoreError
from cliploom.schemas.plan import Accept
from cliploom.transforms.store.releases import read_releases

FULL = "CLIPLOOM_TEST_FULL"


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny encoder's package, on the path of this process."""
    with encoder_on_path(tmp_path_factory.mktemp("encoder")) as folder:
        yield folder


@pytest.fixture(scope="session")
def first_night(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A store with one release of six pictures; shared, only read it. It stands where ``project`` stands."""
    folder = tmp_path_factory.mktemp("nights")
    project = Project(folder / "project")
    project.write_spec()
    for number in range(4):
        draw(project.media / f"still{number}.png", number)
    for number in range(2):
        draw(project.media / f"moving{number}.gif", 100 + number)
    project.run()
    return project.copy(folder / "first")


@pytest.fixture
def project(first_night: Project) -> Project:
    """The first night to go on from, at the place where it was made: items are known by their absolute paths."""
    project = Project(first_night.folder.parent / "project")
    shutil.rmtree(project.folder)
    return first_night.copy(project.folder)


def verdicts(result: RunResult, feature: str = "frames") -> dict[str, int]:
    return result.verdicts[feature]


def computed(result: RunResult) -> int:
    """Items that were read and encoded."""
    return result.counters.get("items_done", 0)


def reasons(project: Project, verdict: str) -> list[str]:
    plans = sorted(project.store.glob("plans/*/verdicts.parquet"))
    return sorted(set(pl.read_parquet(plans[-1]).filter(pl.col("verdict") == verdict)["reason"]))


def test_a_night_on_which_nothing_changed_publishes_nothing(project: Project) -> None:
    result = project.run()
    assert (result.changed, verdicts(result), project.releases()) == (False, {"unchanged": 6}, [1])
    assert "probed" not in result.counters


def test_spelling_out_defaults_publishes_nothing(project: Project) -> None:
    spelt = {
        "indexes": {"frames": {"feature": "frames", "output": "colour", "metric": "l2", "kind": "auto"}},
        "exports": {"h5": {"kind": "hdf5", "feature": "frames", "single": False}},
    }
    project.write_spec(spelt)
    assert not project.run().changed


def test_touched_files_cost_a_digest_and_no_decode(project: Project) -> None:
    for path in project.media.iterdir():
        age(path, 60)
    before = project.snapshot()
    result = project.run()
    assert (result.counters["recognized"], computed(result), verdicts(result)) == (6, 0, {"unchanged": 6})
    assert "probed" not in result.counters
    assert project.parts(1) == project.parts()
    assert project.snapshot() == before
    assert not project.run().changed


def test_a_renamed_file_keeps_its_rows_under_its_new_name(project: Project) -> None:
    old = project.rows()
    (project.media / "moving0.gif").rename(project.media / "renamed.gif")
    result = project.run()
    assert (computed(result), verdicts(result)) == (0, {"moved": 1, "unchanged": 5})
    assert reasons(project, "moved") == ["renamed from moving0, rows are copied"]
    new = project.rows()
    assert "moving0" not in set(new["uid"])
    kept = new.filter(new["uid"] == "renamed")
    assert kept["colour"].to_list() == old.filter(old["uid"] == "moving0")["colour"].to_list()
    assert_sound(project)


def test_renaming_every_file_is_not_taken_for_deleting_them(project: Project) -> None:
    for path in list(project.media.iterdir()):
        path.rename(path.with_stem(f"new-{path.stem}"))
    result = project.run(["limits.max_deleted=0%"])
    assert (computed(result), verdicts(result)) == (0, {"moved": 6})
    assert (result.counters["recognized"], "probed" in result.counters) == (6, False)


def test_a_new_index_or_export_computes_no_feature(project: Project) -> None:
    project.write_spec(
        {
            "indexes": SPEC["indexes"] | {"more": {"feature": "frames", "kind": "hnsw"}},
            "exports": SPEC["exports"] | {"one": {"kind": "hdf5", "feature": "frames", "single": True}},
        }
    )
    result = project.run()
    assert (result.changed, computed(result), verdicts(result)) == (True, 0, {"unchanged": 6})
    assert project.parts(1) == project.parts()
    seen = project.snapshot()
    assert seen.indexes["more"] == seen.indexes["frames"]
    assert seen.exports["one"] == seen.exports["h5"]


def test_a_second_feature_computes_only_itself(project: Project) -> None:
    more = {"more": {"source": "clips", "sample": {"uniform": 1}, "encoder": "tiny"}}
    project.write_spec({"features": SPEC["features"] | more})
    result = project.run()
    assert (verdicts(result), verdicts(result, "more")) == ({"unchanged": 6}, {"new": 6})
    assert (computed(result), result.counters["rows"]) == (6, 6)
    assert project.parts(1) < project.parts()


def test_a_feature_that_is_left_out_goes_and_comes_back_without_computing(project: Project) -> None:
    more = {"more": {"source": "clips", "sample": {"uniform": 1}, "encoder": "tiny"}}
    project.write_spec({"features": SPEC["features"] | more})
    project.run()
    with_both = project.snapshot()
    project.write_spec()
    project.run()
    assert set(project.release().features) == {"frames"}
    project.write_spec({"features": SPEC["features"] | more})
    assert computed(project.run()) == 0
    assert project.snapshot() == with_both


def test_another_precision_is_computed_again_and_says_why(project: Project) -> None:
    result = project.run(["encoders.tiny.precision=bf16"])
    assert (computed(result), verdicts(result)) == (6, {"config_changed": 6})
    assert reasons(project, "config_changed") == ["encoder tiny: precision f32 -> bf16"]


def test_a_config_that_comes_back_reuses_its_parts(project: Project) -> None:
    before = project.snapshot()
    project.run(["encoders.tiny.shade=0.5"])
    assert project.snapshot() != before
    result = project.run()
    assert (result.changed, computed(result)) == (True, 0)
    assert project.snapshot() == before


def test_an_edited_file_is_computed_and_nothing_else(project: Project) -> None:
    before = project.rows()
    draw(project.media / "still1.png", 77)
    result = project.run()
    assert (computed(result), verdicts(result)) == (1, {"content_changed": 1, "unchanged": 5})
    assert reasons(project, "content_changed") == ["the file's bytes changed"]
    after = project.rows()
    assert after["row_id"].to_list() == before["row_id"].to_list()
    changed = after.filter(after["item_digest"] != before["item_digest"])
    assert changed["uid"].to_list() == ["still1"]
    assert_sound(project)


def test_a_deleted_file_is_gone_from_table_index_and_export(project: Project) -> None:
    (project.media / "moving1.gif").unlink()
    result = project.run()
    assert (computed(result), verdicts(result)) == (0, {"unchanged": 5, "deleted": 1})
    seen = project.snapshot()
    assert "moving1" not in project.uids()
    assert seen.indexes["frames"] == [row[0] for row in seen.rows["frames"]]
    assert set(seen.exports["h5"]) == set(project.uids())
    assert not project.run().changed


def test_equal_files_are_computed_once_and_both_have_rows(project: Project) -> None:
    draw(project.media / "twin-a.gif", 501)
    shutil.copy(project.media / "twin-a.gif", project.media / "twin-b.gif")
    shutil.copy(project.media / "still0.png", project.media / "twin-c.png")
    result = project.run()
    assert (computed(result), verdicts(result)) == (1, {"new": 2, "moved": 1, "unchanged": 6})
    rows = project.rows()
    colours = {uid: rows.filter(rows["uid"] == uid)["colour"].to_list() for uid in project.uids()}
    assert colours["twin-a"] == colours["twin-b"]
    assert colours["twin-c"] == colours["still0"]


def test_deleting_the_original_of_two_equal_files_leaves_the_other(project: Project) -> None:
    shutil.copy(project.media / "still0.png", project.media / "twin.png")
    project.run()
    (project.media / "still0.png").unlink()
    assert computed(project.run()) == 0
    assert {"twin"} <= set(project.uids())
    assert "still0" not in project.uids()


def test_a_file_that_comes_back_gets_its_number_and_rows_back(project: Project) -> None:
    before = project.snapshot()
    away = project.folder / "away.gif"
    (project.media / "moving0.gif").rename(away)
    project.run()
    away.rename(project.media / "moving0.gif")
    result = project.run()
    assert computed(result) == 0
    assert project.snapshot() == before


def test_a_failure_is_listed_and_not_tried_again_until_asked(project: Project) -> None:
    paint(project.media / "blue.png", BLUE)
    result = project.run()
    assert result.release.counts["failed"] == 1
    (failure,) = project.failures().to_dicts()
    assert (failure["uid"], failure["type"], failure["transient"], failure["attempts"]) == ("blue", "Encode", False, 1)
    assert "blue" in failure["message"]
    quiet = project.run()
    assert (quiet.changed, verdicts(quiet)) == (False, {"unchanged": 6, "failed": 1})
    tried = project.run(retry_failed=True)
    assert (computed(tried), verdicts(tried)) == (1, {"unchanged": 6, "retry": 1})
    assert project.failures()["attempts"].to_list() == [2]


def test_a_failure_of_a_deleted_file_is_gone_and_stays_gone(project: Project) -> None:
    draw(project.media / "beside.png", 6)
    paint(project.media / "blue.png", BLUE)
    project.run()
    (project.media / "blue.png").unlink()
    project.run()
    assert project.failures().is_empty()
    assert not project.run().changed
    draw(project.media / "other.png", 7)
    project.run()
    assert project.failures().is_empty()


def test_a_transient_failure_is_tried_each_night_up_to_max_attempts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FULL, __file__)
    paint(project.media / "yellow.png", YELLOW)
    found = [verdicts(project.run()) for _ in range(4)]
    tried: dict[str, int] = {"unchanged": 6, "retry": 1}
    assert found == [{"new": 1, "unchanged": 6}, tried, tried, {"unchanged": 6, "failed": 1}]
    assert project.failures().select("transient", "attempts").rows() == [(True, 3)]


def test_a_failure_that_heals_leaves_the_table_for_good(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FULL, __file__)
    paint(project.media / "yellow.png", YELLOW)
    project.run()
    assert project.failures().height == 1
    monkeypatch.delenv(FULL)
    assert verdicts(project.run()) == {"unchanged": 6, "retry": 1}
    assert project.failures().is_empty()
    assert "yellow" in project.uids()
    # The part that told of the failure still lies in the store; it must not bring the failure back.
    draw(project.media / "other.png", 8)
    assert verdicts(project.run()) == {"new": 1, "unchanged": 7}
    assert project.failures().is_empty()


def test_a_file_that_is_no_picture_is_a_failure_until_it_is_repaired(project: Project) -> None:
    path = project.media / "noise.png"
    path.write_bytes(b"no picture at all" * 10)
    project.run()
    (failure,) = project.failures().to_dicts()
    assert (failure["uid"], failure["stage"], failure["feature"]) == ("noise", "probe", "")
    assert not project.run().changed
    assert project.run(retry_failed=True).counters["failed_NoVideo"] == 1
    assert project.failures()["attempts"].to_list() == [2]
    draw(path, 9)
    project.run()
    assert project.failures().is_empty()
    assert "noise" in project.uids()


def test_a_changed_file_whose_new_bytes_fail_keeps_its_old_rows(project: Project) -> None:
    before = project.rows()
    paint(project.media / "still2.png", BLUE)
    result = project.run()
    assert result.release.counts["outdated"] == 1
    assert project.rows().rows() == before.rows()
    assert project.failures()["uid"].to_list() == ["still2"]
    quiet = project.run()
    assert (quiet.changed, computed(quiet)) == (False, 0)


def test_a_changed_file_that_can_not_be_probed_keeps_its_old_rows(project: Project) -> None:
    before = project.rows()
    (project.media / "still2.png").write_bytes(b"cut off")
    assert project.run().release.counts["outdated"] == 1
    assert project.rows().rows() == before.rows()
    assert not project.run().changed


def test_too_many_failures_stop_the_run_and_publish_goes_on_without_computing(project: Project) -> None:
    for number in range(3):
        paint(project.media / f"blue{number}.png", (0, 0, 255 - number))
    with pytest.raises(LimitError, match=r"3 of 9 items failed, more than max_failed \(10%\).*--accept-failures"):
        project.run(["limits.max_failed=10%"])
    assert project.releases() == [1]
    with pytest.raises(LimitError):
        publish_plan(str(project.store), RunOptions(), lambda text: None)
    result = publish_plan(str(project.store), RunOptions(accept=Accept(failures=True)), lambda text: None)
    # The figures are those of the whole run: what was computed before it stopped counts once.
    assert (project.releases(), computed(result)) == ([1, 2], 3)
    assert project.failures().height == 3
    with pytest.raises(StoreError, match="is published already"):
        publish_plan(str(project.store), RunOptions(accept=Accept(failures=True)), lambda text: None)


def test_too_many_deletes_stop_the_run_and_publish_goes_on(project: Project) -> None:
    for number in range(4):
        (project.media / f"still{number}.png").unlink()
    draw(project.media / "new.png", 12)
    with pytest.raises(LimitError, match=r"4 of 6 items are not listed any more.*--allow-deletes"):
        project.run()
    result = publish_plan(str(project.store), RunOptions(accept=Accept(deletes=True)), lambda text: None)
    assert computed(result) == 1  # before the run stopped
    assert project.uids() == ["moving0", "moving1", "new"]
    assert_sound(project)


def test_too_much_to_compute_again_stops_before_computing(project: Project) -> None:
    changes = ["limits.max_recompute=50%", "encoders.tiny.precision=bf16"]
    with pytest.raises(LimitError, match=r"6 of 6 items would be computed again.*precision f32 -> bf16"):
        project.run(changes)
    with pytest.raises(LimitError, match="computed again"):
        publish_plan(str(project.store), RunOptions(), lambda text: None)
    result = publish_plan(str(project.store), RunOptions(accept=Accept(recompute=True)), lambda text: None)
    assert (computed(result), project.releases()) == (6, [1, 2])


def test_a_listing_that_is_suddenly_empty_deletes_nothing(project: Project) -> None:
    before = project.snapshot()
    away = project.folder / "away"
    project.media.rename(away)
    project.media.mkdir()
    with pytest.raises(LimitError, match=r"clips: the source had items and lists none any more.*--allow-deletes"):
        project.run(["limits.max_deleted=100%"])
    assert project.snapshot() == before
    project.media.rmdir()
    away.rename(project.media)
    assert not project.run().changed


def test_an_empty_listing_is_published_when_a_person_says_so(project: Project) -> None:
    shutil.rmtree(project.media)
    project.media.mkdir()
    with pytest.raises(LimitError):
        project.run()
    publish_plan(str(project.store), RunOptions(accept=Accept(deletes=True)), lambda text: None)
    assert project.rows().is_empty()
    assert project.release(1).counts["items"] == 6


def test_one_of_two_sources_that_is_suddenly_empty_deletes_nothing(project: Project) -> None:
    draw(project.folder / "more" / "a.png", 40)
    sources = SPEC["sources"] | {"few": {"kind": "media", "glob": "more/*.*"}}
    project.write_spec(
        {
            "sources": sources,
            "features": SPEC["features"] | {"rare": {"source": "few", "sample": {"every": "1s"}, "encoder": "tiny"}},
        }
    )
    project.run()
    (project.folder / "more" / "a.png").unlink()
    with pytest.raises(LimitError, match=r"^few: "):
        project.run()


def test_a_subset_is_computed_first_and_never_deletes_the_rest(first_night: Project, tmp_path: Path) -> None:
    fresh = Project(tmp_path / "p")
    shutil.copytree(first_night.media, fresh.media)
    fresh.write_spec()
    assert verdicts(fresh.run(limit=2)) == {"new": 2}
    assert verdicts(fresh.run(limit=4)) == {"new": 2, "unchanged": 2}
    assert verdicts(fresh.run(limit=1)) == {"unchanged": 4}
    assert verdicts(fresh.run()) == {"new": 2, "unchanged": 4}
    assert fresh.snapshot().by_name() == first_night.snapshot().by_name()


def test_a_full_refresh_computes_everything_once_more(project: Project) -> None:
    before = project.snapshot()
    result = project.run(full_refresh=True)
    assert (computed(result), verdicts(result)) == (6, {"config_changed": 6})
    assert reasons(project, "config_changed") == ["computed again as asked"]
    assert not project.parts(1) & project.parts()
    assert project.snapshot() == before
    assert not project.run().changed


def test_an_upgrade_of_the_program_computes_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliploom.pipelines.running.run.program_version", lambda: "99.0")
    assert not project.run().changed


def test_a_file_that_changes_while_it_is_read_is_taken_the_next_night(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = draw(project.media / "growing.gif", 600)
    at_start = _change_before_decode(monkeypatch, path, lambda: draw(path, 601))
    result = project.run()
    assert at_start.calls == 1
    (failure,) = project.failures().to_dicts()
    assert (failure["uid"], failure["transient"]) == ("growing", True)
    assert "changed while the run was reading it" in failure["message"]
    assert result.changed
    assert verdicts(project.run()) == {"content_changed": 1, "unchanged": 6}
    assert project.failures().is_empty()
    assert_sound(project)


def test_a_file_that_vanishes_during_the_run_is_a_failure_and_gone_the_next_night(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = draw(project.media / "going.gif", 602)
    _change_before_decode(monkeypatch, path, path.unlink)
    project.run()
    (failure,) = project.failures().to_dicts()
    assert (failure["uid"], failure["transient"]) == ("going", True)
    assert "is not there (any more)" in failure["message"]
    project.run()
    assert project.failures().is_empty()


class _Once:
    """Does something before the first decode of a file."""

    def __init__(self, path: Path, act: Any, decode: Any) -> None:
        self.calls = 0
        self._path, self._act, self._decode = path, act, decode

    def __call__(self, path: Path, *rest: Any) -> Any:
        if path == self._path and not self.calls:
            self.calls += 1
            self._act()
        return self._decode(path, *rest)


def _change_before_decode(monkeypatch: pytest.MonkeyPatch, path: Path, act: Any) -> _Once:
    from cliploom.transforms.media import item_reader

    once = _Once(path, act, item_reader.decode)
    monkeypatch.setattr(item_reader, "decode", once)
    return once


def test_a_rollback_points_back_and_the_next_night_goes_on_from_there(project: Project) -> None:
    first = project.snapshot()
    draw(project.media / "more.gif", 300)
    project.run()
    second = project.snapshot()
    rollback(str(project.store), 1)
    assert project.snapshot() == first
    assert_sound(project)
    result = project.run()
    assert (computed(result), project.releases()) == (0, [1, 2, 3, 4])
    assert project.snapshot() == second
    assert project.snapshot(1) == first


def test_many_small_parts_are_merged_by_a_run_when_that_pays(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliploom.transforms.publish.assemble.assemble.__defaults__", (6,))
    before = project.snapshot()
    draw(project.media / "seventh.png", 88)
    result = project.run()
    assert (computed(result), len(project.parts())) == (1, 1)
    kept = [row for row in project.snapshot().rows["frames"] if row[1] != "seventh"]
    assert kept == before.rows["frames"]
    assert_sound(project)


def test_compact_merges_small_parts_without_changing_a_row(project: Project) -> None:
    before = project.snapshot()
    result = project.run(compact=True)
    assert (result.changed, computed(result), len(project.parts())) == (True, 0, 1)
    assert result.counters["bytes_rewritten"] > 0
    assert project.snapshot() == before
    assert_sound(project)
    assert not project.run().changed


def report_of(project: Project, result: RunResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(project.objects.get(f"runs/{result.run}/report.json"))
    assert found == result.report
    return found


def test_a_run_leaves_a_report_with_verdicts_rates_failures_versions_and_bytes(project: Project) -> None:
    draw(project.media / "more.gif", 200)
    paint(project.media / "blue.png", BLUE)
    (project.media / "still0.png").rename(project.media / "renamed.png")
    report = report_of(project, project.run())
    assert (report["state"], report["release"]) == ("published", 2)
    assert report["verdicts"] == {"frames": {"new": 2, "moved": 1, "unchanged": 5}}
    assert (report["counts"]["items"], report["counts"]["failed"]) == (8, 1)
    (failure,) = report["failures"]
    assert (failure["type"], failure["stage"], failure["items"], failure["uid"]) == ("Encode", "encode", 1, "blue")
    assert report["rates"]["rows_per_second"] > 0
    assert all(report["bytes"][what] > 0 for what in ("written", "rewritten", "indexes", "exports"))
    assert {"cliploom", "python", "av", "libavcodec", "openvino", "faiss-cpu", "polars"} <= set(report["versions"])
    assert report["indexes"]["frames"]["recall"] == 1.0
    assert report["indexes"]["frames"]["reason"] == "1 parts left, 2 came"


def test_a_quiet_night_and_a_stopped_one_leave_reports_too(project: Project) -> None:
    quiet = report_of(project, project.run())
    assert (quiet["state"], quiet["release"], quiet["verdicts"]) == ("unchanged", 1, {"frames": {"unchanged": 6}})
    shutil.rmtree(project.media)
    project.media.mkdir()
    with pytest.raises(LimitError):
        project.run()
    newest = max(project.store.glob("runs/*/report.json"), key=lambda path: path.stat().st_mtime_ns)
    assert json.loads(newest.read_text())["state"] == "stopped"


def test_drift_compares_old_and_new_vectors_of_rows_computed_again(project: Project) -> None:
    rows = project.rows().height
    same = project.run(["encoders.tiny.precision=bf16"]).report["drift"]
    assert same == [{"feature": "frames", "output": "colour", "rows": rows, "mean_cosine": 1.0, "least_cosine": 1.0}]
    (turned,) = project.run(["encoders.tiny.shade=-1"]).report["drift"]
    assert (turned["rows"], turned["mean_cosine"]) == (rows, -1.0)
    draw(project.media / "still1.png", 78)
    (edited,) = project.run(["encoders.tiny.shade=-1"]).report["drift"]
    assert edited["rows"] == 1
    assert edited["mean_cosine"] < 1
    report = {"drift": [edited], "indexes": {}, "counts": {}, "attempts": {"restarts": []}}
    assert "mean cosine" in summary_lines(report)[0]
    (project.media / "still2.png").rename(project.media / "elsewhere.png")
    assert project.run(["encoders.tiny.shade=-1"]).report["drift"] == []
    # Every second picture of the new sampling is one of the old ones, under another number.
    (finer,) = project.run(["encoders.tiny.shade=-1", "features.frames.sample.every=500ms"]).report["drift"]
    assert (finer["mean_cosine"], finer["least_cosine"]) == (1.0, 1.0)
    assert finer["rows"] == rows


def plain(result: RunResult) -> dict[str, Any]:
    """The result as it comes from the supervised process."""
    return json.loads(json.dumps(asdict(result) | {"release": result.release.model_dump(mode="json")}))  # type: ignore[no-any-return]


def test_metrics_say_how_the_run_ended_in_prometheus_text(project: Project, tmp_path: Path) -> None:
    draw(project.media / "more.png", 201)
    text = metrics_text(0, 1_800_000_000.5, plain(project.run(["encoders.tiny.shade=-1"])))
    lines = text.splitlines()
    assert all(
        re.fullmatch(r"# (HELP|TYPE) .+|[a-z_]+(\{([a-z_]+=\"[^\"]*\",?)+\})? -?[0-9.e+-]+", line) for line in lines
    )
    for line in (
        "cliploom_run_success 1",
        "cliploom_run_end_time_seconds 1800000000.5",
        "cliploom_release 2",
        'cliploom_items{state="listed"} 7',
        'cliploom_verdicts{feature="frames",verdict="new"} 1',
        'cliploom_index_recall{index="frames"} 1.0',
        'cliploom_drift_mean_cosine{feature="frames",output="colour"} -1.0',
    ):
        assert line in lines
    assert text.count("# TYPE cliploom_verdicts gauge") == 1
    target = tmp_path / "clips.prom"
    target.write_text("old")
    write_metrics(target, text)
    assert target.read_text() == text
    assert os.listdir(tmp_path) == ["clips.prom"]


def test_a_run_that_fails_says_so_in_its_metrics(tmp_path: Path) -> None:
    target, spec = tmp_path / "clips.prom", tmp_path / "missing.yaml"
    request = {"action": "run", "spec": str(spec), "command": "cliploom run"}
    with pytest.raises(SpecError, match="There is no spec file"):
        run_action(request, spec, (), as_json=False, strict=False, observers=Observers(target))
    assert {"cliploom_run_success 0", "cliploom_run_exit_code 2"} <= set(target.read_text().splitlines())
    with pytest.raises(SpecError, match="--metrics-file: there is no folder"):
        run_action({}, spec, (), as_json=False, strict=False, observers=Observers(tmp_path / "no" / "clips.prom"))


def test_a_plan_tells_reasons_with_counts_and_time(project: Project) -> None:
    preview = plan_preview(project.spec, ["encoders.tiny.precision=bf16"], RunOptions())
    text = preview_text(preview)
    said = r"config changed: encoder tiny: precision f32 -> bf16: 6 items recomputed, about [0-9.]+ m?s of one core"
    assert re.search(said, text), text
    assert project.releases() == [1]
    assert json.loads(json.dumps(preview, default=str))["measured"] is None


def test_a_plan_can_measure_a_sample_and_keeps_nothing_of_it(project: Project) -> None:
    for number in range(5):
        draw(project.media / f"more{number}.gif", 210 + number)
    files = set(project.store.glob("features/**/*"))
    preview = plan_preview(project.spec, (), RunOptions(), sample=3)
    measured = preview["measured"]
    assert measured["items"] == 3
    assert measured["rows"] >= 6
    assert measured["rows"] < measured["rows_expected"] <= 15
    assert measured["store_bytes"] > measured["bytes"] > 0
    assert "Measured on 3 items" in preview_text(preview)
    assert set(project.store.glob("features/**/*")) == files
    for path in project.media.glob("more*"):
        path.unlink()
    assert plan_preview(project.spec, (), RunOptions(), sample=3)["measured"] is None


def test_a_plan_takes_its_pace_from_the_last_reports(project: Project) -> None:
    release = project.release()
    objects = project.objects
    assert pace_of(objects, read_releases(objects)) == 1.0
    report = {"counters": {"decode_ms": 3000, "encode_ms": 1000}, "counts": {"cost_ms": 2000}}
    objects.put(f"runs/{release.run}/report.json", json.dumps(report).encode())
    assert pace_of(objects, read_releases(objects)) == 2.0


def test_an_index_trains_again_when_its_rows_have_doubled_and_says_so(project: Project) -> None:
    project.write_spec({"indexes": {"frames": {"feature": "frames", "metric": "l2", "kind": "ivf_sq8"}}})
    trained = project.run().release.indexes["frames"]
    draw(project.media / "one.png", 400)
    kept = project.run().release.indexes["frames"]
    assert (kept.trained, kept.rows) == (trained.trained, trained.rows + 1)
    for number in range(trained.rows):
        draw(project.media / f"many{number}.png", 410 + number)
    result = project.run()
    doubled = result.release.indexes["frames"]
    assert doubled.trained != trained.trained
    said = f"rows doubled since training ({trained.rows} -> {doubled.rows})"
    assert result.report["indexes"]["frames"]["reason"] == said
    assert f"  index frames: {said}" in summary_lines(result.report)
    assert_sound(project)


def test_two_sources_may_list_the_same_files(project: Project) -> None:
    more = {"again": {"source": "other", "sample": {"uniform": 1}, "encoder": "tiny"}}
    sources = SPEC["sources"] | {"other": {"kind": "media", "glob": "media/*.gif", "uid": "stem"}}
    project.write_spec({"sources": sources, "features": SPEC["features"] | more})
    result = project.run()
    assert verdicts(result, "again") == {"new": 2}
    assert project.uids("again") == ["moving0", "moving1"]
    assert {row[1] for row in project.snapshot().items} == {"clips", "other"}
    assert not project.run().changed


def test_another_rule_of_uids_copies_all_rows(project: Project) -> None:
    inside = project.media / "folder" / "still9.png"
    draw(inside, 500)
    project.run()
    vectors = sorted(row[-1] for row in project.snapshot().rows["frames"])
    project.write_spec({"sources": {"clips": SPEC["sources"]["clips"] | {"uid": "stem"}}})
    result = project.run()
    assert (computed(result), verdicts(result)) == (0, {"moved": 1, "unchanged": 6})
    assert "still9" in project.uids()
    assert sorted(row[-1] for row in project.snapshot().rows["frames"]) == vectors


def test_files_split_in_time_have_the_same_rows_whatever_the_split(first_night: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "split")
    shutil.copytree(first_night.media, project.media)
    project.write_spec()
    split = project.run(["limits.segment=1s"])
    assert computed(split) > 6
    assert project.snapshot().by_name() == first_night.snapshot().by_name()
    assert not project.run().changed
    # A feature that can't be split makes the files whole again; what is held in segments stays as it is.
    more = {"more": {"source": "clips", "sample": {"uniform": 2}, "encoder": "tiny"}}
    project.write_spec({"features": SPEC["features"] | more})
    assert verdicts(project.run()) == {"unchanged": 6}
    (project.media / "moving0.gif").rename(project.media / "moved.gif")
    result = project.run(["limits.segment=600s"])
    assert (computed(result), verdicts(result)) == (0, {"moved": 1, "unchanged": 5})
    assert_sound(project)
