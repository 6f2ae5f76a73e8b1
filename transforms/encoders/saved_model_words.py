"""The vocabulary and rules of a SavedModel's text signature: declarations in the spec override the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders.saved_model_options import SavedModelText
from cliploom.transforms.encoders.saved_model_signatures import SavedModel
from cliploom.transforms.encoders.saved_model_text import FoundRules
from cliploom.transforms.encoders.tensorflow_protos import nodes_by_name
from cliploom.transforms.encoders.word_tokens import WordRules, WordTokens, numbered

_INITIALIZERS = ("InitializeTableFromTextFileV2", "InitializeTableFromTextFile")
_LINE_NUMBER, _WHOLE_LINE = -1, -2
MOST_BYTES = 1 << 28


def word_tokens(saved: SavedModel, found: FoundRules, text: SavedModelText, rows: int | None) -> WordTokens:
    """Return the words with their numbers, and the rules.

    Args:
        saved: the SavedModel.
        found: the rules found in the graph.
        text: the declarations in the spec.
        rows: the number of rows in the table of word vectors, if known.

    Raises:
        CliploomError: a key must be declared; the message says which and why.
    """

    def needed(key: str, declared: Any, read: Any) -> Any:
        if declared is None and read is None:
            reason = found.reasons.get(key, "it was not found in the graph")
            raise CliploomError(f"The text signature of '{saved.model}' needs text.{key}: {reason}; declare it.")
        return read if declared is None else declared

    steps = needed("replace", text.steps, found.steps)
    first = needed("first", text.first, found.offset)
    split = needed("split", text.split, found.split)
    dropped = text.unknown == "drop" if text.unknown is not None else found.dropped
    unknown = None if dropped else needed("unknown", text.unknown, found.unknown)
    rules = WordRules(
        tokens=needed("tokens", text.tokens, found.tokens),
        steps=steps,
        split=split,
        keep_empty=text.split is None and found.keep_empty,
        any_of=text.split is None and found.any_of,
        unknown=unknown,
        pad_id=needed("pad_id", text.pad_id, found.pad_id),
    )
    words = _vocabulary(saved, text, first)
    numbers = (*words.values(), rules.pad_id, 0 if rules.unknown is None else rules.unknown)
    if min(numbers) < 0 or (rows is not None and max(numbers) >= rows):
        raise CliploomError(
            f"The words of '{saved.model}' have the numbers {min(numbers)} to {max(numbers)} and its table of vectors "
            f"has {rows} rows; correct text.vocabulary, text.first, text.unknown or text.pad_id."
        )
    return WordTokens(words, rules)


def _vocabulary(saved: SavedModel, text: SavedModelText, first: int) -> dict[str, int]:
    """Return the words with their numbers, from the file in the spec or the model's only one."""
    path = _vocabulary_file(saved, text)
    if path.stat().st_size > MOST_BYTES:
        raise CliploomError(
            f"The vocabulary '{path}' is larger than {MOST_BYTES >> 20} MB; name another by text.vocabulary."
        )
    # like TensorFlow: carriage returns are dropped, and only line feeds separate lines
    content = path.read_bytes().replace(b"\r", b"").decode("utf-8", "surrogateescape")
    lines = content.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise CliploomError(f"The vocabulary '{path}' is empty; name another by text.vocabulary.")
    attributes = _table_attributes(saved)
    if (size := attributes["vocab_size"]) > 0:
        lines = lines[:size]
    key, value = attributes["key_index"], attributes["value_index"]
    if (key, value) == (_WHOLE_LINE, _LINE_NUMBER):
        return numbered(lines, first + attributes["offset"])
    try:
        rows = [line.split(attributes["delimiter"]) for line in lines]
        words = lines if key == _WHOLE_LINE else [row[key] for row in rows]
        numbers = range(len(rows)) if value == _LINE_NUMBER else [int(row[value]) for row in rows]
    except (IndexError, ValueError):
        raise CliploomError(
            f"The vocabulary '{path}' lacks the columns that the graph reads (word {key}, number {value}); name "
            "another by text.vocabulary."
        ) from None
    return {word: first + number for word, number in zip(reversed(words), reversed(numbers), strict=True)}


def _vocabulary_file(saved: SavedModel, text: SavedModelText) -> Path:
    assets = saved.folder / "assets"
    found = sorted(path.relative_to(assets).as_posix() for path in assets.rglob("*") if path.is_file())
    if text.vocabulary is None:
        if len(found) != 1:
            listed = ", ".join(found) or "none"
            raise CliploomError(
                f"'{saved.model}' has {len(found)} assets ({listed}); name the vocabulary by text.vocabulary: a file "
                "with a word a line."
            )
        return assets / found[0]
    name = text.vocabulary.removeprefix("assets/")
    if name in found:
        return assets / name
    path = Path(text.vocabulary).expanduser()
    if not path.is_file():
        raise CliploomError(
            f"There is no vocabulary '{text.vocabulary}'; give a path, or an asset of the model: "
            f"{', '.join(found) or 'it has none'}."
        )
    return path


def _table_attributes(saved: SavedModel) -> dict[str, Any]:
    """Return how the graph reads a vocabulary file; a declared file without such an operation has one word per line."""
    found: dict[str, Any] = {
        "vocab_size": -1, "key_index": _WHOLE_LINE, "value_index": _LINE_NUMBER, "offset": 0, "delimiter": "\t"
    }  # fmt: skip
    nodes = [
        node for each in nodes_by_name(saved.graph.graph_def).values() for node in each if node.op in _INITIALIZERS
    ]
    if len(nodes) == 1:
        for key in found:
            if key in nodes[0].attr:
                value = nodes[0].attr[key]
                found[key] = value.s.decode() if key == "delimiter" else value.i
    return found
