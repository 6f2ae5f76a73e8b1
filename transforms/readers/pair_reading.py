"""Reading an export of pairs: by number or in batches, in any process.

``training_views`` makes datasets of PyTorch and TensorFlow from it. HDF5 files are mapped into memory; Parquet files
are read by row groups, so shuffled reads of them cost more.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError, StoreError, nearest
from cliploom.transforms.readers.local_files import kept_copy
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import arrow_to_vectors
from cliploom.transforms.store.ranges import RowRanges
from cliploom.transforms.store.releases import read_releases

MOST_OPEN_FILES = 32


class Pairs:
    """The pairs of one split.

    ``pairs[i]`` is (features float32 [D] or [n, D], embedding float32 [E]).

    Attributes:
        manifest: what the export says of itself: counts, what was dropped and why, sizes.
    """

    def __init__(self, store: str, export: str, split: str = "train", release: int | None = None) -> None:
        """Find the files of a split.

        Args:
            store: folder or URI.
            export: name of an export of kind ``pairs``, format ``parquet`` or ``hdf5``.
            split: one of the manifest's.
            release: number; the newest by default.

        Raises:
            SpecError: for an unknown export or split, or the tutorial's format.
            StoreError: when the store has no such release or is damaged.
        """
        self._objects = ObjectStore(store)
        found = read_releases(self._objects).get(release)
        known = [name for name, entry in found.exports.items() if entry.kind == "pairs"]
        if export not in known:
            raise SpecError(f"Release {found.release} has no export of pairs {export!r}{nearest(export, known)}")
        path = found.exports[export].files[0].path
        self.manifest: dict[str, Any] = json.loads(self._objects.get(path))
        if self.manifest["format"] == "tutorial":
            raise SpecError(f"{export!r} is one file as the tutorial has it; open {path} with h5py.")
        if split not in self.manifest["splits"]:
            raise SpecError(f"{export!r} has no split {split!r}{nearest(split, self.manifest['splits'])}")
        files = self.manifest["splits"][split]["files"]
        self._files = [str(PurePosixPath(path).with_name(file["name"])) for file in files]
        self._starts: list[int] = [0, *accumulate(file["pairs"] for file in files)]
        take, dim = self.manifest["take"], self.manifest["feature_dim"]
        self._shape = (take, dim) if take else (dim,)
        self._open()

    def _open(self) -> None:
        self._process = os.getpid()
        self._opened: dict[int, _File] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_opened", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def __len__(self) -> int:
        """Number of pairs."""
        return self._starts[-1]

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One pair.

        Raises:
            IndexError: beyond the last one, which ends a loop over all.
        """
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        file = bisect_right(self._starts, number) - 1
        return self._file(file).pair(number - self._starts[file])

    def batch(self, indices: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Several pairs: features float32 [B, ...] and embeddings float32 [B, E]."""
        pairs = [self[int(index)] for index in indices]
        return np.stack([features for features, _ in pairs]), np.stack([embedding for _, embedding in pairs])

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one pair's features."""
        return self._shape

    @property
    def embedding_dim(self) -> int:
        """Length of one pair's embedding."""
        return int(self.manifest["text_dim"])

    def _file(self, number: int) -> _File:
        if self._process != os.getpid():
            # A forked worker must not read on from its parent's open files.
            self._open()
        if number not in self._opened:
            if len(self._opened) >= MOST_OPEN_FILES:
                self._opened.pop(next(iter(self._opened)))
            path = kept_copy(self._objects, self._files[number])
            kind = _ParquetFile if path.suffix == ".parquet" else _Hdf5File
            self._opened[number] = kind(path, self._shape, self.embedding_dim)
        return self._opened[number]


class _Hdf5File:
    """A file of pairs mapped into memory."""

    def __init__(self, path: Path, shape: tuple[int, ...], dim: int) -> None:
        try:
            with h5py.File(path, "r", locking=False) as file:
                places = [(file[name].id.get_offset(), file[name].shape[0]) for name in ("features", "embedding")]
        except (OSError, KeyError, RuntimeError) as error:
            raise StoreError(f"{path} is missing or damaged ({error}); see `cliploom verify`.") from None
        self._features, self._embeddings = (
            np.memmap(path, np.float32, "r", offset, (rows, *each))
            for (offset, rows), each in zip(places, (shape, (dim,)), strict=True)
        )

    def pair(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.array(self._features[number]), np.array(self._embeddings[number])


class _ParquetFile:
    """A file of pairs read by row groups."""

    def __init__(self, path: Path, shape: tuple[int, ...], dim: int) -> None:
        self._ranges = RowRanges(path, ["features", "embedding"])
        self._shape, self._dim = shape, dim

    def pair(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        row = self._ranges.rows(number, 1)
        size = int(np.prod(self._shape))
        features = arrow_to_vectors(row["features"], size)[0].reshape(self._shape)
        return features.copy(), arrow_to_vectors(row["embedding"], self._dim)[0].copy()


_File = _Hdf5File | _ParquetFile
