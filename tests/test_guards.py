"""Guards count items: those that failed and did not before, and those that are gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from vector_store import VectorStore, vector_project

from cliploom.pipelines.running.publish import publish_plan
from cliploom.pipelines.running.run import RunOptions
from cliploom.schemas.errors import LimitError
from cliploom.schemas.plan import Accept

ROWS = {f"v{number:02}": np.float32([[number, 1]]) for number in range(15)}
LIMITS = "{max_failed: 10%, max_deleted: 10%}"


def spoil(project: VectorStore, *uids: str) -> None:
    for uid in uids:
        (project.folder / "feats" / f"{uid}.npy").write_bytes(f"not an array {uid}".encode())


@pytest.fixture
def project(tmp_path: Path) -> VectorStore:
    """Fifteen items, of which the first five can't be read, and have been accepted so."""
    made = vector_project(tmp_path, ROWS, "kind: flat", LIMITS)
    spoil(made, *list(ROWS)[:5])
    made.run(["limits.max_failed=50%"])
    assert made.open().release.counts["failed"] == 5
    return made


def test_items_that_break_while_as_many_heal_are_counted(project: VectorStore) -> None:
    project.write(dict(list(ROWS.items())[:5]))
    spoil(project, *list(ROWS)[10:])
    with pytest.raises(LimitError, match=r"5 of 15 items failed, more than max_failed \(10%\), beside 5 that failed"):
        project.run()
    assert project.open().release.release == 1
    publish_plan(str(project.store), RunOptions(accept=Accept(failures=True)), lambda text: None)
    assert project.open().release.counts["failed"] == 5


def test_items_that_failed_before_do_not_count_again(project: VectorStore) -> None:
    spoil(project, "v05")
    assert project.run().release.counts["failed"] == 6
    assert project.run(retry_failed=True).release.counts["failed"] == 6


def test_a_failing_item_that_was_renamed_is_not_a_new_one(project: VectorStore) -> None:
    feats = project.folder / "feats"
    for uid in list(ROWS)[:5]:
        (feats / f"{uid}.npy").rename(feats / f"x{uid}.npy")
    assert project.run(["limits.max_deleted=100%"]).release.counts["failed"] == 5


def test_each_of_many_copies_that_are_gone_counts(tmp_path: Path) -> None:
    same = {f"c{number:02}": np.float32([[1, 2]]) for number in range(20)}
    project = vector_project(tmp_path, ROWS | same, "kind: flat", LIMITS)
    project.run()
    project.delete(*list(same)[:18])
    with pytest.raises(LimitError, match=r"18 of 35 items are not listed any more, more than max_deleted \(10%\)"):
        project.run()
    assert project.open().release.release == 1


def test_renamed_copies_are_not_deleted_but_those_that_did_not_come_again_are(tmp_path: Path) -> None:
    same = {f"c{number:02}": np.float32([[1, 2]]) for number in range(6)}
    project = vector_project(tmp_path, same, "kind: flat", LIMITS)
    project.run()
    feats = project.folder / "feats"
    for uid in same:
        (feats / f"{uid}.npy").rename(feats / f"x{uid}.npy")
    assert project.run().changed
    (feats / "xc00.npy").rename(feats / "y.npy")
    project.delete("xc01", "xc02")
    with pytest.raises(LimitError, match="2 of 6 items are not listed any more"):
        project.run()
