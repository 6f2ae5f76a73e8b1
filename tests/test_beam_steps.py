"""The composite steps of a run in pipelines of their own."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from media_factory import write_noise
from stores import SmallStore, still

from cliploom.pipelines.demo.corpus import CAT
from cliploom.schemas.jobs import RunJob
from cliploom.schemas.media import MediaLimits
from cliploom.schemas.plan import RunPlan
from cliploom.schemas.records import Content, Duplicate, Failure, PartRecord, Shard, ShardItem
from cliploom.schemas.release import Release
from cliploom.transforms.publish.exporting import UpdateExports
from cliploom.transforms.publish.indexing import UpdateIndexes
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.paths import TO_PROBE
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.wire import decode_element, encode_element, encoded
from cliploom.transforms.work.gather import MOST_FILES, GatherRecords
from cliploom.transforms.work.part_records import read_records
from cliploom.transforms.work.plan_ref import PlanRef, newest_plan, store_plan
from cliploom.transforms.work.probing import ProbeItems
from cliploom.transforms.work.shards import SHARD, ReadPlan

MADE: list[Any] = []
"""What a step gave: Beam pickles what it is given, but leaves what a module has in its place."""


def keep(found: Any) -> None:
    MADE[:] = map(decode_element, found)


def given_by(step: beam.PTransform, values: list[Any], kind: type) -> list[Any]:
    """What a step makes of some values."""
    with TestPipeline(runner="FnApiRunner") as pipeline:
        elements = pipeline | beam.Create([encode_element(each) for each in values]).with_output_types(encoded(kind))
        assert_that(elements | "Step" >> step, keep)
    return list(MADE)


def write_table(objects: ObjectStore, path: str, rows: list[dict[str, Any]], row_group: int) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=row_group)
    objects.put(path, buffer.getvalue())


def item(number: int) -> ShardItem:
    return ShardItem(f"/in/{number}.mp4", "1:1", f"digest-{number}", "{}", (Duplicate(number, f"u{number}"),))


def test_read_plan_yields_every_shard_once_whatever_its_row_group(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    shards = [Shard(("frames",), (item(number), item(100 + number))) for number in range(7)]
    write_table(objects, "plans/p/shards.parquet", [{"shard": SHARD.dump_json(each).decode()} for each in shards], 3)
    found = given_by(ReadPlan(objects.uri), ["plans/p/shards.parquet"], str)
    assert sorted(found, key=lambda shard: shard.items[0].uri) == shards


def test_probe_items_yields_a_file_of_results_for_each_row_group(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path / "store")
    paths = [still(CAT, tmp_path / f"{name}.png") for name in "ab"] + [write_noise(tmp_path / "c.mp4", 500)]
    rows = []
    for path in paths:
        status = path.stat()
        values = ("clips", path.stem, str(path), f"{status.st_size}:{status.st_mtime_ns}", "media", 0)
        rows.append(dict(zip(TO_PROBE, values, strict=True)))
    write_table(objects, "listing.parquet", rows, 2)
    step = ProbeItems(RunJob(objects.uri, "run", {}, MediaLimits()))
    names = given_by(step, ["listing.parquet"], str)
    assert len(names) == 2
    probed = pl.concat(pl.read_parquet(io.BytesIO(objects.get(name))) for name in names).sort("uid")
    assert probed.select("uid", "type").rows() == [("a", None), ("b", None), ("c", "NoVideo")]
    assert probed["digest"].null_count() == 1
    assert sorted(given_by(step, ["listing.parquet"], str)) == sorted(names)


def record(number: int) -> PartRecord:
    content = Content(number, f"u{number}", f"digest-{number}", 0, 1, 3, 2, 0)
    lost = Failure("clips", "frames", f"u{number}", "/in", number, "digest", "c", "decode", "Damaged", "One.", got=2)
    return PartRecord("frames", "config", f"part-{number}.parquet", 2, 100 + number, "digest", (content,), (lost,))


def test_gather_records_writes_few_files_and_counts_a_record_that_comes_twice_once(tmp_path: Path) -> None:
    plan = PlanRef(str(tmp_path), "run", "digest")
    records = [record(number) for number in range(3 * MOST_FILES)]
    paths = given_by(GatherRecords(plan), [*records, record(5)], PartRecord)
    assert len(paths) == len(set(paths)) <= MOST_FILES
    found = read_records(ObjectStore(tmp_path), paths)
    assert sorted(found.parts.select("part", "size").rows()) == sorted((each.part, each.size) for each in records)
    assert sorted(found.contents["item_no"]) == list(range(len(records)))
    assert found.failures.height == len(records)


def stored_draft(store: SmallStore) -> tuple[PlanRef, Release, Release]:
    """The plan of the store's release, the release, and its draft: without indexes and exports."""
    objects = ObjectStore(store.store)
    path = newest_plan(objects)
    assert path is not None
    plan = RunPlan.model_validate_json(objects.get(path))
    moved = plan.model_copy(update={"job": replace(plan.job, store=objects.uri)})
    release = read_releases(objects).rows[0]
    return store_plan(objects, moved), release, release.model_copy(update={"indexes": {}, "exports": {}})


def entries(step: Callable[[PlanRef], beam.PTransform], plan: PlanRef, draft: Release) -> dict[str, Any]:
    return dict(given_by(step(plan), [draft], Release))


def test_update_indexes_adopts_shards_and_builds_those_that_are_missing(small_store: SmallStore) -> None:
    plan, release, draft = stored_draft(small_store)
    shards = {shard.file.path for entry in release.indexes.values() for shard in entry.shards}
    times = {path: (small_store.store / path).stat().st_mtime_ns for path in shards}
    gone = {shard.file.path for shard in release.indexes["frames"].shards}
    for path in gone:
        (small_store.store / path).unlink()
    found = entries(UpdateIndexes, plan, draft)
    assert set(found) == set(release.indexes)
    for name, entry in found.items():
        assert (entry.recipe, entry.rows) == (release.indexes[name].recipe, release.indexes[name].rows)
        assert [each.file.path for each in entry.shards] == [each.file.path for each in release.indexes[name].shards]
    after = {path: (small_store.store / path).stat().st_mtime_ns for path in shards}
    assert {path for path in shards if after[path] != times[path]} == gone


def test_update_exports_adopts_files_and_writes_those_that_are_missing(small_store: SmallStore) -> None:
    plan, release, draft = stored_draft(small_store)
    files = {file.path for entry in release.exports.values() for file in entry.files}
    gone = {file.path for file in release.exports["looks_h5"].files}
    for path in gone:
        (small_store.store / path).unlink()
    found = entries(UpdateExports, plan, draft)
    assert {name: entry.recipe for name, entry in found.items()} == {
        name: entry.recipe for name, entry in release.exports.items()
    }
    assert {file.path for entry in found.values() for file in entry.files} == files
    assert all((small_store.store / path).exists() for path in gone)
