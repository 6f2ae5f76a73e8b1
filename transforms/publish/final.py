"""The last steps of a run, each a pure reading of the plan and of what workers report.

compute -> ``Assemble`` -> rewrite -> ``CommitTables`` -> index shards, exports -> ``Publish``. Every step can be tried
twice: files are named by content, tables are committed as complete lists, and only ``Publish`` makes anything visible.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import polars as pl

from schemas.errors import LimitError, StoreError
from schemas.plan import RunPlan, declared
from schemas.records import PartRecord, Rewrite
from schemas.release import ExportEntry, FeatureEntry, IndexEntry, Release
from schemas.tables import CONTENTS, FAILURES, ITEMS, PARTS, feature_schema
from transforms.narrations.table import commit_narrations
from transforms.publish.assemble import COMPUTED, HEAD, Assembly, assemble
from transforms.publish.frames import PlanTables, contents_frame, failures_frame, parts_frame
from transforms.store.objects import Objects
from transforms.store.parts import part_path
from transforms.store.releases import append_release, read_releases
from transforms.store.tables import TableFile, commit_files, commit_rows
from transforms.tfrecords.repeated import STAGE as REPEATED
from transforms.tfrecords.repeated import repeated_failures
from transforms.work.counters import count
from transforms.work.models import model_files
from transforms.work.planned import PlannedDoFn
from transforms.work.records import read_records

OUTCOME = "outcome.json"
EXAMPLES = 3


def assemblies(plan: RunPlan, tables: PlanTables, computed: Sequence[PartRecord]) -> dict[str, Assembly]:
    """What each feature's next table is made of."""
    held = pl.concat([contents_frame(computed, COMPUTED), tables.held]).unique(
        ["feature", "part", "item_no", "segment"], keep="first", maintain_order=True
    )
    parts = pl.concat([tables.parts, parts_frame(computed)])
    result = {}
    for name in plan.job.features:
        sizes = dict(parts.filter(pl.col("feature") == name).select("part", "size").rows())
        own = held.filter(pl.col("feature") == name).drop("feature")
        wanted = tables.wanted.filter(pl.col("feature") == name).drop("feature")
        arguments = {"merge_small": 1} if plan.compact else {}
        result[name] = assemble(name, wanted, own, sizes, **arguments)
    return result


class Assemble(PlannedDoFn):
    """The rewrites that the next tables need, from the files with all part records of the run."""

    def process(self, begin: str, computed: list[str]) -> Iterator[Rewrite]:
        """Decide for every feature."""
        objects = Objects(self._plan.job.store)
        tables = PlanTables.read(objects, self._plan.folder)
        for assembly in assemblies(self._plan, tables, read_records(objects, computed)).values():
            yield from assembly.rewrites


@dataclass(frozen=True)
class FeatureState:
    """The parts of one feature's next table, and its failures."""

    contents: pl.DataFrame
    parts: pl.DataFrame
    outdated: int


def next_state(
    name: str, assembly: Assembly, tables: PlanTables, computed: Sequence[PartRecord], rewritten: Sequence[PartRecord]
) -> FeatureState:
    """Contents and parts of one feature after the rewrites."""
    made = [record for record in rewritten if record.feature == name]
    done = [record for record in computed if record.feature == name]
    mine = pl.col("feature") == name
    contents = pl.concat([tables.held.filter(mine), contents_frame(done, COMPUTED)])
    # Only what was chosen: a kept part may also hold the empty content of an item that has rows elsewhere by now.
    kept = contents.join(assembly.kept, on=["part", "item_no", "segment"], how="semi")
    kept = kept.unique(["part", "item_no", "segment"], maintain_order=True)
    parts = pl.concat([tables.parts.filter(mine), parts_frame(done)]).unique("part", maintain_order=True)
    return FeatureState(
        pl.concat([kept, contents_frame(made, COMPUTED)]).drop("feature"),
        pl.concat([parts.filter(pl.col("part").is_in(list(assembly.keep))), parts_frame(made)]),
        assembly.outdated.height,
    )


def next_failures(
    plan: RunPlan,
    tables: PlanTables,
    computed: Sequence[PartRecord],
    rewritten: Sequence[PartRecord],
    states: Mapping[str, FeatureState],
) -> pl.DataFrame:
    """All failures that hold after this run.

    A failure of a feature stands when the next table's contents show it: what it says was planned and got is what is
    there, or nothing of the item is there at all. So one that healed is gone, also when a part that a killed run left,
    or an older release's, tells of it.
    """
    keys = ["feature", "item_no", "digest"]
    chosen = pl.concat(
        state.contents.select(pl.lit(name).alias("feature"), "item_no", "digest", "part", "planned", "rows")
        for name, state in states.items()
    )
    held = chosen.group_by(keys).agg(pl.col("rows").sum().alias("held_rows"))
    renewed = chosen.filter(pl.col("part").is_in([record.part for record in computed])).select(keys).unique()
    fresh = failures_frame((failure for record in computed for failure in record.failures), plan.job.run)
    before = tables.failures.filter(pl.col("feature") != "")
    before = before.join(tables.wanted.select(keys), on=keys, how="semi").join(renewed, on=keys, how="anti")
    attempts = pl.concat([fresh, before]).group_by(keys).agg(pl.col("attempts").max().alias("most_attempts"))
    before = before.join(fresh, on=[*keys, "expected", "got"], how="anti")
    # Rows copied under another name bring what is known of their losses.
    copied = failures_frame((failure for record in rewritten for failure in record.failures), plan.job.run)
    copied = copied.join(pl.concat([fresh, before]), on=[*keys, "expected", "got"], how="anti")
    found = pl.concat([fresh, before, copied]).join(held, on=keys, how="left").join(attempts, on=keys, how="left")
    seen = chosen.select(*keys, pl.col("planned").alias("expected"), pl.col("rows").alias("got")).unique()
    standing = pl.concat(
        [
            found.filter(pl.col("held_rows").is_null()),
            found.filter(pl.col("held_rows").is_not_null()).join(seen, on=[*keys, "expected", "got"], how="semi"),
        ]
    ).with_columns(
        (pl.col("held_rows").fill_null(0) > 0).alias("partial"),
        pl.coalesce("most_attempts", "attempts").alias("attempts"),
    )
    probing = tables.failures.filter(pl.col("feature") == "")
    return pl.concat([probing, standing.select(probing.columns)]).sort("source", "feature", "item_no", "message")


def with_repeated_ids(
    objects: Objects,
    plan: RunPlan,
    tables: PlanTables,
    states: Mapping[str, FeatureState],
    failures: pl.DataFrame,
) -> pl.DataFrame:
    """The failures, with those of record ids that stand in two items of a source.

    They are looked for anew in features whose parts have changed; elsewhere the last release's hold.
    """
    uris = dict(tables.items.select("item_no", "uri").iter_rows())
    for name, state in states.items():
        job = plan.feature(name)
        before = tables.held.filter((pl.col("feature") == name) & (pl.col("origin") == HEAD) & (pl.col("rows") > 0))
        parts = state.contents.filter(pl.col("rows") > 0)["part"]
        if job.records and set(parts) != set(before["part"]):
            found = failures_frame(repeated_failures(objects, job, state.contents, uris), plan.job.run)
            others = (pl.col("feature") != name) | (pl.col("stage") != REPEATED)
            failures = pl.concat([failures.filter(others), found.select(failures.columns)])
    return failures.sort("source", "feature", "item_no", "message")


def check_complete(tables: PlanTables, assembled: Mapping[str, Assembly], failures: pl.DataFrame) -> None:
    """See to it that every wanted item is held or known to fail; a lost report must not look like a delete.

    Raises:
        StoreError: naming an item that no worker reported.
    """
    for name, assembly in assembled.items():
        known = failures.filter((pl.col("feature") == name) | (pl.col("feature") == ""))
        lost = assembly.missing.filter(pl.col("digest") != "").join(known, on="item_no", how="anti")
        if lost.height:
            raise StoreError(
                f"{lost.height} items of feature {name!r} were planned but no worker reported them, such as "
                f"{lost['uid'][0]!r}; nothing was published, run again: finished parts are kept."
            )


def check_limits(plan: RunPlan, failures: pl.DataFrame, items: int) -> None:
    """Stop before publishing when a guard says so.

    Raises:
        LimitError: naming the guard, the numbers, an example and how to go on.
    """
    limits, accept, store = plan.limits, plan.accept, shlex.quote(plan.job.store)
    failed = failures.filter(~pl.col("partial"))
    lost = failed.select("source", "uid").unique().height
    known = plan.counts.get("known_failed", 0)
    if not accept.failures and lost > known and items and lost / items > limits.max_failed:
        examples = " ".join(failed.group_by("type", maintain_order=True).first()["message"].head(EXAMPLES))
        raise LimitError(
            f"{lost} of {items} items failed, more than max_failed ({limits.max_failed:.0%}), for example: {examples} "
            f"Nothing was published; the computed parts are kept. "
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


class CommitTables(PlannedDoFn):
    """The draft of the release, from the files with all part records: tables committed, no index or export yet.

    Nothing comes out when a guard stops the run; the outcome then says why.
    """

    def process(self, begin: str, computed_paths: list[str], rewritten_paths: list[str]) -> Iterator[Release]:
        """Commit every table as a complete list of files."""
        plan = self._plan
        objects = Objects(plan.job.store)
        computed, rewritten = read_records(objects, computed_paths), read_records(objects, rewritten_paths)
        tables = PlanTables.read(objects, plan.folder)
        assembled = assemblies(plan, tables, computed)
        states = {name: next_state(name, assembly, tables, computed, rewritten) for name, assembly in assembled.items()}
        failures = next_failures(plan, tables, computed, rewritten, states)
        failures = with_repeated_ids(objects, plan, tables, states, failures)
        check_complete(tables, assembled, failures)
        try:
            check_limits(plan, failures, tables.items.height)
        except LimitError as error:
            write_outcome(objects, plan, {"state": "stopped", "message": str(error)})
            return
        yield commit_draft(objects, plan, tables, states, failures)


def commit_draft(
    objects: Objects, plan: RunPlan, tables: PlanTables, states: dict[str, FeatureState], failures: pl.DataFrame
) -> Release:
    """Commit the tables; returns the release without indexes and exports."""
    features = {}
    all_contents, all_parts = [], []
    known = {entry.model: entry.model_files for entry in plan.base.features.values()} if plan.base else {}
    for name, state in states.items():
        job = plan.feature(name)
        state = replace(state, parts=with_digests(objects, job.table, state.parts))
        filled = state.parts.filter(pl.col("rows") > 0).sort("part")
        files = [TableFile(part, size, rows) for part, size, rows in filled.select("part", "size", "rows").rows()]
        schema = feature_schema(job.outputs, job.compact, records=job.records)
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
            model_files=known.get(job.model) or model_files(objects, job.model),
            outputs={output: job.entry_of(output) for output in job.outputs},
            recipe=plan.recipes[name],
        )
        keys = pl.lit(name).alias("feature"), pl.lit(job.config).alias("config")
        all_contents.append(state.contents.drop("origin").with_columns(*keys))
        all_parts.append(state.parts.with_columns(*keys))
    contents = pl.concat(all_contents).select(CONTENTS.names).sort("feature", "part", "item_no", "segment")
    parts = pl.concat(all_parts).select(PARTS.names).sort("feature", "part")
    versions = {
        "items": commit_rows(objects, "items", tables.items.select(ITEMS.names).to_arrow().cast(ITEMS)),
        "contents": commit_rows(objects, "contents", contents.to_arrow().cast(CONTENTS)),
        "parts": commit_rows(objects, "parts", parts.to_arrow().cast(PARTS)),
        "failures": commit_rows(objects, "failures", failures.select(FAILURES.names).to_arrow().cast(FAILURES)),
    }
    narrations = commit_narrations(objects, tables.items)
    if narrations is not None:
        versions["narrations"] = narrations
    failed = failures.filter(~pl.col("partial")).select("source", "uid").unique().height
    counts = {
        "items": tables.items.height,
        "failed": failed,
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
        declared=declared(plan.indexes, plan.exports),
        tables=versions,
        features=features,
        counts=plan.counts | counts,
        next_item_no=plan.next_item_no,
    )


def with_digests(objects: Objects, table: str, parts: pl.DataFrame) -> pl.DataFrame:
    """Fill in the digests of adopted parts, which the plan did not read whole."""
    digests = [
        digest or objects.digest(part_path(table, part)) for part, digest in parts.select("part", "digest").rows()
    ]
    return parts.with_columns(pl.Series("digest", digests, pl.String))


class Publish(PlannedDoFn):
    """The draft in; the release appended, once, last."""

    def process(
        self, draft: Release, indexes: list[tuple[str, IndexEntry]], exports: list[tuple[str, ExportEntry]]
    ) -> Iterator[int]:
        """Append the release, unless this run has done so already."""
        plan = self._plan
        objects = Objects(plan.job.store)
        done = [release for release in read_releases(objects).rows if release.run == plan.job.run]
        if not done:
            latest = read_releases(objects).latest
            release = draft.model_copy(
                update={
                    "release": 1 if latest is None else latest.release + 1,
                    "indexes": dict(sorted(indexes)),
                    "exports": dict(sorted(exports)),
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
        write_outcome(objects, plan, {"state": "published", "release": done[0].release})
        yield done[0].release


def write_outcome(objects: Objects, plan: RunPlan, outcome: dict[str, object]) -> None:
    """Leave word for the launcher of how the run ended."""
    objects.put(f"runs/{plan.job.run}/{OUTCOME}", json.dumps(outcome).encode())


def read_outcome(objects: Objects, run: str) -> dict[str, object] | None:
    """How a run ended, or None when it has not."""
    try:
        outcome: dict[str, object] = json.loads(objects.get(f"runs/{run}/{OUTCOME}"))
    except FileNotFoundError:
        return None
    return outcome
