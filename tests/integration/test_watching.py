"""What can be seen of a run while it works and after its worker process died, and a run whose time is up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from nights import BLUE, RED, Project, draw, encoder_on_path, paint, write_encoder

from cliploom.pipelines.listings import failure_rows
from cliploom.pipelines.running.lineage import SCHEMA
from cliploom.pipelines.running.live_metrics import LIVE_METRICS
from cliploom.pipelines.running.metrics import METRICS
from cliploom.pipelines.running.status import run_status, status_text
from cliploom.schemas.errors import LimitError
from cliploom.schemas.records import POSTPONED
from cliploom.transforms.store.tables import read_table

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
STILLS = 6
KEY = "lineage-key-0123456789"


@dataclass(frozen=True)
class Watched:
    """A run as a person starts it, and everything that could be seen of it."""

    project: Project
    code: int
    result: dict[str, Any]
    lines: list[dict[str, Any]]
    scraped: list[str]
    metrics: str
    events: list[dict[str, Any]]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A run over six pictures and one that ends its worker process twice."""
    folder = tmp_path_factory.mktemp("watched")
    write_encoder(folder / "encoder")
    project = Project(folder / "project")
    project.write_spec()
    for number in range(STILLS):
        draw(project.media / f"still{number}.png", number)
    paint(project.media / "poison.png", RED)
    metrics, events = folder / "clips.prom", folder / "events.jsonl"
    metrics.write_text("cliploom_release 7\ncliploom_live_rows 5\n", encoding="utf-8")
    command = ["run", "cliploom.yaml", "--json", "--log-format", "json", "--metrics-port", "0"]
    run = subprocess.Popen(
        [sys.executable, "-m", "cliploom", *command, "--metrics-file", str(metrics), "--openlineage", str(events)],
        cwd=project.folder,
        env=os.environ
        | {"PYTHONPATH": f"{folder / 'encoder'}{os.pathsep}{ROOT}", "OPENLINEAGE_API_KEY": KEY, "HTTP_PROXY": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stderr is not None
    assert run.stdout is not None
    lines, scraped, address = [], [], ""
    for text in run.stderr:
        lines.append(json.loads(text))
        if found := re.search(r"http://127\.0\.0\.1:\d+/metrics", lines[-1].get("message", "")):
            address = found[0]
        if address:
            try:
                with urllib.request.urlopen(address, timeout=10) as answer:
                    scraped.append(answer.read().decode())
            except (urllib.error.URLError, ConnectionError):
                address = ""  # the run has ended
    out = run.stdout.read()
    code = run.wait()
    told = [json.loads(line) for line in events.read_text().splitlines()]
    return Watched(project, code, json.loads(out), lines, scraped, metrics.read_text(), told)


def names_in(text: str) -> set[str]:
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}


def test_figures_are_those_of_all_attempts(watched: Watched) -> None:
    assert watched.code == 0
    report, counters = watched.result["report"], watched.result["counters"]
    rows = watched.result["release"]["features"]["frames"]["rows"]
    assert rows == STILLS
    assert counters["rows"] == rows
    assert counters["items_done"] == STILLS + 1
    assert counters["failed_Crashed"] == 1
    assert "parts_adopted" not in counters
    attempts = report["attempts"]
    assert attempts["number"] == 2
    assert [each["reason"] for each in attempts["restarts"]] == ["the worker process died (exit code 7)"]
    assert attempts["repeated_shards"] >= 1
    assert attempts["cpu_seconds"] > 0
    assert report["bytes"]["written"] == counters["bytes_written"] > 0
    stored = json.loads((watched.project.store / "runs" / report["run"] / "report.json").read_text())
    assert stored["attempts"] == attempts
    status = run_status(str(watched.project.store))
    assert (status.rows, len(status.restarts), status.repeated_shards) == (rows, 1, attempts["repeated_shards"])
    text = status_text(status, 2_000_000_000)
    assert "1 restart, " in text
    assert "the worker process died (exit code 7)" in text


def test_metrics_are_served_while_it_works_and_the_file_tells_of_the_end(watched: Watched) -> None:
    assert watched.scraped
    for text in watched.scraped:
        assert names_in(text) <= set(LIVE_METRICS)
        assert f'cliploom_live_run{{run="{watched.result["run"]}"}} 1' in text
    assert any('cliploom_live_stage{stage="computing"} 1' in text for text in watched.scraped)
    assert names_in(watched.metrics) <= set(METRICS)
    for line in ("cliploom_run_success 1", "cliploom_run_restarts 1", f'cliploom_counter{{name="rows"}} {STILLS}'):
        assert line in watched.metrics.splitlines()


def test_every_line_on_stderr_is_json_and_workers_name_run_shard_item_and_stage(watched: Watched) -> None:
    assert all({"time", "level"} <= line.keys() for line in watched.lines)
    assert {"listing", "computing"} <= {line["stage"] for line in watched.lines if line.get("event") == "stage"}
    begun = [line for line in watched.lines if line.get("event") == "item_begun"]
    assert {line["item"] for line in begun} == {*(f"still{number}" for number in range(STILLS)), "poison"}
    assert all(line["run"] == watched.result["run"] and line["shard"] and line["stage"] == "compute" for line in begun)
    (failed,) = [line for line in watched.lines if line.get("event") == "item_failed"]
    assert (failed["item"], failed["type"], failed["level"]) == ("poison", "Crashed", "warning")


def test_lineage_says_what_was_read_and_written_by_the_published_schema(watched: Watched) -> None:
    start, complete = watched.events
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == complete["run"]["runId"] == str(uuid.UUID(start["run"]["runId"]))
    store = str(watched.project.store)
    for event in watched.events:
        assert {"eventTime", "producer", "schemaURL", "run", "job"} <= event.keys()  # what the schema requires
        assert event["schemaURL"] == SCHEMA
        assert event["inputs"] == [{"namespace": "file", "name": str(watched.project.media / "**" / "*.*")}]
        for dataset in [*event["inputs"], *event["outputs"]]:
            for facets in (dataset.get("facets", {}), dataset.get("outputFacets", {})):
                assert all({"_producer", "_schemaURL"} <= facet.keys() for facet in facets.values())
    outputs = {each["name"]: each for each in complete["outputs"]}
    assert outputs[store]["facets"]["version"]["datasetVersion"] == "1"
    table = watched.result["release"]["features"]["frames"]["table"]
    assert outputs[f"{store}/{table}"]["outputFacets"]["outputStatistics"]["rowCount"] == STILLS
    assert KEY not in json.dumps(watched.events) + json.dumps(watched.lines) + json.dumps(watched.result)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("budget")
    with encoder_on_path(folder / "encoder"):
        project = Project(folder / "project")
        project.write_spec()
        for number in range(4):
            draw(project.media / f"still{number}.png", number)
        yield project


def test_a_run_whose_time_is_up_publishes_what_there_is_and_the_next_goes_on(project: Project) -> None:
    project.run()
    changed = draw(project.media / "still0.png", 100)
    draw(project.media / "new.png", 101)
    late = project.run(deadline=1.0)
    assert late.changed
    assert late.counters["items_postponed"] == 2
    assert (late.release.counts["failed"], late.release.counts["postponed"]) == (0, 2)
    # The changed file keeps its old row; the new one has none yet.
    assert late.release.features["frames"].rows == 4
    assert late.release.counts["outdated"] == 1
    assert {row["uid"]: row["type"] for row in failure_rows(str(project.store))} == dict.fromkeys(
        ("new", changed.stem), POSTPONED
    )
    status = run_status(str(project.store))
    assert "2 items left for the next run" in status_text(status, 2_000_000_000)
    again = project.run(deadline=1.0)
    assert again.verdicts == {"frames": {"unchanged": 3, "retry": 2}}
    whole = project.run()
    assert whole.counters["items_done"] == 2
    assert whole.release.features["frames"].rows == 5
    assert "postponed" not in whole.release.counts
    assert failure_rows(str(project.store)) == []
    assert read_table(project.objects, "contents", whole.release.tables["contents"]).height == 5
    assert not project.run().changed


def test_a_run_whose_time_is_up_publishes_nothing_when_readers_would_lose_rows(project: Project) -> None:
    before = project.run()
    with pytest.raises(LimitError, match=r"Time was up with \d+ items of feature 'frames' still to compute"):
        project.run(["encoders.tiny.shade=0.5"], deadline=1.0)
    assert run_status(str(project.store)).state == "stopped"
    after = project.run(["encoders.tiny.shade=0.5"])
    assert after.release.release == before.release.release + 1
    assert after.release.features["frames"].rows == before.release.features["frames"].rows


def test_parts_of_an_earlier_attempt_count_as_those_of_the_run(project: Project) -> None:
    first = project.run(["encoders.tiny.shade=0.5"])
    paint(project.media / "blue.png", BLUE)
    draw(project.media / "later.png", 300)
    run = "20261201T000000-aaaa"
    with pytest.raises(LimitError, match="max_failed"):
        project.run(["encoders.tiny.shade=0.5", "limits.max_failed=0%"], run=run)
    whole = project.run(["encoders.tiny.shade=0.5"], run=run)
    assert whole.counters["rows"] == whole.release.features["frames"].rows - first.release.features["frames"].rows
    assert whole.counters["items_done"] == whole.counters["items_resumed"] == 2
    assert whole.counters["parts"] == whole.counters["parts_resumed"]
    assert whole.counters["failed_Encode"] == 1
    assert "parts_adopted" not in whole.counters
    (project.media / "blue.png").unlink()


def test_under_a_budget_items_that_readers_lack_come_first(project: Project) -> None:
    project.run(["encoders.tiny.shade=0.5"])
    draw(project.media / "moving.gif", 2)
    draw(project.media / "newest.png", 200)
    with pytest.raises(LimitError):
        project.run(["encoders.tiny.shade=0.25"], deadline=1.0)
    plan = max((project.store / "plans").glob("*/shards.parquet"), key=os.path.getmtime)
    shards = [json.loads(text) for text in pl.read_parquet(plan)["shard"]]
    order = [item["duplicates"][0]["uid"] for shard in shards for item in shard["items"]]
    assert set(order[:2]) == {"moving", "newest"}
    assert len(order) == 8
