"""Hits: ranked items together with the information that the tables of the release have about them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from cliploom.schemas.errors import StoreError
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.transforms.inputs.joins import join_uids
from cliploom.transforms.search.asking import AskedIndex, QueryReader
from cliploom.transforms.search.columns import ItemColumns
from cliploom.transforms.search.moments import ScoredRow, best_stretches, merge_moments
from cliploom.transforms.search.query_model import Hit, Moment, Query

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cliploom.transforms.readers.release_tables import RowTimes
    from cliploom.transforms.search.filtering import Filter
    from cliploom.transforms.search.fit import IndexFit, QueryKind
    from cliploom.transforms.search.ranking import MergedList

Ranked = tuple[int, float]


class HitReader(QueryReader):
    """A store at one release that turns ranked items into hits."""

    @cached_property
    def _columns(self) -> ItemColumns:
        return ItemColumns(self)

    @cached_property
    def _filters(self) -> dict[tuple[str | None, str | None], Filter]:
        """The filters of recent queries, the least recently used first."""
        return {}

    def _hits(self, merged: MergedList, page: Sequence[Ranked]) -> list[Hit]:
        best = {item_no: (name, media.best) for item_no, (name, media) in merged.leader(dict(page)).items()}
        by_list: dict[str, list[int]] = {}
        for name, row in best.values():
            by_list.setdefault(name, []).append(row.row_id)
        times = {name: self._times_in(name, rows) for name, rows in by_list.items()}
        texts = self.texts([row.row_id for _, row in best.values()])
        items = {row["item_no"]: row for row in self.items_with(numbers=best).iter_rows(named=True)}
        labels = self.item_labels(items, [row["uid"] for row in items.values()])
        hits = []
        for item_no, score in page:
            name, row = best[item_no]
            found = times[name].get(row.row_id)
            if item_no not in items or found is None:
                raise StoreError(
                    f"The index {name!r} has row {row.row_id}, which release {self.release.release} does not; "
                    "`cliploom verify` lists all damage."
                )
            item = items[item_no]
            metadata = json.loads(item["metadata"] or "{}")
            place = name.removeprefix(":"), item["source"], item["uid"], score, *found
            text = texts.get(row.row_id, "")
            given = labels.get((item["source"], item["uid"]), ())
            hits.append(Hit(*place, item["uri"], metadata, self.release.release, text, given, row.row_id))
        return hits

    def _times_in(self, name: str, rows: list[int]) -> dict[int, RowTimes]:
        from cliploom.transforms.search.words import WORDS, WordIndex

        if name == WORDS:
            return WordIndex(self).times(rows)
        return self.row_times(self.release.indexes[name].feature, rows)

    @cached_property
    def _opened_fits(self) -> dict[str, IndexFit]:
        """The calibrations by index."""
        return {}

    def _fits(self, names: Iterable[str]) -> dict[str, IndexFit]:
        """Return the calibrations of those indexes that have one."""
        from cliploom.transforms.search.fit import open_fit

        for name in self.release.indexes.keys() & set(names):
            entry = self.release.indexes[name]
            if entry.fit is not None and name not in self._opened_fits:
                dim = self._feature_of(name).outputs[entry.output].dim
                self._opened_fits[name] = open_fit(self._objects, entry.fit, dim)
        return {name: self._opened_fits[name] for name in names if name in self._opened_fits}

    def _with_fits(
        self,
        hits: Sequence[Hit],
        page: Sequence[Ranked],
        query: Query,
        asked: Mapping[str, AskedIndex],
        merged: MergedList,
    ) -> list[Hit]:
        """Return the hits with their fits; mixtures and vectors have none."""
        from cliploom.transforms.search.fit import fits_of_items

        if len(query.parts) != 1 or query.parts[0].kind == "vector":
            return list(hits)
        kind: QueryKind = "rows" if query.only_text is None else "text"
        queries = {name: index.queries for name, index in asked.items()}
        found: dict[int, float] = {}
        for item_no, fit in fits_of_items(self._fits(list(asked)), kind, queries, merged.taken).items():
            shown = merged.shown_as(item_no)
            found[shown] = max(fit, found.get(shown, 0.0))
        return [replace(hit, fit=found.get(item_no)) for hit, (item_no, _) in zip(hits, page, strict=True)]

    def _with_moments(
        self,
        hits: Sequence[Hit],
        numbers: Sequence[int],
        asked: Mapping[str, AskedIndex],
        kept: Filter | None,
        most: int,
    ) -> list[Hit]:
        """Return the hits with their best stretches; those of the index that ranked a hit highest come first."""
        stands_for = self._stands_for(asked)
        moments: dict[int, list[tuple[str, Moment]]] = {}
        for name, question in asked.items():
            wanted = set(numbers) | {other for other, shown in stands_for.items() if shown in numbers}
            for item_no, rows in self._scored_rows(name, question, sorted(wanted), kept).items():
                found = best_stretches(rows, most)
                moments.setdefault(stands_for.get(item_no, item_no), []).extend((name, moment) for moment in found)
        texts = self.texts([moment.row_id for some in moments.values() for _, moment in some])
        done = []
        for item_no, hit in zip(numbers, hits, strict=True):
            mine = sorted(moments.get(item_no, []), key=lambda entry: entry[0] != hit.index)
            named = [replace(moment, text=texts.get(moment.row_id, "")) for _, moment in mine]
            done.append(replace(hit, moments=tuple(merge_moments(named, most))))
        return done

    def _scored_rows(
        self, name: str, asked: AskedIndex, items: Sequence[int], kept: Filter | None
    ) -> dict[int, list[ScoredRow]]:
        """Return the searchable rows of some items with their times and scores in an index, by item."""
        import numpy as np

        from cliploom.transforms.index.kept import RowFilter, kept_rows
        from cliploom.transforms.index.vectors import exact_scores, prepare

        entry = self.release.indexes[name]
        row_filter = None if kept is None else kept.rows(entry.feature)
        queries = prepare(asked.queries, entry.metric)  # type: ignore[arg-type]
        scores: dict[int, float] = {}
        for some in kept_rows(self._open(name), RowFilter(np.array(items, np.int64))):
            for ids, vectors in some.blocks():
                mine = slice(None) if row_filter is None else row_filter.keeps(ids)
                best: NDArray[np.float64] = np.max(
                    [exact_scores(query, vectors[mine], entry.metric) for query in queries],  # type: ignore[arg-type]
                    axis=0,
                )
                scores |= dict(zip(ids[mine].tolist(), best.tolist(), strict=True))
        found: dict[int, list[ScoredRow]] = {}
        for row_id, (start_s, end_s, _) in self.row_times(entry.feature, scores).items():
            if start_s is not None:
                row = ScoredRow(row_id, scores[row_id], start_s, start_s if end_s is None else end_s)
                found.setdefault(row_id >> ORDINAL_BITS, []).append(row)
        return found

    def _stands_for(self, asked: Iterable[str]) -> dict[int, int]:
        """Map narration items to the media items with the same uid if both are searched; one hit shows both."""
        sources = frozenset(self._feature_of(name).source for name in asked)
        if len(sources) < 2:
            return {}
        from cliploom.schemas.sources import is_about_media

        texts = {source for source in sources if is_about_media(self._source_kind(source))}
        if not texts or texts == sources:
            return {}
        if sources not in self._stand_ins:
            self._stand_ins[sources] = self._narrated_media(texts, sources - texts)
        return self._stand_ins[sources]

    @cached_property
    def _stand_ins(self) -> dict[frozenset[str], dict[int, int]]:
        """The results of ``_stands_for`` by sources; valid as long as the store stays at its release."""
        return {}

    def _narrated_media(self, texts: Collection[str], others: Collection[str]) -> dict[int, int]:
        import polars as pl

        columns = ["item_no", "source", "uid", "uri"]
        mine = pl.col("source").is_in([*texts, *others])
        items = self.collected(self.items.filter(mine).select(columns).sort("item_no"))
        media: dict[str, int] = {}
        listed: list[tuple[str, str]] = []
        narrated: list[tuple[int, str]] = []
        for item_no, source, uid, uri in items.iter_rows():
            if source in texts:
                narrated.append((item_no, uid))
            elif media.setdefault(uid, item_no) == item_no:
                listed.append((uid, uri or ""))
        means = join_uids([(uid, "") for _, uid in narrated], listed).found
        return {item_no: media[means[uid]] for item_no, uid in narrated if uid in means}

    def _source_kind(self, source: str) -> str:
        declared = self.release.spec.get("sources", {}).get(source, {})
        return str(declared.get("kind", "")) if isinstance(declared, dict) else ""

    def _first_of_each(self, column: str, ranked: Iterator[Ranked]) -> Iterator[Ranked]:
        """Yield the best item of each value of a column; each item without a value forms its own group."""
        seen: set[Any] = set()
        while some := list(islice(ranked, _BATCH)):
            values = self._columns.values_of(column, [item_no for item_no, _ in some])
            for entry, mine in zip(some, values, strict=True):
                if not mine or not seen.issuperset(mine):
                    seen.update(mine)
                    yield entry

    def _counted(self, column: str, ranked: Sequence[Ranked]) -> list[tuple[Any, int]]:
        """Return the values of a column with the number of hits that have them, the most frequent first."""
        values = self._columns.values_of(column, [item_no for item_no, _ in ranked])
        counts = Counter(value for mine in values for value in dict.fromkeys(mine))
        return sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0])))

    def _total(self, asked: Mapping[str, AskedIndex], kept: Filter | None) -> int:
        """Return the number of items with rows in the searched indexes that pass the filters."""
        import numpy as np

        found: NDArray[np.int64] | None = None
        skipped = set[int]()
        for name, question in asked.items():
            feature = self.release.indexes[name].feature
            mine = self._with_rows(feature)
            if kept is not None:
                mine = np.intersect1d(mine, kept.rows(feature).items, assume_unique=True)
            found = mine if found is None else np.union1d(found, mine)
            skipped |= question.skips
        if found is None or not skipped:
            return 0 if found is None else len(found)
        return len(found) - int(np.isin(found, list(skipped)).sum())

    def _with_rows(self, feature: str) -> NDArray[np.int64]:
        """Return the numbers of the items that have rows of a feature."""
        if feature not in self._numbers:
            import polars as pl

            mine = (pl.col("feature") == feature) & (pl.col("rows") > 0)
            rows = self.collected(self._contents.filter(mine).select(pl.col("item_no").unique().sort()))
            self._numbers[feature] = rows["item_no"].to_numpy()
        return self._numbers[feature]

    @cached_property
    def _numbers(self) -> dict[str, NDArray[np.int64]]:
        return {}


_BATCH = 64
