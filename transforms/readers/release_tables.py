"""A release opened for reading: its tables as dataframes over exactly the files that it names.

Readers see one complete release while a run writes the next. Beam is not imported here, so opening is quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cliploom.schemas.errors import StoreError, UnknownNameError, nearest
from cliploom.schemas.records import MAX_ORDINAL, ORDINAL_BITS
from cliploom.schemas.release import FeatureEntry, Release
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import Releases, read_releases
from cliploom.transforms.store.tables import table_files

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import polars as pl
    import pyarrow as pa

RowTimes = tuple[float | None, float | None, int | None]

# An open store caches the tables ``items`` and ``contents`` up to this many rows; longer ones are scanned.
_KEPT_ROWS = 100_000
# Number of rows whose times are cached, by part: 32 bytes each.
_KEPT_TIMES = 2_000_000


@dataclass(frozen=True)
class ItemLabel:
    """A label of an item: ``score`` is the confidence of a predicted label, ``origin`` the feature that predicted it.

    Given labels have no score and the origin ``given``.
    """

    name: str | None
    score: float | None
    origin: str


class ReleaseReader:
    """A store at one release.

    Attributes:
        release: the release to read.
    """

    def __init__(self, objects: ObjectStore, releases: Releases, release: Release) -> None:
        """Read only the list of releases."""
        self._objects = objects
        self._releases = releases
        self.release = release

    def __repr__(self) -> str:
        """Return the call that opens it, with its content."""
        found = self.release
        shown = f"items={found.counts.get('items', 0)}, features={list(found.features)}, indexes={list(found.indexes)}"
        return f"{type(self).__name__}({self.uri!r}, release={found.release}, {shown})"

    @property
    def uri(self) -> str:
        """The absolute folder or URI of the store."""
        return self._objects.uri

    @property
    def releases(self) -> tuple[Release, ...]:
        """All releases that existed when the store was opened, oldest first."""
        return self._releases.rows

    @property
    def features(self) -> dict[str, FeatureEntry]:
        """The release's features by name."""
        return dict(self.release.features)

    @property
    def items(self) -> pl.LazyFrame:
        """The release's items: item_no, source, uid, uri, size, signature, digest, facts and metadata (both JSON)."""
        return self.table("items")

    @property
    def failures(self) -> pl.LazyFrame:
        """The failures recorded in the release: source, feature, uid, uri, stage, type, message and more."""
        return self.table("failures")

    @property
    def tables(self) -> tuple[str, ...]:
        """The names that ``table`` accepts: the features, then the release's other tables."""
        first = ("items", "narrations", "labels", "failures")
        others: list[str] = [name for name in first if name in self.release.tables]
        others += sorted({*self.release.tables, "releases"} - {*others})
        return tuple(dict.fromkeys([*self.release.features, *others]))

    def table(self, name: str) -> pl.LazyFrame:
        """Return a table of the release, over exactly the files that the release names.

        Args:
            name: the name of a feature, or ``items``, ``narrations``, ``labels``, ``failures``, ``contents``, ``parts``
                or ``releases``. A feature takes precedence over a table of the same name.

        Returns:
            A lazy frame; for a feature: row_id, uid, start_s, end_s, frame, item_digest and one ``list<float32>``
            column per output. ``collect()`` returns a polars DataFrame.

        Raises:
            UnknownNameError: there is no such table; the message lists the tables.
        """
        import polars as pl

        from cliploom.schemas.table_notes import STORE_TABLES

        if name in self.release.features:
            entry = self.release.features[name]
            return self._scan_parts(entry, self._parts_at(entry.table, entry.version))
        if name == "releases":
            from cliploom.transforms.store.releases import release_table

            return pl.DataFrame(release_table(self._releases.rows)).lazy()
        if name not in self.tables or name not in STORE_TABLES:
            raise UnknownNameError(self._no_table(name))
        return self._scan(self._files(name), STORE_TABLES[name].schema)

    def _no_table(self, name: object) -> str:
        found = f"Release {self.release.release} has no table {name!r}"
        if name in ("narrations", "labels"):
            return f"{found}: no source of the spec gives {name}; it has {', '.join(self.tables)}."
        return f"{found}{nearest(str(name), self.tables)}"

    def items_with(self, *, uid: str | None = None, numbers: Collection[int] = ()) -> pl.DataFrame:
        """Return the items with a uid (one per source), or those with these numbers."""
        import polars as pl

        wanted = pl.col("uid") == uid if uid is not None else pl.col("item_no").is_in(list(numbers))
        return self.collected(self._items.filter(wanted))

    def rows_of(self, feature: str, item_no: int, output: str) -> pl.DataFrame:
        """Return an item's rows: row_id, start_s, end_s and one output, ordered by row_id."""
        import polars as pl

        first = item_no << ORDINAL_BITS
        mine = pl.col("row_id").is_between(first, first + MAX_ORDINAL)
        rows = self._parts_of(feature, [item_no]).filter(mine).select("row_id", "start_s", "end_s", output)
        return self.collected(rows).sort("row_id")

    def times_of(self, feature: str, items: Collection[int]) -> pl.DataFrame:
        """Return row_id, start_s, end_s and frame of the rows of all parts that contain any of the items."""
        import polars as pl

        parts = self._parts_with(feature, items)
        if not parts:
            empty = self._scan_parts(self.release.features[feature], [])
            return self.collected(empty.select("row_id", "start_s", "end_s", "frame"))
        return pl.concat([self._times_of(feature, part) for part in parts])

    def table_rows(self, table: str, schema: pa.Schema) -> pl.LazyFrame:
        """Return all rows of one of the release's tables."""
        return self._scan(self._files(table), schema)

    def row_times(self, feature: str, rows: Collection[int]) -> dict[int, RowTimes]:
        """Return start_s, end_s and frame of rows by their ids; unknown ids are omitted."""
        import polars as pl

        times = self.times_of(feature, {row >> ORDINAL_BITS for row in rows})
        found = times.filter(pl.col("row_id").is_in(list(rows)))
        return {row_id: (start_s, end_s, frame) for row_id, start_s, end_s, frame in found.rows()}

    def _times_of(self, feature: str, part: str) -> pl.DataFrame:
        """Return row_id, start_s, end_s and frame of a part's rows; recent results are cached."""
        entry = self.release.features[feature]
        key = f"{entry.table}/{part}"
        times = self._times.pop(key, None)
        if times is None:
            rows = self._scan_parts(entry, [part])
            times = self.collected(rows.select("row_id", "start_s", "end_s", "frame"))
        self._times[key] = times
        # Copy the dictionary: other threads may use the same store.
        for oldest in list(self._times)[:-1]:
            if sum(kept.height for kept in list(self._times.values())) <= _KEPT_TIMES:
                break
            self._times.pop(oldest, None)
        return times

    @cached_property
    def _times(self) -> dict[str, pl.DataFrame]:
        """The times by part, the least recently used first."""
        return {}

    @property
    def objects(self) -> ObjectStore:
        """The store's files."""
        return self._objects

    def narration_rows(self, rows: Collection[int]) -> list[tuple[int, float | None, float | None, str]]:
        """Return row_id, start_s, end_s and text of narrations by their row ids."""
        import polars as pl

        if "narrations" not in self.release.tables:
            return []
        from cliploom.schemas.narrations import NARRATIONS_TABLE

        narrations = self._scan(self._files("narrations"), NARRATIONS_TABLE)
        found = narrations.filter(pl.col("row_id").is_in(list(rows))).select("row_id", "start_s", "end_s", "text")
        return self.collected(found).rows()

    def texts(self, rows: Collection[int]) -> dict[int, str]:
        """Return the texts of rows by their ids; none for rows that are not texts."""
        return {row_id: text for row_id, _, _, text in self.narration_rows(rows)}

    def labels(self, uids: Collection[str]) -> dict[tuple[str, str], tuple[ItemLabel, ...]]:
        """Return the labels of whole items by (source, uid): given ones, then predicted ones by descending confidence.

        For a source of records all label files are read: no other table knows the ids of its records.
        """
        import polars as pl

        if "labels" not in self.release.tables:
            return {}
        if any("records" in entry.recipe for entry in self.release.features.values()):
            return self._labels_in(self._files("labels"), uids)
        items = self.items.filter(pl.col("uid").is_in(list(uids))).select("item_no")
        return self.item_labels(self.collected(items)["item_no"].to_list(), uids)

    def item_labels(
        self, numbers: Collection[int], uids: Collection[str]
    ) -> dict[tuple[str, str], tuple[ItemLabel, ...]]:
        """Return ``labels`` of items by numbers and uids; of predicted labels only the items' own files are read."""
        import polars as pl

        if "labels" not in self.release.tables:
            return {}
        predicted = self._predicted.filter(pl.col("item_no").is_in(list(numbers)))["path"].unique().to_list()
        wanted = set(predicted)
        # Given labels of items are in one file; the other files are labels of records, one per part.
        files = [path for path in self._files("labels") if path in wanted or path.startswith("labels/rows-")]
        return self._labels_in(files, uids)

    def _labels_in(self, files: Sequence[str], uids: Collection[str]) -> dict[tuple[str, str], tuple[ItemLabel, ...]]:
        import polars as pl

        from cliploom.schemas.tables import LABELS

        whole = pl.col("uid").is_in(list(uids)) & pl.col("start_s").is_null()
        rows = self.collected(self._scan(files, LABELS).filter(whole))
        predicted = pl.col("origin") != "given"
        rows = rows.sort(predicted, pl.col("score"), "label", descending=[False, True, False], nulls_last=True)
        found: dict[tuple[str, str], list[ItemLabel]] = {}
        for source, uid, *label in rows.select("source", "uid", "name", "score", "origin").iter_rows():
            found.setdefault((source, uid), []).append(ItemLabel(*label))
        return {key: tuple(labels) for key, labels in found.items()}

    @cached_property
    def _predicted(self) -> pl.DataFrame:
        """Return the files of predicted labels with their items: path, item_no."""
        import polars as pl

        if not self.release.heads:
            return pl.DataFrame(schema={"path": pl.String, "item_no": pl.Int64})
        from cliploom.transforms.heads.tagging import tag_files

        return tag_files(self._objects, self.release)

    def collected(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """Return the frame, read.

        Raises:
            StoreError: a file is missing or damaged.
        """
        import polars as pl

        try:
            return frame.collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            told = StoreError(f"{self.uri} can't be read ({reason}); `cliploom verify` lists all damage.")
            raise self._gone(told) from None

    def _gone(self, error: StoreError) -> StoreError:
        """Return the error to raise for missing files, with the reason if it can be determined."""
        root = self._objects.root
        if root is not None and not root.exists():
            return StoreError(f"There is no store at {self.uri} any more; it was moved or deleted since it was opened.")
        try:
            kept = [release.release for release in read_releases(self._objects).rows]
        except StoreError:
            return error
        if self.release.release in kept:
            return error
        return StoreError(
            f"Release {self.release.release} of {self.uri} was removed by a vacuum since it was opened; open the store "
            "again for the newest release."
        )

    def _parts_of(self, feature: str, numbers: Collection[int]) -> pl.LazyFrame:
        """Return the rows of the parts that contain these items."""
        return self._scan_parts(self.release.features[feature], self._parts_with(feature, numbers))

    def _parts_with(self, feature: str, numbers: Collection[int]) -> list[str]:
        """Return the names of the parts that contain these items."""
        import polars as pl

        mine = (pl.col("feature") == feature) & pl.col("item_no").is_in(list(numbers)) & (pl.col("rows") > 0)
        return sorted(self.collected(self._contents.filter(mine).select("part").unique())["part"].to_list())

    def _scan_parts(self, entry: FeatureEntry, parts: Sequence[str]) -> pl.LazyFrame:
        from cliploom.schemas.tables import feature_schema

        schema = feature_schema({name: output.dim for name, output in entry.outputs.items()}, texts=entry.texts)
        return self._scan([f"{entry.table}/{part}" for part in parts], schema)

    @cached_property
    def _contents(self) -> pl.LazyFrame:
        from cliploom.schemas.tables import CONTENTS

        return self._kept(self._scan(self._files("contents"), CONTENTS))

    @cached_property
    def _items(self) -> pl.LazyFrame:
        return self._kept(self.items)

    def _kept(self, table: pl.LazyFrame) -> pl.LazyFrame:
        """Return a table that every query uses; short ones are read once."""
        import polars as pl

        rows = self.collected(table.select(pl.len())).item()
        return self.collected(table).lazy() if rows <= _KEPT_ROWS else table

    def _files(self, table: str) -> list[str]:
        return [f"{table}/{name}" for name in self._parts_at(table, self.release.tables[table])]

    def _parts_at(self, table: str, version: int) -> list[str]:
        """Return the files of a table version; cached, since a version never changes and reading its log is slow."""
        if (table, version) not in self._listed:
            try:
                self._listed[table, version] = table_files(self._objects, table, version)
            except StoreError as error:
                raise self._gone(error) from None
        return self._listed[table, version]

    @cached_property
    def _listed(self) -> dict[tuple[str, int], list[str]]:
        """The requested files by table and version."""
        return {}

    def _scan(self, files: Sequence[str], schema: pa.Schema) -> pl.LazyFrame:
        import polars as pl

        from cliploom.schemas.tables import empty_table

        if not files:
            return pl.DataFrame(empty_table(schema)).lazy()
        root = self._objects.root
        for file in files if root is not None else ():
            if root is not None and not (root / file).exists():
                missing = f"{self._objects.uri_of(file)} is missing; `cliploom verify` lists all damage."
                raise self._gone(StoreError(missing))
        uris = [self._objects.uri_of(file) for file in files]
        return pl.scan_parquet(uris, storage_options=self._objects.table_options or None, glob=False)
