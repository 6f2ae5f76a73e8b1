"""Readable HDF5 files: groups from the slashes in uids, and the dataset that lists the uids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import numpy as np

from cliploom.transforms.store.hdf5_names import UIDS, escape, readable

_UIDS_AT_ONCE = 65_536
_UIDS_IN_CHUNK = 4_096
_FOLDERS_OPEN = 1_000


class Folders:
    """The groups of readable paths; they store no creation times, so equal content gives equal bytes."""

    def __init__(self, top: h5py.Group) -> None:
        self.top = top
        self._made: dict[str, h5py.Group] = {"": top}

    def place(self, path: str) -> tuple[h5py.Group, str]:
        """Return the group of a path's dataset, and the dataset's name in it."""
        folder, _, name = path.rpartition("/")
        return self._group(folder), name

    def _group(self, path: str) -> h5py.Group:
        found = self._made.get(path)
        if found is not None:
            return found
        if len(self._made) > _FOLDERS_OPEN:
            self._made = {"": self.top}
        found = self.top
        for name in path.split("/"):
            known = found.id.links.exists(name.encode("utf-8"))
            found = found[name] if known else make_group(found, name)
        self._made[path] = found
        return found


def make_group(where: h5py.Group, name: str) -> h5py.Group:
    """Create a group without creation times."""
    creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    creation.set_obj_track_times(False)
    return h5py.Group(h5py.h5g.create(where.id, name.encode("utf-8"), utf8_names(), creation))


def write_uids(file: h5py.File, uids: Sequence[str]) -> None:
    """Write the dataset that lists the uids as fixed-length UTF-8, which ``asstr()`` decodes."""
    data = [uid.encode("utf-8", "surrogatepass") for uid in uids]
    width = max(map(len, data), default=1)
    layout = {"chunks": (min(len(data), _UIDS_IN_CHUNK),), "compression": "gzip"} if data else {}
    kind = h5py.string_dtype("utf-8", width)
    dataset = file.create_dataset(UIDS, (len(data),), kind, track_times=False, **layout)
    for at in range(0, len(data), _UIDS_AT_ONCE):
        some = data[at : at + _UIDS_AT_ONCE]
        dataset[at : at + len(some)] = np.array(some, kind)


def walk(top: h5py.Group) -> Iterator[str]:
    """Return the paths of the datasets and links below a group of a readable file."""
    pending = [(top, "")]
    while pending:
        group, prefix = pending.pop()
        for name in group:
            link = group.get(name, getlink=True)
            kind = group.get(name, getclass=True) if isinstance(link, h5py.HardLink) else None
            if kind is h5py.Group:
                pending.append((group[name], f"{prefix}{name}/"))
            elif prefix or name != UIDS or kind is not h5py.Dataset:
                yield prefix + name


def utf8_names() -> Any:
    """Return the property list that makes names of links UTF-8."""
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_char_encoding(h5py.h5t.CSET_UTF8)
    return links


def output_name(output: str, is_readable: bool) -> str:
    """Return the name of an output's group; never a path."""
    return readable(output).replace("/", "%2F") if is_readable else escape(output)


def is_readable_file(file: h5py.File) -> bool:
    """Return whether a file that cliploom wrote names datasets by readable paths."""
    return "names" in file.attrs


def name_in(file: h5py.File, uid: str) -> str:
    """Return the name of a uid in a file."""
    return readable(uid) if is_readable_file(file) else escape(uid)


def path_exists(group: h5py.Group, path: str) -> bool:
    """Return whether a group contains a path, whose last piece may be a dangling link."""
    pieces = path.encode("utf-8").split(b"/")
    return all(group.id.links.exists(b"/".join(pieces[: at + 1])) for at in range(len(pieces)))
