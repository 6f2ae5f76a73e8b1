"""Reading one video's features from ``.pt``, ``.npy``, ``.npz`` or HDF5, without running code from any of them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import ItemError
from cliploom.transforms.encoders.checkpoint import CheckpointError, load_checkpoint
from cliploom.transforms.precomputed.listing import FeatureItem

REVISION = 1

MAX_BYTES = 8 * 1024**3
"""No video's features are larger; files that unpack to more are refused before they fill the memory."""


def read_features(item: FeatureItem, dim: int | None = None, key: str | None = None) -> NDArray[np.float32]:
    """All rows of one video's features.

    Args:
        item: where they are.
        dim: width that they must have; None takes what is there.
        key: name of the array in a ``.npz`` that holds several.

    Returns:
        float32 [N, D], from float16, float32 or float64 in either byte order, [N, D] or [N, 1, D].

    Raises:
        ItemError: when the file is missing or damaged, holds something else, or a value is not finite.
    """
    try:
        found = _load(item, key)
    except ItemError:
        raise
    except FileNotFoundError as error:
        raise ItemError("read", f"{item} is not there.") from error
    except CheckpointError as error:
        raise ItemError("read", str(error)) from error
    except KeyError as error:
        # h5py says so for a dataset as for a link whose file is gone
        raise ItemError("read", f"{item} is not there, or links to a missing file.") from error
    except (
        OSError,
        ValueError,
        EOFError,
        RuntimeError,
        TypeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ItemError("read", f"{item} can't be read ({type(error).__name__}: {error}).") from error
    return checked(found, str(item), dim)


def _load(item: FeatureItem, key: str | None) -> Any:
    if item.dataset:
        with h5py.File(item.path, "r") as file:
            dataset = file[item.dataset]
            if not isinstance(dataset, h5py.Dataset):
                raise ItemError("read", f"{item} is not a dataset.")
            _refuse_huge(dataset.nbytes, str(item))
            return dataset[()]
    if item.path.suffix.lower() == ".pt":
        return load_checkpoint(item.path)
    return _load_numpy(item.path, key)


def _load_numpy(path: Path, key: str | None) -> Any:
    # mapped, so that a header that claims more than the file holds fails before memory is asked for
    loaded = np.load(path, allow_pickle=False, mmap_mode="r")
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        _refuse_huge(loaded.nbytes, str(path))
        return np.array(loaded)
    with loaded as archive:
        names = archive.files
        if key is None and len(names) != 1:
            raise ItemError("read", f"{path} holds {len(names)} arrays ({', '.join(names)}); declare the key.")
        name = names[0] if key is None else key
        if name not in names:
            raise ItemError("read", f"{path} holds no array '{name}', but {', '.join(names)}; correct the key.")
        member = f"{name}.npy"
        infos = {info.filename: info for info in archive.zip.infolist()} if archive.zip else {}
        _refuse_huge(infos[member].file_size if member in infos else 0, f"{path}:{name}")
        return archive[name]


def _refuse_huge(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise ItemError("read", f"{name} unpacks to {size} bytes, more than the {MAX_BYTES} that one video may have.")


def checked(found: Any, name: str, dim: int | None = None) -> NDArray[np.float32]:
    """The array as float32 [N, D].

    Args:
        found: what a file held.
        name: what messages call it.
        dim: width that it must have.

    Raises:
        ItemError: when it is no array of floats, has another shape, or a value that is not finite in float32.
    """
    if not isinstance(found, np.ndarray):
        raise ItemError("read", f"{name} holds a {type(found).__name__}, not one array; save the [N, D] array alone.")
    if found.dtype.kind != "f" or found.dtype.itemsize > 8:
        raise ItemError("read", f"{name} holds {found.dtype} values; float16, float32 or float64 is read.")
    rows = found[:, 0, :] if found.ndim == 3 and found.shape[1] == 1 else found
    if rows.ndim != 2 or 0 in rows.shape:
        raise ItemError("read", f"{name} has the shape {list(found.shape)}; [N, D] or [N, 1, D] is read.")
    if dim is not None and rows.shape[1] != dim:
        raise ItemError("read", f"{name} has vectors of {rows.shape[1]} numbers where {dim} are declared.")
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(rows, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ItemError("read", f"{name} has NaN or infinite values in {len(bad)} of its rows, first in row {bad[0]}.")
    return vectors
