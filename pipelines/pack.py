"""Packing: items to compute become shards of a bounded size, largest first.

A shard's output stays near 32 MB and its estimated work below 1/50 of the whole, since the local runner never
rebalances (M: heavy tails gave 1.47x on two workers). Equal files are computed once; long ones are split in time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from schemas.jobs import FeatureJob
from schemas.media import MediaFacts
from schemas.sampling import Every, EveryFrames, First, Keyframes, Sampling, Uniform, Window, Yt8m

TARGET_BYTES = 32_000_000
LEAST_SHARDS = 50
MOST_ITEMS = 512

FACTS = pl.Struct(
    {
        "type": pl.String,
        "width": pl.Int64,
        "height": pl.Int64,
        "frames": pl.Int64,
        "start_s": pl.Float64,
        "end_s": pl.Float64,
        "fps": pl.Float64,
    }
)
# Relative costs of a decoded megapixel and an encoded picture, in seconds of one core; only their ratio matters here.
_DECODE_S_PER_MEGAPIXEL = 0.0022
_ENCODE_S = 0.006
_OPEN_S = 0.004


@dataclass(frozen=True)
class Wish:
    """One feature's samplings, for estimates."""

    name: str
    sampling: Sampling | None
    row_bytes: int
    pictures_per_row: int


def wish_of(job: FeatureJob) -> Wish:
    """What packing needs to know of a feature."""
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
        One row a shard, costliest first: ``shard`` (JSON of ``schemas.records.Shard``), ``cost_s``, ``items``, ``rows``.
    """
    if work.is_empty():
        return pl.DataFrame(schema={"shard": pl.String, "cost_s": pl.Float64, "items": pl.Int64, "rows": pl.Int64})
    items = (
        work.sort("item_no", "feature")
        .group_by("digest", "item_no", maintain_order=True)
        .agg(
            pl.col("feature"),
            pl.col("uid", "uri", "signature", "facts").first(),
            pl.col("attempt").max(),
        )
        .with_columns(pl.col("feature").list.join("\0").alias("wanted"))
        .group_by("digest", "wanted", maintain_order=True)
        .agg(
            pl.col("uri", "signature", "facts").first(),
            pl.col("attempt").max(),
            pl.struct("item_no", "uid").alias("twins"),
        )
    )
    groups = [_estimate(group, wishes, segment_s) for (_,), group in items.group_by(["wanted"], maintain_order=True)]
    costed = pl.concat(groups)
    most_cost = max(float(costed["cost_s"].sum()) / LEAST_SHARDS, 1e-9)
    shards = [_bundle(group, most_cost) for (_,), group in costed.group_by(["wanted"], maintain_order=True)]
    return pl.concat(shards).sort("cost_s", descending=True, maintain_order=True)


def _estimate(group: pl.DataFrame, wishes: Mapping[str, Wish], segment_s: float) -> pl.DataFrame:
    """Split the items of one set of features into segments and estimate their rows, bytes and cost."""
    asked = [wishes[name] for name in group["wanted"][0].split("\0")]
    splittable = all(wish.sampling is not None and wish.sampling.splittable for wish in asked)
    known = group.with_columns(pl.col("facts").str.json_decode(FACTS).alias("known"))
    duration = pl.col("known").struct.field("end_s") - pl.col("known").struct.field("start_s")
    split = (duration / segment_s).ceil().clip(1) if splittable else pl.lit(1)
    known = known.with_columns(duration.alias("duration"), split.cast(pl.Int64).alias("of"))
    known = known.with_columns(pl.int_ranges(0, pl.col("of")).alias("number")).explode("number")
    share = 1 / pl.col("of")
    frames = pl.col("known").struct.field("frames") * share
    megapixels = pl.col("known").struct.field("width") * pl.col("known").struct.field("height") / 1e6
    rows = [estimated_rows(wish.sampling, pl.col("duration") * share, frames) for wish in asked]
    cost = pl.lit(_OPEN_S) + frames * megapixels * _DECODE_S_PER_MEGAPIXEL
    for wish, count in zip(asked, rows, strict=True):
        cost = cost + count * wish.pictures_per_row * _ENCODE_S
    size = (
        pl.sum_horizontal(*(count * wish.row_bytes for wish, count in zip(asked, rows, strict=True)))
        * pl.col("twins").list.len()
    )
    return known.with_columns(
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


def _bundle(group: pl.DataFrame, most_cost: float) -> pl.DataFrame:
    """Fill shards in order of the items until one bound is reached."""
    features = group["wanted"][0].split("\0")
    filled = pl.max_horizontal(
        pl.col("bytes") / TARGET_BYTES, pl.col("cost_s") / most_cost, pl.lit(1.0 / MOST_ITEMS)
    ).clip(0, 1)
    numbered = group.with_columns((filled.cum_sum() - filled).floor().cast(pl.Int64).alias("shard_no"))
    item = pl.struct("uri", "signature", "digest", "facts", "twins", "segment", "attempt")
    shards = numbered.group_by("shard_no", maintain_order=True).agg(
        item.alias("items_list"),
        pl.col("cost_s").sum(),
        pl.len().cast(pl.Int64).alias("items"),
        pl.col("rows").sum().cast(pl.Int64),
    )
    texts = pl.struct(pl.lit(features).alias("features"), pl.col("items_list").alias("items")).struct.json_encode()
    return shards.select(texts.alias("shard"), "cost_s", "items", "rows")


def facts_of(text: str) -> MediaFacts:
    """The facts of an item as its table keeps them."""
    import json

    return MediaFacts(**json.loads(text))


def total_cost(shards: pl.DataFrame) -> float:
    """Estimated seconds of one core for all shards."""
    return float(shards["cost_s"].sum()) if shards.height else 0.0


def wishes_of(jobs: Sequence[FeatureJob]) -> dict[str, Wish]:
    """By feature."""
    return {job.name: wish_of(job) for job in jobs}
