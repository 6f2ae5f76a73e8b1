"""Word vectors (fastText, GloVe, word2vec) as a text encoder: a phrase is the mean of its known words."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from cliploom.schemas.digests import SHORT, digest_of
from cliploom.schemas.errors import CliploomError, EncodeError
from cliploom.schemas.models import Modality, ModelCard, Output
from cliploom.transforms.encoders.base import Encoder, EncodeReport, EncoderOptions, Family, PreparedText, TextQueries
from cliploom.transforms.encoders.weights import beside, bytes_of, sha256_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cliploom.transforms.encoders.base import Row
    from cliploom.transforms.encoders.word_table import WordTable

OUTPUT = "embedding"
_MOST_TOLD = 1000
"""Maximum number of unknown words for which an opened model looks up similar words."""


class UnknownWordsWarning(UserWarning):
    """Some words of a query have no vector; only the others are searched for."""


class WordVectorsOptions(EncoderOptions):
    """Options of ``word_vectors``.

    Attributes:
        model: the file: fastText ``.vec``, GloVe or word2vec as text, optionally gzipped.
    """

    VALUE_FREE: ClassVar[frozenset[str]] = frozenset({"model", "precision"})
    model: str = Field(min_length=1)


class WordVectors(Family):
    """One output, ``embedding``: the mean of the vectors of a phrase's known words."""

    kind = "word_vectors"
    Options: ClassVar[type[EncoderOptions]] = WordVectorsOptions

    def modality(self, options: WordVectorsOptions) -> Modality:
        """Return sentences."""
        return "text"

    def output_names(self, options: WordVectorsOptions, text: bool) -> tuple[str, ...]:
        """Return the one output."""
        return (OUTPUT,)

    def located(self, options: WordVectorsOptions, base: Path) -> WordVectorsOptions:
        """Return the file from the spec's folder."""
        return options.model_copy(update={"model": beside(base, options.model)})

    def fingerprint(self, options: WordVectorsOptions) -> dict[str, str]:
        """Return the hash of the file."""
        path = Path(options.model).expanduser()
        if not path.is_file():
            raise CliploomError(f"There is no file of word vectors '{options.model}'; give its path.")
        return {"words": sha256_of(path)}

    def foreign_bytes(self, options: WordVectorsOptions) -> int:
        """Return the bytes of the file, which may be compressed."""
        return bytes_of(Path(options.model).expanduser())

    def prepare(self, options: WordVectorsOptions, folder: Path, text: PreparedText | None) -> ModelCard:
        """Convert the file to a memory-mapped table; see ``Family.prepare``."""
        from cliploom.transforms.encoders.word_table import WORDS, write_table

        dim = write_table(Path(options.model).expanduser(), folder)
        card = self.card(options, {OUTPUT: Output(dim=dim, space="", text=True)}, text_tower=WORDS)
        space = f"{self.kind}/{digest_of(card.sources)[:SHORT]}"
        return replace(card, outputs={OUTPUT: Output(dim=dim, space=space, text=True)})

    def open(self, folder: Path, card: ModelCard, threads: int) -> Encoder:
        """Open the table."""
        from cliploom.transforms.encoders.word_table import WordTable

        return WordEncoder(Phrases(WordTable(folder)))

    def text_tower(self, folder: Path, card: ModelCard) -> TextQueries:
        """Open the table."""
        from cliploom.transforms.encoders.word_table import WordTable

        return WordQueries(Phrases(WordTable(folder)))

    def class_text(self, names: Sequence[str]) -> str:
        """Return all names of a class: its vector is the mean over those with a vector."""
        return ", ".join(names)


class WordEncoder:
    """Encodes stored phrases; see ``base.Encoder``."""

    def __init__(self, phrases: Phrases) -> None:
        self._phrases = phrases

    def encode(self, batch: Sequence[Any], report: EncodeReport | None = None) -> list[Row | EncodeError]:
        """Encode phrases; one without a known word gives an error for that item."""
        from cliploom.transforms.encoders.graph import count

        done: list[Row | EncodeError] = []
        for phrase in batch:
            try:
                done.append({OUTPUT: self._phrases.vector(phrase)[0]})
            except EncodeError as error:
                done.append(error)
        count(report, done)
        return done


class WordQueries:
    """Encodes phrases of queries; see ``base.TextQueries``."""

    def __init__(self, phrases: Phrases) -> None:
        self._phrases = phrases

    def encode(
        self, texts: Sequence[str], report: EncodeReport | None = None, *, query: bool = False
    ) -> NDArray[np.float32]:
        """Return the vectors of phrases, float32 [n, dim].

        Raises:
            EncodeError: a phrase has no known word.
        """
        import numpy as np

        found = [self._phrases.vector(phrase) for phrase in texts]
        for phrase, (_, unknown) in zip(texts, found, strict=True):
            if unknown:
                said = "; ".join(self._phrases.unknown(word) for word in unknown)
                warnings.warn(f"Only a part of {phrase!r} has vectors: {said}.", UnknownWordsWarning, stacklevel=2)
        return np.stack([vector for vector, _ in found])


class Phrases:
    """Vectors of phrases from a table of words; thread-safe."""

    def __init__(self, table: WordTable) -> None:
        self._table = table
        self._told: dict[str, str] = {}

    def vector(self, phrase: Any) -> tuple[NDArray[np.float32], list[str]]:
        """Return the mean of the known words, and the unknown words.

        Raises:
            EncodeError: no word is known.
        """
        import numpy as np

        from cliploom.transforms.encoders.text import refusal

        if (refused := refusal(phrase)) is not None:
            raise refused
        whole = [self._known(name) for name in names_of(phrase)]
        vectors, unknown = [vector for vector in whole if vector is not None], []
        if not vectors:
            for word in words_of(phrase):
                vector = self._known(word)
                if vector is None:
                    unknown.append(word)
                else:
                    vectors.append(vector)
        if not vectors:
            said = "; ".join(self.unknown(word) for word in unknown[:3]) or "it holds no word"
            raise EncodeError("encode", f"no word of {phrase[:80]!r} has a vector: {said}.")
        return np.asarray(np.mean(vectors, axis=0, dtype=np.float64), np.float32), unknown

    def _known(self, word: str) -> NDArray[np.float32] | None:
        """Return the vector of a word in lower case, else in its original spelling."""
        found = self._table.vector(word.lower())
        return self._table.vector(word) if found is None else found

    def unknown(self, word: str) -> str:
        """Return a message that a word has no vector, with similar words that do."""
        if word not in self._told and len(self._told) < _MOST_TOLD:
            # Finding similar words takes long, and many phrases may share an unknown word.
            near = self._table.nearest(word.lower())
            self._told[word] = f"{word!r} is not known" + (f" (near: {', '.join(near)})" if near else "")
        return self._told.get(word, f"{word!r} is not known")


def names_of(phrase: str) -> list[str]:
    """Return the names in a class's name, in the spelling of word vectors.

    >>> names_of("Tiger shark, Galeocerdo cuvieri")
    ['Tiger-shark', 'Galeocerdo-cuvieri']
    """
    return [name for name in "-".join(phrase.split()).split(",-") if name]


def words_of(phrase: str) -> list[str]:
    """Return the words of a phrase.

    >>> words_of("A dog's ball, half-eaten.")
    ['A', "dog's", 'ball', 'half', 'eaten']
    """
    return re.findall(r"\w+(?:'\w+)*", phrase.replace("\u2019", "'"))
