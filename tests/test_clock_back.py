"""A clock that is set back: the order of writes to the store decides what is newest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from vector_store import VectorStore, vector_project

from cliploom.pipelines.running.publish import publish_plan
from cliploom.pipelines.running.run import RunOptions
from cliploom.pipelines.running.status import run_status
from cliploom.schemas.errors import LimitError, StoreError
from cliploom.schemas.plan import Accept
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work.plan_ref import newest_plan

ROWS = {f"v{number}": np.float32([[number, 1]]) for number in range(6)}


@pytest.fixture
def project(tmp_path: Path) -> VectorStore:
    made = vector_project(tmp_path, ROWS, "kind: flat", "{max_deleted: 10%}")
    made.run(run="20300101T000000-0000")
    return made


def stopped(project: VectorStore, run: str) -> None:
    with pytest.raises(LimitError):
        project.run(run=run)


def test_publish_takes_the_plan_that_was_stored_last_whatever_its_run_is_called(project: VectorStore) -> None:
    project.delete("v0")
    stopped(project, "20400101T000000-ffff")
    project.delete("v1")
    stopped(project, "20200101T000000-0000")
    assert run_status(str(project.store)).run == "20200101T000000-0000"
    publish_plan(str(project.store), RunOptions(accept=Accept(deletes=True)), lambda text: None)
    assert project.open().release.counts["items"] == 4
    with pytest.raises(StoreError, match=r"The last run \(20200101T000000-0000\) is published already"):
        publish_plan(str(project.store), RunOptions(accept=Accept(deletes=True)), lambda text: None)


def test_a_plan_that_is_published_again_stays_the_newest(project: VectorStore) -> None:
    project.delete("v0")
    stopped(project, "20200101T000000-0000")
    project.delete("v1")
    stopped(project, "20100101T000000-0000")
    with pytest.raises(LimitError):
        publish_plan(str(project.store), RunOptions(), lambda text: None)
    assert newest_plan(ObjectStore(project.store)) == "plans/20100101T000000-0000/plan.json"
    stopped(project, "20000101T000000-0000")
    assert newest_plan(ObjectStore(project.store)) == "plans/20000101T000000-0000/plan.json"


def test_plans_of_older_programs_come_before_numbered_ones_by_name(project: VectorStore) -> None:
    project.delete("v0")
    stopped(project, "20400101T000000-0000")
    stopped(project, "20500101T000000-0000")
    for path in project.store.glob("plans/*/number-*.json"):
        path.unlink()
    assert newest_plan(ObjectStore(project.store)) == "plans/20500101T000000-0000/plan.json"
    stopped(project, "20200101T000000-0000")
    assert newest_plan(ObjectStore(project.store)) == "plans/20200101T000000-0000/plan.json"


def test_releases_are_in_the_order_of_their_numbers(project: VectorStore) -> None:
    project.write({"w": np.float32([[9, 9]])})
    project.run(run="20200101T000000-0000")
    assert [release.run[:4] for release in project.open().releases] == ["2030", "2020"]
    assert project.open().release.release == 2
