"""Signatures of media at http(s) URLs. Workers ask the servers without reading files; the launcher only lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl

from cliploom.pipelines.console import counted
from cliploom.pipelines.planning.discover import LISTED, probe_listing
from cliploom.pipelines.planning.previous_release import PreviousRelease
from cliploom.schemas.jobs import RunJob
from cliploom.transforms.inputs.addresses import ADDRESS, MISSING, UNASKED
from cliploom.transforms.inputs.listing import KnownListing
from cliploom.transforms.store.object_store import ObjectStore

WEB = pl.col("uri").str.contains("^(?i)https?://")


def ask_addresses(
    listing: KnownListing, before: PreviousRelease, job: RunJob, objects: ObjectStore, run_probe: Callable[[str], None]
) -> KnownListing:
    """Give each item on the web the signature and size that its server reports.

    If a server is unreachable, its items keep their known state, so that a network failure makes nothing new, changed
    or deleted.

    Args:
        listing: listing of the sources.
        before: the last release.
        job: settings of the run.
        objects: the store.
        run_probe: runs the probe pipeline over a listing file of the store.
    """
    web = listing.items.filter(WEB)
    if web.is_empty():
        return listing
    # The name of the run instead of a signature, so that answers of earlier runs are not reused.
    todo = web.drop("digest", "facts").with_columns(
        pl.lit(ADDRESS).alias("kind"), pl.lit(job.run).alias("signature"), pl.lit(0, pl.Int64).alias("attempts")
    )
    asked = pl.concat(probe_listing(todo, "addresses", job, objects, run_probe))
    key = ["source", "uid"]
    old = before.items.join(web, on=key, how="semi").select(
        "item_no", *key, pl.col("signature").alias("old"), pl.col("size").alias("old_size")
    )
    with before.item_rows(objects) as rows:
        old = old.join(rows.read(old["item_no"], ["uri"]), on="item_no")
    asked = asked.join(old, on=[*key, "uri"], how="left", maintain_order="left")
    lasting = pl.col("transient").fill_null(value=False).not_()
    kept = pl.col("digest").is_null() & ~lasting
    asked = asked.with_columns(
        pl.when(pl.col("digest").is_not_null())
        .then("digest")
        .when(lasting)
        .then(pl.lit(MISSING))
        .otherwise(pl.col("old").fill_null(UNASKED))
        .alias("signature"),
        pl.when(kept)
        .then(pl.col("old_size").fill_null(0))
        .otherwise(pl.col("facts").cast(pl.Int64).fill_null(0))
        .alias("size"),
    )
    notes = list(listing.notes)
    silent = asked.filter(kept)
    if silent.height:
        notes.append(
            f"{counted(silent.height, 'address', 'addresses')} could not be asked and count as unchanged, such as "
            f"{silent['message'][0]}"
        )
    told = asked.with_columns(pl.lit(None, pl.String).alias(name) for name in ("digest", "facts"))
    items = pl.concat([listing.items.filter(~WEB), told.select(*LISTED)])
    return replace(listing, items=items, notes=tuple(notes))
