"""How far the new vectors of a release are from the old ones, measured over a bounded sample of rows computed again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from cliploom.schemas.plan import CONFIG_CHANGED, CONTENT_CHANGED, RETRY, RunPlan
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.schemas.release import FeatureEntry, Release
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import part_path
from cliploom.transforms.store.tables import read_table

DRIFT_ITEMS = 64
DRIFT_PARTS = 8
_SEED = 0
_SAME_ROW = ["item_no", "timed", "place", "twin"]


@dataclass(frozen=True)
class Drift:
    """How far an output's new vectors are from those that the last release has for the same rows.

    Attributes:
        rows: that were compared, a bounded sample.
        mean_cosine, least_cosine: 1 is no change.
    """

    feature: str
    output: str
    rows: int
    mean_cosine: float
    least_cosine: float


def measure_drift(objects: ObjectStore, plan: RunPlan, release: Release) -> Iterator[Drift]:
    """Old against new vectors of rows that were computed again: a seeded sample of a few parts' rows.

    Rows are the same when they start at the same time of the same item, whatever their number is: another sampling
    takes some of the same pictures. Rows without times are compared by their number.
    """
    if plan.base is None:
        return
    verdicts = objects.get(f"{plan.folder}/verdicts.parquet")
    again = pl.read_parquet(verdicts).filter(pl.col("verdict").is_in([CONFIG_CHANGED, CONTENT_CHANGED, RETRY]))
    if again.is_empty():
        return
    columns = ["feature", "part", "item_no", "rows"]
    old_contents = read_table(objects, "contents", plan.base.tables["contents"], columns=columns)
    new_contents = read_table(objects, "contents", release.tables["contents"], columns=columns)
    for name, new in release.features.items():
        old, mine = plan.base.features.get(name), pl.col("feature") == name
        items = again.filter(mine)["item_no"].unique().sort()
        if old is None or items.is_empty():
            continue
        items = items.sample(min(DRIFT_ITEMS, len(items)), seed=_SEED)
        held = old_contents.filter(mine & ~pl.col("part").is_in(list(plan.lost.get(name, ()))))
        after = _places(new_contents.filter(mine), items)
        previous = _places(held, after["item_no"].unique())
        yield from _feature_drift(objects, name, old, new, previous, after)


def _places(contents: pl.DataFrame, items: pl.Series) -> pl.DataFrame:
    """part, item_no of the sampled items, in a few parts."""
    found = contents.filter(pl.col("item_no").is_in(items.implode()) & (pl.col("rows") > 0)).select("part", "item_no")
    counted = found.group_by("part").len().sort(["len", "part"], descending=[True, False]).head(DRIFT_PARTS)
    return found.join(counted, on="part", how="semi")


def _feature_drift(
    objects: ObjectStore, name: str, old: FeatureEntry, new: FeatureEntry, previous: pl.DataFrame, after: pl.DataFrame
) -> Iterator[Drift]:
    for output, entry in new.outputs.items():
        if output not in old.outputs or old.outputs[output].dim != entry.dim:
            continue
        rows = _rows(objects, old.table, previous, output).join(
            _rows(objects, new.table, after, output), on=_SAME_ROW, suffix="_new"
        )
        if rows.is_empty() or not isinstance(rows[output].dtype, pl.List):
            continue
        a, b = (np.asarray(rows[column].to_list(), np.float64) for column in (output, f"{output}_new"))
        scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = np.divide((a * b).sum(axis=1), scale, out=np.ones_like(scale), where=scale > 0)
        yield Drift(name, output, rows.height, round(float(cosine.mean()), 6), round(float(cosine.min()), 6))


def _rows(objects: ObjectStore, table: str, places: pl.DataFrame, output: str) -> pl.DataFrame:
    items = places["item_no"].unique()
    frames = [pl.DataFrame(schema={"row_id": pl.Int64, "start_s": pl.Float64, output: pl.List(pl.Float32)})]
    for part in places["part"].unique().sort():
        with objects.local_copy(part_path(table, part)) as local:
            frame = pl.read_parquet(local, columns=["row_id", "start_s", output])
        frames.append(frame.filter((pl.col("row_id") // (1 << ORDINAL_BITS)).is_in(items.implode())))
    kept = [frame for frame in frames if frame.height] or frames[:1]
    item_no, ordinal = pl.col("row_id") // (1 << ORDINAL_BITS), pl.col("row_id") % (1 << ORDINAL_BITS)
    time_us = (pl.col("start_s") * 1e6).round().cast(pl.Int64)
    rows = pl.concat(kept).sort("row_id").select(item_no.alias("item_no"), time_us, ordinal.alias("ordinal"), output)
    timed = pl.col("start_s").is_not_null()
    # Of several rows that start together, the first is compared with the first.
    twin = pl.int_range(pl.len()).over("item_no", "start_s")
    return rows.select(
        "item_no",
        pl.coalesce("start_s", "ordinal").alias("place"),
        timed.alias("timed"),
        pl.when(timed).then(twin).otherwise(0).alias("twin"),
        output,
    )
