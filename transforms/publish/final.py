"""The last steps of a run, each a pure reading of the plan and of what workers report.

compute -> ``Assemble`` -> rewrite -> ``CommitTables`` -> index shards, exports -> ``Publish``. Every step can be tried
twice: files are named by content, tables are committed as complete lists, and only ``Publish`` makes anything visible.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import polars as pl
import pyarrow.parquet as pq

from cliploom.schemas.devices import graphs_digest
from cliploom.schemas.digests import digest_file
from cliploom.schemas.errors import LimitError, StoreError
from cliploom.schemas.evaluations import Figures
from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.plan import RunPlan, declared
from cliploom.schemas.records import POSTPONED, Processor, Rewrite
from cliploom.schemas.release import ExportEntry, FeatureEntry, FileEntry, IndexEntry, Release
from cliploom.schemas.tables import CONTENTS, FAILURES, ITEMS, PARTS, feature_schema
from cliploom.transforms.narrations.table import commit_narrations, is_text
from cliploom.transforms.publish.dataframes import PlanFrames, empty_frame, failure_reasons, not_renamed
from cliploom.transforms.publish.head_figures import write_head_figures
from cliploom.transforms.publish.outcome import write_outcome
from cliploom.transforms.publish.release_state import (
    FeatureState,
    check_complete,
    check_gathered,
    check_reported,
    feature_parts,
    next_failures,
    plan_feature_parts,
    state_after_rewrites,
    with_repeated_ids,
)
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import part_path, processors_of
from cliploom.transforms.store.releases import append_release, folder_entries, read_releases
from cliploom.transforms.store.tables import (
    ROWS_IN_GROUP,
    TableFile,
    commit_files,
    commit_rows,
    pieces_file,
    read_table,
)
from cliploom.transforms.wire import Step
from cliploom.transforms.work.counters import count
from cliploom.transforms.work.models import MODELS, model_files
from cliploom.transforms.work.part_records import read_records, reported_processors
from cliploom.transforms.work.plan_dofn import PlanDoFn
from cliploom.transforms.work.plan_ref import ITEMS_FILE

EXAMPLES = 3


class _AssembleFn(PlanDoFn):
    def process(self, begin: str, computed: list[str]) -> Iterator[Rewrite]:
        """Decide for every feature."""
        plan, objects = self._plan, ObjectStore(self._plan.job.store)
        tables, reported = PlanFrames.read(objects, plan.folder), read_records(objects, computed)
        check_reported(objects, plan, reported)
        for name in plan.job.features:
            assembly = plan_feature_parts(plan, name, feature_parts(objects, plan, tables, reported, name))
            yield from assembly.rewrites()


class Assemble(Step):
    """The rewrites that the next tables need, from the files with all part records of the run."""

    do_fn = _AssembleFn


def check_limits(plan: RunPlan, failures: pl.DataFrame, known: pl.DataFrame, items: int) -> None:
    """Stop before publishing when a guard says so.

    Args:
        plan: of the run.
        failures: that the next release would have; columns of ``FAILURES``.
        known: that the last release has.
        items: number of items in the next release.

    Raises:
        LimitError: naming the guard, the numbers, an example and how to go on.
    """
    limits, accept, store = plan.limits, plan.accept, shlex.quote(plan.job.store)
    check_postponed(plan, failures)
    failed = newly_failed(failures, known)
    lost = failed.select("source", "uid").unique().height
    if not accept.failures and items and lost / items > plan.max_failed:
        guard = "max_failed" if plan.max_failed == limits.max_failed else "max_failed_first"
        had_failed = known.filter(~pl.col("partial")).select("source", "uid").unique().height
        before = f", beside {had_failed} that failed before" if had_failed else ""
        examples = " ".join(failed.group_by("type", maintain_order=True).first()["message"].head(EXAMPLES))
        raise LimitError(
            f"{lost} of {items} items failed, more than {guard} ({plan.max_failed:.0%}){before}, for example: "
            f"{examples} "
            f"Nothing was published; the computed parts are kept. `cliploom status {store}` lists the reasons, "
            f"`cliploom publish {store} --accept-failures` publishes the rest."
        )
    deleted, had = plan.counts.get("deleted", 0), plan.counts.get("had", 0)
    if not accept.deletes and plan.emptied:
        raise LimitError(
            f"{', '.join(plan.emptied)}: the source had items and lists none any more. Nothing was published. Check "
            f"that its folder or bucket is mounted and its glob right, or `cliploom publish {store} --allow-deletes`."
        )
    if not accept.deletes and had and deleted / had > limits.max_deleted:
        raise LimitError(
            f"{deleted} of {had} items are not listed any more, more than max_deleted ({limits.max_deleted:.0%}). "
            f"Nothing was published; the computed parts are kept. Check the sources, or "
            f"`cliploom publish {store} --allow-deletes`."
        )


def check_postponed(plan: RunPlan, failures: pl.DataFrame) -> None:
    """Stop before publishing when time was up and readers would lose rows that they have now.

    That is so where a feature's config has changed: its new table lacks the items that were not computed yet. An item
    whose bytes have changed keeps its old rows.

    Raises:
        LimitError: naming the feature and how to go on.
    """
    base = plan.base.features if plan.base else {}
    changed = [name for name, job in plan.job.features.items() if name in base and base[name].config != job.config]
    waiting = failures.filter((pl.col("type") == POSTPONED) & pl.col("feature").is_in(changed))
    if waiting.height:
        raise LimitError(
            f"Time was up with {waiting.height} items of feature {waiting['feature'][0]!r} still to compute, of which "
            "readers have rows of another configuration. Nothing was published; the computed parts are kept, and "
            "`cliploom run` goes on from there."
        )


def newly_failed(failures: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """The failures of items of which nothing can be used now, and which were not so in the last release.

    An item that was renamed is known by its bytes.
    """
    tried = ~pl.col("partial") & (pl.col("type") != POSTPONED)
    whole, before = (frame.filter(tried) for frame in (failures, known))
    fresh = whole.join(before, on=["source", "uid"], how="anti", maintain_order="left")
    gone = before.join(whole, on=["source", "uid"], how="anti")
    named = pl.col("digest").replace("", None).alias("digest")
    items, earlier = (
        frame.unique(["source", "uid"], maintain_order=True).with_columns(named) for frame in (fresh, gone)
    )
    return fresh.join(not_renamed(items, earlier), on=["source", "uid"], how="semi", maintain_order="left")


class _CommitTablesFn(PlanDoFn):
    def process(self, begin: str, computed_paths: list[str], rewritten_paths: list[str]) -> Iterator[Release]:
        """Commit every table as a complete list of files."""
        plan = self._plan
        objects = ObjectStore(plan.job.store)
        computed, rewritten = read_records(objects, computed_paths), read_records(objects, rewritten_paths)
        tables = PlanFrames.read(objects, plan.folder)
        check_reported(objects, plan, computed)
        states, rewrites = {}, 0
        for name in plan.job.features:
            found = feature_parts(objects, plan, tables, computed, name)
            assembly = plan_feature_parts(plan, name, found)
            rewrites += assembly.takes["bundle"].n_unique()
            states[name] = state_after_rewrites(assembly, found, rewritten)
        check_gathered("rewritten parts", rewrites, rewritten.parts.height)
        failures = next_failures(plan, tables, computed, rewritten, states)
        failures = with_repeated_ids(objects, plan, states, failures)
        check_complete(states, failures)
        items = items_of(objects, plan)
        try:
            check_limits(plan, failures, known_failures(objects, plan), items.rows)
        except LimitError as error:
            reasons = failure_reasons(failures).to_dicts()
            write_outcome(objects, plan, {"state": "stopped", "message": str(error), "failures": reasons})
            return
        computed_on = reported_processors(objects, [*computed_paths, *rewritten_paths])
        yield commit_draft(objects, plan, items, states, failures, computed_on)


class CommitTables(Step):
    """The draft of the release, from the files with all part records: tables committed, no index or export yet.

    Nothing comes out when a guard stops the run; the outcome then says why.
    """

    do_fn = _CommitTablesFn


def known_failures(objects: ObjectStore, plan: RunPlan) -> pl.DataFrame:
    """The failures of the release that a plan starts from."""
    if plan.base is None or "failures" not in plan.base.tables:
        return empty_frame(FAILURES)
    return read_table(objects, "failures", plan.base.tables["failures"])


def commit_draft(
    objects: ObjectStore,
    plan: RunPlan,
    items: TableFile,
    states: dict[str, FeatureState],
    failures: pl.DataFrame,
    computed_on: Mapping[str, set[Processor]],
) -> Release:
    """Commit the tables; returns the release without indexes and exports."""
    features = {}
    all_contents, all_parts = {}, []
    known = {entry.model: entry.model_files for entry in plan.base.features.values()} if plan.base else {}
    for name, state in states.items():
        job = plan.feature(name)
        processors = processors_of_parts(objects, plan, job, state.parts, computed_on.get(name, set()))
        state = replace(state, parts=with_digests(objects, job.table, state.parts))
        filled = state.parts.filter(pl.col("rows") > 0).sort("part")
        files = [TableFile(part, size, rows) for part, size, rows in filled.select("part", "size", "rows").rows()]
        schema = feature_schema(job.outputs, job.compact, job.texts, records=job.records)
        version = commit_files(objects, job.table, schema, files)
        features[name] = FeatureEntry(
            source=job.source,
            encoder=job.card.kind if job.card else "",
            config=job.config,
            table=job.table,
            version=version,
            rows=int(filled["rows"].sum()),
            parts=filled.height,
            size=int(filled["size"].sum()),
            model=job.model,
            model_files=files_of_models(objects, job, known),
            outputs={output: job.entry_of(output) for output in job.outputs},
            texts=list(job.texts),
            recipe=plan.recipes[name],
            repeated=rows_repeated(job, state.contents, failures),
            precision=job.card.precision if job.card else "f32",
            figures=job.card.figures.to_dict() if job.card and job.card.figures else {},
            processors=processors,
        )
        keys = pl.lit(name).alias("feature"), pl.lit(job.config).alias("config")
        all_contents[name] = state.contents.drop("origin").with_columns(*keys).select(CONTENTS.names)
        all_parts.append(state.parts.with_columns(*keys))
    parts = pl.concat(all_parts).select(PARTS.names).sort("feature", "part")
    versions = {
        "items": commit_files(objects, "items", ITEMS, [items] if items.rows else []),
        "contents": commit_contents(objects, all_contents),
        "parts": commit_rows(objects, "parts", parts.to_arrow().cast(PARTS)),
        "failures": commit_rows(objects, "failures", failures.select(FAILURES.names).to_arrow().cast(FAILURES)),
    }
    with objects.local_copy(f"{plan.folder}/{ITEMS_FILE}") as local:
        narrations = commit_narrations(objects, pl.scan_parquet(local).filter(is_text()).collect())
    if narrations is not None:
        versions["narrations"] = narrations
    lacking = failures.filter(~pl.col("partial"))
    failed = lacking.filter(pl.col("type") != POSTPONED).select("source", "uid").unique().height
    waiting = lacking.filter(pl.col("type") == POSTPONED).select("source", "uid").unique().height
    counts = {
        "items": items.rows,
        "failed": failed,
        **({"postponed": waiting} if waiting else {}),
        "partial": failures.filter(pl.col("partial")).select("source", "uid").unique().height,
        "outdated": sum(state.outdated for state in states.values()),
    }
    base = plan.base
    return Release(
        release=1 if base is None else base.release + 1,
        run=plan.job.run,
        created_at=datetime.now(UTC),
        program=plan.program,
        note=plan.note,
        spec=plan.document,
        declared=declared(plan.indexes, plan.exports, plan.evaluations),
        tables=versions,
        features=features,
        counts=plan.counts | counts,
        next_item_no=plan.next_item_no,
        prober=plan.prober,
    )


def rows_repeated(job: FeatureJob, contents: pl.DataFrame, failures: pl.DataFrame) -> int:
    """Rows that a feature's sampling dropped as repeats, of items without a failure.

    Args:
        job: the feature.
        contents: of its next table: item_no, planned, rows.
        failures: of all features.
    """
    if job.sampling is None or job.sampling.repeats is None:
        return 0
    failed = failures.filter(pl.col("feature") == job.name)["item_no"]
    whole = contents.filter(~pl.col("item_no").is_in(failed.implode()))
    return int((whole["planned"] - whole["rows"]).sum())


def items_of(objects: ObjectStore, plan: RunPlan) -> TableFile:
    """The file of the next items table, which the plan has made, put into its place."""
    with objects.local_copy(f"{plan.folder}/{ITEMS_FILE}") as local:
        rows = pq.read_metadata(local).num_rows
        file = TableFile(f"rows-{digest_file(local)}.parquet", local.stat().st_size, rows)
        if rows and objects.size(f"items/{file.name}") is None:
            with objects.create_file(f"items/{file.name}") as made:
                shutil.copyfile(local, made)
    return file


def commit_contents(objects: ObjectStore, contents: Mapping[str, pl.DataFrame]) -> int:
    """Commit the contents of all features as the table ``contents``; returns its version."""
    ordered = [contents[name].sort("part", "item_no", "segment") for name in sorted(contents)]
    pieces = pl.concat(ordered).iter_slices(ROWS_IN_GROUP)
    file, data = pieces_file(CONTENTS, (piece.to_arrow().cast(CONTENTS) for piece in pieces))
    if file.rows:
        objects.put_new(f"contents/{file.name}", data)
    return commit_files(objects, "contents", CONTENTS, [file] if file.rows else [])


def files_of_models(objects: ObjectStore, job: FeatureJob, known: Mapping[str, Sequence[FileEntry]]) -> list[FileEntry]:
    """All files of a feature's model, of those that it refers to, and of its graphs for devices.

    Args:
        objects: the store.
        job: the feature.
        known: files by model, as the last release knows them; their bytes never change.
    """
    if job.card is None:
        return []
    graphs = f"{MODELS}/{graphs_digest(job.card.digest)}"
    before = known.get(job.model) or model_files(objects, job.model)
    found = [file for file in before if not file.path.startswith(f"{graphs}/")]
    if job.device is None:
        return found
    kept = [file for file in before if file.path.startswith(f"{graphs}/")]
    return found + (kept or folder_entries(objects, graphs))


def processors_of_parts(
    objects: ObjectStore, plan: RunPlan, job: FeatureJob, parts: pl.DataFrame, reported: set[Processor]
) -> dict[str, float | None]:
    """What the rows of a feature's parts were computed on: as the last release knows it, and what this run adds.

    Args:
        objects: the store.
        plan: of the run.
        job: the feature.
        parts: its parts; those that a killed run left have no digest yet, and are asked themselves.
        reported: by workers of this run.
    """
    base = plan.base.features.get(job.name) if plan.base else None
    found: dict[str, float | None] = {}
    everything = set(reported)
    if plan.base is not None and base is not None and base.config == job.config and base.processors:
        before = read_table(
            objects, "parts", plan.base.tables["parts"], pl.col("feature") == job.name, ["feature", "part"]
        )["part"]
        kept = set(before) & set(parts["part"])
        if len(kept) == len(before) or (kept and len(base.processors) == 1):
            found = dict(base.processors)
        else:
            # Only a night that drops parts, of several processors, has to ask the others.
            for part in sorted(kept):
                with objects.open_file(part_path(job.table, part)) as opened:
                    everything |= set(processors_of(opened))
    if job.model:
        for part in parts.filter(pl.col("digest") == "")["part"]:
            with objects.open_file(part_path(job.table, part)) as opened:
                everything |= set(processors_of(opened))
    for each in sorted(everything, key=lambda each: each.features):
        known = [value for value in (found.get(each.features), each.agreement) if value is not None]
        found[each.features] = min(known) if known else None
    return found


def with_digests(objects: ObjectStore, table: str, parts: pl.DataFrame) -> pl.DataFrame:
    """Fill in the digests of adopted parts, which the plan did not read whole."""
    digests = [
        digest or objects.digest(part_path(table, part)) for part, digest in parts.select("part", "digest").rows()
    ]
    return parts.with_columns(pl.Series("digest", digests, pl.String))


class _PublishFn(PlanDoFn):
    def process(
        self,
        draft: Release,
        indexes: list[tuple[str, IndexEntry]],
        exports: list[tuple[str, ExportEntry]],
        figures: list[tuple[str, Figures]],
    ) -> Iterator[int]:
        """Append the release, unless this run has done so already."""
        plan = self._plan
        objects = ObjectStore(plan.job.store)
        check_gathered("indexes", len(plan.indexes), len(dict(indexes)))
        check_gathered("exports", len(plan.exports), len(dict(exports)))
        done = [release for release in read_releases(objects).rows if release.run == plan.job.run]
        if not done:
            latest = read_releases(objects).latest
            release = draft.model_copy(
                update={
                    "release": 1 if latest is None else latest.release + 1,
                    "indexes": dict(sorted(indexes)),
                    "exports": dict(sorted(exports)),
                    "figures": dict(sorted(figures, key=lambda each: each[0])),
                    "seconds": round(time.time() - plan.started_at, 3),
                    "created_at": datetime.now(UTC),
                }
            )
            try:
                append_release(objects, release, plan.releases_version)
            except StoreError as error:
                # Another try of this bundle may have been quicker; only then it is no conflict.
                done = [other for other in read_releases(objects).rows if other.run == plan.job.run]
                if not done:
                    write_outcome(objects, plan, {"state": "conflict", "message": str(error)})
                    return
            else:
                done = [release]
                count("released", 1)
                write_head_figures(objects, release)
        write_outcome(objects, plan, {"state": "published", "release": done[0].release})
        yield done[0].release


class Publish(Step):
    """The draft in; the release appended, once, last."""

    do_fn = _PublishFn
