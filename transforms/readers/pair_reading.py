"""Reads an export of pairs, by number or in batches, in any process.

``training_views`` wraps it as datasets of PyTorch and TensorFlow. Files of both formats are memory-mapped, so shuffled
reads copy single rows. Parquet files that other programs rewrote with compression are read by row groups.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError, StoreError, UnknownNameError, nearest
from cliploom.transforms.readers.local_files import kept_copy
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parquet_pages import UnmappablePageError, map_column
from cliploom.transforms.store.parts import arrow_to_vectors
from cliploom.transforms.store.ranges import RowRanges
from cliploom.transforms.store.releases import read_releases

MOST_OPEN_FILES = 32
_FACTS = {"uid": pa.string(), "text": pa.string(), "start_s": pa.float64(), "first": pa.int64(), "end": pa.int64()}
_META = ("uid", "txt", "ts", "first", "end")


@dataclass(frozen=True, slots=True)
class PairFacts:
    """The facts about a pair.

    Attributes:
        uid: the uid of the video, as in the texts; pairs of one video are hard negatives of each other.
        text: the text, unchanged; equal texts are not negatives of each other.
        start_s: the time in seconds from the video's start; NaN for a text about the whole video.
        row: the number of the pair in its split.
        first, end: the range of the video's feature rows that the pair's features are computed from.
    """

    uid: str
    text: str
    start_s: float
    row: int
    first: int
    end: int


class PairExample(tuple[NDArray[np.float32], NDArray[np.float32]]):
    """(features, embedding) of one pair, together with its facts.

    Attributes:
        facts: uid, text, start_s, row, first, end; also available as attributes of the pair.
    """

    _pairs: Pairs
    _number: int

    @classmethod
    def of(cls, arrays: tuple[NDArray[np.float32], NDArray[np.float32]], pairs: Pairs, number: int) -> PairExample:
        """Create the example for a pair."""
        made = cls(arrays)
        made._pairs, made._number = pairs, number
        return made

    def __reduce__(self) -> tuple[type[tuple[Any, ...]], tuple[tuple[Any, ...]]]:
        """Pickle the arrays only."""
        return tuple, (tuple(self),)

    @property
    def facts(self) -> PairFacts:
        """The facts of the pair."""
        return self._pairs.facts(self._number)

    def __getattr__(self, name: str) -> Any:
        """Return a fact by name."""
        if name in PairFacts.__slots__:
            return getattr(self.facts, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class Pairs:
    """The pairs of one split.

    ``pairs[i]`` is (features float32 [D] or [n, D], embedding float32 [E]); ``pairs[i].uid``, ``.text``, ``.start_s``,
    ``.row``, ``.first`` and ``.end`` are its facts. With ``facts`` a third element has them as a dictionary, which
    PyTorch's ``DataLoader`` collates.

    Attributes:
        manifest: the export's description: counts, what was dropped and why, sizes.
    """

    def __init__(
        self, store: str, export: str, split: str = "train", release: int | None = None, *, facts: bool = False
    ) -> None:
        """Find the files of a split.

        Args:
            store: the folder or URI of the store.
            export: the name of an export of kind ``pairs``, format ``parquet`` or ``hdf5``.
            split: the name of one of the manifest's splits.
            release: the number of the release; the newest by default.
            facts: whether examples have a third element, a dictionary of uid, text, start_s, row, first and end.

        Raises:
            SpecError: the export or split is unknown, or has the tutorial's format.
            StoreError: the store has no such release or is damaged.
        """
        self._objects = ObjectStore(store)
        found = read_releases(self._objects).get(release)
        self._place_text = f"{store!r}, {export!r}, split={split!r}, release={found.release}"
        known = [name for name, entry in found.exports.items() if entry.kind == "pairs"]
        if export not in known:
            raise UnknownNameError(f"Release {found.release} has no export of pairs {export!r}{nearest(export, known)}")
        path = found.exports[export].files[0].path
        self.manifest: dict[str, Any] = json.loads(self._objects.get(path))
        if self.manifest["format"] == "tutorial":
            raise SpecError(f"{export!r} is a single file in the tutorial's format; open {path} with h5py.")
        if split not in self.manifest["splits"]:
            raise UnknownNameError(f"{export!r} has no split {split!r}{nearest(split, self.manifest['splits'])}")
        files = self.manifest["splits"][split]["files"]
        self._files = [str(PurePosixPath(path).with_name(file["name"])) for file in files]
        self._starts: list[int] = [0, *accumulate(file["pairs"] for file in files)]
        take, dim = self.manifest["take"], self.manifest["feature_dim"]
        self._shape = (take, dim) if take else (dim,)
        self._with_facts = facts
        self._open()

    def _open(self) -> None:
        self._process = os.getpid()
        self._opened: dict[int, _File] = {}
        self._facts: dict[int, pa.Table] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_opened", "_facts", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def __repr__(self) -> str:
        """Return the call that opens it, with its content."""
        return f"Pairs({self._place_text}, pairs={len(self)})"

    def __len__(self) -> int:
        """Return the number of pairs."""
        return self._starts[-1]

    def __getitem__(self, index: int) -> Any:
        """Return one pair: (features, embedding), see the class.

        Raises:
            IndexError: ``index`` is beyond the last pair, which ends a loop over all.
        """
        number = self._checked(index)
        file = bisect_right(self._starts, number) - 1
        place = np.array([number - self._starts[file]])
        features, embeddings = self._file(file).pairs(place)
        return self._example(features[0], embeddings[0], number)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several pairs, the protocol by which PyTorch requests a batch.

        Raises:
            IndexError: an index is beyond the last pair.
        """
        features, embeddings = self.batch(indices)
        numbers = [self._checked(int(index)) for index in indices]
        if not self._with_facts:
            return [PairExample.of((f, e), self, n) for f, e, n in zip(features, embeddings, numbers, strict=True)]
        facts = self._facts_of(numbers)
        return [(f, e, _as_dict(about)) for f, e, about in zip(features, embeddings, facts, strict=True)]

    def batch(self, indices: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return several pairs: features float32 [B, ...] and embeddings float32 [B, E].

        Raises:
            IndexError: an index is beyond the last pair.
        """
        numbers = np.array([self._checked(int(index)) for index in indices], np.int64)
        files = np.searchsorted(self._starts, numbers, "right") - 1
        features = np.empty((len(numbers), *self._shape), np.float32)
        embeddings = np.empty((len(numbers), self.embedding_dim), np.float32)
        for file in np.unique(files).tolist():
            mine = np.flatnonzero(files == file)
            features[mine], embeddings[mine] = self._file(file).pairs(numbers[mine] - self._starts[file])
        return features, embeddings

    def facts(self, index: int) -> PairFacts:
        """Return the facts of a pair.

        Raises:
            IndexError: ``index`` is beyond the last pair.
        """
        return self._facts_of([self._checked(index)])[0]

    def _facts_of(self, numbers: Sequence[int]) -> list[PairFacts]:
        places = np.array(numbers, np.int64)
        files = np.searchsorted(self._starts, places, "right") - 1
        found: dict[int, PairFacts] = {}
        for file in np.unique(files).tolist():
            mine = places[files == file]
            # Measured: reading values one by one takes four times as long.
            rows = self._table(file).take(pa.array(mine - self._starts[file]))
            for number, uid, text, start_s, first, end in zip(
                mine.tolist(), *(rows[name].to_pylist() for name in _FACTS), strict=True
            ):
                found[number] = PairFacts(uid, text, math.nan if start_s is None else start_s, number, first, end)
        return [found[number] for number in numbers]

    def all_facts(self) -> pa.Table:
        """Return the facts of all pairs, in their order: uid, text, start_s, first, end."""
        return pa.concat_tables([self._table(file) for file in range(len(self._files))])

    def _checked(self, index: int) -> int:
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        return number

    def _example(self, features: NDArray[np.float32], embedding: NDArray[np.float32], number: int) -> Any:
        if self._with_facts:
            return features, embedding, _as_dict(self.facts(number))
        return PairExample.of((features, embedding), self, number)

    def _table(self, number: int) -> pa.Table:
        if number not in self._facts:
            path = kept_copy(self._objects, self._files[number])
            self._facts[number] = _parquet_facts(path) if path.suffix == ".parquet" else _hdf5_facts(path)
        return self._facts[number]

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one pair's features."""
        return self._shape

    @property
    def embedding_dim(self) -> int:
        """The length of one pair's embedding."""
        return int(self.manifest["text_dim"])

    def _file(self, number: int) -> _File:
        if self._process != os.getpid():
            # A forked worker must not use its parent's open files.
            self._open()
        if number not in self._opened:
            if len(self._opened) >= MOST_OPEN_FILES:
                self._opened.pop(next(iter(self._opened)))
            path = kept_copy(self._objects, self._files[number])
            kind = _ParquetFile if path.suffix == ".parquet" else _Hdf5File
            self._opened[number] = kind(path, self._shape, self.embedding_dim)
        return self._opened[number]


def _as_dict(facts: PairFacts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in PairFacts.__slots__}


class _Hdf5File:
    """A memory-mapped file of pairs."""

    def __init__(self, path: Path, shape: tuple[int, ...], dim: int) -> None:
        try:
            with h5py.File(path, "r", locking=False) as file:
                places = [(file[name].id.get_offset(), file[name].shape[0]) for name in ("features", "embedding")]
        except (OSError, KeyError, RuntimeError) as error:
            raise StoreError(f"{path} is missing or damaged ({error}); see `cliploom verify`.") from None
        self._features, self._embeddings = (
            np.asarray(np.memmap(path, np.float32, "r", offset, (rows, *each))).view(np.ndarray)
            for (offset, rows), each in zip(places, (shape, (dim,)), strict=True)
        )

    def pairs(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._features[numbers], self._embeddings[numbers]


class _ParquetFile:
    """A memory-mapped file of pairs; read by row groups if its values are encoded or compressed."""

    def __init__(self, path: Path, shape: tuple[int, ...], dim: int) -> None:
        self._shape, self._dim = shape, dim
        self._size = int(np.prod(shape))
        self._ranges: RowRanges | None = None
        try:
            data = np.asarray(np.memmap(path, np.uint8, "r")).view(np.ndarray)
            self._columns = [map_column(path, data, *each) for each in (("features", self._size), ("embedding", dim))]
        except (UnmappablePageError, IndexError, KeyError, ValueError, OSError):
            self._ranges = RowRanges(path, ["features", "embedding"])

    def pairs(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self._ranges is None:
            features, embeddings = (column.rows(numbers) for column in self._columns)
            return features.reshape(-1, *self._shape), embeddings
        rows = pa.concat_tables([self._ranges.rows(number, 1) for number in numbers.tolist()])
        features = arrow_to_vectors(rows["features"], self._size).reshape(-1, *self._shape)
        return features, arrow_to_vectors(rows["embedding"], self._dim)


_File = _Hdf5File | _ParquetFile


def _parquet_facts(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(_FACTS)).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path} is missing or damaged ({error}); see `cliploom verify`.") from None


def _hdf5_facts(path: Path) -> pa.Table:
    try:
        with h5py.File(path, "r", locking=False) as file:
            meta = json.loads(file["meta"][:].tobytes())
        columns = {name: [each[key] for each in meta] for name, key in zip(_FACTS, _META, strict=True)}
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise StoreError(f"{path} is missing or damaged ({error}); see `cliploom verify`.") from None
    return pa.table([pa.array(columns[name], kind) for name, kind in _FACTS.items()], names=list(_FACTS))
