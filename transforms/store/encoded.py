"""Checks the results of an encoder, which may be third-party code; wrong results become failures of items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from cliploom.schemas.errors import EncodeError

Vectors = dict[str, NDArray[np.float32]]


class WrongResultsError(Exception):
    """An encoder did not return one result per item; the message says what it returned."""


def as_results(found: Any, count: int) -> list[Any]:
    """Return the results of ``encode`` as a list with one result per item.

    Args:
        found: value that the encoder returned.
        count: number of items that the encoder received.

    Raises:
        WrongResultsError: if it is anything else.

    >>> as_results([1, 2, 3], 2)
    Traceback (most recent call last):
    ...
    cliploom.transforms.store.encoded.WrongResultsError: it returned more than 2 results for 2 items
    """
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Iterable):
        raise WrongResultsError(f"it returned {_kind(found)} instead of a list of {_counted(count)}")
    results = list(islice(found, count + 1))
    if len(results) != count:
        given = f"more than {_counted(count)}" if len(results) > count else _counted(len(results))
        raise WrongResultsError(f"it returned {given} for {count} item{'s' * (count != 1)}")
    return results


def checked_vectors(result: Any, outputs: Mapping[str, int], encoder: str) -> Vectors | EncodeError:
    """Return the vectors of the outputs in float32, or an error that names the encoder and what it returned.

    Args:
        result: result for one item.
        outputs: name -> length of the vector.
        encoder: name of the encoder for messages.
    """
    if isinstance(result, EncodeError):
        return result
    if not isinstance(result, Mapping):
        wanted = f"a dict with {', '.join(map(repr, outputs))}"
        return EncodeError("encode", f"encoder {encoder}: it returned {_kind(result)} for an item instead of {wanted}")
    vectors: Vectors = {}
    for name, dim in outputs.items():
        found: Any = result.get(name)
        problem = _problem(found, dim)
        if problem is not None:
            return EncodeError("encode", f"encoder {encoder}: output {name!r} {problem}")
        with np.errstate(over="ignore"):
            vectors[name] = np.asarray(found).astype(np.float32, copy=False)
        if not np.isfinite(vectors[name]).all():
            beyond = "is beyond the range of float32" if np.isfinite(found).all() else "is not finite"
            return EncodeError("encode", f"encoder {encoder}: output {name!r} {beyond}")
    return vectors


def is_row(result: Any) -> TypeGuard[Vectors]:
    """Return whether a result is a dict of vectors that are finite in float32."""
    return isinstance(result, dict) and all(map(_is_vector, result.values()))


def _is_vector(value: Any) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return False
    with np.errstate(over="ignore"):
        return bool(np.isfinite(value.astype(np.float32, copy=False)).all())


def _problem(found: Any, dim: int) -> str | None:
    if found is None:
        return f"should be [{dim}], not nothing"
    if not isinstance(found, np.ndarray):
        return f"should be a numpy array of float32 [{dim}], not {_kind(found)}"
    if found.dtype.kind != "f":
        return f"should be float32, not {found.dtype}"
    if found.shape != (dim,):
        return f"should be [{dim}], not shape {found.shape}"
    return None


def _counted(count: int) -> str:
    return f"{count} result{'s' * (count != 1)}"


def _kind(value: Any) -> str:
    """Describe a value in words.

    >>> _kind(None), _kind({}), _kind("x")
    ('None', 'a dict', 'a str')
    """
    return "None" if value is None else f"a {type(value).__name__}"
