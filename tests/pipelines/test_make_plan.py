"""A plan as a table: what a listing, a release and a spec give for each item, in tables written by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
from vector_store import VectorStore, vector_project

from cliploom.pipelines.planning.classify import RetryPolicy
from cliploom.pipelines.planning.compile_jobs import compile_jobs
from cliploom.pipelines.planning.discover import FACTS, LISTED, Inventory
from cliploom.pipelines.planning.plan import PlanDraft, make_plan
from cliploom.pipelines.planning.previous_release import read_previous_release
from cliploom.pipelines.planning.row_store import RowStoreWriter
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.schemas.tables import FAILURES
from cliploom.transforms.publish.dataframes import empty_frame
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table

ROWS = {uid: np.full((2, 3), number, np.float32) for number, uid in enumerate("abcd")}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> VectorStore:
    """A release of the items a, b, c and d; only read."""
    made = vector_project(tmp_path_factory.mktemp("planned"), ROWS, "kind: flat")
    made.run()
    return made


@dataclass(frozen=True)
class Tonight:
    """A night that differs from the release.

    Attributes:
        digests: uid -> digest of what is listed; None for a file that could not be probed. Digests of the release
            are named by the uid that has them there.
        expected: uid -> verdict; of gone items, too.
        work: uids that are computed.
        counts: some of the plan's.
        parts: of the release; or finished by a run that was killed before its first release; or not there.
    """

    digests: dict[str, str | None]
    expected: dict[str, str]
    work: tuple[str, ...] = ()
    counts: dict[str, int] | None = None
    refresh: bool = False
    parts: Literal["published", "finished", "none"] = "published"


SAME: dict[str, str | None] = {uid: uid for uid in ROWS}


def same(*uids: str) -> dict[str, str]:
    return dict.fromkeys(uids, "unchanged")


NIGHTS = {
    "nothing changed": Tonight(SAME, same(*ROWS), counts={"had": 4, "deleted": 0, "cost_ms": 0}),
    "a first night": Tonight(
        SAME, dict.fromkeys(ROWS, "new"), tuple(ROWS), {"had": 0, "deleted": 0, "recompute": 0}, parts="none"
    ),
    "a first night after one that was killed": Tonight(SAME, same(*ROWS), counts={"had": 0}, parts="finished"),
    "a new file": Tonight(SAME | {"e": "other"}, same(*ROWS) | {"e": "new"}, ("e",)),
    "other bytes": Tonight(SAME | {"b": "other"}, same(*"acd") | {"b": "content_changed"}, ("b",)),
    "a copy": Tonight(SAME | {"e": "a"}, same(*ROWS) | {"e": "moved"}),
    "a rename": Tonight(
        {"a": "a", "c": "c", "d": "d", "x": "b"}, same(*"acd") | {"x": "moved"}, counts={"had": 4, "deleted": 0}
    ),
    "a file is gone": Tonight(
        {"a": "a", "b": "b", "c": "c"}, same(*"abc") | {"d": "deleted"}, counts={"had": 4, "deleted": 1}
    ),
    "all are gone": Tonight({}, dict.fromkeys(ROWS, "deleted"), counts={"had": 4, "deleted": 4}),
    "two files changed places": Tonight(
        SAME | {"a": "b", "b": "a"}, dict.fromkeys("ab", "moved") | same(*"cd"), counts={"deleted": 0}
    ),
    "a file that can't be read any more": Tonight(SAME | {"c": None}, same(*"abd") | {"c": "failed"}),
    "all anew": Tonight(
        SAME, dict.fromkeys(ROWS, "config_changed"), tuple(ROWS), {"deleted": 0, "recompute": 4}, refresh=True
    ),
}


def planned(project: VectorStore, tonight: Tonight) -> PlanDraft:
    objects = ObjectStore(project.store)
    release = read_releases(objects).get(None)
    items = read_table(objects, "items", release.tables["items"])
    digests = dict(items.select("uid", "digest").iter_rows())
    listed = pl.DataFrame(
        [
            {"source": "s", "uid": uid, "uri": f"{uid}.npy", "size": 1, "signature": "", "metadata": None}
            | {"digest": digests.get(named or "", named), "facts": items["facts"][0]}
            for uid, named in tonight.digests.items()
        ],
        schema=LISTED,
    )
    found = Inventory(listed, RowStoreWriter(FACTS).packed(), empty_frame(FAILURES), 0, ())
    document = load_document(project.spec, ())
    if tonight.parts == "none":
        objects = ObjectStore(project.folder / "empty")
    previous = read_previous_release(objects, release if tonight.parts == "published" else None).for_planning()
    compiled = compile_jobs(parse_document(document), objects, project.folder)
    return make_plan(
        objects, previous, found, compiled, RetryPolicy(), 600.0, release.next_item_no, refresh=tonight.refresh
    )


@pytest.mark.parametrize("name", NIGHTS)
def test_verdicts_work_and_counts_of_a_night(project: VectorStore, name: str) -> None:
    tonight = NIGHTS[name]
    draft = planned(project, tonight)
    assert dict(draft.verdicts.select("uid", "verdict").iter_rows()) == tonight.expected
    assert sorted(draft.work["uid"]) == sorted(tonight.work)
    shards = [json.loads(text) for batch in draft.layout.written() for text in batch["shard"]]
    packed = [Path(item["uri"]).stem for shard in shards for item in shard["items"]]
    assert sorted(packed) == sorted(tonight.work), "each item is computed by one shard"
    assert {key: draft.counts[key] for key in tonight.counts or {}} == (tonight.counts or {})


@pytest.mark.parametrize("name", NIGHTS)
def test_numbers_are_kept_and_never_given_twice(project: VectorStore, name: str) -> None:
    tonight = NIGHTS[name]
    objects = ObjectStore(project.store)
    release = read_releases(objects).get(None)
    before = dict(read_table(objects, "items", release.tables["items"]).select("uid", "item_no").iter_rows())
    draft = planned(project, tonight)
    numbers = dict(draft.numbered.items.select("uid", "item_no").iter_rows())
    assert numbers.keys() == tonight.digests.keys()
    assert len(set(numbers.values())) == len(numbers)
    if tonight.parts == "published":
        assert all(numbers[uid] == before[uid] for uid in numbers.keys() & before.keys())
    fresh = {number for uid, number in numbers.items() if uid not in before}
    assert all(number >= release.next_item_no for number in fresh)
    assert draft.numbered.free > max([*numbers.values(), 0])


def test_a_part_that_is_lost_is_computed_again(project: VectorStore, tmp_path: Path) -> None:
    copy = VectorStore(tmp_path / "copy")
    shutil.copytree(project.folder, copy.folder)
    for part in (copy.store / "features").rglob("part-*.parquet"):
        part.unlink()
    draft = planned(copy, NIGHTS["nothing changed"])
    assert sorted(draft.work["uid"]) == list(ROWS)
    assert set(draft.lost) == {"f"}
