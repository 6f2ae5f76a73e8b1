"""How many workers a night gets: no more than it has pieces of work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from vector_store import vector_project

from cliploom.pipelines.launching.runner import check_options, parallel_workers
from cliploom.pipelines.running.run import pieces_of_work
from cliploom.schemas.errors import SpecError
from cliploom.schemas.spec import Target
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.work.plan_ref import last_plan


def test_a_night_has_as_many_pieces_as_shards_and_items_taken_out(tmp_path: Path) -> None:
    rows = np.eye(4, dtype=np.float32)
    project = vector_project(tmp_path, {f"v{n}": rows + n for n in range(6)}, "kind: flat, metric: l2")
    objects = ObjectStore(project.store)
    project.run()
    assert pieces_of_work(objects, last_plan(objects)) is None
    project.write({"new": rows})
    project.delete("v1", "v2")
    assert project.run().changed
    assert pieces_of_work(objects, last_plan(objects)) == 1 + 2
    # A new index is made of rows that no item counts.
    project.write({"newer": rows + 9})
    assert project.run(["indexes.more={feature: f, kind: flat}"]).changed
    assert pieces_of_work(objects, last_plan(objects)) is None


def test_worker_processes_are_for_local_runs() -> None:
    target = Target(runner="FlinkRunner", processes=True)
    with pytest.raises(SpecError, match="processes: true is for local runs; leave it out for FlinkRunner"):
        check_options(target, ())


def test_the_planner_learns_how_many_workers_a_cluster_has() -> None:
    assert parallel_workers(Target(runner="FlinkRunner", parallelism=64)) == 64
    assert parallel_workers(Target(runner="DataflowRunner", num_workers=2, max_num_workers=20)) == 20
    assert parallel_workers(Target(workers=3)) == 3
