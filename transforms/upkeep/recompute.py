"""Compute some published rows again on this machine and compare: how far the vectors of other processors drift."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import TypeAdapter

from cliploom.schemas.digests import digest_of
from cliploom.schemas.jobs import FeatureJob, RunJob
from cliploom.schemas.media import MediaLimits
from cliploom.schemas.records import Duplicate, Processor, Segment, Shard, ShardItem
from cliploom.schemas.release import FeatureEntry, Release
from cliploom.schemas.sampling import Sampling
from cliploom.transforms.encoders.figures import row_cosines
from cliploom.transforms.encoders.processor import processor_features
from cliploom.transforms.encoders.registry import read_card
from cliploom.transforms.sources.registry import source_kind
from cliploom.transforms.store.object_store import ObjectStore, existing_store
from cliploom.transforms.store.parts import arrow_to_vectors, part_path, processors_of, read_rows
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import contents_of, read_table
from cliploom.transforms.work.models import local_model
from cliploom.transforms.work.shards import SINGLE, compute_aside

LEAST = {"f32": 0.9999, "bf16": 0.99, "int8": 0.95, "int8_weights": 0.999}
"""Smallest cosine that rows computed again may have by precision; below it the store or a processor is wrong."""
_ROWS_OF_ITEM = 4
_SAMPLING: TypeAdapter[Any] = TypeAdapter(Sampling)


@dataclass(frozen=True)
class Drift:
    """Rows of one feature that were computed on one processor, compared with what this one computes.

    Attributes:
        feature, precision: of the model.
        processor: that the rows were computed on; empty where parts of earlier versions do not say.
        here: this processor.
        rows: compared.
        mean, least: of the cosines, over all outputs.
        lost: items whose file is gone or has changed.
    """

    feature: str
    precision: str
    processor: str
    here: str
    rows: int
    mean: float | None
    least: float | None
    lost: int

    @property
    def acceptable(self) -> bool:
        """Whether the rows are what the precision promises, as far as any could be compared."""
        return self.least is None or self.least >= LEAST[self.precision]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"acceptable": self.acceptable}


@dataclass
class _Found:
    cosines: list[NDArray[np.float64]] = field(default_factory=list)
    rows: int = 0
    lost: int = 0


def recompute_rows(store: str, items: int, release: int | None = None) -> list[Drift]:
    """Compute rows of some items of each feature again and compare them with the published ones.

    Args:
        store: a folder or URI.
        items: how many of each feature; of long videos a few rows each.
        release: its number; the newest by default.

    Raises:
        StoreError: when there is no such release, or a part or model is gone.
    """
    objects = existing_store(store)
    chosen = read_releases(objects).get(release)
    found: list[Drift] = []
    for name, entry in chosen.features.items():
        if entry.model and entry.rows and _is_computed(entry):
            found += _recompute_feature(objects, chosen, name, entry, items)
    return found


def _is_computed(entry: FeatureEntry) -> bool:
    """Return the rows are encoded from media or texts, not made from those of another feature."""
    return "encoder" in entry.recipe


def _recompute_feature(
    objects: ObjectStore, release: Release, name: str, entry: FeatureEntry, count: int
) -> Iterator[Drift]:
    contents = contents_of(objects, release, name, ["part", "item_no", "uid", "digest", "segment", "rows", "first_row"])
    contents = contents.filter(pl.col("rows") > 0)
    keys = [digest_of(["recompute", *row]) for row in contents.select("digest", "segment").rows()]
    # In an order of digests, so that two machines compare the same rows.
    chosen = contents.with_columns(pl.Series("key", keys, pl.String)).sort("key").head(count)
    numbers = chosen["item_no"].unique().to_list()
    where = pl.col("item_no").is_in(numbers)
    columns = ["item_no", "uri", "signature", "facts"]
    known = {row[0]: row[1:] for row in read_table(objects, "items", release.tables["items"], where, columns).rows()}
    job = _job_of(objects, release, name, entry)
    found: dict[str, _Found] = {}
    for (part,), rows in chosen.group_by(["part"], maintain_order=True):
        with objects.local_copy(part_path(entry.table, str(part))) as local:
            computed_on = _one_of(processors_of(local))
            stored = pa.concat_tables(read_rows(local))
        mine = found.setdefault(computed_on, _Found())
        for row in rows.iter_rows(named=True):
            uri, signature, facts = known[row["item_no"]]
            before = stored.slice(row["first_row"], row["rows"])
            again = _computed_again(objects, job, row, before, uri, signature, facts)
            _compare(job, before, again, mine)
    for processor, result in sorted(found.items()):
        cosines = np.concatenate(result.cosines) if result.cosines else None
        yield Drift(
            feature=name,
            precision=entry.precision,
            processor=processor,
            here=processor_features(),
            rows=result.rows,
            mean=None if cosines is None else round(float(cosines.mean()), 6),
            least=None if cosines is None else round(float(cosines.min()), 6),
            lost=result.lost,
        )


def _one_of(processors: tuple[Processor, ...]) -> str:
    return "; ".join(sorted({each.features for each in processors}))


def _job_of(objects: ObjectStore, release: Release, name: str, entry: FeatureEntry) -> FeatureJob:
    """Return the job that computed a feature, from what its release says."""
    source = release.spec.get("sources", {}).get(entry.source, {})
    keys = {"stereo", "deinterlace", "tone_map"} & source_kind(source.get("kind", "media")).Node.model_fields.keys()
    made_with = {key: entry.recipe[key] for key in sorted(keys) if key in entry.recipe}
    sample = entry.recipe.get("sample")
    return FeatureJob(
        name=name,
        source=entry.source,
        kind=str(source.get("kind", "media")),
        settings=json.dumps(source | made_with),
        config=entry.config,
        table=entry.table,
        model=entry.model,
        card=read_card(local_model(objects, entry.model)),
        outputs={output: found.dim for output, found in entry.outputs.items()},
        sampling=None if sample is None else _SAMPLING.validate_json(json.dumps(_without_none(sample))),
    )


def _without_none(value: Any) -> Any:
    """What ``model_dump`` gave, as a spec would say it: without the keys that are not set."""
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    return value


def _computed_again(
    objects: ObjectStore, job: FeatureJob, row: dict[str, Any], before: pa.Table, uri: str, signature: str, facts: str
) -> pa.Table | None:
    """The item's rows, or the first few of a sampling that allows it; None when the file is gone or has changed."""
    segment = Segment()
    if job.sampling is not None and job.sampling.splittable:
        starts = before["start_s"].to_numpy()[:_ROWS_OF_ITEM]
        segment = Segment(float(starts[0]), float(starts[-1]) + 1e-6, row["segment"], max(2, row["segment"] + 1))
    item = ShardItem(
        uri=uri,
        signature=signature,
        digest=row["digest"],
        facts=facts,
        duplicates=(Duplicate(row["item_no"], row["uid"]),),
        segment=segment,
    )
    run = RunJob(store=objects.uri, run="recompute", features={job.name: job}, media_limits=MediaLimits())
    with tempfile.TemporaryDirectory(prefix="cliploom-recompute-") as folder:
        compute_aside(run, Shard((job.name,), (item,)), [job], ObjectStore(folder))
        tables = list(read_rows(Path(folder) / job.name / SINGLE))
    found = pa.concat_tables(tables) if tables else None
    return found if found is not None and found.num_rows else None


def _compare(job: FeatureJob, before: pa.Table, again: pa.Table | None, found: _Found) -> None:
    if again is None:
        found.lost += 1
        return
    before = before.filter(pc.is_in(before["row_id"], again["row_id"])).sort_by("row_id")
    again = again.filter(pc.is_in(again["row_id"], before["row_id"])).sort_by("row_id")
    found.rows += before.num_rows
    for output, dim in job.outputs.items():
        pair = [arrow_to_vectors(table[output].combine_chunks(), dim).astype(np.float64) for table in (before, again)]
        found.cosines.append(row_cosines(*pair))
