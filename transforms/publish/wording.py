"""Beam steps of word search: shards of an inverted index over narrations, captions and labels.

A shard contains the texts of 65,536 consecutive items and is named by their content. It is reused until one of them
changes, and a deleted text is in no file that the next release names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import apache_beam as beam
import polars as pl

from cliploom.schemas.narrations import NARRATIONS_TABLE
from cliploom.schemas.records import MAX_ORDINAL, ORDINAL_BITS
from cliploom.schemas.release import Release, WordShardEntry
from cliploom.schemas.tables import ITEMS, LABELS, empty_table
from cliploom.transforms.index.postings import counts_of, documents_digest, item_text, write_postings
from cliploom.transforms.media.label_listing import KEY
from cliploom.transforms.publish.release_state import check_gathered
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import file_entry
from cliploom.transforms.store.tables import table_files
from cliploom.transforms.wire import Step

BUCKET_BITS = 16
LEAST_SCORE = 0.5
"""Minimum confidence of predicted labels in the index."""


@dataclass(frozen=True)
class WordTask:
    """A shard: its path, its items, and the versions of the tables with their texts."""

    path: str
    bucket: int
    tables: tuple[tuple[str, int], ...]


class _PlanWordsFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, store: str) -> None:
        super().__init__()
        self._store = store

    def process(self, draft: Release) -> Iterator[tuple[Release, list[WordTask]]]:
        """Read the texts bucket by bucket to compute their digests."""
        objects = ObjectStore(self._store)
        wanted = ("items", "labels", "narrations")
        tables = {name: version for name, version in draft.tables.items() if name in wanted}
        tasks = []
        for bucket in range((draft.next_item_no >> BUCKET_BITS) + 1):
            documents = documents_of(objects, tables, bucket)
            if documents.height:
                path = f"index/words/terms-{documents_digest(documents)}.parquet"
                tasks.append(WordTask(path, bucket, tuple(sorted(tables.items()))))
        yield draft, tasks


class PlanWords(Step):
    """Yields a draft and the shards that the release will name, as one element."""

    do_fn = _PlanWordsFn


class _WordTasksFn(beam.DoFn):  # type: ignore[misc]
    def process(self, planned: tuple[Release, list[WordTask]]) -> Iterator[WordTask]:
        """Yield the tasks."""
        yield from planned[1]


class WordTasks(Step):
    """Yields the tasks of a plan one by one."""

    do_fn = _WordTasksFn


class _BuildWordsFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, store: str) -> None:
        super().__init__()
        self._store = store

    def process(self, task: WordTask) -> Iterator[WordShardEntry]:
        """Read the texts and write the shard."""
        objects = ObjectStore(self._store)
        if objects.size(task.path) is None:
            with objects.create_file(task.path) as local:
                write_postings(documents_of(objects, dict(task.tables), task.bucket), local)
        with objects.local_copy(task.path) as local:
            documents, words = counts_of(local)
        yield WordShardEntry(file=file_entry(objects, task.path), documents=documents, words=words)


class BuildWords(Step):
    """Writes a shard and yields its entry; an existing shard is adopted."""

    do_fn = _BuildWordsFn


class _CommitWordsFn(beam.DoFn):  # type: ignore[misc]
    def process(self, planned: tuple[Release, list[WordTask]], built: list[WordShardEntry]) -> Iterator[Release]:
        """List the shards in the draft."""
        draft, tasks = planned
        found = {shard.file.path: shard for shard in built}
        check_gathered("shards of words", len({task.path for task in tasks}), len(found))
        yield draft.model_copy(update={"words": [found[path] for path in sorted(found) if found[path].documents]})


class CommitWords(Step):
    """Adds the shards to the draft after all of them were reported."""

    do_fn = _CommitWordsFn


def documents_of(objects: ObjectStore, tables: Mapping[str, int], bucket: int) -> pl.DataFrame:
    """Return the texts of a bucket's items: doc int64, ascending, and text.

    The ``doc`` of a narration is its row id; captions and labels of a whole item have the item's last possible row id.

    Args:
        objects: the store.
        tables: versions by name of the table.
        bucket: number of the bucket.
    """
    first, end = bucket << BUCKET_BITS, (bucket + 1) << BUCKET_BITS
    said = _scan(objects, tables, "narrations", NARRATIONS_TABLE)
    inside = pl.col("row_id").is_between(first << ORDINAL_BITS, (end << ORDINAL_BITS) - 1)
    spoken = said.filter(inside).select(pl.col("row_id").alias("doc"), "text").collect()
    return pl.concat([spoken, _about_items(objects, tables, first, end)]).sort("doc")


def _about_items(objects: ObjectStore, tables: Mapping[str, int], first: int, end: int) -> pl.DataFrame:
    mine = _scan(objects, tables, "items", ITEMS).filter(pl.col("item_no").is_between(first, end - 1))
    items = mine.select("item_no", "source", "uid", "metadata")
    whole = pl.col("start_s").is_null() & pl.col("name").is_not_null()
    sure = (pl.col("origin") == "given") | (pl.col("score") >= LEAST_SCORE)
    labels = _scan(objects, tables, "labels", LABELS).filter(whole & sure)
    names = labels.group_by("source", "uid").agg(pl.col("name").unique().sort())
    rows = items.join(names, on=["source", "uid"], how="left")
    rows = rows.filter(pl.col("name").is_not_null() | (pl.col("metadata").str.len_bytes() > len("{}")))
    found = [
        ((number << ORDINAL_BITS) + MAX_ORDINAL, item_text(metadata, names or (), KEY))
        for number, metadata, names in rows.select("item_no", "metadata", "name").collect().iter_rows()
    ]
    schema = {"doc": pl.Int64, "text": pl.String}
    return pl.DataFrame([row for row in found if row[1]], schema=schema, orient="row")


def _scan(objects: ObjectStore, tables: Mapping[str, int], name: str, schema: object) -> pl.LazyFrame:
    files = [f"{name}/{file}" for file in table_files(objects, name, tables[name])] if name in tables else []
    if not files:
        return pl.DataFrame(empty_table(schema)).lazy()
    uris = [objects.uri_of(file) for file in files]
    return pl.scan_parquet(uris, storage_options=objects.table_options or None, glob=False)
