"""The plan: a verdict for every (item, feature), as pure functions of what is listed and what is held.

Frames in, frames out; nothing is read or written here, and a million items take seconds. Columns are those of
``schemas.tables``.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from schemas.digests import digest_bytes
from transforms.publish.assemble import complete_items

NEW = "new"
CONTENT_CHANGED = "content_changed"
CONFIG_CHANGED = "config_changed"
MOVED = "moved"
UNCHANGED = "unchanged"
DELETED = "deleted"
RETRY = "retry"
FAILED = "failed"
VERDICTS = (NEW, CONTENT_CHANGED, CONFIG_CHANGED, MOVED, UNCHANGED, DELETED, RETRY, FAILED)
COMPUTED = (NEW, CONTENT_CHANGED, CONFIG_CHANGED, RETRY)


@dataclass(frozen=True)
class RetryLaw:
    """Which known failures are tried again.

    Attributes:
        everything: all of them (``--retry-failed``).
        max_attempts: nights on which a transient failure is tried.
    """

    everything: bool = False
    max_attempts: int = 3


def allot_numbers(listing: pl.DataFrame, known: pl.DataFrame, next_item_no: int) -> tuple[pl.DataFrame, int]:
    """Give each (source, uid) its number: the one it has, or the next ones in order of source and uid.

    Args:
        listing: with source and uid.
        known: source, uid, item_no allotted before, also by runs that never published.
        next_item_no: the first number never used.

    Returns:
        The listing with ``item_no``, sorted by it, and the first number that is free now.
    """
    numbers = known.select("source", "uid", "item_no").unique(["source", "uid"], keep="first")
    joined = listing.join(numbers, on=["source", "uid"], how="left")
    free = max(next_item_no, int(numbers["item_no"].max() or 0) + 1)  # type: ignore[arg-type]
    fresh = joined.filter(pl.col("item_no").is_null()).sort("source", "uid")
    fresh = fresh.with_columns(pl.int_range(free, free + fresh.height, dtype=pl.Int64).alias("item_no"))
    numbered = pl.concat([joined.filter(pl.col("item_no").is_not_null()), fresh])
    return numbered.sort("item_no"), free + fresh.height


def select_subset(listing: pl.DataFrame, known: pl.DataFrame, limit: int, seed: int = 0) -> pl.DataFrame:
    """``limit`` items of the listing chosen by a seeded hash of their uids, and all that are known already."""
    names = listing.select("source", "uid").rows()
    order = [digest_bytes(f"{seed}\0{source}\0{uid}".encode()) for source, uid in names]
    chosen = listing.with_columns(pl.Series("_order", order, pl.String)).sort("_order").head(limit).drop("_order")
    kept = listing.join(known, on=["source", "uid"], how="semi")
    return pl.concat([chosen, kept]).unique(["source", "uid"]).sort("source", "uid")


@dataclass(frozen=True)
class FeaturePast:
    """What is known of one feature before a run.

    Attributes:
        held: contents of all parts of the wanted config, published or left by killed runs.
        failures: of the wanted config, as the last release lists them.
        recent: those that parts tell of which it does not name, left by killed runs.
        had: item_no, digest of the items that the last release's table holds, whatever its config.
        same_config: the last release has this feature with the wanted config.
        change: sentence that says how the config differs, for reasons.
    """

    held: pl.DataFrame
    failures: pl.DataFrame
    recent: pl.DataFrame
    had: pl.DataFrame
    same_config: bool
    change: str = ""


def judge(feature: str, items: pl.DataFrame, past: FeaturePast, law: RetryLaw, refresh: bool = False) -> pl.DataFrame:
    """Verdicts for one feature.

    Args:
        feature: its name.
        items: the source's items with item_no, uid, digest; digest is null where the probe failed.
        past: what is held.
        law: which failures are tried again.
        refresh: compute everything again.

    Returns:
        feature, item_no, uid, digest, verdict, reason, attempts (of a retried failure), from_item_no (of a copy).
        Deleted items stand at the end with a null digest.
    """
    complete = complete_items(past.held)
    exact = complete.select(
        "item_no", "uid", "digest", pl.col("rows").alias("held_rows"), pl.col("planned").alias("held_planned")
    )
    if exact["item_no"].is_duplicated().any():
        exact = exact.join(items, on=["item_no", "uid", "digest"], how="semi").sort("held_rows", descending=True)
        exact = exact.unique("item_no", keep="first")
    joined = items.select("item_no", "uid", "digest").join(exact, on="item_no", how="left", suffix="_held")
    # Joining by the number alone and comparing afterwards is much quicker than joining by three columns.
    same = (pl.col("uid") == pl.col("uid_held")) & (pl.col("digest") == pl.col("digest_held"))
    joined = joined.select(
        "item_no",
        "uid",
        "digest",
        pl.when(same).then("held_rows").alias("held_rows"),
        pl.when(same).then("held_planned").alias("held_planned"),
    )
    elsewhere = (
        complete.filter(pl.col("rows") > 0)
        .join(joined.filter(pl.col("held_rows").is_null()), on="digest", how="semi")
        .sort("item_no", "uid")
        .unique("digest", keep="first", maintain_order=True)
        .select("digest", pl.col("item_no").alias("from_item_no"), pl.col("uid").alias("from_uid"))
    )
    failures = (
        pl.concat([past.failures, past.recent.with_columns(pl.lit(value=False).alias("partial"))])
        .group_by("item_no", "digest")
        .agg(pl.col("transient", "partial").any(), pl.col("attempts").max(), pl.col("message").first())
    )
    had = past.had.select("item_no", pl.col("digest").alias("had_digest")).unique("item_no")
    joined = (
        joined.join(elsewhere, on="digest", how="left")
        .join(failures, on=["item_no", "digest"], how="left")
        .join(had, on="item_no", how="left")
    )
    transient = pl.col("transient").fill_null(value=False) & (pl.col("attempts") < law.max_attempts)
    # A failure of the whole item is past when there are rows now: a killed run tried again and got them.
    failed = pl.col("attempts").is_not_null() & (pl.col("partial") | (pl.col("held_rows").fill_null(0) == 0))
    again = pl.lit(law.everything) | transient
    # An item may have no rows in good order, such as a narration file without a sentence.
    empty = (pl.col("held_planned") == 0) & ~failed
    known_bad = ((pl.col("held_rows") == 0) & ~empty) | (pl.col("held_rows").is_null() & failed)
    usable = ((pl.col("held_rows") > 0) | empty) & pl.lit(not refresh)
    copied = pl.col("from_item_no").is_not_null() & pl.lit(not refresh)
    verdict = (
        pl.when(pl.col("digest").is_null())
        .then(pl.lit(FAILED))
        .when((known_bad | failed) & again)
        .then(pl.lit(RETRY))
        .when(usable)
        .then(pl.lit(UNCHANGED))
        .when(known_bad & pl.lit(not refresh))
        .then(pl.lit(FAILED))
        .when(copied)
        .then(pl.lit(MOVED))
        .when(pl.col("had_digest").is_null())
        .then(pl.lit(NEW))
        .when(pl.col("had_digest") != pl.col("digest"))
        .then(pl.lit(CONTENT_CHANGED))
        .otherwise(pl.lit(CONFIG_CHANGED))
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
        .when(pl.col("verdict") == CONFIG_CHANGED)
        .then(pl.lit(past.change or ("computed again as asked" if refresh else "the feature's table is new")))
        .when(pl.col("verdict") == CONTENT_CHANGED)
        .then(pl.lit("the file's bytes changed"))
        .otherwise(pl.lit(""))
    )
    joined = joined.with_columns(verdict.alias("verdict"))
    # Most items are unchanged on most nights; texts are made for the others only.
    still = pl.col("verdict") == UNCHANGED
    judged = pl.concat(
        [
            joined.filter(still).with_columns(pl.lit("").alias("reason")),
            joined.filter(~still).with_columns(reason.alias("reason")),
        ]
    ).sort("item_no")
    gone = past.had.join(items, on="item_no", how="anti").unique("item_no")
    deleted = gone.select(
        "item_no",
        "uid",
        pl.lit(None, pl.String).alias("digest"),
        pl.lit(DELETED).alias("verdict"),
        pl.lit("not listed any more").alias("reason"),
        pl.lit(None, pl.Int32).alias("attempts"),
        pl.lit(None, pl.Int64).alias("from_item_no"),
    )
    columns = deleted.columns
    return pl.concat([judged.select(columns), deleted], how="vertical_relaxed").select(
        pl.lit(feature).alias("feature"), *columns
    )


def count_verdicts(verdicts: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Feature -> verdict -> items, in the order of ``VERDICTS``."""
    counted = verdicts.group_by("feature", "verdict").len().rows()
    by_feature: dict[str, dict[str, int]] = {}
    for feature, verdict, number in sorted(counted, key=lambda row: (row[0], VERDICTS.index(row[1]))):
        by_feature.setdefault(feature, {})[verdict] = number
    return by_feature
