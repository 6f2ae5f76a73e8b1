"""Pieces of parts: a part's name, or ``name[start:end]`` for some of its rows; they say which rows a shard contains."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import iterate_vectors

_CUT = re.compile(r"(.+)\[(\d+):(\d+)\]")


def part_of(piece: str) -> str:
    """Return the part that a piece belongs to.

    >>> part_of("part-a.parquet[5:9]"), part_of("part-a.parquet")
    ('part-a.parquet', 'part-a.parquet')
    """
    found = _CUT.fullmatch(piece)
    return found[1] if found else piece


def range_of(piece: str) -> tuple[int, int | None]:
    """Return the first row and the row after the last one; None means the end of the part.

    >>> range_of("part-a.parquet[5:9]"), range_of("part-a.parquet")
    ((5, 9), (0, None))
    """
    found = _CUT.fullmatch(piece)
    return (int(found[2]), int(found[3])) if found else (0, None)


def rows_in(piece: str, rows: Mapping[str, int]) -> int:
    """Return the number of rows of a piece, given the number of rows of each part."""
    start, end = range_of(piece)
    return (rows[part_of(piece)] if end is None else end) - start


def cut(parts: Iterable[str], rows: Mapping[str, int], shares: Sequence[int]) -> list[tuple[str, ...]]:
    """Distribute the rows of parts in order, ``shares[k]`` rows to the k-th receiver.

    >>> cut(["a", "b"], {"a": 5, "b": 2}, [3, 4])
    [('a[0:3]',), ('a[3:5]', 'b')]
    """
    left = [(part, 0) for part in parts if rows[part]]
    dealt = []
    for share in shares:
        mine = []
        while share and left:
            part, start = left.pop(0)
            end = min(rows[part], start + share)
            mine.append(part if (start, end) == (0, rows[part]) else f"{part}[{start}:{end}]")
            share -= end - start
            if end < rows[part]:
                left.insert(0, (part, end))
        dealt.append(tuple(mine))
    return dealt


def iterate_pieces(
    objects: ObjectStore, table: str, pieces: Iterable[str], output: str, dim: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield (row ids int64 [n], vectors float32 [n, dim]) of the pieces, one row group at a time."""
    for piece in pieces:
        start, end = range_of(piece)
        seen = 0
        for ids, vectors in iterate_vectors(objects, table, [part_of(piece)], output, dim):
            inside = slice(max(0, start - seen), None if end is None else max(0, end - seen))
            seen += len(ids)
            if len(ids[inside]):
                yield ids[inside], vectors[inside]
            if end is not None and seen >= end:
                break
