"""Reads PyTorch checkpoints (``.pt``, ``.pth``) without PyTorch and without running code from them.

A checkpoint is a pickle that refers to raw storages. There are two container formats: the zip archive of PyTorch 1.6
and later (``<name>/data.pkl`` and ``<name>/data/<key>``) and the older stream of five pickles followed by the storages.
Both are described by ``torch/serialization.py``. This unpickler allows only tensor rebuilding, storage types and
``OrderedDict``; any other name in the pickle is rejected before anything is called.

It is based on Python's own unpickler, not the faster one in C, which allocates as much memory as memo numbers in the
pickle say and hashes nested tuples in dicts, which can take forever. Sizes are checked before storages are read.
"""

from __future__ import annotations

import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.sizes import too_large
from cliploom.transforms.store.zip_files import open_zip

MAX_PICKLE_BYTES = 4 * 1024 * 1024
"""Limit for the pickle, which only refers to the storages: about 100 bytes per tensor."""

MAX_DIMENSIONS = 64
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LEGACY_LITTLE = "little_endian"

_DTYPES: Mapping[str, str] = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


class CheckpointError(ValueError):
    """The file is not a checkpoint, is damaged, or contains more than tensors and plain containers."""


# Objects accessible to a pickle have no __dict__, no __setstate__ and are callable only if intended: otherwise
# pickle's # BUILD instruction would let a file change them.
class _StorageType(NamedTuple):
    """A replacement for ``torch.FloatStorage`` and the like."""

    dtype: str


class _Storage(NamedTuple):
    dtype: str
    key: str
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def load_checkpoint(path: Path) -> Any:
    """Read a checkpoint, with numpy arrays instead of tensors.

    Args:
        path: the path of a file written by ``torch.save`` in either container format.

    Returns:
        The saved object: a read-only array, or dicts, lists and tuples of arrays, numbers and texts. bfloat16 is
        converted to float32, other dtypes are kept.

    Raises:
        CheckpointError: the file is not a checkpoint, is truncated, or refers to anything but tensors.
        OSError: the file cannot be opened.
    """
    try:
        if zipfile.is_zipfile(path):
            return _load_zip(path)
        with path.open("rb") as stream:
            return _load_legacy(stream)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError, ValueError, TypeError, AttributeError,
        IndexError, RecursionError, OverflowError, MemoryError, NotImplementedError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{path} is not a readable PyTorch checkpoint ({type(error).__name__}: {error})."
        ) from None


def _load_zip(path: Path) -> Any:
    with open_zip(path) as archive:
        pickles = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError("the archive holds no single data.pkl, so it is not a PyTorch checkpoint.")
        root = pickles[0].filename[: -len("data.pkl")]
        if f"{root}byteorder" in archive.namelist() and _member(archive, f"{root}byteorder") != b"little":
            raise CheckpointError("written on a big-endian machine; save it again on a little-endian one.")
        if pickles[0].file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"its pickle of {pickles[0].file_size} bytes is beyond {MAX_PICKLE_BYTES}.")
        with archive.open(pickles[0]) as stream:
            tree = _unpickler(stream).load()

        def read(storage: _Storage) -> bytes:
            return _member(archive, f"{root}data/{storage.key}")

        return _Resolver(read).resolve(tree)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"'{name}' is compressed, which torch.save never does.")
    problem = too_large(info.file_size, f"'{name}'")
    if problem is not None:
        raise CheckpointError(problem)
    return archive.read(info)


def _load_legacy(stream: IO[bytes]) -> Any:
    if stream.read(1) != b"\x80":
        raise CheckpointError("neither a zip archive nor a pickle, so it is not a PyTorch checkpoint.")
    stream.seek(0)
    magic, protocol, system = (_unpickler(stream).load() for _ in range(3))
    if magic != _LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
        raise CheckpointError("a pickle, but not a PyTorch checkpoint.")
    if not isinstance(system, dict) or system.get(_LEGACY_LITTLE) is not True:
        raise CheckpointError("written on a big-endian machine; save it again on a little-endian one.")
    unpickler = _unpickler(stream)
    tree = unpickler.load()
    storages = {storage.key: storage for storage in unpickler.storages}
    blobs: dict[str, bytes] = {}
    end, taken = os.fstat(stream.fileno()).st_size, 0
    for key in _unpickler(stream).load():
        if not isinstance(key, str) or key not in storages:
            raise CheckpointError("it lists a storage that its pickle does not name.")
        storage = storages[key]
        length = int.from_bytes(stream.read(8), "little")
        if length != storage.length:
            raise CheckpointError(f"storage {key} has {length} elements where the pickle says {storage.length}.")
        size = length * _width(storage.dtype)
        if size > end - stream.tell():
            raise CheckpointError(f"storage {key} of {length} elements is cut to {end - stream.tell()} bytes.")
        taken += size
        problem = too_large(taken, "it")
        if problem is not None:
            raise CheckpointError(problem)
        blobs[key] = stream.read(size)
    return _Resolver(lambda storage: blobs[storage.key]).resolve(tree)


class _Bounded:
    """A stream that returns at most ``MAX_PICKLE_BYTES``, and never allocates more memory than it has bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = MAX_PICKLE_BYTES

    def read(self, size: int) -> bytes:
        return self._counted(self._stream.read(min(size, self._left + 1)))

    def readline(self) -> bytes:
        return self._counted(self._stream.readline(self._left + 1))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise CheckpointError(f"its pickle is longer than {MAX_PICKLE_BYTES} bytes.")
        return data


def _unpickler(stream: IO[bytes]) -> _TensorUnpickler:
    return _TensorUnpickler(_Bounded(stream))


class _TensorUnpickler(pickle._Unpickler):
    """An unpickler that only accepts names in ``_ALLOWED`` and the storage types."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, stream: _Bounded) -> None:
        # latin1, as PyTorch reads checkpoints that Python 2 wrote
        super().__init__(stream, encoding="latin1")
        self.storages: list[_Storage] = []

    def _load_other(self) -> None:
        raise CheckpointError("it holds a set or a buffer; only tensors, dicts, lists and numbers are read.")

    def _load_dict(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.append(_filled({}, items))  # type: ignore[attr-defined]

    def _load_setitem(self) -> None:
        value = self.stack.pop()  # type: ignore[attr-defined]
        key = self.stack.pop()  # type: ignore[attr-defined]
        _filled(self.stack[-1], [key, value])  # type: ignore[attr-defined]

    def _load_setitems(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        _filled(self.stack[-1], items)  # type: ignore[attr-defined]

    dispatch[pickle.DICT[0]] = _load_dict
    dispatch[pickle.SETITEM[0]] = _load_setitem
    dispatch[pickle.SETITEMS[0]] = _load_setitems
    for _opcode in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8, pickle.NEXT_BUFFER):
        dispatch[_opcode[0]] = _load_other

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is not None:
            return found
        if module == "torch" and name in _DTYPES:
            return _StorageType(_DTYPES[name])
        raise CheckpointError(
            f"the pickle names {module}.{name}, which is not a tensor; it was not run. Save only the state dict."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        tag, kind, key, _location, length = pid[:5]
        plain = isinstance(key, str) and isinstance(length, int)
        if tag != "storage" or not plain or not isinstance(kind, _StorageType) or (len(pid) > 5 and pid[5] is not None):
            raise CheckpointError("the pickle refers to something other than a storage.")
        storage = _Storage(kind.dtype, key, length)
        self.storages.append(storage)
        return storage


class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise CheckpointError("a tensor without a storage.")
        return _Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


class _MakeDict:
    """A replacement for ``OrderedDict`` that checks keys before they are hashed."""

    __slots__ = ()

    def __call__(self, pairs: Any = (), *_: Any) -> Any:
        if not isinstance(pairs, list | tuple):
            raise CheckpointError("an OrderedDict that is not made of pairs.")
        return _filled(OrderedDict(), [each for key, value in pairs for each in (key, value)])


def _filled(target: Any, items: list[Any]) -> Any:
    """Return the dict after inserting (key, value, key, value, ...)."""
    if not isinstance(target, dict) or len(items) % 2:
        raise CheckpointError("it sets items of something that is not a dict.")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | bytes | int | float | None):
            raise CheckpointError(
                f"it has a dict with a {type(key).__name__} as a key; only texts and numbers are read."
            )
        target[key] = value
    return target


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, data: Any, *_: Any) -> Any:
        return data


_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _MakeDict(),
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
}


def _width(dtype: str) -> int:
    return 2 if dtype == "bf16" else np.dtype(dtype).itemsize


class _Resolver:
    """Converts the unpickled tree to plain containers of arrays, each shared node once."""

    def __init__(self, read: Callable[[_Storage], bytes]) -> None:
        self._read = read
        self._flat: dict[tuple[str, str], NDArray[Any]] = {}
        self._taken = 0
        self._done: dict[int, Any] = {}

    def resolve(self, node: Any) -> Any:
        if isinstance(node, bool | int | float | str | bytes | None):
            return node
        if id(node) not in self._done:
            self._done[id(node)] = self._convert(node)
        return self._done[id(node)]

    def _convert(self, node: Any) -> Any:
        if isinstance(node, _Tensor):
            return self._array(node)
        if isinstance(node, dict):
            return {self.resolve(key): self.resolve(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self.resolve(value) for value in node]
        if isinstance(node, tuple) and not isinstance(node, _Storage | _StorageType):
            return tuple(self.resolve(value) for value in node)
        raise CheckpointError(f"it holds a {type(node).__name__}; only tensors, dicts, lists and numbers are read.")

    def _array(self, tensor: _Tensor) -> NDArray[Any]:
        flat = self._storage(tensor.storage)
        if (
            len(tensor.size) > MAX_DIMENSIONS
            or len(tensor.size) != len(tensor.stride)
            or min((tensor.offset, *tensor.size, *tensor.stride)) < 0
        ):
            raise CheckpointError(f"a tensor of size {tensor.size} has the strides {tensor.stride}.")
        empty = 0 in tensor.size
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
        if not empty and last >= len(flat):
            raise CheckpointError(f"a tensor of size {tensor.size} reaches beyond its storage of {len(flat)} elements.")
        if empty:
            return np.zeros(tensor.size, flat.dtype)
        if math.prod(tensor.size) > len(flat):
            raise CheckpointError(
                f"a tensor of size {tensor.size} repeats the {len(flat)} elements of its storage (strides "
                f"{tensor.stride}); save tensor.contiguous()."
            )
        strides = [step * flat.itemsize for step in tensor.stride]
        return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.size, strides, writeable=False)

    def _storage(self, storage: _Storage) -> NDArray[Any]:
        name = (storage.key, storage.dtype)
        if name not in self._flat:
            self._taken += storage.length * (4 if storage.dtype == "bf16" else _width(storage.dtype))
            problem = too_large(self._taken, "it")
            if problem is not None:
                raise CheckpointError(problem)
            data = self._read(storage)
            if len(data) != storage.length * _width(storage.dtype):
                raise CheckpointError(
                    f"storage {storage.key} of {storage.length} elements is cut to {len(data)} bytes."
                )
            self._flat[name] = _decode(data, storage.dtype)
        return self._flat[name]


def _decode(data: bytes, dtype: str) -> NDArray[Any]:
    if dtype == "bf16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, dtype)
