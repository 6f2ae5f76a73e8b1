"""Search over the indexes of a release: by words, by a file, or by an item of the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, get_args

from cliploom.schemas.errors import SpecError, StoreError, nearest
from cliploom.schemas.records import ORDINAL_BITS
from cliploom.schemas.release import FeatureEntry
from cliploom.transforms.readers.release_tables import ItemLabel, Moment, ReleaseReader
from cliploom.transforms.store.object_store import existing_store
from cliploom.transforms.store.releases import read_releases

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cliploom.schemas.index import MediaHit
    from cliploom.transforms.index.search import OpenShard
    from cliploom.transforms.search.fit import IndexFit
    from cliploom.transforms.search.query import Like
    from cliploom.transforms.search.words import SearchMode

_FEW_UIDS = 20


@dataclass(frozen=True)
class Hit:
    """An item that answers a query, with its best moment.

    Attributes:
        index: whose list put it highest.
        score: larger is better: the ranker's score, or that of reciprocal rank fusion when several indexes were asked.
        start_s, end_s: the best row's stretch, seconds from the item's start.
        frame: index in the file of the best row's (first) frame.
        metadata: further columns of the table that listed the item.
        release: that answered.
        text: of the row, where rows are sentences.
        labels: of the item, given ones first, then those that trained heads predict, the most probable first.
        fit: how good the best row is for the query, 0 to 1, on one scale for all queries; 0.5 is what the best of
            unrelated queries reach. None where the index has no scales, and for vectors of the caller's.
    """

    index: str
    source: str
    uid: str
    score: float
    start_s: float | None
    end_s: float | None
    frame: int | None
    uri: str
    metadata: dict[str, Any] = field(default_factory=dict)
    release: int = 0
    text: str = ""
    labels: tuple[ItemLabel, ...] = ()
    fit: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with stable keys."""
        return asdict(self)


def open_store(store: str, release: int | None = None) -> Store:
    """Open a store at a release.

    Args:
        store: a folder, ``s3://...`` or ``gs://...``.
        release: its number; the newest by default.

    Raises:
        StoreError: when there is no store, or no such release.
    """
    objects = existing_store(store)
    releases = read_releases(objects)
    return Store(objects, releases, releases.get(release))


class Store(ReleaseReader):
    """A store at one release, with search; ``cliploom.open`` gives one."""

    @cached_property
    def _shards(self) -> dict[str, list[OpenShard]]:
        """Index files that are open, by index."""
        return {}

    @cached_property
    def _opened_fits(self) -> dict[str, IndexFit]:
        """Scales of fits by index."""
        return {}

    def search(
        self,
        text: str | None = None,
        *,
        like: str | None = None,
        vector: NDArray[np.float32] | Sequence[float] | None = None,
        index: Sequence[str] | None = None,
        top: int = 10,
        rank: str = "max",
        d_miss: float | None = None,
        min_fit: float | None = None,
        mode: SearchMode = "vectors",
    ) -> list[Hit]:
        """The items that answer a query best.

        Args:
            text: words; asks the indexes over outputs that the encoder's text tower writes into.
            like: a file (local or in a bucket) or a uid of the store, of which all rows are the query; with a moment
                (``UID@12.5s``, ``FILE@1m30s``) the row on screen then. The item that a uid names is not among the
                hits; the item that has the file's bytes is.
            vector: one that the caller made, float32 [dim], or the rows of one query, [rows, dim]; asks the indexes
                over outputs of that width.
            index: which indexes; by default all that can be asked, and with ``like`` those of
                ``indexes_for_likeness``. Several lists are merged by reciprocal rank fusion.
            top: how many hits.
            rank: ``max``, ``mean`` or ``bimatch``: an item's best row, or all of its rows; see docs/search.md.
            d_miss: for ``bimatch``: what a row without a match costs, above 0; by default the index's, which is the
                spec's, or 2 for cosine and 2000 for the other metrics.
            min_fit: leave out hits of a smaller fit (0 to 1).
            mode: ``vectors``: what the indexes find for a text; ``words``: texts that share words with it, by BM25;
                ``both``: the two merged. See docs/search.md.

        Returns:
            At most ``top`` hits, best first.

        Raises:
            SpecError: for a query that can't be asked; the message says what could be.
            StoreError: when a file that is needed is missing or damaged.
        """
        from cliploom.transforms.search.fit import fits_of_items, with_fit
        from cliploom.transforms.search.ranking import merged
        from cliploom.transforms.search.words import WORDS, WordIndex, check_mode

        self._check(text, like, vector is not None, top, rank, d_miss)
        check_mode(mode, text, self)
        names = [] if mode == "words" else self._chosen(index)
        skips: dict[str, int] = {}
        if vector is not None:
            queries = self._by_vector(vector, names, explicit=index is not None)
        elif mode == "words":
            queries = {}
        elif text is not None:
            queries = self._by_text(text, names, explicit=index is not None)
        else:
            names = names if index is not None else self.indexes_for_likeness()
            queries, skips = self._by_example(str(like), names, explicit=index is not None)
        lists = {name: self._ranked(name, vectors, rank, d_miss, skips.get(name)) for name, vectors in queries.items()}
        if text is not None and mode != "vectors" and self.release.words:
            lists[WORDS] = WordIndex(self).ranked(text)
        taken, scores = merged(lists, top)
        hits = self._hits(taken, scores)
        if vector is None:
            fits = fits_of_items(self._fits(list(taken)), "rows" if text is None else "text", queries, taken)
            hits = [replace(hit, fit=fits.get(item_no)) for hit, (item_no, _) in zip(hits, scores, strict=True)]
        return hits if min_fit is None else with_fit(hits, min_fit)

    def _check(
        self, text: str | None, like: str | None, vector: bool, top: int, rank: str, d_miss: float | None
    ) -> None:
        from cliploom.transforms.index.rank import Ranker

        given = (text is not None) + (like is not None) + vector
        if given != 1:
            said = ("neither is given", "", "both are given", "all are given")[given]
            raise SpecError(f"Search by a text or by --like (a file or uid), or in Python by a vector; {said}.")
        for name, value in (("text", text), ("like", like)):
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise SpecError(f"The {name} to search for is empty ({value!r}); give a few words, a file or a uid.")
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise SpecError(f"top is {top!r}; ask for at least 1 hit.")
        if rank not in get_args(Ranker):
            raise SpecError(f"There is no ranker {rank!r}{nearest(str(rank), get_args(Ranker))}")
        if d_miss is not None and (isinstance(d_miss, bool) or not isinstance(d_miss, int | float)):
            raise SpecError(f"d_miss is {d_miss!r}; give a number above 0, such as 2.0.")
        if d_miss is not None and not 0 < d_miss < float("inf"):
            raise SpecError(f"d_miss is {d_miss}; it must be a number above 0, such as 2.0.")
        if d_miss is not None and rank != "bimatch":
            raise SpecError(f"d_miss is for the ranker bimatch, not for {rank!r}; add --rank bimatch, or leave it out.")

    def _chosen(self, index: Sequence[str] | None) -> list[str]:
        known = self.release.indexes
        if not known:
            feature = next(iter(self.release.features), "FEATURE")
            raise SpecError(
                f"Release {self.release.release} has no index to search; add one to the spec, such as indexes: "
                f"{{{feature}: {{feature: {feature}}}}}, and run again: no feature is computed for it."
            )
        if isinstance(index, str):
            index = [index]
        for name in index or ():
            if name not in known:
                raise SpecError(f"There is no index {name!r}{nearest(str(name), known)}")
        return list(dict.fromkeys(index)) if index else sorted(known)

    def indexes_for_likeness(self) -> list[str]:
        """Return the indexes that a search by a file or item asks when none is named.

        An output that no text can ask (``pooled``) tells pictures apart better than one that was moved into the space
        of sentences (``semantic``): of a feature that has indexes over both, only the first are asked.
        """
        plain = {entry.feature for name, entry in self.release.indexes.items() if not self._takes_text(name)}
        return [
            name
            for name, entry in sorted(self.release.indexes.items())
            if entry.feature not in plain or not self._takes_text(name)
        ]

    def _by_text(self, text: str, names: list[str], *, explicit: bool) -> dict[str, NDArray[np.float32]]:
        from cliploom.transforms.search.query import text_vectors

        able = [name for name in names if self._takes_text(name)]
        if not able or (explicit and len(able) < len(names)):
            name = next(name for name in names if name not in able)
            raise SpecError(self._no_text(name))
        by_model: dict[str, NDArray[np.float32]] = {}
        for name in able:
            model = self._feature_of(name).model
            if model not in by_model:
                by_model[model] = text_vectors(self._objects, model, text)
        return {name: by_model[self._feature_of(name).model] for name in able}

    def _by_vector(
        self, vector: NDArray[np.float32] | Sequence[float], names: list[str], *, explicit: bool
    ) -> dict[str, NDArray[np.float32]]:
        import numpy as np

        try:
            rows = np.atleast_2d(np.asarray(vector, np.float32))
        except (TypeError, ValueError) as error:
            raise SpecError(f"The vector to search for is no list of numbers ({error}).") from None
        if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
            raise SpecError(f"The vector to search for has the shape {list(rows.shape)} or values that are not finite.")
        widths = {name: self._feature_of(name).outputs[self.release.indexes[name].output].dim for name in names}
        able = [name for name in names if widths[name] == rows.shape[1]]
        if not able or (explicit and len(able) < len(names)):
            name = next(name for name in names if name not in able)
            raise SpecError(
                f"The index {name!r} holds vectors of {widths[name]} numbers; the one given has {rows.shape[1]}."
            )
        return dict.fromkeys(able, rows)

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
            mend = f"ask the index {' or '.join(could)}"
        elif outputs:
            mend = f"add an index over {' or '.join(outputs)}"
        else:
            mend = "give the encoder a text_encoder, such as one of kind minilm, or search with --like"
        return (
            f"The index {name!r} is over {entry.output!r} of encoder {encoder!r}, whose space no text can ask; {mend}."
        )

    def _by_example(
        self, like: str, names: list[str], *, explicit: bool
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, int]]:
        """Query vectors by index, and by index the item that is left out of the hits."""
        from cliploom.transforms.search.query import Like, file_vectors, query_file, sampling_of, split_moment

        candidates = [Like(like)]
        if "@" in like:
            candidates += [split_moment(like)] if self._names_something(like.rpartition("@")[0]) else []
        for candidate in candidates:
            # A local file goes before an item; what looks like an address is asked for only where no item has it.
            found = self._item_vectors(candidate, names, explicit=explicit) if "://" in candidate.name else None
            if found is not None:
                return found
            with query_file(candidate.name) as path:
                if path is not None:
                    able = names if explicit else [n for n in names if sampling_of(self._feature_of(n)) is not None]
                    made: dict[tuple[str, str], NDArray[np.float32]] = {}
                    for name in able:
                        key = (self.release.indexes[name].feature, self.release.indexes[name].output)
                        if key not in made:
                            made[key] = file_vectors(
                                self._objects, self._feature_of(name), key[1], path, candidate.at_s, candidate.name
                            )
                    entries = self.release.indexes
                    return {name: made[entries[name].feature, entries[name].output] for name in able}, {}
            found = self._item_vectors(candidate, names, explicit=explicit)
            if found is not None:
                return found
        raise SpecError(self._unknown(candidates[-1].name))

    def _names_something(self, name: str) -> bool:
        """Whether what stands before an ``@`` is a file or a uid; only then the rest is taken for a time."""
        from cliploom.transforms.search.query import query_file

        with query_file(name) as path:
            return path is not None or self.items_with(uid=name).height > 0

    def _item_vectors(
        self, like: Like, names: list[str], *, explicit: bool
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, int]] | None:
        """The vectors of an item of the store; None when no item has this uid."""
        from cliploom.transforms.search.query import rows_at
        from cliploom.transforms.store.parts import arrow_to_vectors

        items = dict(self.items_with(uid=like.name).select("source", "item_no").rows())
        if not items:
            return None
        vectors: dict[str, NDArray[np.float32]] = {}
        skips: dict[str, int] = {}
        for name in names:
            entry, feature = self.release.indexes[name], self._feature_of(name)
            if feature.source not in items:
                continue
            rows = self.rows_of(entry.feature, items[feature.source], entry.output)
            if rows.height:
                if like.at_s is not None:
                    rows = rows_at(rows, like.at_s, like.name)
                skips[name] = items[feature.source]
                vectors[name] = arrow_to_vectors(rows[entry.output].to_arrow(), feature.outputs[entry.output].dim)
        if not vectors or (explicit and len(vectors) < len(names)):
            name = next(name for name in names if name not in vectors)
            raise SpecError(
                f"{like.name!r} has no rows in the index {name!r}, so it can't be searched by; `cliploom failures` may "
                "say why."
            )
        return vectors, skips

    def _unknown(self, name: str) -> str:
        uids = self.collected(self.items.select("uid"))["uid"].to_list()
        same = [uid for uid in uids if uid.rpartition("/")[2] == name.rpartition("/")[2].partition(".")[0]]
        hint = f"; did you mean {same[0]!r}?" if same else nearest(name, uids)
        # All uids of a store would be too long a list.
        hint = hint if "did you mean" in hint or len(uids) <= _FEW_UIDS else "; give another."
        return f"{name!r} is neither a file nor a uid of release {self.release.release}{hint}"

    def _ranked(
        self, name: str, queries: NDArray[np.float32], ranker: str, d_miss: float | None, skip: int | None
    ) -> Iterator[MediaHit]:
        """An index's items for a query, best first, without the item ``skip``."""
        from cliploom.transforms.search.ranking import by_all_rows, by_best_row

        entry, shards = self.release.indexes[name], self._open(name)
        if ranker == "max":
            return by_best_row(shards, queries, skip)
        rows_of = partial(self._table_rows, name) if entry.kind == "ivf_sq8" else None
        return by_all_rows(shards, queries, ranker, entry.d_miss if d_miss is None else d_miss, skip, rows_of)  # type: ignore[arg-type]

    def _table_rows(
        self, name: str, items: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Row ids and vectors of some items from the feature's table: lists keep one byte for each number."""
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
            from cliploom.transforms.index.search import open_shard
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

    def _fits(self, names: Sequence[str]) -> dict[str, IndexFit]:
        """The scales of those indexes that have some."""
        from cliploom.transforms.search.fit import open_fit

        for name in self.release.indexes.keys() & set(names):
            entry = self.release.indexes[name]
            if entry.fit is not None and name not in self._opened_fits:
                dim = self._feature_of(name).outputs[entry.output].dim
                self._opened_fits[name] = open_fit(self._objects, entry.fit, dim)
        return {name: self._opened_fits[name] for name in names if name in self._opened_fits}

    def _hits(self, lists: dict[str, list[MediaHit]], scores: Sequence[tuple[int, float]]) -> list[Hit]:
        places = {name: {media.item_no: place for place, media in enumerate(ranked)} for name, ranked in lists.items()}
        leaders = {
            item_no: min((found[item_no], name) for name, found in places.items() if item_no in found)
            for item_no, _ in scores
        }
        best = {item_no: (name, lists[name][place].best) for item_no, (place, name) in leaders.items()}
        by_list: dict[str, list[int]] = {}
        for name, row in best.values():
            by_list.setdefault(name, []).append(row.row_id)
        moments = {name: self._moments_in(name, rows) for name, rows in by_list.items()}
        texts = self.texts([row.row_id for _, row in best.values()])
        items = {row["item_no"]: row for row in self.items_with(numbers=best).iter_rows(named=True)}
        labels = self.item_labels(items, [row["uid"] for row in items.values()])
        hits = []
        for item_no, score in scores:
            name, row = best[item_no]
            moment = moments[name].get(row.row_id)
            if item_no not in items or moment is None:
                raise StoreError(
                    f"The index {name!r} has row {row.row_id}, which release {self.release.release} does not; "
                    "`cliploom verify` lists all damage."
                )
            item = items[item_no]
            metadata = json.loads(item["metadata"] or "{}")
            place = name.removeprefix(":"), item["source"], item["uid"], score, *moment
            text = texts.get(row.row_id, "")
            said = labels.get((item["source"], item["uid"]), ())
            hits.append(Hit(*place, item["uri"], metadata, self.release.release, text, said))
        return hits

    def _moments_in(self, name: str, rows: list[int]) -> dict[int, Moment]:
        from cliploom.transforms.search.words import WORDS, WordIndex

        return (
            WordIndex(self).moments(rows) if name == WORDS else self.moments(self.release.indexes[name].feature, rows)
        )

    def _feature_of(self, index: str) -> FeatureEntry:
        return self.release.features[self.release.indexes[index].feature]
