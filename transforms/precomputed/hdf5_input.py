"""Reads untrusted HDF5 files: never leaves the source's files, and checks sizes before allocating memory.

HDF5 lets a file refer to other files: external links, external storage, virtual datasets. A malicious feature file
could thus copy any readable file into the store. Links are therefore resolved here and not by HDF5: soft links within
the file, external links to files in the same folder. Everything else is rejected.
"""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas import sizes
from cliploom.schemas.errors import ItemError
from cliploom.schemas.sizes import too_large

MAX_LINKS = 32
MAX_DEPTH = 64
_DEFLATE_AT_MOST = 1032
"""Maximum number of bytes that one byte of deflate can expand to."""
_LARGE_CHUNK_BYTES = 64 * 1024**2
"""Maximum size of a chunk relative to its dataset; larger ones waste memory and time."""
_COMPRESSORS = frozenset({h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SZIP, h5py.h5z.FILTER_LZF, *range(256, 65536)})
UIDS = "uids"
"""The dataset in which cliploom's own masters and single files list their uids."""


class OutsideError(ItemError):
    """The file refers to a file outside the source."""


def dataset_names(path: Path, group: str) -> Iterator[str]:
    """Yield the names of the datasets and links below a group, relative to it.

    Links are not followed, so that a missing file fails only for its own uid.

    Raises:
        KeyError: there is no such group.
        ItemError: groups contain each other.
        OSError, RuntimeError: the file is damaged.
    """
    with ExitStack() as files:
        root = _resolve(files, path, group)
        if not isinstance(root, h5py.Group):
            raise KeyError(group)
        seen: set[int] = set()
        pending = deque([(root, "", 0)])
        while pending:
            node, prefix, depth = pending.popleft()
            where = h5py.h5o.get_info(node.id).addr
            if where in seen or depth > MAX_DEPTH:
                raise ItemError("read", f"{path}: the group '{prefix}' contains itself or occurs in two places.")
            seen.add(where)
            for name in node:
                link = node.get(name, getlink=True)
                kind = node.get(name, getclass=True) if isinstance(link, h5py.HardLink) else None
                if kind is h5py.Group:
                    pending.append((node[name], f"{prefix}{name}/", depth + 1))
                elif not (name == UIDS and depth == 0 and kind is h5py.Dataset and _is_text(node[name])):
                    yield f"{prefix}{name}"


def _is_text(dataset: h5py.Dataset) -> bool:
    return bool(dataset.id.get_type().get_class() == h5py.h5t.STRING)


@contextmanager
def opened_dataset(path: Path, name: str) -> Iterator[h5py.Dataset]:
    """Open a dataset of numbers that can be read completely.

    Raises:
        OutsideError: the file refers to a file outside the source.
        ItemError: it is not a dataset of numbers, is incomplete, or is too large when unpacked.
        KeyError: it, or the file that it links to, does not exist.
        OSError, RuntimeError: the file is damaged.
    """
    with ExitStack() as files:
        dataset = _resolve(files, path, name)
        shown = f"{path}:{name}"
        if not isinstance(dataset, h5py.Dataset):
            raise ItemError("read", f"{shown} is not a dataset.")
        _check(dataset, shown)
        yield dataset


def read_dataset(path: Path, name: str) -> NDArray[Any]:
    """Return all values of a dataset; see ``opened_dataset``."""
    with opened_dataset(path, name) as dataset:
        values: NDArray[Any] = dataset[()]
        return values


def _resolve(files: ExitStack, path: Path, name: str) -> Any:
    """Return the object with a name, resolving every link here; files stay open as long as ``files``."""
    file = files.enter_context(h5py.File(path, "r"))
    node: Any = file
    pending = deque(_pieces(name))
    links = 0
    while pending:
        piece = pending.popleft()
        if not isinstance(node, h5py.Group):
            raise KeyError(name)
        if not node.id.links.exists(piece.encode("utf-8", "surrogateescape")):
            raise KeyError(name)
        link = node.get(piece, getlink=True)
        if isinstance(link, h5py.HardLink):
            node = node[piece]
            continue
        links += 1
        if links > MAX_LINKS:
            raise ItemError("read", f"{path}:{name} is behind more than {MAX_LINKS} links.")
        if isinstance(link, h5py.SoftLink):
            node = node.file if link.path.startswith("/") else node
            pending.extendleft(reversed(_pieces(link.path)))
            continue
        if not isinstance(link, h5py.ExternalLink):
            raise OutsideError("read", f"{path}:{name} is a link of an unknown kind, which is not followed.")
        path = _linked(path, name, link.filename)
        if not path.is_file():
            raise KeyError(name)
        node = files.enter_context(h5py.File(path, "r"))
        pending.extendleft(reversed(_pieces(link.path)))
    return node


def _pieces(name: str) -> list[str]:
    return [piece for piece in name.split("/") if piece not in ("", ".")]


def _linked(path: Path, name: str, target: str) -> Path:
    """Return the file of an external link if it is in the same folder as the file with the link."""
    folder = path.parent.resolve()
    found = (folder / target).resolve()
    if PurePath(target).is_absolute() or "\0" in target or not found.is_relative_to(folder):
        raise OutsideError(
            "read",
            f"{path}:{name} links to {target!r}, outside the folder of its file or by an absolute path; only relative "
            "links within that folder are followed: copy the data into the file.",
        )
    return found


def _check(dataset: h5py.Dataset, name: str) -> None:
    layout = dataset.id.get_create_plist()
    if layout.get_external_count():
        raise OutsideError(
            "read", f"{name} keeps its values in other files (external storage); copy them into the HDF5 file."
        )
    if layout.get_layout() == h5py.h5d.VIRTUAL:
        raise OutsideError(
            "read", f"{name} is a virtual dataset, made of other datasets; copy the values into the HDF5 file."
        )
    kind = dataset.id.get_type()
    if kind.get_class() not in (h5py.h5t.FLOAT, h5py.h5t.INTEGER) or kind.get_size() > 16:
        raise ItemError("read", f"{name} does not have plain numbers; float16, float32 or float64 is read.")
    if dataset.shape is None:
        raise ItemError("read", f"{name} is an empty dataset; [N, D] or [N, 1, D] is read.")
    size = math.prod(dataset.shape) * kind.get_size()
    problem = too_large(size, name)
    if problem is not None:
        raise ItemError("read", problem)
    if size and layout.get_layout() == h5py.h5d.CHUNKED:
        _check_chunks(dataset, layout, name, kind.get_size())
    elif size and layout.get_layout() == h5py.h5d.CONTIGUOUS:
        offset = dataset.id.get_offset()
        if offset is None:
            raise ItemError("read", f"{name} was never written; its values would be made up.")
        if offset + size > Path(dataset.file.filename).stat().st_size:
            raise ItemError("read", f"{name} reaches beyond the end of its file; copy the file again.")


def _check_chunks(dataset: h5py.Dataset, layout: Any, name: str, width: int) -> None:
    chunk = math.prod(dataset.chunks) * width
    problem = too_large(chunk, f"a chunk of {name}")
    if problem is not None:
        raise ItemError("read", problem)
    whole = math.prod(dataset.shape) * width
    if chunk > max(_LARGE_CHUNK_BYTES, whole):
        raise ItemError(
            "read",
            f"a chunk of {name} unpacks to {chunk} bytes, of which {whole} are used; write it in smaller chunks.",
        )
    expected = math.prod(-(-rows // step) for rows, step in zip(dataset.shape, dataset.chunks, strict=True))
    written = dataset.id.get_num_chunks()
    if written < expected:
        raise ItemError("read", f"{name} has {written} of its {expected} chunks; the others were never written.")
    compressors = [n for n in range(layout.get_nfilters()) if layout.get_filter(n)[0] in _COMPRESSORS]
    if len(compressors) > 1:
        raise ItemError("read", f"{name} is compressed more than once; write it with one compression.")
    if not compressors or layout.get_filter(compressors[0])[0] != h5py.h5z.FILTER_DEFLATE:
        return
    large: list[tuple[int, ...]] = []

    def look(found: Any) -> None:
        if found.size * _DEFLATE_AT_MOST > sizes.MAX_UNPACKED_BYTES:
            large.append(found.chunk_offset)

    dataset.id.chunk_iter(look)
    for place in large:
        mask, data = dataset.id.read_direct_chunk(place)
        if not mask & (1 << compressors[0]) and _inflated(data, chunk) > chunk:
            raise ItemError("read", f"a chunk of {name} unpacks to more than its {chunk} bytes; write it again.")


def _inflated(data: bytes, most: int) -> int:
    """Return the bytes that a deflate stream expands to; slightly more than ``most`` if there are more."""
    stream, size = zlib.decompressobj(), 0
    while size <= most and not stream.eof:
        try:
            piece = stream.decompress(data, 1 << 20)
        except zlib.error:
            break  # damaged: HDF5 reports it
        if not piece:
            break
        size, data = size + len(piece), stream.unconsumed_tail
    return size


def shape_of(path: Path, name: str) -> tuple[int, ...]:
    """Return the shape of a dataset; see ``opened_dataset``."""
    with opened_dataset(path, name) as dataset:
        return tuple(dataset.shape)


def contiguous_bytes(values: NDArray[Any]) -> memoryview | bytes:
    """Return the bytes of an array, without copying if it is contiguous."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(np.uint8).data if flat.size else b""
