"""Encodes sentences with a tokenizer, an OpenVINO graph and their settings, for text encoders and text towers alike.

A folder has ``text.xml`` (int32 [batch, tokens] ids and, usually, mask to float32 [batch, dim]), ``tokenizer.json`` (or
``words.json``) and ``text.json``. A sentence is padded to a length that depends only on the sentence itself, so that
its vector does not depend on its neighbours; sentences of equal length are computed together.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cliploom.schemas.errors import CliploomError, EncodeError
from cliploom.schemas.models import ModelCard, Precision
from cliploom.transforms.encoders.base import EncodeReport
from cliploom.transforms.encoders.engine import open_engine
from cliploom.transforms.encoders.graph import count, finite_row
from cliploom.transforms.encoders.word_tokens import WORDS, WordTokens

if TYPE_CHECKING:
    from cliploom.transforms.encoders.base import Row

TEXT_GRAPH = "text.xml"
TEXT_SETTINGS = "text.json"
TOKENIZER = "tokenizer.json"
MAX_BATCH = 32
# Of 1, 2, 4, 8 and 16, the fastest for batches of 64 as well as 2,048 narrations: less padding means more shapes.
STEP = 2
RECENT_BYTES = 64_000_000
LONGEST_RECENT = 500


@dataclass(frozen=True)
class TextSettings:
    """How to convert sentences to the graph's input.

    Attributes:
        output: the name of the graph's output.
        max_tokens: the maximum number of tokens, including special ones; longer sentences are truncated.
        step: sentences are padded to a multiple of this many tokens, but at most ``max_tokens``.
        pad_id: the token used for padding.
        masked: whether the graph takes a mask beside the ids.
        pad_left: whether padding comes before the sentence.
        prompt, query_prompt: texts put before each stored sentence, and before each query.
    """

    output: str
    max_tokens: int
    step: int = STEP
    pad_id: int = 0
    masked: bool = True
    prompt: str = ""
    query_prompt: str = ""
    pad_left: bool = False

    def write(self, folder: Path) -> None:
        """Write ``text.json``."""
        (folder / TEXT_SETTINGS).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> TextSettings:
        """Read ``text.json``."""
        return cls(**json.loads((folder / TEXT_SETTINGS).read_text(encoding="utf-8")))


class TextTower:
    """Encodes sentences in the calling thread; thread-safe."""

    def __init__(self, folder: Path, precision: Precision, threads: int = 1, *, kept: bool = False) -> None:
        """Open a folder.

        Args:
            folder: the folder of a prepared model.
            precision: the precision to compute in.
            threads: the number of concurrent callers.
            kept: whether to cache the compiled graph on this machine, so that the next search opens it faster.

        Raises:
            CliploomError: a file is missing or damaged.
        """
        try:
            self.settings = TextSettings.read(folder)
            self._tokenize = _tokenizer(folder, self.settings.max_tokens)
        except Exception as error:  # the tokenizers library raises bare Exception
            raise CliploomError(f"The text model in '{folder}' can't be opened: {error}.") from error
        self._graph = open_engine(folder / TEXT_GRAPH, [self.settings.output], precision, threads, kept=kept)

    def encode(
        self, texts: Sequence[str], report: EncodeReport | None = None, *, query: bool = False
    ) -> NDArray[np.float32]:
        """Return the vectors of sentences.

        Args:
            texts: any texts; an empty one has a vector too.
            report: the report to add the number of truncated texts to.
            query: whether to use the prompt for queries.

        Returns:
            float32 [n, dim].

        Raises:
            EncodeError: a text is not valid Unicode.
        """
        tokens = self._tokens(texts, report, self.settings.query_prompt if query else self.settings.prompt)
        by_length: dict[int, list[int]] = {}
        for i in sorted(range(len(tokens)), key=lambda i: len(tokens[i])):
            by_length.setdefault(self._padded(len(tokens[i])), []).append(i)
        vectors: dict[int, NDArray[np.float32]] = {}
        for length, members in by_length.items():
            for chosen in _halving_batches(members):
                found = self._run([tokens[i] for i in chosen], length)
                vectors.update(zip(chosen, found, strict=True))
        return np.stack([vectors[i] for i in range(len(tokens))]) if tokens else np.zeros((0, self.dim), np.float32)

    @property
    def dim(self) -> int:
        """The length of the vectors."""
        return self._graph.output_shapes[self.settings.output][-1]

    def _tokens(self, texts: Sequence[str], report: EncodeReport | None, prompt: str) -> list[list[int]]:
        found = []
        for text in texts:
            if (refused := refusal(text)) is not None:
                raise refused
            found.append(self._tokenize(prompt + text))
        if report is not None:
            report.truncated += sum(cut for _, cut in found)
        return [ids for ids, _ in found]

    def _padded(self, length: int) -> int:
        return min(-(-max(length, 1) // self.settings.step) * self.settings.step, self.settings.max_tokens)

    def _run(self, tokens: list[list[int]], length: int) -> NDArray[np.float32]:
        ids = np.full((len(tokens), length), self.settings.pad_id, np.int32)
        mask = np.zeros_like(ids)
        for row, sentence in enumerate(tokens):
            begin = length - len(sentence) if self.settings.pad_left else 0
            ids[row, begin : begin + len(sentence)] = sentence
            mask[row, begin : begin + len(sentence)] = 1
        found = self._graph.run([ids, mask] if self.settings.masked else [ids])
        return found[self.settings.output]


def check_shared_space(tower: TextTower, output: str, dims: Mapping[str, int]) -> None:
    """Check that a text tower's vectors are as long as those of the output whose space it shares.

    Raises:
        CliploomError: the lengths differ.
    """
    found = tower.encode(["a cup of coffee", "a much longer sentence about nothing"])
    if found.shape[1] != dims[output]:
        raise CliploomError(
            f"The text tower gives vectors of {found.shape[1]} numbers and the output '{output}' of {dims[output]}; "
            "they share no space."
        )


class RecentSentences:
    """A cache of vectors of recent sentences, shared by the threads of a process: narrations repeat themselves."""

    def __init__(self, most: int) -> None:
        """Keep ``most`` sentences; those longer than ``LONGEST_RECENT`` characters rarely recur and are not kept."""
        self._most = most
        self._lock = threading.Lock()
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def known(self, texts: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Return the cached sentences among these, with their vectors."""
        with self._lock:
            found = {text: self._vectors[text] for text in texts if text in self._vectors}
            for text in found:
                self._vectors.move_to_end(text)
        return found

    def keep(self, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        """Add vectors; evict the least recently used ones."""
        with self._lock:
            self._vectors.update((text, each.copy()) for text, each in vectors.items() if len(text) <= LONGEST_RECENT)
            while len(self._vectors) > self._most:
                self._vectors.popitem(last=False)


class TextEncoder:
    """A text tower as an encoder of stored sentences; see ``base.Encoder``."""

    def __init__(self, folder: Path, card: ModelCard, threads: int) -> None:
        self._tower = TextTower(folder, card.precision, threads)
        self._recent = RecentSentences(RECENT_BYTES // (4 * max(self._tower.dim, 256)))

    def encode(self, batch: Sequence[Any], report: EncodeReport | None = None) -> list[Row | EncodeError]:
        """Encode sentences; one that is not text, or has no finite vector, gives an error for that item."""
        refusals = [refusal(item) for item in batch]
        distinct = dict.fromkeys(text for text, refused in zip(batch, refusals, strict=True) if refused is None)
        vectors = self._recent.known(distinct)
        new = [text for text in distinct if text not in vectors]
        fresh = dict(zip(new, self._tower.encode(new, report), strict=True))
        self._recent.keep(fresh)
        vectors |= fresh
        done: list[Row | EncodeError] = [
            finite_row({self._tower.settings.output: vectors[text]}) if refused is None else refused
            for text, refused in zip(batch, refusals, strict=True)
        ]
        count(report, done)
        return done


def _tokenizer(folder: Path, most: int) -> Callable[[str], tuple[list[int], bool]]:
    """Return a function from a sentence to at most ``most`` ids, and whether it was truncated."""
    if (folder / WORDS).exists():
        return WordTokens.read(folder).ids
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)

    def ids(text: str) -> tuple[list[int], bool]:
        # one by one: encode_batch would start threads beside the workers' own
        encoding = tokenizer.encode(text)
        return encoding.ids, bool(encoding.overflowing)

    return ids


def refusal(item: Any) -> EncodeError | None:
    """Return why an item cannot be encoded as a sentence, or None."""
    if not isinstance(item, str):
        return EncodeError("encode", f"the encoder takes text, not {type(item).__name__}.")
    try:
        item.encode()
    except UnicodeEncodeError:
        return EncodeError("encode", f"{item[:80]!a} holds half a surrogate pair, so it is not Unicode text.")
    return None


def _halving_batches(members: list[int]) -> list[list[int]]:
    """Split into batches of MAX_BATCH, then of the smaller powers of two: few shapes, no padding."""
    batches, begin = [], 0
    while begin < len(members):
        size = min(MAX_BATCH, 1 << ((len(members) - begin).bit_length() - 1))
        batches.append(members[begin : begin + size])
        begin += size
    return batches
