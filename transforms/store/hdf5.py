"""HDF5 files of features: one dataset per uid, float32 [N, D].

A *part* has whole items: with one output a dataset is at the top as ``/<name>``, with several at ``/<output>/<name>``,
where the name is the escaped uid. Each dataset has the attributes ``fps``, ``start``, ``encoder`` and ``digest``; texts
are UTF-8 of fixed length, which h5py returns as bytes. A *master* has the same names as external links to parts in its
folder; a *single* file has copies. Links are used instead of virtual datasets, which return zeros if a part is missing,
while links raise an error.

Masters and single files may be *readable*: their names are the uids themselves (``hdf5_names.readable``), a slash in
one makes groups, and the dataset ``uids`` lists them, sorted. Their format is 2, and their attribute ``names`` says so.

Datasets are contiguous and uncompressed, so that a reader of [t1, t2) reads only those bytes. The format is that of
HDF5 1.10; no times are stored, so equal content in equal order gives equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import StoreError
from cliploom.transforms.store.hdf5_names import UIDS, escape, readable, unescape, unreadable
from cliploom.transforms.store.hdf5_output import Hdf5Output, hdf5_output
from cliploom.transforms.store.hdf5_readable import (
    Folders,
    is_readable_file,
    make_group,
    name_in,
    output_name,
    path_exists,
    utf8_names,
    walk,
    write_uids,
)

FORMAT = 1
READABLE_FORMAT = 2


@dataclass(frozen=True)
class ItemVectors:
    """The content of one item in an HDF5 file.

    Attributes:
        fps: the vectors per second; 0 if they are not evenly spaced.
        start: the time in seconds at which the first vector begins.
        encoder: the name of the encoder.
        digest: the digest of the item.
        outputs: maps output names to float32 [N, D].
    """

    uid: str
    fps: float
    start: float
    encoder: str
    digest: str
    outputs: Mapping[str, NDArray[np.float32]]


def write_hdf5_part(path: Path, items: Iterable[ItemVectors], outputs: tuple[str, ...]) -> int:
    """Write a part; memory is bounded by one item, whatever their number.

    ``path`` is written in place: use a temporary name and rename it afterwards.

    Args:
        path: the file to create.
        items: the items in storage order; each uid once, each with all ``outputs``.
        outputs: the names of the outputs to store.

    Returns:
        The number of items.

    Raises:
        ValueError: a uid is repeated, or vectors are not float32 [N, D].
        OSError: the file cannot be written completely.
    """
    count = 0
    with _create(path, outputs) as (file, output):
        writer = _Writer(file, outputs)
        for item in items:
            writer.write(item)
            output.check()
            count += 1
    return count


def write_master(path: Path, parts: Mapping[str, str], outputs: tuple[str, ...], *, is_readable: bool = False) -> None:
    """Write a master that links each uid to its part.

    Args:
        path: the file to create, in the folder to which part names are relative.
        parts: maps each uid to the name of its part, relative to the master's folder.
        outputs: the names of the outputs, as in the parts.
        is_readable: whether to name datasets by readable paths; no uid may then be a folder of another.

    Raises:
        ValueError: a part name is absolute, which would break when the store is moved.
        OSError: the file cannot be written completely.
    """
    with _create(path, outputs, is_readable=is_readable) as (file, _):
        for output, group in zip(outputs, _make_groups(file, outputs, is_readable=is_readable), strict=True):
            folders = Folders(group)
            for uid in sorted(parts):
                if Path(parts[uid]).is_absolute():
                    raise ValueError(f"the part {parts[uid]} is an absolute path; name it relative to the master")
                place = f"/{escape(output)}" if len(outputs) > 1 else ""
                where, name = folders.place(readable(uid)) if is_readable else (group, escape(uid))
                where[name] = h5py.ExternalLink(parts[uid], f"{place}/{escape(uid)}")
        if is_readable:
            write_uids(file, sorted(parts))


def write_single(path: Path, parts: Mapping[str, Path], outputs: tuple[str, ...], *, is_readable: bool = False) -> None:
    """Write one self-contained file with the items of several parts, ordered by part and uid.

    Args:
        path: the file to create.
        parts: maps each uid to its part.
        outputs: the names of the outputs, as in the parts.
        is_readable: see ``write_master``.

    Raises:
        StoreError: a part is missing, damaged, or lacks a uid.
        OSError: the file cannot be written completely.
    """
    of_part: dict[Path, list[str]] = {}
    for uid, part in parts.items():
        of_part.setdefault(part, []).append(uid)
    with _create(path, outputs, is_readable=is_readable) as (file, written):
        groups = [Folders(group) for group in _make_groups(file, outputs, is_readable=is_readable)]
        for part in sorted(of_part):
            with _open(part) as source:
                for uid in sorted(of_part[part]):
                    written.check()
                    for output, group in zip(outputs, groups, strict=True):
                        where, name = group.place(readable(uid)) if is_readable else (group.top, escape(uid))
                        _copy(_group_with(source, part, uid, output, outputs), part, uid, where, name)
        if is_readable:
            write_uids(file, sorted(parts))


def read_uid(path: Path, uid: str) -> ItemVectors:
    """Read one item from a part, a master or a single file.

    Raises:
        StoreError: the file, a linked part, or the uid is missing or damaged.
    """
    with _open(path) as file:
        return _read(file, path, uid, _outputs_of(file, path))


def read_uids(path: Path) -> list[str]:
    """Return the uids in a part, a master or a single file, sorted; linked parts are not opened.

    Raises:
        StoreError: the file is missing, damaged or not of this project.
    """
    with _open(path) as file:
        outputs = _outputs_of(file, path)
        try:
            if not is_readable_file(file):
                return sorted(unescape(name) for name in _group(file, outputs[0], len(outputs) > 1))
            found = sorted(unreadable(name) for name in walk(_group(file, outputs[0], len(outputs) > 1)))
            listed = [uid.decode("utf-8", "surrogatepass") for uid in file[UIDS][()]]
            if [uid.rstrip("\0") for uid in found] != listed:
                raise ValueError("its dataset of uids lists others than it has")
            return found
        except (KeyError, ValueError, RuntimeError, OSError) as error:
            raise _damaged(path, error) from error


class _Writer:
    """Writes items with h5py's low-level API, which takes half the time for many small items."""

    def __init__(self, file: h5py.File, outputs: tuple[str, ...]) -> None:
        self._places = list(zip(outputs, _make_groups(file, outputs), strict=True))
        self._layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        self._layout.set_obj_track_times(False)
        self._layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        self._links = utf8_names()
        self._scalar = h5py.h5s.create(h5py.h5s.SCALAR)

    def write(self, item: ItemVectors) -> None:
        """Write one item's datasets."""
        name = escape(item.uid).encode("utf-8")
        for output, group in self._places:
            vectors = item.outputs.get(output)
            if vectors is None:
                raise ValueError(
                    f"{item.uid!r} has no output {output!r}, only {', '.join(sorted(item.outputs)) or 'none'}"
                )
            if vectors.ndim != 2 or vectors.dtype != np.float32:
                raise ValueError(
                    f"{output!r} of {item.uid!r} is {vectors.dtype} {vectors.shape}; float32 [N, D] is needed"
                )
            if group.id.links.exists(name):
                raise ValueError(f"the uid {item.uid!r} comes twice; write each item once, whole")
            space = h5py.h5s.create_simple(vectors.shape)
            dataset = h5py.h5d.create(group.id, name, h5py.h5t.IEEE_F32LE, space, self._layout, self._links)
            if vectors.size:
                dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(vectors))
            for attribute, number in ((b"fps", item.fps), (b"start", item.start)):
                made = h5py.h5a.create(dataset, attribute, h5py.h5t.IEEE_F64LE, self._scalar)
                made.write(np.array(number, np.float64))
            for attribute, text in ((b"encoder", item.encoder), (b"digest", item.digest)):
                _write_text(dataset, attribute, np.array(text.encode("utf-8")), self._scalar)


@contextmanager
def _create(
    path: Path, outputs: tuple[str, ...], *, is_readable: bool = False
) -> Iterator[tuple[h5py.File, Hdf5Output]]:
    """Create a file in HDF5 1.10's format without stored times; write its attributes."""
    if not outputs:
        raise ValueError(f"{path} would hold no output; name at least one")
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    with (
        hdf5_output(path) as output,
        h5py.File(h5py.h5f.create(output.use_in(access), h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access)) as file,
    ):
        file.attrs["format"] = READABLE_FORMAT if is_readable else FORMAT
        names = np.array([name.encode("utf-8") for name in outputs])
        _write_text(file.id, b"outputs", names, h5py.h5s.create_simple(names.shape))
        if is_readable:
            _write_text(file.id, b"names", np.array(b"readable"), h5py.h5s.create(h5py.h5s.SCALAR))
        yield file, output


def _make_groups(file: h5py.File, outputs: tuple[str, ...], *, is_readable: bool = False) -> list[h5py.Group]:
    """Return the groups of the outputs' datasets: the file itself if there is one output."""
    if len(outputs) == 1:
        return [file]
    return [make_group(file, output_name(output, is_readable)) for output in outputs]


def _write_text(where: Any, name: bytes, value: NDArray[np.bytes_], space: Any) -> None:
    """Write an attribute of UTF-8 texts of fixed length, which h5py returns as bytes.

    Variable-length texts would be in HDF5's global heap, where one flipped bit can keep a reader busy forever.
    """
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(max(value.itemsize, 1))
    kind.set_cset(h5py.h5t.CSET_UTF8)
    kind.set_strpad(h5py.h5t.STR_NULLPAD)
    h5py.h5a.create(where, name, kind, space).write(value, mtype=kind)


def _open(path: Path) -> h5py.File:
    try:
        # Files never change under their final name; locks only fail on network file systems.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise _damaged(path, error) from error


def _outputs_of(file: h5py.File, path: Path) -> tuple[str, ...]:
    try:
        version, outputs = int(file.attrs["format"]), tuple(output.decode("utf-8") for output in file.attrs["outputs"])
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise _damaged(path, error) from error
    if version > READABLE_FORMAT:
        raise StoreError(
            f"The HDF5 file {path} has format {version}; this program reads up to {READABLE_FORMAT}: update cliploom."
        )
    return outputs


def _group(file: h5py.File, output: str, several: bool) -> h5py.Group:
    return file[output_name(output, is_readable_file(file))] if several else file


def _group_with(file: h5py.File, path: Path, uid: str, output: str, outputs: tuple[str, ...]) -> h5py.Group:
    """Return the group that contains the uid's dataset of an output."""
    try:
        group = _group(file, output, len(outputs) > 1)
        there = path_exists(group, name_in(file, uid))
    except (KeyError, ValueError, RuntimeError, OSError) as error:
        raise _damaged(path, error) from error
    if not there:
        raise StoreError(f"The HDF5 file {path} has no uid {uid!r}.")
    return group


def _copy(source: h5py.Group, path: Path, uid: str, target: h5py.Group, name: str) -> None:
    """Copy a dataset of a part with its attributes."""
    try:
        h5py.h5o.copy(source.id, escape(uid).encode("utf-8"), target.id, name.encode("utf-8"), lcpl=utf8_names())
    except (KeyError, ValueError, RuntimeError, OSError) as error:
        raise _damaged(path, error) from error


def _read(file: h5py.File, path: Path, uid: str, outputs: tuple[str, ...]) -> ItemVectors:
    try:
        name = name_in(file, uid)
    except (RuntimeError, OSError) as error:
        raise _damaged(path, error) from error
    found: dict[str, NDArray[np.float32]] = {}
    facts: dict[str, Any] = {}
    for output in outputs:
        group = _group_with(file, path, uid, output, outputs)
        link = group.get(name, getlink=True)
        try:
            dataset = group[name]
            if not isinstance(dataset, h5py.Dataset):
                raise StoreError(f"The HDF5 file {path} has no uid {uid!r}, but a folder of that name.")
            found[output] = dataset[()]
            facts = dict(dataset.attrs)
        except (KeyError, ValueError, RuntimeError, OSError) as error:
            if isinstance(link, h5py.ExternalLink):
                part = path.parent / link.filename
                raise StoreError(
                    f"The HDF5 file {path} links {uid!r} to {part}, which is missing or damaged."
                ) from error
            raise _damaged(path, error) from error
    try:
        encoder, digest = (facts[name].decode("utf-8") for name in ("encoder", "digest"))
        return ItemVectors(uid, float(facts["fps"]), float(facts["start"]), encoder, digest, found)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(f"The HDF5 file {path} is missing, damaged, or not written by cliploom ({error}).")
