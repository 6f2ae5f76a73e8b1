"""Clip features by time: ``windows[uid, t1, t2]`` with fast random access, also in data-loading workers.

An object only has the positions of each video's rows, so it is cheap to send to a worker; each process opens files
itself on first use. If the release has an HDF5 export of the feature, its contiguous datasets are memory-mapped and a
window costs one copy of its bytes. Otherwise row groups of the Parquet parts are read and recent ones cached, which
suits readers that stay with a video for a while.
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
    """A contiguous dataset: file, offset of its first value, number of rows."""

    file: int
    offset: int
    rows: int


@dataclass(frozen=True, slots=True)
class _InParts:
    """Rows in Parquet parts, (part, first row, rows) each; ``planned`` is the number of rows if none had failed."""

    places: tuple[tuple[str, int, int], ...]
    planned: int


class ClipWindows:
    """The feature rows of time ranges of videos.

    ``windows[uid, t1, t2]`` is float32 [n, D]: the rows of the seconds [t1, t2], at least one (see ``time_to_index``);
    empty if they could not be computed. Threads and processes, forked or spawned, may share one object.

    Attributes:
        rate: the number of rows per second.
        dim: the length D of a row.
    """

    def __init__(
        self, store: str, feature: str, release: int | None = None, *, output: str | None = None, hdf5: bool = True
    ) -> None:
        """Read the positions of each video's rows.

        Args:
            store: the folder or URI of the store.
            feature: the name of a feature whose rows are evenly spaced in time.
            release: the number of the release; the newest by default.
            output: the output; optional if the feature has only one.
            hdf5: whether to use an HDF5 export of the feature if there is one.

        Raises:
            SpecError: the feature or output is unknown, or has no rate.
            StoreError: the store has no such release or is damaged.
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
                f"The rows of feature {feature!r} are not evenly spaced in time; ClipWindows needs windows with fps, "
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
        """Map whole videos of the HDF5 parts; those that lost rows stay with Parquet and its ids."""
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
        """Return the call that opens it, with its content."""
        return f"ClipWindows({self._place_text}, videos={len(self)}, dim={self.dim}, rate={self.rate:g})"

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self._places)

    def __contains__(self, uid: str) -> bool:
        return uid in self._places

    def uids(self) -> list[str]:
        """Return all videos that have features."""
        return sorted(self._places)

    def length(self, uid: str) -> int:
        """Return the number of rows of a video, including those that could not be computed.

        Raises:
            KeyError: the video has no features.
        """
        place = self._place(uid)
        return place.rows if isinstance(place, _Mapped) else place.planned

    def __getitem__(self, key: tuple[str, float, float]) -> NDArray[np.float32]:
        """Return the rows for the seconds [t1, t2] of a video.

        Raises:
            KeyError: the video has no features.
            ValueError: the range ends before it or the video starts.
        """
        uid, t1, t2 = key
        place = self._place(uid)
        if isinstance(place, _Mapped):
            first, end = time_to_index(t1, t2, self.rate, place.rows)
            return self._mapped(place)[first:end].copy()
        first, end = time_to_index(t1, t2, self.rate, place.planned)
        return self._from_parts(place, first, end)

    def mean(self, uid: str, t1: float, t2: float) -> NDArray[np.float32]:
        """Return the mean of these rows, float32 [D].

        Raises:
            KeyError: the video has no features.
            ValueError: as for ``[uid, t1, t2]``, or none of the rows could be computed.
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
            # A plain view of the mapping: slices of np.memmap itself are several times slower.
            found = self._maps[place.file] = np.asarray(np.memmap(path, np.uint8, "r")).view(np.ndarray)
        end = place.offset + 4 * place.rows * self.dim
        return found[place.offset : end].view(np.float32).reshape(place.rows, self.dim)

    def _from_parts(self, place: _InParts, first: int, end: int) -> NDArray[np.float32]:
        if self._process != os.getpid():
            # A forked worker must not use its parent's open files.
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
    """Return an export of this feature and output, if the release has one."""
    declared = release.spec.get("exports") or {}
    for name, entry in release.exports.items():
        wanted = declared.get(name, {}).get("output")
        if entry.kind == "hdf5" and entry.feature == feature and wanted in (None, output):
            return entry
    return None
