"""What the last release says: of the items a few columns to compare with, and the others by number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import polars as pl
import pyarrow.parquet as pq

from cliploom.pipelines.planning.packed import NumberedRows
from cliploom.schemas.release import Release
from cliploom.schemas.tables import FAILURES, ITEMS, PARTS
from cliploom.transforms.publish.frames import empty_frame
from cliploom.transforms.store.objects import Objects
from cliploom.transforms.store.tables import read_table, table_files

COMPARED = ("item_no", "source", "uid", "size", "signature", "digest")


@dataclass(frozen=True)
class Before:
    """The last release's tables, empty for a new store; ``contents`` are read by who needs them, for one feature.

    Attributes:
        release: None for a new store.
        items: the columns ``COMPARED``.
        parts: of all features.
        failures: of all features, and of probing.
    """

    release: Release | None
    items: pl.DataFrame
    parts: pl.DataFrame
    failures: pl.DataFrame

    def surveyed(self) -> Before:
        """The same once the survey is done: of the items only what a plan compares."""
        return replace(self, items=self.items.select("item_no", "source", "uid", "digest"))

    @contextmanager
    def item_rows(self, objects: Objects) -> Iterator[NumberedRows]:
        """All columns of the items, to be read by number."""
        with ExitStack() as open_files:
            names = table_files(objects, "items", self.release.tables["items"]) if self.release else []
            local = (open_files.enter_context(objects.local_copy(f"items/{name}")) for name in names)
            yield NumberedRows([open_files.enter_context(pq.ParquetFile(path)) for path in local])


def read_before(objects: Objects, release: Release | None) -> Before:
    """Read the small tables of a release."""
    frames = {}
    for name, schema, columns in (("items", ITEMS, COMPARED), ("parts", PARTS, None), ("failures", FAILURES, None)):
        if release is not None and name in release.tables:
            frames[name] = read_table(objects, name, release.tables[name], columns=columns)
        else:
            frames[name] = empty_frame(schema).select(columns or schema.names)
    return Before(release, **frames)
