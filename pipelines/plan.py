"""The plan: a verdict for every (item, feature), as pure functions of what is listed and what is held.

Frames in, frames out; nothing is read or written here, and a million items take seconds. Columns are those of
``schemas.tables``.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from transforms.assemble import complete_items

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
    joined = listing.join(numbers, on=["source", "uid"], how="left", maintain_order="left").sort("source", "uid")
    free = max(next_item_no, int(numbers["item_no"].max() or 0) + 1)  # type: ignore[arg-type]
    fresh = pl.col("item_no").is_null()
    joined = joined.with_columns(
        pl.when(fresh).then(fresh.cum_sum().cast(pl.Int64) + (free - 1)).otherwise("item_no").alias("item_no")
    )
    return joined.sort("item_no"), free + joined.height - _known_count(listing, numbers)


def _known_count(listing: pl.DataFrame, numbers: pl.DataFrame) -> int:
    return listing.join(numbers, on=["source", "uid"], how="semi").height


def select_subset(listing: pl.DataFrame, known: pl.DataFrame, limit: int, seed: int = 0) -> pl.DataFrame:
    """``limit`` items of the listing chosen by a seeded hash of their uids, and all that are known already."""
    chosen = (
        listing.with_columns(pl.concat_str("source", "uid", separator="\0").hash(seed).alias("_order"))
        .sort("_order", "source", "uid")
        .head(limit)
        .drop("_order")
    )
    kept = listing.join(known, on=["source", "uid"], how="semi")
    return pl.concat([chosen, kept]).unique(["source", "uid"]).sort("source", "uid")


@dataclass(frozen=True)
class FeaturePast:
    """What is known of one feature before a run.

    Attributes:
        held: contents of all parts of the wanted config, published or left by killed runs.
        failures: earlier failures of the wanted config.
        had: item_no, digest of the items that the last release's table holds, whatever its config.
        same_config: the last release has this feature with the wanted config.
        change: sentence that says how the config differs, for reasons.
    """

    held: pl.DataFrame
    failures: pl.DataFrame
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
    exact = complete.select("item_no", "uid", "digest", pl.col("rows").alias("held_rows"))
    elsewhere = (
        complete.filter(pl.col("rows") > 0)
        .sort("item_no")
        .group_by("digest", maintain_order=True)
        .agg(pl.col("item_no").first().alias("from_item_no"), pl.col("uid").first().alias("from_uid"))
    )
    failures = (
        past.failures.filter(~pl.col("partial"))
        .group_by("item_no", "digest")
        .agg(pl.col("transient").any(), pl.col("attempts").max(), pl.col("message").first())
    )
    had = past.had.select("item_no", pl.col("digest").alias("had_digest")).unique("item_no")
    joined = (
        items.select("item_no", "uid", "digest")
        .join(exact, on=["item_no", "uid", "digest"], how="left")
        .join(elsewhere, on="digest", how="left")
        .join(failures, on=["item_no", "digest"], how="left")
        .join(had, on="item_no", how="left")
    )
    transient = pl.col("transient").fill_null(value=False) & (pl.col("attempts") < law.max_attempts)
    again = pl.lit(law.everything) | transient
    known_bad = (pl.col("held_rows") == 0) | (pl.col("held_rows").is_null() & pl.col("attempts").is_not_null())
    usable = (pl.col("held_rows") > 0) & pl.lit(not refresh)
    copied = pl.col("from_item_no").is_not_null() & pl.lit(not refresh)
    verdict = (
        pl.when(pl.col("digest").is_null())
        .then(pl.lit(FAILED))
        .when(usable)
        .then(pl.lit(UNCHANGED))
        .when(known_bad & again)
        .then(pl.lit(RETRY))
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
    judged = joined.with_columns(verdict.alias("verdict")).with_columns(reason.alias("reason"))
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
