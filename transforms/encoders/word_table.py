"""Reads word vectors as text (fastText ``.vec``, GloVe, word2vec, ``.gz``) once, and writes them as a table.

fastText and word2vec begin with ``N D``, GloVe does not. Then ``word v1 ... vD``, separated by single blanks, a blank
at the end allowed, words in UTF-8 with errors ignored. The table is memory-mapped: ``words.bin`` (the words sorted by
their bytes, concatenated), ``ends.npy`` (the end of each), ``rows.npy`` (its row) and ``vectors.npy`` (float32 [n, dim]
in the file's order).
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cliploom.schemas.errors import CliploomError, short
from cliploom.transforms.literals import map_array

WORDS, ENDS, ROWS, VECTORS = "words.bin", "ends.npy", "rows.npy", "vectors.npy"
_BLOCK = 1 << 24
_MOST_DIMS = 65_536
_LETTERS = "abcdefghijklmnopqrstuvwxyz-'"


class WordTable:
    """Words and their vectors, memory-mapped; thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Open a folder written by ``write_table``.

        Raises:
            CliploomError: a file is missing or damaged.
        """
        try:
            self._words = np.memmap(folder / WORDS, np.uint8, "r")
            self._ends = map_array(folder / ENDS)
            self._rows = map_array(folder / ROWS)
            self._vectors = map_array(folder / VECTORS)
        except (OSError, ValueError) as error:
            raise CliploomError(f"The word vectors in '{folder}' can't be opened: {error}.") from error

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def dim(self) -> int:
        """The length of the vectors."""
        return int(self._vectors.shape[1])

    def vector(self, word: str) -> NDArray[np.float32] | None:
        """Return the vector of a word as spelled in the file, float32 [dim]; None if it is unknown."""
        wanted = word.encode("utf-8", "ignore")
        place = self._place(wanted)
        if place == len(self) or self._word(place) != wanted:
            return None
        return np.asarray(self._vectors[self._rows[place]])

    def nearest(self, word: str, most: int = 3) -> list[str]:
        """Return known words that differ from this one by one edit, else those with the same prefix."""
        near = _one_edit(word)
        found = {other for other in near if self.vector(other) is not None}
        if not found and len(word) <= 12:
            shorter = {other for other in near if len(other) < len(word)}
            found = {two for other in shorter for two in _one_edit(other) if self.vector(two) is not None}
        if not found and len(self):
            place = self._place(word.encode("utf-8", "ignore"))
            beside = [self._word(i).decode() for i in range(max(0, place - 2), min(len(self), place + 2))]
            found = {other for other in beside if other[:2] == word[:2]}
        # the files start with the most frequent words
        return sorted(found, key=lambda other: int(self._rows[self._place(other.encode())]))[:most]

    def _place(self, wanted: bytes) -> int:
        """Return the number of the first word that is not before ``wanted``."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._word(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low

    def _word(self, number: int) -> bytes:
        begin = int(self._ends[number - 1]) if number else 0
        return self._words[begin : int(self._ends[number])].tobytes()


def _one_edit(word: str) -> set[str]:
    """Return all strings that are a deletion, swap, change or insertion away."""
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    found = {a + b[1:] for a, b in cuts if b} | {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    found |= {a + letter + b[1:] for a, b in cuts if b for letter in _LETTERS}
    return (found | {a + letter + b for a, b in cuts for letter in _LETTERS}) - {word, ""}


def write_table(source: Path, folder: Path) -> int:
    """Read a file of word vectors, block by block, and write its table.

    Args:
        source: the path of the file.
        folder: the folder to write to.

    Returns:
        The length of the vectors.

    Raises:
        CliploomError: it is not such a file, is damaged, or is shorter than its header says.
    """
    words: list[bytes] = []
    stated, dim = None, 0
    with (folder / VECTORS).open("wb") as out:
        for number, block in enumerate(_blocks(source)):
            lines = block.split(b"\n")
            if lines and not lines[-1]:
                lines.pop()
            if number == 0:
                stated, dim = _header(lines, source)
                lines = lines[1:] if stated is not None else lines
                _write_head(out, 0, dim)  # keeps its length when the count is filled in
            found, values = _parsed(lines, dim, source, len(words) + (stated is not None) + 1)
            words += found
            out.write(values.tobytes())
        if not words:
            raise CliploomError(f"'{source}' holds no words; give word vectors as text, a word and its numbers a line.")
        if stated is not None and len(words) < stated:
            raise CliploomError(
                f"'{source}' says that it holds {stated:,} words and holds {len(words):,}; download it again."
            )
        out.seek(0)
        _write_head(out, len(words), dim)
    _write_words(words, folder)
    return dim


def _write_head(out: IO[bytes], count: int, dim: int) -> None:
    """Write an ``npy`` header of 128 bytes."""
    described = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {dim}), }}".ljust(117) + "\n"
    out.write(b"\x93NUMPY\x01\x00" + len(described).to_bytes(2, "little") + described.encode())


def _write_words(words: list[bytes], folder: Path) -> None:
    """Write the sorted words; of duplicates the first row counts."""
    order = sorted(range(len(words)), key=words.__getitem__)
    kept = [row for at, row in enumerate(order) if words[row] and (at == 0 or words[order[at - 1]] != words[row])]
    ends = np.cumsum([len(words[row]) for row in kept], dtype=np.uint64)
    np.save(folder / ENDS, ends)
    np.save(folder / ROWS, np.array(kept, np.uint32))
    with (folder / WORDS).open("wb") as out:
        out.writelines(words[row] for row in kept)


def _blocks(source: Path) -> Iterator[bytes]:
    """Yield whole lines of a file, about 16 MB at a time."""
    try:
        with source.open("rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
        with gzip.open(source, "rb") if zipped else source.open("rb") as stream:
            rest = b""
            while chunk := stream.read(_BLOCK):
                cut = chunk.rfind(b"\n") + 1
                if not cut:
                    raise CliploomError(
                        f"'{source}' has a line of more than 16 MB, so it holds no word vectors as text."
                    )
                yield rest + chunk[:cut]
                rest = chunk[cut:]
            if rest:
                yield rest
    except (OSError, EOFError, zlib.error) as error:
        raise CliploomError(f"The word vectors '{source}' can't be read: {error}.") from None


def _header(lines: list[bytes], source: Path) -> tuple[int | None, int]:
    """Return the number of words in the first line, if it has one, and the length of the vectors."""
    parts = lines[0].split() if lines else []
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        stated, dim = int(parts[0]), int(parts[1])
    else:
        stated, dim = None, len(parts) - 1
    if not 2 <= dim <= _MOST_DIMS:
        raise CliploomError(
            f"'{source}' begins with {short(lines[0].decode('utf-8', 'replace') if lines else '')}, where 'N D' or a "
            "word and its numbers are expected; give word vectors as text (.vec, .txt, .gz)."
        )
    return stated, dim


def _parsed(lines: list[bytes], dim: int, source: Path, first: int) -> tuple[list[bytes], NDArray[np.float32]]:
    """Return the words and float32 [n, dim] of lines; ``first`` is the number of the first line, for messages."""
    parts = [line.rstrip(b" \r").partition(b" ") for line in lines]
    if lines and all(numbers.count(b" ") == dim - 1 for _, _, numbers in parts):
        values = _numbers(b"\n".join([numbers for _, _, numbers in parts]).replace(b" ", b"\n"))
        if values is not None and len(values) == len(lines) * dim:
            return [_utf8(word) for word, _, _ in parts], values.reshape(-1, dim)
    # some words in GloVe contain blanks: parse line by line, taking the numbers from the end
    words, rows = [], []
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue
        word, *texts = line.rstrip(b" \r").rsplit(b" ", dim)
        row = _numbers(b"\n".join(texts)) if len(texts) == dim else None
        if row is None or len(row) != dim:
            said = short(line.decode("utf-8", "replace"))
            raise CliploomError(f"Line {number} of '{source}', {said}, is not a word and {dim} numbers.")
        words.append(_utf8(word))
        rows.append(row)
    return words, np.stack(rows) if rows else np.zeros((0, dim), np.float32)


def _numbers(joined: bytes) -> NDArray[np.float32] | None:
    """Return the numbers of each line as float32; None if one is invalid or not finite."""
    try:
        found = pl.read_csv(io.BytesIO(joined), has_header=False, quote_char=None, schema={"v": pl.Float32})["v"]
    except pl.exceptions.PolarsError:
        return None
    values = found.to_numpy() if not found.null_count() else None
    return values if values is not None and np.isfinite(values).all() else None


def _utf8(word: bytes) -> bytes:
    return word if word.isascii() else word.decode("utf-8", "ignore").encode()
