"""Keyword search: finds the texts of a release that share words with a query, ranked by BM25."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from cliploom.schemas.errors import SpecError
from cliploom.schemas.index import MediaHit, RowHit
from cliploom.schemas.records import LABELS_KEY, MAX_ORDINAL, ORDINAL_BITS
from cliploom.transforms.store.cache import cached_file

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from cliploom.transforms.readers.release_tables import ReleaseReader, RowTimes

SearchMode = Literal["vectors", "words", "both"]

WORDS = ":words"
"""Key of the items found by keywords among the lists of indexes; not a valid index name."""

MOST_DOCUMENTS = 20_000
"""Number of best texts that are examined for items and phrases."""
_CHECKED_AT_ONCE = 500


@dataclass(frozen=True)
class WordIndex:
    """The inverted index of a release.

    Attributes:
        store: an open release.
    """

    store: ReleaseReader

    @cached_property
    def _paths(self) -> list[Path]:
        return [cached_file(self.store.objects, shard.file) for shard in self.store.release.words]

    def ranked(self, query: str) -> Iterator[MediaHit]:
        """Return items by their best text, best first; phrases in double quotes must occur verbatim.

        Args:
            query: the words to search for.

        Raises:
            SpecError: the query has no word.
        """
        from cliploom.transforms.index.postings import bm25, phrases_of, words_of

        words, phrases = list(dict.fromkeys(words_of(query))), phrases_of(query)
        if not words:
            raise SpecError(f"The text to search for has no word ({query!r}); give a few words, such as 'a red car'.")
        shards = self.store.release.words
        found = bm25(self._postings(words), sum(s.documents for s in shards), sum(s.words for s in shards))
        needed = {word for phrase in phrases for word in phrase}
        if needed:
            found = found.filter(found["distinct"] >= len(needed))
        seen: set[int] = set()
        for block in found.head(MOST_DOCUMENTS).iter_slices(_CHECKED_AT_ONCE):
            kept = self._with_phrases(block["doc"].to_list(), phrases) if phrases else None
            for doc, score in block.select("doc", "score").iter_rows():
                item_no = doc >> ORDINAL_BITS
                if item_no not in seen and (kept is None or doc in kept):
                    seen.add(item_no)
                    yield MediaHit(item_no, score, RowHit(doc, score, -score), 1)

    def times(self, docs: list[int]) -> dict[int, RowTimes]:
        """Return start_s, end_s and frame of texts; a text about a whole item has no time."""
        times = {doc: (start_s, end_s, None) for doc, start_s, end_s, _ in self._narrations(docs)}
        return {doc: times.get(doc, (None, None, None)) for doc in docs}

    def _postings(self, words: list[str]) -> pl.DataFrame:
        import polars as pl

        from cliploom.schemas.tables import empty_table
        from cliploom.transforms.index.postings import SCHEMA

        if not self._paths:
            return pl.DataFrame(empty_table(SCHEMA))
        return self.store.collected(pl.scan_parquet(self._paths, glob=False).filter(pl.col("word").is_in(words)))

    def _with_phrases(self, docs: list[int], phrases: list[list[str]]) -> set[int]:
        """Return the texts that contain all phrases."""
        from cliploom.transforms.index.postings import has_phrase, words_of

        texts = {doc: text for doc, _, _, text in self._narrations(docs)} | self._about_items(docs)
        cut = {doc: words_of(text) for doc, text in texts.items()}
        return {doc for doc, words in cut.items() if all(has_phrase(words, phrase) for phrase in phrases)}

    def _narrations(self, docs: list[int]) -> list[tuple[int, float | None, float | None, str]]:
        spoken = [doc for doc in docs if doc & MAX_ORDINAL != MAX_ORDINAL]
        if not spoken:
            return []
        return self.store.narration_rows(spoken)

    def _about_items(self, docs: list[int]) -> dict[int, str]:
        from cliploom.transforms.index.postings import item_text

        numbers = [doc >> ORDINAL_BITS for doc in docs if doc & MAX_ORDINAL == MAX_ORDINAL]
        if not numbers:
            return {}
        rows = self.store.items_with(numbers=numbers).to_dicts()
        labels = self.store.item_labels(numbers, [row["uid"] for row in rows])
        found = {}
        for row in rows:
            mine = labels.get((row["source"], row["uid"]), ())
            names = sorted({label.name for label in mine if label.name})
            found[(row["item_no"] << ORDINAL_BITS) + MAX_ORDINAL] = item_text(row["metadata"], names, LABELS_KEY)
        return found


def words_among(ranked: Iterator[MediaHit], items: NDArray[np.int64] | None) -> Iterator[MediaHit]:
    """Yield the items of a ranked list that pass a filter; all of them without a filter.

    Args:
        ranked: the ranked list, best first.
        items: the numbers of the items that may be found, ascending.
    """
    if items is None:
        return ranked
    kept = set(items.tolist())
    return (media for media in ranked if media.item_no in kept)


def check_mode(mode: str, text: str | None, store: ReleaseReader) -> None:
    """Reject a mode that cannot be used.

    Raises:
        SpecError: the mode is unknown, needs a text, or the release has no texts.
    """
    if mode not in ("vectors", "words", "both"):
        raise SpecError(f"The mode {mode!r} is unknown; use vectors, words or both.")
    if mode != "vectors" and text is None:
        raise SpecError(f"Mode {mode!r} searches for words; give a text, or remove the mode.")
    if mode == "words" and not store.release.words:
        raise SpecError(
            f"Release {store.release.release} has no words to search: no narrations, labels or columns of text, or it "
            "was made by an older version; run again after the next change, or search by vectors."
        )
