"""The training pairs of two towers: read by number, with the video and the text of each.

An export of pairs is read through ``cliploom.transforms.readers.pair_reading``; features that the head names itself are
joined into two memory-mapped files of vectors on local disk. Memory: 16 bytes per pair.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import h5py
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliploom.schemas.errors import SpecError, StoreError
from cliploom.schemas.release import Release
from cliploom.schemas.vector_heads import TRAIN, VALIDATION, TwoTowerSpec
from cliploom.transforms.heads.dataset import mapped, split_of_video
from cliploom.transforms.narrations.pair_files import PairsTask
from cliploom.transforms.readers.local_files import kept_copy
from cliploom.transforms.readers.pair_reading import Pairs
from cliploom.transforms.store.object_store import ObjectStore

_DONE = "pairs.json"
_META = "meta.npz"


class Vectors(Protocol):
    """Pairs of vectors, read by number."""

    def batch(self, indices: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return clip vectors float32 [B, D] and text vectors float32 [B, E]."""
        ...


@dataclass(frozen=True)
class PairSet:
    """A selection of pairs from a source of vectors.

    Attributes:
        numbers: the numbers of the pairs in ``vectors``, int64 [n].
        videos: a number per video, int64 [n].
        texts: a number per distinct text, int64 [n].
    """

    vectors: Vectors
    numbers: NDArray[np.int64]
    videos: NDArray[np.int64]
    texts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, places: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the clip and text vectors of the pairs at these positions."""
        return self.vectors.batch(self.numbers[places])  # type: ignore[arg-type]

    def chosen(self, most: int, seed: int) -> PairSet:
        """Return a seeded choice of at most this many pairs, in their order."""
        if len(self) <= most:
            return self
        places = np.sort(np.random.default_rng([seed, 1]).choice(len(self), most, replace=False))
        return PairSet(self.vectors, self.numbers[places], self.videos[places], self.texts[places])


@dataclass(frozen=True)
class _Meta:
    """The uid and the text number of each pair."""

    uids: NDArray[np.str_]
    texts: NDArray[np.int64]


def text_number(text: str) -> int:
    """Return a number that is equal for equal texts."""
    data = text.encode("utf-8", "replace")
    return zlib.crc32(data) << 20 ^ zlib.adler32(data)


def exported_pairs(objects: ObjectStore, release: Release, spec: TwoTowerSpec) -> dict[str, PairSet]:
    """Return the pairs of an export, for training and for validation.

    Args:
        objects: the store.
        release: the release that has the export.
        spec: the spec of the head.

    Raises:
        StoreError: the release has no such export, or its files are damaged.
    """
    name = str(spec.pairs)
    entry = release.exports.get(name)
    if entry is None:
        raise StoreError(f"Release {release.release} has no export {name!r}; create it with `cliploom run SPEC`.")
    manifest = json.loads(objects.get(entry.files[0].path))
    folder = PurePosixPath(entry.files[0].path)
    known = {split for split, held in manifest["splits"].items() if held["pairs"]}
    if TRAIN not in known:
        raise SpecError(
            f"The export of pairs {name!r} has no pairs in a split 'train' "
            f"({', '.join(sorted(known)) or 'it is empty'}); add one with this name under its splits."
        )
    found = {}
    for role, split in ((TRAIN, TRAIN), (VALIDATION, spec.validation)):
        if split in known and not (role == VALIDATION and split == TRAIN):
            paths = [str(folder.with_name(file["name"])) for file in manifest["splits"][split]["files"]]
            found[role] = Pairs(objects.uri, name, split, release.release), _meta_of(objects, paths)
    return _sets(found, spec)


def joined_pairs(
    tasks: Mapping[str, Iterable[PairsTask]],
    objects: ObjectStore,
    spec: TwoTowerSpec,
    folder: Path,
    on_stage: Callable[[str], None],
) -> dict[str, PairSet]:
    """Return the pairs of features that a head names itself; join them into a folder of local files if necessary.

    Args:
        tasks: the tasks by split, as for an export of pairs.
        objects: the store.
        spec: the spec of the head.
        folder: the folder for the files; created if missing. One with ``pairs.json`` is complete.
        on_stage: a callback that receives progress messages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / _DONE
    if not done.exists():
        sizes = {}
        for split, parts in tasks.items():
            uids: list[str] = []
            texts: list[int] = []
            dims = [0, 0]
            with (folder / f"{split}.clip.f32").open("wb") as clips, (folder / f"{split}.text.f32").open("wb") as other:
                for task in parts:
                    for pairs, features, embeddings in task.batches(objects):
                        clips.write(features.tobytes())
                        other.write(embeddings.tobytes())
                        uids += [uid for uid, _ in pairs]
                        texts += [text_number(pair.narration.text) for _, pair in pairs]
                        dims = [features.shape[1], embeddings.shape[1]]
                    on_stage(f"{split}: {len(uids):,} pairs joined")
            np.savez(folder / f"{split}.{_META}", uids=np.array(uids, np.str_), texts=np.array(texts, np.int64))
            sizes[split] = dims
        done.write_text(json.dumps(sizes), encoding="utf-8")
    sizes = json.loads(done.read_text(encoding="utf-8"))
    found = {}
    for role, split in ((TRAIN, TRAIN), (VALIDATION, spec.validation)):
        if split in sizes and not (role == VALIDATION and split == TRAIN):
            with np.load(folder / f"{split}.{_META}", allow_pickle=False) as file:
                meta = _Meta(file["uids"], file["texts"])
            if len(meta.uids):
                found[role] = _Mapped(folder, split, len(meta.uids), *sizes[split]), meta
    return _sets(found, spec)


class _Mapped:
    """Two memory-mapped files of vectors."""

    def __init__(self, folder: Path, split: str, rows: int, clip_dim: int, text_dim: int) -> None:
        self._clips = mapped(folder / f"{split}.clip.f32", rows, clip_dim)
        self._texts = mapped(folder / f"{split}.text.f32", rows, text_dim)

    def batch(self, indices: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See ``Vectors``."""
        places = np.asarray(indices, np.int64)
        return np.array(self._clips[places]), np.array(self._texts[places])


def _sets(found: Mapping[str, tuple[Vectors, _Meta]], spec: TwoTowerSpec) -> dict[str, PairSet]:
    """Return the training and validation pairs: from their own splits, or by hash of the uid."""
    whole = {role: _set_of(vectors, meta, np.ones(len(meta.uids), np.bool_)) for role, (vectors, meta) in found.items()}
    if VALIDATION in whole or TRAIN not in whole:
        return whole
    vectors, meta = found[TRAIN]
    held = {uid: split_of_video(str(uid), spec.held_out, spec.seed) == VALIDATION for uid in np.unique(meta.uids)}
    chosen = np.array([held[uid] for uid in meta.uids], np.bool_)
    return {TRAIN: _set_of(vectors, meta, ~chosen), VALIDATION: _set_of(vectors, meta, chosen)}


def _set_of(vectors: Vectors, meta: _Meta, chosen: NDArray[np.bool_]) -> PairSet:
    _, videos = np.unique(meta.uids, return_inverse=True)
    return PairSet(vectors, np.flatnonzero(chosen), videos.astype(np.int64)[chosen], meta.texts[chosen])


def _meta_of(objects: ObjectStore, paths: Sequence[str]) -> _Meta:
    """Return the uids and texts of the pairs in some files, in their order."""
    uids: list[str] = []
    texts: list[int] = []
    for path in paths:
        local = kept_copy(objects, path)
        try:
            if local.suffix == ".parquet":
                columns = pq.read_table(local, columns=["uid", "text"])
                uids += columns["uid"].to_pylist()
                texts += [text_number(text) for text in columns["text"].to_pylist()]
            else:
                with h5py.File(local, "r", locking=False) as file:
                    meta = json.loads(file["meta"][()].tobytes())
                uids += [each["uid"] for each in meta]
                texts += [text_number(each.get("text", each.get("txt", ""))) for each in meta]
        except (OSError, KeyError, ValueError) as error:
            raise StoreError(f"{path} is missing or damaged ({error}); see `cliploom verify`.") from None
    return _Meta(np.array(uids, np.str_), np.array(texts, np.int64))


def order_of(pairs: PairSet, group: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the positions of all pairs in the order of an epoch.

    Args:
        pairs: the training pairs.
        group: the number of consecutive pairs of one video; 1 for any order.
        seed: the seed of the order.
        epoch: the number of the epoch.
    """
    random = np.random.default_rng([seed, epoch])
    if group <= 1:
        return random.permutation(len(pairs)).astype(np.int64)
    mixed = random.permutation(len(pairs))
    ordered = mixed[np.argsort(pairs.videos[mixed], kind="stable")]
    _, starts = np.unique(pairs.videos[ordered], return_index=True)
    lengths = np.diff([*starts, len(ordered)])
    within = np.arange(len(ordered)) - np.repeat(starts, lengths)
    # Each run of `group` pairs of a video is a block; blocks are shuffled.
    blocks = np.repeat(starts, lengths) + within // group * group
    _, numbers = np.unique(blocks, return_inverse=True)
    places = random.permutation(int(numbers.max()) + 1 if len(numbers) else 0)
    return ordered[np.argsort(places[numbers], kind="stable")].astype(np.int64)
