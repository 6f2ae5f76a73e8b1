"""Packs the items to compute into shards of a bounded size, largest first.

A shard's output stays near 32 MB and its estimated work below 1/50 of the whole, because the local runner never
rebalances: a skewed workload took 1.47 times as long on two workers. Equal files are computed once; long ones are split
in time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.sampling import Every, EveryFrames, First, Keyframes, Sampling, Uniform, Window, Yt8m

TARGET_BYTES = 32_000_000
LEAST_SHARDS = 50
SHARDS_A_WORKER = 6
"""So many shards for each worker, as far as none gets less work than ``LEAST_COST_S``: the last ones end together."""
LEAST_COST_S = 0.5
MOST_ITEMS = 512
ITEMS_IN_SLICE = 50_000
SENTENCES_IN_SHARD = 6_000
SHARDS_IN_ROW_GROUP = 16
SHARDS = {"shard": pl.String, "cost_s": pl.Float64, "items": pl.Int64, "rows": pl.Int64, "parts": pl.Int64}

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
_BUNDLES = {"cost_s": pl.Float64, "items": pl.Int64, "rows": pl.Int64, "group": pl.Int32, "first": pl.Int64}
_COLUMNS = ["item_no", "uid", "wanted", "digest", "uri", "signature", "facts", "attempt"]
_ESTIMATED = ["facts", "duplicates"]
_DUPLICATES = pl.List(pl.Struct({"item_no": pl.Int64, "uid": pl.String}))
# Relative costs of a decoded megapixel and an encoded picture, in seconds of one core; only their ratio matters here.
_DECODE_S_PER_MEGAPIXEL = 0.0022
_ENCODE_S = 0.006
_OPEN_S = 0.004
_READ_S = 5e-6
_SENTENCE_S = 0.002


@dataclass(frozen=True)
class CostModel:
    """One feature's samplings, for estimates.

    Attributes:
        least_rows: minimum rows of a shard, so that repeated sentences are encoded once.
    """

    name: str
    sampling: Sampling | None
    row_bytes: int
    pictures_per_row: float
    least_rows: int = 0


def cost_model_of(job: FeatureJob) -> CostModel:
    """Return what packing needs to know about a feature."""
    if job.card is None:
        row_bytes = 64 + sum(dim if name in job.compact else 4 * dim for name, dim in job.outputs.items())
        return CostModel(job.name, None, row_bytes, _READ_S / _ENCODE_S)
    if job.card.modality == "text":
        return CostModel(
            job.name, None, 4 * sum(job.outputs.values()) + 64, _SENTENCE_S / _ENCODE_S, SENTENCES_IN_SHARD
        )
    pictures = job.sampling.window.frames if isinstance(job.sampling, Window) else 1
    if isinstance(job.sampling, First):
        pictures = job.sampling.first.frames
    return CostModel(job.name, job.sampling, 4 * sum(job.outputs.values()) + 64, pictures)


def estimated_rows(sampling: Sampling | None, duration: pl.Expr, frames: pl.Expr) -> pl.Expr:
    """Estimate the rows of a sampling from a file's duration in seconds and its number of frames."""
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


@dataclass(frozen=True)
class Group:
    """The items of one set of features, and their segments, in order.

    Attributes:
        features: names of the features.
        items: one row for all items with the same bytes, and ``duplicates`` if there are several.
        pieces: row (in ``items``), number, of, cost_ms.
    """

    features: list[str]
    items: pl.DataFrame
    pieces: pl.DataFrame


@dataclass(frozen=True)
class ShardLayout:
    """Which segments of which items make each shard; the shards themselves are written a few at a time.

    Attributes:
        groups: groups by set of features.
        shards: cost_s, items, rows, group and first piece of each shard, costliest first.
        segment_s: length of segments in seconds.
    """

    groups: tuple[Group, ...]
    shards: pl.DataFrame
    segment_s: float

    def written(self) -> Iterator[pl.DataFrame]:
        """Yield the shards in batches: ``shard`` (JSON of a ``Shard`` record), cost_s, items, rows, parts.

        The JSON of all shards at once would take three times the memory.
        """
        ends = self.shards["items"].cum_sum()
        start = 0
        while start < self.shards.height:
            reached = (ends[start - 1] if start else 0) + ITEMS_IN_SLICE
            count = max(1, int(ends.search_sorted(reached, side="right")) - start)
            # A batch is a whole number of row groups of the plan's file.
            count = -(-count // SHARDS_IN_ROW_GROUP) * SHARDS_IN_ROW_GROUP
            yield self._written(self.shards.slice(start, count))
            start += count

    def _written(self, shards: pl.DataFrame) -> pl.DataFrame:
        ranked = shards.with_row_index("rank")
        texts = [
            _texts(group, ranked.filter(pl.col("group") == number), self.segment_s)
            for number, group in enumerate(self.groups)
        ]
        found = ranked.join(pl.concat(texts), on="rank", maintain_order="left")
        return found.select(*SHARDS)


def pack(work: pl.DataFrame, cost_models: Mapping[str, CostModel], segment_s: float) -> pl.DataFrame:
    """Return all shards of the work at once; see ``layout_shards``.

    Returns:
        One row per shard, costliest first: ``shard`` (JSON of a ``Shard`` record), ``cost_s``, ``items``, ``rows``,
        ``parts`` (one for each of its features).
    """
    return pl.concat([pl.DataFrame(schema=SHARDS), *layout_shards(work, cost_models, segment_s).written()])


def layout_shards(
    work: pl.DataFrame,
    cost_models: Mapping[str, CostModel],
    segment_s: float,
    later: pl.Series | None = None,
    workers: int = 1,
) -> ShardLayout:
    """Pack the work into shards.

    Args:
        work: one row per (item, feature) to compute: feature, item_no, uid, uri, signature, digest, facts
            (JSON), attempt.
        cost_models: cost models by feature.
        segment_s: files longer than this are split if the samplings of all their features allow it.
        later: numbers of items whose shards come after all others.
        workers: that will share the work.
    """
    if work.is_empty():
        return ShardLayout((), pl.DataFrame(schema=_BUNDLES), segment_s)
    groups: list[Group] = []
    estimates: list[pl.DataFrame] = []
    last = frozenset[int]()
    for items in _by_wanted(_with_duplicates(_with_wanted(work)), later):
        if later is not None and items["item_no"][0] in later:
            last |= {len(groups)}
        features = items["wanted"][0].split("\0")
        requested = [cost_models[name] for name in features]
        rows = items.select(_ESTIMATED).with_row_index("row")
        estimates.append(
            pl.concat([_estimate(some, requested, segment_s) for some in rows.iter_slices(ITEMS_IN_SLICE)])
        )
        groups.append(Group(features, items.drop("wanted"), _pieces(estimates[-1])))
    most_cost = _most_cost(sum(float(estimate["cost_s"].sum()) for estimate in estimates), workers)
    shards = [
        _fill_shards(estimate, most_cost, max(cost_models[name].least_rows for name in group.features)).with_columns(
            pl.lit(number, pl.Int32).alias("group")
        )
        for number, (group, estimate) in enumerate(zip(groups, estimates, strict=True))
    ]
    waits = pl.col("group").is_in(sorted(last))
    ordered = pl.concat(shards).sort(waits, "cost_s", descending=[False, True], maintain_order=True)
    return ShardLayout(tuple(groups), ordered.select(*_BUNDLES), segment_s)


def _most_cost(total_s: float, workers: int) -> float:
    """Seconds of one core that a shard may take.

    >>> _most_cost(100.0, 2), _most_cost(9600.0, 32), _most_cost(100.0, 128)
    (2.0, 50.0, 0.5)
    """
    for_all = max(total_s / (SHARDS_A_WORKER * workers), LEAST_COST_S)
    return max(min(total_s / LEAST_SHARDS, for_all), 1e-9)


def _by_wanted(items: pl.DataFrame, later: pl.Series | None) -> list[pl.DataFrame]:
    """Group the items by their set of features, and by whether they come later; nothing is copied for one group."""
    if later is not None and items["item_no"].is_in(later.implode()).any():
        waits = pl.col("item_no").is_in(later.implode()).alias("waits")
        parts = items.with_columns(waits).partition_by("wanted", "waits", maintain_order=True)
        return [part.drop("waits") for part in parts]
    if items["wanted"].n_unique() == 1:
        return [items]
    return items.partition_by("wanted", maintain_order=True)


def _with_wanted(work: pl.DataFrame) -> pl.DataFrame:
    """Return one row per item, with the names of its features in ``wanted``."""
    if work["feature"].n_unique() == 1:
        single = work.rename({"feature": "wanted"})
        return single if single["item_no"].is_sorted() else single.sort("item_no")
    together = work.group_by("item_no").agg(
        pl.col("feature").sort().str.join("\0").alias("wanted"), pl.col("attempt").max().alias("most_attempts")
    )
    once = work.drop("feature").unique("item_no", keep="first").join(together, on="item_no")
    return once.with_columns(pl.col("most_attempts").alias("attempt")).sort("item_no")


def _with_duplicates(items: pl.DataFrame) -> pl.DataFrame:
    """Merge items with equal bytes into one row, with all their ids in ``duplicates``, in order of the first."""
    items = items.select(*_COLUMNS, pl.lit(None, _DUPLICATES).alias("duplicates"))
    # Comparing hashes is much faster than comparing strings; candidates are compared again.
    alike = items.filter(items["digest"].hash().is_duplicated())
    doubled = alike.filter(alike.select("digest", "wanted").is_duplicated())
    if doubled.is_empty():
        return items
    shared = (
        doubled.group_by("digest", "wanted", maintain_order=True)
        .agg(
            pl.col("item_no", "uid", "uri", "signature", "facts").first(),
            pl.col("attempt").max(),
            pl.struct("item_no", "uid").alias("duplicates"),
        )
        .select(items.columns)
    )
    single = items.join(doubled, on="item_no", how="anti", maintain_order="left")
    return pl.concat([single, shared]).sort("item_no")


def _estimate(items: pl.DataFrame, requested: Sequence[CostModel], segment_s: float) -> pl.DataFrame:
    """Split items into segments and estimate their rows, bytes and cost: row, number, of, cost_s, bytes, rows."""
    splittable = all(model.sampling is not None and model.sampling.splittable for model in requested)
    known = items.with_columns(items["facts"].str.json_decode(FACTS).struct.unnest())
    known = known.with_columns((pl.col("end_s") - pl.col("start_s")).alias("duration"))
    split = (pl.col("duration") / segment_s).ceil().fill_null(1.0).clip(1) if splittable else pl.lit(1)
    known = known.with_columns(split.cast(pl.Int64).alias("of"), pl.lit(0, pl.Int64).alias("number"))
    if splittable and (known["of"] > 1).any():
        known = known.with_columns(pl.int_ranges(0, pl.col("of")).alias("number")).explode("number")
    share = 1 / pl.col("of")
    frames = pl.col("frames") * share
    megapixels = pl.col("width") * pl.col("height") / 1e6
    # Items that are not sampled may provide their number of rows.
    told = pl.max_horizontal(pl.col("rows").cast(pl.Float64), pl.lit(1.0))
    rows = [
        told if model.sampling is None else estimated_rows(model.sampling, pl.col("duration") * share, frames)
        for model in requested
    ]
    cost = pl.lit(_OPEN_S) + (frames * megapixels * _DECODE_S_PER_MEGAPIXEL).fill_null(0.0)
    for model, count in zip(requested, rows, strict=True):
        cost = cost + count * model.pictures_per_row * _ENCODE_S
    size = pl.sum_horizontal(*(count * model.row_bytes for model, count in zip(requested, rows, strict=True)))
    return known.select(
        "row",
        "number",
        "of",
        cost.alias("cost_s"),
        (size * pl.col("duplicates").list.len().fill_null(1)).alias("bytes"),
        pl.sum_horizontal(*rows).alias("rows"),
    )


def _pieces(estimates: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of the estimates that a group keeps."""
    cost = (pl.col("cost_s") * 1000).clip(1, 2**31 - 1).cast(pl.Int32).alias("cost_ms")
    return estimates.select("row", "number", "of", cost)


def _fill_shards(pieces: pl.DataFrame, most_cost: float, least_rows: int) -> pl.DataFrame:
    """Fill shards in order of the items until a bound is reached; return cost_s, items, rows, first piece of each."""
    bounds = [pl.col("cost_s") / most_cost, pl.lit(1.0 / MOST_ITEMS)]
    if least_rows:
        # Sentences repeat and are encoded once per shard; smaller shards would lose more than better balancing gains.
        bounds = [pl.min_horizontal(pl.max_horizontal(bounds), pl.col("rows") / least_rows)]
    filled = pl.max_horizontal(pl.col("bytes") / TARGET_BYTES, *bounds).clip(0, 1)
    number = (filled.cum_sum() - filled).floor().cast(pl.Int64).rle_id()
    numbered = pieces.select("cost_s", "rows", number.alias("shard_no"))
    shards = numbered.group_by("shard_no", maintain_order=True).agg(
        pl.col("cost_s").sum(), pl.len().cast(pl.Int64).alias("items"), pl.col("rows").sum().cast(pl.Int64)
    )
    return shards.with_columns((pl.col("items").cum_sum() - pl.col("items")).alias("first"))


def _texts(group: Group, shards: pl.DataFrame, segment_s: float) -> pl.DataFrame:
    """Return rank and JSON of the shards of one set of features."""
    places = shards.select("rank", pl.int_ranges("first", pl.col("first") + pl.col("items")).alias("place"))
    places = places.explode("place")
    pieces = group.pieces[places["place"]]
    split, last = pl.col("of") > 1, pl.col("number") + 1 == pl.col("of")
    end = pl.when(last).then(1e12).otherwise((pl.col("number") + 1) * segment_s)
    segments = pieces.select(
        pl.struct(
            pl.when(split).then(pl.col("number") * segment_s).otherwise(0.0).alias("start_s"),
            pl.when(split).then(end).otherwise(0.0).alias("end_s"),
            pl.col("number"),
            pl.col("of"),
        ).alias("segment")
    )
    items = group.items[pieces["row"]].hstack(segments).hstack(pieces.select("cost_ms")).hstack(places.select("rank"))
    alone = pl.concat_list(pl.struct("item_no", "uid"))
    item = pl.struct(
        "uri",
        "signature",
        "digest",
        "facts",
        pl.coalesce("duplicates", alone).alias("duplicates"),
        "segment",
        "attempt",
        "cost_ms",
    )
    joined = (
        items.select("rank", item.struct.json_encode().alias("item"))
        .group_by("rank", maintain_order=True)
        .agg(pl.col("item"))
    )
    head = pl.lit(f'{{"features":{json.dumps(group.features)},"items":[')
    text = pl.concat_str(head, pl.col("item").list.join(","), pl.lit("]}"))
    return joined.select("rank", text.alias("shard"), pl.lit(len(group.features), pl.Int64).alias("parts"))


def total_cost(shards: pl.DataFrame) -> float:
    """Return the estimated seconds of one core for all shards."""
    return float(shards["cost_s"].sum()) if shards.height else 0.0
