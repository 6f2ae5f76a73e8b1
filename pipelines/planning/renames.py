"""Recognises renames: a missing item and a new one with the same bytes are one item, not a deletion and a copy."""

from __future__ import annotations

import polars as pl

from cliploom.schemas.plan import DELETED, MOVED


def merge_renames(verdicts: pl.DataFrame, previous: pl.DataFrame) -> pl.DataFrame:
    """Mark moved items that were renamed, and drop the verdicts of their old names.

    Args:
        verdicts: verdicts of one or more features: feature, item_no, uid, digest, verdict, reason, ...
        previous: item_no, digest of the items of the last release.

    Returns:
        The verdicts in the same order; each old name is paired with one new name with the same bytes.
    """
    moved = verdicts.filter(pl.col("verdict") == MOVED).select("feature", "digest", "item_no")
    gone = verdicts.filter(pl.col("verdict") == DELETED).select("feature", "item_no", "uid")
    if moved.is_empty() or gone.is_empty():
        return verdicts
    gone = gone.join(previous.select("item_no", "digest"), on="item_no").filter(pl.col("digest").is_not_null())
    keys = ["feature", "digest"]
    place = pl.int_range(pl.len()).over(keys).alias("place")
    pairs = moved.with_columns(place).join(
        gone.rename({"item_no": "old_no", "uid": "old_uid"}).with_columns(place), on=[*keys, "place"]
    )
    deleted = pl.lit(DELETED, verdicts["verdict"].dtype).alias("verdict")
    old_names = pairs.select("feature", pl.col("old_no").alias("item_no"), deleted)
    kept = verdicts.join(old_names, on=old_names.columns, how="anti", maintain_order="left")
    old_uids = pairs.select("feature", "item_no", "old_uid")
    kept = kept.join(old_uids, on=["feature", "item_no"], how="left", maintain_order="left")
    renamed = pl.concat_str(pl.lit("renamed from "), pl.col("old_uid"), pl.lit(", rows are copied"))
    named = (pl.col("verdict") == MOVED) & pl.col("old_uid").is_not_null()
    return kept.with_columns(pl.when(named).then(renamed).otherwise("reason").alias("reason")).drop("old_uid")
