"""Selects known items to probe again after an upgrade of the prober; they are computed again only if facts differ."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from cliploom.pipelines.planning.previous_release import PreviousRelease
from cliploom.schemas.media import PROBE_REVISION
from cliploom.transforms.sources.registry import source_kind
from cliploom.transforms.store.object_store import ObjectStore

_ITEMS_AT_ONCE = 1_000_000
_CONCERNED = r'"type":"(?:video|gif)"|"container":"tiff"'
"""Patterns in facts of the kinds of media for which the newest prober finds more."""


def is_outdated() -> pl.Expr:
    """Return whether the current prober may find more than the column ``facts`` says; null without facts."""
    revision = pl.col("facts").str.extract(r'"revision":(\d+)', 1).cast(pl.Int64).fill_null(1)
    return pl.col("facts").str.contains(_CONCERNED) & (revision < PROBE_REVISION)


def with_outdated_unknown(
    items: pl.DataFrame, previous: PreviousRelease, kinds: Mapping[str, str], objects: ObjectStore
) -> pl.DataFrame:
    """Remove the digests of media to probe again from the listing.

    Facts are read only if the last release was probed by an older version, so other runs have no cost.

    Args:
        items: the listing with known digests.
        previous: the last release.
        kinds: kinds of the spec's sources, by name.
        objects: the store.
    """
    media = [name for name, kind in kinds.items() if source_kind(kind).Node.content == "media"]
    if not previous.probed_by_older_version or not media:
        return items
    known = previous.items.filter(pl.col("digest").is_not_null() & pl.col("source").is_in(media))
    outdated = []
    with previous.item_rows(objects) as rows:
        for some in known.iter_slices(_ITEMS_AT_ONCE):
            facts = rows.read(some["item_no"], ["facts"]).filter(is_outdated())
            outdated.append(some.join(facts, on="item_no", how="semi").select("source", "uid"))
    found = pl.concat([items.select("source", "uid").clear(), *outdated]).with_columns(pl.lit(value=True).alias("_old"))
    joined = items.join(found, on=["source", "uid"], how="left", maintain_order="left")
    digest = pl.when(pl.col("_old").is_null()).then("digest")
    return joined.with_columns(digest.alias("digest")).drop("_old")
