"""A gathering stage fails if an announced element is missing, so that nothing incomplete is published."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from stores import SmallStore, still

from cliploom.pipelines.demo.corpus import CAT
from cliploom.pipelines.running.child import user_error
from cliploom.schemas.errors import StoreError
from cliploom.transforms.publish import labels
from cliploom.transforms.publish.exporting import WriteExportFile
from cliploom.transforms.publish.indexing import BuildIndexShard, FinishIndexes
from cliploom.transforms.publish.labels import LabelTask, WriteLabels
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.work.probing import _Probe
from cliploom.transforms.work.shards import ComputeShard, RewriteParts

LOST = {
    _Probe: r"\d inputs were to be probed but no worker reported them, such as '",
    ComputeShard: "2 of 2 parts were planned but no worker reported them",
    RewriteParts: r"\d of \d rewritten parts were planned but no worker reported them",
    WriteLabels: "1 of 1 files of labels were planned but no worker reported them",
    WriteExportFile: r"\d of \d export files were planned but no worker reported them",
    BuildIndexShard: r"1 of 1 index shards were planned but no worker reported them",
    FinishIndexes: "3 of 3 indexes were planned but no worker reported them",
}
"""Steps whose elements are dropped, and what the stage that gathers them says; in the order in which runs get on."""


def test_what_is_lost_between_stages_stops_the_run(small_store: SmallStore) -> None:
    still(CAT, small_store.media / "new.png")
    for step, said in LOST.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step.do_fn, "process", functools.wraps(step.do_fn.process)(_nothing))
            if step is WriteLabels:
                task = LabelTask("frames", "clips", "features/frames", "part-1.parquet", "")
                patch.setattr(labels, "label_tasks", lambda *_, task=task: [task])
            with pytest.raises(Exception, match="published") as told:
                small_store.run(compact=True)
            error = user_error(told.value)
            assert isinstance(error, StoreError), step
            assert re.match(said, str(error)), (step, error)
        assert [release.release for release in read_releases(ObjectStore(small_store.store)).rows] == [1]
    assert small_store.run().release.release == 2


def _nothing(self: object, *arguments: Any) -> Iterator[Any]:
    return iter(())
