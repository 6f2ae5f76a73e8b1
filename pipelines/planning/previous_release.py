"""Reads the previous release: a few columns of all items for comparison, and the others by number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import polars as pl
import pyarrow.parquet as pq

from cliploom.pipelines.planning.row_store import ParquetRowStore
from cliploom.schemas.media import PROBE_REVISION
from cliploom.schemas.release import Release
from cliploom.schemas.tables import FAILURES, ITEMS, PARTS
from cliploom.transforms.publish.dataframes import empty_frame
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.tables import read_table, table_files

COMPARED = ("item_no", "source", "uid", "size", "signature", "digest")


@dataclass(frozen=True)
class PreviousRelease:
    """Tables of the previous release, empty for a new store; ``contents`` are read later, per feature.

    Attributes:
        release: None for a new store.
        items: the columns ``COMPARED``.
        parts: parts of all features.
        failures: failures of all features and of probing.
    """

    release: Release | None
    items: pl.DataFrame
    parts: pl.DataFrame
    failures: pl.DataFrame

    @property
    def probed_by_older_version(self) -> bool:
        """Return whether the current prober is newer than the one that probed its items."""
        return self.release is not None and self.release.prober < PROBE_REVISION

    def for_planning(self) -> PreviousRelease:
        """Return a copy for planning, with only those columns of the items that a plan compares."""
        return replace(self, items=self.items.select("item_no", "source", "uid", "digest"))

    @contextmanager
    def item_rows(self, objects: ObjectStore) -> Iterator[ParquetRowStore]:
        """Return all columns of the items, to be read by number."""
        with ExitStack() as open_files:
            names = table_files(objects, "items", self.release.tables["items"]) if self.release else []
            local = (open_files.enter_context(objects.local_copy(f"items/{name}")) for name in names)
            yield ParquetRowStore([open_files.enter_context(pq.ParquetFile(path)) for path in local])


def read_previous_release(objects: ObjectStore, release: Release | None) -> PreviousRelease:
    """Read the small tables of a release."""
    frames = {}
    for name, schema, columns in (("items", ITEMS, COMPARED), ("parts", PARTS, None), ("failures", FAILURES, None)):
        if release is not None and name in release.tables:
            frames[name] = read_table(objects, name, release.tables[name], columns=columns)
        else:
            frames[name] = empty_frame(schema).select(columns or schema.names)
    return PreviousRelease(release, **frames)
