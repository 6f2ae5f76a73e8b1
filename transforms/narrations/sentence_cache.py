"""A cache of vectors of sentences from the old version of edited videos, so that only new sentences are encoded."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliploom.schemas.jobs import FeatureJob
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.transforms.narrations.table import TABLE
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import arrow_to_vectors, part_path
from cliploom.transforms.store.ranges import RowRanges
from cliploom.transforms.store.tables import table_files

MOST_SENTENCES = 32_768
SENTENCE = "sentence"


def known_path(run: str, feature: str) -> str:
    """Return the path at which a run stores the sentences of a feature's edited items."""
    return f"plans/{run}/known-{feature}.parquet"


def write_sentence_cache(objects: ObjectStore, run: str, job: FeatureJob, contents: pl.DataFrame, version: int) -> int:
    """Store (sentence, vectors) of the old rows of edited items for the workers of a run.

    Args:
        objects: the store.
        run: the id of the run.
        job: the job of a text feature.
        contents: the contents of the edited items in the last release, for this feature and config.
        version: the version of the ``narrations`` table in that release.

    Returns:
        The number of stored sentences, at most ``MOST_SENTENCES``.
    """
    if contents.is_empty():
        return 0
    texts = _sentences(objects, version, contents["item_no"].unique().to_list())
    seen: set[str] = set()
    tables = []
    for (part,), rows in contents.sort("part", "first_row").group_by(["part"], maintain_order=True):
        with objects.local_copy(part_path(job.table, str(part))) as local:
            ranges = RowRanges(local, ["row_id", *job.outputs])
            for first, count in rows.select("first_row", "rows").iter_rows():
                table = ranges.rows(first, count)
                fresh = []
                for number, row in enumerate(table["row_id"].to_pylist()):
                    sentence = texts.get(row)
                    if sentence is not None and sentence not in seen and len(seen) < MOST_SENTENCES:
                        seen.add(sentence)
                        fresh.append((number, sentence))
                if fresh:
                    taken = table.take(pa.array([number for number, _ in fresh], pa.int64())).drop_columns("row_id")
                    names = pa.array([sentence for _, sentence in fresh], pa.string())
                    tables.append(taken.append_column(SENTENCE, names))
    if tables:
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.concat_tables(tables), buffer, compression="none", store_schema=False)
        objects.put(known_path(run, job.name), buffer.getvalue().to_pybytes())
    return len(seen)


def _sentences(objects: ObjectStore, version: int, item_nos: list[int]) -> dict[int, str]:
    """Return the encoded text by row id."""
    found: dict[int, str] = {}
    for name in table_files(objects, TABLE, version):
        with objects.local_copy(part_path(TABLE, name)) as local:
            mine = (pl.col("row_id") // (1 << ORDINAL_BITS)).is_in(item_nos)
            found |= dict(pl.scan_parquet(local).filter(mine).select("row_id", "encoded").collect().iter_rows())
    return found


def read_known(objects: ObjectStore, run: str, job: FeatureJob) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Return the vectors by sentence and output; empty if the run has none for this feature."""
    path = known_path(run, job.name)
    if objects.size(path) is None:
        return {}
    with objects.local_copy(path) as local:
        table = pq.read_table(local)
    columns = {name: arrow_to_vectors(table[name], dim) for name, dim in job.outputs.items()}
    sentences = table[SENTENCE].to_pylist()
    return {text: {name: rows[number] for name, rows in columns.items()} for number, text in enumerate(sentences)}
