"""Clip features by time: ``windows[uid, t1, t2]``, read at random and quickly, also in data-loading workers.

An object holds only where each video's rows are, so it is cheap to send to a worker; files are opened by each process
for itself when first asked. Where the release has an HDF5 export of the feature, its contiguous datasets are mapped
into memory and a window costs one copy of its bytes. Otherwise row groups of the Parquet parts are read and the
last ones kept, which suits readers that stay with a video for a while.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError, StoreError, UnknownNameError, nearest
from cliploom.schemas.records import MAX_ORDINAL
from cliploom.schemas.release import ExportEntry, FeatureEntry, Release
from cliploom.transforms.narrations.pairs import time_to_index
from cliploom.transforms.readers.local_files import kept_copy
from cliploom.transforms.store.hdf5_names import escape, unescape
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.parts import arrow_to_vectors, part_path
from cliploom.transforms.store.ranges import RowRanges, rows_by_item
from cliploom.transforms.store.rates import rows_per_second
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import contents_of

MOST_OPEN_PARTS = 32


@dataclass(frozen=True, slots=True)
class _Mapped:
    """A contiguous dataset: file, byte of its first value, rows."""

    file: int
    offset: int
    rows: int


@dataclass(frozen=True, slots=True)
class _InParts:
    """Rows in Parquet parts, (part, first row, rows) each; ``planned`` rows had none failed."""

    places: tuple[tuple[str, int, int], ...]
    planned: int


class ClipWindows:
    """Features of a stretch of a video.

    ``windows[uid, t1, t2]`` is float32 [n, D]: the rows that answer to the seconds [t1, t2], at least one (see
    ``time_to_index``); none when they could not be computed. Threads and processes, forked or spawned, may share one.

    Attributes:
        rate: rows a second.
        dim: D.
    """

    def __init__(
        self, store: str, feature: str, release: int | None = None, *, output: str | None = None, hdf5: bool = True
    ) -> None:
        """Read where each video's rows are.

        Args:
            store: folder or URI.
            feature: name of a feature whose rows lie on a grid of time.
            release: number; the newest by default.
            output: may be left out when the feature has one.
            hdf5: use an HDF5 export of the feature where the release has one.

        Raises:
            SpecError: for an unknown feature or output, or one without a rate.
            StoreError: when the store has no such release or is damaged.
        """
        self._objects = ObjectStore(store)
        found = read_releases(self._objects).get(release)
        entry = _feature(found, feature)
        self.output = _output(entry, feature, output)
        self._place_text = f"{store!r}, {feature!r}, release={found.release}, output={self.output!r}"
        self.dim = entry.outputs[self.output].dim
        self.rate = rows_per_second(entry.recipe)
        if not self.rate:
            raise SpecError(
                f"The rows of feature {feature!r} do not lie on a grid of time; ClipWindows needs windows with fps, "
                "'every', or precomputed features."
            )
        self._table = entry.table
        self._files: list[str] = []
        self._places: dict[str, _Mapped | _InParts] = dict(self._in_parts(found, feature))
        export = _hdf5_export(found, feature, self.output) if hdf5 else None
        if export is not None:
            self._map(export)
        self._open()

    def _open(self) -> None:
        self._process = os.getpid()
        self._maps: dict[int, NDArray[np.uint8]] = {}
        self._parts: OrderedDict[str, RowRanges] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_maps", "_parts", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _in_parts(self, release: Release, feature: str) -> Iterator[tuple[str, _InParts]]:
        for item in rows_by_item(self._objects, self._table, contents_of(self._objects, release, feature)):
            yield item.uid, _InParts(item.places, item.planned)

    def _map(self, export: ExportEntry) -> None:
        """Take the places of whole videos from the HDF5 parts; those that lost rows stay with Parquet and its ids."""
        for entry in export.files:
            if not entry.path.rsplit("/", 1)[-1].startswith("part-"):
                continue
            number = len(self._files)
            self._files.append(entry.path)
            try:
                with h5py.File(kept_copy(self._objects, entry.path), "r", locking=False) as file:
                    several = len(file.attrs["outputs"]) > 1
                    group = file[escape(self.output)] if several else file
                    for name in group:
                        dataset = group[name]
                        uid, offset, rows = unescape(name), dataset.id.get_offset(), dataset.shape[0]
                        known = self._places.get(uid)
                        if isinstance(known, _InParts) and known.planned == rows and offset is not None:
                            self._places[uid] = _Mapped(number, offset, rows)
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                raise StoreError(f"{entry.path} is missing or damaged ({error}); see `cliploom verify`.") from None

    def __repr__(self) -> str:
        """As it would be opened, with what is in it."""
        return f"ClipWindows({self._place_text}, videos={len(self)}, dim={self.dim}, rate={self.rate:g})"

    def __len__(self) -> int:
        """Number of videos."""
        return len(self._places)

    def __contains__(self, uid: str) -> bool:
        return uid in self._places

    def uids(self) -> list[str]:
        """All videos that have features."""
        return sorted(self._places)

    def length(self, uid: str) -> int:
        """Rows of a video, those that could not be computed among them.

        Raises:
            KeyError: for a video without features.
        """
        place = self._place(uid)
        return place.rows if isinstance(place, _Mapped) else place.planned

    def __getitem__(self, key: tuple[str, float, float]) -> NDArray[np.float32]:
        """Rows for the seconds [t1, t2] of a video.

        Raises:
            KeyError: for a video without features.
            ValueError: when the stretch ends before it or the video starts.
        """
        uid, t1, t2 = key
        place = self._place(uid)
        if isinstance(place, _Mapped):
            first, end = time_to_index(t1, t2, self.rate, place.rows)
            return self._mapped(place)[first:end].copy()
        first, end = time_to_index(t1, t2, self.rate, place.planned)
        return self._from_parts(place, first, end)

    def mean(self, uid: str, t1: float, t2: float) -> NDArray[np.float32]:
        """Mean of these rows, float32 [D].

        Raises:
            KeyError: for a video without features.
            ValueError: as for ``[uid, t1, t2]``, and when none of the rows could be computed.
        """
        place = self._place(uid)
        if isinstance(place, _Mapped):
            first, end = time_to_index(t1, t2, self.rate, place.rows)
            rows = self._mapped(place)[first:end]
        else:
            rows = self[uid, t1, t2]
        if not len(rows):
            raise ValueError(f"no row of {uid!r} in [{t1}, {t2}] s could be computed")
        total: NDArray[np.float64] = np.add.reduce(rows, axis=0, dtype=np.float64)
        return (total / len(rows)).astype(np.float32)

    def _place(self, uid: str) -> _Mapped | _InParts:
        try:
            return self._places[uid]
        except KeyError:
            raise UnknownNameError(f"{uid!r} has no features in this release.") from None

    def _mapped(self, place: _Mapped) -> NDArray[np.float32]:
        found = self._maps.get(place.file)
        if found is None:
            path = kept_copy(self._objects, self._files[place.file])
            # A plain view of the mapping: slices of np.memmap itself cost several times as much.
            found = self._maps[place.file] = np.asarray(np.memmap(path, np.uint8, "r")).view(np.ndarray)
        end = place.offset + 4 * place.rows * self.dim
        return found[place.offset : end].view(np.float32).reshape(place.rows, self.dim)

    def _from_parts(self, place: _InParts, first: int, end: int) -> NDArray[np.float32]:
        if self._process != os.getpid():
            # A forked worker must not read on from its parent's open files.
            self._open()
        whole = place.planned == sum(rows for _, _, rows in place.places)
        found, at = [], 0
        for part, first_row, rows in place.places:
            low, high = (max(first - at, 0), min(end - at, rows)) if whole else (0, rows)
            at += rows
            if low >= high:
                continue
            table = self._part(part).rows(first_row + low, high - low)
            vectors = arrow_to_vectors(table[self.output], self.dim)
            if not whole:
                ordinals = table["row_id"].to_numpy() & MAX_ORDINAL
                vectors = vectors[(ordinals >= first) & (ordinals < end)]
            found.append(vectors)
        return np.concatenate(found) if found else np.empty((0, self.dim), np.float32)

    def _part(self, part: str) -> RowRanges:
        opened = self._parts.pop(part, None)
        if opened is None:
            path = kept_copy(self._objects, part_path(self._table, part))
            opened = RowRanges(path, ["row_id", self.output])
            while len(self._parts) >= MOST_OPEN_PARTS:
                self._parts.popitem(last=False)
        self._parts[part] = opened
        return opened


def _feature(release: Release, feature: str) -> FeatureEntry:
    entry = release.features.get(feature)
    if entry is None:
        raise UnknownNameError(
            f"Release {release.release} has no feature {feature!r}{nearest(feature, release.features)}"
        )
    return entry


def _output(entry: FeatureEntry, feature: str, output: str | None) -> str:
    if output is None:
        if len(entry.outputs) > 1:
            raise SpecError(f"Feature {feature!r} has the outputs {', '.join(entry.outputs)}; name one.")
        return next(iter(entry.outputs))
    if output not in entry.outputs:
        raise UnknownNameError(f"Feature {feature!r} has no output {output!r}{nearest(output, entry.outputs)}")
    return output


def _hdf5_export(release: Release, feature: str, output: str) -> ExportEntry | None:
    """An export of this feature and output, if the release has one."""
    declared = release.spec.get("exports") or {}
    for name, entry in release.exports.items():
        wanted = declared.get(name, {}).get("output")
        if entry.kind == "hdf5" and entry.feature == feature and wanted in (None, output):
            return entry
    return None
