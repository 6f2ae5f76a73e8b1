"""Packing: items to compute become shards of a bounded size, largest first.

A shard's output stays near 32 MB and its estimated work below 1/50 of the whole, since the local runner never
rebalances (M: heavy tails gave 1.47x on two workers). Equal files are computed once; long ones are split in time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from schemas.jobs import FeatureJob
from schemas.sampling import Every, EveryFrames, First, Keyframes, Sampling, Uniform, Window, Yt8m

TARGET_BYTES = 32_000_000
LEAST_SHARDS = 50
MOST_ITEMS = 512
ITEMS_IN_SLICE = 50_000
SENTENCES_IN_SHARD = 6_000

FACTS = pl.Struct(
    {
        "width": pl.Int64,
        "height": pl.Int64,
        "frames": pl.Int64,
        "start_s": pl.Float64,
        "end_s": pl.Float64,
        "rows": pl.Int64,
    }
)
# Relative costs of a decoded megapixel and an encoded picture, in seconds of one core; only their ratio matters here.
_DECODE_S_PER_MEGAPIXEL = 0.0022
_ENCODE_S = 0.006
_OPEN_S = 0.004
_READ_S = 5e-6
_SENTENCE_S = 0.002


@dataclass(frozen=True)
class Wish:
    """One feature's samplings, for estimates.

    Attributes:
        least_rows: rows that a shard should have whatever its share of the work, so that repeated sentences pay.
    """

    name: str
    sampling: Sampling | None
    row_bytes: int
    pictures_per_row: float
    least_rows: int = 0


def wish_of(job: FeatureJob) -> Wish:
    """What packing needs to know of a feature."""
    if job.card is None:
        row_bytes = 64 + sum(dim if name in job.compact else 4 * dim for name, dim in job.outputs.items())
        return Wish(job.name, None, row_bytes, _READ_S / _ENCODE_S)
    if job.card.modality == "text":
        return Wish(job.name, None, 4 * sum(job.outputs.values()) + 64, _SENTENCE_S / _ENCODE_S, SENTENCES_IN_SHARD)
    pictures = job.sampling.window.frames if isinstance(job.sampling, Window) else 1
    if isinstance(job.sampling, First):
        pictures = job.sampling.first.frames
    return Wish(job.name, job.sampling, 4 * sum(job.outputs.values()) + 64, pictures)


def estimated_rows(sampling: Sampling | None, duration: pl.Expr, frames: pl.Expr) -> pl.Expr:
    """About how many rows a sampling gives, from a file's duration in seconds and its frames."""
    match sampling:
        case Every(every=step):
            rows = (duration / step).ceil()
        case EveryFrames(every_frames=step):
            rows = (frames / step).ceil()
        case Window(window=shape):
            count = frames if shape.fps is None else (duration * shape.fps).ceil()
            rows = ((count - shape.frames).clip(0) / shape.stride).ceil() + 1
        case Uniform(uniform=count):
            rows = pl.lit(float(count))
        case Keyframes():
            rows = (duration / 4).ceil()
        case Yt8m():
            rows = duration.ceil().clip(0, 300)
        case _:
            rows = pl.lit(1.0)
    return pl.max_horizontal(rows, pl.lit(1.0))


def pack(work: pl.DataFrame, wishes: Mapping[str, Wish], segment_s: float) -> pl.DataFrame:
    """Shards of the work.

    Args:
        work: one row for each (item, feature) to compute: feature, item_no, uid, uri, signature, digest, facts
            (JSON), attempt.
        wishes: by feature.
        segment_s: files longer than this are split, when all their features' samplings allow it.

    Returns:
        One row a shard, costliest first: ``shard`` (JSON of a ``Shard`` record), ``cost_s``, ``items``, ``rows``.
    """
    if work.is_empty():
        return pl.DataFrame(schema={"shard": pl.String, "cost_s": pl.Float64, "items": pl.Int64, "rows": pl.Int64})
    items = _with_twins(_with_wanted(work))
    groups = [
        _estimate(chunk, wishes, segment_s)
        for group in _by_wanted(items)
        for chunk in group.iter_slices(ITEMS_IN_SLICE)
    ]
    costed = pl.concat(groups)
    most_cost = max(float(costed["cost_s"].sum()) / LEAST_SHARDS, 1e-9)
    shards = [
        _bundle(group, most_cost, max(wishes[name].least_rows for name in group["wanted"][0].split("\0")))
        for group in _by_wanted(costed)
    ]
    return pl.concat(shards).sort("cost_s", descending=True, maintain_order=True)


def _by_wanted(items: pl.DataFrame) -> list[pl.DataFrame]:
    """The items of each set of features; on most nights there is one set, and nothing is copied."""
    if items["wanted"].n_unique() == 1:
        return [items]
    return items.partition_by("wanted", maintain_order=True)


def _with_wanted(work: pl.DataFrame) -> pl.DataFrame:
    """One row an item, with the names of all the features that it is computed for in ``wanted``."""
    if work["feature"].n_unique() == 1:
        return work.rename({"feature": "wanted"}).sort("item_no")
    together = work.group_by("item_no").agg(
        pl.col("feature").sort().str.join("\0").alias("wanted"), pl.col("attempt").max().alias("most_attempts")
    )
    once = work.drop("feature").unique("item_no", keep="first").join(together, on="item_no")
    return once.with_columns(pl.col("most_attempts").alias("attempt")).sort("item_no")


def _with_twins(items: pl.DataFrame) -> pl.DataFrame:
    """Items of equal bytes become one row with all their numbers and uids in ``twins``; order is that of the first."""
    columns = ["item_no", "wanted", "digest", "uri", "signature", "facts", "attempt", "twins"]
    twin = pl.struct("item_no", "uid")
    doubled = items.select("digest", "wanted").is_duplicated()
    single = items.filter(~doubled).with_columns(pl.concat_list(twin).alias("twins")).select(columns)
    shared = (
        items.filter(doubled)
        .group_by("digest", "wanted", maintain_order=True)
        .agg(
            pl.col("item_no", "uri", "signature", "facts").first(),
            pl.col("attempt").max(),
            twin.alias("twins"),
        )
        .select(columns)
    )
    return pl.concat([single, shared]).sort("item_no")


def _estimate(group: pl.DataFrame, wishes: Mapping[str, Wish], segment_s: float) -> pl.DataFrame:
    """Split the items of one set of features into segments and estimate their rows, bytes and cost."""
    asked = [wishes[name] for name in group["wanted"][0].split("\0")]
    splittable = all(wish.sampling is not None and wish.sampling.splittable for wish in asked)
    known = group.with_columns(group["facts"].str.json_decode(FACTS).struct.unnest())
    known = known.with_columns((pl.col("end_s") - pl.col("start_s")).alias("duration"))
    split = (pl.col("duration") / segment_s).ceil().fill_null(1.0).clip(1) if splittable else pl.lit(1)
    known = known.with_columns(split.cast(pl.Int64).alias("of"), pl.lit(0, pl.Int64).alias("number"))
    if splittable and (known["of"] > 1).any():
        known = known.with_columns(pl.int_ranges(0, pl.col("of")).alias("number")).explode("number")
    share = 1 / pl.col("of")
    frames = pl.col("frames") * share
    megapixels = pl.col("width") * pl.col("height") / 1e6
    # Items that are not sampled may say how many rows they have.
    told = pl.max_horizontal(pl.col("rows").cast(pl.Float64), pl.lit(1.0))
    rows = [
        told if wish.sampling is None else estimated_rows(wish.sampling, pl.col("duration") * share, frames)
        for wish in asked
    ]
    cost = pl.lit(_OPEN_S) + (frames * megapixels * _DECODE_S_PER_MEGAPIXEL).fill_null(0.0)
    for wish, count in zip(asked, rows, strict=True):
        cost = cost + count * wish.pictures_per_row * _ENCODE_S
    size = (
        pl.sum_horizontal(*(count * wish.row_bytes for wish, count in zip(asked, rows, strict=True)))
        * pl.col("twins").list.len()
    )
    return known.select(
        *(column for column in group.columns if column != "item_no"),
        cost.alias("cost_s"),
        size.alias("bytes"),
        pl.sum_horizontal(*rows).alias("rows"),
        pl.struct(
            pl.when(pl.col("of") > 1).then(pl.col("number") * segment_s).otherwise(0.0).alias("start_s"),
            pl.when(pl.col("of") > 1)
            .then(
                pl.when(pl.col("number") + 1 == pl.col("of")).then(1e12).otherwise((pl.col("number") + 1) * segment_s)
            )
            .otherwise(0.0)
            .alias("end_s"),
            pl.col("number"),
            pl.col("of"),
        ).alias("segment"),
    )


def _bundle(group: pl.DataFrame, most_cost: float, least_rows: int) -> pl.DataFrame:
    """Fill shards in order of the items until one bound is reached."""
    features = group["wanted"][0].split("\0")
    bounds = [pl.col("cost_s") / most_cost, pl.lit(1.0 / MOST_ITEMS)]
    if least_rows:
        # Sentences recur: those of a shard are encoded once, so a shard of fewer rows is worth no balance.
        bounds = [pl.min_horizontal(pl.max_horizontal(bounds), pl.col("rows") / least_rows)]
    filled = pl.max_horizontal(pl.col("bytes") / TARGET_BYTES, *bounds).clip(0, 1)
    numbered = group.with_columns((filled.cum_sum() - filled).floor().cast(pl.Int64).alias("shard_no"))
    return pl.concat(_shards(chunk, features) for chunk in _slices(numbered))


def _slices(numbered: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Stretches of whole shards; the JSON of all items at once would fill the memory three times over."""
    numbers = numbered["shard_no"]
    start = 0
    while start < numbered.height:
        last = numbers[min(start + ITEMS_IN_SLICE, numbered.height) - 1]
        end = int(numbers.search_sorted(last, side="right"))
        yield numbered.slice(start, end - start)
        start = end


def _shards(numbered: pl.DataFrame, features: list[str]) -> pl.DataFrame:
    item = pl.struct("uri", "signature", "digest", "facts", "twins", "segment", "attempt")
    written = numbered.select("shard_no", "cost_s", "rows", item.struct.json_encode().alias("item"))
    shards = written.group_by("shard_no", maintain_order=True).agg(
        pl.col("item"),
        pl.col("cost_s").sum(),
        pl.len().cast(pl.Int64).alias("items"),
        pl.col("rows").sum().cast(pl.Int64),
    )
    head = pl.lit(f'{{"features":{json.dumps(features)},"items":[')
    texts = pl.concat_str(head, pl.col("item").list.join(","), pl.lit("]}"))
    return shards.select(texts.alias("shard"), "cost_s", "items", "rows")


def total_cost(shards: pl.DataFrame) -> float:
    """Estimated seconds of one core for all shards."""
    return float(shards["cost_s"].sum()) if shards.height else 0.0
