"""Classifies every (item, feature): pure functions of the listing and of existing parts that return verdicts.

They take and return DataFrames with the columns of ``cliploom.schemas.tables``, and neither read nor write files. A
million items take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from cliploom.schemas.digests import CORRECTED, digest_bytes
from cliploom.schemas.plan import (
    CONFIG_CHANGED,
    CONTENT_CHANGED,
    DELETED,
    FAILED,
    MOVED,
    NEW,
    RETRY,
    UNCHANGED,
    VERDICTS,
)
from cliploom.transforms.publish.assemble import complete_items

VERDICT = pl.Enum(VERDICTS)
ITEMS_IN_RANGE = 1_000_000
"""Batch size; bounds the working memory of one classification pass."""


@dataclass(frozen=True)
class RetryPolicy:
    """Which known failures are tried again.

    Attributes:
        everything: retry all of them (``--retry-failed``).
        max_attempts: number of runs that try an item with a transient failure.
    """

    everything: bool = False
    max_attempts: int = 3


def allot_numbers(listing: pl.DataFrame, known: pl.DataFrame, next_item_no: int) -> tuple[pl.DataFrame, int]:
    """Give each (source, uid) its number: the existing one, or the next free ones in order of source and uid.

    Args:
        listing: the listing, with source and uid.
        known: source, uid, item_no assigned earlier, including by unpublished runs; each item once.
        next_item_no: first unused number.

    Returns:
        The listing with ``item_no``, sorted by it, and the first number that is still unused.
    """
    free = max(next_item_no, int(known["item_no"].max() or 0) + 1)  # type: ignore[arg-type]
    kept, fresh = [], [listing.clear()]
    for source in listing["source"].unique().sort():
        mine = of_source(listing, source)
        # Joining by one string column takes much less memory than by two.
        joined = mine.join(of_source(known, source).select("uid", "item_no"), on="uid", how="left")
        kept.append(joined.filter(pl.col("item_no").is_not_null()))
        added = joined.filter(pl.col("item_no").is_null()).drop("item_no")
        fresh.append(added if added["uid"].is_sorted() else added.sort("uid"))
    added = pl.concat(fresh)
    added = added.with_columns(pl.int_range(free, free + added.height, dtype=pl.Int64).alias("item_no"))
    numbered = pl.concat([*kept, added])
    return by_number(numbered), free + added.height


def of_source(items: pl.DataFrame, source: str) -> pl.DataFrame:
    """Return the items of one source; nothing is copied if there is only one."""
    mine = items["source"] == source
    return items if mine.all() else items.filter(mine)


def by_number(frame: pl.DataFrame) -> pl.DataFrame:
    """Sort by number, unless the frame is already sorted."""
    return frame if frame["item_no"].is_sorted() else frame.sort("item_no")


def select_subset(listing: pl.DataFrame, known: pl.DataFrame, limit: int, seed: int = 0) -> pl.DataFrame:
    """Return ``limit`` items, chosen by a seeded hash of their uids, and all known items."""
    names = listing.select("source", "uid").rows()
    order = [digest_bytes(f"{seed}\0{source}\0{uid}".encode()) for source, uid in names]
    chosen = listing.with_columns(pl.Series("_order", order, pl.String)).sort("_order").head(limit).drop("_order")
    kept = listing.join(known, on=["source", "uid"], how="semi")
    return pl.concat([chosen, kept]).unique(["source", "uid"]).sort("source", "uid")


@dataclass(frozen=True)
class FeatureHistory:
    """What is known about one feature before a run.

    Attributes:
        held: contents of all parts of the current config, published or left by killed runs.
        failures: failures of the current config in the last release.
        recent: failures recorded in orphaned parts, which killed runs left.
        had: item_no, uid, digest of the items in the last release's table, whatever its config.
        change: sentence that says how the config differs, for reasons.
    """

    held: pl.DataFrame
    failures: pl.DataFrame
    recent: pl.DataFrame
    had: pl.DataFrame
    change: str = ""


def classify(
    feature: str, items: pl.DataFrame, past: FeatureHistory, policy: RetryPolicy, refresh: bool = False
) -> pl.DataFrame:
    """Return the verdicts for one feature.

    Args:
        feature: name of the feature.
        items: items of the source with item_no, uid, digest; digest is null if the probe failed.
        past: what is known about the feature.
        policy: which failures are tried again.
        refresh: whether to compute everything again.

    Returns:
        feature, item_no, uid, digest, verdict, reason, attempts (of a retried failure), from_item_no (of a copy).
        Deleted items come last and have a null digest.
    """
    items = by_number(items.select("item_no", "uid", "digest"))
    complete = complete_items(past.held)
    had = by_number(_once(past.had))
    exact = by_number(_exact(complete, items))
    ranges = [_with_rows_held(some, _between(exact, some)) for some in items.iter_slices(ITEMS_IN_RANGE)]
    lacking = pl.concat(
        [items.clear(), *(some.filter(pl.col("held_rows").is_null()) for some in ranges)], how="diagonal"
    )
    elsewhere = _elsewhere(complete, lacking)
    del complete, exact, lacking
    failures = (
        pl.concat([past.failures, past.recent.with_columns(pl.lit(value=False).alias("partial"))])
        .group_by("item_no", "digest")
        .agg(pl.col("transient", "partial").any(), pl.col("attempts").max(), pl.col("message").first())
    )
    classified = []
    while ranges:
        some = ranges.pop(0)
        known = _between(had, some).select("item_no", pl.col("digest").alias("had_digest"))
        some = (
            some.join(elsewhere, on="digest", how="left")
            .join(failures, on=["item_no", "digest"], how="left")
            .join(known, on="item_no", how="left")
        )
        classified.append(_classify_range(some, past, policy, refresh))
    gone = had.join(items, on="item_no", how="anti").sort("item_no")
    deleted = gone.select(
        "item_no",
        "uid",
        pl.lit(None, pl.String).alias("digest"),
        pl.lit(DELETED, VERDICT).alias("verdict"),
        pl.lit("not listed any more").alias("reason"),
        pl.lit(None, pl.Int32).alias("attempts"),
        pl.lit(None, pl.Int64).alias("from_item_no"),
    )
    columns = deleted.columns
    return pl.concat([*(some.select(columns) for some in classified), deleted], how="vertical_relaxed").select(
        pl.lit(feature).alias("feature"), *columns
    )


def _once(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.unique("item_no") if frame["item_no"].is_duplicated().any() else frame


def _between(frame: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of a frame sorted by number, from the first of these items to the last."""
    numbers = frame["item_no"]
    start = int(numbers.search_sorted(items["item_no"][0], side="left"))
    return frame.slice(start, int(numbers.search_sorted(items["item_no"][-1], side="right")) - start)


def _exact(complete: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return the existing contents of each item, preferring those of its current bytes."""
    exact = complete.select(
        "item_no", "uid", "digest", pl.col("rows").alias("held_rows"), pl.col("planned").alias("held_planned")
    )
    if exact["item_no"].is_duplicated().any():
        exact = exact.join(items, on=["item_no", "uid", "digest"], how="semi").sort("held_rows", descending=True)
        exact = exact.unique("item_no", keep="first")
    return exact


def _with_rows_held(items: pl.DataFrame, exact: pl.DataFrame) -> pl.DataFrame:
    """Add held_rows and held_planned to the items; null if no part has rows of their bytes."""
    joined = items.join(exact, on="item_no", how="left", suffix="_held", maintain_order="left")
    # Joining by the number alone and comparing afterwards is much faster than joining by three columns.
    same = (pl.col("uid") == pl.col("uid_held")) & (pl.col("digest") == pl.col("digest_held"))
    held = joined.select(pl.when(same).then(name).alias(name) for name in ("held_rows", "held_planned"))
    return items.hstack(held)


def _elsewhere(complete: pl.DataFrame, lacking: pl.DataFrame) -> pl.DataFrame:
    """Return digest, from_item_no, from_uid: for bytes that these items lack, the first item with rows of them."""
    return (
        complete.filter(pl.col("rows") > 0)
        .join(lacking, on="digest", how="semi")
        .sort("item_no", "uid")
        .unique("digest", keep="first", maintain_order=True)
        .select("digest", pl.col("item_no").alias("from_item_no"), pl.col("uid").alias("from_uid"))
    )


def _classify_range(joined: pl.DataFrame, past: FeatureHistory, policy: RetryPolicy, refresh: bool) -> pl.DataFrame:
    """Return verdicts and reasons from items joined with everything known about them."""
    transient = pl.col("transient").fill_null(value=False) & (pl.col("attempts") < policy.max_attempts)
    # Ignore a whole-item failure if the item has rows now: an interrupted run retried it successfully.
    failed = pl.col("attempts").is_not_null() & (pl.col("partial") | (pl.col("held_rows").fill_null(0) == 0))
    again = pl.lit(policy.everything) | transient
    # Zero rows can be valid, such as a narration file without sentences.
    empty = (pl.col("held_planned") == 0) & ~failed
    # Without rows a partial failure means that their part was lost, so they are computed again.
    hopeless = failed & ~pl.col("partial").fill_null(value=False)
    known_bad = ((pl.col("held_rows") == 0) & ~empty) | (pl.col("held_rows").is_null() & hopeless)
    usable = ((pl.col("held_rows") > 0) | empty) & pl.lit(not refresh)
    copied = pl.col("from_item_no").is_not_null() & pl.lit(not refresh)
    bytes_of, corrections = (pl.col("digest").str.splitn(CORRECTED, 2).struct.field(f"field_{half}") for half in (0, 1))
    same_bytes = pl.col("had_digest").str.splitn(CORRECTED, 2).struct.field("field_0") == bytes_of
    corrected = same_bytes & (pl.col("had_digest") != pl.col("digest"))
    verdict = (
        pl.when(pl.col("digest").is_null())
        .then(pl.lit(FAILED, VERDICT))
        .when((known_bad | failed) & again)
        .then(pl.lit(RETRY, VERDICT))
        .when(usable)
        .then(pl.lit(UNCHANGED, VERDICT))
        .when(known_bad & pl.lit(not refresh))
        .then(pl.lit(FAILED, VERDICT))
        .when(copied)
        .then(pl.lit(MOVED, VERDICT))
        .when(pl.col("had_digest").is_null())
        .then(pl.lit(NEW, VERDICT))
        .when(~same_bytes)
        .then(pl.lit(CONTENT_CHANGED, VERDICT))
        .otherwise(pl.lit(CONFIG_CHANGED, VERDICT))
    )
    reason = (
        pl.when(pl.col("digest").is_null())
        .then(pl.lit("could not be probed"))
        .when(pl.col("verdict") == FAILED)
        .then(pl.concat_str(pl.lit("failed before: "), pl.col("message").fill_null("no reason kept")))
        .when(pl.col("verdict") == RETRY)
        .then(pl.concat_str(pl.lit("tried again: "), pl.col("message").fill_null("no reason kept")))
        .when(pl.col("verdict") == MOVED)
        .then(pl.concat_str(pl.lit("same bytes as "), pl.col("from_uid"), pl.lit(", rows are copied")))
        .when((pl.col("verdict") == CONFIG_CHANGED) & corrected)
        .then(
            pl.concat_str(
                pl.lit("pictures are read as they are meant: "),
                corrections.str.replace_all(".", ", ", literal=True).fill_null("no correction any more"),
            )
        )
        .when(pl.col("verdict") == CONFIG_CHANGED)
        .then(pl.lit(past.change or ("computed again as asked" if refresh else "the feature's table is new")))
        .when(pl.col("verdict") == CONTENT_CHANGED)
        .then(pl.lit("the file's bytes changed"))
        .otherwise(pl.lit(""))
    )
    joined = joined.with_columns(verdict.alias("verdict"))
    # Most items are unchanged in most runs; reasons are only made for the others.
    still = pl.col("verdict") == UNCHANGED
    return pl.concat(
        [
            joined.filter(still).with_columns(pl.lit("").alias("reason")),
            joined.filter(~still).with_columns(reason.alias("reason")),
        ]
    ).sort("item_no")


def count_verdicts(verdicts: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Count items: feature -> verdict -> number, in the order of ``VERDICTS``."""
    counted = verdicts.group_by("feature", "verdict").len().rows()
    by_feature: dict[str, dict[str, int]] = {}
    for feature, verdict, number in sorted(counted, key=lambda row: (row[0], VERDICTS.index(row[1]))):
        by_feature.setdefault(feature, {})[verdict] = number
    return by_feature
