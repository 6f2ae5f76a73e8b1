"""Derives the next tables from the plan and the reports of workers: parts, contents, failures of each feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow.parquet as pq

from cliploom.schemas.errors import StoreError
from cliploom.schemas.plan import RunPlan
from cliploom.transforms.publish.assemble import COMPUTED, Assembly, assemble
from cliploom.transforms.publish.dataframes import (
    PlanFrames,
    failures_frame,
    held_frame,
    published_contents,
    reported_failures,
    wanted_items,
)
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.tfrecords.repeated import STAGE as REPEATED
from cliploom.transforms.tfrecords.repeated import repeated_failures
from cliploom.transforms.work.part_records import PartRecordFrames
from cliploom.transforms.work.plan_ref import ITEMS_FILE

_WANTED = ("item_no", "digest")
_CHOSEN = ("item_no", "digest", "part", "planned", "rows")


@dataclass(frozen=True)
class FeatureParts:
    """All parts from which a feature's next table can be made.

    Attributes:
        wanted: columns of ``WANTED``.
        published: contents of the last release's table; columns of ``HELD``.
        held: the same, plus parts made by killed runs and by this run; each part once.
        parts: columns of ``PARTS``.
    """

    wanted: pl.DataFrame
    published: pl.DataFrame
    held: pl.DataFrame
    parts: pl.DataFrame


def feature_parts(
    objects: ObjectStore, plan: RunPlan, tables: PlanFrames, computed: PartRecordFrames, name: str
) -> FeatureParts:
    """Collect the parts of one feature."""
    mine, done = pl.col("feature") == name, computed.of(name)
    published = published_contents(objects, plan, name)
    before = pl.concat([published, tables.adopted.filter(mine).drop("feature")])
    # Adopted parts are reported as well.
    before = before.join(done.parts, on="part", how="anti", maintain_order="left")
    return FeatureParts(
        wanted_items(objects, plan, name, published),
        published,
        pl.concat([held_frame(done, COMPUTED).drop("feature"), before]),
        pl.concat([done.parts, tables.parts.filter(mine)]).unique("part", keep="first", maintain_order=True),
    )


def plan_feature_parts(plan: RunPlan, name: str, found: FeatureParts) -> Assembly:
    """Choose the parts of a feature's next table."""
    sizes = dict(found.parts.select("part", "size").iter_rows())
    arguments = {"merge_small": 1} if plan.compact else {}
    return assemble(name, found.wanted, found.held, sizes, **arguments)


@dataclass(frozen=True)
class FeatureState:
    """The parts of one feature's next table, and the items that it lacks.

    Attributes:
        contents: columns of ``HELD``.
        parts: columns of ``PARTS``.
        outdated: items that keep rows of their old content.
        missing: item_no, uid of wanted items that no part contains.
        wanted: item_no, digest of all wanted items.
        changed: whether its parts differ from those of the last release.
    """

    contents: pl.DataFrame
    parts: pl.DataFrame
    outdated: int
    missing: pl.DataFrame
    wanted: pl.DataFrame
    changed: bool


def state_after_rewrites(assembly: Assembly, found: FeatureParts, rewritten: PartRecordFrames) -> FeatureState:
    """Return contents and parts of one feature after the rewrites."""
    made = rewritten.of(assembly.feature)
    # Only chosen contents: a kept part may also contain the empty content of an item that now has rows elsewhere.
    kept = found.held[assembly.places.sort()]
    contents = pl.concat([kept, held_frame(made, COMPUTED).drop("feature")])
    filled, before = (frame.filter(pl.col("rows") > 0)["part"].unique() for frame in (contents, found.published))
    return FeatureState(
        contents,
        pl.concat([found.parts.filter(pl.col("part").is_in(list(assembly.keep))), made.parts]),
        assembly.outdated.height,
        assembly.missing.filter(pl.col("digest") != ""),
        found.wanted.select("item_no", "digest"),
        set(filled) != set(before),
    )


def next_failures(
    plan: RunPlan,
    tables: PlanFrames,
    computed: PartRecordFrames,
    rewritten: PartRecordFrames,
    states: Mapping[str, FeatureState],
) -> pl.DataFrame:
    """Return all current failures after this run.

    A failure of a feature is current if the next table's contents agree with it: they have the planned and actual rows
    that it reports, or no rows of the item. Failures that have since been resolved are dropped, even if an orphaned or
    older part still records them.
    """
    keys = ["feature", "item_no", "digest"]
    fresh = reported_failures(computed, plan.job.run)
    before = tables.failures.filter(pl.col("feature") != "")
    # Rows copied under another uid keep the failures of their partial losses.
    copied = reported_failures(rewritten, plan.job.run)
    told = pl.concat([fresh, before, copied])["item_no"].unique().implode()
    chosen = pl.concat(_about(name, state.contents, told, _CHOSEN) for name, state in states.items())
    wanted = pl.concat(_about(name, state.wanted, told, _WANTED) for name, state in states.items())
    held = chosen.group_by(keys).agg(pl.col("rows").sum().alias("held_rows"))
    renewed = chosen.join(computed.parts, on="part", how="semi").select(keys).unique()
    before = before.join(wanted, on=keys, how="semi").join(renewed, on=keys, how="anti")
    attempts = pl.concat([fresh, before]).group_by(keys).agg(pl.col("attempts").max().alias("most_attempts"))
    before = before.join(fresh, on=[*keys, "expected", "got"], how="anti")
    copied = copied.join(pl.concat([fresh, before]), on=[*keys, "expected", "got"], how="anti")
    found = pl.concat([fresh, before, copied]).join(held, on=keys, how="left").join(attempts, on=keys, how="left")
    seen = chosen.select(*keys, pl.col("planned").alias("expected"), pl.col("rows").alias("got")).unique()
    current = pl.concat(
        [
            found.filter(pl.col("held_rows").is_null()),
            found.filter(pl.col("held_rows").is_not_null()).join(seen, on=[*keys, "expected", "got"], how="semi"),
        ]
    ).with_columns(
        (pl.col("held_rows").fill_null(0) > 0).alias("partial"),
        pl.coalesce("most_attempts", "attempts").alias("attempts"),
    )
    probing = tables.failures.filter(pl.col("feature") == "")
    return pl.concat([probing, current.select(probing.columns)]).sort("source", "feature", "item_no", "message")


def _about(feature: str, frame: pl.DataFrame, items: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
    """Return the rows of these items only, with the feature's name, because few items fail."""
    return frame.filter(pl.col("item_no").is_in(items)).select(pl.lit(feature).alias("feature"), *columns)


def with_repeated_ids(
    objects: ObjectStore, plan: RunPlan, states: Mapping[str, FeatureState], failures: pl.DataFrame
) -> pl.DataFrame:
    """Add failures for record ids that occur in two items of a source.

    Features with changed parts are searched again; for the others the last release's failures are kept.
    """
    for name, state in states.items():
        job = plan.feature(name)
        if job.records and state.changed:
            with objects.local_copy(f"{plan.folder}/{ITEMS_FILE}") as local:
                uris = dict(pl.read_parquet(local, columns=["item_no", "uri"]).iter_rows())
            found = failures_frame(repeated_failures(objects, job, state.contents, uris), plan.job.run)
            others = (pl.col("feature") != name) | (pl.col("stage") != REPEATED)
            failures = pl.concat([failures.filter(others), found.select(failures.columns)])
    return failures.sort("source", "feature", "item_no", "message")


def check_reported(objects: ObjectStore, plan: RunPlan, computed: PartRecordFrames) -> None:
    """Check that every part of the plan's shards was reported, so that no older rows are used instead.

    Raises:
        StoreError: with the number of missing parts.
    """
    with objects.open_file(f"{plan.folder}/shards.parquet") as opened, pq.ParquetFile(opened) as file:
        if "parts" not in file.schema_arrow.names:
            return  # planned by an older version
        planned = sum(file.read(["parts"])["parts"].to_pylist())
    check_gathered("parts", planned, computed.parts.height)


def check_gathered(what: str, planned: int, reported: int) -> None:
    """Check that a gathering step received all announced elements.

    Raises:
        StoreError: if elements were lost between two steps.
    """
    if reported < planned:
        raise StoreError(
            f"{planned - reported} of {planned} {what} were planned but no worker reported them; nothing was "
            "published, run again: finished parts are kept."
        )


def check_complete(states: Mapping[str, FeatureState], failures: pl.DataFrame) -> None:
    """Check that every wanted item has rows or a failure, so that a lost report is not taken for a deletion.

    Raises:
        StoreError: with an item that no worker reported.
    """
    for name, state in states.items():
        known = failures.filter((pl.col("feature") == name) | (pl.col("feature") == ""))
        lost = state.missing.join(known, on="item_no", how="anti")
        if lost.height:
            raise StoreError(
                f"{lost.height} items of feature {name!r} were planned but no worker reported them, such as "
                f"{lost['uid'][0]!r}; nothing was published, run again: finished parts are kept."
            )
