"""Chooses the parts of the next release from the wanted items and the existing parts, as pure functions.

Every wanted (item, segment) is taken from exactly one part that contains it. A part of which all rows are wanted is
kept unchanged. From the others the wanted rows are copied. Rows of equal files get a copy under their own uid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from cliploom.schemas.records import Duplicate, PartUse, Rewrite, RowCopy
from cliploom.transforms.work.part_records import CONTENT

HEAD, ORPHAN, COMPUTED = 0, 1, 2
TARGET_BYTES = 32_000_000
LEAST_BYTES = 1_000_000
LEAST_PARTS = 50
MANY_SMALL = 200

HELD = {"part": pl.String} | CONTENT | {"origin": pl.Int32}
WANTED = {"item_no": pl.Int64, "uid": pl.String, "digest": pl.String, "old_digest": pl.String, "fresh": pl.Boolean}


@dataclass(frozen=True)
class Assembly:
    """The parts of a feature's next table.

    Attributes:
        feature: name of the feature.
        keep: names of parts that are kept unchanged.
        places: row numbers of their contents in the frame of existing contents.
        takes: bundle, part, item_no, segment, to_item_no, to_uid: rows to copy into each new part, in order.
        outdated: item_no, uid of items that keep rows of their old content because the new content failed.
        missing: item_no, uid, digest of wanted items that no part contains.
    """

    feature: str
    keep: tuple[str, ...]
    places: pl.Series
    takes: pl.DataFrame
    outdated: pl.DataFrame
    missing: pl.DataFrame

    def rewrites(self) -> Iterator[Rewrite]:
        """Yield the parts to make from other parts."""
        bounds = self.takes["bundle"].rle().struct.field("len").cum_sum().to_list()
        for start, end in pairwise([0, *bounds]):
            uses: dict[str, list[RowCopy]] = {}
            rows = self.takes.slice(start, end - start).drop("bundle").iter_rows()
            for part, number, segment, to_item_no, to_uid in rows:
                uses.setdefault(part, []).append(RowCopy(number, segment, Duplicate(to_item_no, to_uid)))
            yield Rewrite(self.feature, tuple(PartUse(part, tuple(takes)) for part, takes in uses.items()))


def assemble(
    feature: str, wanted: pl.DataFrame, held: pl.DataFrame, sizes: Mapping[str, int], merge_small: int = MANY_SMALL
) -> Assembly:
    """Decide which parts make the next table.

    Args:
        feature: name of the feature.
        wanted: columns of ``WANTED``; ``old_digest`` is the last release's digest of an item whose bytes changed,
            ``fresh`` marks items that were computed again although parts contain them.
        held: columns of ``HELD``; contents without rows say that an item is known to fail.
        sizes: size of each part in bytes.
        merge_small: merge parts below a quarter of ``part_bytes`` if there are more than this many.
    """
    complete = complete_items(held)
    exact = _same_item(wanted, complete)
    usable = complete.filter(pl.col("rows") > 0)
    fails = wanted.join(exact.filter(pl.col("rows") > 0), on="item_no", how="anti")
    copies = _copies(fails.join(exact, on=["item_no", "digest"], how="anti"), usable)
    rest = fails.join(copies, on="item_no", how="anti")
    outdated = (
        rest.filter(pl.col("old_digest").is_not_null())
        .drop("digest")
        .rename({"old_digest": "digest"})
        .join(usable, on=["item_no", "uid", "digest"], how="inner")
    )
    missing = rest.join(exact, on=["item_no"], how="anti").join(outdated, on="item_no", how="anti")
    own = pl.concat([exact.select(_OWN), outdated.select(_OWN)])
    chosen = _choose(one_segmentation(own), held)
    keep = _whole_parts(chosen, held, wanted)
    target = part_bytes(sum(sizes[part] for part in chosen["part"].unique()))
    small = [part for part in keep if sizes[part] < target / 4]
    if len(small) > merge_small:
        # All small parts are rewritten; each round leaves few small parts, so the cost is bounded.
        keep = [part for part in keep if sizes[part] >= target / 4]
    whole = chosen["part"].is_in(pl.Series(keep, dtype=pl.String).implode())
    takes = pl.concat([_own_takes(chosen.filter(~whole)), _copy_takes(copies, held)])
    return Assembly(
        feature,
        tuple(keep),
        chosen.filter(whole)["place"],
        _bundle(takes, held, sizes, target),
        outdated.select("item_no", "uid").unique("item_no", maintain_order=True),
        missing.select("item_no", "uid", "digest"),
    )


def part_bytes(table_bytes: int) -> float:
    """Return the maximum size of a rewritten part, so that changing one item later costs about 1/50 of its table.

    >>> part_bytes(10_000), part_bytes(150_000_000), part_bytes(10**12)
    (1000000, 3000000.0, 32000000)
    """
    return min(TARGET_BYTES, max(LEAST_BYTES, table_bytes / LEAST_PARTS))


def _same_item(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Join on item_no, uid, digest: by the number first, which is much faster than by three columns."""
    same = (pl.col("uid") == pl.col("uid_right")) & (pl.col("digest") == pl.col("digest_right"))
    return left.join(right, on="item_no", how="inner").filter(same).drop("uid_right", "digest_right")


def complete_items(held: pl.DataFrame) -> pl.DataFrame:
    """Return the items of which every segment exists, once per way in which they are split.

    Segments of different splits (another ``limits.segment``, another set of features decoded together) never mix.

    Args:
        held: contents of existing parts of one config; an (item, segment) may be in several parts.

    Returns:
        item_no, uid, digest, segments, rows, planned; ``oldest`` and ``newest``: the origin that all segments reach
        when the oldest, or the newest, part of each is taken.
    """
    keys = ["item_no", "uid", "digest", "segments"]
    whole = held.filter(pl.col("segments") == 1)
    if whole["item_no"].is_duplicated().any():
        whole = whole.group_by(keys).agg(*_BEST)
    else:
        whole = whole.with_columns(pl.col("origin").alias("oldest"), pl.col("origin").alias("newest"))
    split = (
        held.filter(pl.col("segments") > 1)
        .group_by(*keys, "segment")
        .agg(*_BEST)
        .group_by(keys)
        .agg(
            pl.len().alias("have"),
            pl.col("rows", "planned").sum(),
            pl.col("oldest").max(),
            pl.col("newest").min(),
        )
        .filter(pl.col("have") >= pl.col("segments"))
    )
    return pl.concat([whole.select(_COMPLETE), split.select(_COMPLETE)])


_BEST = (
    pl.col("rows", "planned").max(),
    pl.col("origin").min().alias("oldest"),
    pl.col("origin").max().alias("newest"),
)
_COMPLETE = ("item_no", "uid", "digest", "segments", "rows", "planned", "oldest", "newest")
_OWN = ("item_no", "uid", "digest", "segments", "rows", "oldest", "newest", "fresh")


def one_segmentation(complete: pl.DataFrame) -> pl.DataFrame:
    """Choose one split per item: prefer those with rows, then published ones, or new ones if ``fresh``."""
    if not complete["item_no"].is_duplicated().any():
        return complete
    rank = pl.when(pl.col("fresh")).then(-pl.col("newest")).otherwise(pl.col("oldest"))
    return (
        complete.with_columns((pl.col("rows") > 0).alias("usable"), rank.alias("rank"))
        .sort(["item_no", "usable", "rank", "segments"], descending=[False, True, False, False])
        .unique("item_no", keep="first", maintain_order=True)
        .select(complete.columns)
    )


def _copies(wanted: pl.DataFrame, usable: pl.DataFrame) -> pl.DataFrame:
    """Return item_no, uid of wanted items whose bytes another item has, with that item's number, uid and split."""
    source = (
        usable.join(wanted, on="digest", how="semi")
        .sort("item_no", "oldest", "segments", "uid")
        .unique("digest", keep="first", maintain_order=True)
        .select("digest", "segments", pl.col("item_no").alias("from_item_no"), pl.col("uid").alias("from_uid"))
    )
    columns = ["item_no", "uid", "digest", "segments", "from_item_no", "from_uid"]
    return wanted.join(source, on="digest", how="inner").select(columns)


def _choose(own: pl.DataFrame, held: pl.DataFrame) -> pl.DataFrame:
    """Choose one part for each wanted (item, segment): part, item_no, uid, segment, rows, place."""
    held = held.select("part", "item_no", "uid", "digest", "segment", "segments", "rows", "origin").with_row_index(
        "place"
    )
    own = own.select("item_no", "uid", "digest", pl.col("segments").alias("wanted_segments"), "fresh")
    found = _same_item(held, own).filter(pl.col("segments") == pl.col("wanted_segments"))
    columns = ["part", "item_no", "uid", "segment", "rows", "place"]
    if not found.select("item_no", "segment").is_duplicated().any():
        return found.select(columns)
    rank = pl.when(pl.col("fresh")).then(-pl.col("origin")).otherwise(pl.col("origin"))
    return (
        found.with_columns((pl.col("rows") > 0).alias("usable"), rank.alias("rank"))
        .sort(
            ["item_no", "segment", "usable", "rank", "rows", "part"],
            descending=[False, False, True, False, True, False],
        )
        .unique(["item_no", "segment"], keep="first", maintain_order=True)
        .select(columns)
    )


def _whole_parts(chosen: pl.DataFrame, held: pl.DataFrame, wanted: pl.DataFrame) -> list[str]:
    """Return the parts that can be kept: all their rows are chosen, and they name no deleted item."""
    named = held.select("part", "item_no", "uid").join(wanted.select("item_no", "uid"), on="item_no", how="left")
    gone = named.filter(pl.col("uid").ne_missing(pl.col("uid_right"))).select("part").unique()
    totals = held.join(gone, on="part", how="anti").group_by("part").agg(pl.col("rows").sum().alias("all_rows"))
    used = chosen.group_by("part").agg(pl.col("rows").sum().alias("used_rows"))
    both = used.join(totals, on="part").filter(pl.col("used_rows") == pl.col("all_rows"))
    return list(both["part"].sort())


_TAKES = ("part", "item_no", "segment", "to_item_no", "to_uid", "rows")


def _own_takes(contents: pl.DataFrame) -> pl.DataFrame:
    """Return takes that copy contents unchanged."""
    ordered = contents.sort("part", "item_no", "segment")
    return ordered.with_columns(pl.col("item_no").alias("to_item_no"), pl.col("uid").alias("to_uid")).select(_TAKES)


def _copy_takes(copies: pl.DataFrame, held: pl.DataFrame) -> pl.DataFrame:
    """Return takes that copy rows of other items under a new uid."""
    found = held.join(
        copies.rename({"item_no": "to_item_no", "uid": "to_uid"}),
        left_on=["item_no", "uid", "digest", "segments"],
        right_on=["from_item_no", "from_uid", "digest", "segments"],
        how="inner",
    )
    return (
        found.with_columns((pl.col("rows") > 0).alias("usable"))
        .sort(["to_item_no", "segment", "usable", "origin", "part"], descending=[False, False, True, False, False])
        .unique(["to_item_no", "segment"], keep="first", maintain_order=True)
        .sort("part", "to_item_no", "segment")
        .select(_TAKES)
    )


def _bundle(takes: pl.DataFrame, held: pl.DataFrame, sizes: Mapping[str, int], most_bytes: float) -> pl.DataFrame:
    """Order the takes by part, so that each part is read once, and bundle them into parts of ``most_bytes``."""
    takes = takes.sort("part", maintain_order=True)
    used = takes.group_by("part", maintain_order=True).agg(pl.col("rows").sum().alias("taken"))
    totals = held.join(used, on="part", how="semi").group_by("part").agg(pl.col("rows").sum().alias("total"))
    bundles: list[int] = []
    bundle, filled = 0, 0.0
    for part, taken, total in used.join(totals, on="part", maintain_order="left").iter_rows():
        size = sizes[part] * taken / max(1, total)
        if bundles and filled + size > most_bytes:
            bundle, filled = bundle + 1, 0.0
        bundles.append(bundle)
        filled += size
    numbered = used.select("part", pl.Series("bundle", bundles, pl.UInt32))
    return takes.join(numbered, on="part", maintain_order="left").select("bundle", *_TAKES[:-1])
