"""Assembly: from what is wanted and what is held to the parts of the next release, as pure functions.

Every (item, segment) that is wanted is taken from one part that holds it. A part whose rows are all wanted is kept
as it is; of others the wanted rows are copied; rows of equal files get a copy under their own uid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from schemas.records import PartUse, Rewrite, Take, Twin

HEAD, ORPHAN, COMPUTED = 0, 1, 2
TARGET_BYTES = 32_000_000
SMALL_BYTES = TARGET_BYTES // 4
MANY_SMALL = 200

HELD = {
    "part": pl.String,
    "item_no": pl.Int64,
    "uid": pl.String,
    "digest": pl.String,
    "segment": pl.Int32,
    "segments": pl.Int32,
    "planned": pl.Int64,
    "rows": pl.Int64,
    "first_row": pl.Int64,
    "origin": pl.Int32,
}
WANTED = {"item_no": pl.Int64, "uid": pl.String, "digest": pl.String, "old_digest": pl.String, "fresh": pl.Boolean}


@dataclass(frozen=True)
class Assembly:
    """The parts of a feature's next table.

    Attributes:
        keep: names of the parts kept as they are.
        kept: part, item_no, segment of the contents that stand in them.
        rewrites: parts to make from others.
        outdated: item_no, uid of items that keep rows of their old content, since the new one failed.
        missing: item_no, uid, digest of wanted items that no part holds.
    """

    keep: tuple[str, ...]
    kept: pl.DataFrame
    rewrites: tuple[Rewrite, ...]
    outdated: pl.DataFrame
    missing: pl.DataFrame


def assemble(
    feature: str, wanted: pl.DataFrame, held: pl.DataFrame, sizes: Mapping[str, int], merge_small: int = MANY_SMALL
) -> Assembly:
    """Decide which parts make the next table.

    Args:
        feature: its name.
        wanted: the columns of ``WANTED``; ``old_digest`` is what the last release held of an item whose bytes changed,
            ``fresh`` marks items that were computed again although they are held.
        held: the columns of ``HELD``; zero-row contents say that an item is known to fail.
        sizes: bytes of each part.
        merge_small: merge the parts below 8 MB when there are more than this many.
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
    small = [part for part in keep if sizes[part] < SMALL_BYTES]
    if len(small) > merge_small:
        # Everything small goes into the rewrites; each round leaves few small parts, so the cost stays bounded.
        keep = [part for part in keep if sizes[part] >= SMALL_BYTES]
    whole = pl.col("part").is_in(keep)
    uses = [*_own_uses(chosen.filter(~whole)), *_copy_uses(copies, held)]
    return Assembly(
        tuple(keep),
        chosen.filter(whole).select("part", "item_no", "segment"),
        tuple(_bundle(feature, _merged(uses), held, sizes)),
        outdated.select("item_no", "uid").unique("item_no", maintain_order=True),
        missing.select("item_no", "uid", "digest"),
    )


def _same_item(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Inner join on item_no, uid, digest: by the number first, which is much quicker than by three columns."""
    same = (pl.col("uid") == pl.col("uid_right")) & (pl.col("digest") == pl.col("digest_right"))
    return left.join(right, on="item_no", how="inner").filter(same).drop("uid_right", "digest_right")


def complete_items(held: pl.DataFrame) -> pl.DataFrame:
    """Items of which every segment is held, once for each way in which they are split.

    Segments of different splits (another ``limits.segment``, another set of features decoded together) never mix.

    Args:
        held: contents of existing parts, of one config; a (item, segment) may stand in several parts.

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
    """One split for each item: with rows before without, then what is published, or what is new if ``fresh``."""
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
    """item_no, uid of wanted items whose bytes another item holds, with that item's number, uid and split."""
    source = (
        usable.join(wanted, on="digest", how="semi")
        .sort("item_no", "oldest", "segments", "uid")
        .unique("digest", keep="first", maintain_order=True)
        .select("digest", "segments", pl.col("item_no").alias("from_item_no"), pl.col("uid").alias("from_uid"))
    )
    columns = ["item_no", "uid", "digest", "segments", "from_item_no", "from_uid"]
    return wanted.join(source, on="digest", how="inner").select(columns)


def _choose(own: pl.DataFrame, held: pl.DataFrame) -> pl.DataFrame:
    """For each wanted (item, segment) the one part to take it from: part, item_no, uid, segment, rows."""
    own = own.select("item_no", "uid", "digest", pl.col("segments").alias("wanted_segments"), "fresh")
    found = _same_item(held, own).filter(pl.col("segments") == pl.col("wanted_segments"))
    columns = ["part", "item_no", "uid", "segment", "rows"]
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
    """Parts that can stay: all their rows are chosen, and they name no item that is gone."""
    named = held.select("part", "item_no", "uid").join(wanted.select("item_no", "uid"), on="item_no", how="left")
    gone = named.filter(pl.col("uid").ne_missing(pl.col("uid_right"))).select("part").unique()
    totals = held.join(gone, on="part", how="anti").group_by("part").agg(pl.col("rows").sum().alias("all_rows"))
    used = chosen.group_by("part").agg(pl.col("rows").sum().alias("used_rows"))
    both = used.join(totals, on="part").filter(pl.col("used_rows") == pl.col("all_rows"))
    return list(both["part"].sort())


def _own_uses(contents: pl.DataFrame) -> Iterator[PartUse]:
    """Uses that take contents as they are: part, item_no, uid, segment."""
    ordered = contents.select("part", "item_no", "uid", "segment").sort("part", "item_no", "segment")
    for (part,), group in ordered.group_by(["part"], maintain_order=True):
        takes = tuple(Take(item_no, segment, Twin(item_no, uid)) for _, item_no, uid, segment in group.iter_rows())
        yield PartUse(str(part), takes)


def _copy_uses(copies: pl.DataFrame, held: pl.DataFrame) -> Iterator[PartUse]:
    found = held.join(
        copies.rename({"item_no": "to_item_no", "uid": "to_uid"}),
        left_on=["item_no", "uid", "digest", "segments"],
        right_on=["from_item_no", "from_uid", "digest", "segments"],
        how="inner",
    )
    one = (
        found.with_columns((pl.col("rows") > 0).alias("usable"))
        .sort(["to_item_no", "segment", "usable", "origin", "part"], descending=[False, False, True, False, False])
        .unique(["to_item_no", "segment"], keep="first", maintain_order=True)
        .select("part", "item_no", "segment", "to_item_no", "to_uid")
        .sort("part", "to_item_no", "segment")
    )
    for (part,), group in one.group_by(["part"], maintain_order=True):
        takes = tuple(Take(number, segment, Twin(to, uid)) for _, number, segment, to, uid in group.iter_rows())
        yield PartUse(str(part), takes)


def _merged(uses: list[PartUse]) -> list[PartUse]:
    """One use a part, so that each is read once."""
    by_part: dict[str, list[Take]] = {}
    for use in uses:
        by_part.setdefault(use.part, []).extend(use.takes)
    return [PartUse(part, tuple(by_part[part])) for part in sorted(by_part)]


def _bundle(feature: str, uses: list[PartUse], held: pl.DataFrame, sizes: Mapping[str, int]) -> Iterator[Rewrite]:
    """Fill rewrites to about 32 MB."""
    contents = held.select("part", "item_no", "segment", "rows").filter(pl.col("part").is_in([u.part for u in uses]))
    rows = {(part, item_no, segment): count for part, item_no, segment, count in contents.iter_rows()}
    totals = dict(contents.group_by("part").agg(pl.col("rows").sum()).rows())
    bundle: list[PartUse] = []
    filled = 0.0
    for use in uses:
        taken = sum(rows[use.part, take.from_item_no, take.segment] for take in use.takes)
        size = sizes[use.part] * taken / max(1, totals[use.part])
        if bundle and filled + size > TARGET_BYTES:
            yield Rewrite(feature, tuple(bundle))
            bundle, filled = [], 0.0
        bundle.append(use)
        filled += size
    if bundle:
        yield Rewrite(feature, tuple(bundle))
