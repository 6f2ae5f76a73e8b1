"""The indexes of a release: the queries that each supports, their files, and the rows behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from cliploom.schemas.errors import SpecError, UnknownNameError, nearest
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.schemas.release import FeatureEntry
from cliploom.transforms.readers.release_tables import ReleaseReader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cliploom.transforms.index.opened import OpenShard
    from cliploom.transforms.search.query_model import Query


class IndexReader(ReleaseReader):
    """A store at one release, with its indexes."""

    @cached_property
    def _shards(self) -> dict[str, list[OpenShard]]:
        """The open index files, by index."""
        return {}

    def _chosen(self, index: Sequence[str] | None) -> list[str]:
        known = self.release.indexes
        if not known:
            feature = next(iter(self.release.features), "FEATURE")
            raise SpecError(
                f"Release {self.release.release} has no index to search; add one to the spec, such as indexes: "
                f"{{{feature}: {{feature: {feature}}}}}, and run again; features are not computed again for it."
            )
        if isinstance(index, str):
            index = [index]
        for name in index or ():
            if name not in known:
                raise UnknownNameError(f"There is no index {name!r}{nearest(str(name), known)}")
        return list(dict.fromkeys(index)) if index else sorted(known)

    def indexes_for_likeness(self) -> list[str]:
        """Return the indexes that a search by a file or item uses by default.

        An output without text support (``pooled``) distinguishes pictures better than one that was projected into the
        space of sentences (``semantic``): of a feature with indexes over both, only the former are used.
        """
        plain = {entry.feature for name, entry in self.release.indexes.items() if not self._takes_text(name)}
        return [
            name
            for name, entry in sorted(self.release.indexes.items())
            if entry.feature not in plain or not self._takes_text(name)
        ]

    def asks_for_likeness(self, query: Query) -> bool:
        """Return whether a query consists only of files and items and names no index."""
        known = bool(self.release.indexes)
        return known and query.index is None and all(part.kind not in ("text", "vector") for part in query.parts)

    def _takes_text(self, name: str) -> bool:
        return self._feature_of(name).outputs[self.release.indexes[name].output].text

    def _no_text(self, name: str) -> str:
        entry = self.release.indexes[name]
        could = [other for other in self.release.indexes if self._takes_text(other)]
        outputs = [
            f"{feature}.{output}"
            for feature, found in self.release.features.items()
            for output, about in found.outputs.items()
            if about.text
        ]
        encoder = self._feature_of(name).encoder
        if could:
            fix = f"ask the index {' or '.join(could)}"
        elif outputs:
            fix = f"add an index over {' or '.join(outputs)}"
        else:
            fix = "give the encoder a text_encoder, such as one of kind minilm, or search with --like"
        return f"The index {name!r} is over {entry.output!r} of encoder {encoder!r}, without text queries; {fix}."

    def _table_rows(
        self, name: str, items: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Return the row ids and vectors of some items from the feature's table; indexes store one byte per number."""
        import polars as pl

        from cliploom.transforms.store.parts import arrow_to_vectors

        entry, feature = self.release.indexes[name], self._feature_of(name)
        numbers = pl.Series(items).implode()
        for part in self._parts_with(entry.feature, items.tolist()):
            rows = self._scan_parts(feature, [part]).select("row_id", entry.output)
            mine = self.collected(rows.filter((pl.col("row_id") // (1 << ORDINAL_BITS)).is_in(numbers)))
            yield (
                mine["row_id"].to_numpy(),
                arrow_to_vectors(mine[entry.output].to_arrow(), feature.outputs[entry.output].dim),
            )

    def _open(self, name: str) -> list[OpenShard]:
        if name not in self._shards:
            from cliploom.schemas.index import IndexRecipe, IndexShard
            from cliploom.transforms.index.opened import open_shard
            from cliploom.transforms.store.cache import cached_file

            entry = self.release.indexes[name]
            dim = self._feature_of(name).outputs[entry.output].dim
            recipe = IndexRecipe(entry.metric, entry.kind, dim, entry.nprobe)  # type: ignore[arg-type]
            self._shards[name] = [
                open_shard(
                    cached_file(self._objects, shard.file),
                    recipe,
                    IndexShard(shard.file.path, shard.file.size, shard.file.digest, shard.rows),
                )
                for shard in entry.shards
            ]
        return self._shards[name]

    def _feature_of(self, index: str) -> FeatureEntry:
        return self.release.features[self.release.indexes[index].feature]
