"""Reads ``.npy`` and ``.npz`` files, checking headers before allocating memory; nothing is unpickled.

numpy itself allocates what a header claims, loops over elements of zero bytes, and raises tokenizer errors on damaged
headers. The layout is described in ``numpy.lib.format``.
"""

from __future__ import annotations

import math
import os
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.sizes import too_large
from cliploom.transforms.literals import parse_literal
from cliploom.transforms.store.zip_files import open_zip

MAX_HEADER_BYTES = 64 * 1024
MAX_MEMBERS = 10_000
MAX_DIMENSIONS = 16
_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
_DTYPE = re.compile(r"[<>|=]?(?:[?]|b1|[iufc]\d{1,2})")
_LONG = re.compile(r"(\d)L\b")
_CHUNK = 16 * 1024 * 1024


class ArrayFileError(ValueError):
    """The file has no readable array; the message is a sentence that names the file."""


class NoSuchArrayError(ArrayFileError):
    """The archive has no array with that name."""


def read_npy(path: Path) -> NDArray[Any]:
    """Read a ``.npy`` file of numbers.

    Raises:
        ArrayFileError: the file is damaged, has objects or records, or is too large when unpacked.
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return _read(stream, os.fstat(stream.fileno()).st_size, str(path))


def npy_shape(path: Path) -> tuple[int, ...]:
    """Return the shape in a ``.npy`` header; raises the errors of ``read_npy``."""
    with path.open("rb") as stream:
        return _checked_shape(stream, os.fstat(stream.fileno()).st_size, str(path))


def npz_names(path: Path) -> list[str]:
    """Return the names of the arrays in an ``.npz`` file, in file order.

    Raises:
        ArrayFileError: the file is not a zip archive.
        OSError: the file cannot be read.
    """
    with _open(path) as archive:
        return list(_members(archive, path))


def read_npz(path: Path, name: str) -> NDArray[Any]:
    """Read one array of an ``.npz`` file.

    Raises:
        NoSuchArrayError: there is no array with that name.
        ArrayFileError: see ``read_npy``.
        OSError: the file cannot be read.
    """
    with _open(path) as archive:
        info = _member(archive, path, name)
        problem = too_large(info.file_size, f"{path}:{name}")
        if problem is not None:
            raise ArrayFileError(problem)
        try:
            with archive.open(info) as stream:
                return _read(stream, info.file_size, f"{path}:{name}")
        except _BROKEN_ZIP as error:
            raise ArrayFileError(f"{path}:{name} can't be read ({type(error).__name__}: {error}).") from None


def npz_shape(path: Path, name: str) -> tuple[int, ...]:
    """Return the shape in the header of an array in an ``.npz`` file; raises the errors of ``read_npz``."""
    with _open(path) as archive:
        info = _member(archive, path, name)
        try:
            with archive.open(info) as stream:
                return _checked_shape(stream, info.file_size, f"{path}:{name}")
        except _BROKEN_ZIP as error:
            raise ArrayFileError(f"{path}:{name} can't be read ({type(error).__name__}: {error}).") from None


def _broken_zip() -> tuple[type[Exception], ...]:
    import lzma
    import zlib

    # RuntimeError: an encrypted member; NotImplementedError: an unknown compression method.
    return (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError)


_BROKEN_ZIP = _broken_zip()


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return open_zip(path)
    except (zipfile.BadZipFile, EOFError, ValueError, OverflowError, NotImplementedError, UnicodeDecodeError) as error:
        raise ArrayFileError(f"{path} can't be read as .npz ({type(error).__name__}: {error}).") from None


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise ArrayFileError(f"{path} holds {len(infos)} files; at most {MAX_MEMBERS} arrays are read.")
    return {info.filename.removesuffix(".npy"): info for info in infos}


def _member(archive: zipfile.ZipFile, path: Path, name: str) -> zipfile.ZipInfo:
    members = _members(archive, path)
    if name not in members:
        raise NoSuchArrayError(f"{path} holds no array '{name}', but {', '.join(members)}; correct the key.")
    return members[name]


def _read(stream: IO[bytes], size: int, name: str) -> NDArray[Any]:
    dtype, shape, fortran, start = _header(stream, size, name)
    count, wanted = _claimed(dtype, shape, size - start, name)
    if not wanted:
        return np.empty(shape, dtype)
    data = bytearray(wanted)
    view, at = memoryview(data), 0
    while at < wanted:
        piece = stream.read(min(_CHUNK, wanted - at))
        if not piece:
            raise ArrayFileError(f"{name} can't be read: it ends after {at} of {wanted} bytes; copy it again.")
        view[at : at + len(piece)] = piece
        at += len(piece)
    flat = np.frombuffer(data, dtype, count)
    return flat.reshape(shape, order="F" if fortran else "C")


def _claimed(dtype: np.dtype[Any], shape: tuple[int, ...], left: int, name: str) -> tuple[int, int]:
    """Return (values, bytes) from a header, after checking that they exist and are within the limit."""
    count = math.prod(shape)
    wanted = count * dtype.itemsize
    if wanted > left:
        raise ArrayFileError(
            f"{name} can't be read: its header claims {_shown(wanted)} bytes, but {left} follow; copy it again."
        )
    problem = too_large(wanted, name)
    if problem is not None:
        raise ArrayFileError(problem)
    return count, wanted


def _checked_shape(stream: IO[bytes], size: int, name: str) -> tuple[int, ...]:
    dtype, shape, _, start = _header(stream, size, name)
    _claimed(dtype, shape, size - start, name)
    return shape


def _header(stream: IO[bytes], size: int, name: str) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Return (dtype, shape, column-major, offset of the values), all checked, without allocating memory for values."""
    magic = stream.read(8)
    if len(magic) < 8 or not magic.startswith(_MAGIC):
        raise ArrayFileError(f"{name} can't be read: it is not an .npy file, which starts with \\x93NUMPY.")
    width = _LENGTH_BYTES.get(magic[6])
    if width is None:
        raise ArrayFileError(f"{name} can't be read: its .npy format version is {magic[6]}; 1 to 3 are supported.")
    field = stream.read(width)
    length = int.from_bytes(field, "little")
    start = 8 + width + length
    if len(field) < width or start > size:
        raise ArrayFileError(f"{name} can't be read: it ends within its header; copy it again.")
    if length > MAX_HEADER_BYTES:
        raise ArrayFileError(f"{name} can't be read: its header has {length} bytes, more than {MAX_HEADER_BYTES}.")
    text = stream.read(length).decode("utf-8" if magic[6] == 3 else "latin1", "replace")
    try:
        # Python 2 wrote integers as 3L.
        found = parse_literal(_LONG.sub(r"\1", text).strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ArrayFileError(f"{name} can't be read: its header is not a Python literal ({text[:60]!r}).") from None
    if not isinstance(found, dict) or found.keys() != {"descr", "fortran_order", "shape"}:
        raise ArrayFileError(f"{name} can't be read: its header lacks descr, fortran_order, shape ({text[:60]!r}).")
    return _dtype(found["descr"], name), _shape(found["shape"], name), found["fortran_order"] is True, start


def _dtype(descr: object, name: str) -> np.dtype[Any]:
    if isinstance(descr, str) and _DTYPE.fullmatch(descr):
        try:
            dtype = np.dtype(descr)
        except TypeError:
            dtype = np.dtype("V0")
        if dtype.itemsize and not dtype.hasobject:
            return dtype
    raise ArrayFileError(f"{name} has {_shown(descr)} values; only plain numbers are supported: save a float32 array.")


def _shape(shape: object, name: str) -> tuple[int, ...]:
    whole = isinstance(shape, tuple) and all(isinstance(n, int) and not isinstance(n, bool) for n in shape)
    if not whole or not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
        raise ArrayFileError(f"{name} can't be read: its header has the shape {_shown(shape)}.")
    if min(shape, default=0) < 0 or max(shape, default=0) >= 2**62:
        raise ArrayFileError(f"{name} can't be read: its header has a length below 0 or beyond 2^62.")
    return shape


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer with thousands of digits
        return "unreadable"
    return text if len(text) <= 60 else f"{text[:57]}..."
