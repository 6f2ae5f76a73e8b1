"""Reads one video's features from ``.pt``, ``.npy``, ``.npz`` or HDF5, without running code from any of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import ItemError
from cliploom.schemas.sizes import too_large
from cliploom.transforms.encoders.checkpoint import CheckpointError, load_checkpoint
from cliploom.transforms.inputs.numpy_files import (
    ArrayFileError,
    npy_shape,
    npz_names,
    npz_shape,
    read_npy,
    read_npz,
)
from cliploom.transforms.precomputed.hdf5_input import read_dataset, shape_of
from cliploom.transforms.precomputed.listing import FeatureItem

REVISION = 1

_ROWS_AT_ONCE = 65_536
_MOST_LOOKED_AT = 20
_HEADER_BYTES = 8 * 1024**2
"""Bytes that a file may have besides the values."""


def read_features(item: FeatureItem, dim: int | None = None, key: str | None = None) -> NDArray[np.float32]:
    """Return all rows of one video's features.

    Args:
        item: the location of the features.
        dim: the required width; None accepts any.
        key: the name of the array in an ``.npz`` with several.

    Returns:
        float32 [N, D], from float16, float32 or float64 in either byte order, [N, D] or [N, 1, D].

    Raises:
        ItemError: the file is missing or damaged, has other content, or a value is not finite.
    """
    with _failing(item):
        return checked(_load(item, key), str(item), dim)


def count_rows(item: FeatureItem, key: str | None = None) -> int:
    """Return the approximate number of rows of an item; values are read only if no header has it.

    Raises:
        ItemError: see ``read_features``.
    """
    with _failing(item):
        if item.dataset:
            shape = shape_of(item.path, item.dataset)
        elif item.path.suffix.lower() == ".pt":
            shape = checked(load_checkpoint(item.path), str(item)).shape
        elif item.path.suffix.lower() == ".npz":
            names = npz_names(item.path) if key is None else [key]
            shape = max((npz_shape(item.path, name) for name in names[:_MOST_LOOKED_AT]), key=lambda each: each[:1])
        else:
            shape = npy_shape(item.path)
        if not shape or 0 in shape:
            raise ItemError("read", f"{item} has the shape {list(shape)}; [N, D] or [N, 1, D] is read.")
        return shape[0]


def refuse_large_file(path: Path) -> None:
    """Reject a file of one array that is larger than any array may be, before it is digested.

    Raises:
        ItemError: it is too large.
    """
    if path.suffix.lower() in (".npy", ".pt"):
        problem = too_large(path.stat().st_size - _HEADER_BYTES, str(path))
        if problem is not None:
            raise ItemError("read", problem)


@contextmanager
def _failing(item: FeatureItem) -> Iterator[None]:
    """Convert errors while reading to the item's failure."""
    try:
        yield
    except ItemError:
        raise
    except FileNotFoundError as error:
        raise ItemError("read", f"{item} is not there.") from error
    except (CheckpointError, ArrayFileError) as error:
        raise ItemError("read", str(error)) from error
    except KeyError as error:
        # h5py raises the same for a dataset and for a link whose file is missing
        raise ItemError("read", f"{item} is not there, or links to a missing file.") from error
    except MemoryError as error:
        raise ItemError("read", f"{item} can't be read: out of memory.", transient=True) from error
    except (OSError, ValueError, EOFError, RuntimeError, TypeError, IndexError, OverflowError) as error:
        raise ItemError("read", f"{item} can't be read ({type(error).__name__}: {error}).") from error


def _load(item: FeatureItem, key: str | None) -> Any:
    if item.dataset:
        return read_dataset(item.path, item.dataset)
    suffix = item.path.suffix.lower()
    if suffix == ".pt":
        return load_checkpoint(item.path)
    if suffix != ".npz":
        return read_npy(item.path)
    if key is None:
        names = npz_names(item.path)
        if len(names) != 1:
            shown = ", ".join(names[:_MOST_LOOKED_AT])
            raise ItemError("read", f"{item.path} holds {len(names)} arrays ({shown}); declare the key.")
        key = names[0]
    return read_npz(item.path, key)


def checked(found: Any, name: str, dim: int | None = None) -> NDArray[np.float32]:
    """Return the array as float32 [N, D].

    Args:
        found: the content of a file.
        name: the name for messages.
        dim: the required width.

    Raises:
        ItemError: it is not an array of floats, has another shape, or a value that is not finite in float32.
    """
    if not isinstance(found, np.ndarray):
        raise ItemError("read", f"{name} holds a {type(found).__name__}, not one array; save only the [N, D] array.")
    if found.dtype.kind != "f" or found.dtype.itemsize > 8:
        raise ItemError("read", f"{name} holds {found.dtype} values; float16, float32 or float64 is read.")
    rows = found[:, 0, :] if found.ndim == 3 and found.shape[1] == 1 else found
    if rows.ndim != 2 or 0 in rows.shape:
        raise ItemError("read", f"{name} has the shape {list(found.shape)}; [N, D] or [N, 1, D] is read.")
    if dim is not None and rows.shape[1] != dim:
        raise ItemError("read", f"{name} has vectors of {rows.shape[1]} numbers where {dim} are declared.")
    vectors = np.empty(rows.shape, np.float32)
    bad, first, overflows = 0, "", ""
    for at in range(0, len(rows), _ROWS_AT_ONCE):
        block = rows[at : at + _ROWS_AT_ONCE]
        with np.errstate(over="ignore"):
            vectors[at : at + len(block)] = block
        wrong = np.flatnonzero(~np.isfinite(vectors[at : at + len(block)]).all(axis=1))
        if len(wrong) and not bad:
            row = block[wrong[0]]
            first = f"{at + wrong[0]}"
            if np.isfinite(row).all():
                overflows = f" ({np.abs(row).max():.3g} is beyond float32's 3.4e38)"
        bad += len(wrong)
    if bad:
        where = f"in {bad} of its rows, first in row {first}{overflows}"
        raise ItemError("read", f"{name} has NaN, infinite or too large values {where}.")
    return vectors
