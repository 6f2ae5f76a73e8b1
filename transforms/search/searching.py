"""Search over the indexes of a release: by text, files, items of the store, vectors, and mixtures of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from cliploom.schemas.errors import SpecError, UnknownNameError
from cliploom.schemas.index import INVERTED
from cliploom.transforms.search.filtering import Filter
from cliploom.transforms.search.hits import HitReader
from cliploom.transforms.search.query_model import Answer, Hit, Mode, Query, QueryPart, vector_rows
from cliploom.transforms.store.object_store import existing_store
from cliploom.transforms.store.releases import read_releases

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cliploom.schemas.index import MediaHit
    from cliploom.transforms.search.asking import AskedIndex

__all__ = ["Hit", "Store", "open_store"]

# Facet values are counted among at most this many hits.
FACET_DEPTH = 1000


def open_store(store: str, release: int | None = None) -> Store:
    """Open a store at a release.

    Args:
        store: the folder, ``s3://...`` or ``gs://...`` of the store.
        release: the number of the release; the newest by default.

    Raises:
        StoreError: there is no such store or release.
    """
    objects = existing_store(store)
    releases = read_releases(objects)
    return Store(objects, releases, releases.get(release))


class Store(HitReader):
    """A store at one release, with search; returned by ``cliploom.open``.

    Attributes:
        release: the release that is read.
    """

    def search(
        self,
        text: str | None = None,
        *,
        like: str | Sequence[str] | None = None,
        vector: NDArray[np.float32] | Sequence[float] | None = None,
        not_text: str | Sequence[str] = (),
        not_like: str | Sequence[str] = (),
        weights: Sequence[float] | None = None,
        where: str | None = None,
        in_uid: str | None = None,
        index: Sequence[str] | None = None,
        top: int = 10,
        offset: int = 0,
        rank: str = "max",
        d_miss: float | None = None,
        moments: int = 0,
        group: str | None = None,
        facets: Sequence[str] = (),
        mode: Mode = "vectors",
        min_fit: float | None = None,
    ) -> list[Hit]:
        """Return the items that match a query best; ``ask`` returns further information.

        Args:
            text: a text; searches the indexes over outputs that share a space with the encoder's text tower.
            like: files (local, in a bucket, or at an http(s) URL) or uids of the store, all rows of which form the
                query; with a moment (``UID@12.5s``, ``FILE@1m30s``) only the row on screen then. The item of a uid is
                excluded from the hits; an item with the same bytes as a file is not.
            vector: your own vector, float32 [dim], or the rows of one query, [rows, dim]; searches the indexes over
                outputs of that width.
            not_text: texts that hits should be unlike.
            not_like: files or uids that hits should be unlike.
            weights: the weights of text, each like, vector, each not_text and each not_like, in this order; 1 by
                default.
            where: an SQL expression over ``uid``, ``source``, ``label``, ``duration``, metadata columns, ``start_s``
                and ``end_s``, such as ``"year >= 2020 AND label = 'cat'"``.
            in_uid: the uid of the only item to search.
            index: the indexes to search; by default all that support the query, and for only ``like`` those that
                distinguish pictures best (``pooled`` before ``semantic``). Several lists are merged by reciprocal rank
                fusion.
            top: the number of hits.
            offset: the number of hits to skip.
            rank: ``max`` ranks items by their best row, ``mean`` and ``bimatch`` by all rows; see docs/search.md.
            d_miss: for ``bimatch``, the cost of a row without a match, above 0; by default that of the index, from the
                spec or else 2 for cosine and 2000 for the other metrics.
            moments: the number of stretches to find in each hit.
            group: a metadata column; only the best hit for each of its values is kept.
            facets: the columns whose values ``ask`` counts.
            mode: ``vectors``, ``words`` or ``both``.
            min_fit: the minimum calibrated score of hits.

        Returns:
            At most ``top`` hits, best first.

        Raises:
            SpecError: the query is invalid or not supported; the message names the alternatives.
            StoreError: a required file is missing or damaged.
        """
        parts = self.query_parts(text, like, vector, not_text, not_like, weights)
        names = (index,) if isinstance(index, str) else None if index is None else tuple(index)
        counted = (facets,) if isinstance(facets, str) else tuple(facets)
        page = (top, offset, rank, d_miss, moments, group, counted)
        return list(self.ask(Query(parts, where, in_uid, names, *page, mode, min_fit)).hits)

    def query_parts(
        self,
        text: str | None = None,
        like: str | Sequence[str] | None = None,
        vector: NDArray[np.float32] | Sequence[float] | None = None,
        not_text: str | Sequence[str] = (),
        not_like: str | Sequence[str] = (),
        weights: Sequence[float] | None = None,
    ) -> tuple[QueryPart, ...]:
        """Return the parts of a query from the arguments of ``search``.

        Raises:
            SpecError: there is no part, or the number of weights differs from the number of parts.
        """
        likes, texts, unlikes = _listed(like), _listed(not_text), _listed(not_like)
        count = (text is not None) + len(likes) + (vector is not None) + len(texts) + len(unlikes)
        if weights is not None and len(weights) != count:
            raise SpecError(
                f"{len(weights)} weights are given for {count} parts of a query; give one for each: the text, each "
                "like, the vector, each text and each like that hits should be unlike."
            )
        weight = iter(weights if weights is not None else [1.0] * count)
        parts = [] if text is None else [QueryPart("text", text, None, next(weight))]
        parts += [self.like_part(name, next(weight)) for name in likes]
        if vector is not None:
            parts.append(QueryPart("vector", vector_rows(vector), None, next(weight)))
        parts += [QueryPart("text", words, None, next(weight), negative=True) for words in texts]
        parts += [self.like_part(name, next(weight), negative=True) for name in unlikes]
        if not parts:
            raise SpecError(
                "Search by a text or by --like (a file or uid), or in Python by a vector; neither is given."
            )
        return tuple(parts)

    def ask(self, query: Query) -> Answer:
        """Run a query.

        Raises:
            SpecError: the query is invalid or not supported; the message names the alternatives.
            StoreError: a required file is missing or damaged.
        """
        from cliploom.transforms.search.fit import fit_message, fit_word, with_fit
        from cliploom.transforms.search.ranking import MergedList
        from cliploom.transforms.search.words import WORDS, WordIndex, check_mode, words_among

        started = time.perf_counter()
        text = query.only_text
        check_mode(query.mode, text, self)
        if query.mode == "words":
            names = []
        else:
            names = self.indexes_for_likeness() if self.asks_for_likeness(query) else self._chosen(query.index)
        kept = self._filter(query.where, query.in_uid)
        group = None if query.group is None else self._columns.resolve(query.group, "group by")
        facets = {name: self._columns.resolve(name, "count") for name in query.facets}
        asked = self._asked(query.parts, names, explicit=query.index is not None) if names else {}
        if query.in_uid is not None:
            asked = {name: index.without_skips() for name, index in asked.items()}
        lists = {name: self._ranked(name, index, query.rank, query.d_miss, kept) for name, index in asked.items()}
        if text is not None and query.mode != "vectors" and self.release.words:
            lists[WORDS] = words_among(WordIndex(self).ranked(text), None if kept is None else kept.items)
        merged = MergedList(lists, self._stands_for(asked) if query.moments else None)
        ranked = iter(merged)
        seen: list[tuple[int, float]] = []
        counts = {}
        if facets:
            seen = list(islice(ranked, FACET_DEPTH))
            counts = {name: self._counted(column, seen) for name, column in facets.items()}
        everything = _chained(seen, ranked)
        if group is not None:
            everything = self._first_of_each(group, everything)
        page = list(islice(everything, query.offset, query.offset + query.top))
        hits = self._hits(merged, page)
        if query.moments:
            hits = self._with_moments(hits, [item_no for item_no, _ in page], asked, kept, query.moments)
        hits = self._with_fits(hits, page, query, asked, merged)
        word = fit_word([hit.fit for hit in hits])
        if query.min_fit is not None:
            hits = with_fit(hits, query.min_fit)
        return Answer(
            self.release.release,
            tuple(hits),
            self._total(asked, kept) if asked else None,
            word,
            fit_message(word, query.title),
            facets=counts,
            took_s=time.perf_counter() - started,
        )

    def curve(
        self, uid: str, query: Query | str, index: str | None = None, source: str | None = None
    ) -> list[tuple[float, float, float]]:
        """Return the scores of an item's rows for a query, ordered by time.

        Args:
            uid: the uid of the item.
            query: a query, or a text.
            index: the index to use; by default the first one that supports the query and contains the item.
            source: the source of the item, if several sources have this uid.

        Returns:
            (start_s, end_s, score) of each row that has times.

        Raises:
            SpecError: there is no such item, or no index that supports the query contains it.
        """
        from cliploom.transforms.search.moments import curve_of

        parts = query.parts if isinstance(query, Query) else (QueryPart("text", query),)
        names = self._chosen(query.index if isinstance(query, Query) and index is None else index and (index,))
        items = {row["source"]: row["item_no"] for row in self.items_with(uid=uid).iter_rows(named=True)}
        if not items:
            raise UnknownNameError(self._unknown(uid))
        mine = [name for name in names if (found := self._feature_of(name).source) in items and source in (None, found)]
        if not mine:
            raise SpecError(f"{uid!r} has no rows in the index {names[0]!r}; use one over a feature of its source.")
        for name, asked in self._asked(parts, mine, explicit=index is not None).items():
            scored = self._scored_rows(name, asked, [items[self._feature_of(name).source]], None)
            for rows in scored.values():
                return curve_of(rows)
        return []

    def _filter(self, where: str | None, in_uid: str | None) -> Filter | None:
        """Return a query's filter; recent ones are cached, since all pages of one result use the same."""
        if where is None and in_uid is None:
            return None
        key = where, in_uid
        found = self._filters.pop(key, None) or Filter(self, self._columns, where, in_uid)
        self._filters[key] = found
        for oldest in list(self._filters)[:-_KEPT_FILTERS]:
            self._filters.pop(oldest, None)
        return found

    def _ranked(
        self, name: str, asked: AskedIndex, ranker: str, d_miss: float | None, kept: Filter | None
    ) -> Iterator[MediaHit]:
        """Yield an index's items for a query, best first, without those that the query names."""
        from cliploom.transforms.search.ranking import by_all_rows, by_best_row

        entry, shards = self.release.indexes[name], self._open(name)
        rows = None if kept is None else kept.in_shards(name, shards, entry.feature)
        if ranker == "max":
            return by_best_row(shards, asked.queries, asked.skips, rows)
        rows_of = partial(self._table_rows, name) if entry.kind in INVERTED else None
        miss = entry.d_miss if d_miss is None else d_miss
        return by_all_rows(shards, asked.queries, ranker, miss, asked.skips, rows_of, rows)  # type: ignore[arg-type]


_KEPT_FILTERS = 16


def _listed(names: str | Sequence[str] | None) -> list[str]:
    if names is None:
        return []
    return [names] if isinstance(names, str) else list(names)


def _chained(seen: list[tuple[int, float]], rest: Iterator[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    yield from seen
    yield from rest
