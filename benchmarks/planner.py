"""The launcher on made-up items: seconds and peak memory of a first night, usual ones and a great renaming.

The promise is a plan of a million items in under 10 s and 2 GB, a launcher of ten million in under 8 GB. A plan is all
that is done between the probe and the Beam graph: verdicts, numbers, shards, and the plan's files; the peak is also
that of listing and the survey before it. Beside it stands what a worker does with part records: which parts make the
next table, and its commit. Each line is a process of its own, as are the made-up workers that probe.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from benchmarks.measure import table
from cliploom.pipelines.planning.classify import RetryPolicy, count_verdicts
from cliploom.pipelines.planning.compile_jobs import CompiledSpec
from cliploom.pipelines.planning.discover import LISTED, discover
from cliploom.pipelines.planning.numbering import number_items
from cliploom.pipelines.planning.plan import make_plan
from cliploom.pipelines.planning.previous_release import read_previous_release
from cliploom.schemas.digests import digest_of
from cliploom.schemas.jobs import FeatureJob, RunJob
from cliploom.schemas.media import PROBE_REVISION, MediaLimits
from cliploom.schemas.plan import COMPUTED, RunPlan
from cliploom.schemas.records import Content, Listed, PartRecord
from cliploom.schemas.release import FeatureEntry, Release
from cliploom.schemas.sampling import Every
from cliploom.schemas.spec import Limits
from cliploom.schemas.tables import FAILURES, ITEMS, PARTS, PROBED
from cliploom.transforms.inputs.listing import KnownListing, listed_frame
from cliploom.transforms.publish.dataframes import empty_frame, write_frame
from cliploom.transforms.publish.final import Assemble, CommitTables, commit_contents
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import part_path
from cliploom.transforms.store.paths import TO_PROBE, probe_results_path
from cliploom.transforms.store.tables import TableFile, commit_files, commit_rows
from cliploom.transforms.work.gather import MOST_FILES
from cliploom.transforms.work.part_records import write_records
from cliploom.transforms.work.plan_ref import PlanRef, store_plan

ITEMS_IN_PART = 400
PART_BYTES = 30_000_000
ROWS_EACH = 20
CONFIG = "c" * 40
COLUMNS = ["night", "seconds", "CPU s", "peak MB", "found"]
NIGHTS = ("first night", "1 % changed", "nothing changed", "0.1 % deleted", "all renamed")


def main(arguments: list[str]) -> int:
    """Time the nights."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks planner")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--nights", default=",".join(NIGHTS), help="some of the nights, by their names")
    options = parser.parse_args(arguments)
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        alone(publish_first, folder, options.items)
        for name in options.nights.split(","):
            rows.append((name, *alone(night, folder, options.items, name)))
            if name == "nothing changed":
                continue
            alone(records_of, folder, name)
            rows.append(("  its parts", *alone(parts_of, folder, name)))
            if name == NIGHTS[0]:
                rows.append(("  its commit", *alone(commit_of, folder, name)))
    table(COLUMNS, rows)
    return 0


def alone(work: Callable[..., object], *arguments: object) -> tuple[str, str, int, object]:
    """Seconds, CPU seconds, peak memory in MB and result of work in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_alone, args=(there, work, *arguments))
    process.start()
    there.close()
    answer: tuple[str, str, int, object] = here.recv()
    process.join()
    return answer


def _alone(answer: Connection, work: Callable[..., object], *arguments: object) -> None:
    began, busy = time.perf_counter(), time.process_time()
    result = work(*arguments)
    wall, cpu = time.perf_counter() - began, time.process_time() - busy
    # Linux counts KiB; what a process had before it became this one counts, too, and is little.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    answer.send((f"{wall:.1f}", f"{cpu:.1f}", peak, result))


def night(folder: str, count: int, name: str) -> object:
    """List, survey and plan one night and write the plan."""
    objects, job = ObjectStore(folder), RunJob(folder, name, resolved().jobs, MediaLimits())
    previous = read_previous_release(objects, None if name == NIGHTS[0] else published(objects))
    listing = KnownListing(pl.concat([listed_frame(listed(count, name)), pl.DataFrame(schema=LISTED)], how="diagonal"))
    began = time.perf_counter()
    found = discover(
        listing,
        previous,
        {"clips": "media"},
        job,
        objects,
        lambda path: print(f"{name}: probing", *alone(probe, folder, path), flush=True),
        retry_all=False,
        max_attempts=3,
    )
    del listing
    previous = previous.for_planning()
    surveyed = time.perf_counter()
    planned = make_plan(objects, previous, found, resolved(), RetryPolicy(), 600.0, count + 1)
    verdicts = count_verdicts(planned.verdicts)
    idle = previous.release is not None and planned.numbered.same_as(objects, previous.release.tables["items"])
    if not idle or verdicts["frames"].keys() != {"unchanged"}:
        plan = RunPlan(
            job=job,
            base=previous.release,
            releases_version=0,
            document={},
            recipes=resolved().recipes,
            indexes={},
            exports={},
            limits=Limits(),
            next_item_no=planned.numbered.free,
            counts=planned.counts,
            verdicts=verdicts,
            started_at=time.time(),
            program="",
        )
        planned.write(objects, plan.folder)
        store_plan(objects, plan)
    return f"{verdicts['frames']}; survey {surveyed - began:.1f} s, plan {time.perf_counter() - surveyed:.1f} s"


def probe(folder: str, path: str) -> object:
    """What workers would write of a listing's files."""
    objects, limits, probed = ObjectStore(folder), MediaLimits(), 0
    with objects.local_copy(path) as local, pq.ParquetFile(local) as file:
        for group in range(file.num_row_groups):
            asked = pl.DataFrame(file.read_row_group(group))
            number = asked["uid"].str.extract(r"(\d+)$").cast(pl.Int64)
            edited = pl.when(asked["signature"].str.ends_with("x")).then(pl.lit("x")).otherwise(pl.lit(""))
            found = asked.select("source", "uid", pl.concat_str(edited, digest(number)).alias("digest"), facts(number))
            found = pl.concat([empty_frame(PROBED), found], how="diagonal")
            write_frame(objects, probe_results_path(asked.select(TO_PROBE).iter_rows(), limits), found)
            probed += found.height
    return probed


def computed(objects: ObjectStore, name: str) -> tuple[PlanRef, list[str]]:
    """A night's plan, and files with the records of parts that hold all that it computes; made when not there."""
    plan = PlanRef(objects.uri, name, "")
    paths = sorted(entry.path for entry in objects.list(plan.folder) if "/records-" in entry.path)
    if paths:
        return plan, paths
    with objects.local_copy(f"{plan.folder}/verdicts.parquet") as local:
        todo = pl.scan_parquet(local).filter(pl.col("verdict").is_in(COMPUTED)).select("item_no", "uid", "digest")
        work = todo.collect()
    step = -(-max(1, work.height) // (MOST_FILES * ITEMS_IN_PART)) * ITEMS_IN_PART
    # These parts are larger than the plan's; as many are announced as will be reported.
    write_frame(objects, f"{plan.folder}/shards.parquet", pl.DataFrame({"parts": [-(-work.height // ITEMS_IN_PART)]}))
    return plan, [
        write_records(plan, start // step, _records(name, work.slice(start, step)))
        for start in range(0, work.height, step)
    ]


def _records(name: str, work: pl.DataFrame) -> Iterator[PartRecord]:
    for some in work.iter_slices(ITEMS_IN_PART):
        contents = tuple(
            Content(item_no, uid, digest, 0, 1, ROWS_EACH, ROWS_EACH, place * ROWS_EACH)
            for place, (item_no, uid, digest) in enumerate(some.iter_rows())
        )
        part = f"part-{digest_of([name, contents[0].item_no])}.parquet"
        yield PartRecord("frames", CONFIG, part, ROWS_EACH * len(contents), 30_000_000, "e" * 40, contents)


def records_of(folder: str, name: str) -> object:
    """Write what workers would."""
    return len(computed(ObjectStore(folder), name)[1])


def parts_of(folder: str, name: str) -> object:
    """Which parts the next table is made of, once everything is computed."""
    plan, paths = computed(ObjectStore(folder), name)
    rewrites = copies = 0
    for rewrite in Assemble.do_fn(plan).process("", paths):
        rewrites += 1
        copies += sum(len(use.copies) for use in rewrite.uses)
    return f"{rewrites} rewrites of {copies} items"


def commit_of(folder: str, name: str) -> object:
    """Commit a night that needs no rewrites."""
    plan, paths = computed(ObjectStore(folder), name)
    (draft,) = CommitTables.do_fn(plan).process("", paths, [])
    return f"{draft.features['frames'].rows} rows"


def listed(count: int, name: str) -> Iterator[Listed]:
    """Yield the files of a night, one at a time, as a walk through folders finds them."""
    moved = "new/" if name == "all renamed" else ""
    for number in range(count):
        if name == "0.1 % deleted" and number % 1000 == 5:
            continue
        uid = f"{moved}2026/camera-{number // 10_000}/clip-{number:09d}"
        size = number * 7919 % 10_000_000 + 100_000
        edited = "x" if name == "1 % changed" and number % 100 == 7 else ""
        signature = f"{size}:{number * 1_000_003 + 1_700_000_000_000_000_000}{edited}"
        yield Listed("clips", uid, f"/srv/corpus/{uid}.mp4", size, signature)


def digest(number: pl.Series) -> pl.Expr:
    """Of the files with these numbers."""
    return pl.concat_str(pl.lit(number.hash(seed)).cast(pl.String).str.zfill(20) for seed in (1, 2)).alias("digest")


def facts(number: pl.Series) -> pl.Expr:
    """What a probe tells of them."""
    return pl.concat_str(
        pl.lit('{"type":"video","width":640,"height":360,"frames":'),
        pl.lit(number % 600 + 25),
        pl.lit(',"start_s":0.0,"end_s":'),
        pl.lit((number % 600 + 25) / 25.0),
        pl.lit(',"fps":25.0,"codec":"h264","rotation":0,"lost":""}'),
    ).alias("facts")


def resolved() -> CompiledSpec:
    """Return one feature, without a model."""
    sample = Every.model_validate({"every": "1s"})
    table_folder = f"features/frames/{CONFIG[:12]}"
    job = FeatureJob("frames", "clips", "media", "{}", CONFIG, table_folder, "", None, {"pooled": 1280}, sample)
    return CompiledSpec({"frames": job}, {"frames": {}}, {}, {})


def published(objects: ObjectStore) -> Release:
    """Return the release that ``publish_first`` made."""
    return Release.model_validate_json(objects.get("first.json"))


def publish_first(folder: str, count: int) -> None:
    """Commit what a first night would have, parts filled in order."""
    objects, (job,) = ObjectStore(folder), resolved().jobs.values()
    known = read_previous_release(objects, None).items.select("source", "uid", "item_no")
    number = pl.int_range(count, eager=True)
    files = listed_frame(listed(count, NIGHTS[0])).with_columns(digest(number), facts(number))
    numbered = number_items(files, known, 1)
    objects.put(f"items/{numbered.name}", numbered.data)
    contents = numbered.items.select(
        pl.lit(job.name).alias("feature"),
        pl.lit(job.config).alias("config"),
        pl.format("part-{}{}.parquet", pl.col("item_no") // ITEMS_IN_PART, pl.lit("d" * 36)).alias("part"),
        "item_no",
        "uid",
        "digest",
        pl.lit(0, pl.Int32).alias("segment"),
        pl.lit(1, pl.Int32).alias("segments"),
        pl.lit(ROWS_EACH, pl.Int64).alias("planned"),
        pl.lit(ROWS_EACH, pl.Int64).alias("rows"),
        (pl.col("item_no") % ITEMS_IN_PART * ROWS_EACH).alias("first_row"),
    )
    parts = contents.group_by("part", maintain_order=True).agg(pl.col("rows").sum())
    parts = parts.select(
        pl.lit(job.name).alias("feature"),
        pl.lit(job.config).alias("config"),
        "part",
        "rows",
        pl.lit(PART_BYTES, pl.Int64).alias("size"),
        pl.lit("e" * 40).alias("digest"),
    )
    # A plan lists the parts; files without content of their own are enough.
    (Path(folder) / job.table).mkdir(parents=True)
    for part in parts["part"]:
        with (Path(folder) / part_path(job.table, part)).open("wb") as file:
            file.truncate(PART_BYTES)
    entry = FeatureEntry(
        source=job.source,
        encoder="",
        config=job.config,
        table=job.table,
        version=1,
        rows=0,
        parts=0,
        size=0,
        model="",
        outputs={},
        recipe={},
    )
    file = TableFile(numbered.name, len(numbered.data), count)
    tables = {
        "items": commit_files(objects, "items", ITEMS, [file]),
        "contents": commit_contents(objects, {job.name: contents}),
        "parts": commit_rows(objects, "parts", parts.to_arrow().cast(PARTS)),
        "failures": commit_rows(objects, "failures", FAILURES.empty_table()),
    }
    release = Release(
        release=1,
        run="first",
        created_at=datetime.now(UTC),
        program="",
        spec={},
        tables=tables,
        features={"frames": entry},
        prober=PROBE_REVISION,
    )
    objects.put("first.json", release.model_dump_json().encode())
