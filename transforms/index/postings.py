"""An inverted index of texts: the words of each document with their counts, and BM25 scores.

Words are runs of letters and digits in lower case after compatibility normalisation (NFKC); each character of scripts
without spaces is a word. A shard is a Parquet file sorted by word, so a query reads only the row groups of its words.

BM25 as in Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with Lucene's
inverse document frequency, which is never negative.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom.schemas.digests import digest_stream

REVISION = 1
"""Increase it when tokenisation changes; part of the name of every shard."""

K1, B = 1.2, 0.75
SCHEMA = pa.schema(
    [
        pa.field("word", pa.string(), nullable=False),
        pa.field("doc", pa.int64(), nullable=False),
        pa.field("times", pa.uint32(), nullable=False),
        pa.field("length", pa.uint32(), nullable=False),
    ]
)
"""``length`` is the number of words in the document."""

_WORD = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]|[[\p{L}\p{M}\p{N}]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]]+"
_GROUP_ROWS = 32_768
_COUNTS = b"words"
_PHRASE = re.compile(r'"([^"]*)"')


def words_expression(column: str) -> pl.Expr:
    """Return an expression for the words of a column of texts, a list for each."""
    return pl.col(column).str.normalize("NFKC").str.to_lowercase().str.extract_all(_WORD)


def words_of(text: str) -> list[str]:
    """Return the words of a text in order.

    >>> words_of("Don't STOP: ﬁle 7, 猫!")
    ['don', 't', 'stop', 'file', '7', '猫']
    """
    clean = text.encode("utf-8", "replace").decode()
    found: list[str] = pl.DataFrame({"text": [clean]}).select(words_expression("text"))["text"].to_list()[0]
    return found


def phrases_of(text: str) -> list[list[str]]:
    """Return the words of each double-quoted part of a query.

    >>> phrases_of('red "fire engine" in "the snow"')
    [['fire', 'engine'], ['the', 'snow']]
    """
    return [words for words in map(words_of, _PHRASE.findall(text)) if words]


def has_phrase(words: list[str], phrase: list[str]) -> bool:
    """Return whether the words contain the phrase as consecutive words.

    >>> has_phrase(["a", "red", "fire", "engine"], ["fire", "engine"]), has_phrase(["fire", "red"], ["red", "fire"])
    (True, False)
    """
    return any(words[at : at + len(phrase)] == phrase for at in range(len(words) - len(phrase) + 1))


def item_text(metadata: str | None, labels: Iterable[str], skip: str) -> str:
    """Return one text from an item's table columns: captions and other strings of its metadata, and its labels.

    Args:
        metadata: the metadata as a JSON object, as in the items table.
        labels: the names of the labels.
        skip: a key of the metadata to omit.
    """
    found = json.loads(metadata or "{}")
    values = [value for key, value in found.items() if key != skip] if isinstance(found, dict) else []
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return " . ".join([*(text for text in texts if isinstance(text, str)), *labels])


def documents_digest(documents: pl.DataFrame) -> str:
    """Return the digest that names a shard, of its documents (doc int64, text) sorted by doc."""
    texts = documents["text"]
    lengths = texts.str.len_bytes().to_numpy().astype("<i8")
    chunks = (str(REVISION).encode(), documents["doc"].to_numpy().astype("<i8").tobytes(), lengths.tobytes())
    return digest_stream([*chunks, *(text.encode() for text in texts)])


def write_postings(documents: pl.DataFrame, path: Path) -> None:
    """Write the shard of documents (doc int64, text)."""
    cut = documents.lazy().select("doc", words_expression("text").alias("word"))
    cut = cut.with_columns(pl.col("word").list.len().alias("length")).filter(pl.col("length") > 0)
    counted = cut.explode("word").group_by("word", "doc").agg(pl.len().alias("times"), pl.col("length").first())
    postings = counted.sort("word", "doc").select(SCHEMA.names).collect()
    lengths = postings.select("doc", "length").unique()
    counts = {"documents": lengths.height, "words": int(lengths["length"].sum() or 0)}
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", store_schema=False) as writer:
        writer.write_table(postings.to_arrow().cast(SCHEMA), row_group_size=_GROUP_ROWS)
        writer.add_key_value_metadata({_COUNTS.decode(): json.dumps(counts)})


def counts_of(path: Path) -> tuple[int, int]:
    """Return the number of documents and of words in a shard."""
    counts = json.loads((pq.read_metadata(path).metadata or {})[_COUNTS])
    return counts["documents"], counts["words"]


def bm25(postings: pl.DataFrame, documents: int, words: int) -> pl.DataFrame:
    """Return the documents that contain any word of the query: doc, score, distinct (words), best first.

    Args:
        postings: the postings of the query's words in all shards.
        documents: the total number of documents in all shards.
        words: the total number of words in all documents.
    """
    mean = max(1e-9, words / max(1, documents))
    times = pl.col("times").cast(pl.Float64)
    df = pl.len().over("word").cast(pl.Float64)
    weight = ((documents - df + 0.5) / (df + 0.5) + 1).log()
    part = weight * times * (K1 + 1) / (times + K1 * (1 - B + B * pl.col("length") / mean))
    scored = postings.select("doc", part.alias("score"))
    summed = scored.group_by("doc").agg(pl.col("score").sum(), pl.len().alias("distinct"))
    return summed.sort("score", "doc", descending=[True, False])
