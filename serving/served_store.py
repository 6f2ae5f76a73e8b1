"""A release opened for serving: it reads everything at opening, so that a later vacuum cannot break responses.

Names in queries are uids of the release only: a request can never make the server open a file on its machine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from cliploom.schemas.errors import SpecError, UnknownNameError
from cliploom.schemas.narrations import NARRATIONS_TABLE
from cliploom.schemas.records import MAX_ORDINAL, ORDINAL_BITS
from cliploom.schemas.tables import FAILURES, LABELS
from cliploom.serving.kept_rows import KeptRows
from cliploom.transforms.search.query import Like, split_moment
from cliploom.transforms.search.query_model import QueryPart
from cliploom.transforms.search.searching import Store
from cliploom.transforms.store.object_store import ObjectStore, existing_store
from cliploom.transforms.store.releases import Releases, read_releases

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from cliploom.transforms.readers.release_tables import RowTimes

# Tables of texts, labels and failures with at most this many rows are kept in memory; longer ones are scanned.
_KEPT_ROWS = 1_000_000
# Maximum number of feature rows whose times are read when a release is opened.
_KEPT_TIMES = 2_000_000
_KEPT_TEXTS = 1_000
# For more items than this, times are looked up in the whole feature.
_FEW_ITEMS = 200


@dataclass(frozen=True)
class CurvePoint:
    """The score of one row of an item against a query."""

    start_s: float
    end_s: float
    score: float


class ServedStore(Store):
    """A store at one release that answers from memory and from open files."""

    opens_files = False

    def __init__(self, objects: ObjectStore, releases: Releases, number: int | None = None) -> None:
        """Read the list of releases only; ``load`` reads the rest."""
        super().__init__(objects, releases, releases.get(number))
        self._frames: dict[str, pl.DataFrame] = {}
        self._kept_times: dict[str, KeptRows] = {}
        self._kept_texts: KeptRows | None = None
        self._kept_items: KeptRows | None = None

    @property
    def objects(self) -> ObjectStore:
        """The object store."""
        return self._objects

    def know_releases(self, releases: Releases) -> None:
        """Replace the list of releases while the newest one stays the same."""
        self._releases = releases

    def load(self) -> None:
        """Read the tables, and open the indexes with their calibration of fits and the text towers."""
        self._keep("narrations", NARRATIONS_TABLE)
        self._keep("labels", LABELS)
        self._keep("failures", FAILURES)
        if "labels" in self.release.tables:
            _ = self._predicted
        _ = self._contents
        # Short tables are already in memory; longer ones are scanned in place.
        if self.collected(self._items.select(pl.len())).item() <= _KEPT_ROWS:
            self._kept_items = KeptRows(self.collected(self._items), "item_no")
        if self._frames and "narrations" in self.release.tables:
            files = self._files("narrations")
            if all(file in self._frames for file in files):
                columns = ["row_id", "start_s", "end_s", "text"]
                said = pl.concat([self._frames[file].select(columns) for file in files]) if files else None
                self._kept_texts = None if said is None else KeptRows(said, "row_id")
        room = _KEPT_TIMES
        for name, index in self.release.indexes.items():
            self._open(name)
            feature = self.release.features[index.feature]
            room -= feature.rows
            if room >= 0 and index.feature not in self._kept_times:
                parts = self._scan_parts(feature, self._parts_at(feature.table, feature.version))
                times = self.collected(parts.select("row_id", "start_s", "end_s", "frame"))
                self._kept_times[index.feature] = KeptRows(times, "row_id")
        self._fits(self.release.indexes)
        for model in sorted({self._feature_of(name).model for name in self.text_indexes}):
            self._text_tower(model)(["ready"])

    def _keep(self, table: str, schema: pa.Schema) -> None:
        if table not in self.release.tables:
            return
        room = _KEPT_ROWS
        for file in self._files(table):
            frame = self._scan([file], schema)
            room -= self.collected(frame.select(pl.len())).item()
            if room < 0:
                return
            self._frames[file] = self.collected(frame)

    def _scan(self, files: Sequence[str], schema: pa.Schema) -> pl.LazyFrame:
        if files and all(file in self._frames for file in files):
            return pl.concat([self._frames[file] for file in files]).lazy()
        return super()._scan(files, schema)

    def items_with(self, *, uid: str | None = None, numbers: Collection[int] = ()) -> pl.DataFrame:
        """Return the items with a uid (one per source), or those with these numbers."""
        if uid is None and self._kept_items is not None:
            return self._kept_items.find(numbers)
        return super().items_with(uid=uid, numbers=numbers)

    def times_of(self, feature: str, items: Collection[int]) -> pl.DataFrame:
        """Return row_id, start_s, end_s and frame of the rows of at least these items; others may be included."""
        kept = self._kept_times.get(feature)
        if kept is None:
            return super().times_of(feature, items)
        if len(items) > _FEW_ITEMS:
            return kept.frame
        spans = [kept.between(item_no << ORDINAL_BITS, (item_no << ORDINAL_BITS) + MAX_ORDINAL) for item_no in items]
        return pl.concat(spans) if spans else kept.frame.clear()

    def row_times(self, feature: str, rows: Collection[int]) -> dict[int, RowTimes]:
        """Return start_s, end_s and frame of rows by their ids; unknown ids are omitted."""
        kept = self._kept_times.get(feature)
        if kept is None:
            return super().row_times(feature, rows)
        return {row_id: (start_s, end_s, frame) for row_id, start_s, end_s, frame in kept.find(rows).rows()}

    def narration_rows(self, rows: Collection[int]) -> list[tuple[int, float | None, float | None, str]]:
        """Return row_id, start_s, end_s and text of narrations by their row ids."""
        return super().narration_rows(rows) if self._kept_texts is None else self._kept_texts.find(rows).rows()

    @property
    def text_indexes(self) -> list[str]:
        """Return the indexes that support text queries."""
        return [name for name in sorted(self.release.indexes) if self._takes_text(name)]

    @property
    def listed(self) -> pl.LazyFrame:
        """Return the items, from memory if there are few."""
        return self._items

    def narrations_of(self, uid: str) -> pl.DataFrame:
        """Return the narrations of a video: start_s, end_s, text; ordered by time."""
        if "narrations" not in self.release.tables:
            return pl.DataFrame(schema={"start_s": pl.Float64, "end_s": pl.Float64, "text": pl.String})
        rows = self._scan(self._files("narrations"), NARRATIONS_TABLE).filter(pl.col("uid") == uid)
        return self.collected(rows.select("start_s", "end_s", "text").sort("start_s", nulls_last=True))

    def text_vector(self, model: str, text: str) -> NDArray[np.float32]:
        """Return the vector of a text, float32 [1, dim]; recent ones are cached."""
        key = model, text
        found = self._texts_kept.get(key)
        if found is None:
            found = self._texts_kept[key] = super().text_vector(model, text)
            while len(self._texts_kept) > _KEPT_TEXTS:
                self._texts_kept.popitem(last=False)
        return found

    @cached_property
    def _texts_kept(self) -> OrderedDict[tuple[str, str], NDArray[np.float32]]:
        return OrderedDict()

    def like_part(self, name: str, weight: float = 1.0, *, negative: bool = False) -> QueryPart:
        """Return the query part for a uid of the release, with or without a moment; files are never opened.

        Raises:
            SpecError: the name is anything else, whatever file or URL it may denote.
        """
        if name.strip() and self.items_with(uid=name).height:
            return QueryPart("uid", name, None, weight, negative)
        before = name.rpartition("@")[0]
        if before.strip() and self.items_with(uid=before).height:
            found = split_moment(name)
            return QueryPart("uid", found.name, found.at_s, weight, negative)
        raise SpecError(
            f"{name[:200]!r} is not a uid of release {self.release.release}; drop the file on the page instead."
        )

    def _item_vectors(
        self, like: Like, names: list[str], *, explicit: bool
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, int]] | None:
        """Return the item's vectors; for a moment only of indexes with a row then, unless chosen explicitly."""
        if explicit or like.at_s is None:
            return super()._item_vectors(like, names, explicit=explicit)
        vectors: dict[str, NDArray[np.float32]] = {}
        skips: dict[str, int] = {}
        trouble: SpecError | None = None
        for name in names:
            try:
                found = super()._item_vectors(like, [name], explicit=False)
            except SpecError as error:
                trouble = error
                continue
            if found is not None:
                vectors |= found[0]
                skips |= found[1]
        if not vectors and trouble is not None:
            raise trouble
        return (vectors, skips) if vectors else None

    def rows_by_feature(self, item_no: int) -> dict[str, int]:
        """Return the rows of an item by feature, according to the table ``contents``."""
        mine = self._contents.filter(pl.col("item_no") == item_no).group_by("feature").agg(pl.col("rows").sum())
        known = self.release.features
        return {name: rows for name, rows in sorted(self.collected(mine).rows()) if name in known}

    def scores_over_time(self, uid: str, text: str, source: str | None = None) -> list[CurvePoint]:
        """Return the scores of an item's rows against a text, by time; empty if no index of it supports text."""
        for name in self.text_indexes:
            if source is None or self._feature_of(name).source == source:
                try:
                    return [CurvePoint(*point) for point in self.curve(uid, text, name, source)]
                except SpecError:
                    continue  # this index does not contain the item
        return []

    def item(self, uid: str, source: str | None = None) -> Mapping[str, Any]:
        """Return the item with a uid, in the given source if there is one.

        Raises:
            UnknownNameError: there is no such item.
        """
        rows = self.items_with(uid=uid).sort("source").to_dicts()
        mine = [row for row in rows if source in (None, row["source"])]
        if not mine:
            where = f" in the source {source!r}" if source else ""
            raise UnknownNameError(f"Release {self.release.release} has no item {uid[:200]!r}{where}.")
        return mine[0]


def open_served(uri: str, number: int | None = None) -> ServedStore:
    """Open a store for serving, at its newest release by default, and load it."""
    objects = existing_store(uri)
    store = ServedStore(objects, read_releases(objects), number)
    store.load()
    return store
