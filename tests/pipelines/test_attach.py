"""``attach`` waits for a run that another process began: it ends as the run does, and leaves its report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from vector_store import VectorStore, vector_project

from cliploom.pipelines.running.attach import attach
from cliploom.schemas.errors import CliploomError, LimitError, StoreError

ROWS = {f"v{number}": np.float32([[number, 1]]) for number in range(6)}


def nothing(text: str) -> None:
    """Nobody looks."""


@pytest.fixture
def project(tmp_path: Path) -> VectorStore:
    return vector_project(tmp_path, ROWS, "kind: flat", "{max_failed: 10%, max_deleted: 10%}")


def report_of(project: VectorStore, run: str) -> Path:
    return project.store / "runs" / run / "report.json"


def test_a_published_run_ends_as_it_did_for_its_own_launcher(project: VectorStore) -> None:
    result = project.run()
    report_of(project, result.run).unlink()
    found = attach(str(project.store), nothing)
    assert (found["run"], found["changed"], found["verdicts"]) == (result.run, True, result.verdicts)
    assert found["release"]["release"] == 1
    assert found["counters"]["items_done"] == len(ROWS)
    assert found["seconds"]["compute"] >= 0
    assert found["status"]["state"] == "published"
    assert json.loads(report_of(project, result.run).read_text())["run"] == result.run
    report_of(project, result.run).write_text('{"mine": true}')
    attach(str(project.store), nothing)
    assert report_of(project, result.run).read_text() == '{"mine": true}', "a report that is there is kept"


def test_a_run_that_did_not_publish_ends_with_its_reason(project: VectorStore) -> None:
    project.run()
    project.delete("v0", "v1", "v2")
    with pytest.raises(LimitError):
        project.run()
    outcome = max(project.store.glob("runs/*/outcome.json"), key=lambda path: path.parent.name)
    with pytest.raises(LimitError, match=r"3 of 6 items are not listed any more, more than max_deleted \(10%\)"):
        attach(str(project.store), nothing)
    assert (outcome.parent / "report.json").exists()
    overtaken = {"state": "conflict", "message": "another run published a release meanwhile."}
    outcome.write_text(json.dumps(json.loads(outcome.read_text()) | overtaken))
    with pytest.raises(StoreError, match="another run published"):
        attach(str(project.store), nothing)
    outcome.unlink()
    with pytest.raises(CliploomError, match="ended without publishing; run again: finished parts are reused"):
        attach(str(project.store), nothing, every_s=0.1)


def test_there_is_nothing_to_wait_for_where_no_run_was(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no store"):
        attach(str(tmp_path / "nowhere"), nothing)
