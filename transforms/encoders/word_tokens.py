r"""Converts sentences to word numbers with a vocabulary, as text towers did before subword tokenizers.

The rules are those of TensorFlow's string operations, computed by the same engine where there is a choice: regular
expressions by RE2 (through Arrow), whose ``\w`` is ASCII.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cliploom.schemas.errors import CliploomError

WORDS = "words.json"


@dataclass(frozen=True)
class Step:
    r"""One change to the whole sentence.

    Attributes:
        kind: ``ascii`` and ``unicode`` convert letters to lower case, ``replace`` replaces matches of a pattern.
        pattern: a regular expression of RE2.
        rewrite: the replacement; ``\1`` is the first group.
        everywhere: whether to replace all matches, or only the first.
    """

    kind: Literal["ascii", "unicode", "replace"]
    pattern: str = ""
    rewrite: str = ""
    everywhere: bool = True


@dataclass(frozen=True)
class WordRules:
    """The rules that convert a sentence to numbers.

    Attributes:
        tokens: the number of words that sentences are truncated or padded to.
        steps: the changes applied to the sentence first, in this order.
        split: the separator of words; any white space if empty.
        keep_empty: whether an empty string between two separators is a word.
        any_of: whether ``split`` is a set of separator characters.
        unknown: the number for a word that is not in the vocabulary; None drops it.
        pad_id: the number used for padding.
    """

    tokens: int
    steps: tuple[Step, ...] = ()
    split: str = ""
    keep_empty: bool = False
    any_of: bool = False
    unknown: int | None = 0
    pad_id: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> WordRules:
        """Create rules from the result of ``to_dict``."""
        return cls(**{**value, "steps": tuple(Step(**each) for each in value["steps"])})


class WordTokens:
    """A vocabulary with its rules."""

    def __init__(self, words: Mapping[str, int], rules: WordRules) -> None:
        """Store a vocabulary.

        Raises:
            CliploomError: a regular expression is not valid in RE2.
        """
        self._ids, self.rules = dict(words), rules
        self._any_of = re.compile(f"[{re.escape(rules.split)}]".encode()) if rules.any_of and rules.split else None
        self.words("")

    @property
    def known(self) -> Collection[str]:
        """The words of the vocabulary."""
        return self._ids.keys()

    def ids(self, text: str) -> tuple[list[int], bool]:
        r"""Return the numbers of a sentence without padding, and whether it was truncated.

        >>> rules = WordRules(3, (Step("ascii"), Step("replace", r"[^\w\s']+")), split=" ")
        >>> WordTokens({"playing": 1, "guitar": 2}, rules).ids("Playing the GUITAR, loudly!")
        ([1, 0, 2], True)
        """
        unknown = self.rules.unknown
        found = [self._ids.get(word, unknown) for word in self.words(text)]
        kept = [number for number in found if number is not None]
        return kept[: self.rules.tokens], len(kept) > self.rules.tokens

    def words(self, text: str) -> list[str]:
        """Return the words of a sentence, before they are looked up."""
        import pyarrow as pa

        value: Any = pa.scalar(text)
        for step in self.rules.steps:
            value = _changed(value, step)
        return [word.decode("utf-8", "surrogateescape") for word in self._split(value.as_py().encode())]

    def _split(self, text: bytes) -> list[bytes]:
        if self.rules.split == "":
            return text.split()
        parts = self._any_of.split(text) if self._any_of is not None else text.split(self.rules.split.encode())
        return parts if self.rules.keep_empty else [part for part in parts if part]

    def write(self, folder: Path) -> None:
        """Write ``words.json``."""
        value = {"rules": self.rules.to_dict(), "words": self._ids}
        (folder / WORDS).write_text(json.dumps(value), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> WordTokens:
        """Read ``words.json``."""
        value = json.loads((folder / WORDS).read_text(encoding="utf-8"))
        return cls(value["words"], WordRules.from_dict(value["rules"]))


def numbered(lines: Sequence[str], first: int) -> dict[str, int]:
    """Return the words of a vocabulary file, one per line, numbered from ``first``; of duplicates the first counts."""
    found: dict[str, int] = {}
    for number, word in enumerate(lines, first):
        found.setdefault(word, number)
    return found


def _changed(value: Any, step: Step) -> Any:
    """Return an Arrow string after a step."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if step.kind == "ascii":
        return pc.ascii_lower(value)
    if step.kind == "unicode":
        # like TensorFlow's and unlike Arrow's, Python's lower() handles a final sigma
        return pa.scalar(value.as_py().lower())
    most = None if step.everywhere else 1
    try:
        return pc.replace_substring_regex(value, step.pattern, step.rewrite, max_replacements=most)
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise CliploomError(f"The regular expression {step.pattern!r} is not one of RE2: {reason}.") from None
